"""``fit --devices 2``: two processes of this machine, which train one run together."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch

from .conftest import run_process

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed"),
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs a POSIX system that counts CPUs"),
    pytest.mark.skipif("OTHER_ROUNDING" in os.environ, reason="the processes round as this machine does"),
]
TWO_CPUS = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs"
)
CHILDREN = "/proc/{0}/task/{0}/children"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
SMALL = {
    "data.batch_size": 12,
    "data.validation_sentences": 16,
    "training.optimizer": "sgd",
    "training.log_every": 1,
    "training.validate_every": 4,
    "training.checkpoint_every": 2,
    "report.sentences": 8,
    "report.particles": 2,
    "report.samples": 2,
    "device": "cpu",
}


@pytest.fixture
def line(command, word_list):
    """``line("--devices", 2, …)``: train a letter model without any noise."""
    changes = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    return lambda *own: command("fit", "words-gru8", "--data", word_list, *changes, *own)


def records(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@TWO_CPUS
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_other_processes_as_if_nothing_had_changed(line, environment, tmp_path, first, then):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    begun = run_process(line("--devices", first, "--steps", 4, "--out", shared, "--json"), environment)
    assert begun.status == 0, begun.err
    assert json.loads(begun.out)["run"] == str(shared)  # one report, of the first process
    assert json.loads((shared / "environment.json").read_text())["processes"] == first
    resumed = run_process(line("--devices", then, "--steps", 8, "--resume", shared), environment)
    assert resumed.status == 0, resumed.err
    named = ["1 process", "2 processes"]
    assert f"{named[first - 1]} trained before, {named[then - 1]} from here: noise is drawn anew" in resumed.err
    assert run_process(line("--steps", 8, "--out", alone), environment).status == 0
    for one, other in zip(records(alone), records(shared), strict=True):
        assert (one["step"], one["split"]) == (other["step"], other["split"])
        for name in ("bound", "loss", "grad_norm"):
            if name in one:
                assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5)
    for said in (begun.err, resumed.err):
        assert "Traceback" not in said
        assert "Initializing" not in said  # what the libraries say of the meeting
        assert "[rank" not in said
        assert said.count("training: ") == 1


def started(line, environment, folder, *own):
    """A long training of two processes that has begun: the process, its pids in order, and what it has said."""
    more = ("--devices", 2, "--steps", 100_000, "--set", "training.log_every=20", "--out", folder, *own)
    process = subprocess.Popen(line(*more), env=environment, text=True, **PIPES)
    seen = ""
    for text in process.stderr:
        seen += text
        if text.startswith("step "):
            break
    children = CHILDREN.format(process.pid)
    with open(children, encoding="ascii") as file:
        return process, list(map(int, file.read().split())), seen


def ended(process, seen):
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err
    return process.returncode, out, seen + err


@TWO_CPUS
@pytest.mark.skipif(not os.path.exists(CHILDREN.format(os.getpid())), reason="finds children as Linux does")
@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (1, "error: another process of this training is gone (killed, out of memory, or ended by an error of its own)"),
        (0, "error: the first of 2 processes was killed (SIGKILL), and the training with it"),
    ],
)
def test_a_lost_process_ends_the_others_with_one_message(line, environment, tmp_path, lost, says):
    process, children, seen = started(line, environment, tmp_path / "run")
    os.kill(children[lost], signal.SIGKILL)
    status, _, err = ended(process, seen)
    assert status == 1
    assert says in err
    assert err.count("error: ") == 1
    for child in children:
        assert not os.path.exists(f"/proc/{child}")
    step = max(int(path.stem[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    resumed = run_process(line("--resume", tmp_path / "run", "--steps", step + 2), environment)
    assert resumed.status == 0, resumed.err


@TWO_CPUS
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_once_and_ends_all(line, environment, tmp_path, name):
    process, children, seen = started(line, environment, tmp_path / "run", "--set", "training.log_every=1500")
    process.send_signal(getattr(signal, name))
    for child in children:
        os.kill(child, getattr(signal, name))  # as a group of processes gets it: once more, and at once
    status, out, err = ended(process, seen)
    assert status == 128 + getattr(signal, name)
    assert out == ""
    assert err.count("error: ") == err.count(f"error: stopped by {name} after step ") == 1
    assert f"Go on with: python -m ppl_text fit --resume {tmp_path / 'run'} --devices 2" in err


@TWO_CPUS
@pytest.mark.skipif(not os.path.exists(CHILDREN.format(os.getpid())), reason="finds children as Linux does")
def test_processes_end_with_the_command_that_started_them(line, environment, tmp_path):
    process, _, seen = started(line, environment, tmp_path / "run")
    process.kill()
    _, err = process.communicate(timeout=240)  # until they all have let go of the stream of errors
    assert "error: stopped by SIGTERM after step" in seen + err


@TWO_CPUS
def test_processes_may_be_started_by_hand(line, environment, tmp_path):
    """One on each machine, say, without the variables that number those of one machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        meeting = {"MASTER_PORT": str(found.getsockname()[1]), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(line("--steps", 2, "--out", tmp_path / "run", "-q"), env=environment | meeting | own, **PIPES)
        for own in ({"RANK": "0"}, {"RANK": "1"})
    ]
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    assert b"# Run run" in ended[0][0]
    assert ended[1] == (b"", b"")


SCRIPT = """
import sys
import ppl_text as pt
run = pt.fit("words-gru8", data=sys.argv[1], steps=2, device="cpu", out=sys.argv[2], set={
    "data.batch_size": 12, "data.validation_sentences": 16, "report.sentences": 8, "report.particles": 2,
    "report.samples": 2, "training.log_every": 1})
print("again", pt.fit("words-gru8", data=sys.argv[1], steps=1, device="cpu", out=sys.argv[2] + "-2", set={
    "data.batch_size": 11, "report.sentences": 8, "report.particles": 2, "report.samples": 2}).finished)
"""


@TWO_CPUS
def test_a_script_goes_on_in_its_first_process_alone(environment, tmp_path, word_list):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = run_process([*start, str(word_list), str(tmp_path / "run")], environment)
    assert done.status == 0, done.err[-3000:]
    assert done.out.count("again True") == 1


@TWO_CPUS
def test_a_loss_that_is_not_finite_ends_all_at_one_step_with_one_message(line, environment, tmp_path):
    wild = ("--set", "training.lr=1e38", "--set", "training.clip_norm=null", "--steps", 50)
    done = run_process(line("--devices", 2, "--out", tmp_path / "run", *wild), environment)
    assert done.status == 1
    assert done.err.count("error: ") == done.err.count("error: step ") == 1
    assert "Training stopped and nothing was restored" in done.err
    assert "Traceback" not in done.err


REFUSED = {
    "more devices than CPUs": ({}, ("--devices", 4096), "--devices 4096: this process may use"),
    "no device": ({}, ("--devices", 0), "--devices"),
    "devices beside torchrun": (
        {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "0"},
        ("--devices", 1),
        "--devices 1, and 4 processes have been started on this machine; leave --devices out",
    ),
    "a batch that cannot be shared": (
        {"WORLD_SIZE": "5", "RANK": "0", "LOCAL_WORLD_SIZE": "5", "LOCAL_RANK": "0"},
        (),
        "5 processes cannot share a batch of 12 texts (data.batch_size) evenly; give a multiple of 5, as --set "
        "data.batch_size=15",
    ),
    "parameters that one process is to share out": (
        {},
        ("--set", "strategy=fsdp"),
        "strategy: fsdp cannot share out the parameters: it needs several processes, and this is the only one "
        "(--devices N, or torchrun); it needs GPUs",
    ),
    "parameters that are to be shared out on a CPU": (
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        ("--set", "strategy=fsdp"),
        "strategy: fsdp cannot share out the parameters: it needs GPUs, and this is the cpu; no part of this "
        "language_model names blocks that can be gathered one by one (sharded_blocks); use --set strategy=ddp",
    ),
    "an environment that says nothing sensible": (
        {"WORLD_SIZE": "two", "RANK": "0"},
        (),
        "the environment says that several processes train together, but not which: WORLD_SIZE=two, RANK=0",
    ),
    "a process beyond the last": ({"WORLD_SIZE": "2", "RANK": "2"}, (), "WORLD_SIZE=2, RANK=2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_together_is_refused_before_anything_is_written(line, environment, tmp_path, case):
    own, options, says = REFUSED[case]
    done = run_process(line(*options, "--out", tmp_path / "run"), environment | own)
    assert done.status == 2, done.err
    assert says in done.err
    assert done.err.count("rror: ") == 1
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_of_a_machine_tells_what_all_find_wrong(command, environment):
    told = []
    for rank in range(4):
        place = {"WORLD_SIZE": "4", "RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank % 2)}
        done = run_process(command("fit", "wrods"), environment | place)
        assert done.status == 2
        told.append(done.err.partition("unknown recipe")[0])
    assert told == ["error: ", "", "error: process 2 of 4: ", ""]


def test_other_commands_run_alone(command, environment, trained):
    place = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    done = run_process(command("evaluate", trained.folder), environment | place)
    assert done.status == 2
    assert "evaluate runs in one process, and 2 have been started" in done.err
