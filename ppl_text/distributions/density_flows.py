"""Flows that densities are scored by: masked autoregressive ones, whose way from a value to its noise is one pass."""

from __future__ import annotations

import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from torch import nn


def density_flows(width: int, number: int, hidden: int) -> nn.ModuleList:
    """Return flows u = f_n ∘ … ∘ f_1(z), of which ``flow.inv`` in turn make a density of z out of one of u.

    f_i(z)_d = z_d exp(s_d) + m_d with s and m of z_{<d}, in turn from the first entry to the last and back: a masked
    autoregressive flow (Papamakarios et al. 2017, "Masked Autoregressive Flow for Density Estimation"). To score a
    value is one pass, to draw one takes ``width`` passes a flow. At first all are the identity, exactly.

    Args:
        width: D of z.
        number: n.
        hidden: width of the networks, D or more.

    Example::

        >>> flows = density_flows(3, 2, 8)
        >>> all(torch.equal(flow(torch.ones(1, 3)), torch.ones(1, 3)) for flow in flows)
        True
    """
    made = nn.ModuleList()
    for place in range(number):
        order = torch.arange(width) if place % 2 == 0 else torch.arange(width).flip(0)
        network = AutoRegressiveNN(width, [hidden], permutation=order, nonlinearity=nn.ELU())
        last = network.layers[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        made.append(AffineAutoregressive(network))
    # What is scored comes from the value: the last flow in the density is the first in this list.
    return made
