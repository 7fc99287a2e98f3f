"""Numbers beyond every limit are refused before work starts; the end of memory is told in one message, wherever."""

import subprocess
import sys

import click
import pytest
import torch
from torch import nn

from ppl_text.cli import cli, entry
from ppl_text.core import limits
from ppl_text.core.errors import UserError
from ppl_text.core.limits import out_of_memory
from ppl_text.data.options import OPTIONS, corpus_options
from ppl_text.objectives import build as build_objective
from ppl_text.objectives.parse import _MAKERS
from ppl_text.recipes import build, sizes
from ppl_text.recipes.code import model_registry
from ppl_text.recipes.config import load_config
from ppl_text.recipes.errors import checked_options
from ppl_text.recipes.keys import all_keys_of
from ppl_text.training import checkpoints, trainer

HUGE = 10**20

NO_MEMORY = {
    "Python": MemoryError(),
    "NumPy": MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000000000,) and data type float64"),
    "torch on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 3221225472 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch on a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "C++": RuntimeError("std::bad_alloc"),
    "the system": OSError(12, "Cannot allocate memory"),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_every_form_of_no_memory_is_known(error):
    assert "data.batch_size" in out_of_memory(error)
    assert "K/CHUNK" in out_of_memory(error)


def test_other_errors_are_not_taken_for_it():
    assert not out_of_memory(RuntimeError("shapes (2, 3) and (4, 5) cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))
    assert not out_of_memory(OSError(28, "No space left on device"))


def test_threads_that_cannot_be_started_are_told_apart():
    assert "lower threads" in out_of_memory(RuntimeError("can't start new thread"))


def fall_short(*_given, **_options):
    raise NO_MEMORY["torch on a CPU"]


WORK = {
    "the dry run": (nn.Linear, "forward", lambda w: ["fit", *w.tiny]),
    "building": (nn.Linear, "__init__", lambda w: ["fit", *w.tiny]),
    "training": (trainer.Trainer, "_advance", lambda w: ["fit", *w.tiny]),
    "validation": (trainer, "validate", lambda w: ["fit", *w.tiny]),
    "the report": (build.Subject, "evaluate", lambda w: ["fit", *w.tiny]),
    "evaluate": (nn.Linear, "forward", lambda w: ["evaluate", w.run()]),
    "generate": (nn.Linear, "forward", lambda w: ["generate", w.run()]),
    "compare": (nn.Linear, "forward", lambda w: ["compare", w.run(), "--draws", "2", "--sentences", "2"]),
    "swap": (trainer.Trainer, "_advance", lambda w: ["swap", w.run(), "--guide", "tril"]),
    "a resumed run": (checkpoints.torch, "load", lambda w: ["fit", "--resume", w.run_without("results.json")]),
}


@pytest.mark.parametrize("where", WORK)
def test_no_memory_ends_in_one_message_wherever_it_happens(world, ppl, monkeypatch, where):
    owner, name, arguments = WORK[where]
    line = arguments(world)
    monkeypatch.setattr(owner, name, fall_short)
    ended = ppl(*line)
    assert ended.status == 1, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].startswith("error: the memory is used up; lower what is held at once: data.batch")
    assert not list(world.folder.rglob("*.damaged"))  # a checkpoint that found no room is a good one


def whole_numbers(command):
    """Options of a command that take a whole number."""
    options = (option for option in command.params if isinstance(option, click.Option))
    return [max(option.opts, key=len) for option in options if isinstance(option.type, click.types.IntParamType)]


BESIDE = {
    ("generate", "--top-k"): ["--strategy", "sample"],
    ("generate", "--beam"): ["--strategy", "beam"],
    ("reproduce", "--jobs"): ["--budget", "smoke", "--rows", "1"],
}
FLAGS = [(name, flag) for name, command in cli.commands.items() for flag in whole_numbers(command)]


def first_argument(world, name):
    return {"fit": "words", "reproduce": "words", "explain": "words"}.get(name) or world.run()


@pytest.mark.parametrize(("name", "flag"), FLAGS)
@pytest.mark.parametrize("number", [HUGE, -1], ids=["huge", "negative"])
def test_no_number_of_a_command_is_too_large_for_a_message(world, ppl, name, flag, number):
    ended = ppl(name, first_argument(world, name), *BESIDE.get((name, flag), []), flag, str(number))
    assert ended.status == 2, ended.err
    assert "Traceback" not in ended.err
    assert "training:" not in ended.err
    if number > 0:
        assert "is at most" in ended.err or "is not in the range" in ended.err


def integer_keys(group):
    return [key.name for key in group.keys if "integer" in key.kind]


TYPED = [
    key
    for group in all_keys_of()
    if not group.title.startswith(("model", "guide", "data, unit", "sizes"))
    for key in integer_keys(group)
    if "." in key or key in ("seed", "threads")
]


@pytest.mark.parametrize("key", TYPED)
def test_no_whole_number_of_a_configuration_is_without_a_limit(key):
    value = {"patience": HUGE, key.rpartition(".")[2]: HUGE} if key.startswith("training.decay.") else HUGE
    with pytest.raises(UserError, match=rf"{key}'.*expected (less than|a number of steps from 1 to 1000000000)"):
        load_config("words", {"training.decay" if isinstance(value, dict) else key: value})


OF_DATA = [
    (group.title.rpartition(" ")[2], key)
    for group in all_keys_of()
    if group.title.startswith("data, unit")
    for key in integer_keys(group)
]


@pytest.mark.parametrize(("unit", "name"), OF_DATA)
def test_no_whole_number_of_the_data_is_without_a_limit(unit, name):
    own = name.removeprefix("data.")
    assert unit in OPTIONS
    with pytest.raises(UserError, match=f"'{own}': expected less than"):
        corpus_options(unit, {own: HUGE})


def parts():
    for family in model_registry().names():
        yield f"model {family}", model_registry().load(family)
        for name in build.families_guides(family):
            yield f"guide {name} of {family}", build.guide_registry(family).load(name)


@pytest.mark.parametrize(("what", "kind"), list(parts()), ids=[what for what, _ in parts()])
def test_no_whole_number_of_a_model_or_guide_is_without_a_limit(what, kind):
    groups = [g for g in all_keys_of() if what.split()[1] in g.title and g.title.startswith(what.split()[0])]
    names = {key.rpartition(".")[2] for group in groups for key in integer_keys(group)}
    for name in names & set(build.default_options(kind)):
        for value in (HUGE, -HUGE, [HUGE]):
            with pytest.raises(UserError, match=f"'model.{name}"):
                checked_options(kind, {name: value}, "model")


SPECS = {
    **{name: f"{name}:100000000" for name in _MAKERS if name not in ("renyi", "free-bits")},
    "renyi": "renyi:0.5:100000000",
    "free-bits": "free-bits:4:sentence:100000000",
    "a chunk": "iwae:64/100000000",
    "pyro": "pyro:Trace_ELBO:100000000",
    "pyro, renyi": "pyro:RenyiELBO:0.5:100000000",
    "beyond 64 bits": f"iwae:{HUGE}",
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_no_objective_takes_any_number_of_particles(spec):
    with pytest.raises(UserError, match=r"is at most 1,000,000; got 1000000"):
        build_objective(spec)


@pytest.mark.parametrize("what", [nn.Linear, nn.LSTM, nn.Embedding, nn.GRU])
def test_a_program_larger_than_the_memory_is_refused_before_it_is_made(what):
    says = r"the thing would take more memory \(.* GiB and more\) than this machine has"
    with pytest.raises(UserError, match=says), sizes.Roomy("the thing", memory=2**30):
        what(2**20, 2**20)


def test_a_program_of_any_number_of_layers_is_refused(monkeypatch):
    monkeypatch.setattr(sizes, "MOST_TENSORS", 100)
    with sizes.Roomy("the thing"):
        nn.LSTM(2, 2, num_layers=20)
    says = "the thing is made of at most 100 tensors; choose fewer layers"
    with pytest.raises(UserError, match=says), sizes.Roomy("the thing"):
        nn.LSTM(2, 2, num_layers=30)


def test_what_is_built_is_the_same_in_a_limited_room():
    torch.manual_seed(0)
    plain = nn.LSTM(3, 4)
    torch.manual_seed(0)
    with sizes.Roomy("the thing"):
        limited = nn.LSTM(3, 4)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), limited.parameters(), strict=True))


@pytest.mark.parametrize(
    "change", ["guide.gru_dim=1000000", "model.hidden=[1000000,1000000]", "model.state_dim=1000000"]
)
def test_sizes_beyond_the_machine_are_told_before_work_starts(world, ppl, change):
    ended = ppl("fit", *world.tiny, "--set", change)
    assert ended.status == 2, ended.err
    assert "would take more memory" in ended.err
    assert "choose smaller sizes" in ended.err
    assert not (world.folder / "runs").exists()


PROCESS = """
import sys, click
from ppl_text.cli import entry
entry.physical_memory = lambda: 2**29
@click.command()
def greedy():
    bytearray(2**30)
entry.run_command(greedy)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no limit on private memory")
def test_a_process_does_not_take_more_than_the_machine_has(environment, monkeypatch):
    done = subprocess.run([sys.executable, "-c", PROCESS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the memory is used up; lower what is held at once")


def test_a_limit_that_is_set_stays(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(entry, "physical_memory", lambda: None)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    entry.limit_memory()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("version", [1, 2])
def test_the_memory_of_the_group_counts(version, monkeypatch, tmp_path):
    names = ["memory.max", "memory.current", "inactive_file"]
    if version == 1:
        names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
    limit, taken = tmp_path / names[0], tmp_path / names[1]
    monkeypatch.setattr(limits, "_GROUPS", ())
    whole = limits.physical_memory()
    monkeypatch.setattr(limits, "_GROUPS", (limits._Group(limit, taken, names[2]),))
    taken.write_text("400000\n")
    limit.write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert limits.physical_memory() == whole
    assert 2**20 < limits.free_memory() <= whole
    limit.write_text("1048576\n")
    assert limits.physical_memory() == 2**20
    assert limits.free_memory() == 2**20 - 400000
    # What was read from files and waits is given back before a process is refused.
    (tmp_path / "memory.stat").write_text(f"anon 5\n{names[2]} 150000\nother_{names[2]} 7\n")
    assert limits.free_memory() == 2**20 - 250000
    taken.write_text("2000000\n")
    assert limits.free_memory() == 0
