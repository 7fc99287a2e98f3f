"""Every guide of the sentence VAE: sites, padding, particles, parameters, densities and divergences."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import infer
from sentence_cases import DENSE, GAUSSIAN, IDS, NAMES, READING, D, guide_of, guides, log_q, model_of, sentences
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from guides.sentence_vae import ExactGuide
from ppl_text.core.errors import UserError
from ppl_text.core.protocols import Guide
from ppl_text.core.registry import read_source
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.sentence_vae import SentenceVAE
from ppl_text.objectives import build
from ppl_text.objectives.sites import check_sites

every_guide = pytest.mark.parametrize("name", NAMES)
every_reading_guide = pytest.mark.parametrize("name", READING)
every_density = pytest.mark.parametrize("name", DENSE)


@every_guide
def test_sites_match_the_model(name: str) -> None:
    model = model_of()
    guide = guide_of(name, model)
    assert isinstance(guide, Guide)
    assert guide.family == model.family
    table = check_sites(model, guide, sentences(IDS, 5))
    assert table.count("event (3,) real in plate 'sentences' at -1 of size 4") == 2


def parameters_of_q(guide: torch.nn.Module, batch: object, z: Tensor) -> Tensor:
    """What is to be compared between batches: ln q(z | w), or the point."""
    posterior = guide.posterior(batch)
    return posterior.value if type(posterior).__name__ == "PointMass" else posterior.log_prob(z).unsqueeze(-1)


@every_guide
@pytest.mark.parametrize("training", [True, False])
def test_padding_and_filler_change_neither_values_nor_gradients(name: str, training: bool) -> None:
    model = model_of()
    guide = guide_of(name, model).train(training)
    z = torch.randn(7, D, dtype=torch.float64)
    wide = parameters_of_q(guide, sentences(IDS, 9, rows=7), z)[: len(IDS)]
    narrow = parameters_of_q(guide, sentences(IDS, 4), z[: len(IDS)])
    torch.testing.assert_close(wide, narrow)
    if name == "prior":
        return
    pairs = (torch.autograd.grad(v.square().sum(), list(guide.parameters()), allow_unused=True) for v in (wide, narrow))
    for a, b in zip(*pairs, strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@every_guide
def test_each_row_is_read_by_itself_in_evaluation(name: str) -> None:
    guide = guide_of(name, model_of())
    if name == "batch-norm":
        guide.posterior(sentences([[3], [5, 5]], 5))  # running means of their own
    guide.eval()
    z = torch.randn(4, D, dtype=torch.float64)
    whole = parameters_of_q(guide, sentences(IDS, 5), z)
    for b, ids in enumerate(IDS):
        alone = parameters_of_q(guide, sentences([ids], len(ids) + 1), z[b : b + 1])
        torch.testing.assert_close(alone, whole[b : b + 1])


@every_reading_guide
def test_every_token_and_the_end_are_read_and_word_dropout_is_not(name: str) -> None:
    guide, z = guide_of(name, model_of()).eval(), torch.zeros(1, D, dtype=torch.float64)

    def values(ids: list[int]) -> Tensor:
        return parameters_of_q(guide, sentences([ids], 5), z)

    word = [3, 4, 5]
    for changed in range(3):
        other = [w if i != changed else 3 + (w - 2) % 3 for i, w in enumerate(word)]
        assert float((values(other) - values(word)).detach().abs().max()) > 1e-9
    assert float((values([3, 4]) - values(word)).detach().abs().max()) > 1e-9
    batch = sentences([word], 5)
    batch.decoder_inputs.fill_(1)
    torch.testing.assert_close(parameters_of_q(guide, batch, z), values(word), rtol=0, atol=0)


@every_density
def test_particles_equal_the_loop_over_particles(name: str) -> None:
    guide, batch = guide_of(name, model_of()), sentences(IDS, 5)
    z = torch.randn(6, 4, D, dtype=torch.float64)
    with pyro.plate("particles", 6, dim=-2):
        found = log_q(guide, batch, z)
        drawn = guide(batch)
    torch.testing.assert_close(found, torch.stack([log_q(guide, batch, one) for one in z]))
    assert drawn.shape == (6, 4, D)
    assert not torch.allclose(drawn[0], drawn[1])


@every_reading_guide
def test_the_sentences_are_read_once_however_many_particles_there_are(name: str) -> None:
    guide, calls = guide_of(name, model := model_of()), []
    guide.reader.register_forward_hook(lambda module, inputs, output: calls.append(output.shape[:-1]))
    build("elbo:7")(model, guide, sentences(IDS, 5))
    assert calls == [(4, 6)]


@every_guide
def test_parameters_are_counted_once(name: str) -> None:
    guide = guide_of(name, model := model_of())
    of_model = {id(p) for p in model.parameters()}
    assert not [n for n, p in guide.named_parameters() if id(p) in of_model]
    assert not any(key.startswith(("_model", "model")) for key in guide.state_dict())
    assert (not list(guide.parameters())) is (name == "prior")
    assert guide.model is model
    assert len(pyro.get_param_store()) == 0


@every_guide
def test_every_parameter_is_trained_and_stored(name: str) -> None:
    model, batch = model_of(), sentences(IDS, 5)
    guide = guide_of(name, model)
    draw = guide.posterior(batch).rsample()
    if name != "prior":
        loss = (draw * torch.linspace(-1.0, 2.0, 12).view(4, 3)).square().sum()
        loss = loss if name == "point" else loss + guide.posterior(batch).log_prob(draw.detach()).sum()
        loss.backward()
    # Tokens that do not occur, and entries that a flow masks out, get none.
    assert {n for n, p in guide.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 0} == set()
    options = {"flow_hidden": [6]} if name == "iaf" else {}
    other = type(guide)(model, **options).double()
    other.load_state_dict(guide.state_dict())
    z = torch.randn(4, D, dtype=torch.float64)
    for g in (guide, other):
        g.eval()
    torch.testing.assert_close(parameters_of_q(other, batch, z), parameters_of_q(guide, batch, z))


def test_parameters_start_as_the_models_do() -> None:
    for init, reach in (("uniform", 0.01), ("wide", 0.1)):
        model = SentenceVAE(Vocabulary(40), latent_dim=4, embedding_dim=8, hidden_dim=8, init=init)
        for name in READING:
            guide = guides().load(name)(model, **({"flow_hidden": [8]} if name == "iaf" else {}))
            for path, parameter in guide.named_parameters():
                limit = 0.1 if "embedding" in path else reach
                largest = float(parameter.detach().abs().max())
                assert largest <= limit
                assert largest > limit / 2 or path == "norm.bias" or parameter.numel() < 8, path


def test_options_of_the_reader() -> None:
    guide = guide_of("gaussian", model_of(), embedding_dim=7, hidden_dim=9)
    assert guide.reader.embedding.embedding_dim == 7
    assert guide.projection.weight.shape == (2 * D, 9)
    assert guide.projection.bias is None


@pytest.mark.parametrize("name", GAUSSIAN)
def test_divergence_is_torchs_closed_form_and_what_draws_say(name: str) -> None:
    model, batch = model_of(), sentences(IDS, 5)
    guide = guide_of(name, model).eval()
    base = guide.posterior(batch).base_dist
    expected = kl_divergence(Normal(base.loc, base.scale), Normal(0.0, 1.0)).sum(-1)
    closed = build("elbo-analytic")(model, guide, batch).kl
    torch.testing.assert_close(closed, expected.detach())
    torch.manual_seed(3)
    with torch.no_grad():
        z = guide.posterior(batch).expand((20_000, 4)).sample()
        draws = guide.posterior(batch).log_prob(z) - model.prior(4).log_prob(z)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - closed).abs() < 5 * error).all()
    assert (closed > 5 * error).all()


@pytest.mark.parametrize("name", ["gaussian", "pooled"])
def test_gaussian_has_the_moments_of_the_equations(name: str) -> None:
    guide, batch = guide_of(name, model_of()), sentences(IDS, 5)
    states = guide.reader(batch.tokens)
    for b, length in enumerate(batch.lengths):
        if name == "gaussian":
            summary = states[b, length]
        else:
            own = states[b, : length + 1]
            shares = guide.pooling.score(guide.pooling.hidden(own).tanh()).softmax(0)
            summary = (shares * own).sum(0)
        mean, log_variance = (guide.projection.weight @ summary).split(D)
        base = guide.posterior(batch).base_dist
        torch.testing.assert_close(base.loc[b], mean)
        torch.testing.assert_close(base.scale[b].square().log(), log_variance)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
@pytest.mark.parametrize("shake", [False, True])
def test_batch_norm_holds_the_mean_divergence_above_its_floor(gamma: float, shake: bool) -> None:
    """From the very start, where the network's means differ by 1e-4, and with any parameters."""
    torch.manual_seed(0)
    model = SentenceVAE(Vocabulary(6), latent_dim=D, embedding_dim=16, hidden_dim=16).double()
    guide = guide_of("batch-norm", model, scale=0.4 if shake else 0.0, gamma=gamma)
    if shake:
        torch.nn.init.zeros_(guide.norm.bias)
    batch = sentences(IDS, 5, rows=9)
    estimate = build("elbo-analytic")(model, guide, batch)
    mean_kl = float(estimate.kl[batch.weights > 0].mean())
    assert mean_kl >= D * gamma**2 / 2 - 1e-6
    if not shake:
        assert mean_kl == pytest.approx(D * gamma**2 / 2, rel=1e-3)


def test_flow_density_is_that_of_the_change_of_variables() -> None:
    """ln q(z) = ln N(u; μ, σ²) - ln |det ∂z/∂u|, the determinant by autograd."""
    guide, batch = guide_of("iaf", model_of()), sentences([[3, 4, 5]], 4)
    posterior = guide.posterior(batch)
    u = torch.randn(1, D, dtype=torch.float64)

    def push(noise: Tensor) -> Tensor:
        for flow in guide.posterior(batch).transforms:
            noise = flow(noise)
        return noise

    jacobian = torch.autograd.functional.jacobian(push, u)[0, :, 0]
    expected = posterior.base_dist.log_prob(u) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(guide.posterior(batch).log_prob(push(u)), expected)
    assert float(jacobian.abs().min()) > 1e-6  # every entry depends on every other: two orders


@pytest.mark.parametrize("flows", [1, 2, 3])
def test_flow_scores_its_own_draws_as_it_would_any_value(flows: int) -> None:
    guide, batch = guide_of("iaf", model_of(), flows=flows), sentences(IDS, 5)
    posterior = guide.posterior(batch).expand((5, 4))
    z = posterior.rsample()
    torch.testing.assert_close(posterior.log_prob(z), guide.posterior(batch).log_prob(z.clone()))
    leaves = list(guide.parameters())
    direct = torch.autograd.grad(posterior.log_prob(z).sum(), leaves, retain_graph=True)
    # By draws: E_q ∇ ln q(z(u)) along the path equals what inverting the flow at the same path gives.
    inverted = torch.autograd.grad(guide.posterior(batch).log_prob(1.0 * z).sum(), leaves)
    for a, b in zip(direct, inverted, strict=True):
        torch.testing.assert_close(a, b)


def test_flow_density_integrates_to_one() -> None:
    """By importance sampling from a wide Gaussian."""
    model = model_of(latent_dim=2)
    guide, batch = guide_of("iaf", model), sentences([[3, 4]], 4)
    torch.manual_seed(4)
    with torch.no_grad():
        wide = Normal(torch.zeros(1, 2).double(), 4.0).expand((40_000, 1, 2))
        z = wide.sample()
        ratio = (guide.posterior(batch).log_prob(z) - wide.log_prob(z).sum(-1)).exp()
    assert float(ratio.mean()) == pytest.approx(1.0, abs=5 * float(ratio.std()) / 200)


def test_a_point_has_no_finite_bound_and_a_gradient_through_its_reconstruction() -> None:
    model, batch = model_of(), sentences(IDS, 5)
    guide = guide_of("point", model)
    for spec in ("elbo", "elbo:2", "elbo-analytic", "iwae:3", "free-bits:1"):
        estimate = build(spec)(model, guide, batch)
        assert estimate.bound.tolist() == [-math.inf] * 4, spec
        assert estimate.kl.tolist() == [math.inf] * 4
        assert estimate.log_likelihood.isfinite().all()
    model.likelihood(guide(batch), batch).log_prob(batch.tokens).sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in guide.parameters())
    with pytest.raises(UserError, match="free bits by dimension"):
        build("free-bits:1:dimension")(model, guide, batch)


@pytest.mark.parametrize("spec", ["elbo", "elbo-analytic", "iwae:3"])
def test_the_prior_guide_has_no_divergence(spec: str) -> None:
    model = model_of()
    estimate = build(spec)(model, guide_of("prior", model), sentences(IDS, 5))
    assert estimate.kl.tolist() == [0.0] * 4


@pytest.mark.parametrize("name", GAUSSIAN)
def test_free_bits_by_dimension_know_the_entries(name: str) -> None:
    model, batch = model_of(), sentences(IDS, 5)
    guide = guide_of(name, model).eval()
    base = guide.posterior(batch).base_dist
    kl = kl_divergence(Normal(base.loc, base.scale), Normal(0.0, 1.0))
    below, above = kl.detach().flatten().sort().values[kl.numel() // 2 - 1 :][:2]
    free = float(below + above) / 2 * D  # between two entries: at one of them rounding would decide
    torch.manual_seed(5)
    estimate = build(f"free-bits:{free}:dimension")(model, guide, batch)
    charged = (kl * (kl > free / D)).sum(-1)
    assert 0 < int((kl > free / D).sum()) < kl.numel()
    torch.testing.assert_close(estimate.loss, (charged - estimate.log_likelihood).mean().detach(), check_dtype=False)


@every_density
def test_bound_and_gradient_equal_stock_pyros(name: str) -> None:
    model, batch = model_of(), sentences(IDS, 5)
    guide = guide_of(name, model).eval()
    leaves = [p for module in (model, guide) for p in module.parameters()]

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]

    torch.manual_seed(6)
    estimate = build("elbo")(model, guide, batch)
    torch.manual_seed(6)
    stock = infer.Trace_ELBO().differentiable_loss(model, guide, batch) / 4
    torch.testing.assert_close(estimate.loss, stock)
    torch.testing.assert_close(-estimate.bound.mean(), stock.detach())
    for a, b in zip(gradients(estimate.loss), gradients(stock), strict=True):
        torch.testing.assert_close(a, b)


@every_density
def test_importance_weighted_bounds_rise_to_the_likelihood(name: str) -> None:
    """ln p(w) by a quadrature over z on a grid."""
    model, batch = model_of(latent_dim=2), sentences(IDS, 5)
    guide = guide_of(name, model, scale=0.1).eval()
    axis = torch.linspace(-6.0, 6.0, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        z = grid.unsqueeze(1).expand(-1, 4, -1)
        joint = model.likelihood(z, batch).log_prob(batch.tokens) + model.prior(4).log_prob(z)
        exact = joint.logsumexp(0) + 2 * math.log(float(axis[1] - axis[0]))
        torch.manual_seed(7)
        rough, fine = (build(f"iwae:{k}")(model, guide, batch).bound for k in (1, 4000))
    torch.testing.assert_close(fine, exact, atol=0.05, rtol=0)
    assert float((exact - rough).mean()) > -0.5


REFUSED = {
    "narrow flow": ("iaf", {"flow_hidden": [2]}, {}, r"latent_dim=3, flows=2, flow_hidden=\[2\]"),
    "no flow": ("iaf", {"flows": 0}, {}, "flows >= 1"),
    "one entry": ("iaf", {}, {"latent_dim": 1}, "latent_dim >= 2"),
    "no scale": ("batch-norm", {"gamma": 0.0}, {}, "gamma must be above 0"),
    "nothing latent": ("gaussian", {}, {"latent_dim": 0}, "its guide is 'exact'"),
    "exact": ("exact", {}, {}, "guides gaussian, pooled"),
}


@pytest.mark.parametrize(("name", "options", "of_model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(name: str, options: dict, of_model: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        guides().load(name)(model_of(**of_model), **options)


@pytest.mark.parametrize("spec", ["elbo", "iwae:3", "free-bits:1", "pyro:Trace_ELBO"])
def test_exact_guide_makes_every_bound_the_likelihood(spec: str) -> None:
    model, batch = model_of(latent_dim=0), sentences(IDS, 5)
    exact = model.likelihood(None, batch).log_prob(batch.tokens)
    estimate = build(spec)(model, ExactGuide(model), batch)
    torch.testing.assert_close(estimate.bound, exact.detach())
    assert check_sites(model, ExactGuide(model), batch).startswith("no latent site")
    assert ExactGuide.family == "sentence_vae"


USERS_FILE = '''
import torch
from torch import nn
from pyro.distributions import Normal

from guides.sentence_vae import SentenceGuide


class BagGuide(SentenceGuide):
    """q(z | w) = N(mean embedding, diag s²)."""

    def __init__(self, model, *, scale=0.5):
        super().__init__(model)
        self.embedding = nn.Embedding(model.vocab_size, model.latent_dim)
        self.log_scale = nn.Parameter(torch.full((model.latent_dim,), scale).log())

    def posterior(self, batch):
        scored = (torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)).unsqueeze(-1)
        total = torch.where(scored, self.embedding(batch.tokens), 0.0).sum(1)
        return Normal(total / batch.lengths.unsqueeze(-1), self.log_scale.exp()).to_event(1)
'''


def test_a_users_guide_written_by_the_recipe_works_from_its_file(tmp_path) -> None:
    path = tmp_path / "my_guide.py"
    path.write_text(USERS_FILE)
    model, batch = model_of(), sentences(IDS, 5)
    guide = read_source(str(path), "guide").load("BagGuide", "guide")(model, scale=0.3).double()
    assert "z" in check_sites(model, guide, batch)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    bounds = []
    for _ in range(20):
        torch.manual_seed(0)
        estimate = build("elbo-analytic:2")(model, guide, batch)
        optimizer.zero_grad()
        estimate.loss.backward()
        optimizer.step()
        bounds.append(float(estimate.bound.mean()))
    assert max(bounds) > bounds[0] + 0.05


def test_guides_are_listed_under_the_family_of_their_class() -> None:
    for name in (*NAMES, "exact"):
        kind = guides().load(name)
        assert kind.family == SentenceVAE.family
        assert kind.__doc__.startswith("q")
