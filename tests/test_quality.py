"""The linter and the type checker are part of the tests; so are the README's commands and doctests."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import guides
import ppl_text

ROOT = Path(__file__).parents[1]


def run_tool(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    run_tool("ruff", "check", ".")


def test_ruff_format_changes_nothing():
    run_tool("ruff", "format", "--check", ".")


def test_mypy_finds_nothing():
    run_tool("mypy")


def modules() -> list[str]:
    names = []
    for package in (ppl_text, guides):
        found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        names += [m.name for m in found if not m.name.endswith("__main__")]
    return names


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_hold(name):
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


def test_ci_runs_the_readme_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = readme.split("<!-- command: tests -->")[1].split("```sh\n")[1].split("```")[0]
    assert "pip install" in command
    assert "pytest" in command
    assert "<!-- command: tests -->" in (ROOT / ".ci/run").read_text(encoding="utf-8")
