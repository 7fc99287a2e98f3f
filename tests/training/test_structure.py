"""Checkpoints that are whole and wrong: each field, missing or of another type, is told by its name or does no harm."""

import pytest
import torch
from wrong_values import MISSING, changed

from ppl_text.core.errors import PplTextError, RunFolderError

WRONG = {"text": "x", "list": [1], "number": -7, "object": {"a": 1}, "tensor": torch.zeros(2, 9)}


def fields_of(state, before=()):
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for name, value in pairs:
        if before != ("processes", 0, "random"):  # thousands of numbers
            yield (*before, name)
            yield from fields_of(value, (*before, name))


@pytest.fixture(scope="module")
def saved(make, tmp_path_factory):
    """A folder with one checkpoint, and what it holds."""
    folder = tmp_path_factory.mktemp("saved")
    make(folder, steps=3, validation=None).trainer.fit()
    for path in (folder / "checkpoints").iterdir():
        if path.name != "step-00000003.pt":
            path.unlink()
    path = folder / "checkpoints" / "step-00000003.pt"
    return folder, path, torch.load(path, weights_only=True)


@pytest.mark.parametrize("wrong", [MISSING, *WRONG.values()], ids=["missing", *WRONG])
def test_every_field_is_right_or_told(make, saved, wrong):
    folder, path, good = saved
    told = {}
    for place in fields_of(good["state"]):
        torch.save({**good, "state": changed(good["state"], place, wrong)}, path)
        try:
            make(folder, steps=4, validation=None).trainer.fit(resume=True)
        except PplTextError as error:
            told[place] = str(error)
        (path.parent / "step-00000004.pt").unlink(missing_ok=True)
    assert all(path.name in text for text in told.values())
    assert len(told) > len(list(fields_of(good["state"]))) / 2
    if wrong is not MISSING:
        for place in (("counters",), ("processes",), ("parameters",), ("processes", 0, "meters")):
            assert place in told


@pytest.mark.parametrize(
    "place", [("counters", "step"), ("processes", 0, "meters", "sums"), ("parameters", "model.head.bias")]
)
def test_the_message_names_the_field(make, saved, place):
    folder, path, good = saved
    torch.save({**good, "state": changed(good["state"], place, "x")}, path)
    with pytest.raises(RunFolderError, match=str(place[-1]).replace(".", r"\.")) as caught:
        make(folder, steps=3, validation=None).trainer.fit(resume=True)
    assert str(path) in str(caught.value)


def test_what_is_right_is_taken(make, saved):
    folder, path, good = saved
    torch.save(good, path)
    assert make(folder, steps=3, validation=None).trainer.fit(resume=True).step == 3
