"""``swap`` as it is typed: one command, a pipe, and the real program on a pseudo-terminal."""

import errno
import fcntl
import os
import re
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

import ppl_text as pt

from .conftest import run_process

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_command_prints_before_and_after_and_what_to_run_next(ppl, copied):
    ended = ppl("swap", copied, "--guide", "tril", "--steps", "6")
    assert ended.status == 0, ended.err
    child = pt.load(copied / "swaps" / "tril-1")
    pair = pt.run.swap.before_after(child)
    assert re.search(r"quantity +before: diagonal +after: tril\n", ended.out)
    for figures in (pair.before, pair.after):
        assert f"{figures.elbo:.3f} ± {figures.elbo_se:.3f}" in ended.out
        assert f"{figures.gap:.3f} ± {figures.gap_se:.3f}" in ended.out
    assert "importance-weighted bound, K = 4" in ended.out
    assert "step 6/6" in ended.err
    assert ended.err.count("validation at step") == 3  # every second step
    line = next(line for line in ended.out.splitlines() if f"evaluate {child.folder}" in line)
    assert ppl(*line.split("python -m ppl_text ")[1].split(), "--particles", "2").status == 0


def test_command_and_python_give_the_same_child(ppl, copied, tmp_path):
    arguments = ["--steps", "5", "--objective", "iwae:2", "--seed", "3", "--set", "guide.gru_dim=6"]
    ended = ppl("swap", copied, "--guide", "bidirectional", *arguments, "--out", tmp_path / "command")
    assert ended.status == 0, ended.err
    options = {"objective": "iwae:2", "seed": 3, "set": {"guide.gru_dim": 6}, "out": tmp_path / "python"}
    pt.load(copied).swap_guide("bidirectional", steps=5, **options)
    for name in ("model.safetensors", "config.yaml", "results.json", "parent.json"):
        assert (tmp_path / "command" / name).read_bytes() == (tmp_path / "python" / name).read_bytes(), name


def test_a_pipe_drives_a_session(copied, command, environment):
    lines = "tabel\n2 3\nundo\nundo\n5 -2\nno.py:Mine\ntril 2 3\nsave a b\ntable 3\n'prior\nprior\nhelp\nexit\nlist\n"
    ended = run_process(command("swap", copied), environment, input=lines)
    assert ended.status == 0, ended.err
    assert "Traceback" not in ended.err
    for text in (
        "error: unknown guide or command 'tabel' (did you mean 'table'?)",
        "diagonal> 2 3\n",
        f"{copied}/swaps/tril-1 was removed; current: diagonal",
        "error: nothing to undo",
        "error: the number of steps must be a whole number of 1 or more; got '-2'",
        "no.py' does not exist; give an existing file as FILE.py:CLASS",
        "error: after a guide come at most its number of steps, and KEY=VALUE without spaces; got '2 3'",
        "error: 'save' takes no more: save [DIR]",
        "error: 'table' takes no argument: table",
        "current: prior",
        f"kept: {copied}/swaps/prior-1",
        f"python -m ppl_text compare {copied} {copied}/swaps/prior-1",
    ):
        assert text in ended.out, text
    assert ended.out.count("> list") == 0  # 'exit' came before it
    assert os.listdir(copied / "swaps") == ["prior-1"]


REFITS = {
    "fit tril objective=iwae:2 lr=0.002 steps=3": "current: tril, in",
    "mean-field 2 seed=4 gru=5": "(did you mean 'gru_dim'?)",
    "prior 2 steps=3": "error: the number of steps is given twice: 2 and 3; give one",
    "prior steps=x": "error: the number of steps must be a whole number of 1 or more; got 'x'",
    "prior objective=5": "error: objective=5: expected a name, such as iwae:8",
    "prior objective=iwea:2": "did you mean 'iwae'?",
    "prior seed=-1": "error: seed=-1: expected a whole number of 0 or more",
    "prior freeze=guide": "freeze: expected 'none' or 'model'; got 'guide'",
    "prior =3": "error: expected KEY=VALUE, for example lr=0.001; got '=3'",
    "prior model.layers=2": "a swap keeps the parent's model and data: model.layers cannot change",
    "prior lr=": "training.lr",
    "fit": "error: fit which guide? [fit] GUIDE [STEPS] [KEY=VALUE …]",
    "help fit": "e.g. fit tril 500, or: tril objective=iwae:8 lr=0.001 steps=200",
    "? save": "save [DIR]: keep the current child, in DIR if one is given",
    "?": "[fit] GUIDE [STEPS] [KEY=VALUE …]  put that guide in and refit it",
    "help svae": "error: unknown command 'svae' (did you mean 'save'?)",
    "exit now": "error: 'quit' takes no argument: quit",
}


def test_a_refit_has_options_of_its_own_and_help_says_so(copied, command, environment):
    ended = run_process(
        command("swap", copied, "--steps", "2"), environment, input="\n".join([*REFITS, "table", "exit"])
    )
    assert ended.status == 0, ended.err
    assert "Traceback" not in ended.err
    *answers, table, _ = re.split(r"^[\w-]+> .*\n", ended.out, flags=re.MULTILINE)[1:]
    for (typed, says), answer in zip(REFITS.items(), answers, strict=True):
        assert says in answer, typed
    assert "objective=iwae:2 training.lr=0.002" in table
    child = pt.load(copied / "swaps" / "tril-1")
    assert (child.config.objective, child.config.training.lr, child.config.training.steps) == ("iwae:2", 0.002, 3)
    assert os.listdir(copied / "swaps") == ["tril-1"]


def at_a_terminal():
    """Take the terminal, and hear Ctrl-C even where these tests run in the background, which ignores SIGINT."""
    fcntl.ioctl(0, termios.TIOCSCTTY)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A real program that has a pseudo-terminal for its own: types, and waits for what is shown."""

    def __init__(self, line, environment):
        self._ours, theirs = os.openpty()
        environ = environment | {"TERM": "xterm", "COLUMNS": "200", "LINES": "40"}
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(line, env=environ, **streams, start_new_session=True, preexec_fn=at_a_terminal)
        os.close(theirs)
        self.shown = ""
        self._seen = 0

    def until(self, text):
        """Read on until ``text`` is shown after all that was waited for before; return what stood between."""
        deadline = time.monotonic() + 120
        while text not in self.shown[self._seen :]:
            assert time.monotonic() < deadline, self.shown
            assert self._read(deadline - time.monotonic()), self.shown
        start = self._seen
        self._seen = self.shown.index(text, start) + len(text)
        return self.shown[start : self._seen]

    def type(self, text, then):
        """Type a line; what is shown until ``then``."""
        os.write(self._ours, text.encode())
        return self.until(then)

    def interrupt(self, then):
        """Press Ctrl-C, again where it came between the prompt and the wait for a line, which Python may not notice."""
        for _ in range(10):
            os.write(self._ours, b"\x03")
            deadline = time.monotonic() + 10
            while then not in self.shown[self._seen :] and time.monotonic() < deadline:
                self._read(deadline - time.monotonic())
            if then in self.shown[self._seen :]:
                break
        return self.until(then)

    def end(self):
        """Exit status, after all has been read."""
        while self._read(60):
            continue
        return self.process.wait(timeout=60)

    def _read(self, timeout):
        try:
            ready = select.select([self._ours], [], [], max(timeout, 0))[0]
            part = os.read(self._ours, 65536) if ready else b""
        except OSError as error:
            if error.errno != errno.EIO:  # Linux: the other side is closed
                raise
            return False
        self.shown += re.sub(r"\x1b\[\?2004[hl]\r?", "", part.decode(errors="replace"))
        return bool(part)

    def close(self):
        self.process.kill()
        self.process.wait(timeout=60)
        os.close(self._ours)


@pytest.fixture
def terminal(copied, command, environment):
    """A session with the copied run."""
    opened = Terminal(command("swap", copied, "--steps", "4"), environment)
    yield opened
    opened.close()


PROMPT = "> "


def test_a_session_on_a_terminal(terminal, copied, tmp_path):
    text = "from guides.deep_state_space import MeanFieldGuide\nclass Mine(MeanFieldGuide):\n    '''q: mine.'''\n"
    (tmp_path / "my guide.py").write_text(text, encoding="utf-8")
    opening = terminal.until("diagonal> ")
    assert re.search(r"\* +1 +diagonal +q\(h_t", opening)
    assert re.search(r" 2 +tril +q\(h_t", terminal.type("list\n", "diagonal> "))
    shown = terminal.type("2\n", "tril> ")
    assert "━" in shown  # the live bar
    assert "4/4" in shown
    assert "before: diagonal" in shown
    assert "did you mean 'mean-field'?" in terminal.type("meanfield\n", "tril> ")
    assert "after: mean-field" in terminal.type("mean-f\t 3\n", "mean-field> ")  # completed
    assert f"{copied}/swaps/mean-field-1 was removed" in terminal.type("undo\n", "tril> ")
    assert f"saved in {tmp_path}/kept" in terminal.type(f"save {tmp_path}/kept\n", "tril> ")
    assert "class 'Other'" in terminal.type(f"'{tmp_path}/my guide.py:Other'\n", "tril> ")
    assert "after: my guide.py:Mine" in terminal.type(f"'{tmp_path}/my guide.py:Mine'\n", "my guide.py:Mine> ")
    shown = terminal.type("generate 2\n", "Mine> ")
    assert "samples from the model: " in shown
    assert "reconstruction by my guide.py:Mine" in shown
    table = terminal.type("table\n", "Mine> ")
    rows = [line.split() for line in table.splitlines()[:-1]]
    ends = [row[-1] for row in rows if row and row[0] in ("diagonal", "tril", "mean-field", "my")]
    assert ends == ["start", "saved", "undone", "current"]
    shown = terminal.type("\x04", "python -m ppl_text compare")  # Ctrl-D
    assert f"kept: {tmp_path}/kept" in shown
    assert f"kept: {copied}/swaps/Mine-1" in shown
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown
    assert all(pt.load(folder, trust=True).finished for folder in (tmp_path / "kept", copied / "swaps" / "Mine-1"))


def test_ctrl_c_stops_the_training_and_not_the_session(terminal, copied):
    terminal.until("diagonal> ")
    terminal.type("tril 100000\n", "first step")
    shown = terminal.interrupt("diagonal> ")
    assert "stopped by SIGINT after step" in shown
    assert "The guide before stays: diagonal" in shown
    folder = re.search(r"fit --resume (\S+)", shown)[1]
    assert Path(folder) == copied / "swaps" / "tril-1"
    assert "'quit' or Ctrl-D leaves" in terminal.interrupt("diagonal> ")
    terminal.type("prior\n", "prior> ")
    assert f"kept: {copied}/swaps/prior-1" in terminal.type("quit\n", "compare")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown
    resumed = pt.load(folder)
    assert not resumed.finished
    stopped = int(re.search(r"after step ([\d,]+)", shown)[1].replace(",", ""))
    assert pt.fit(resume=folder, steps=stopped + 1).finished
