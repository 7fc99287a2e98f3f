"""What the README shows is run: its own-guide example, its Python session, its table of names."""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import pytest
from numbers_in_text import assert_same_text

from guides import GUIDES
from ppl_text.objectives import OBJECTIVES
from ppl_text.recipes import recipe_names

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def code(after: str, language: str) -> str:
    """The first block of a language after a heading or mark."""
    return README.split(after, 1)[1].split(f"```{language}\n", 1)[1].split("```", 1)[0]


def test_own_guide_example_trains(ppl, tiny_arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_guide.py").write_text(code("<!-- guide example -->", "python"), encoding="utf-8")
    command = code("<!-- guide example -->", "sh").split()
    assert command[:3] == ["python", "-m", "ppl_text"]
    sizes = [part for part in tiny_arguments if not part.startswith("guide.")]
    pairs = pairwise(sizes)
    kept = [part for flag, value in pairs if flag == "--set" and value != "--set" for part in (flag, value)]
    done = ppl(*command[3:], *kept, "--steps", "3", "--set", "guide.units=8")
    assert done.status == 0, done.err
    assert "WideGuide" in Path("runs/words-1/config.yaml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("one_thread")
def test_python_session_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = code("## From Python", "python")
    small = text.replace('"training.steps": 2000', '"training.steps": 3, "report.sentences": 50')
    small = small.replace("limit=5000", "limit=50").replace("steps=500)", "steps=3)", 1)
    small = small.replace("steps=500)", "steps=3, draws=30, sentences=20, repeats=2)")
    assert small.count("50") == 2
    assert small.count("steps=3") == 2
    assert len(small) > len(text) > 100
    names: dict[str, object] = {}
    exec(small, names)  # noqa: S102 - our own README
    assert Path("runs/words-1/report.md").is_file()


def test_tables_name_all_guides_objectives_and_recipes():
    for name in [*(guide for table in GUIDES.values() for guide in table), *OBJECTIVES]:
        assert f"`{name}" in README, name
    for name in recipe_names():
        corpus, _, procedure = name.partition("-")
        assert f"`{name}`" in README or (f"`{corpus}-…`" in README and f"`verses-{procedure}`" in README), name


def test_every_placeholder_is_filled():
    assert "filled from" not in README
    assert re.findall(r"<!-- (\w+) -->", README).count("speed") == 1


def test_reproduction_tables_are_those_of_their_result_files():
    spec = importlib.util.spec_from_file_location("fill_readme", Path(__file__).parents[1] / "docs" / "fill_readme.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.BLOCK.findall(README), "the README has no reproduction table"
    assert_same_text(script.filled(README), README)  # where it fails: python docs/fill_readme.py
