"""The composition root: where model, guide, objective, data and trainer meet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch import nn

from ..core.batch import Batch
from ..core.errors import PplTextError, UserError
from ..core.latents import of_sentence
from ..core.limits import pass_on_memory_errors
from ..core.processes import ALONE, Place, complete_environment
from ..core.protocols import Objective
from ..core.registry import Registry
from ..core.vocabulary import Vocabulary
from ..data.batches import (
    BatchStream,
    EpochBatches,
    EvaluationSet,
    TrainingBatches,
    default_buckets,
)
from ..data.blocks import epochs_over
from ..data.catalogue import CORPORA, Located, locate
from ..data.corpus import Corpus
from ..data.options import corpus_options
from ..evaluation.collapse import Cures, options, siblings
from ..evaluation.sentences import evaluation_set
from ..measures import monitor_of
from ..measures.base import Subject
from ..nn.statistics import statistics_of
from ..training.capture import graphs_on
from ..training.programs import EVERYTHING, trained_parameters
from ..training.progress import Progress
from ..training.random_numbers import random_numbers_kept, seed_all, seed_of
from ..training.sharding import sharded_blocks, share_out
from ..training.tensorboard import TensorBoard, require_tensorboard
from ..training.trainer import Trainer
from ..training.validation import Monitor
from . import recipe_names
from .code import GUIDE_GROUP, GUIDES, Code, class_of, model_registry, objective_of
from .config import DataSection, RunConfig, check_config, sound_parts
from .errors import Errors, checked_options, default_options, place_of
from .folders import check_parent
from .procedures import FREEZE
from .sizes import Roomy
from .stages import build_stages, check_stages, optimizer_of
from .tree import read_recipe, source_of

ESTIMATED_ON = 100
"""Training batches, at most, on which running statistics are estimated for weights that are judged."""

RESET, AGGRESSIVE, STATISTICS = 11, 12, 13
"""Purposes of derived seeds: programs that begin anew; the random batches of aggressive training."""


class Programs(NamedTuple):
    """The two Pyro programs of a run."""

    model: nn.Module
    guide: nn.Module


class Part(NamedTuple):
    """A class and the checked options that it will be built with."""

    kind: type[nn.Module]
    options: dict[str, Any]


class Parts(NamedTuple):
    """What a configuration names, found and checked."""

    config: RunConfig
    corpus: Corpus
    objective: Objective
    fabric: Fabric


def check_parts(
    tree: Mapping[str, Any],
    source: str,
    errors: Errors,
    load: Callable[[RunConfig], Corpus] | None = None,
    code: Code | None = None,
) -> Parts:
    """Check a recipe's tree and load what it names; raises with every fault at once, those in ``errors`` too.

    A part is looked at where its own section is sound, whatever is wrong with the others. ``load`` gives the corpus
    that ``data`` names (None: :func:`load_data`); ``code``: what may run of the user's.
    """
    code = code or {}
    config = errors.attempt(check_config, tree, source)
    sound = dict(config) if config else sound_parts(tree)
    view = config or RunConfig.model_construct(**{"recipe": "", **sound})
    checks: dict[str, tuple[Callable[[RunConfig], Any], set[str]]] = {
        "programs": (partial(check_programs, code=code), {"model", "guide"}),
        "objective": (partial(build_objective, code=code), {"objective"}),
        "fabric": (build_fabric, {"device", "precision", "capture"}),
        "parent": (check_parent, {"parent", "parent_weights"}),
        "stages": (partial(check_stages, code=code), {"data", "training"}),
        "log": (check_log, {"training"}),
        "corpus": (load or load_data, {"data"}),
    }
    found: dict[str, Any] = {
        name: errors.attempt(check, view) for name, (check, needs) in checks.items() if needs <= sound.keys()
    }
    errors.raise_any(source)
    return Parts(effective(view, code), found["corpus"], found["objective"], found["fabric"])


def check_log(config: RunConfig) -> None:
    """Raise :class:`UserError` where curves are asked for that nothing here writes."""
    if config.training.log is not None:
        require_tensorboard()


def guide_registry(family: str) -> Registry:
    """Guides that fit a model family by name: built-in and from installed packages."""
    others = [f"{name} ({', '.join(table)})" for name, table in GUIDES.items() if name != family]
    hint = "A file of yours is accepted too, as FILE.py:CLASS." + (
        f" Other families: {'; '.join(others)}" if others else ""
    )
    return Registry(f"guide for {family}", GUIDES.get(family, {}), group=GUIDE_GROUP, hint=hint)


def families_guides(family: str) -> list[str]:
    """Names of the guides that are made for a family, or for any."""
    registry = guide_registry(family)
    return [name for name in registry.names() if getattr(registry.load(name), "family", family) == family]


def check_programs(config: RunConfig, code: Code | None = None) -> tuple[Part, Part]:
    """Load the classes of model and guide and check their options; raises with all errors at once.

    ``code``: what may run of the user's.
    """
    code, errors = code or {}, Errors()
    model_class = _model_class(config, code)
    model_options = errors.attempt(checked_options, model_class, config.model.options, "model")
    family = getattr(model_class, "family", config.model.family)
    guide_class = errors.attempt(_guide_class, config.guide.name, family, code)
    options = errors.attempt(checked_options, guide_class, config.guide.options, "guide") if guide_class else None
    errors.raise_any(source_of(config.recipe))
    return Part(model_class, model_options or {}), Part(guide_class or nn.Module, options or {})


def _model_class(config: RunConfig, code: Code) -> type[nn.Module]:
    """The model's class; raises where it is none."""
    name = config.model.family
    found = class_of(name, "model", model_registry(), code)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(
            f"model '{name}' is no torch.nn.Module class; see ppl_text.core.protocols.Model for what one is made of"
        )
    return found


def _guide_class(name: str, family: str, code: Code) -> type[nn.Module]:
    """The guide's class; raises where it is none or is made for another family."""
    found = class_of(name, "guide", guide_registry(family), code)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(
            f"guide '{name}' is no torch.nn.Module class; inherit from the family's base class in guides/{family}.py"
        )
    made_for = getattr(found, "family", family)
    if made_for != family:
        raise UserError(
            f"guide '{name}' is made for {made_for}, the model is a {family}; choose one that 'python -m ppl_text "
            f'list guides\' shows for {family}, or give its class family = "{family}" if it fits all the same'
        )
    return found


def build_programs(config: RunConfig, vocabulary: Vocabulary, stage: int = 0, code: Code | None = None) -> Programs:
    """Model and guide with parameters drawn from the run's seed; the global random state is left alone.

    Args:
        config: names the two classes and their options.
        vocabulary: the model is built on it.
        stage: 1, 2, …: with other parameters, those of a program that begins anew in that stage.
        code: what may run of the user's.
    """
    model_part, guide_part = check_programs(config, code)
    with random_numbers_kept():
        seed_all(derived_seed(config.seed, RESET, stage) if stage else config.seed)
        model = _built(model_part, f"model '{config.model.family}'", "vocabulary", vocabulary)
        guide = _built(guide_part, f"guide '{config.guide.name}'", "model", model)
    return Programs(model, guide)


def _built(part: Part, what: str, first: str, argument: Any) -> nn.Module:
    """``part`` built on its one positional argument; what its constructor objects to becomes a message."""
    given = ", ".join([first, *(f"{name}={value!r}" for name, value in part.options.items())])
    try:
        with Roomy(f"{what}, {part.kind.__name__}({given}),"):
            return part.kind(argument, **part.options)
    except PplTextError:
        raise
    except (Exception, SystemExit) as error:
        pass_on_memory_errors(error)
        raise UserError(
            f"{what} could not be built as {part.kind.__name__}({given}): {place_of(error, part.kind)}{error}; "
            "change its options or its constructor"
        ) from error


def derived_seed(seed: int, purpose: int, number: int = 0) -> int:
    """Return a seed below 2^63 that depends on the run's seed, the purpose, and the number of the stream."""
    return seed_of(seed, purpose, number)


def build_objective(config: RunConfig, code: Code | None = None) -> Objective:
    """The objective that the configuration names; ``code``: what may run of the user's."""
    return objective_of(config.objective, code or {})


def load_data(config: RunConfig) -> Corpus:
    """The corpus with its own options; raises :class:`ConfigError` or :class:`DataError`."""
    data, errors = config.data, Errors()
    found = errors.attempt(locate, data.corpus, data.unit)
    options = errors.attempt(data_options, config)
    errors.raise_any("data")
    return cast(Located, found).load(options)


def data_options(config: RunConfig) -> Any:
    """The checked options of the corpus, which need not be there; raises :class:`ConfigError`."""
    data, others = config.data, list(DataSection.model_fields)
    defaults = CORPORA[data.corpus].defaults if data.corpus in CORPORA else {}
    return corpus_options(data.unit, data.options, defaults, section="data", others=others)


def effective(config: RunConfig, code: Code | None = None) -> RunConfig:
    """Return a configuration in which every option of data, model and guide stands with its value, defaults too.

    ``code``: what may run of the user's; options of a part that is not there stay as they are.
    """
    written = {"data": data_options(config).model_dump(mode="json")}
    try:
        parts = check_programs(config, code)
    except UserError:
        return _with_options(config, written)
    for section, part in zip(("model", "guide"), parts, strict=True):
        written[section] = default_options(part.kind)
    return _settled(_with_options(config, written), parts[0].kind)


def _settled(config: RunConfig, model: type[nn.Module]) -> RunConfig:
    """Let a model class fill in what some of its options decide of others, by its ``settled(options)``, if any."""
    settle = getattr(model, "settled", None)
    if not callable(settle):
        return config
    section = config.model
    options = settle(section.options)
    return config.model_copy(update={"model": section.model_validate({**section.model_dump(), **options})})


def _with_options(config: RunConfig, written: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """Return a configuration with some options of its sections, where these do not have them already."""
    sections = {name: getattr(config, name) for name in written}
    filled = {
        name: section.model_validate(
            {**section.model_dump(), **{k: v for k, v in own.items() if k not in section.options}}
        )
        for (name, section), own in zip(sections.items(), written.values(), strict=True)
    }
    return config.model_copy(update=filled)


def build_fabric(config: RunConfig, place: Place = ALONE) -> Fabric:
    """One device in the precision asked for, or one of several that train together; launch it then.

    ``place``: of this process among others. Raises :class:`UserError` for a GPU that is not there, and a batch that
    cannot be shared out among the processes.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise UserError("--device cuda: no CUDA GPU is visible to torch; use --device cpu or auto")
    accelerator = "cuda" if has_gpu and config.device != "cpu" else "cpu"
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed"}[config.precision]
    if place.size == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    check_shared(config, accelerator, place)
    complete_environment(place)
    return Fabric(
        accelerator=accelerator,
        devices=place.local_size,
        num_nodes=place.nodes,
        strategy=STRATEGIES[config.strategy](place.size),
        plugins=[TorchElasticEnvironment()],
        precision=precision,
    )


def _ddp(_: int) -> DDPStrategy:
    # A stage may leave parameters without a gradient that it could train: a prior of which nothing is scored.
    return DDPStrategy(gradient_as_bucket_view=True, find_unused_parameters=True)


def _fsdp(processes: int) -> ModelParallelStrategy:
    return ModelParallelStrategy(share_out, data_parallel_size=processes, tensor_parallel_size=1)


STRATEGIES: Mapping[str, Callable[[int], ParallelStrategy]] = {"ddp": _ddp, "fsdp": _fsdp}
"""How so many processes hold the parameters: each all of them, or each a part."""


def check_sharded(config: RunConfig, fabric: Fabric, programs: Programs) -> None:
    """Raise :class:`UserError` where parameters are to be shared out among processes, and cannot be."""
    if config.strategy != "fsdp":
        return
    rules = {stage.optimizer for stage in config.training.in_stages()}
    scalars = [name for program in programs for name, p in program.named_parameters() if not p.dim()]
    faults = {
        "it needs several processes, and this is the only one (--devices N, or torchrun)": fabric.world_size == 1,
        f"it needs GPUs, and this is the {fabric.device.type}": fabric.device.type != "cuda",
        f"no part of this {config.model.family} names blocks that can be gathered one by one (sharded_blocks)": (
            not sharded_blocks(*programs)
        ),
        "optimizer soap needs the whole of each gradient (take adam, adamw or sgd)": "soap" in rules,
        f"a parameter that is a single number has no parts, as {', '.join(scalars[:3])}": bool(scalars),
    }
    found = "; ".join(fault for fault, holds in faults.items() if holds)
    if found:
        raise UserError(f"strategy: fsdp cannot share out the parameters: {found}; use --set strategy=ddp")


def check_shared(config: RunConfig, accelerator: str, place: Place) -> None:
    """Raise :class:`UserError` where the processes of a parallel training lack GPUs, or even shares of a batch."""
    there = torch.cuda.device_count() if accelerator == "cuda" else place.local_size
    if there < place.local_size:
        raise UserError(
            f"{place.local_size} processes on this machine need a GPU each, and torch sees {there}; start as many as "
            "there are GPUs, or train with --device cpu"
        )
    if config.data.batch_size % place.size:
        raise UserError(
            f"{place.size} processes cannot share a batch of {config.data.batch_size} texts (data.batch_size) evenly; "
            f"give a multiple of {place.size}, as --set data.batch_size="
            f"{-(-config.data.batch_size // place.size) * place.size}, or another number of processes"
        )


def training_batches(config: RunConfig, corpus: Corpus, seed: int | None = None, place: Place = ALONE) -> BatchStream:
    """The endless stream of training batches: words drawn ∝ counts, sentences epoch by epoch; ``seed``: another one.

    ``place``: of the process that gets its share of each batch.
    """
    train = corpus.splits["train"]
    stream: Callable[..., BatchStream] = TrainingBatches if corpus.weighted else epochs_over
    return stream(
        train,
        batch_size=config.data.batch_size,
        buckets=default_buckets(train, config.data.buckets),
        seed=config.seed if seed is None else seed,
        word_dropout=config.data.word_dropout,
        parts=(place.rank, place.size),
    )


def build_trainer(
    config: RunConfig,
    corpus: Corpus,
    programs: Programs,
    objective: Objective,
    folder: Path,
    fabric: Fabric,
    progress: Progress | None,
    code: Code | None = None,
) -> Trainer:
    """Everything that a run needs to train, put together; ``code``: what may run of the user's."""
    place = Place(fabric.world_size, fabric.global_rank)
    training, batches = config.training, training_batches(config, corpus, place=place)

    def fresh(stage: int, names: Collection[str]) -> dict[str, nn.Module]:
        made = build_programs(config, corpus.vocabulary, stage, code)
        return {name: getattr(made, name) for name in names}

    def others() -> BatchStream:
        return training_batches(config, corpus, derived_seed(config.seed, AGGRESSIVE))

    epoch = epoch_length(batches)
    stages = build_stages(training, objective, epoch, fresh, others, code)
    validation = evaluation_set(corpus, "valid", config.data.validation_sentences, config.seed)
    parameters = trained_parameters(*programs, [name for stage in stages for name in stage.train])
    # A group, because optimizers refuse an empty list and nothing may be left to train.
    optimizer = optimizer_of(training.in_stages()[0], epoch)([{"params": parameters}])
    return Trainer(
        programs.model,
        programs.guide,
        stages,
        optimizer,
        batches,
        validation.share(place.rank, place.size),
        folder,
        fabric,
        progress,
        identity(config, corpus),
        build_monitor(config, subject_of(config, programs, corpus, folder), validation),
        statistics=statistics_batches(config, corpus, place) if statistics_of(*programs) else (),
        seed=config.seed,
        graphs=graphs_on(fabric.device, config.capture),
        curves=None if training.log is None else TensorBoard(folder),
    )


def statistics_batches(config: RunConfig, corpus: Corpus, place: Place = ALONE) -> list[Batch]:
    """Return the training batches that running statistics are estimated on: an epoch, or :data:`ESTIMATED_ON` of it.

    They come in an order of their own, without word dropout, and are the same ones at every validation.
    """
    undropped = config.model_copy(update={"data": config.data.model_copy(update={"word_dropout": 0.0})})
    stream = training_batches(undropped, corpus, derived_seed(config.seed, STATISTICS), place)
    return list(itertools.islice(stream, min(ESTIMATED_ON, epoch_length(stream) or ESTIMATED_ON)))


def subject_of(config: RunConfig, programs: Programs, corpus: Corpus, folder: Path, steps: int = 0) -> Subject:
    """What measures look at of a run, after ``steps`` updates."""
    cures = cures_of(config, getattr(programs.model, "family", config.model.family))
    return Subject(programs.model, programs.guide, corpus, config.objective, steps, cures, folder)


def cures_of(config: RunConfig, family: str) -> Cures:
    """Return what is advised where latents of a run have collapsed, of what there is for its model's ``family``.

    Recipes of the same corpus and family; else options, β in cycles of a quarter of the training, in its own unit.
    """
    named = siblings(config.cures, recipe_names())
    fitting = {cure: name for cure, name in named.ways.items() if read_recipe(name)["model"]["family"] == family}
    if fitting:
        return named._replace(ways=fitting)
    last = config.training.in_stages()[-1]
    (unit, whole), argument = *last.length.items(), {"steps": "period", "epochs": "period_epochs"}
    return options(GUIDES.get(family, {}), f"{argument[unit]}: {max(1, whole // 4)}")


def build_monitor(config: RunConfig, subject: Subject, validation: EvaluationSet) -> Monitor | None:
    """What is recorded at each validation beside the bound, as the model's measures say.

    Raises :class:`UserError` for aggressive training of a model without a latent of the whole text.
    """
    aggressive = any(stage.update == "aggressive" for stage in config.training.in_stages())
    if aggressive and not of_sentence(subject.model.latents):
        raise UserError(
            f"update: aggressive ends by the mutual information of sentences and their latents, and this "
            f"{config.model.family} has no latent of a sentence; use update: joint"
        )
    # Aggressive training ends by the information of all validation sentences (specification 0).
    return monitor_of(subject, validation, everything=aggressive)


def epoch_length(batches: BatchStream) -> int | None:
    """Batches of an epoch; None for words that are drawn without end."""
    return batches.batches_per_epoch if isinstance(batches, EpochBatches) else None


def last_steps(config: RunConfig, corpus: Corpus) -> int:
    """Updates of a training's last stage, or of all of it where it has none."""
    last = config.training.in_stages()[-1]
    return last.steps or last.in_steps(epoch_length(training_batches(config, corpus))).steps


def identity(config: RunConfig, corpus: Corpus) -> dict[str, Any]:
    """What makes a checkpoint this run's: everything but how long, how fast and on what it is trained."""
    training = config.training
    stages = training.in_stages()
    rules = [(s.name, s.objective or config.objective, s.update, s.reset) for s in stages]
    procedure = {"stages": repr(rules)} if training.stages or training.update != "joint" else {}
    return {
        **_trained([stage.train for stage in stages]),
        **procedure,
        "recipe": config.recipe,
        "model": repr(sorted(config.model.model_dump().items())),
        "guide": repr(sorted(config.guide.model_dump().items())),
        "objective": config.objective,
        "seed": config.seed,
        "data": corpus.fingerprint,
    }


def _trained(names: list[tuple[str, ...]]) -> dict[str, str]:
    """Of the identity: what each stage trains, in the words of older checkpoints where these have any."""
    known = {EVERYTHING: {}, FREEZE["model"]: {"freeze": "model"}}
    return known.get(names[0], {"train": repr(names)}) if len(set(names)) == 1 else {"train": repr(names)}
