"""Fixtures of all rooms: a tiny word list, the smallest run worth the name, the command line in this process."""

import itertools
import os
import random
import shutil
import sys
from dataclasses import dataclass

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: the workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"

TINY = {
    "data.batch_size": 16,
    "data.buckets": 2,
    "data.validation_sentences": 60,
    "model.hidden": [8],
    "model.state_dim": 2,
    "guide.gru_dim": 8,
    "guide.embedding_dim": 4,
    "guide.hidden": [8],
    "training.steps": 20,
    "training.log_every": 5,
    "training.validate_every": 10,
    "training.checkpoint_every": 5,
    "report.sentences": 60,
    "report.particles": 4,
    "report.samples": 40,
}
"""What makes the recipe ``words`` small; ``data.corpus`` comes from the fixture ``word_list``."""

SENTENCE_PARTS = (
    (("the", "king"), ("a", "small", "dog"), ("the", "old", "cat"), ("she",)),
    (("sees",), ("hears",), ("fears", "and", "loves")),
    (("bread",), ("the", "sea"), ("no", "one"), ("a", "bird", "from", "the", "tree")),
    ((), ("today",), ("in", "the", "house")),
)
"""A sentence has one of each: 2 to 13 words."""


@dataclass
class Ended:
    """How a command ended: exit status, and what it printed on stdout and stderr."""

    status: int
    out: str
    err: str


def pytest_addoption(parser):
    """Let the fuzzer look longer, or elsewhere."""
    parser.addoption("--fuzz-seconds", type=float, default=60, help="Time of tests/fuzz.  [default: 60]")
    parser.addoption("--fuzz-seed", type=int, default=0, help="Of what tests/fuzz draws.  [default: 0]")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Start a worker a processor for ``-n auto``, eight at most: each holds torch and the corpora."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give a file's tests to one worker, in the order of the folders: what a file has trained is trained once."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_configure(config):
    """With ``OTHER_ROUNDING=N`` in the environment, run the tests in arithmetic that no machine at hand has."""
    if "OTHER_ROUNDING" in os.environ:
        from other_rounding import Plugin

        config.pluginmanager.register(Plugin(int(os.environ["OTHER_ROUNDING"])))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Begin every test, its fixtures included, at one random state: alone or among others, in any order or process."""
    torch = sys.modules.get("torch")  # some tests do without
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _alone():
    """Let no test leave word of other processes in the environment: the next would wait for them for ever."""
    from ppl_text.core.processes import MEETING, VARIABLES

    names = [*VARIABLES.values(), *MEETING]
    before = {name: os.environ[name] for name in names if name in os.environ}
    yield
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _streams_elsewhere(tmp_path_factory):
    """Let streamed corpora be kept in a temporary folder, by the commands that tests start, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPL_TEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def word_list(tmp_path_factory):
    """200 words of two to four letters with counts that fall as 1/rank."""
    words = ["".join(letters) for n in (1, 2) for letters in itertools.product(*(["bdlmnrst", "aeiou"] * n))][:200]
    path = tmp_path_factory.mktemp("data") / "list.tsv"
    lines = [f"{word}\t{max(40, 4000 // rank)}" for rank, word in enumerate(words, 1)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """A folder of short sentences over 23 words: train.txt (96), valid.txt and test.txt (24 each)."""
    folder, rng = tmp_path_factory.mktemp("sentences"), random.Random(0)
    for name, number in (("train", 96), ("valid", 24), ("test", 24)):
        lines = [" ".join(part for group in SENTENCE_PARTS for part in rng.choice(group)) for _ in range(number)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny(word_list):
    """The changes to ``words`` that make a run of a fraction of a second: ``pt.fit(set=tiny)``."""
    return {**TINY, "data.corpus": str(word_list)}


@pytest.fixture(scope="session")
def tiny_arguments(tiny):
    """The same for the command line."""
    return [part for key, value in tiny.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="session")
def one_thread():
    """Networks this small only lose by a second thread, and numbers are compared with one-threaded processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny, one_thread):
    """A finished run of 20 steps; read it, do not write to its folder."""
    import ppl_text as pt

    return pt.fit(set=tiny, out=tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the folder of the finished run, to do with as the test likes."""
    return shutil.copytree(trained.folder, tmp_path / "copy")


@pytest.fixture
def ppl(monkeypatch, capsys, one_thread):
    """``ppl("fit", …)``: run the command line in this process and return how it ended."""
    from ppl_text.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ppl-text", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Ended(left.value.code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def command():
    """``command("fit", …)``: the words of a real process, and its environment: one thread, warnings are errors."""

    def line(*arguments):
        return [sys.executable, "-W", "error", "-m", "ppl_text", *map(str, arguments)]

    return line


@pytest.fixture(scope="session")
def environment():
    """Environment of real processes: one thread, no terminal's peculiarities."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
