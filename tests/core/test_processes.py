"""Which process of several this is."""

import os

import pytest

from ppl_text.core.errors import UserError
from ppl_text.core.processes import ALONE, Place, complete_environment, own_place


def test_torchrun_says_who_a_process_is():
    variables = {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    place = own_place(variables)
    assert place == Place(size=8, rank=5, local_size=4, local_rank=1)
    assert (place.nodes, place.is_first, place.is_first_here, place.name) == (2, False, False, "process 5 of 8")


def test_without_its_variables_a_process_is_alone():
    assert own_place({}) == own_place({"LOCAL_RANK": "3", "WORLD_SIZE": "8"}) == ALONE
    assert ALONE.is_first
    assert ALONE.is_first_here


def test_one_process_on_each_machine_needs_no_local_variables():
    assert own_place({"WORLD_SIZE": "3", "RANK": "2"}) == Place(size=3, rank=2)


def test_what_a_starter_by_hand_leaves_out_is_set_and_nothing_else(monkeypatch):
    for name in ("MASTER_ADDR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "4711")
    complete_environment(Place(size=3, rank=2))
    assert [os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")] == ["127.0.0.1", "4711", "0"]


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "2"},
        {"WORLD_SIZE": "2", "RANK": "-1"},
        {"WORLD_SIZE": "0", "RANK": "0"},
        {"WORLD_SIZE": "two", "RANK": "0"},
        {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "2"},
    ],
)
def test_variables_that_contradict_each_other_are_refused(variables):
    with pytest.raises(UserError, match=r"WORLD_SIZE=.*start them by torchrun"):
        own_place(variables)
