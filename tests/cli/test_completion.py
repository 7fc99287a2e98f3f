"""Completion as shells ask for it: what is offered, and the scripts of three shells in the two ways of calling."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guides import GUIDES
from ppl_text.cli import cli
from ppl_text.cli.completion import SHELLS, script_of
from ppl_text.objectives import OBJECTIVES
from ppl_text.recipes import recipe_names
from ppl_text.tables import table_names


@pytest.fixture
def offered(ppl, monkeypatch):
    """``offered("fit", "wor")``: what is offered for the last word."""

    def ask(*words):
        monkeypatch.setenv("_PPL_TEXT_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["ppl-text", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        ended = ppl()
        monkeypatch.delenv("_PPL_TEXT_COMPLETE")
        assert ended.status == 0
        return [tuple(line.split(",", 1)) for line in ended.out.splitlines() if line]

    return ask


def plain(items):
    return [value for kind, value in items if kind == "plain"]


def test_commands_and_options_are_completed(offered):
    assert plain(offered("")) == sorted(cli.commands)
    assert plain(offered("ev")) == ["evaluate"]
    assert "--objective" in plain(offered("fit", "--o"))


def test_names_are_completed(offered):
    assert plain(offered("fit", "verses-f")) == [name for name in recipe_names() if name.startswith("verses-f")]
    assert plain(offered("list", "options", "words-n")) == ["words-nvp"]
    assert set(plain(offered("fit", "--objective", ""))) == set(OBJECTIVES)
    assert plain(offered("compare", "run", "--objectives", "elbo,st")) == ["elbo,stl", "elbo,stepwise"]
    assert plain(offered("reproduce", "vattn-t")) == [name for name in table_names() if name.startswith("vattn-t")]
    assert plain(offered("list", "op")) == ["options"]


def test_guides_are_those_of_the_model_that_is_known(offered, trained):
    own = list(GUIDES["deep_state_space"])
    assert plain(offered("swap", str(trained.folder), "--guide", "")) == own
    assert plain(offered("fit", "words", "--guide", "")) == own
    assert plain(offered("explain", "--model", "sentence_vae", "--guide", "")) == list(GUIDES["sentence_vae"])
    assert {"tril", "pooled", "layer-wise"} <= set(plain(offered("fit", "--guide", "")))


def test_run_folders_are_completed(offered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/words-1", "runs/words-1/swaps/tril-1", "runs/verses-1", "kept"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "other").mkdir()
    first = ["kept", "runs/verses-1", "runs/words-1", "runs/words-1/swaps/tril-1"]
    assert plain(offered("evaluate", "")) == first
    assert plain(offered("evaluate", "runs/w")) == first[2:]
    assert plain(offered("compare", "kept", "runs/v")) == ["runs/verses-1"]
    assert plain(offered("fit", "--resume", f"{tmp_path}/k")) == [f"{tmp_path}/kept"]
    assert offered("evaluate", "oth") == [("dir", "oth")]
    assert offered("list", "runs", "r") == [("dir", "r")]


def test_what_has_no_names_is_completed_as_a_file(offered):
    assert offered("fit", "./my") == [("file", "./my")]
    assert offered("evaluate", "run", "--data", "") == [("file", "")]
    assert ("plain", "verses") in offered("fit", "--data", "")


def test_a_damaged_run_offers_all_guides(offered, tmp_path):
    (tmp_path / "config.yaml").write_text("model: [", encoding="utf-8")
    assert {"tril", "pooled"} <= set(plain(offered("swap", str(tmp_path), "--guide", "")))


def test_completion_imports_nothing_heavy(command, environment):
    words = {"_PPL_TEXT_COMPLETE": "bash_complete", "COMP_WORDS": "ppl-text\nfit\nwords\n--guide\n", "COMP_CWORD": "4"}
    check = (
        "import sys\nfrom ppl_text.__main__ import main\ntry:\n    main()\n"
        "except SystemExit:\n    sys.exit('torch' in sys.modules or 'pyro' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], env=environment | words, check=False, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert b"tril" in done.stdout


@pytest.fixture
def programs(tmp_path, environment):
    """An environment in which ``ppl-text`` and ``python`` are programs, and the folder of ``script.SHELL``."""
    (tmp_path / "bin").mkdir()
    for name, words in {"ppl-text": "-m ppl_text", "python": "", "python3": ""}.items():
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(script_of(shell), encoding="utf-8")
    root = str(Path(__file__).parents[2])
    return environment | {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": root, "HOME": str(tmp_path)}


BASH = """
source script.bash
ask() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
    function=$(complete -p "$1" | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
    $function "$1"
    printf '%s ' "${COMPREPLY[@]}"; echo
}
"""
ZSH = """
compdef() { for name in ${@[2,-1]}; do eval "_of_$name() { $1 }"; done }
_default() { found=(elsewhere) }
source ./script.zsh
_describe() { found+=(${described%%:*}) }
compadd() { found+=($completions) }
ask() {
    found=(); words=("$@"); CURRENT=$#
    _of_$1 >/dev/null
    print -- $found
}
"""
FISH = """
source script.fish
function ask
    complete -C "$argv" | string replace -r '\\t.*' '' | string join ' '
end
"""
DRIVERS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_both_ways_of_calling(shell, programs, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    lines = ["ppl-text fit verses-f", "python -m ppl_text fit verses-f", "python3 -m ppl_text ev", "ppl-text swap --gu"]
    script = DRIVERS[shell] + "\n".join(f"ask {line}" for line in lines)
    bare = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}[shell]
    done = subprocess.run(
        [shell, *bare, script], env=programs, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    first, second, third, fourth = [line.split() for line in done.stdout.splitlines()]
    assert first == second == [name for name in recipe_names() if name.startswith("verses-f")], done.stderr
    assert third == ["evaluate"]
    assert fourth == ["--guide"]


def test_other_uses_of_python_are_completed_as_before_in_bash(programs, tmp_path):
    script = (
        "before() { COMPREPLY=(before); }\ncomplete -F before python3\n"
        + BASH
        + "ask python3 -m pip\nask python -c x\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=programs, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["before", "before"]


def test_the_command_prints_the_script(ppl, monkeypatch):
    for shell in SHELLS:
        assert ppl("completion", shell).out == script_of(shell)
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert ppl("completion").out == script_of("fish")
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    ended = ppl("completion")
    assert ended.status == 2
    assert "which shell? Give one of bash, zsh, fish" in ended.err
