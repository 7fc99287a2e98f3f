"""One batch through model, guide and objective before anything is written: what does not fit is found here."""

from __future__ import annotations

import inspect
import re
import traceback
from typing import NamedTuple

import torch
from torch import nn

from ..core.batch import Batch
from ..core.errors import PplTextError, UserError
from ..core.protocols import Estimate, Objective
from ..data.batches import collate
from ..data.corpus import Corpus
from ..objectives.sites import check_sites
from .procedures import Procedure


class Rehearsal(NamedTuple):
    """What a first batch showed: the table of the sites, and what the objective has to say of the two programs."""

    sites: str
    remarks: list[str]


def rehearse(model: nn.Module, guide: nn.Module, objective: Objective, batch: Batch, training: Procedure) -> Rehearsal:
    """Return sites and remarks; raises :class:`UserError` where programs or objective fail on ``batch``.

    The parameters stay as they are, and so does the global random state.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            table = check_sites(model, guide, batch)
            refuse_points(objective(model, guide, batch, training.first_beta()), objective)
            remarks = getattr(objective, "remarks", None)
            return Rehearsal(table, remarks(model, guide, batch) if remarks else [])
        except PplTextError:
            raise
        except Exception as error:
            # Pyro prints whole tensors.
            text = re.sub(r"tensor\(.*\)", "…", str(error), flags=re.DOTALL)
            raise UserError(
                f"a first batch of {batch.size} sentences and {batch.steps} steps does not pass through model and "
                f"guide: {place_of(error, type(guide))}{type(error).__name__}: {text}; mend the program before training"
            ) from error


def refuse_points(estimate: Estimate, objective: Objective) -> None:
    """Raise :class:`UserError` where the KL is infinite and in the loss."""
    if bool(torch.isposinf(estimate.kl).any()) and not bool(torch.isfinite(estimate.loss)):
        raise UserError(
            f"the KL of the guide from the prior is infinite (a point mass has no density), and so is the loss of "
            f"{objective.name}; train this guide with --objective reconstruction, or choose another guide"
        )


def first_batch(corpus: Corpus, size: int) -> Batch:
    """The ``size`` texts of the training split that stand first."""
    texts = corpus.splits["train"].texts[:size]
    ids = corpus.tokenizer.encode(texts)
    return collate(ids, [1.0] * len(ids), steps=1 + max(map(len, ids)), rows=len(ids))


def place_of(error: Exception, kind: type) -> str:
    """``FILE, line N: `` of the last line of ``kind``'s own file on the way to an error; nothing for our classes."""
    if kind.__module__.partition(".")[0] in ("ppl_text", "guides", "torch"):
        return ""
    file = inspect.getsourcefile(kind)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}: " if lines else ""
