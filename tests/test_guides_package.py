"""The package ``guides`` is ours, though the user's folder holds something of that name."""

import subprocess
import sys

import pytest

MINE = '''from guides.deep_state_space import MeanFieldGuide


class Mine(MeanFieldGuide):
    """q of mine."""
'''

FOLDERS = {
    "a package": {"guides/__init__.py": "own = 1\n", "guides/mine.py": MINE},
    "a folder": {"guides/mine.py": MINE},
    "a module": {"guides.py": "own = 1\n", "mine.py": MINE},
    "a module of one of our names": {"guides/__init__.py": "", "guides/sentence_vae.py": "own = 1\n", "mine.py": MINE},
}


@pytest.fixture(params=FOLDERS.values(), ids=FOLDERS)
def folder(request, tmp_path):
    for name, text in request.param.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(line, folder, environment):
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_has_our_guides_and_runs_the_users(folder, command, environment, tiny_arguments):
    mine = next(path for path in folder.rglob("mine.py"))
    fit = command("fit", *tiny_arguments, "--guide", f"{mine.relative_to(folder)}:Mine", "--steps", "2", "--out", "run")
    assert f"{mine}:Mine" in run(fit, folder, environment)


SCRIPT = """import {first}
import {second}

import ppl_text as pt

if __name__ == "__main__":
    assert not hasattr(guides, "GUIDES")
    run = pt.fit(set={tiny!r}, guide="tril", out="run")
    assert type(run.guide).__name__ == "TriangularGuide"
    from ppl_text.guides.deep_state_space import MeanFieldGuide

    class Mine(MeanFieldGuide):
        pass

    assert type(pt.fit(set={tiny!r}, guide=Mine, out="other").guide) is Mine
    print("done", len(pt.load("run").generate(3)))
"""


@pytest.mark.parametrize("order", [("guides", "ppl_text"), ("ppl_text", "guides")], ids=["theirs first", "ours first"])
def test_python_has_both(order, tmp_path, environment, tiny):
    (tmp_path / "guides.py").write_text("own = 1\n", encoding="utf-8")
    few = {**tiny, "training.steps": 2}
    (tmp_path / "script.py").write_text(SCRIPT.format(first=order[0], second=order[1], tiny=few), encoding="utf-8")
    assert "done 3" in run([sys.executable, "script.py"], tmp_path, environment)
