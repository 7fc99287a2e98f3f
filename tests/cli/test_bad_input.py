"""One table of bad inputs: the message that each must give, status 2, no traceback, and nothing half-written."""

import json
import os
import subprocess
from contextlib import ExitStack

import pytest
import torch

from .bad_configurations import KEYS, LATENT_SEQUENCES, NAMES
from .bad_files import DATA, GUIDES, STREAMS
from .bad_folders import FINISHED, FOLDERS, REPORTS, SWAPS
from .bad_places import LONG_NAMES, OTHERS, STORES, TAKEN
from .bad_pretrained import PRETRAINED
from .bad_texts import DIGITS, JSON, PIPES, RECIPE_NAMES, YAML
from .bad_world import World

CASES = {
    f"{room}: {name}": case
    for room, cases in {
        "names": NAMES,
        "keys": KEYS,
        "data": DATA,
        "streams": STREAMS,
        "guides": GUIDES,
        "folders": FOLDERS,
        "finished": FINISHED,
        "swap": SWAPS,
        "report": REPORTS,
        "latent sequences": LATENT_SEQUENCES,
        "pretrained": PRETRAINED,
        "YAML": YAML,
        "recipe's name": RECIPE_NAMES,
        "pipes": PIPES,
        "JSON": JSON,
        "store": STORES,
        "out": TAKEN,
        "reproduce": OTHERS,
        "long names": LONG_NAMES,
        "digits": DIGITS,
    }.items()
    for name, case in cases.items()
}

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def tree(folder):
    """Every file and folder below, with its content."""
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def check(case, status, out, err, before, after):
    assert status == case.status, err
    for text in case.says:
        assert text in err, err
    assert "Traceback" not in err + out
    assert "training:" not in err  # found before work started
    assert not out
    assert after == before


def table(names=CASES):
    gpu = {name for name in names if "cuda" in name}
    return [pytest.param(CASES[name], id=name, marks=[NO_GPU] if name in gpu else []) for name in names]


@pytest.mark.parametrize("case", table())
def test_bad_input_is_met_in_words(world, ppl, case):
    arguments = case.arguments(world)
    before = tree(world.folder)
    ended = ppl(*arguments)
    check(case, ended.status, ended.out, ended.err, before, tree(world.folder))


REAL = [
    "names: unknown recipe",
    "data: not UTF-8",
    "guides: file raises",
    "guides: another site",
    "folders: out is a run",
]


def test_real_processes_end_alike(world, command, environment):
    """A handful of the table as processes of their own, all at once."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environ = environment | {"PYTHONDONTWRITEBYTECODE": "1"}
    started = []
    with ExitStack() as stack:
        for name in REAL:
            place = world.folder / name.replace(": ", "-")
            place.mkdir()
            arguments = CASES[name].arguments(World(place, world.tiny, world.trained))
            before = tree(place)
            process = subprocess.Popen(command(*arguments), cwd=place, env=environ, **pipes)
            started.append((CASES[name], place, before, stack.enter_context(process)))
        results = [
            (case, place, before, process.communicate(timeout=240), process) for case, place, before, process in started
        ]
    for case, place, before, (out, err), process in results:
        check(case, process.returncode, out, err, before, tree(place))


def test_the_advice_for_a_folder_that_is_not_empty_works(world, ppl):
    run = world.run()
    refused = ppl("fit", *world.tiny, "--out", run)
    _, advice = refused.err.split("go on with the run in it (python -m ppl_text ")
    assert ppl(*advice.split(")")[0].split()).status == 0
    assert ppl("fit", *world.tiny, "--out", "another").status == 0
    assert json.loads((world.folder / "another" / "results.json").read_text())["trained"]["step"] == 20


def test_the_advice_for_a_run_without_a_checkpoint_works(world, ppl):
    run = world.run_without("checkpoints", "model.safetensors", "results.json", "report.md")
    refused = ppl("fit", "--resume", run)
    _, advice = refused.err.split("start it anew: python -m ppl_text ")
    assert ppl(*advice.split()).status == 0
    assert os.listdir("runs") == ["words-1"]
    assert (world.folder / "runs/words-1/model.safetensors").read_bytes() == (
        world.trained / "model.safetensors"
    ).read_bytes()
