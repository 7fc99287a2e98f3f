"""Every guide of the state-space model: sites, padding, particles, parameters, and what its density says."""

from __future__ import annotations

import pyro
import pytest
import torch
from guide_cases import NAMES, READING, ahead, guide_of, guides, log_q, model_of, particle_plate, posterior, words
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ppl_text.core.protocols import Guide
from ppl_text.core.registry import read_source
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.objectives import build
from ppl_text.objectives.sites import check_sites

every_guide = pytest.mark.parametrize("name", NAMES)
every_reading_guide = pytest.mark.parametrize("name", READING)
IDS = [[3, 4, 5], [], [5]]


def gradients(value: Tensor, *modules: torch.nn.Module) -> list[Tensor]:
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@every_guide
@pytest.mark.parametrize("transition", ["diag", "tril", "nvp"])
def test_sites_match_the_model(name: str, transition: str) -> None:
    model = model_of(transition)
    guide = guide_of(name, model)
    assert isinstance(guide, Guide)
    assert guide.family == model.family
    table = check_sites(model, guide, words(IDS, 5))
    assert table.splitlines()[1].split()[0] == "h"
    assert table.count("FlowChain event (5, 2) real in plate 'sentences' at -1 of size 3") == 2
    nodes = poutine.trace(guide).get_trace(words(IDS, 5)).nodes
    sampled = {n for n, s in nodes.items() if s["type"] == "sample" and not s["infer"].get("is_auxiliary")}
    assert sampled - {"sentences"} == {spec.name for spec in model.latents}


@every_guide
def test_padding_changes_neither_the_density_nor_its_gradient(name: str) -> None:
    model = model_of()
    guide = guide_of(name, model)
    states = torch.randn(3, 6, 2, dtype=torch.float64)
    wide, narrow = log_q(guide, words(IDS, 6), states), log_q(guide, words(IDS, 4), states[:, :4])
    torch.testing.assert_close(wide, narrow)
    for b, word in enumerate(IDS):
        n = len(word) + 1
        torch.testing.assert_close(wide[b : b + 1], log_q(guide, words([word], n), states[b : b + 1, :n]))
    both = [gradients(value.sum(), guide, model) for value in (wide, narrow)]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b)


@every_guide
def test_particles_equal_the_loop_over_particles(name: str) -> None:
    model, batch = model_of(), words(IDS, 5)
    guide = guide_of(name, model)
    states = torch.randn(4, 3, 5, 2, dtype=torch.float64)
    with particle_plate(4):
        found = log_q(guide, batch, states)
        drawn = poutine.trace(guide).get_trace(batch).nodes["h"]["value"]
    torch.testing.assert_close(found, torch.stack([log_q(guide, batch, h) for h in states]))
    assert drawn.shape == (4, 3, 5, 2)
    assert not torch.allclose(drawn[0], drawn[1])


@every_guide
def test_the_words_are_read_once_however_many_particles_there_are(name: str) -> None:
    guide, calls = guide_of(name, model := model_of()), []
    if guide.reader is None:
        assert name == "prior"
        return
    guide.reader.register_forward_hook(lambda module, inputs, output: calls.append(output.shape[:-1]))
    build("iwae:7")(model, guide, words(IDS, 5))
    assert calls == [(3, 5)]


@every_guide
def test_parameters_are_counted_once(name: str) -> None:
    model = model_of()
    guide = guide_of(name, model)
    of_model = {id(p) for p in model.parameters()}
    assert not [n for n, p in guide.named_parameters() if id(p) in of_model]
    assert not any(key.startswith(("_model", "model")) for key in guide.state_dict())
    assert (not list(guide.parameters())) is (name == "prior")
    assert guide.model is model
    assert len(pyro.get_param_store()) == 0


@every_reading_guide
def test_every_parameter_of_the_guide_is_trained(name: str) -> None:
    model = model_of()
    guide = guide_of(name, model)
    build("elbo:2")(model, guide, words(IDS, 5)).loss.backward()
    untouched = {n for n, p in guide.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 0}
    assert untouched == set()


@every_guide
def test_moving_the_guide_to_another_dtype_or_loading_its_state_keeps_its_density(name: str) -> None:
    model, batch = model_of(), words(IDS, 5)
    guide, states = guide_of(name, model), torch.randn(3, 5, 2, dtype=torch.float64)
    other = type(guide)(model, **({} if name == "prior" else {"embedding_dim": 3, "gru_dim": 4, "hidden": (5,)}))
    other.double().load_state_dict(guide.state_dict())
    torch.testing.assert_close(log_q(other, batch, states), log_q(guide, batch, states))


# The words that c_t, and so q(h_t | h_{t-1}, w), may depend on.
SEES = {
    "diagonal": lambda t, changed: changed >= t,
    "tril": lambda t, changed: changed >= t,
    "shared": lambda t, changed: changed >= t,
    "bidirectional": lambda t, changed: True,
    "mean-field": lambda t, changed: True,
    "look-ahead": lambda t, changed: changed >= t,
    "prior": lambda t, changed: False,
}


@every_guide
def test_a_step_depends_on_exactly_the_tokens_that_its_density_names(name: str) -> None:
    guide = guide_of(name, model_of())
    states = torch.randn(1, 4, 2, dtype=torch.float64)

    def by_step(ids: list[int]) -> Tensor:
        """ln q(h_t | h_{t-1}, w) for each t, at fixed states."""
        noise, ladj = posterior(guide, words([ids], 4)).pull_back(states)
        return (-0.5 * noise.square().sum(-1) - ladj)[0]

    word = [3, 4, 5]
    reference = by_step(word)
    for changed in range(3):
        other = [w if i != changed else 3 + (w - 2) % 3 for i, w in enumerate(word)]
        moved = (by_step(other) - reference).abs()
        for t in range(4):
            assert bool(moved[t] > 1e-9) is SEES[name](t, changed), (t, changed)


@every_guide
def test_state_feedback_is_there_unless_the_density_says_otherwise(name: str) -> None:
    guide, batch = guide_of(name, model_of()), words([[3, 4, 5]], 4)
    states = torch.randn(1, 4, 2, dtype=torch.float64)
    moved = states.clone()
    moved[0, 0] += 1.0
    a, b = (posterior(guide, batch).params_along(h)[0] for h in (states, moved))
    assert bool((a[1] - b[1]).abs().max() > 1e-9) is (name != "mean-field")
    torch.testing.assert_close(a[2], b[2], rtol=0, atol=0)


GAUSSIAN = {"diagonal": True, "bidirectional": True, "mean-field": True, "tril": False}


@pytest.mark.parametrize(("name", "diagonal"), GAUSSIAN.items(), ids=GAUSSIAN)
def test_each_step_is_the_gaussian_of_the_density(name: str, diagonal: bool) -> None:
    """Mean and covariance by pushing the origin and the unit vectors through each step."""
    guide, batch = guide_of(name, model_of()), words([[3, 4, 5]], 4)
    states = torch.randn(1, 4, 2, dtype=torch.float64)
    flow = guide.kernel.family(guide.posterior(batch).params_along(states))
    mean = flow(torch.zeros(2, dtype=torch.float64))
    columns = torch.stack([flow(e) - mean for e in torch.eye(2, dtype=torch.float64)], dim=-1)
    gaussian = MultivariateNormal(mean, columns @ columns.mT)
    torch.testing.assert_close(log_q(guide, batch, states), gaussian.log_prob(states).sum(-1))
    off = float(columns[..., 1, 0].detach().abs().min())
    assert (off == 0.0) if diagonal else (off > 1e-3)


@pytest.mark.parametrize("spec", ["elbo", "elbo-analytic", "iwae:4"])
@pytest.mark.parametrize("transition", ["diag", "tril", "nvp"])
def test_the_prior_guide_has_no_divergence_from_the_prior(transition: str, spec: str) -> None:
    model = model_of(transition)
    torch.manual_seed(0)
    estimate = build(spec)(model, guide_of("prior", model), words(IDS, 5))
    torch.testing.assert_close(estimate.kl, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    if spec != "iwae:4":
        torch.testing.assert_close(estimate.bound, estimate.log_likelihood, rtol=0, atol=1e-9)


@pytest.mark.parametrize("transition", ["diag", "tril", "nvp"])
def test_the_shared_guide_differs_from_the_prior_by_its_noise_alone(transition: str) -> None:
    model, batch = model_of(transition), words(IDS, 5)
    guide = guide_of("shared", model)
    path = guide.posterior(batch).rsample()
    found = log_q(guide, batch, path) - model.prior(batch.lengths, 5).log_prob(path)
    contexts = guide.reader(batch.tokens, batch.lengths)
    for b, word in enumerate(IDS):
        before, expected = model.initial, torch.zeros((), dtype=torch.float64)
        for t in range(len(word) + 1):
            # ζ_t is what drives F_g; under q it is N(μ, diag σ²), under p it is N(0, I): no log-determinant.
            driving = model.transition.condition(before).inv(path[b, t])
            theta = guide.kernel.conditioner(before, guide.kernel.project(contexts[b, t]))
            loc, scale = theta[:2], torch.nn.functional.softplus(theta[2:] + guide.kernel.family.positive.shift) + 1e-3
            expected = expected + (Normal(loc, scale).log_prob(driving) - Normal(0.0, 1.0).log_prob(driving)).sum()
            before = path[b, t]
        torch.testing.assert_close(found[b], expected)


def test_the_shared_guide_trains_the_transition_through_the_path() -> None:
    model = model_of("tril")
    guide = guide_of("shared", model)
    torch.manual_seed(0)
    build("elbo")(model, guide, words(IDS, 5)).loss.backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.transition.parameters())


USERS_FILE = '''
from torch import nn

from guides.deep_state_space import ChainGuide
from ppl_text.distributions.transforms import conditional_flow


class Window(nn.Module):
    """c_t from w_t and w_{t+1}."""

    def __init__(self, vocab_size, width):
        super().__init__()
        self.output_dim = width
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        self.convolution = nn.Conv1d(width, width, 2, padding=1)

    def forward(self, tokens, lengths):
        return self.convolution(self.embedding(tokens).mT)[..., 1:].mT


class WindowGuide(ChainGuide):
    """q(h_t | h_{t-1}, w_t, w_{t+1}) = N(m, G Gᵀ)."""

    def __init__(self, model, *, width=4):
        super().__init__(model)
        self.reader = Window(model.vocab_size, width)
        self.kernel = conditional_flow("tril", model.state_dim, context_dim=self.reader.output_dim)


class BlindGuide(ChainGuide):
    """q(h_t | h_{t-1}): no reader."""

    def __init__(self, model):
        super().__init__(model)
        self.kernel = conditional_flow("diag", model.state_dim)
'''


@pytest.mark.parametrize(("kind", "options"), [("WindowGuide", {"width": 3}), ("BlindGuide", {})])
def test_a_users_guide_written_by_the_recipe_works_from_its_file(kind: str, options: dict, tmp_path) -> None:
    path = tmp_path / "my_guide.py"
    path.write_text(USERS_FILE)
    model, batch = model_of(), words(IDS, 5)
    guide = read_source(str(path), "guide").load(kind, "guide")(model, **options).double()
    assert "h" in check_sites(model, guide, batch)
    states = torch.randn(3, 6, 2, dtype=torch.float64)
    torch.testing.assert_close(log_q(guide, words(IDS, 6), states), log_q(guide, words(IDS, 4), states[:, :4]))
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
    for name in NAMES:
        kind = guides().load(name)
        assert kind.family == DeepStateSpace.family
        assert kind.__doc__.splitlines()[0].startswith("q(h_")


def stepped(guide: torch.nn.Module, batch, states: Tensor, *, keep_chain: bool = True) -> list[poutine.Trace]:
    """Traces of ``smc_init`` and of every ``smc_step`` with states (…, B, T, D) and auxiliary noise given."""
    noise = {"h_ahead": ahead(batch.steps)}
    first = poutine.trace(poutine.condition(guide.smc_init, data=noise)).get_trace({}, batch)
    chain, traces = first.nodes["_RETURN"]["value"], [first]
    before = guide.model.initial.expand(*states.shape[:-2], -1)
    for t in range(batch.steps):
        run = poutine.condition(guide.smc_step, data={**noise, f"h_{t + 1}": states[..., t, :]})
        traces.append(poutine.trace(run).get_trace({"h": before}, batch, t, *([chain] if keep_chain else [])))
        before = states[..., t, :]
    for trace in traces:
        trace.compute_log_prob()
    return traces


@pytest.mark.parametrize("keep_chain", [True, False])
@every_guide
def test_the_steps_of_a_guide_add_up_to_its_density(name: str, keep_chain: bool) -> None:
    model, batch = model_of(), words(IDS, 5)
    guide, states = guide_of(name, model), torch.randn(3, 5, 2, dtype=torch.float64)
    traces = stepped(guide, batch, states, keep_chain=keep_chain)
    for t, trace in enumerate(traces):
        own = {n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["infer"].get("is_auxiliary")}
        assert own - {"sentences"} == {f"h_{t}"}
        alive = (batch.lengths > t - 1) & (t > 0)
        assert torch.equal(trace.nodes[f"h_{t}"]["log_prob"] != 0, alive)
    total = sum(trace.nodes[f"h_{t}"]["log_prob"] for t, trace in enumerate(traces))
    whole = log_q(guide, batch, states)
    torch.testing.assert_close(total, whole)
    both = [gradients(value.sum(), guide, model) for value in (total, whole)]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b)


@every_guide
def test_the_steps_of_a_guide_run_on_particles(name: str) -> None:
    model, batch = model_of(), words(IDS, 5)
    guide, states = guide_of(name, model), torch.randn(4, 3, 5, 2, dtype=torch.float64)
    with particle_plate(4):
        traces = stepped(guide, batch, states)
        first = poutine.trace(guide.smc_init).get_trace({}, batch).nodes
    total = sum(trace.nodes[f"h_{t}"]["log_prob"] for t, trace in enumerate(traces))
    torch.testing.assert_close(total.expand(4, 3), log_q_of_particles(guide, batch, states))
    if name == "look-ahead":
        assert first["h_ahead"]["value"].shape == (4, 3, 5, 2)  # noise of its own for every particle and word
        assert float(first["h_ahead"]["value"].std(0).min()) > 0


def log_q_of_particles(guide: torch.nn.Module, batch, states: Tensor) -> Tensor:
    return torch.stack([log_q(guide, batch, h) for h in states])


def test_the_look_ahead_guide_is_a_gaussian_given_where_the_model_may_go() -> None:
    """q(h_t | h_{t-1}, F_g(h_{t-1}, ξ_t), w): mean and scale by the networks' weights written out."""
    model, batch = model_of("tril"), words([[3, 4, 5]], 4)
    guide, states = guide_of("look-ahead", model), torch.randn(1, 4, 2, dtype=torch.float64)
    contexts = guide.reader(batch.tokens, batch.lengths)[0]
    net, before, expected = guide.kernel.conditioner, model.initial, torch.zeros((), dtype=torch.float64)
    for t, noise in enumerate(ahead(4)):
        going = model.transition.condition(before)(noise)
        x = net.bias + net.state.weight @ torch.cat([before, going]) + net.context.weight @ contexts[t]
        for layer in net.layers:
            x = layer.weight @ torch.tanh(x) + layer.bias
        scale = torch.nn.functional.softplus(x[2:] + guide.kernel.family.positive.shift) + 1e-3
        expected = expected + Normal(x[:2], scale).log_prob(states[0, t]).sum()
        before = states[0, t]
    torch.testing.assert_close(log_q(guide, batch, states)[0], expected)


def test_the_look_ahead_guide_follows_its_noise_and_trains_the_transition_through_it() -> None:
    model, batch = model_of("tril"), words(IDS, 5)
    guide, states = guide_of("look-ahead", model), torch.randn(3, 5, 2, dtype=torch.float64)

    def density(noise: Tensor) -> Tensor:
        data = {"h": states, "h_ahead": noise}
        trace = poutine.trace(poutine.condition(guide, data=data)).get_trace(batch)
        trace.compute_log_prob()
        return trace.nodes["h"]["log_prob"]

    noise = ahead(5)
    moved = noise.clone()
    moved[1] += 1.0
    changed = (density(moved) - density(noise)).abs() > 1e-9
    assert changed.tolist() == [True, False, True]  # the empty word has ended before step 2
    found = torch.autograd.grad(density(noise).sum(), list(model.transition.parameters()))
    assert all(float(value.abs().max()) > 0 for value in found)


@pytest.mark.parametrize("flow", ["diag", "tril"])
def test_the_look_ahead_guide_takes_a_full_covariance(flow: str) -> None:
    model, batch = model_of(), words([[3, 4, 5]], 4)
    guide = guide_of("look-ahead", model, flow=flow)
    params = posterior(guide, batch).params_along(torch.randn(1, 4, 2, dtype=torch.float64))
    assert params.shape[-1] == {"diag": 4, "tril": 5}[flow]


EVERY_OBJECTIVE = (
    *("elbo", "elbo:4", "elbo-analytic:3", "stl:3", "iwae:4", "iwae:5/2", "renyi:0.5:3", "vr-max:3", "dreg:3"),
    *("stepwise:1", "stepwise:4", "stepwise:3:score", "fivo:4", "fivo:3:multinomial:1:score"),
    *("free-bits:1", "free-bits:1:batch", "pyro:Trace_ELBO:4", "pyro:RenyiELBO:4", "pyro:TraceMeanField_ELBO"),
)


@pytest.mark.parametrize("spec", EVERY_OBJECTIVE)
def test_every_objective_takes_the_look_ahead_guide(spec: str) -> None:
    model, batch = model_of(), words(IDS, 5)
    guide = guide_of("look-ahead", model)
    with pyro.validation_enabled(True):
        estimate = build(spec)(model, guide, batch)
    assert estimate.bound.shape == (3,)
    found = gradients(estimate.loss, guide, model)
    assert all(torch.isfinite(value).all() for value in found)
    # Dead: the transition's gradient, were the noise not followed; the guide's, were the proposal not.
    assert sum(float(value.abs().max()) > 0 for value in found) == len(found)


def test_bounds_under_auxiliary_noise_are_bounds() -> None:
    """E[exp(bound)] = p(w) for the look-ahead guide as for an ordinary one, step-wise and not."""
    model, batch = model_of(), words([[4, 3]] * 3000, 3)
    guide = guide_of("look-ahead", model)
    with torch.no_grad():
        guide.kernel.conditioner.layers[-1].bias[2:] += 1.5  # a wide proposal, so that weights have a variance
        torch.manual_seed(0)
        reference = build("iwae:200")(model, guide_of("prior", model), batch).bound.exp()
        truth, error = float(reference.mean()), float(reference.std()) / 3000**0.5
        for spec in ("iwae:8", "stepwise:8", "fivo:8", "fivo:8:multinomial:1"):
            torch.manual_seed(1)
            bound = build(spec)(model, guide, batch).bound
            weight = bound.exp() / truth
            spread = float(weight.std()) / 3000**0.5
            assert abs(float(weight.mean()) - 1) < 5 * (spread**2 + (error / truth) ** 2) ** 0.5, spec
            assert spread < 0.1
            assert bound.mean() < torch.tensor(truth).log()
