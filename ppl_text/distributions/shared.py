"""Distributions whose parameters broadcast: expanded without touching them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution


class SharedParts(TorchDistribution):
    """A distribution that has the same ``parts``, attributes by name, under however many leading axes."""

    parts: ClassVar[tuple[str, ...]]

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> SharedParts:
        """Put further leading axes in front, without copies."""
        new: SharedParts = self._get_checked_instance(type(self), _instance)
        for name in self.parts:
            setattr(new, name, getattr(self, name))
        super(SharedParts, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new
