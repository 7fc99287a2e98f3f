"""Particles in chunks: the same values and gradients, less memory."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_text.core.batch import Batch
from ppl_text.core.protocols import Estimate
from ppl_text.distributions.side import record_side_loss
from ppl_text.objectives import build
from ppl_text.objectives.terms import trace_terms

from .programs import Program, gradients, plain_batch, state_space, word_batch

CASES = {
    "iwae:12/5": {},
    "iwae:5/4": {},
    "elbo:6/2": {"beta": 0.3},
    "elbo-analytic:6/2": {"beta": {"h": 0.3}},
    "stl:6/2": {},
    "renyi:0.5:6/4": {},
    "renyi:-inf:6/4": {},
    "dreg:8/3": {},
    "dreg:7/3": {"beta": 0.4},
}
"""7 = 3 + 3 + 1 and 5 = 4 + 1: a chunk of one particle, which has no axis of its own."""


@pytest.fixture
def particle_by_particle(monkeypatch) -> None:
    """Noise (K, B, T, D) drawn one particle after the other: chunked and unchunked runs draw the same."""
    randn = torch.randn

    def one_by_one(shape: torch.Size, **kind: object) -> Tensor:
        return (
            torch.stack([randn(shape[1:], **kind) for _ in range(shape[0])])
            if len(shape) == 4
            else randn(shape, **kind)
        )

    monkeypatch.setattr(torch, "randn", one_by_one)


def run(spec: str, model: nn.Module, guide: nn.Module, batch: Batch, **options) -> tuple[Estimate, dict[str, Tensor]]:
    torch.manual_seed(7)
    estimate = build(spec)(model, guide, batch, **options)
    return estimate, gradients(estimate.loss, model, guide)


@pytest.mark.parametrize("guide", ["diag", "tril", "shared"])
@pytest.mark.parametrize(("spec", "options"), CASES.items(), ids=CASES)
def test_values_and_gradients_are_those_without_chunks(
    spec: str, options: dict, guide: str, particle_by_particle: None
) -> None:
    programs, batch = state_space(guide=guide), word_batch(weights=[1.0, 2.0, 0.0, 1.0])
    with pyro.validation_enabled(True):
        found, of_found = run(spec, *programs, batch, **options)
    wanted, of_wanted = run(spec.rpartition("/")[0], *programs, batch, **options)
    for name in Estimate._fields:
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-12, atol=1e-12)
    assert any(float(value.abs().max()) > 1e-3 for value in of_wanted.values())
    for name, value in of_found.items():
        torch.testing.assert_close(value, of_wanted[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: n + m)


def test_without_gradients_chunks_change_the_memory_only(particle_by_particle: None) -> None:
    programs, batch = state_space(), word_batch()
    bounds = []
    with torch.no_grad():
        for spec in ("iwae:12/5", "iwae:12", "iwae:12/12", "iwae:12/99"):
            torch.manual_seed(7)
            bounds.append(build(spec)(*programs, batch).bound)
    for bound in bounds:
        torch.testing.assert_close(bound, bounds[0], rtol=1e-12, atol=1e-12)


class Dropping(nn.Module):
    """q(z) behind a network that drops units: a mask for each chunk, and the same one on the way back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, batch: Batch) -> None:
        loc, raw = self.layers(torch.ones(batch.size, 4).double()).chunk(2, -1)
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(loc.squeeze(-1), raw.squeeze(-1).exp()))


def observing(batch: Batch, values: nn.ParameterDict) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(batch.size).double(), 1.0))
    pyro.sample("tokens", dist.Normal(values["a"] * z, 1.0), obs=torch.linspace(-1, 1, batch.size).double())


def test_a_guide_that_drops_units_keeps_its_masks_on_the_way_back() -> None:
    """Against the chunks run one after the other with all activations kept, from the same random state."""
    model, guide, batch = Program(observing, a=torch.tensor(0.8).double()), Dropping(), plain_batch(5)
    found, of_found = run("iwae:8/3", model, guide, batch)
    torch.manual_seed(7)
    log_weights = torch.cat([trace_terms(model, guide, batch, size).log_weights for size in (3, 3, 2)])
    bound = log_weights.exp().mean(0).log()
    torch.testing.assert_close(found.bound, bound.detach())
    for name, value in gradients(-bound.mean(), model, guide).items():
        torch.testing.assert_close(of_found[name], value, rtol=1e-10, atol=1e-12)
    torch.manual_seed(8)
    other = gradients(build("iwae:8/3")(model, guide, batch).loss, guide)
    assert not torch.allclose(other["0.layers.0.weight"], of_found["1.layers.0.weight"])


@pytest.mark.parametrize("spec", ["stl:8/3", "dreg:8/3"])
def test_path_gradients_of_a_guide_that_drops_units_in_chunks(spec: str) -> None:
    """The bound of the plain objective on the same seed; gradients without a mistake of state: twice the same."""
    model, guide, batch = Program(observing, a=torch.tensor(0.8).double()), Dropping(), plain_batch(5)
    (found, first), (again, second) = (run(spec, model, guide, batch) for _ in range(2))
    plain, _ = run("elbo:8/3" if spec.startswith("stl") else "iwae:8/3", model, guide, batch)
    torch.testing.assert_close(found.bound, plain.bound)
    torch.testing.assert_close(found.bound, again.bound, rtol=0, atol=0)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_side_losses_are_averaged_over_all_particles() -> None:
    def guide(batch: Batch, values: nn.ParameterDict) -> None:
        z = pyro.sample("z", dist.Normal(values["loc"].expand(batch.size), 1.0))
        record_side_loss("by_particle", 1e3 * z)
        record_side_loss("by_sentence", torch.arange(5.0).double() * values["loc"])
        record_side_loss("scalar", 7.0 * values["loc"])

    programs = Program(observing, a=torch.tensor(0.8).double()), Program(guide, loc=torch.tensor(0.3).double())
    found, of_found = run("elbo:8/3", *programs, plain_batch(5))
    torch.manual_seed(7)
    terms = [trace_terms(*programs, plain_batch(5), size) for size in (3, 3, 2)]
    z = torch.cat([part.latents["z"].value for part in terms])
    loc = programs[1].values["loc"]
    loss = -torch.cat([part.log_weights for part in terms]).mean() + 1e3 * z.mean() + 2.0 * loc + 7.0 * loc
    torch.testing.assert_close(found.loss, loss)
    torch.testing.assert_close(of_found["1.values.loc"], gradients(loss, programs[1])["0.values.loc"])


class Peak(TorchDispatchMode):
    """Most bytes of tensors alive at once among those made inside; looked at every 10 operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._alive, self._calls = 0, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self._calls += 1
        if self._calls % 10 == 0:
            self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
            self.bytes = max(self.bytes, sum(size for _, size in self._alive.values()))
        return out


@pytest.mark.parametrize("name", ["iwae", "dreg"])
def test_a_chunk_bounds_the_memory_of_a_training_step(name: str) -> None:
    programs, batch = state_space(), word_batch([[3, 4, 5, 3]] * 20)

    def peak(spec: str) -> int:
        with Peak() as mode:
            run(spec, *programs, batch)
        return mode.bytes

    peak(f"{name}:4")
    small, large, chunked = (peak(f"{name}:{count}") for count in ("16", "160", "160/16"))
    assert large > 6 * small
    assert chunked < 2 * small
