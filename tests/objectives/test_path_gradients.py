"""Path gradients: against derivatives by hand, without variance at the exact posterior, unbiased elsewhere."""

from __future__ import annotations

import copy
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Normal

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.distributions.side import record_side_loss
from ppl_text.objectives import build
from ppl_text.objectives.path_gradients import _drops

from .linear_gaussian import Chain, LinearGuide, LinearModel
from .programs import STATE_SPACE_GUIDES, Program, gradients, plain_batch, state_space, word_batch

X = 1.4
GUIDE = ("loc", "scale", "slope", "offset", "width")
POSTERIOR = {"loc": X / 3, "scale": (2 / 3) ** 0.5, "slope": 0.5, "offset": X / 2, "width": 0.5**0.5}
"""q(z) = N(loc, scale), q(u | z) = N(slope z + offset, width): where they are p(z, u | x)."""
OTHER = {"loc": 0.2, "scale": 0.7, "slope": -0.3, "offset": 0.9, "width": 1.1}
NEAR = {"loc": 0.2, "scale": 1.0, "slope": 0.4, "offset": 0.95, "width": 0.9}
"""Close to the posterior and wider, so that the weights have all moments."""


def chained(numbers: dict[str, float], rows: int) -> tuple[Program, Program]:
    """z ~ N(m, 1), u ~ N(z, 1), x ~ N(u, 1) and the guide z → u.

    Every row has parameters of its own, equal in value: so the gradients of the rows are independent draws of one
    gradient, and each is 1/B of it.
    """

    def model(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.Normal(values["mean"], 1.0))
        u = pyro.sample("u", dist.Normal(z, 1.0))
        pyro.sample("tokens", dist.Normal(u, 1.0), obs=torch.full((rows,), X, dtype=torch.float64))

    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.Normal(values["loc"], values["scale"]))
        pyro.sample("u", dist.Normal(values["slope"] * z + values["offset"], values["width"]))

    table = {name: torch.full((rows,), numbers[name], dtype=torch.float64) for name in GUIDE}
    return Program(model, mean=torch.zeros(rows).double()), Program(guide, **table)


def by_row(spec: str, numbers: dict[str, float], rows: int, *, seed: int = 0, **options) -> dict[str, Tensor]:
    """Gradients of -loss, (B,) draws of each; ``loc`` …, and ``mean`` of the model."""
    model, guide = chained(numbers, rows)
    torch.manual_seed(seed)
    found = gradients(-rows * build(spec)(model, guide, plain_batch(rows), **options).loss, model, guide)
    return {name.rpartition(".")[-1]: value for name, value in found.items()}


def noise(particles: int, rows: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What the two sites of the guide draw."""
    torch.manual_seed(seed)
    shape = (rows,) if particles == 1 else (particles, rows)
    zeros, ones = torch.zeros(shape).double(), torch.ones(shape).double()
    return tuple(torch.normal(zeros, ones).reshape(particles, rows) for _ in "zu")


def log_joint(z: Tensor, u: Tensor, mean: Tensor | float = 0.0) -> Tensor:
    return (
        Normal(mean, 1.0).log_prob(z)
        + Normal(z, 1.0).log_prob(u)
        + Normal(u, 1.0).log_prob(torch.tensor(X, dtype=torch.float64))
    )


def log_q(z: Tensor, u: Tensor, q: dict[str, Tensor | float]) -> Tensor:
    return Normal(q["loc"], q["scale"]).log_prob(z) + Normal(q["slope"] * z + q["offset"], q["width"]).log_prob(u)


def path(particles: int, rows: int, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """z and u as functions of the guide's parameters (B,)."""
    q = {name: torch.full((rows,), OTHER[name], dtype=torch.float64).requires_grad_() for name in GUIDE}
    for_z, for_u = noise(particles, rows, seed=seed)
    z = q["loc"] + q["scale"] * for_z
    return z, q["slope"] * z + q["offset"] + q["width"] * for_u, q


@pytest.mark.parametrize("spec", ["stl", "stl:4", "dreg:1", "dreg:4"])
def test_no_variance_at_the_exact_posterior(spec: str) -> None:
    pairs = [chained(POSTERIOR, 20), (LinearModel(Chain()), LinearGuide(Chain()))]
    for model, guide in pairs:
        torch.manual_seed(0)
        for value in gradients(build(spec)(model, guide, plain_batch(20)).loss, guide).values():
            assert float(value.abs().max()) < 1e-9
        torch.manual_seed(0)
        plain = gradients(build("elbo")(model, guide, plain_batch(20)).loss, guide)
        assert max(float(value.abs().max()) for value in plain.values()) > 1e-3


def test_detached_arguments_would_be_wrong_for_a_chained_posterior() -> None:
    """Even at the posterior: q(u | z) with its mean detached forgets how the mean follows z."""
    q = {name: torch.full((50,), POSTERIOR[name], dtype=torch.float64).requires_grad_() for name in GUIDE}
    for_z, for_u = noise(1, 50)
    z = q["loc"] + q["scale"] * for_z
    mean = q["slope"] * z + q["offset"]
    u = mean + q["width"] * for_u
    constants = {name: value.detach() for name, value in q.items()}
    right = log_joint(z, u) - log_q(z, u, constants)
    wrong = log_joint(z, u) - Normal(constants["loc"], constants["scale"]).log_prob(z)
    wrong = wrong - Normal(mean.detach(), constants["width"]).log_prob(u)
    torch.testing.assert_close(right, wrong)
    (of_right,) = torch.autograd.grad(right.sum(), q["loc"], retain_graph=True)
    (of_wrong,) = torch.autograd.grad(wrong.sum(), q["loc"])
    assert float(of_right.abs().max()) < 1e-9
    assert float(of_wrong.abs().max()) > 0.1


@pytest.mark.parametrize("particles", [1, 4])
def test_stl_is_the_derivative_by_hand_on_a_chain_of_two_sites(particles: int) -> None:
    found = by_row(f"stl:{particles}", OTHER, 6)
    z, u, _ = path(particles, 6)
    # d ln w / dz and / du of z and u taken as free, from the quadratic forms; then through u = a z + b + s ε.
    spread_z, spread_u = OTHER["scale"] ** 2, OTHER["width"] ** 2
    residual = (u - OTHER["slope"] * z - OTHER["offset"]) / spread_u
    by_z = -z + (u - z) + (z - OTHER["loc"]) / spread_z - OTHER["slope"] * residual
    by_u = (z - u) + (X - u) + residual
    for_z, for_u = noise(particles, 6)
    total = by_z + by_u * OTHER["slope"]
    expected = {"loc": total, "scale": total * for_z, "slope": by_u * z, "offset": by_u, "width": by_u * for_u}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach().mean(0))
    torch.testing.assert_close(found["mean"], z.detach().mean(0))


@pytest.mark.parametrize("particles", [1, 2, 7])
def test_dreg_is_the_squared_weights_times_the_path_by_hand(particles: int) -> None:
    """Σ_k w̃_k² ∂ln w_k/∂z_k ∂z_k/∂φ with (z, u) as one vector; the model's gradient is Σ_k w̃_k ∂ln p/∂θ."""
    found = by_row(f"dreg:{particles}", OTHER, 6)
    z, u, q = path(particles, 6)
    mean = torch.zeros(6).double().requires_grad_()
    leaves = z.detach().requires_grad_(), u.detach().requires_grad_()
    log_weight = log_joint(*leaves, mean) - log_q(*leaves, {name: value.detach() for name, value in q.items()})
    share = log_weight.detach().softmax(0)
    slopes = torch.autograd.grad(log_weight.sum(), leaves, retain_graph=True)
    expected = torch.autograd.grad((z, u), list(q.values()), [share**2 * slope for slope in slopes])
    for name, value in zip(q, expected, strict=True):
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(found["mean"], torch.autograd.grad((share * log_weight).sum(), mean)[0])


def test_dreg_of_one_site_by_hand() -> None:
    def model(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3, 2).double(), 1.0).to_event(1))
        pyro.sample("tokens", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor([0.0, 1.0, 2.0]).double())

    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        pyro.sample("z", dist.Normal(values["loc"], values["scale"]).to_event(1))

    loc, scale = torch.tensor([0.1, -0.4]).double(), torch.tensor([0.8, 1.3]).double()
    programs = Program(model), Program(guide, loc=loc.expand(3, 2), scale=scale.expand(3, 2))
    torch.manual_seed(0)
    found = gradients(-3 * build("dreg:5")(*programs, plain_batch(3)).loss, programs[1])
    torch.manual_seed(0)
    drawn = torch.normal(torch.zeros(5, 3, 2).double(), torch.ones(5, 3, 2).double())
    z = loc + scale * drawn
    x = torch.tensor([0.0, 1.0, 2.0]).double()
    log_weight = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(z.sum(-1), 1.0).log_prob(x)
    log_weight = log_weight - Normal(loc, scale).log_prob(z).sum(-1)
    slope = -z + (x - z.sum(-1)).unsqueeze(-1) + (z - loc) / scale**2
    squared = log_weight.softmax(0).square().unsqueeze(-1)
    torch.testing.assert_close(found["0.values.loc"], (squared * slope).sum(0))
    torch.testing.assert_close(found["0.values.scale"], (squared * slope * drawn).sum(0))


@pytest.mark.parametrize("spec", ["stl:3", "dreg:3", "stl", "dreg:1"])
@pytest.mark.parametrize("name", STATE_SPACE_GUIDES)
def test_every_guide_is_scored_as_a_frozen_copy_would(name: str, spec: str) -> None:
    """Among them guides that share the model's parameters: all of them h_0, three of them the transition."""
    model, guide = state_space(guide=name)
    batch, particles = word_batch(), build(spec).particles
    torch.manual_seed(5)
    found = gradients(build(spec)(model, guide, batch).loss, model, guide)
    _, frozen = copy.deepcopy((model, guide))
    frozen.requires_grad_(False)
    frozen.model.requires_grad_(False)
    torch.manual_seed(5)
    with pyro.plate("particles", particles, dim=-2):
        drawn = poutine.trace(guide).get_trace(batch)
        h = drawn.nodes["h"]["value"]
        copied = h.detach().requires_grad_()
        given = {"h": copied}
        of_p = poutine.trace(poutine.condition(model, data=given)).get_trace(batch)
        noise = {"h_ahead": drawn.nodes["h_ahead"]["value"]} if "h_ahead" in drawn.nodes else {}
        of_q = poutine.trace(poutine.condition(frozen, data={**given, **noise})).get_trace(batch)
    of_p.compute_log_prob()
    of_q.compute_log_prob()
    log_weight = sum(of_p.nodes[s]["log_prob"] for s in ("h", "tokens")) - of_q.nodes["h"]["log_prob"]
    share = torch.full_like(log_weight, 1 / particles) if spec.startswith("stl") else log_weight.detach().softmax(0)
    (slope,) = torch.autograd.grad(log_weight.sum(), copied, retain_graph=True)
    factor = share if spec.startswith("stl") else share**2
    surrogate = (share * log_weight).sum() + (factor[..., None, None] * slope * h).sum()
    expected = gradients(-surrogate / batch.size, model, guide)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-7, atol=1e-10, msg=lambda m, k=key: k + m)


@pytest.mark.parametrize("name", ["tril", "shared", "prior", "look-ahead"])
def test_stl_agrees_with_the_elbo_in_expectation(name: str) -> None:
    model, guide = state_space(guide=name)
    batch = word_batch([[3, 4, 5]] * 300)
    torch.manual_seed(0)
    runs = {
        s: [gradients(build(s)(model, guide, batch).loss, model, guide) for _ in range(12)] for s in ("elbo", "stl")
    }
    for key in runs["elbo"][0]:
        a, b = (torch.stack([run[key] for run in runs[s]]) for s in ("elbo", "stl"))
        error = ((a.var(0) + b.var(0)) / 12).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 6 * error + 1e-12).all(), key


def agree(a: Tensor, b: Tensor) -> bool:
    error = ((a.var() + b.var()) / len(a)).sqrt()
    return bool((a.mean() - b.mean()).abs() < 5 * error)


ALIKE = {
    "stl": ("stl", "elbo", {}),
    "stl with β": ("stl:2", "elbo:2", {"beta": {"z": 0.3}}),
    "dreg": ("dreg:8", "iwae:8", {}),
    "dreg of one particle": ("dreg:1", "elbo", {}),
    "dreg with β": ("dreg:4", "iwae:4", {"beta": 0.4}),
    "dreg with β by site": ("dreg:4", "iwae:4", {"beta": {"u": 3.0}}),
}


@pytest.mark.parametrize(("spec", "plain", "options"), ALIKE.values(), ids=ALIKE)
def test_gradients_agree_with_the_plain_ones_in_expectation(spec: str, plain: str, options: dict) -> None:
    ours, theirs = by_row(spec, OTHER, 40_000, **options), by_row(plain, OTHER, 40_000, seed=1, **options)
    for name in GUIDE:
        assert agree(ours[name], theirs[name]), name
        error = float((ours[name].var() + theirs[name].var()).sqrt()) / 200
        assert 5 * error < 0.2 * max(1.0, float(theirs[name].mean().abs()))
    assert agree(ours["mean"], theirs["mean"])


def test_the_models_gradient_is_that_of_iwae_on_the_same_draws() -> None:
    torch.testing.assert_close(by_row("dreg:5", OTHER, 50)["mean"], by_row("iwae:5", OTHER, 50)["mean"])
    model, guide = state_space()
    found = {}
    for spec in ("dreg:5", "iwae:5"):
        torch.manual_seed(3)
        found[spec] = gradients(build(spec)(model, guide, word_batch()).loss, model, guide)
    shared = {"0.initial"}
    for name in (n for n in found["iwae:5"] if n.startswith("0.") and n not in shared):
        torch.testing.assert_close(found["dreg:5"][name], found["iwae:5"][name])
    assert not torch.allclose(found["dreg:5"]["0.initial"], found["iwae:5"]["0.initial"])


def test_the_signal_of_iwae_drowns_as_k_grows_and_that_of_dreg_rises() -> None:
    """As 1/√K and √K, by theory: each step of 4 halves the one and doubles the other."""

    def gradient(spec: str) -> Tensor:
        return by_row(spec, NEAR, 10_000)["loc"]

    plain, double = ([gradient(f"{name}:{k}") for k in (4, 16, 64)] for name in ("iwae", "dreg"))
    for before, after in pairwise([float(g.mean() / g.std()) for g in plain]):
        assert 0.25 * before < after < 0.7 * before
    for before, after in pairwise([float(g.mean() / g.std()) for g in double]):
        assert 1.7 * before < after < 2.3 * before
    assert float(double[-1].var()) < 1e-3 * float(plain[-1].var())


@pytest.mark.parametrize(("spec", "plain"), [("stl", "elbo"), ("stl:3", "elbo:3"), ("dreg:3", "iwae:3")])
@pytest.mark.parametrize("name", STATE_SPACE_GUIDES)
def test_values_are_those_of_the_plain_bound(name: str, spec: str, plain: str) -> None:
    model, guide = state_space(guide=name)
    estimates = []
    for s in (spec, plain):
        torch.manual_seed(5)
        estimates.append(build(s)(model, guide, word_batch(weights=[1.0, 2.0, 0.0, 1.0])))
    for field, value in estimates[0]._asdict().items():
        torch.testing.assert_close(value, getattr(estimates[1], field))


class Dropping(nn.Module):
    """q(z) and q(u | z) behind networks that drop units: before the first site and between the two."""

    def __init__(self, kind: str, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(1, 8)
        self.out, self.out_u = nn.Linear(8, 1), nn.Linear(8, 1)
        drop = {"dropout": nn.Dropout(0.5), "alpha": nn.AlphaDropout(0.5), "none": nn.Identity()}
        self.drop = drop.get(kind, nn.Identity())
        self.reader = nn.GRU(4, 4, num_layers=2, dropout=0.5) if kind == "recurrent" else nn.Linear(4, 4)
        self.rows = rows
        self.double()

    def forward(self, batch: Batch) -> None:
        inputs = torch.ones(1, self.rows, 4).double()
        read = self.reader(inputs)
        features = (read[0] if isinstance(read, tuple) else read)[0]
        with pyro.plate("sentences", self.rows, dim=-1):
            z = pyro.sample("z", dist.Normal(self.out(self.drop(self.first(features))).squeeze(-1), 0.8))
            between = self.out_u(self.drop(self.second(z.unsqueeze(-1)))).squeeze(-1)
            pyro.sample("u", dist.Normal(between, 1.1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("spec", "plain"), [("stl", "elbo"), ("stl:3", "elbo:3"), ("dreg:3", "iwae:3")])
@pytest.mark.parametrize("kind", ["dropout", "alpha", "recurrent", "none"])
def test_a_guide_that_drops_units_is_scored_with_the_same_units_dropped(
    kind: str, spec: str, plain: str, training: bool
) -> None:
    model, _ = chained(OTHER, 6)
    guide = Dropping(kind, 6).train(training)
    bounds, left = [], []
    for s in (spec, plain):
        torch.manual_seed(5)
        bounds.append(build(s)(model, guide, plain_batch(6)).bound)
        left.append(torch.rand(2))
    torch.testing.assert_close(*bounds)
    assert torch.equal(*left)
    if kind != "none" and training:
        torch.manual_seed(5)
        other = build(plain)(model, guide.eval(), plain_batch(6)).bound
        assert not torch.allclose(other, bounds[0])


def test_the_path_gradient_of_a_guide_that_drops_units_is_by_the_same_mask() -> None:
    """At a fixed mask the guide is an ordinary one: the path gradient with the mask written out."""
    model, _ = chained(OTHER, 6)
    guide = Dropping("dropout", 6)
    torch.manual_seed(5)
    found = gradients(build("stl")(model, guide, plain_batch(6)).loss, guide)
    torch.manual_seed(5)

    def run(q: nn.Module, values: tuple[Tensor, Tensor] | None, masks: list[Tensor]) -> tuple:
        first = masks[0] * q.first(q.reader(torch.ones(6, 4).double()))
        mean_z = q.out(first).squeeze(-1)
        z = mean_z + 0.8 * masks[1] if values is None else values[0]
        mean_u = q.out_u(masks[2] * q.second(z.unsqueeze(-1))).squeeze(-1)
        u = mean_u + 1.1 * masks[3] if values is None else values[1]
        return (z, u), Normal(mean_z, 0.8).log_prob(z) + Normal(mean_u, 1.1).log_prob(u)

    ones, zeros = torch.ones(6, 8).double(), torch.zeros(6).double()
    random = [nn.functional.dropout(ones, 0.5), torch.normal(zeros, zeros + 1)]
    random += [nn.functional.dropout(ones, 0.5), torch.normal(zeros, zeros + 1)]
    frozen = copy.deepcopy(guide).requires_grad_(False)
    values, _ = run(guide, None, random)
    _, density = run(frozen, values, random)
    expected = gradients(-(log_joint(*values) - density).mean(), guide)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_side_losses_of_the_guide_keep_their_gradient() -> None:
    model, guide = chained(OTHER, 6)
    inner = guide.run

    def run(batch: Batch, values: nn.ParameterDict) -> None:
        inner(batch, values)
        record_side_loss("pull", values["loc"] * 1e3)

    guide.run = run
    for spec in ("stl:3", "dreg:3"):
        torch.manual_seed(0)
        found = gradients(6 * build(spec)(model, guide, plain_batch(6)).loss, guide)["0.values.loc"]
        torch.testing.assert_close(found + by_row(spec, OTHER, 6)["loc"], torch.full((6,), 1e3).double())


def test_dreg_refuses_a_side_loss_of_the_model_that_runs_through_the_latents() -> None:
    model, guide = chained(OTHER, 3)
    plain = model.run

    def with_side_loss(batch: Batch, values: nn.ParameterDict) -> None:
        plain(batch, values)
        record_side_loss("pull", values["mean"] ** 2)

    model.run = with_side_loss
    with pytest.raises(UserError, match="dreg: the model's side loss 'pull' would reach the guide"):
        build("dreg:4")(model, guide, plain_batch(3))
    assert torch.isfinite(build("iwae:4")(model, guide, plain_batch(3)).loss)


def test_attention_that_drops_is_seen() -> None:
    assert _drops(nn.MultiheadAttention(4, 2, dropout=0.1))
    assert not _drops(nn.MultiheadAttention(4, 2))
    assert _drops(nn.LSTM(2, 2, num_layers=2, dropout=0.1))
    assert not _drops(nn.Linear(2, 2))
