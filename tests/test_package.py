"""What is installed, what its import costs, and what its wheel holds."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ppl_text

ROOT = Path(__file__).parent.parent

HEAVY = ("torch", "pyro", "numpy", "lightning_fabric", "arviz", "matplotlib", "wordfreq", "tokenizers", "nltk")


def command_line(*arguments: str) -> str:
    """Code that runs ``python -m ppl_text`` in its own process and can still look at ``sys.modules`` afterwards."""
    return f"import runpy; sys.argv = {['ppl_text', *arguments]!r}; runpy.run_module('ppl_text', run_name='__main__')"


LIGHT = {
    "import ppl_text": "import ppl_text; ppl_text.__version__; dir(ppl_text)",
    "core": "from ppl_text.core import batch, errors, latents, protocols, registry",
    "the tables of names": "import ppl_text.models, ppl_text.objectives, guides",
    "--help": command_line("--help"),
    "--version": command_line("--version"),
    "fit --help": command_line("fit", "--help"),
}


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT)
def test_heavy_packages_are_not_imported_before_they_are_needed(code: str) -> None:
    program = f"""
import json, sys
status = 0
try:
    {code}
except SystemExit as leaving:
    status = leaving.code or 0
print()
print(json.dumps({{"status": status, "heavy": [n for n in {HEAVY!r} if n in sys.modules]}}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"status": 0, "heavy": []}
    if "--help" in code:
        assert "Usage:" in done.stdout
    if "--version" in code:
        assert ppl_text.__version__ in done.stdout


def test_public_names_resolve_and_others_are_refused_by_name() -> None:
    for name in ppl_text.__all__:
        assert getattr(ppl_text, name) is not None
        assert name in dir(ppl_text)
    assert issubclass(ppl_text.UserError, ppl_text.PplTextError)
    with pytest.raises(AttributeError, match="module 'ppl_text' has no attribute 'ft'"):
        _ = ppl_text.ft


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", ppl_text.__version__)


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(ppl_text.__file__).parent / "py.typed").is_file()
    assert (Path(importlib.util.find_spec("guides").origin).parent / "py.typed").is_file()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and source distribution, built from a copy of the tree: the checkout is left as it is."""
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("distributions")
    ignored = shutil.ignore_patterns(".git", "__pycache__", "runs", "dist", "build", ".*_cache", ".venv", ".benchmarks")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--sdist", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": ""}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> zipfile.ZipFile:
    """The wheel."""
    (path,) = distributions.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_source_distribution_holds_pages_tests_and_pins(distributions: Path, tmp_path: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    shutil.unpack_archive(path, tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    pages = {file.relative_to(ROOT) for file in (ROOT / "docs").rglob("*") if file.suffix in (".md", ".json", ".png")}
    others = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt", "pyproject.toml", ".ci/run")
    missing = [name for name in (*pages, *others, ".pre-commit-config.yaml") if not (tree / name).is_file()]
    assert len(pages) > 15
    assert not missing


def test_the_wheel_holds_both_packages_the_recipes_and_the_type_marks(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"ppl_text", "guides", f"ppl_text-{ppl_text.__version__}.dist-info"}
    expected = {
        str(path.relative_to(ROOT))
        for top in ("ppl_text", "guides")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".typed") and "__pycache__" not in path.parts
    }
    assert {
        "ppl_text/recipes/words.yaml",
        "ppl_text/py.typed",
        "guides/deep_state_space.py",
        "guides/py.typed",
    } <= expected
    assert expected <= names
    assert not [name for name in names if "test" in name.lower() or "benchmark" in name or name.endswith(".pyc")]


def test_the_wheel_declares_licence_script_extras_and_python(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = f"ppl_text-{ppl_text.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    for line in (
        "Name: ppl-text",
        f"Version: {ppl_text.__version__}",
        "License-Expression: MIT",
        "Requires-Python: >=3.11",
    ):
        assert line in metadata.splitlines()
    extras = {"test", "bench", "judge", "metrics", "tensorboard"}
    assert set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M)) == extras
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    scripts = wheel.read(f"{info}/entry_points.txt").decode()
    assert f"ppl-text = {project['scripts']['ppl-text']}" in scripts
    module, _, function = project["scripts"]["ppl-text"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_installed_wheel_runs_from_elsewhere(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(tmp_path / "site")
    code = "import ppl_text, guides; print(ppl_text.__file__); print(guides.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(line.startswith(str(tmp_path / "site")) for line in done.stdout.split())
    done = subprocess.run(
        [sys.executable, "-m", "ppl_text", "list", "recipes"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "words" in done.stdout
