"""How much commands say: ``-q``, ``-v`` and ``--json`` on every one of them."""

import json
import re

import pytest

from ppl_text.cli import cli

NEW = "NEW"
"""Stands for a folder that there is not yet."""

COMMANDS = {
    "fit": ["fit", "TINY", "--steps", "2", "--out", NEW],
    "evaluate": ["evaluate", "RUN", "--particles", "2", "--limit", "20"],
    "generate": ["generate", "RUN", "-n", "3"],
    "generate, reconstruct": ["generate", "RUN", "--reconstruct", "bade"],
    "generate, interpolate": ["generate", "RUN", "--interpolate", "bade", "ma", "-n", "3"],
    "generate, each site": ["generate", "RUN", "--interpolate", "bade", "ma", "-n", "3", "--site", "each"],
    "list recipes": ["list", "recipes"],
    "list guides": ["list", "guides"],
    "list objectives": ["list", "objectives"],
    "list corpora": ["list", "corpora"],
    "list options": ["list", "options", "words"],
    "list runs": ["list", "runs", "RUN"],
    "explain": ["explain", "words", "TINY"],
    "report": ["report", "RUN"],
    "swap": ["swap", "RUN", "--guide", "prior", "--out", NEW],
    "compare": ["compare", "RUN", "--objectives", "elbo", "--draws", "30", "--sentences", "8", "--out", NEW],
}
HOLDS = {
    "fit": ("run", "elbo", "trained", "next"),
    "evaluate": ("elbo", "iw", "split"),
    "generate": ("run", "texts", "seed"),
    "generate, reconstruct": ("reconstructions",),
    "generate, interpolate": ("texts",),
    "generate, each site": ("texts",),
    "list recipes": ("recipes",),
    "list guides": ("guides",),
    "list objectives": ("objectives",),
    "list corpora": ("corpora",),
    "list options": ("options",),
    "list runs": ("runs", "folder"),
    "explain": ("recipe", "parameters", "configuration"),
    "report": ("page", "runs"),
    "swap": ("run", "parent", "swap"),
    "compare": ("rows", "verdict", "folder"),
}
EXPLAINED = {
    "fit": ("device: cpu (device: auto, and no GPU is visible)", "batches: of 16 texts", "vocabulary: "),
    "evaluate": ("texts: 20 texts drawn by seed 0 (--limit) of test; 2 draws of each",),
    "generate": ("(from the prior texts are sampled); seed 0",),
    "generate, reconstruct": ("(--reconstruct decodes given latents greedily)",),
    "list runs": ("1 folders with a config.yaml",),
    "swap": ("parent: ",),
    "compare": ("guides: each run's own",),
}


@pytest.fixture
def typed(ppl, trained, copied, tmp_path, tiny_arguments, monkeypatch):
    """``typed(name, …)``: run one of the commands, with further options."""
    monkeypatch.chdir(tmp_path)
    words = {"TINY": tiny_arguments, "RUN": [copied], NEW: [tmp_path / "new"]}

    def run(name, *options):
        line = [part for word in COMMANDS[name] for part in words.get(word, [word])]
        ended = ppl(*line, *options)
        assert ended.status == 0, ended.err
        return ended

    return run


def test_every_command_has_the_three_options():
    for name, command in cli.commands.items():
        flags = {flag for option in command.params for flag in option.opts}
        assert {"-q", "--quiet", "-v", "--verbose", "--json"} <= flags, name


def test_every_command_is_tried_here():
    tried = {name.split(",")[0].split()[0] for name in COMMANDS}
    assert tried | {"reproduce", "completion"} == set(cli.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_object_on_stdout_and_nothing_else(name, typed):
    ended = typed(name, "--json")
    found = json.loads(ended.out, parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))
    assert isinstance(found, dict)
    assert set(HOLDS[name]) <= set(found)
    assert "\n{" not in ended.err


@pytest.mark.parametrize("name", COMMANDS)
def test_quiet_is_the_result_alone(name, typed):
    ended = typed(name, "-q")
    assert ended.err == ""
    assert ended.out.strip()
    assert "Next:" not in ended.out
    assert "Your own: " not in ended.out


@pytest.mark.parametrize("name", EXPLAINED)
def test_verbose_says_what_is_decided_and_why(name, typed):
    ended = typed(name, "-v")
    for text in EXPLAINED[name]:
        assert text in ended.err, text


def test_what_is_decided_is_not_said_unasked(typed):
    assert "device: cpu" not in typed("fit").err


def test_json_of_lists_and_texts(typed, copied):
    recipes = json.loads(typed("list recipes", "--json").out)["recipes"]
    assert {"recipe", "what it trains"} == set(recipes[0])
    (run,) = json.loads(typed("list runs", "--json").out)["runs"]
    assert (run["folder"], run["state"], run["guide"]) == (str(copied), "finished", "diagonal")
    texts = json.loads(typed("generate", "--json").out)["texts"]
    assert texts == typed("generate").out.splitlines()
    each = json.loads(typed("generate, each site", "--json").out)["texts"]
    assert [set(row) for row in each] == [{"site", "text"}] * 3


def test_the_parameters_of_an_explanation_are_numbers(typed):
    found = json.loads(typed("explain", "--json").out)
    assert sum(row["numbers"] for row in found["parameters"] if row["parameter"] == "model, all") > 0
    assert found["configuration"]["recipe"] == "words"


def test_a_mistake_leaves_stdout_empty(ppl):
    ended = ppl("evaluate", "nothing", "--json")
    assert (ended.status, ended.out) == (2, "")
    assert re.match("error: nothing does not exist", ended.err)
    assert ppl("evaluate", "nothing", "-q").err.startswith("error: nothing does not exist")


def test_what_takes_long_before_training_is_said(ppl, tmp_path, sentences, monkeypatch):
    """Reading a corpus larger than memory tells how far it is, in every command; -q hears nothing."""
    monkeypatch.setattr("ppl_text.core.printing.PAUSE", 0.0)
    small = ["--set", "model.hidden_dim=8", "--set", "data.stream=true", "--data", str(sentences)]
    for number, command in enumerate((["explain"], ["fit", "--steps", "1", "--out", str(tmp_path / "run")])):
        monkeypatch.setenv("PPL_TEXT_CACHE", str(tmp_path / f"cache{number}"))
        ended = ppl(command[0], "text-lm", *command[1:], *small)
        assert ended.status == 0, ended.err
        assert "vocabulary of train.txt, by bytes … 0/" in ended.err
        assert "ids of valid.txt, by bytes … 0/" in ended.err
    monkeypatch.setenv("PPL_TEXT_CACHE", str(tmp_path / "cache"))
    assert not ppl("explain", "text-lm", "-q", *small).err
