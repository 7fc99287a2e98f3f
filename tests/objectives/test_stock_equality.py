"""The project's objectives are Pyro's own, on the same seed: values and gradients of every parameter."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from ppl_text.core.errors import UserError
from ppl_text.objectives import build

from .programs import Discrete, gradients, plain_batch, state_space, stock_gradients, word_batch


def trace(k: int) -> ELBO:
    return Trace_ELBO(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=1)


def order(alpha: float, k: int) -> ELBO:
    return RenyiELBO(alpha=alpha, num_particles=k, vectorize_particles=k > 1, max_plate_nesting=1)


PAIRS = {
    "elbo": lambda: trace(1),
    "elbo:5": lambda: trace(5),
    "trace_elbo:3": lambda: trace(3),
    "iwae:1": lambda: order(0.0, 1),
    "iwae:5": lambda: order(0.0, 5),
    "renyi:0.5:5": lambda: order(0.5, 5),
    "renyi:2:5": lambda: order(2.0, 5),
    "renyi:-1:5": lambda: order(-1.0, 5),
    "renyi_elbo:0.3:2": lambda: order(0.3, 2),
}


@pytest.mark.parametrize("transition", ["tril", "nvp"])
@pytest.mark.parametrize(("spec", "stock"), PAIRS.items(), ids=PAIRS)
def test_equals_stock_pyro_on_the_same_seed(spec: str, stock, transition: str) -> None:
    model, guide = state_space(transition)
    batch = word_batch()
    torch.manual_seed(11)
    expected, wanted = stock_gradients(stock(), model, guide, batch)
    torch.manual_seed(11)
    estimate = build(spec)(model, guide, batch)
    assert estimate.loss.item() == pytest.approx(expected / batch.size, rel=1e-10)
    found = gradients(estimate.loss, model, guide)
    assert found.keys() == wanted.keys()
    assert sum(bool(g.abs().max() > 1e-6) for g in wanted.values()) > 10
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name] / batch.size, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("guide", ["shared", "look-ahead", "mean-field"])
@pytest.mark.parametrize(("spec", "stock"), [("elbo:4", "pyro:Trace_ELBO:4"), ("iwae:4", "pyro:RenyiELBO:4")])
def test_stock_pyro_takes_every_guide_its_auxiliary_noise_included(spec: str, stock: str, guide: str) -> None:
    model, q = state_space(guide=guide)
    estimates = []
    for name in (spec, stock):
        torch.manual_seed(11)
        with pyro.validation_enabled(True):
            estimates.append(build(name)(model, q, word_batch()))
    ours, theirs = estimates
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    wanted = gradients(theirs.loss, model, q)
    for name, value in gradients(ours.loss, model, q).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-7, atol=1e-9, msg=lambda m, n=name: n + m)


WRAPPED = {
    "pyro:Trace_ELBO": lambda: trace(1),
    "pyro:Trace_ELBO:4": lambda: trace(4),
    "pyro:RenyiELBO": lambda: order(0.0, 2),
    "pyro:RenyiELBO:4": lambda: order(0.0, 4),
    "pyro:RenyiELBO:0.5:4": lambda: order(0.5, 4),
    "pyro:TraceGraph_ELBO": lambda: TraceGraph_ELBO(max_plate_nesting=1),
    "pyro:TraceMeanField_ELBO:3": lambda: TraceMeanField_ELBO(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
}


@pytest.mark.parametrize("by", ["name", "instance"])
@pytest.mark.parametrize(("spec", "stock"), WRAPPED.items(), ids=WRAPPED)
def test_the_wrapper_gives_the_stock_values_and_gradients(spec: str, stock, by: str) -> None:
    model, guide = state_space()
    batch = word_batch()
    torch.manual_seed(12)
    expected, wanted = stock_gradients(stock(), model, guide, batch)
    torch.manual_seed(12)
    objective = build(spec if by == "name" else stock())
    estimate = objective(model, guide, batch)
    assert objective.particles == stock().num_particles
    assert estimate.loss.item() == pytest.approx(expected / batch.size, rel=1e-10)
    for name, value in gradients(estimate.loss, model, guide).items():
        torch.testing.assert_close(value, wanted[name] / batch.size, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: n + m)
    assert estimate.bound.shape == estimate.kl.shape == estimate.log_likelihood.shape == (batch.size,)
    torch.testing.assert_close(estimate.bound, estimate.log_likelihood - estimate.kl)


@pytest.mark.parametrize("spec", ["pyro:Trace_ELBO:2", "pyro:RenyiELBO:3"])
def test_pyro_is_not_shown_the_rows_that_fill_a_batch_up(spec: str) -> None:
    model, guide = state_space()
    batch = word_batch(weights=[1.0, 1.0, 0.0, 1.0])
    estimates = []
    for shown in (batch, batch.take(torch.tensor([0, 1, 3]))):
        torch.manual_seed(12)
        estimates.append(build(spec)(model, guide, shown))
    assert [estimate.bound.shape for estimate in estimates] == [(4,), (3,)]
    ours, wanted = (gradients(estimate.loss, model, guide) for estimate in estimates)
    torch.testing.assert_close(estimates[0].loss, estimates[1].loss, rtol=0, atol=0)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0)


def test_an_instance_without_a_plate_bound_is_left_to_guess_it() -> None:
    model, guide = state_space()
    stock = Trace_ELBO(num_particles=3, vectorize_particles=True)
    torch.manual_seed(13)
    expected, _ = stock_gradients(Trace_ELBO(num_particles=3, vectorize_particles=True), model, guide, word_batch())
    torch.manual_seed(13)
    assert build(stock)(model, guide, word_batch()).loss.item() == pytest.approx(expected / 4, rel=1e-10)


def test_the_wrapper_leaves_parameter_store_and_gradients_as_they_were() -> None:
    model, guide = state_space()
    kept = {p: torch.full_like(p, 7.0) for p in model.parameters()}
    for p, gradient in kept.items():
        p.grad = gradient
    with pyro.get_param_store().scope():
        estimate = build("pyro:RenyiELBO:4")(model, guide, word_batch())
        assert len(pyro.get_param_store()) == 0
    assert all(p.grad is gradient for p, gradient in kept.items())
    assert all(p.grad is None for p in guide.parameters())
    estimate.loss.backward()
    assert all((p.grad != 7.0).any() for p in model.transition.parameters())


def test_a_frozen_model_stays_frozen_under_a_stock_objective() -> None:
    model, guide = state_space()
    model.requires_grad_(False).eval()
    for spec in ("pyro:Trace_ELBO", "pyro:RenyiELBO:3"):
        guide.zero_grad()
        build(spec)(model, guide, word_batch()).loss.backward()
        assert not any(p.requires_grad for p in model.parameters())
        assert all(p.grad is not None for p in guide.parameters())


def test_without_gradients_the_wrapper_reports_the_weighted_elbo() -> None:
    model, guide = state_space()
    batch = word_batch(weights=[1.0, 0.0, 3.0, 1.0])
    with torch.no_grad():
        estimate = build("pyro:Trace_ELBO")(model, guide, batch)
    expected = -(batch.weights * estimate.bound).sum() / 5.0
    torch.testing.assert_close(estimate.loss, expected)
    assert not estimate.loss.requires_grad


REFUSED = {
    "β": ({"beta": 0.5}, {}, "knows no β"),
    "β tensor": ({"beta": torch.tensor(0.9)}, {}, "knows no β"),
    "β by site": ({"beta": {"h": 0.5}}, {}, "knows no β"),
    "weights": ({}, {"weights": [1.0, 1.0, 3.0, 1.0]}, "weighs all sentences alike"),
}


@pytest.mark.parametrize(("options", "batch_options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_stock_objective_cannot_do_is_refused(options: dict, batch_options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("pyro:Trace_ELBO")(*state_space(), word_batch(**batch_options), **options)


def test_a_beta_of_one_in_any_form_is_accepted() -> None:
    for beta in (1, 1.0, torch.tensor(1.0), {"h": 1.0}):
        assert torch.isfinite(build("pyro:Trace_ELBO")(*state_space(), word_batch(), beta=beta).loss)


def test_a_score_function_guide_trains_through_the_stock_objective() -> None:
    toy = Discrete(torch.tensor([0, 2]))
    guide = toy.guide(torch.full((2, 3), 1 / 3, dtype=torch.float64))
    guide.values["logits"] = torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    guide.run = lambda batch, values: pyro.sample("z", pyro.distributions.Categorical(logits=values["logits"]))
    estimate = build("pyro:Trace_ELBO:200")(toy.model(), guide, plain_batch(2))
    (gradient,) = torch.autograd.grad(estimate.loss, [guide.values["logits"]])
    # d ELBO / d logits = q (ln w - Σ q ln w), by enumeration
    log_weight = (toy.prior * toy.emission[:, toy.observed].T).log() - torch.log(torch.tensor(1 / 3))
    expected = -(log_weight - log_weight.mean(-1, keepdim=True)) / 3 / 2
    assert float((gradient - expected).abs().max()) < 0.2
    assert float((gradient * expected).sum() / gradient.norm() / expected.norm()) > 0.8
