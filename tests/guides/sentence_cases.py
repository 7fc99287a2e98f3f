"""The sentence VAE and its guides, by name, small and in float64."""

from __future__ import annotations

import torch
from guide_cases import shaken
from pyro import poutine
from torch import Tensor, nn

from guides import GUIDES
from ppl_text.core.batch import Batch
from ppl_text.core.registry import Registry
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models.sentence_vae import SentenceVAE

NAMES = tuple(name for name in GUIDES["sentence_vae"] if name != "exact")
READING = tuple(name for name in NAMES if name != "prior")
DENSE = tuple(name for name in NAMES if name != "point")
GAUSSIAN = ("gaussian", "pooled", "batch-norm")
IDS = [[3, 4, 5], [], [5], [4, 4]]
D = 3


def guides() -> Registry:
    """The registry as ``--guide`` uses it."""
    return Registry("guide", GUIDES["sentence_vae"], group="ppl_text.guides")


def model_of(**options: object) -> SentenceVAE:
    """A small model; nothing is dropped."""
    torch.manual_seed(0)
    small = {"latent_dim": D, "embedding_dim": 4, "hidden_dim": 4, "dropout_in": 0.0, "dropout_out": 0.0}
    return shaken(SentenceVAE(Vocabulary(6), **{**small, **options}))


def guide_of(name: str, model: SentenceVAE, scale: float = 0.4, **options: object) -> nn.Module:
    """A guide by its registered name."""
    torch.manual_seed(1)
    small = {"flow_hidden": [6], **options} if name == "iaf" else options
    return shaken(guides().load(name)(model, **small), scale)


def sentences(ids: list[list[int]], steps: int, rows: int | None = None) -> Batch:
    """Sentences of weight one, and filler up to ``rows``."""
    return collate(ids, torch.ones(len(ids), dtype=torch.float64), steps, rows or len(ids))


def log_q(guide: nn.Module, batch: Batch, z: Tensor) -> Tensor:
    """ln q(z | w) of the Pyro program at given z, per sentence."""
    trace = poutine.trace(poutine.condition(guide, data={"z": z})).get_trace(batch)
    trace.compute_log_prob()
    value: Tensor = trace.nodes["z"]["log_prob"]
    return value
