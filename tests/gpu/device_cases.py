"""Small programs, objectives and a batch: what the tests of devices run, by name.

A new family needs a line in ``MODELS``; its guides and all objectives are taken from the registries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from guides import GUIDES
from ppl_text import objectives, schedules
from ppl_text.core.batch import Batch
from ppl_text.core.registry import Registry
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models import MODELS as FAMILIES
from ppl_text.training.capture import Graphs
from ppl_text.training.optimizers import OPTIMIZERS, build_optimizer, make_capturable
from ppl_text.training.options import TrainingOptions
from ppl_text.training.programs import Joint, set_up, to_device
from ppl_text.training.stopping import make_guard
from ppl_text.training.update import Setting, Update

VOCABULARY = Vocabulary(12, source=Vocabulary(12))
IDS = [[3, 4, 5], [], [6, 7, 8, 9], [11, 10, 3, 3, 5]]

MODELS: dict[str, dict[str, Any]] = {
    "deep_state_space": {"state_dim": 3, "hidden": (5,)},
    "encoder_decoder": {
        "latent_dim": 3,
        "embedding_dim": 5,
        "encoder_dim": 3,
        "hidden_dim": 6,
        "output_dim": 4,
        "attention": "vectors",
    },
    "language_model": {"hidden_dim": 5},
    "latent_sequence": {
        "latent_dim": 3,
        "embedding_dim": 5,
        "hidden_dim": 6,
        "init": "torch",
        "codes": 4,
        "code_start": "uniform",
        "prior_width": 4,
        "prior_layers": 2,
    },
    "layerwise_transformer": {"layers": 2, "width": 8, "heads": 2, "positions": 24, "latent_dim": 3, "dropout": 0.0},
    "sentence_vae": {"latent_dim": 3, "embedding_dim": 5, "hidden_dim": 6, "init": "torch"},
    "switching_language_model": {"codes": 3, "embedding_dim": 5, "hidden_dim": 6},
}
"""Options that make each family small."""

MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "encoder_decoder exact": {"attention": "deterministic", "latent_dim": 0},
    "encoder_decoder gaussian": {"attention": "deterministic", "start": "encoder"},
    "encoder_decoder dirichlet": {"attention": "weights"},
    "encoder_decoder logistic-normal": {"attention": "weights", "attention_prior": "logistic-normal"},
    "encoder_decoder weibull": {"attention": "weights", "attention_prior": "gamma"},
    "layerwise_transformer exact": {"paradigm": "none"},
    "layerwise_transformer single": {"paradigm": "memory"},
    "sentence_vae exact": {"latent_dim": 0},
    "latent_sequence quantised": {"prior": "codes"},
    "latent_sequence soft": {"prior": "codes", "stride": 2, "latent_length": "eos_code"},
    "latent_sequence categorical": {"prior": "codes", "positions": "last"},
}
"""What a guide needs of its model, by family and guide."""

GUIDE_OPTIONS = {
    "deep_state_space": {"embedding_dim": 4, "gru_dim": 5, "hidden": (5,)},
    "sentence_vae iaf": {"flow_hidden": (6,)},
}
"""By family, or by family and guide."""

OBJECTIVES = {
    "elbo": "elbo:3",
    "elbo-analytic": "elbo-analytic",
    "stl": "stl:2",
    "iwae": "iwae:4/2",
    "renyi": "renyi:0.5:3",
    "dreg": "dreg:4/2",
    "vimco": "vimco:3",
    "stepwise": "stepwise:3:score",
    "fivo": "fivo:3:multinomial",
    "free-bits": "free-bits:0.5:batch",
    "reconstruction": "reconstruction",
    "rate": "rate:2",
    "per-token": "per-token",
}
"""One spec each; ``pyro:…`` is not among them, since stock Pyro asks the host in every step."""

DEFAULT = {
    "sentence_vae point": "reconstruction",
    "switching_language_model mean-field": "vimco:3",
    "switching_language_model prior": "vimco:3",
    "latent_sequence soft": "vimco:2",
    "latent_sequence categorical": "vimco:2",
}
"""Objective of a guide that cannot be trained by the path gradient of the ELBO."""


@dataclass(frozen=True)
class Case:
    """One model, guide, objective and optimizer, and the batches of an update."""

    family: str
    guide: str
    spec: str = "stl"
    optimizer_name: str = "sgd"
    options: dict[str, Any] = field(default_factory=dict)
    accumulate: int = 1

    def programs(self) -> tuple[nn.Module, nn.Module]:
        """Model and guide with the same parameters at each call, all of them away from where they vanish."""
        torch.manual_seed(0)
        options = MODELS[self.family] | MODEL_OPTIONS.get(f"{self.family} {self.guide}", {}) | self.options
        model = Registry("model", FAMILIES).load(self.family)(VOCABULARY, **options)
        own = {} if self.guide in ("prior", "exact") else GUIDE_OPTIONS.get(self.family, {})
        own = own | GUIDE_OPTIONS.get(f"{self.family} {self.guide}", {})
        guide = Registry("guide", GUIDES[self.family]).load(self.guide)(model, **own)
        with torch.no_grad():
            for parameter in dict.fromkeys([*model.parameters(), *guide.parameters()]):
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model, guide

    def objective(self) -> Any:
        """The objective."""
        return objectives.build(self.spec)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of parameters."""
        return build_optimizer(self.optimizer_name, [{"params": list(dict.fromkeys(parameters))}], lr=0.01)


FEW, SOME = (7, 7, 7), (7, 7, 7, 9, 7, 9, 9, 7)
"""Steps of the batches of a few updates: of one shape, which is recorded; two shapes in turn, as from two buckets."""


@dataclass
class Steps:
    """Updates of a case as the trainer makes them, on the device of ``fabric``; ``graphs`` records them."""

    case: Case
    fabric: Fabric
    graphs: Graphs | None = None
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        model, guide = self.case.programs()
        optimizer = self.case.optimizer([*model.parameters(), *guide.parameters()])
        self.joint = Joint(model, guide, self.case.objective())
        module, wrapped = set_up(self.fabric, self.joint, optimizer)
        make_capturable(optimizer, self.fabric.device)
        options = TrainingOptions(steps=10, beta=annealed(), clip_norm=5.0, accumulate=self.case.accumulate)
        trained, guard = self.joint.choose(["model", "guide"]), make_guard(self.fabric, optimizer)
        setting = Setting(
            self.fabric, module, wrapped, guard, options, trained, graphs=self.graphs, report=self.said.append
        )
        self.update = Update(setting)
        self.update.begin(monitored=False)
        self.joint.train()

    @property
    def shapes(self) -> int:
        """Kinds of updates that were recorded."""
        return len(self.update.recorded)

    def take(self, widths: Sequence[int], start: int = 0) -> None:
        """Make updates on batches of these widths, each of other sentences; ``start`` were made before."""
        with pyro.validation_enabled(False):
            for number, width in enumerate(widths, start):
                turns = range(number, number + self.case.accumulate)
                self.update([to_device(batch(width, turn), self.fabric.device) for turn in turns], number)

    def numbers(self) -> dict[str, Tensor]:
        """Everything that the updates have left."""
        return {**self.joint.state_dict(), "meters": self.update.meters.sums, "norm": self.update.norm}


def batch(steps: int = 7, turn: int = 0) -> Batch:
    """Four sentences, one of them empty, and a filler row; in another order with each ``turn``; each with a source."""
    texts = IDS[turn % len(IDS) :] + IDS[: turn % len(IDS)]
    weights = torch.ones(len(texts))
    source = collate(texts[::-1], weights, steps, len(texts) + 1)
    return replace(collate(texts, weights, steps, len(texts) + 1), source=source)


def annealed() -> Callable[[int], float]:
    """A β that changes with every step."""
    return schedules.build({"name": "linear", "start": 0.1, "end": 1.0, "steps": 10})


def _guides() -> dict[str, Case]:
    return {
        f"{family} x {guide}": Case(family, guide, DEFAULT.get(f"{family} {guide}", "stl"))
        for family in FAMILIES
        for guide in GUIDES[family]
    }


def _objectives() -> dict[str, Case]:
    first = {"deep_state_space": "diagonal", "sentence_vae": "gaussian"}
    return {
        f"{family}, {OBJECTIVES[name]}": Case(family, guide, OBJECTIVES[name])
        for family, guide in first.items()
        for name in objectives.OBJECTIVES
        if name != "pyro" and (family == "deep_state_space" or name not in ("stepwise", "fivo"))
    }


GUIDE_CASES = _guides()
"""Each guide with one objective."""

OBJECTIVE_CASES = _objectives()
"""Each objective with one guide of each family that has latents."""

OTHER_CASES = {
    **{
        f"transition {name}": Case("deep_state_space", "tril", options={"transition": name}) for name in ("diag", "nvp")
    },
    "parametrisation direct, diagonal clip": Case(
        "deep_state_space", "shared", "elbo", options={"parametrization": "direct", "diagonal": "clip"}
    ),
    "LSTM language model": Case("language_model", "exact", options={"cell": "lstm"}),
    "tied, bag of words": Case(
        "sentence_vae", "gaussian", options={"hidden_dim": 5, "tied": True, "bag_of_words": 0.1, "initial": "hidden"}
    ),
    "exact attention": Case("encoder_decoder", "exact", "elbo", options={"attention": "exact"}),
    "attention before the step": Case(
        "encoder_decoder", "attention", "elbo-analytic", options={"attn_order": "pre", "layer_norm": True}
    ),
    "gathered gradients": Case("sentence_vae", "batch-norm", "elbo", "adamw", accumulate=3),
    **{f"optimizer {name}": Case("sentence_vae", "gaussian", "elbo", name) for name in OPTIMIZERS},
}

STEPS = {**GUIDE_CASES, **OBJECTIVE_CASES, **OTHER_CASES}
"""All of them."""

TINY = {
    "data.batch_size": 16,
    "data.buckets": 2,
    "data.validation_sentences": 30,
    "model.hidden": [6],
    "model.state_dim": 2,
    "guide.gru_dim": 6,
    "guide.embedding_dim": 4,
    "guide.hidden": [6],
    "training.steps": 8,
    "training.log_every": 2,
    "training.validate_every": 4,
    "training.checkpoint_every": 4,
    "report.sentences": 20,
    "report.particles": 4,
    "report.samples": 20,
}
"""What makes the recipe ``words`` small."""

SMALL = {
    "model.latent_dim": 4,
    "model.embedding_dim": 8,
    "model.hidden_dim": 8,
    "data.batch_size": 16,
    "training.steps": 8,
    "training.log_every": 2,
    "training.validate_every": 4,
    "training.checkpoint_every": 4,
    "report.sentences": 12,
    "report.particles": 4,
    "report.samples": 5,
}
"""What makes a recipe of sentences small."""
