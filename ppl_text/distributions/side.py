"""Auxiliary losses as sites without a density."""

from __future__ import annotations

import pyro
from pyro.distributions import Delta
from torch import Tensor

SIDE_LOSS = "side_loss"
"""Key in a site's ``infer`` dictionary that marks an auxiliary loss."""


def record_side_loss(name: str, value: Tensor) -> None:
    """Called inside a model or guide: name an auxiliary loss (commitment, bag-of-words, …), in nats.

    ``value`` is (…, B) or scalar. The site is masked, so that every bound ignores it; objectives add its mean to the
    training loss, times the β of that name. A program records it in every mode, since a β may name it in all stages;
    where it costs time and is of no use (outside of training), as a zero.
    """
    mark = {"_deterministic": True, SIDE_LOSS: True}
    pyro.sample(name, Delta(value).mask(False), obs=value, infer=mark)
