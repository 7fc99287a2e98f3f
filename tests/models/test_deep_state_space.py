"""The state-space word model against plain loops, enumeration, and its own paths."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.protocols import Model
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID, Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models import MODELS
from ppl_text.models.deep_state_space import DeepStateSpace

TRANSITIONS = {
    "diag": {"transition": "diag"},
    "tril": {"transition": "tril"},
    "tril direct": {"transition": "tril", "parametrization": "direct"},
    "tril clip": {"transition": "tril", "diagonal": "clip", "delta": 0.2},
    "2 x tril": {"transition": "tril", "layers": 2},
    "tril, deep emission": {"transition": "tril", "emission_hidden": (5, 4)},
    "nvp": {"transition": "nvp", "layers": 2},
    "nvp paper": {"transition": "nvp", "masks": "paper"},
    "tril-nvp": {"transition": "tril-nvp", "layers": 2},
    "tril-nvp paper direct": {"transition": "tril-nvp", "masks": "paper", "parametrization": "direct"},
}
every_transition = pytest.mark.parametrize("options", TRANSITIONS.values(), ids=TRANSITIONS)
LETTERS = [3, 4, 5]


def model_of(options: dict, *, dim: int = 3) -> DeepStateSpace:
    torch.manual_seed(0)
    model = DeepStateSpace(Vocabulary(6), state_dim=dim, hidden=(5,), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model.double()


def words(ids: list[list[int]], steps: int) -> Batch:
    return collate(ids, torch.ones(len(ids), dtype=torch.float64), steps, len(ids))


def log_joint(model: DeepStateSpace, batch: Batch, states: Tensor) -> Tensor:
    """ln p(h, w) of the Pyro program per word, site by site."""
    trace = poutine.trace(poutine.condition(model, data={"h": states})).get_trace(batch)
    trace.compute_log_prob()
    assert {n for n, s in trace.nodes.items() if s["type"] == "sample"} == {"sentences", "h", "tokens"}
    return trace.nodes["h"]["log_prob"] + trace.nodes["tokens"]["log_prob"]


def step_log_density(model: DeepStateSpace, before: Tensor, after: Tensor) -> Tensor:
    """ln r(ζ) - ln|det J_f(ζ)| by autograd's Jacobian of the forward map, ζ from its inverse (eq. 8)."""
    flow = model.transition.condition(before)
    noise = flow.inv(after)
    jacobian = torch.autograd.functional.jacobian(flow, noise)
    unit = MultivariateNormal(torch.zeros_like(noise), torch.eye(len(noise), dtype=noise.dtype))
    return unit.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet


def by_layers(model: DeepStateSpace, state: Tensor) -> Tensor:
    """Logits of one state, layer by layer, tanh between them."""
    first, *others = [layer for layer in model.emission.modules() if isinstance(layer, torch.nn.Linear)]
    value = first.weight @ state + first.bias
    for layer in others:
        value = layer.weight @ torch.tanh(value) + layer.bias
    return value


def test_the_emission_is_the_papers_softmax_unless_it_is_given_layers() -> None:
    assert isinstance(model_of({}).emission, torch.nn.Linear)
    deep = model_of({"emission_hidden": (5, 4)}).emission
    assert [layer.out_features for layer in deep if isinstance(layer, torch.nn.Linear)][:2] == [5, 4]
    states = torch.randn(1000, 3, dtype=torch.float64)
    plain, layered = model_of({}).emission(states).std(), deep(states).std()
    assert 0.3 < layered / plain < 2, "letters differ as much at the start as without layers"


@every_transition
def test_log_joint_equals_plain_loops(options: dict) -> None:
    model, ids = model_of(options), [[3, 4, 5], [], [5]]
    batch = words(ids, 5)
    states = torch.randn(3, 5, 3, dtype=torch.float64)
    found = log_joint(model, batch, states)
    for b, word in enumerate(ids):
        before, expected = model.initial, torch.zeros((), dtype=torch.float64)
        for t, token in enumerate([*word, EOS_ID]):
            expected = expected + step_log_density(model, before, states[b, t])
            scores = by_layers(model, states[b, t])
            expected = expected + scores[token - EOS_ID] - scores.exp().sum().log()
            before = states[b, t]
        torch.testing.assert_close(found[b], expected)


@every_transition
def test_padding_changes_neither_values_nor_gradients(options: dict) -> None:
    model = model_of(options)
    states = torch.randn(2, 6, 3, dtype=torch.float64)
    wide = log_joint(model, words([[3, 4], [5]], 6), states)
    narrow = log_joint(model, words([[3, 4], [5]], 3), states[:, :3])
    torch.testing.assert_close(wide, narrow)
    for a, b in zip(
        torch.autograd.grad(wide.sum(), list(model.parameters())),
        torch.autograd.grad(narrow.sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@every_transition
def test_particles_in_front_equal_the_loop(options: dict) -> None:
    model, batch = model_of(options), words([[3, 4], [5]], 4)
    states = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    with pyro.plate("particles", 3, dim=-2):
        found = log_joint(model, batch, states)
    torch.testing.assert_close(found, torch.stack([log_joint(model, batch, h) for h in states]))


def exact_log_likelihood(model: DeepStateSpace, word: list[int], nodes: int = 21) -> Tensor:
    """ln p(w) for D = 1 by Gauss-Hermite quadrature over the noise of every step: Σ over all grids of paths."""
    import numpy as np

    points, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    grids = torch.cartesian_prod(*[points] * len(word)).reshape(-1, len(word), 1)
    mass = torch.cartesian_prod(*[weights / weights.sum()] * len(word)).reshape(-1, len(word)).prod(-1)
    total, state = torch.zeros(len(grids), dtype=torch.float64), model.initial.expand(len(grids), 1)
    for t, token in enumerate(word):
        state = model.transition.condition(state)(grids[:, t])
        total = total + model.emission(state).log_softmax(-1)[:, token - EOS_ID]
    return (mass * total.exp()).sum().log()


def test_likelihoods_by_quadrature_sum_to_one_minus_the_unfinished_and_match_importance_sampling() -> None:
    from guides.deep_state_space import PriorGuide
    from ppl_text.objectives import build

    model = model_of({"transition": "tril"}, dim=1)
    with torch.no_grad():
        finished = [
            exact_log_likelihood(model, [*w, EOS_ID]).exp()
            for n in range(3)
            for w in itertools.product(LETTERS, repeat=n)
        ]
        alive = [exact_log_likelihood(model, list(w)).exp() for w in itertools.product(LETTERS, repeat=3)]
        assert float(sum(finished) + sum(alive)) == pytest.approx(1.0, abs=1e-9)
        assert 0.05 < float(sum(finished)) < 0.999

        torch.manual_seed(0)
        batch = words([[], [4], [5, 3]], 3)
        bound = build("iwae:10000")(model, PriorGuide(model), batch).bound
        exact = torch.stack([exact_log_likelihood(model, w) for w in ([2], [4, 2], [5, 3, 2])])
    # a likelihood weight lies in (0, 1): its relative error is below sqrt((1 - p) / (p K))
    error = ((1 - exact.exp()) / exact.exp() / 10_000).sqrt()
    assert ((bound - exact).abs() < 5 * error).all()


def decoded(model: DeepStateSpace, states: Tensor) -> Tensor:
    """The most probable outcome of every step (…, T), whatever came before."""
    return model.emission(states).argmax(-1) + EOS_ID


def generated_lengths(tokens: torch.Tensor) -> torch.Tensor:
    """Scored tokens of each generated row (…, T), EOS counted; T where no EOS came."""
    ended = (tokens == EOS_ID).long()
    first = ended.argmax(-1) + 1
    return torch.where(ended.any(-1), first, tokens.shape[-1])


@every_transition
def test_generated_words_end_at_their_first_eos(options: dict) -> None:
    model = model_of(options)
    with torch.no_grad():
        head = list(model.emission.modules())[-1]
        head.bias[0] += 0.5
    torch.manual_seed(0)
    ids = model.emit(model.draw(300, 6)).sample()
    assert ids.shape == (300, 6)
    assert BOS_ID not in ids
    lengths = generated_lengths(ids)
    assert len(lengths.unique()) > 3
    for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
        assert set(row[: length - 1]) <= set(LETTERS)
        assert row[length - 1] == EOS_ID or (length == 6 and EOS_ID not in row)
        assert set(row[length:]) <= {PAD_ID}


def test_generated_frequencies_are_the_quadrature_probabilities() -> None:
    model, n = model_of({"transition": "tril"}, dim=1), 6000
    torch.manual_seed(0)
    ids = model.emit(model.draw(n, 3)).sample().tolist()
    with torch.no_grad():
        for word in ([EOS_ID], [3, EOS_ID], [5, EOS_ID], [4, 4, EOS_ID]):
            p = float(exact_log_likelihood(model, word).exp())
            share = ids.count(word + [PAD_ID] * (3 - len(word))) / n
            assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5


@every_transition
def test_interpolation_ends_in_the_words_of_the_given_paths(options: dict) -> None:
    model, lengths = model_of(options), (4, 3)
    torch.manual_seed(2)
    first, second = model.prior(torch.tensor(lengths), 5).sample()
    found = decoded(model, model.between({"h": first}, {"h": second}, 7, lengths)["h"])
    assert found.shape == (7, 5)
    assert found[0, :4].tolist() == decoded(model, first)[:4].tolist()
    assert found[-1, :3].tolist() == decoded(model, second)[:3].tolist()


def test_interpolation_is_spherical_in_the_noise() -> None:
    model = model_of({"transition": "tril"})
    torch.manual_seed(2)
    chain = model.prior(torch.tensor([4, 4]), 4)
    noise = torch.randn(2, 4, 3, dtype=torch.float64)
    (first, second), _ = chain.push_forward(noise)
    middle = (noise[0] + noise[1]) / 2**0.5
    state, expected = model.initial, []
    for t in range(4):
        state = model.transition.condition(state)(middle[t])
        expected.append(int((model.emission.weight @ state + model.emission.bias).argmax()) + EOS_ID)
    middle = model.between({"h": first}, {"h": second}, 3, (4, 4))["h"][1]
    assert decoded(model, middle).tolist() == expected


def test_interpolation_ignores_what_lies_beyond_a_word() -> None:
    model = model_of({"transition": "tril"})
    torch.manual_seed(2)
    first, second = model.prior(torch.tensor([4, 2]), 4).sample()
    soiled = second.clone()
    soiled[2:] = 30.0
    expected = model.between({"h": first}, {"h": second}, 9, (4, 2))["h"]
    assert torch.equal(model.between({"h": first}, {"h": soiled}, 9, (4, 2))["h"], expected)
    assert not torch.equal(model.between({"h": first}, {"h": soiled}, 9, (4, 4))["h"], expected)


def test_the_mode_is_the_most_probable_outcome_and_padding_after_the_end() -> None:
    model = model_of({"transition": "diag"})
    states = 3 * torch.randn(50, 4, 3, dtype=torch.float64)
    ids, mode = decoded(model, states), model.emit({"h": states}).mode
    before = (mode == EOS_ID).cumsum(-1) - (mode == EOS_ID).long() == 0
    assert torch.equal(mode, torch.where(before, ids, PAD_ID))
    best = model.likelihood(states, torch.full((50,), 4)).log_prob(ids)
    assert int(ids.min()) >= EOS_ID
    for other in range(EOS_ID, 6):
        changed = ids.clone()
        changed[:, 1] = other
        assert (model.likelihood(states, torch.full((50,), 4)).log_prob(changed) <= best + 1e-12).all()


@every_transition
def test_every_parameter_is_reached_by_the_gradient(options: dict) -> None:
    model = model_of(options)
    log_joint(model, words([[3, 4], [5]], 4), torch.randn(2, 4, 3, dtype=torch.float64)).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0} == set()


def test_the_model_keeps_its_contract() -> None:
    model = model_of({"transition": "tril"})
    assert isinstance(model, Model)
    assert [spec.describe() for spec in model.latents] == ["h: (T, D=3) real"]
    assert len(pyro.get_param_store()) == 0
    trace = poutine.trace(model).get_trace(words([[3, 4], [5]], 4))
    assert trace.nodes["h"]["fn"].event_shape == model.latents[0].event_shape(4)
    assert [f.name for f in trace.nodes["h"]["cond_indep_stack"]] == ["sentences"]
    assert len(pyro.get_param_store()) == 0
    assert MODELS[model.family].endswith(f":{type(model).__name__}")


@pytest.mark.parametrize("options", [TRANSITIONS["nvp"], TRANSITIONS["tril-nvp"]], ids=["nvp", "tril-nvp"])
def test_without_a_closed_form_the_analytic_bound_is_by_monte_carlo_and_says_so(options: dict) -> None:
    from guides.deep_state_space import TriangularGuide
    from ppl_text.objectives import build

    model, batch = model_of(options), words([[3, 4], [5]], 4)
    guide = TriangularGuide(model, embedding_dim=3, gru_dim=4, hidden=(5,)).double()
    analytic = build("elbo-analytic:3")
    (remark,) = analytic.remarks(model, guide, batch)
    assert remark.startswith("KL of site 'h': no closed form of KL(FlowChain ‖ FlowChain)")
    assert remark.endswith("by Monte Carlo")
    losses = []
    for objective in (analytic, build("elbo:3")):
        torch.manual_seed(0)
        losses.append(objective(model, guide, batch).loss)
    torch.testing.assert_close(*losses, rtol=0, atol=0)
    affine = model_of(TRANSITIONS["tril"])
    assert analytic.remarks(affine, TriangularGuide(affine).double(), batch) == ["KL of site 'h': in closed form"]


FAULTS = {
    "parametrization": (
        {"parametrization": "inv"},
        UserError,
        "parametrization must be 'inverse' or 'direct'; got 'inv'",
    ),
    "transition": ({"transition": "trill"}, UnknownNameError, "unknown flow 'trill' (did you mean 'tril'?)"),
    "diagonal": ({"diagonal": "softplus"}, UnknownNameError, "unknown diagonal 'softplus'"),
    "delta": ({"delta": 0.7}, ValueError, "delta must lie between 0 and 0.5"),
}


@pytest.mark.parametrize(("options", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_faulty_options_are_refused(options: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        DeepStateSpace(Vocabulary(6), state_dim=3, **options)
    assert message in str(caught.value)


def stepped(model: DeepStateSpace, batch: Batch, states: Tensor, *, keep_chain: bool = True) -> list[poutine.Trace]:
    """Traces of ``smc_init`` and of every ``smc_step`` with the states (…, B, T, D) given."""
    state: dict[str, Tensor] = {}
    first = poutine.trace(model.smc_init).get_trace(state, batch)
    torch.testing.assert_close(state["h"], model.initial.expand_as(state["h"]))
    chain, traces = first.nodes["_RETURN"]["value"], [first]
    for t in range(batch.steps):
        given = poutine.condition(model.smc_step, data={f"h_{t + 1}": states[..., t, :]})
        traces.append(poutine.trace(given).get_trace(state, batch, t, *([chain] if keep_chain else [])))
        assert state["h"] is states[..., t, :] or torch.equal(state["h"], states[..., t, :])
    for trace in traces:
        trace.compute_log_prob()
    return traces


@pytest.mark.parametrize("keep_chain", [True, False])
@every_transition
def test_the_steps_of_the_program_add_up_to_the_whole(options: dict, keep_chain: bool) -> None:
    """With what ``smc_init`` returned, and without, as SMCFilter has it."""
    model, batch = model_of(options), words([[3, 4, 5], [], [5]], 5)
    states = torch.randn(3, 5, 3, dtype=torch.float64)
    traces = stepped(model, batch, states, keep_chain=keep_chain)
    for t, trace in enumerate(traces):
        sampled = {n for n, s in trace.nodes.items() if s["type"] == "sample"} - {"sentences"}
        assert sampled == ({f"h_{t}", f"w_{t}"} if t else {"h_0"})
    steps = [trace.nodes[f"{site}_{t + 1}"] for t, trace in enumerate(traces[1:]) for site in "hw"]
    total = sum(site["log_prob"] for site in steps)
    whole = log_joint(model, batch, states)
    torch.testing.assert_close(total, whole)
    for a, b in zip(
        torch.autograd.grad(total.sum(), list(model.parameters()), retain_graph=True),
        torch.autograd.grad(whole.sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_word_that_has_ended_is_masked_site_by_site() -> None:
    model, batch = model_of({"transition": "tril"}), words([[3, 4, 5], [], [5]], 5)
    traces = stepped(model, batch, torch.randn(3, 5, 3, dtype=torch.float64))
    for t, trace in enumerate(traces[1:]):
        alive = batch.lengths > t
        for name in (f"h_{t + 1}", f"w_{t + 1}"):
            density = trace.nodes[name]["log_prob"]
            assert density.shape == (3,)
            assert torch.equal(density != 0, alive)


def test_steps_run_on_particles() -> None:
    model, batch = model_of({"transition": "tril"}), words([[3, 4], [5]], 3)
    states = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    with pyro.plate("particles", 4, dim=-2):
        traces = stepped(model, batch, states)
    assert traces[0].nodes["h_0"]["value"].shape == (4, 2, 3)
    total = sum(t.nodes[f"{s}_{i}"]["log_prob"] for i, t in enumerate(traces) if i for s in "hw")
    torch.testing.assert_close(total, torch.stack([log_joint(model, batch, h) for h in states]))
