"""A path that is drawn step by step, each step given what was drawn before it, and scored in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence

from .shared import SharedParts


class DrawnInOrder(SharedParts):
    """q(a_{1:T}) = Π_t q(a_t | a_{<t}): along a drawn path a distribution of its steps, independent of each other.

    Args:
        draw: of a batch shape (…, B) makes a path, reparametrised, and the law along it, as it came while drawing.
        law: the law along any path (…, B, T, M), all steps at once.
        batch_shape, event_shape: (B,) and (T, M).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.independent(constraints.real, 2)
    has_rsample = True
    parts: ClassVar[tuple[str, ...]] = ("_draw", "_law", "_drawn")

    def __init__(
        self,
        draw: Callable[[torch.Size], tuple[Tensor, Any]],
        law: Callable[[Tensor], Any],
        batch_shape: torch.Size,
        event_shape: torch.Size,
        validate_args: bool | None = None,
    ) -> None:
        self._draw, self._law = draw, law
        self._drawn: tuple[Tensor, Any] | None = None
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Draw a path (…, B, T, M), step by step, differentiably."""
        self._drawn = self._draw(self._extended_shape(sample_shape)[: -len(self.event_shape)])
        return self._drawn[0]

    def law_along(self, value: Tensor) -> Any:
        """Return the distribution of the steps along a path; of the path drawn last it is known."""
        if self._drawn is not None and self._drawn[0] is value:
            return self._drawn[1]
        return self._law(value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_{t ≤ length} ln q(a_t | a_{<t}), (…, B), nats."""
        if self._validate_args:
            self._validate_sample(value)
        found: Tensor = self.law_along(value).log_prob(value)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def kl_to(self, p: Distribution, value: Tensor) -> Tensor | None:
        """Σ_t KL(q(a_t | a_{<t}) ‖ p(a_t)) along a path drawn from q, (…, B), nats; None where no form is registered.

        In expectation over the path this is KL(q ‖ p), where p's steps do not depend on each other.
        """
        try:
            found: Tensor = kl_divergence(self.law_along(value), p)
        except NotImplementedError:
            return None
        return found
