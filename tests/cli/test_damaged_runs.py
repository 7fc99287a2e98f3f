"""Run folders whose files are well formed and wrong: each field, missing or of another type, over the commands."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wrong_values import MISSING, changed

from ppl_text.core.errors import PplTextError, RunFolderError
from ppl_text.recipes.records import RECORDS, ResultsRecord, read_record
from ppl_text.training.weights import read_metadata

WRONG = {"null": None, "list": [1], "text": "x", "number": -7, "fraction": 1.5, "object": {"a": 1}, "truth": True}

FILES = {
    "data.json": {"corpus": "words", "fingerprint": "f", "max_steps": 9, "max_source_steps": 0, "notes": ["a"]},
    "environment.json": {"device_name": "a machine", "cpu_count": 2, "packages": {"torch": "2"}},
    "parent.json": {"folder": "f", "recipe": "r", "guide": "g", "step": 3, "validation_bound": -1.5, "sha256": "s"},
    "results.json": {"trained": {"step": 3, "best_step": 2, "stopped": "steps"}, "elbo": -1.0},
}


def places(values, before=()):
    """Every field, those within others too."""
    for name, value in values.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from places(value, (*before, name))


CASES = [
    pytest.param(name, place, wrong, id=f"{name} {'.'.join(place)} {kind}")
    for name, values in FILES.items()
    for place in places(values)
    for kind, wrong in {"missing": MISSING, **WRONG}.items()
]


@pytest.mark.parametrize(("name", "place", "wrong"), CASES)
def test_a_record_is_refused_by_file_and_field_or_read(tmp_path, name, place, wrong):
    path = tmp_path / name
    path.write_text(json.dumps(changed(FILES[name], place, wrong)), encoding="utf-8")
    message = refusal(path)
    assert message is None or message.startswith(f"{path}: '{'.'.join(place)}")
    assert message is None or "the run folder is damaged" in message


def refusal(path):
    """What is said of a record, None where it is read."""
    try:
        RECORDS[path.name].model_validate(read_record(path))
    except RunFolderError as error:
        return str(error)


MUST_FAIL = [
    ("data.json", ("max_steps",), "x"),
    ("data.json", ("max_steps",), -7),
    ("data.json", ("notes",), "x"),
    ("environment.json", ("packages",), MISSING),
    ("environment.json", ("packages", "torch"), None),
    ("environment.json", ("cpu_count",), "two"),
    ("parent.json", ("sha256",), None),
    ("parent.json", ("step",), "x"),
    ("results.json", ("trained",), [1]),
    ("results.json", ("trained", "step"), MISSING),
    ("results.json", ("trained", "step"), True),
]


@pytest.mark.parametrize(("name", "place", "wrong"), MUST_FAIL)
def test_what_is_read_again_must_be_right(tmp_path, name, place, wrong):
    path = tmp_path / name
    path.write_text(json.dumps(changed(FILES[name], place, wrong)), encoding="utf-8")
    with pytest.raises(RunFolderError, match=rf"{name}: '{'.'.join(place)}"):
        read_record(path)


@pytest.mark.parametrize("content", ["[1]", "3", '"x"', "null", "{", ""])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_object_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=f"{name} cannot be read"):
        read_record(tmp_path / name)


def test_a_record_without_figures_has_none():
    assert ResultsRecord.model_validate({}).trained.step == 0


FEW = ["--draws", "2", "--sentences", "2", "--repeats", "2", "--objectives", "elbo"]

COMMANDS = {
    "generate": lambda run: ["generate", run, "-n", "1"],
    "evaluate": lambda run: ["evaluate", run, "--limit", "2", "--particles", "1"],
    "compare": lambda run: [
        "compare",
        run,
        "--draws",
        "2",
        "--sentences",
        "2",
        "--repeats",
        "2",
        "--objectives",
        "elbo",
    ],
    "swap": lambda run: ["swap", run, "--guide", "tril", "--steps", "1"],
    "resume": lambda run: ["fit", "--resume", run],
}
READ_BY = {
    "data.json": ("generate", "evaluate", "compare", "swap", "resume"),
    "environment.json": ("resume",),
    "results.json": ("evaluate", "resume"),
    "tokenizer.json": ("generate",),
    "metrics.jsonl": ("resume",),
}
"""Files of a run, and commands that read them."""

OF_A_RUN = [
    pytest.param(name, command, wrong, id=f"{name} {command} {kind}")
    for name, commands in READ_BY.items()
    for command in commands
    for kind, wrong in {"list": [1], "text": "x"}.items()
]


@pytest.mark.parametrize(("name", "command", "wrong"), OF_A_RUN)
def test_no_command_meets_a_wrong_field_with_a_traceback(world, ppl, name, command, wrong):
    run = world.run()
    path = world.folder / run / name
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines() if name.endswith("l") else [whole]
    for field in json.loads(lines[-1]):
        broken = [*lines[:-1], json.dumps(changed(json.loads(lines[-1]), (field,), wrong))]
        path.write_text("\n".join(broken) + "\n", encoding="utf-8")
        ended = ppl(*COMMANDS[command](run))
        assert ended.status in (0, 1, 2), (field, ended.err)
        assert "Traceback" not in ended.err
        if ended.status:
            assert name in ended.err or "fingerprint" in field, (field, ended.err)
            assert "training:" not in ended.err  # before work starts
        else:
            break  # what is not read again may say anything; one such run will do


METADATA = {
    "a list": [1],
    "a number": 3,
    "a list of steps": {"step": [1]},
    "a step below 0": {"step": -1},
    "a bound in words": {"validation_bound": "x"},
    "aliases in a list": {"aliases": [1]},
    "an alias of nothing": {"aliases": {"a": "b"}},
    "an alias of a number": {"aliases": {"a": 1}},
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_of_weights_are_told_by_file_and_field(world, ppl, metadata):
    path = world.folder / world.run() / "model.safetensors"
    save_file(load_file(path), path, {"ppl_text": json.dumps(metadata)})
    with pytest.raises(PplTextError, match="metadata"):
        read_metadata(path)
    ended = ppl("generate", "run", "-n", "1")
    assert ended.status == 1
    assert "model.safetensors" in ended.err
    assert "metadata" in ended.err


WEIGHTS = {
    "NaN": (
        lambda old: torch.full_like(old, float("nan")),
        1,
        "has NaN or infinite entries: the weights have diverged",
    ),
    "infinite": (lambda old: torch.full_like(old, float("inf")), 1, "has NaN or infinite entries"),
    "whole numbers": (lambda old: old.long(), 2, "is of type torch.int64, here torch.float32"),
    "half": (lambda old: old.half(), 2, "is of type torch.float16, here torch.float32"),
    "another shape": (lambda old: torch.zeros(3, 7), 2, "has shape (3, 7), here"),
}


@pytest.mark.parametrize("command", ["generate", "evaluate", "swap"])
@pytest.mark.parametrize(("change", "status", "says"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_of_another_kind_are_told_by_name(world, ppl, command, change, status, says):
    run = world.run()
    path = world.folder / run / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("model.") and tensors[name].is_floating_point())
    save_file({**tensors, name: change(tensors[name])}, path, metadata)
    ended = ppl(*COMMANDS[command](run))
    assert ended.status == status, ended.err
    assert f"'{name}' {says}" in ended.err
    assert "model.safetensors" in ended.err


STRUCTURES = {
    "a list": [1],
    "nothing": {},
    "an identity of a list": {"format": 1, "identity": [1], "state": {}},
    "a state of a list": {"format": 1, "identity": {}, "state": [1]},
    "another format": {"format": "x", "identity": {}, "state": {}},
}


@pytest.mark.parametrize("content", STRUCTURES.values(), ids=STRUCTURES)
def test_a_checkpoint_of_another_structure_is_told(world, ppl, content):
    run = world.run_without("results.json", "report.md")
    for path in (world.folder / run / "checkpoints").glob("*.pt"):
        torch.save(content, path)
    ended = ppl("fit", "--resume", run)
    assert ended.status == 2, ended.err
    assert "checkpoint" in ended.err
