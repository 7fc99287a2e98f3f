"""A point mass on a continuous latent: no density, and so no finite bound."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl


class PointMass(TorchDistribution):
    """q(z) = δ(z - v) for v (…, B, D), event (D,): the autoencoder's posterior.

    Beside a density such as N(0, I) its log-density is +inf at v and -inf elsewhere, and KL(q ‖ p) = +inf for every
    p: so each bound under it is honestly -inf, and it is trained by its reconstruction alone. Draws are v itself, with
    its gradient. (``pyro.distributions.Delta`` counts ln q(v) as 0; the "ELBO" would then be E_q ln p(x, z), which is
    no bound.) Where the latent is discrete a point does have a probability, and this is the wrong distribution.
    """

    arg_constraints = {"value": constraints.real_vector}  # noqa: RUF012 - torch's class-level declaration
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, value: Tensor, validate_args: bool | None = None) -> None:
        self.value = value
        super().__init__(value.shape[:-1], value.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: PointMass | None = None) -> PointMass:
        """Put further leading axes in front, without copies."""
        new = self._get_checked_instance(PointMass, _instance)
        new.value = self.value.expand(*batch_shape, *self.event_shape)
        super(PointMass, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The point v."""
        return self.value

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - torch's signature
        """Return the point v, (…, B, D)."""
        return self.value.expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """+inf where ``value`` is v in all its entries, -inf elsewhere; shape (…, B), without a gradient."""
        if self._validate_args:
            self._validate_sample(value)
        there = (value == self.value).all(-1)
        return torch.where(there, torch.inf, -torch.inf).to(self.value.dtype)


@register_kl(PointMass, Distribution)
def _infinite(q: PointMass, p: Distribution) -> Tensor:
    return q.value.new_full(torch.broadcast_shapes(q.batch_shape, p.batch_shape), torch.inf)
