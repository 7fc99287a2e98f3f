"""Guides of Transformers with latents: their equations, bounds against quadrature, padding, particles, sharing."""

import math

import pytest
import torch
from models.transformer_cases import GUIDES, MODELS, batch, guided, made
from pyro import poutine
from torch.distributions import Normal

from guides.layerwise_transformer import ExactGuide, IndependentGuide, LayerWiseGuide, PriorGuide
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.nn.handed import HandedOn
from ppl_text.objectives import build
from ppl_text.objectives.terms import trace_terms

ROUNDING = {"rtol": 1e-9, "atol": 1e-9}
"""Of float64 sums of some hundred products."""

models = pytest.mark.parametrize("name", MODELS)
guides = pytest.mark.parametrize("guide", GUIDES)
paired_or_not = pytest.mark.parametrize("paired", [False, True], ids=["texts", "pairs"])


def laws(guide, given, seed=0):
    """Distributions and draws of a guide's sites."""
    torch.manual_seed(seed)
    trace = poutine.trace(guide).get_trace(given)
    return {name: trace.nodes[name] for name in guide.model.sites}


def moments(site):
    base = site["fn"].base_dist
    return base.loc.detach(), base.scale.detach()


@models
@guides
@paired_or_not
def test_log_weights_are_those_of_the_two_programs(name, guide, paired):
    """Σ ln p - Σ ln q at the drawn latents, with particles and without: finite, and of the right shape."""
    model = made(name, paired=paired)
    q = guided(model, guide)
    if (name, guide) == ("flows", "prior"):  # to draw, Pyro inverts flows in float32
        model, q = model.float(), q.float()
    terms = trace_terms(model, q, batch(paired=paired), particles=4)
    assert terms.log_weights.shape == (4, 3)
    assert terms.log_weights.isfinite().all()
    assert list(terms.latents) == list(model.sites)
    if guide == "prior":
        for site in terms.latents.values():
            # Through a flow and back.
            rounding = {"rtol": 1e-3, "atol": 1e-3} if name == "flows" else ROUNDING
            torch.testing.assert_close(site.log_p, site.log_q, **rounding)


@guides
@paired_or_not
def test_padding_changes_nothing(guide, paired):
    model = made("value", paired=paired)
    q = guided(model, guide)
    narrow = laws(q, batch(paired=paired))
    wide = laws(q, batch(paired=paired, width=9, source_width=8))
    for site in model.sites:
        for found, wanted in zip(moments(wide[site]), moments(narrow[site]), strict=True):
            torch.testing.assert_close(found, wanted, **ROUNDING)


def test_the_published_pooling_depends_on_padding():
    """Specification 2G5: with padding in the mean, a text's posterior depends on the longest text beside it."""
    model = made("value", pooling="attention-unmasked")
    q = guided(model)
    narrow, wide = (moments(laws(q, given)["z_1"])[0] for given in (batch(), batch(width=9)))
    assert (narrow - wide).abs().max() > 1e-6


@pytest.mark.parametrize("pooling", ["attention", "first"])
def test_the_layer_wise_guide_is_its_equations(pooling):
    """x_l pooled of the blocks' states, r_l by the prior's chain, [μ; ln σ²] = W [r_l; x_l] + b, from z to z."""
    model, given = made("value"), batch(rows=slice(1))
    q = guided(model, pooling=pooling)
    sites = laws(q, given)
    bos = torch.ones(1, 1, dtype=torch.long)
    tokens = torch.cat([bos, given.tokens], 1)
    states = model.backbone.read(model.backbone.embedding(tokens), torch.ones(tokens.shape, dtype=torch.bool))
    r = torch.zeros(1, 3, dtype=torch.float64)
    for place, name in enumerate(model.sites):
        x = states[place][:, 0]
        if pooling == "attention":
            scores = torch.nn.functional.gelu(states[place] @ q.pooling[place].score.weight[0])
            # Weights are float32, as everywhere a softmax is.
            x = (scores.float().softmax(-1).double().unsqueeze(-1) * states[place]).sum(1)
        inputs = x
        if place:
            before = sites[model.sites[place - 1]]["value"]
            r = model.chain.history(place, r if place > 1 else None, before)
            inputs = torch.cat([r, x], -1)
        wanted = inputs @ q.recognition[place].weight.T + q.recognition[place].bias
        mean, scale = moments(sites[name])
        torch.testing.assert_close(mean, wanted[:, :3].detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(scale, (wanted[:, 3:] / 2).exp().detach(), rtol=1e-6, atol=1e-6)


def test_what_each_guide_looks_at():
    """layer-wise: the latents before; independent: its own layer's states; single: the last layer's."""
    model, given = made("value"), batch()
    for name, depends in (("layer-wise", True), ("independent", False), ("single", False)):
        q = guided(model, name)
        first, second = laws(q, given, seed=1)["z_2"], laws(q, given, seed=2)["z_2"]
        assert (not torch.equal(moments(first)[0], moments(second)[0])) == depends, name
    states, _ = model.read(given)
    single, independent = guided(model, "single"), guided(model, "independent")
    assert all(part is states[-1] for part in single.spread(states))
    assert independent.spread(states) == states


def test_a_chain_of_its_own_where_the_prior_has_none():
    model = made("separate")
    q = guided(model, "layer-wise")
    assert not model.chain.chained
    assert q.chain is q.own_chain
    assert guided(made("value"), "layer-wise").own_chain is None
    first, second = laws(q, batch(), seed=1)["z_3"], laws(q, batch(), seed=2)["z_3"]
    assert not torch.equal(moments(first)[0], moments(second)[0])


def joint_by_quadrature(model, given, points=81, reach=8.0):
    """ln p(w) of each text by a grid over one or two scalar latents; the integrand is smooth and falls to nothing."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * len(model.sites)).reshape(-1, len(model.sites))
    rows = given.size
    z = {name: grid[:, i, None, None].expand(-1, rows, 1) for i, name in enumerate(model.sites)}
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(model, data=z)).get_trace(given)
        total = sum(trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in (*model.sites, "tokens"))
    return total.logsumexp(0) + len(model.sites) * math.log(2 * reach / (points - 1))


@pytest.mark.parametrize(
    ("name", "guide"), [("value", "layer-wise"), ("residual", "independent"), ("memory", "single")]
)
@paired_or_not
def test_bounds_lie_below_the_likelihood_and_reach_it(name, guide, paired):
    """ELBO ≤ IWAE ≤ ln p(w), the latter by quadrature, which many particles reach within five standard errors."""
    model = made(name, paired=paired, latent_dim=1, layers=2)
    given, q = batch(paired=paired), guided(model, guide)
    exact = joint_by_quadrature(model, given)
    torch.manual_seed(0)
    with torch.no_grad():
        weights = torch.cat([trace_terms(model, q, given, particles=500).log_weights for _ in range(8)])
    share = (weights - exact).exp()
    error = share.std(0) / math.sqrt(len(share))
    assert ((share.mean(0) - 1).abs() < 5 * error + 1e-6).all()
    assert (weights.mean(0) < exact).all()


@guides
def test_closed_form_and_monte_carlo_agree(guide):
    """KL given the latents drawn before, in closed form, against ln q - ln p, over 4,000 particles."""
    model, given = made("value"), batch()
    q = guided(model, guide)
    torch.manual_seed(0)
    with torch.no_grad():
        sampled = trace_terms(model, q, given, particles=4000)
        closed = build("elbo-analytic:4000")(model, q, given)
    draws = sum(site.log_q - site.log_p for site in sampled.latents.values())
    error = 5 * draws.std(0) / math.sqrt(4000) + 1e-9
    assert ((closed.kl - draws.mean(0)).abs() < 2 * error).all()


def test_batch_normalised_means_hold_the_kl_up():
    """Mean KL(q(z_1) ‖ N(0, I)) ≥ D γ²/2 over the rows of a training batch, whatever the weights."""
    model, given = made("separate"), batch()
    for name in ("layer-wise", "independent", "single"):
        q = guided(model, name, gamma=1.5).train()
        with torch.no_grad():
            for norm in q.norms:
                norm.bias.zero_()
        for site in laws(q, given).values():
            mean, _ = moments(site)
            torch.testing.assert_close(mean.square().mean(0), torch.full((3,), 1.5**2, dtype=torch.float64))


def test_clamped_parameters():
    model = made("value", clamp=0.01)
    for site in laws(guided(model), batch()).values():
        mean, scale = moments(site)
        assert mean.abs().max() <= 0.01
        assert (2 * scale.log()).abs().max() <= 0.01 + 1e-12


def test_the_encoder_is_the_models_own_or_another():
    model = made("value")
    shared, own = LayerWiseGuide(model), LayerWiseGuide(model, encoder="own")
    of_model = {id(p) for p in model.parameters()}
    assert not {id(p) for p in shared.parameters()} & of_model
    assert not {id(p) for p in own.parameters()} & of_model
    size = sum(p.numel() for p in model.backbone.parameters())
    assert sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in shared.parameters()) == size
    given = batch()
    before = moments(laws(shared.double().eval(), given)["z_1"])[0]
    with torch.no_grad():
        model.backbone.blocks[0].ln_1.weight.mul_(1.7)
    assert (moments(laws(shared, given)["z_1"])[0] - before).abs().max() > 1e-9
    assert own.double().eval() is own


def test_the_text_is_read_once_for_all_particles(monkeypatch):
    calls = []
    model = made("value", paired=True)
    whole = model.backbone.read

    def counting(embedded, counted):
        calls.append(len(embedded))
        return whole(embedded, counted)

    monkeypatch.setattr(model.backbone, "read", counting)
    trace_terms(model, guided(model), batch(paired=True), particles=7)
    assert calls == [3, 3], "the text and the source, three rows each"
    assert isinstance(model.conditions, HandedOn)


def test_gradients_reach_everything():
    """Each parameter of model and guide, one latent per layer, text and source."""
    model = made("value", paired=True, prior1="learned", head="untied").train()
    q = guided(model, gamma=None).train()
    build("elbo")(model, q, batch(paired=True)).loss.backward()
    missing = [n for program in (model, q) for n, p in program.named_parameters() if p.grad is None]
    # r_0 = z_0 = 0: of the maps that the public code has for the first latent only the biases matter.
    assert missing == ["chain.of_history.0.weight", "chain.of_latent.0.weight"]


def test_swapped_programs_need_the_same_sites():
    one, several = made("memory"), made("value")
    assert [s.name for s in one.latents] == ["z"]
    assert [s.name for s in several.latents] == ["z_1", "z_2", "z_3"]
    assert [s.name for s in made("value", first_layer=2).latents] == ["z_2", "z_3"]


def test_what_they_cannot_be():
    model, plain = made("value"), made("none")
    with pytest.raises(UnknownNameError, match="unknown encoder 'other'"):
        LayerWiseGuide(model, encoder="other")
    with pytest.raises(UserError, match="gamma must be above 0"):
        IndependentGuide(model, gamma=0.0)
    with pytest.raises(UserError, match="the guide of that model is 'exact'"):
        PriorGuide(plain)
    with pytest.raises(UserError, match="this one has z_1, z_2, z_3, for which there are layer-wise"):
        ExactGuide(model)
    terms = trace_terms(plain, ExactGuide(plain), batch())
    assert not terms.latents
    assert Normal(0.0, 1.0).log_prob(terms.log_weights).isfinite().all()
