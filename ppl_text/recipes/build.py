"""The composition root: where model, guide, objective, data and trainer meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import nn

from guides import GUIDES

from .. import objectives
from ..core.errors import ConfigError, UserError
from ..core.protocols import Objective
from ..core.registry import Registry
from ..data.batches import EvaluationSet, TrainingBatches, default_buckets, evaluation_batches
from ..data.corpora import Corpus, load_corpus
from ..models import MODELS
from ..training.options import TrainingOptions
from ..training.progress import Progress
from ..training.trainer import Trainer
from .config import RunConfig, as_schedule
from .options import option_faults

GUIDE_GROUP = "ppl_text.guides"
"""Entry-point group under which installed packages declare guides."""


class Programs(NamedTuple):
    """The two Pyro programs of a run and the classes they were built from."""

    model: nn.Module
    guide: nn.Module


def guide_registry(family: str) -> Registry:
    """Guides that fit a model family by name: built-in, from installed packages, from ``FILE.py:CLASS``."""
    others = [f"{name} ({', '.join(table)})" for name, table in GUIDES.items() if name != family]
    hint = "A file of yours is accepted too, as FILE.py:CLASS." + (
        f" Other families: {'; '.join(others)}" if others else ""
    )
    return Registry(f"guide for {family}", GUIDES.get(family, {}), group=GUIDE_GROUP, files=True, hint=hint)


def check_programs(config: RunConfig) -> tuple[type[nn.Module], type[nn.Module]]:
    """Load the model's and the guide's class and check their options; raises with all faults at once."""
    model_class = Registry("model family", MODELS).load(config.model.family)
    guide_class = guide_registry(config.model.family).load(config.guide.name)
    if not (isinstance(guide_class, type) and issubclass(guide_class, nn.Module)):
        raise UserError(
            f"guide '{config.guide.name}' is no torch.nn.Module class; inherit from the family's base class"
        )
    family = getattr(guide_class, "family", config.model.family)
    if family != config.model.family:
        raise UserError(f"guide '{config.guide.name}' is made for {family}; the model is a {config.model.family}")
    faults = option_faults(model_class, config.model.options, "model.")
    faults += option_faults(guide_class, config.guide.options, "guide.")
    if faults:
        raise ConfigError(f"recipe '{config.recipe}' has faults:\n" + "\n".join(f"- {f}" for f in faults))
    return model_class, guide_class


def build_programs(config: RunConfig, vocab_size: int) -> Programs:
    """Model and guide with parameters drawn from the run's seed; the global random state is left alone."""
    model_class, guide_class = check_programs(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = model_class(vocab_size, **config.model.options)
        try:
            guide = guide_class(model, **config.guide.options)
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"guide '{config.guide.name}' could not be built on the model: {error}. A guide is built as "
                f"{guide_class.__name__}(model, **options) and may use what the model publishes"
            ) from error
    return Programs(model, guide)


def build_objective(config: RunConfig) -> Objective:
    """The objective that the configuration names."""
    objective: Objective = objectives.build(config.objective)
    return objective


def load_data(config: RunConfig) -> Corpus:
    """The corpus with its own options; raises :class:`ConfigError` or :class:`DataError`."""
    return load_corpus(config.data.corpus, **config.data.options)


def build_fabric(config: RunConfig) -> Fabric:
    """One device in the precision asked for; ``cuda`` without a GPU is the user's mistake."""
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise UserError("--device cuda: no CUDA GPU is visible to torch; use --device cpu or auto")
    accelerator = "cuda" if has_gpu and config.device != "cpu" else "cpu"
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed"}[config.precision]
    return Fabric(accelerator=accelerator, devices=1, precision=precision)


def training_batches(config: RunConfig, corpus: Corpus) -> TrainingBatches:
    """The endless stream of training batches."""
    train = corpus.splits["train"]
    return TrainingBatches(
        train,
        corpus.tokenizer,
        batch_size=config.data.batch_size,
        buckets=default_buckets(train, corpus.tokenizer, config.data.buckets),
        seed=config.seed,
    )


def evaluation_set(corpus: Corpus, split: str, limit: int | None, seed: int, batch_size: int = 256) -> EvaluationSet:
    """One pass over a split, or over ``limit`` sentences drawn from it."""
    if split not in corpus.splits:
        raise UserError(f"unknown split '{split}'; corpus '{corpus.name}' has {', '.join(corpus.splits)}")
    data = corpus.splits[split]
    buckets = default_buckets(data, corpus.tokenizer, 4)
    return evaluation_batches(data, corpus.tokenizer, batch_size=batch_size, buckets=buckets, limit=limit, seed=seed)


def build_trainer(
    config: RunConfig,
    corpus: Corpus,
    programs: Programs,
    objective: Objective,
    folder: Path,
    fabric: Fabric,
    progress: Progress | None,
) -> Trainer:
    """Everything that a run needs to train, put together."""
    training = config.training
    learning_rate = as_schedule(training.lr, training.steps)
    parameters = [*programs.model.parameters(), *programs.guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate(0), betas=training.betas, fused=True)
    options = TrainingOptions(
        steps=training.steps,
        clip_norm=training.clip_norm,
        log_every=training.log_every,
        validate_every=training.validate_every,
        checkpoint_every=training.checkpoint_every,
        patience=training.patience,
        beta=as_schedule(training.beta, training.steps),
        learning_rate=learning_rate,
        seed=config.seed,
    )
    return Trainer(
        programs.model,
        programs.guide,
        objective,
        optimizer,
        training_batches(config, corpus),
        evaluation_set(corpus, "valid", config.data.validation_sentences, config.seed),
        options,
        folder,
        fabric,
        progress,
        identity(config, corpus),
    )


def identity(config: RunConfig, corpus: Corpus) -> dict[str, Any]:
    """What makes a checkpoint this run's: everything but how long and on what it is trained."""
    return {
        "recipe": config.recipe,
        "model": repr(sorted(config.model.model_dump().items())),
        "guide": repr(sorted(config.guide.model_dump().items())),
        "objective": config.objective,
        "seed": config.seed,
        "data": corpus.fingerprint,
    }
