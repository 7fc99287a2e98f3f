"""Real processes: signals, a terminal, a closed pipe, the console script."""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ppl_text as pt

from .conftest import run_process

STEPS = 400
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_arguments, command, environment):
    """Three runs, each stopped by a signal once its first steps are done: folder, status and stderr."""
    folder = tmp_path_factory.mktemp("stopped")
    results = {}
    for name in SIGNALS:  # one after the other: none may reach its end while another is being stopped
        changes = ["--steps", STEPS, "--set", "training.log_every=2", "--out", folder / name]
        line = command("fit", *tiny_arguments, *changes)
        with subprocess.Popen(line, env=environment, text=True, **PIPES) as process:
            seen = ""
            for text in process.stderr:
                seen += text
                if text.startswith("step "):
                    process.send_signal(getattr(signal, name))
                    break
            out, err = process.communicate(timeout=240)
        results[name] = process.returncode, out, seen + err
    return folder, results


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny, one_thread):
    """The same run without an interruption."""
    changes = {**tiny, "training.log_every": 2, "training.steps": STEPS}
    return pt.fit(set=changes, out=tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.skipif("OTHER_ROUNDING" in os.environ, reason="the stopped process rounds as this machine does")
@pytest.mark.parametrize("name", SIGNALS)
def test_a_stopped_run_resumes_and_equals_an_uninterrupted_one(stopped, whole, ppl, name):
    folder, results = stopped
    status, out, err = results[name]
    assert status == SIGNALS[name], err
    assert out == ""
    assert "Traceback" not in err
    if name != "SIGKILL":
        assert f"error: stopped by {name} after step " in err
        assert f"Go on with: python -m ppl_text fit --resume {folder / name}" in err
    assert not pt.load(folder / name).finished
    resumed = ppl("fit", "--resume", folder / name)
    assert resumed.status == 0, resumed.err
    for file in ("model.safetensors", "results.json"):
        assert (folder / name / file).read_bytes() == (whole.folder / file).read_bytes()
    assert steps_and_bounds(folder / name) == steps_and_bounds(whole.folder)


def steps_and_bounds(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(r["split"], r["step"], r["bound"], r["kl"]) for r in records]


@pytest.mark.skipif(os.name != "posix", reason="opens a pseudo-terminal")
def test_a_terminal_shows_a_bar(tmp_path, tiny_arguments, command, environment):
    import pty

    ours, theirs = pty.openpty()
    line = command("fit", *tiny_arguments, "--out", tmp_path / "run")
    environ = environment | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(line, env=environ, stderr=theirs, stdout=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        shown = drain(ours)
        out, _ = process.communicate(timeout=240)
    os.close(ours)
    assert process.returncode == 0, shown
    assert "\x1b[" in shown
    assert "20/20" in shown
    assert "━" in shown
    assert "KL" in shown
    assert "validation at step 10: bound" in shown
    assert "step 5/20" not in shown  # that is how lines for a log file begin
    assert out.strip().startswith("# Run run: words")


def drain(descriptor):
    """All that a process writes to its terminal until it closes it."""
    shown = b""
    while select.select([descriptor], [], [], 240)[0]:
        try:
            part = os.read(descriptor, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # Linux: the other side is closed
                raise
            break
        if not part:
            break
        shown += part
    return shown.decode(errors="replace")


def test_a_reader_that_leaves_early_is_no_fault(trained, command, environment):
    """``generate | head -1``."""
    line = command("generate", trained.folder, "-n", "5000")
    with subprocess.Popen(line, env=environment, **PIPES) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=240)
    assert err == b""
    assert process.returncode in (0, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_the_output_is_told(trained, command, environment):
    with open("/dev/full", "w") as full:
        ended = run_process(command("generate", trained.folder), environment, stdout=full)
    assert ended.status == 1
    assert ended.err == "error: the machine refused: [Errno 28] No space left on device\n"


def test_the_console_script_is_the_same_program(trained, environment):
    script = shutil.which("ppl-text", path=str(Path(sys.executable).parent))
    assert script, "pip install -e . puts it beside python"
    ended = run_process([script, "generate", str(trained.folder), "-n", "3"], environment)
    assert ended.out.splitlines() == trained.generate(3)
    assert run_process([script, "evaluate", "nothing"], environment).status == 2


def test_letters_that_a_terminal_cannot_show_are_replaced(command, environment):
    environ = environment | {"PYTHONIOENCODING": "latin-1:strict"}
    ended = run_process(command("list", "objectives"), environ, encoding="latin-1")
    assert ended.status == 0, ended.err
    assert "Rényi bound of order ALPHA ? 1" in ended.out


LOADING = """
import os, signal, sys
import ppl_text.__main__ as program

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})
        return None

sys.meta_path.insert(0, Finder())
sys.argv = ["ppl_text", "list", "recipes"]
program.start()
"""


@pytest.mark.parametrize("module", ["ppl_text.cli", "ppl_text.cli.entry", "ppl_text.recipes.tree"])
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_while_loading_is_told(environment, module, name, status):
    script = LOADING.format(module=module, signal=name)
    ended = run_process([sys.executable, "-c", script], environment)
    assert ended.status == status, ended.err
    assert ended.err.strip().splitlines()[-1].startswith(("error: stopped by", "error: interrupted"))
    assert len(ended.err.strip().splitlines()) == 1


def test_forty_signals_in_a_row_print_no_traceback(tmp_path, tiny_arguments, command, environment):
    line = command("fit", *tiny_arguments, "--steps", STEPS, "--out", tmp_path / "run")
    with subprocess.Popen(line, env=environment, text=True, **PIPES) as process:
        shown = process.stderr.readline()  # it works, and may be anywhere
        for _ in range(40):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 130, shown + err
    assert "Traceback" not in shown + out + err
    assert (shown + err).count("error: ") == 1
