"""A loss or gradient that is no longer a number stops the training with the site's name."""

import pytest
import torch
from torch import nn

from ppl_text.core.errors import NonFiniteLossError
from ppl_text.training import trainer as trainer_module
from ppl_text.training.stopping import DeferredGuard, NonFinite

from .conftest import equal, leftovers, stored_state
from .small_world import Elbo


class BreaksGuide(Elbo):
    """From the n-th update on, the guide's location is not a number."""

    def __init__(self, update):
        self.update, self.done = update, 0

    def __call__(self, model, guide, batch, beta=1.0):
        self.done += model.training
        if self.done == self.update:
            guide.net.register_forward_hook(lambda module, given, out: out * float("nan"))
        return super().__call__(model, guide, batch, beta)


class BreaksGradient(Elbo):
    """The n-th loss is finite, its gradient is not: d√x/dx at 0."""

    def __init__(self, update):
        self.update, self.done = update, 0

    def __call__(self, model, guide, batch, beta=1.0):
        estimate = super().__call__(model, guide, batch, beta)
        self.done += model.training
        if self.done == self.update:
            return estimate._replace(loss=estimate.loss + (guide.net.bias * 0).abs().sqrt().sum())
        return estimate


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_site(make, tmp_path):
    made = make(tmp_path, objective=BreaksGuide(8), validation=None)
    with pytest.raises(NonFiniteLossError) as caught:
        made.trainer.fit()
    text = str(caught.value)
    assert "step 8: the loss is nan; guide site 'z': value has 24 non-finite entries of 24" in text
    assert f"the last good checkpoint is {tmp_path}/checkpoints/step-00000006.pt" in text
    assert "Try a lower learning rate" in text
    assert caught.value.exit_code == 1
    # The parameters are those after seven updates, and nothing was saved of the eighth.
    seven = make(tmp_path / "seven", steps=7, validation=None)
    seven.trainer.fit()
    assert equal(made.parameters(), seven.parameters())
    assert max(p.name for p in (tmp_path / "checkpoints").iterdir()) == "step-00000006.pt"
    assert not leftovers(tmp_path)


def test_a_gradient_that_is_not_finite_stops_the_run_and_names_the_parameter(make, tmp_path):
    made = make(tmp_path, objective=BreaksGradient(5), validation=None)
    with pytest.raises(NonFiniteLossError) as caught:
        made.trainer.fit()
    assert "step 5: the norm of the gradient is " in str(caught.value)
    assert "gradient of parameter 'guide.net.bias' has 6 non-finite entries of 6" in str(caught.value)
    four = make(tmp_path / "four", steps=4, validation=None)
    four.trainer.fit()
    assert equal(made.parameters(), four.parameters())


def test_the_draws_of_the_fault_are_made_again(make, tmp_path):
    """A rare draw is found only if the second run draws the same numbers."""
    made = make(tmp_path, validation=None, steps=200)
    seen = []

    def rare(module, given, out):
        draw = torch.rand(())
        seen.append(draw.item())
        return out / 0 if draw < 0.05 and len(seen) > 5 else out

    made.guide.net.register_forward_hook(rare)
    with pytest.raises(NonFiniteLossError, match="guide site 'z': value has"):
        made.trainer.fit()
    assert seen[-1] == seen[-2] < 0.05


def parameters_and_guard(fused=True, **kwargs):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], lr=0.1, fused=fused)
    return parameter, optimizer, DeferredGuard(torch.device("cpu"), optimizer, **kwargs)


def update(parameter, optimizer, guard, step, gradient, loss=1.0):
    parameter.grad = torch.full((3,), gradient)
    guard.begin(step)
    guard.loss(torch.tensor(loss))
    guard.gradient(torch.tensor(loss), parameter.grad.norm())
    optimizer.step()


@pytest.mark.parametrize(("gradient", "loss"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_the_deferred_guard_keeps_the_parameters_until_it_is_asked(gradient, loss):
    parameter, optimizer, guard = parameters_and_guard()
    update(parameter, optimizer, guard, 1, 1.0)
    guard.verify()
    good = parameter.detach().clone()
    assert not torch.equal(good, torch.ones(3))
    update(parameter, optimizer, guard, 2, gradient, loss)
    update(parameter, optimizer, guard, 3, 1.0)
    update(parameter, optimizer, guard, 4, float("nan"))
    assert torch.equal(parameter, good)
    with pytest.raises(NonFinite) as caught:
        guard.verify()
    assert caught.value.step == 2
    guard.close()
    assert not hasattr(optimizer, "found_inf")


def test_the_deferred_guard_with_another_optimizer_still_notices():
    parameter, optimizer, guard = parameters_and_guard(fused=False)
    assert not guard.protects
    update(parameter, optimizer, guard, 1, float("nan"))
    with pytest.raises(NonFinite):
        guard.verify()
    guard.close()


def test_a_gradient_scaler_sees_to_gradients_itself():
    parameter, optimizer, guard = parameters_and_guard(check_gradients=False)
    update(parameter, optimizer, guard, 1, float("inf"))
    guard.verify()
    update(parameter, optimizer, guard, 2, 1.0, loss=float("nan"))
    with pytest.raises(NonFinite):
        guard.verify()


def test_a_deferred_guard_saves_no_state_after_the_fault(make, tmp_path, monkeypatch):
    """As on a GPU: noticed at the next log interval or checkpoint, before anything is written."""
    monkeypatch.setattr(
        trainer_module, "make_guard", lambda fabric, optimizer: DeferredGuard(torch.device("cpu"), optimizer)
    )
    made = make(tmp_path, objective=BreaksGuide(8), validation=None, log_every=100, checkpoint_every=5)
    with pytest.raises(NonFiniteLossError, match="step 8: the loss or the gradient is not finite; guide site 'z'"):
        made.trainer.fit()
    stored = stored_state(tmp_path / "checkpoints" / "step-00000005.pt")
    assert max(p.name for p in (tmp_path / "checkpoints").iterdir()) == "step-00000005.pt"
    assert all(torch.isfinite(t).all() for t in stored["parameters"].values())
    seven = make(tmp_path / "seven", steps=7, validation=None)
    seven.trainer.fit()
    assert equal(made.parameters(), seven.parameters())
