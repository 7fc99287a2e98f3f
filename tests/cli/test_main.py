"""What becomes of each kind of fault: exit status and message."""

import dataclasses
import inspect
import re

import click
import pytest

from ppl_text.cli import cli
from ppl_text.cli import list as list_command
from ppl_text.comparing.candidates import Settings
from ppl_text.core.errors import CheckpointError, Interrupted, UserError
from ppl_text.evaluation.decoding import Beam
from ppl_text.recipes import REFIT_STEPS
from ppl_text.recipes.swap import child_parts
from ppl_text.run import Run
from ppl_text.tables.reproduce import reproduce

FAULTS = {
    "a user's mistake": (UserError("mend it"), 2, "error: mend it\n"),
    "the machine's": (CheckpointError("no room"), 1, "error: no room\n"),
    "stopped by a signal": (Interrupted("saved", exit_code=143), 143, "error: saved\n"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "error: interrupted; what was saved before is untouched\n"),
    "a question not answered": (click.Abort(), 130, "error: interrupted; what was saved before is untouched\n"),
    "a bad option": (click.UsageError("no such thing"), 2, "Error: no such thing\n"),
    "the disk": (OSError(28, "No space left on device"), 1, "error: the machine refused: [Errno 28] No space left"),
    "no memory": (
        MemoryError(),
        1,
        "error: the memory is used up; lower what is held at once: data.batch_size",
    ),
    "no memory on the GPU": (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "error: the memory is used up"),
    "no memory for torch": (RuntimeError("DefaultCPUAllocator: not enough memory"), 1, "error: the memory is used up"),
}


@pytest.mark.parametrize(("fault", "status", "message"), FAULTS.values(), ids=FAULTS)
def test_each_fault_has_its_status_and_a_line(ppl, monkeypatch, fault, status, message):
    def fail():
        raise fault

    monkeypatch.setattr(list_command, "list_corpora", fail)
    ended = ppl("list", "corpora")
    assert ended.status == status
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_a_bug_keeps_its_traceback(ppl, monkeypatch):
    """Whoever mends it needs it."""
    monkeypatch.setattr(list_command, "list_corpora", lambda: [][1])
    with pytest.raises(IndexError):
        ppl("list", "corpora")


def default_of(function, name):
    return inspect.signature(function).parameters[name].default


DEFAULTS = {
    ("swap", "steps"): REFIT_STEPS,
    ("compare", "steps"): REFIT_STEPS,
    **{("compare", f.name): f.default for f in dataclasses.fields(Settings)},
    **{("evaluate", name): default_of(Run.evaluate, name) for name in ("split", "particles", "seed")},
    ("generate", "width"): Beam().width,
    ("generate", "length_penalty"): Beam().length_penalty,
    ("reproduce", "budget"): default_of(reproduce, "budget"),
}


@pytest.mark.parametrize(("command", "name"), DEFAULTS)
def test_the_default_that_help_states_is_that_of_the_function_behind_it(command, name):
    option = next(option for option in cli.commands[command].params if option.name == name)
    expected = DEFAULTS[command, name]
    stated = option.default if option.show_default else re.findall(r"\[default: (.*)\]|\((.*)\)\.$", option.help)
    assert stated == expected or "".join(stated[0]) == f"{expected:g}"


def test_a_swap_without_steps_makes_those_that_help_states(trained):
    assert child_parts(trained, "prior").config.training.steps == REFIT_STEPS
