"""Free bits against their formulas: three units, several sites, masks and gradients."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.objectives import build

from .programs import Program, gradients, plain_batch, state_space, within, word_batch

X = torch.tensor([0.3, -0.2, 1.0, 0.5], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
LOC = torch.tensor([[0.1, 0.9, -2.0], [1.5, 0.0, 0.3], [0.2, 0.2, 0.2], [0.6, -1.1, 0.0]], dtype=torch.float64)
SCALE = torch.tensor([[0.9, 0.8, 0.5], [1.0, 0.6, 1.2], [1.0, 1.0, 1.0], [0.7, 1.0, 0.3]], dtype=torch.float64)
OTHER = torch.tensor([[0.5, 0.1], [2.0, -0.4], [0.0, 0.1], [-0.3, 0.8]], dtype=torch.float64)


def two_sites() -> tuple[Program, Program]:
    """z in R³ and u in R² under N(0, I): q(z) = N(loc, scale), q(u) = N(other, 1); x ~ N(Σz + Σu, 1)."""

    def model(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(1))
        u = pyro.sample("u", dist.Normal(torch.zeros(4, 2).double(), 1.0).to_event(1))
        pyro.sample("tokens", dist.Normal(z.sum(-1) + u.sum(-1), 1.0), obs=X)

    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        pyro.sample("z", dist.Normal(values["loc"], values["scale"]).to_event(1))
        pyro.sample("u", dist.Normal(values["other"], 1.0).to_event(1))

    return Program(model), Program(guide, loc=LOC, scale=SCALE, other=OTHER)


def entry_kl(guide: Program) -> dict[str, Tensor]:
    """KL(N(m, s²) ‖ N(0, 1)) = ½(s² + m² - 1) - ln s of every entry."""
    loc, scale, other = (guide.values[name] for name in ("loc", "scale", "other"))
    return {"z": 0.5 * (scale**2 + loc**2 - 1) - scale.log(), "u": 0.5 * other**2}


def batch() -> Batch:
    return Batch(**{**vars(plain_batch(4)), "weights": WEIGHTS})


def paid(kl: Tensor, free: float, unit: str) -> tuple[Tensor, Tensor]:
    """What is paid, (B,), as specification 0 has it: a mask, and max(λ, ·) less λ; equal in gradient only."""
    share = WEIGHTS / WEIGHTS.sum()
    if unit == "dimension":
        limit = free / kl.shape[-1]
        return (kl * (kl > limit)).sum(-1), kl.clamp(min=limit).sum(-1)
    whole = kl.sum(-1)
    if unit == "sentence":
        return whole * (whole > free), whole.clamp(min=free)
    mean = (share * whole).sum()
    return whole * (mean > free), mean.clamp(min=free).expand(4)


UNITS = ("sentence", "dimension", "batch")


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.0, 0.25, {"z": 0.25}, {"u": torch.tensor(2.0).double()}], ids=str)
@pytest.mark.parametrize("free", [0.0, 0.4, 0.7, 1.6, 1e6])
@pytest.mark.parametrize("unit", UNITS)
def test_the_three_units_are_masks_with_the_gradient_of_the_maximum(unit, free, beta, particles) -> None:
    model, guide = two_sites()
    torch.manual_seed(0)
    estimate = build(f"free-bits:{free}:{unit}:{particles}")(model, guide, batch(), beta=beta)
    torch.manual_seed(0)
    plain = build(f"elbo-analytic:{particles}")(model, guide, batch())
    by_site = entry_kl(guide)
    betas = {name: float(beta.get(name, 1.0)) if isinstance(beta, dict) else beta for name in by_site}
    share = WEIGHTS / WEIGHTS.sum()
    masked, clamped = (
        sum((betas[name] * (share * paid(kl, free, unit)[i]).sum() for name, kl in by_site.items()), torch.zeros(()))
        for i in (0, 1)
    )
    assert estimate.loss.item() == pytest.approx(-(share * plain.log_likelihood).sum().item() + masked.item())
    for name in ("bound", "kl", "log_likelihood"):
        torch.testing.assert_close(getattr(estimate, name), getattr(plain, name))
    torch.testing.assert_close(estimate.kl, sum(kl.sum(-1) for kl in by_site.values()).detach())
    torch.manual_seed(0)
    reconstruction = build(f"elbo-analytic:{particles}")(model, guide, batch(), beta=0.0).loss
    wanted = gradients(reconstruction + clamped, guide)
    for name, value in gradients(estimate.loss, guide).items():
        torch.testing.assert_close(value, wanted[name])


def test_the_units_differ_where_they_should() -> None:
    """λ between the KL of the sentences, of the entries and of the batch: the numbers above hold all sorts."""
    by_site = {name: kl.detach() for name, kl in entry_kl(two_sites()[1]).items()}
    kinds = {unit: [paid(kl, 0.4, unit)[0] for kl in by_site.values()] for unit in UNITS}
    for unit in ("sentence", "dimension"):
        for kl, value in zip(by_site.values(), kinds[unit], strict=True):
            assert int((value < kl.sum(-1) - 1e-9).sum()) > 0
            assert float(value.sum()) > 0
    losses = {unit: build(f"free-bits:0.4:{unit}")(*two_sites(), batch()).loss for unit in UNITS}
    assert len({round(float(loss.detach()), 6) for loss in losses.values()}) == 3


def chained_site(masked: bool = False) -> tuple[Program, Program]:
    """u given z: the KL of u depends on the particle."""

    def model(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(1))
        with poutine.mask(mask=torch.tensor([True, False, True, True]) if masked else True):
            u = pyro.sample("u", dist.Normal(z, 1.0).to_event(1))
        pyro.sample("tokens", dist.Normal(u.sum(-1), 1.0), obs=X)

    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        pyro.sample("z", dist.Normal(values["loc"], values["scale"]).to_event(1))
        with poutine.mask(mask=torch.tensor([True, False, True, True]) if masked else True):
            pyro.sample("u", dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(1))

    return Program(model), Program(guide, loc=LOC, scale=SCALE)


@pytest.mark.parametrize("unit", UNITS)
def test_with_several_particles_it_is_their_mean_that_is_held_against_the_free_bits(unit: str) -> None:
    model, guide = chained_site()
    torch.manual_seed(0)
    estimate = build(f"free-bits:1.2:{unit}:5")(model, guide, batch())
    torch.manual_seed(0)
    z = LOC + SCALE * torch.normal(torch.zeros(5, 4, 3).double(), torch.ones(5, 4, 3).double())
    charge = paid((0.5 * z**2).mean(0), 1.2, unit)[0] + paid(entry_kl(two_sites()[1])["z"].detach(), 1.2, unit)[0]
    share = WEIGHTS / WEIGHTS.sum()
    torch.testing.assert_close(estimate.loss.detach(), -(share * (estimate.log_likelihood - charge)).sum())


def test_a_masked_site_is_no_sum_over_its_entries() -> None:
    for unit in ("sentence", "batch"):
        assert torch.isfinite(build(f"free-bits:1:{unit}")(*chained_site(masked=True), batch()).loss)
    with pytest.raises(UserError, match="free bits by dimension: the KL of site 'u'"):
        build("free-bits:1:dimension")(*chained_site(masked=True), batch())


@pytest.mark.parametrize("guide", ["diag", "tril"])
def test_a_chain_has_free_bits_by_sentence_and_by_batch_only(guide: str) -> None:
    programs = state_space(guide=guide)
    with pytest.raises(UserError) as caught:
        build("free-bits:2:dimension")(*programs, word_batch())
    assert "free bits by dimension: the KL of site 'h' (FlowChain) is no sum over its entries" in str(caught.value)
    assert "use free-bits:λ:sentence or free-bits:λ:batch" in str(caught.value)
    estimates = {}
    for spec in ("elbo-analytic", "free-bits:3", "free-bits:3:batch", "free-bits:1e9"):
        torch.manual_seed(0)
        estimates[spec] = build(spec)(*programs, word_batch())
    kl, likelihood = estimates["elbo-analytic"].kl, estimates["elbo-analytic"].log_likelihood
    assert (kl > 3).any()
    assert (kl < 3).any()
    charges = {"free-bits:3": kl * (kl > 3), "free-bits:3:batch": kl * (kl.mean() > 3), "free-bits:1e9": 0 * kl}
    for spec, charge in charges.items():
        torch.testing.assert_close(estimates[spec].bound, estimates["elbo-analytic"].bound)
        torch.testing.assert_close(estimates[spec].loss.detach(), -(likelihood - charge).mean())


def test_entries_without_a_closed_form_are_refused_by_dimension() -> None:
    def model(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.StudentT(3.0, torch.zeros(4, 3).double(), 1.0).to_event(1))
        pyro.sample("tokens", dist.Normal(z.sum(-1), 1.0), obs=X)

    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        pyro.sample("z", dist.Normal(values["loc"], values["scale"]).to_event(1))

    programs = Program(model), Program(guide, loc=LOC, scale=SCALE)
    with pytest.raises(UserError, match=r"no closed form of KL\(Normal ‖ StudentT\) is known"):
        build("free-bits:1:dimension")(*programs, batch())
    assert torch.isfinite(build("free-bits:1:sentence")(*programs, batch()).loss)


def test_beta_for_a_site_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="latent site or side loss in β 'Z'"):
        build("free-bits:1")(*two_sites(), batch(), beta={"Z": 0.5})


def test_the_reported_bound_stays_the_elbo() -> None:
    programs = state_space()
    words = word_batch([[3, 4, 5]] * 3000)
    with torch.no_grad():
        torch.manual_seed(0)
        free = build("free-bits:3")(*programs, words).bound
        torch.manual_seed(1)
        plain = build("elbo")(*programs, words).bound
    assert within(free - plain, 0.0)
