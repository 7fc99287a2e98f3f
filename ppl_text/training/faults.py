"""What to tell the user when a loss is no longer a number."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning_fabric import Fabric

from ..core.batch import Batch
from ..core.errors import NonFiniteLossError
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
