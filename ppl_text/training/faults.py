"""What to tell the user when training ends before its time."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyro
import torch
from lightning_fabric import Fabric

from ..core.batch import Batch
from ..core.errors import Interrupted, NonFiniteLossError, PplTextError, UserError
from ..objectives import sites
from .guard import NonFinite, describe_gradients
from .update import Joint
from .validation import own_random_numbers


def explain_non_finite(
    fault: NonFinite, joint: Joint, batch: Batch, fabric: Fabric, checkpoint: Path | None
) -> NonFiniteLossError:
    """Return the error that names step, site and last good checkpoint; nothing is restored.

    The programs run once more on ``batch``, with the same draws where the fault knows them.
    """
    where = "; ".join(phrase for phrase in (_locate(fault, joint, batch, fabric), describe_gradients(joint)) if phrase)
    saved = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was written before it"
    return NonFiniteLossError(
        f"step {fault.step:,}: {fault.what}; {where}. Training stopped and nothing was restored; {saved}. "
        "Try a lower learning rate, a longer warm-up, a smaller clip_norm, or bounds on the scales of this site; "
        "resuming with unchanged settings meets the same fault again"
    )


def _locate(fault: NonFinite, joint: Joint, batch: Batch, fabric: Fabric) -> str:
    with own_random_numbers(fabric.device), fabric.autocast(), torch.no_grad():
        if fault.random_state is not None:
            torch.set_rng_state(fault.random_state)
        return sites.locate_non_finite(joint.model, joint.guide, batch)


def interrupted(number: int, step: int, total: int, path: Path, folder: Path) -> Interrupted:
    """The error for a run that signal ``number`` stopped after its state was saved in ``path``."""
    return Interrupted(
        f"stopped by {signal.Signals(number).name} after step {step:,} of {total:,}; the state is saved in {path}. "
        f"Go on with: python -m ppl_text fit --resume {folder}",
        exit_code=128 + number,
    )


@contextmanager
def pyro_validated() -> Iterator[None]:
    """Context with Pyro's validation on, in which what it objects to becomes a message for the user."""
    try:
        with pyro.validation_enabled(True):
            yield
    except PplTextError:
        raise
    except ValueError as error:
        # Pyro prints the whole tensor that it objects to.
        text = re.sub(r"tensor\(.*\)", "…", str(error), flags=re.DOTALL)
        raise UserError(f"model, guide or data do not pass Pyro's validation: {text}") from error
