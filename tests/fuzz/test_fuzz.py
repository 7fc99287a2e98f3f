"""Nothing that is typed, and nothing that a run's folder holds, ends in a traceback, a signal, a hang or a full memory.

``pytest tests/fuzz --fuzz-seconds 600 --fuzz-seed 7`` looks longer and elsewhere; the default is a minute in all.
Each command runs in a fork of a process that has everything imported (``forks.py``). One that trains for long by right
is told to stop after a while, and has to.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

import ppl_text as pt
from ppl_text.cli import cli
from ppl_text.data.options import OPTIONS
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config

from .damage import damage, damages
from .forks import FILE_SIZE
from .values import NUMBERS, TEXTS, assigned, from_schema, keys, plain, scalars

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="bounds the memory of forks as Linux does"),
    pytest.mark.skipif("OTHER_ROUNDING" in os.environ, reason="the forks round as this machine does"),
]

SHORT = {
    "threads": 1,
    "device": "cpu",
    "data.batch_size": 8,
    "data.buckets": 2,
    "data.validation_sentences": 8,
    "training.steps": 2,
    "training.log_every": 1,
    "training.checkpoint_every": 1,
    "report.sentences": 6,
    "report.particles": 2,
    "report.samples": 4,
}
FAMILIES = {
    "words": {
        "model.hidden": [8],
        "model.state_dim": 2,
        "guide.gru_dim": 8,
        "guide.embedding_dim": 4,
        "guide.hidden": [8],
    },
    "verses-vae": {"model.latent_dim": 3, "model.embedding_dim": 6, "model.hidden_dim": 8},
    "verses-davam": {
        "model.latent_dim": 3,
        "model.embedding_dim": 6,
        "model.hidden_dim": 8,
        "model.codes": 6,
        "model.prior_width": 4,
        "model.prior_layers": 2,
        "training.steps": 4,
        "training.stages": [
            {"name": "quantiser", "steps": 2, "objective": "reconstruction"},
            {"name": "prior", "steps": 2, "train": ["model.prior"], "objective": "rate"},
        ],
    },
    "pairs-vattn-h": {"model.embedding_dim": 6, "model.encoder_dim": 3, "model.hidden_dim": 8, "model.output_dim": 5},
    "verses-della": {
        "model.layers": 2,
        "model.width": 8,
        "model.heads": 2,
        "model.positions": 64,
        "data.vocabulary": 300,
    },
}
"""A recipe of each family, and what makes it small."""


ROUND = 100
"""Examples that are drawn before the clock is looked at."""


class Command(NamedTuple):
    """What is typed, what a session is told, and what was done to the run before."""

    arguments: tuple
    stdin: str = ""
    done: tuple = ()


class Place:
    """A folder with the data and a finished run of each family, and the process that forks for commands."""

    def __init__(self, folder, word_list, sentences):
        self.folder, pairs = folder, folder / "pairs.tsv"
        words = [["abcdefg"[number // 7**place % 7] for place in range(3)] for number in range(343)]
        lines = ["\t".join((" ".join(found), " ".join(reversed(found)))) for found in words]
        pairs.write_text("source\ttarget\n" + "\n".join(lines) + "\n", encoding="utf-8")
        self.data = {
            recipe: word_list if recipe == "words" else pairs if recipe.startswith("pairs") else sentences
            for recipe in FAMILIES
        }
        for recipe, small in FAMILIES.items():
            pt.fit(recipe, data=self.data[recipe], set={**SHORT, **small}, out=folder / "runs" / recipe)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forks.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def of(self, command, recipe):
        """Return the words of a command that takes a recipe: small, on little data."""
        changes = {**SHORT, **FAMILIES[recipe], "data.corpus": str(self.data[recipe])}
        return [command, recipe, *(f"--set={assigned(*one)}" for one in changes.items())]

    def end(self, command, recipe=None):
        """Run a command where a copy of the recipe's run lies as ``run``; how it ended."""
        place = self.folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if recipe is not None:
            shutil.copytree(self.folder / "runs" / recipe, place / "run")
            for what in command.done:
                damage(place / "run", what)
            (place / "texts.txt").write_text("the king sees bread\na small dog hears no one\n", encoding="utf-8")
        asked = {"arguments": list(command.arguments), "folder": str(place), "stdin": command.stdin}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def place(tmp_path_factory, word_list, sentences, one_thread):
    made = Place(tmp_path_factory.mktemp("fuzz"), word_list, sentences)
    with made.process:
        yield made


def check(ended, folder):
    """Status 0, 1 or 2, or of a stop that was asked for; words and no traceback; nothing half-written."""
    said = f"{ended['stdout'][-2000:]}\n{ended['stderr'][-6000:]}"
    assert ended["status"] in ((0, 1, 2, 143) if ended["stopped"] else (0, 1, 2)), said
    assert "Traceback" not in said, said
    if ended["status"] not in (0, 143):
        assert "error: " in ended["stderr"].lower(), said
    if ended["status"] == 2:
        assert not list(folder.rglob("*.partial")), said
    assert len(ended["stderr"]) < 100_000, said
    assert "\x1b" not in said, said


@pytest.fixture
def fuzz(place, request):
    """``fuzz(strategy, end)``: draw examples while the time lasts, end each, and look at how it ended."""
    seconds, start = request.config.getoption("--fuzz-seconds") / 5, request.config.getoption("--fuzz-seed")

    def run(strategy, end):
        begun, failed, statuses, seen = time.monotonic(), [], Counter(), set()

        def late():
            return time.monotonic() - begun > seconds

        @settings(
            database=None,
            deadline=None,
            max_examples=ROUND,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def look(example):
            if (late() or repr(example) in seen) and not failed:
                return
            seen.add(repr(example))
            ended = end(example)
            statuses[ended["status"]] += 1
            try:
                check(ended, place.folder / "place")
            except AssertionError:
                failed.append(example)
                raise

        for number in itertools.count(1000 * start):
            seeded(number)(look)()
            if late():
                break
        print(f"examples by exit status: {dict(statuses)}")  # pytest -rP shows it
        assert statuses

    return run


RIGHT = {
    "run": ["run"],
    "runs": ["run"],
    "recipe": ["run/config.yaml"],
    "table": ["words"],
    "guide": ["prior", "diagonal", "gaussian", "layer-wise", "point"],
    "guides": ["prior", "diagonal,prior", "gaussian"],
    "objective": ["elbo", "iwae:2", "free-bits:1", "pyro:Trace_ELBO"],
    "objectives": ["elbo,iwae:2", "stl", "dreg:2,vimco:2"],
    "split": ["train", "valid", "test"],
    "out": ["new", "run/new"],
    "store": ["new.safetensors", "run/weights.safetensors"],
    "data": ["texts.txt"],
    "reconstruct": ["the king sees bread", "texts.txt"],
    "source": ["a b c", "texts.txt"],
    "interpolate": ["the king sees bread", "a small dog"],
    "neighbours": ["the old cat"],
    "strategy": ["sample", "greedy", "beam"],
    "path": ["spherical", "linear"],
    "sites": ["z", "z_1", "each"],
    "latents": ["sample", "mean"],
    "assignments": ["report.samples=3", "training.lr=0.01", "guide.hidden=[4]"],
}
"""Values that a text option or an argument may well be given, by its name."""


def right_values(parameter):
    """Strategy of what an option or argument may well be given."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return st.sampled_from(kind.choices)
    if isinstance(kind, click.types.FloatParamType):
        return st.sampled_from(["0.5", "0.9", "1", "2"])
    if isinstance(kind, click.types.IntParamType):
        return st.integers(1, 6).map(str)
    return st.sampled_from(RIGHT.get(parameter.name, TEXTS))


HOSTILE = (
    st.sampled_from(TEXTS) | st.sampled_from(NUMBERS).map(str) | st.sampled_from(["run", "run/data.json", "texts.txt"])
)


@st.composite
def commands(draw):
    """A command with some of its options, of which one or none is given what it should not be."""
    name = draw(st.sampled_from(sorted(cli.commands)))
    given = [
        one for one in cli.commands[name].params if isinstance(one, click.Argument) or draw(st.integers(0, 2)) == 0
    ]
    wrong = draw(st.sampled_from([None, *given]))
    words = [name]
    for parameter in given:
        if not isinstance(parameter, click.Argument):
            words.append(parameter.opts[0])
        if not getattr(parameter, "is_flag", False):
            values = HOSTILE if parameter is wrong else right_values(parameter)
            words += [draw(values) for _ in range(max(parameter.nargs, 1))]
    if name == "reproduce":  # a table takes long
        words[1] = "nothing"
    return Command(tuple(word.replace("\0", "") for word in words))


def test_commands(fuzz, place):
    recipes = sorted(FAMILIES)
    fuzz(
        st.tuples(st.sampled_from(recipes), commands()),
        lambda example: place.end(example[1], example[0]),
    )


def configurations(recipe):
    """Strategy of one to three ``--set`` of a recipe: right values, hostile ones, and names that are no keys."""
    config = load_config(recipe)
    found = keys(*(part.kind for part in build.check_programs(config)))
    options = OPTIONS[config.data.unit].model_json_schema()
    for name, schema in options["properties"].items():
        found[f"data.{name}"] = from_schema(schema, options.get("$defs", {}))
    one = st.sampled_from(sorted(found)).flatmap(lambda key: st.tuples(st.just(key), found[key] | scalars() | plain()))
    no_key = st.tuples(st.sampled_from(TEXTS), scalars())
    return st.lists(st.one_of(*[one] * 6, no_key), min_size=1, max_size=3)


def cases_of_keys():
    """Strategy of a recipe with changes, explained or trained."""
    of = {recipe: configurations(recipe) for recipe in FAMILIES}
    return st.sampled_from(sorted(of)).flatmap(
        lambda recipe: st.tuples(st.just(recipe), of[recipe], st.sampled_from(["explain", "fit"]))
    )


def test_keys(fuzz, place):
    def end(example):
        recipe, changes, name = example
        words = place.of(name, recipe) + [word for key, value in changes for word in ("--set", assigned(key, value))]
        return place.end(Command(tuple(word.replace("\0", "") for word in words)))

    fuzz(cases_of_keys(), end)


OPENED = (
    ("evaluate", "run", "--limit", "4", "--particles", "2"),
    ("generate", "run", "-n", "2"),
    ("generate", "run", "--reconstruct", "the king sees bread"),
    ("compare", "run", "--objectives", "elbo,iwae:2", "--draws", "4", "--sentences", "4", "--repeats", "2"),
    ("swap", "run", "--guide", "prior", "--steps", "2"),
    ("fit", "--resume", "run"),
    ("fit", "run/config.yaml", "--out", "new"),
    ("explain", "run/config.yaml"),
    ("list", "options", "run/config.yaml"),
)


def test_run_folders(fuzz, place):
    files = {
        recipe: sorted(
            str(path.relative_to(place.folder / "runs" / recipe))
            for path in (place.folder / "runs" / recipe).rglob("*")
            if path.is_file() and path.suffix not in (".png", ".md")
        )
        for recipe in FAMILIES
    }
    cases = st.sampled_from(sorted(files)).flatmap(
        lambda recipe: st.tuples(
            st.just(recipe), st.lists(damages(files[recipe]), min_size=1, max_size=1), st.sampled_from(OPENED)
        )
    )
    fuzz(cases, lambda example: place.end(Command(example[2], done=tuple(example[1])), example[0]))


def texts():
    """Strategy of a file's content: lines of anything, or bytes."""
    line = st.text(max_size=20) | st.sampled_from(TEXTS) | st.just("the king sees bread") | plain().map(json.dumps)
    lines = st.lists(line, max_size=12).map(lambda found: "\n".join(found).encode("utf-8", "surrogatepass"))
    return lines | st.binary(max_size=200) | lines.map(lambda found: found * 30)


def test_data_files(fuzz, place):
    endings = ("txt", "csv", "tsv", "jsonl", "parquet", "json", "yaml", "zip", "gz", "")

    def end(example):
        ending, content, recipe, use = example
        file = place.folder / f"given.{ending}"
        file.write_bytes(content)
        if use == "fit":
            words = [*place.of("fit", recipe), "--data", str(file)]
            return place.end(Command(tuple(words)))
        return place.end(Command((*use, str(file))), recipe)

    uses = ["fit", ("evaluate", "run", "--particles", "2", "--data"), ("generate", "run", "--reconstruct")]
    fuzz(st.tuples(st.sampled_from(endings), texts(), st.sampled_from(sorted(FAMILIES)), st.sampled_from(uses)), end)


def test_sessions(fuzz, place):
    words = ["guides", "swap", "fit", "compare", "undo", "save", "help", "quit", "samples", "report", "prior", "2", "x"]
    line = st.lists(st.sampled_from(words) | st.sampled_from(TEXTS), max_size=3).map(" ".join)
    sessions = st.lists(line, max_size=4).map(lambda lines: "\n".join(lines) + "\n")

    def end(example):
        recipe, told = example
        return place.end(
            Command(("swap", "run", "--steps", "2"), stdin=told.encode("utf-8", "replace").decode()), recipe
        )

    fuzz(st.tuples(st.sampled_from(sorted(FAMILIES)), sessions), end)


def test_a_command_that_ends_badly_is_noticed(place):
    """The oracle: a traceback, a signal, a hang and a memory without bound are each seen."""
    ended = place.end(Command(("explain", "words")))
    check(ended, place.folder)
    for wrong in ({"status": -11}, {"status": 99}, {"stderr": "Traceback (most recent call last)"}, {"status": 2}):
        with pytest.raises(AssertionError):
            check({**ended, **wrong}, place.folder)
    assert FILE_SIZE > 0
