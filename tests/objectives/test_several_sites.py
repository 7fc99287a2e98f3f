"""Several latent sites z_1, …, z_L in a chain: β by name and by pattern, and free bits, site by site."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError
from ppl_text.distributions.side import record_side_loss
from ppl_text.objectives import build

from .programs import Program, gradients, plain_batch

L, B, D = 3, 4, 2
SITES = [f"z_{layer}" for layer in range(1, L + 1)]
X = torch.tensor([0.3, -0.2, 1.0, 0.5], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.float64)


def chain() -> tuple[Program, Program]:
    """p(z_l | z_<l) = N(a_l z_{l-1}, I), q(z_l | z_<l, x) = N(m_l + c_l z_{l-1}, s_l²), x ~ N(Σ z_L, 1); side loss."""
    torch.manual_seed(0)
    prior = {f"a_{layer}": torch.rand(D).double() for layer in range(2, L + 1)}
    means = {f"m_{layer}": torch.randn(B, D).double() for layer in range(1, L + 1)}
    scales = {f"s_{layer}": 0.5 + torch.rand(B, D).double() for layer in range(1, L + 1)}
    links = {f"c_{layer}": torch.rand(D).double() for layer in range(2, L + 1)}

    def model(batch: Batch, values: nn.ParameterDict) -> None:
        z = torch.zeros(B, D).double()
        for layer in range(1, L + 1):
            loc = values[f"a_{layer}"] * z if layer > 1 else z
            z = pyro.sample(f"z_{layer}", dist.Normal(loc, 1.0).to_event(1))
        record_side_loss("bag", z.square().sum(-1))
        pyro.sample("tokens", dist.Normal(z.sum(-1), 1.0), obs=X)

    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        loc: Tensor = values["m_1"]
        for layer in range(1, L + 1):
            z = pyro.sample(f"z_{layer}", dist.Normal(loc, values[f"s_{layer}"]).to_event(1))
            if layer < L:
                loc = values[f"m_{layer + 1}"] + values[f"c_{layer + 1}"] * z

    return Program(model, **prior), Program(guide, **means, **scales, **links)


def batch() -> Batch:
    return Batch(**{**vars(plain_batch(B)), "weights": WEIGHTS})


def by_hand(model: Program, guide: Program, particles: int = 1) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """ln p(x | z), KL of each entry of each site along the path that the seed draws, and the side loss, by formulas.

    KL(N(m, s²) ‖ N(μ, 1)) = ½ (s² + (m - μ)² - 1) - ln s.
    """
    torch.manual_seed(1)
    with pyro.plate("particles", particles, dim=-2):
        trace = poutine.trace(guide).get_trace(batch())
    z, kl = {site: trace.nodes[site]["value"] for site in SITES}, {}
    for layer, site in enumerate(SITES, 1):
        m, s, mu = guide.values[f"m_{layer}"], guide.values[f"s_{layer}"], torch.zeros(())
        if layer > 1:
            before = z[f"z_{layer - 1}"]
            m, mu = m + guide.values[f"c_{layer}"] * before, model.values[f"a_{layer}"] * before
        kl[site] = (0.5 * (s**2 + (m - mu) ** 2 - 1) - s.log()).expand(particles, B, D).mean(0)
    likelihood = dist.Normal(z[SITES[-1]].sum(-1), 1.0).log_prob(X).expand(particles, B).mean(0)
    return likelihood, kl, z[SITES[-1]].square().sum(-1).expand(particles, B).mean(0)


BETAS = {
    "the first alone": ({"z_1": 1.0, "z_*": 0.0}, [1.0, 0.0, 0.0], 1.0),
    "the last alone, patterns first": ({"z_*": 0.0, "z_3": torch.tensor(1.0).double()}, [0.0, 0.0, 1.0], 1.0),
    "the first pattern counts": ({"z_[12]": 0.5, "z_?": 0.25, "z_*": 9.0}, [0.5, 0.5, 0.25], 1.0),
    "everything else": ({"z_1": 2.0, "*": 0.5}, [2.0, 0.5, 0.5], 0.5),
    "a side loss and the rest": ({"bag": 0.0, "*": 0.5}, [0.5, 0.5, 0.5], 0.0),
    "what is not named has 1": ({"z_2": 0.0}, [1.0, 0.0, 1.0], 1.0),
    "one for all sites": (0.5, [0.5, 0.5, 0.5], 1.0),
}


@pytest.mark.parametrize(("beta", "of_sites", "of_side"), BETAS.values(), ids=BETAS)
def test_each_site_has_the_beta_of_its_name_or_of_its_first_pattern(beta, of_sites, of_side) -> None:
    model, guide = chain()
    likelihood, kl, side = by_hand(model, guide)
    share = WEIGHTS / WEIGHTS.sum()
    weighed = sum((own * kl[site].sum(-1) for site, own in zip(SITES, of_sites, strict=True)), torch.zeros(()))
    expected = (share * (weighed + of_side * side - likelihood)).sum()
    torch.manual_seed(1)
    estimate = build("elbo-analytic")(model, guide, batch(), beta=beta)
    torch.testing.assert_close(estimate.loss, expected)
    torch.testing.assert_close(estimate.bound, likelihood - sum(own.sum(-1) for own in kl.values()))
    wanted = gradients(expected, guide)
    for name, value in gradients(estimate.loss, guide).items():
        torch.testing.assert_close(value, wanted[name])


@pytest.mark.parametrize("spec", ["elbo", "elbo-analytic", "elbo-analytic:3", "stl", "free-bits:0.1"])
def test_a_beta_of_zero_takes_the_kl_of_a_site_out_of_the_loss(spec: str) -> None:
    """So the priors of the other layers get no gradient at all."""
    model, guide = chain()
    estimate = build(spec)(model, guide, batch(), beta={"z_1": 1.0, "z_*": 0.0})
    assert not any(value.any() for value in gradients(estimate.loss, model).values())


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"latent site or side loss in β 'y_\*'.*latent sites: z_1, z_2, z_3"):
        build("elbo")(*chain(), batch(), beta={"z_*": 1.0, "y_*": 0.5})


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("free", [0.0, 0.8, 1.5, 1e6])
@pytest.mark.parametrize("unit", ["sentence", "dimension", "batch"])
def test_free_bits_are_granted_to_each_layer(unit: str, free: float, particles: int) -> None:
    """λ for each site by itself; no layer pays for, or spends, what another one has."""
    model, guide = chain()
    likelihood, kl, side = by_hand(model, guide, particles)
    share = WEIGHTS / WEIGHTS.sum()
    paid = []
    for own in kl.values():
        whole = own.sum(-1)
        mask = {"sentence": whole > free, "batch": (share * whole).sum() > free}
        paid.append((own * (own > free / D)).sum(-1) if unit == "dimension" else whole * mask[unit])
    torch.manual_seed(1)
    estimate = build(f"free-bits:{free}:{unit}:{particles}")(model, guide, batch())
    expected = (share * (sum(paid) + side - likelihood)).sum()
    torch.testing.assert_close(estimate.loss, expected)
    together = sum(own.sum(-1) for own in kl.values())
    torch.testing.assert_close(estimate.kl, together.detach())
    if unit == "sentence" and 0 < free < 2:
        assert not torch.allclose(sum(paid), together * (together > free)), "λ of the sum would be another loss"
