"""Optimizers by name: what each step is, and that a run goes on with any of them bit for bit."""

import signal
from contextlib import nullcontext
from functools import partial
from typing import get_args

import pytest
import pytorch_optimizer
import torch

from ppl_text.core.errors import Interrupted, UnknownNameError
from ppl_text.recipes.procedures import TrainingSection
from ppl_text.training.optimizers import (
    LARGEST_PRECONDITIONER,
    OPTIMIZERS,
    build_optimizer,
    load_state,
    make_capturable,
    set_rate,
    split_update,
)

from .test_trainer import Watched, assert_same_run, send

DECAYED = {"weight_decay": 0.1}


def quadratic(name, left, right, start, *, lr, steps):
    """Descend ½ |L W R|²; returns W."""
    weights = torch.nn.Parameter(start.clone())
    optimizer = build_optimizer(name, [{"params": [weights]}], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (left @ weights @ right).square().sum()).backward()
        optimizer.step()
    return weights.detach()


def test_sgd_is_plain_gradient_descent():
    start = torch.tensor([[1.0, -2.0]])
    found = quadratic("sgd", torch.eye(1), torch.diag(torch.tensor([1.0, 2.0])), start, lr=0.1, steps=3)
    assert torch.allclose(found, start * torch.tensor([0.9, 0.6]) ** 3)


@pytest.mark.parametrize("name", ["adam", "soap"])
def test_the_first_steps_of_adam_and_soap_have_the_length_of_the_rate(name):
    """Both divide the mean gradient by its root mean square: a constant gradient moves each entry by lr a step."""
    weights = torch.nn.Parameter(torch.zeros(5))
    optimizer = build_optimizer(name, [{"params": [weights]}], lr=0.01)
    for _ in range(4):
        weights.grad = torch.tensor([1.0, -1.0, 0.5, 3.0, -0.1])
        optimizer.step()
    moved = 4 if name == "adam" else 3  # SOAP's first call only begins its preconditioner
    assert torch.allclose(weights.detach(), -0.01 * moved * weights.grad.sign(), atol=1e-5)


def test_soap_goes_the_same_way_in_every_basis_and_adam_does_not():
    """In the basis W = P W' the same quadratic is ½ |(L P) W' R|²: SOAP's W' stays Pᵀ W, Adam's does not.

    SOAP turns the first gradient G = Lᵀ L W R Rᵀ into the eigenbases of G Gᵀ and Gᵀ G, where it is diagonal. Rounding
    turns them by up to n eps κ (n = 6 rows, κ = largest eigenvalue / smallest gap); what stands beside the diagonal is
    then of that size instead of 0, and Adam's rule divides it by its own 1e-8. Hence the bound: n eps κ / 1e-8 for each
    step of length lr. Singular values of L and R between 1 and 0.3 keep κ under 100; from 0.01 on it would be 10¹¹.
    Ten steps: afterwards the library renews the basis in single precision.
    """
    torch.manual_seed(0)
    lr, steps, scales = 0.01, 10, torch.diag(torch.logspace(0, -0.5, 6, dtype=torch.float64))
    turn, other, basis, start = (torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0] for _ in range(4))
    left, right = scales @ turn, other @ scales
    apart = {}
    for name in ("adam", "soap"):
        here = quadratic(name, left, right, start, lr=lr, steps=steps)
        there = quadratic(name, left @ basis, right, basis.T @ start, lr=lr, steps=steps)
        apart[name] = float((basis @ there - here).abs().max())
    eigenvalues = torch.linalg.svdvals(left.T @ left @ start @ right @ right.T).square()
    condition = float(eigenvalues.max() / -eigenvalues.diff().max())
    bound = lr * steps * len(basis) * torch.finfo(torch.float64).eps * condition / 1e-8
    assert apart["soap"] < bound < 1e-3
    assert apart["adam"] > 1e-2


def test_adamw_shrinks_weights_apart_from_adams_step_and_leaves_biases_and_gains():
    """Algorithm 2 of Loshchilov and Hutter (2019), written out: θ ← θ (1 - ηλ) - η m̂ / (√v̂ + ε)."""
    torch.manual_seed(0)
    lr, decay, (b1, b2), steps = 0.01, 0.3, (0.8, 0.9), 4
    starts = {"matrix": torch.randn(4, 3), "table": torch.randn(5, 2), "bias": torch.randn(3), "gain": torch.ones(())}
    ours = {name: torch.nn.Parameter(start.double()) for name, start in starts.items()}
    gradients = [{name: torch.randn_like(value) for name, value in ours.items()} for _ in range(steps)]
    groups = [{"params": list(ours.values())}]
    optimizer = build_optimizer("adamw", groups, lr=lr, betas=(b1, b2), weight_decay=decay)
    for step, given in enumerate(gradients):
        set_rate(optimizer, lr / (1 + step))
        for name, value in ours.items():
            value.grad = given[name].clone()
        optimizer.step()
    for name, start in starts.items():
        wanted, m, v = start.double(), 0.0, 0.0
        for n, given in enumerate(gradients, 1):
            rate, g = lr / n, given[name]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g.square()
            step = (m / (1 - b1**n)) / ((v / (1 - b2**n)).sqrt() + 1e-8)
            wanted = wanted * (1 - rate * decay * (name in ("matrix", "table"))) - rate * step
        torch.testing.assert_close(ours[name].detach(), wanted)


def test_adamw_without_decay_is_adam_and_leaves_what_got_no_gradient():
    start, found = torch.randn(3, 3), {}
    for name, decay in (("adam", 0.0), ("adamw", 0.0), ("adamw", 0.5)):
        moved, frozen = (torch.nn.Parameter(start.clone()) for _ in range(2))
        optimizer = build_optimizer(name, [{"params": [moved, frozen]}], lr=0.1, weight_decay=decay)
        moved.grad = start.cos()
        optimizer.step()
        assert torch.equal(frozen.detach(), start)
        found[name, decay] = moved.detach()
    assert torch.allclose(found["adam", 0.0], found["adamw", 0.0])
    assert not torch.allclose(found["adam", 0.0], found["adamw", 0.5])
    assert len(build_optimizer("adamw", [{"params": []}], lr=0.1, weight_decay=0.1).param_groups) == 1


def test_a_resumed_run_may_go_on_with_other_decay_rates():
    weights = torch.nn.Parameter(torch.ones(2, 2))

    def adamw(**settings):
        return build_optimizer("adamw", [{"params": [weights]}], lr=0.1, **settings)

    before, after = adamw(weight_decay=0.1), adamw(weight_decay=0.2, betas=(0.5, 0.6))
    weights.grad = torch.ones(2, 2)
    before.step()
    load_state(after, before.state_dict())
    (group,) = after.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.2, (0.5, 0.6))
    assert float(after.state[weights]["step"]) == 1.0


@pytest.mark.parametrize("split", [False, True])
def test_soap_is_that_of_the_library_step_by_step(split):
    """Its state too, over two renewals of the bases; the step size is a number of the parameters' own precision."""
    torch.manual_seed(0)
    starts = [torch.randn(5, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    optimizer = build_optimizer("soap", [{"params": ours}], lr=0.01)
    library = pytorch_optimizer.SOAP(theirs, lr=0.01, weight_decay=0.0)
    for step in range(25):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        rate = 0.01 / (1 + step)
        set_rate(optimizer, rate)
        set_rate(library, rate)
        library.step()
        with split_update(optimizer) if split else nullcontext():
            optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[own][name], library.state[other][name], rtol=1e-8, atol=1e-12)


def test_a_captured_run_resumes_with_a_state_of_one_that_was_not():
    """Rates and flags are the optimizer's own: the state may come from a machine that records nothing."""
    weights = torch.nn.Parameter(torch.zeros(2))
    plain, recorded = (build_optimizer("adam", [{"params": [weights]}], lr=0.1) for _ in range(2))
    weights.grad = torch.ones(2)
    plain.step()
    make_capturable(recorded, torch.device("cpu"))
    rate = recorded.param_groups[0]["lr"]
    load_state(recorded, plain.state_dict())
    (group,) = recorded.param_groups
    assert group["lr"] is rate
    assert float(rate) == pytest.approx(0.1)
    assert group["capturable"]
    assert float(recorded.state[weights]["step"]) == 1.0


def test_soap_leaves_long_axes_without_a_preconditioner():
    table = torch.nn.Parameter(torch.randn(LARGEST_PRECONDITIONER + 1, 3))
    optimizer = build_optimizer("soap", [{"params": [table]}], lr=0.01)
    for _ in range(2):
        table.grad = torch.randn_like(table)
        optimizer.step()
    assert [len(matrix) for matrix in optimizer.state[table]["GG"]] == [0, 3]


def test_own_decay_rates_replace_the_usual_ones():
    def build(name, **options):
        return build_optimizer(name, [{"params": [torch.nn.Parameter(torch.zeros(2))]}], lr=0.1, **options)

    assert build("adam", betas=(0.5, 0.6)).param_groups[0]["betas"] == (0.5, 0.6)
    assert build("soap").param_groups[0]["betas"] == (0.95, 0.95)
    with pytest.raises(ValueError, match="no decay rates"):
        build("sgd", betas=(0.5, 0.6))
    with pytest.raises(UnknownNameError, match="did you mean 'soap'"):
        build("soup")
    for name in sorted({*OPTIMIZERS} - {"adamw"}):
        with pytest.raises(ValueError, match=r"has no weight decay; leave out training.weight_decay, or use adamw"):
            build(name, weight_decay=0.1)


def test_a_configuration_may_name_every_optimizer():
    assert set(get_args(TrainingSection.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in sorted(OPTIMIZERS)), ("adamw", DECAYED)])
def test_a_run_stopped_and_resumed_equals_an_uninterrupted_one(make, tmp_path, name, settings):
    optimizer = partial(build_optimizer, name, **settings)
    make(tmp_path / "whole", optimizer=optimizer).trainer.fit()
    part = make(tmp_path / "part", optimizer=optimizer, objective=Watched({5: send(signal.SIGTERM)}))
    with pytest.raises(Interrupted):
        part.trainer.fit()
    make(tmp_path / "part", optimizer=optimizer).trainer.fit(resume=True)
    assert_same_run(tmp_path / "part", tmp_path / "whole")
