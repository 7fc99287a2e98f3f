"""Programs that draw from Python's and NumPy's generators are seeded, and resume bit for bit."""

import os
import random
import signal

import numpy as np
import pytest
import torch

from ppl_text.core.errors import Interrupted
from ppl_text.training.random_numbers import random_numbers_kept, random_states, seed_all, set_random_states

from .conftest import equal, metrics
from .small_world import Elbo, Guide, Model


class Draws(Guide):
    """A guide of the user's whose location is moved by draws of all three generators."""

    def forward(self, batch):
        moved = random.gauss(0, 1) + np.random.normal() + float(torch.randn(()))
        handle = self.net.register_forward_hook(lambda module, given, out: out + 0.1 * moved)
        super().forward(batch)
        handle.remove()


class Stops(Elbo):
    """The objective at whose n-th update a signal comes."""

    def __init__(self, update):
        self.update, self.done = update, 0

    def __call__(self, model, guide, batch, beta=1.0):
        self.done += model.training
        if model.training and self.done == self.update:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(model, guide, batch, beta)


def world(kind=Draws):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Model()
        return model, kind(model)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_a_program_that_draws_from_every_generator_resumes_bit_for_bit(make, tmp_path):
    whole = make(tmp_path / "whole", world=world)
    whole.trainer.fit()
    stopped = make(tmp_path / "stopped", world=world, objective=Stops(7))
    with pytest.raises(Interrupted):
        stopped.trainer.fit()
    seed_all(12345)
    resumed = make(tmp_path / "stopped", world=world)
    resumed.trainer.fit(resume=True)
    assert equal(resumed.parameters(), whole.parameters())
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_the_seed_of_a_training_is_that_of_all_generators(make, tmp_path):
    found = []
    for other in (1, 2):
        seed_all(other)
        made = make(tmp_path / str(other), world=world)
        made.trainer.fit()
        found.append(made.parameters())
    assert equal(*found)


def test_a_training_leaves_no_trace_in_any_generator(make, tmp_path):
    before = states()
    make(tmp_path, world=world).trainer.fit()
    assert states() == before


def test_states_are_taken_back_from_a_file(tmp_path):
    seed_all(3)
    np.random.normal()  # leaves half of a pair
    torch.save(random_states(), tmp_path / "states.pt")
    expected = draws()
    seed_all(4)
    set_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draws() == expected


def test_states_of_an_older_checkpoint_are_taken_back():
    seed_all(3)
    kept = {name: value for name, value in random_states().items() if name != "numpy"}
    expected = random.random(), float(torch.rand(()))
    seed_all(4)
    set_random_states(kept)
    assert (random.random(), float(torch.rand(()))) == expected


def test_what_is_drawn_within_leaves_no_trace():
    before = states()
    with random_numbers_kept():
        seed_all(2**63 - 1)
        draws()
    assert states() == before


def draws():
    return random.random(), np.random.normal(), float(torch.rand(()))
