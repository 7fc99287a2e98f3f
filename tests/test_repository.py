"""The repository stands alone: it names nothing outside itself, and its tools agree with its pins."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from doc_pages import HEADING, ROOT, read

IGNORED = {".git", ".venv", "runs", "build", "dist", "__pycache__"}

OUTSIDE = re.compile("shared" + r"/(?:data|papers|tools|cases)\b|\.\./" + r"shared\b|(?<!\w)/" + "work/")
"""Paths outside the repository."""


def committed() -> list[Path]:
    """Return the files under version control; in a copy without ``.git`` every file but what tools leave behind."""
    if (ROOT / ".git").exists():
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        found = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        found = [path for path in ROOT.rglob("*") if not _left_behind(path.relative_to(ROOT))]
    return [path for path in found if path.is_file()]


def _left_behind(path: Path) -> bool:
    return any(part in IGNORED or part.endswith(("_cache", ".egg-info")) for part in path.parts)


def texts() -> dict[str, str]:
    """Return every committed text by its name."""
    found = {}
    for path in committed():
        data = path.read_bytes()
        if b"\0" not in data:
            found[str(path.relative_to(ROOT))] = data.decode("utf-8")
    return found


def test_no_file_names_a_path_outside_the_repository():
    named = [f"{name}: {hit[0]}" for name, text in texts().items() for hit in OUTSIDE.finditer(text)]
    assert not named


def test_outside_paths_are_recognised():
    assert OUTSIDE.search("see ../" + "shared" + "/data")
    assert OUTSIDE.search("in /" + "work/data")
    assert not OUTSIDE.search("the framework/data")


ELSEWHERE = re.compile(r"\b(?:" + "|".join(["SP" + "EC", "DES" + "IGN", "STY" + r"LE\.md"]) + r")\b")
"""Documents that are not in the repository: docs/specification.md and docs/architecture.md are."""


def test_no_file_names_a_document_that_is_not_here():
    named = [f"{name}: {hit[0]}" for name, text in texts().items() for hit in ELSEWHERE.finditer(text)]
    assert not named, "cite docs/specification.md by section (specification 4G.1), or docs/architecture.md"


def pinned(package: str) -> str:
    """Return the version of a package in ``constraints.txt``."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.search(rf"^{package}==(\S+)", text, re.MULTILINE)[1]


def test_pre_commit_runs_the_pinned_ruff():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\d+\.\d+\.\d+", text)) == {pinned("ruff")}
    (repository,) = yaml.safe_load(text)["repos"]
    assert repository["repo"] == "local", "no network is needed"
    commands = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert [command[:2] for command in commands] == [["ruff", "check"], ["ruff", "format"]]
    for program, *arguments in commands:
        command = [sys.executable, "-m", program, *arguments, "tests/test_repository.py"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_project_names_no_address_that_is_not_true():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "urls" not in project["project"]


def test_changelog_has_a_section_for_the_version_at_hand():
    sections = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert sections[0] == "Unreleased"
    from ppl_text import __version__

    assert __version__ in sections


CITATION = re.compile(r"(?i:specification)(?:\.md)?,?\s+(?:section )?(\d[A-G]?(?:\.\w+)?)(?![\w-])")


def test_citations_of_the_specification_name_a_section():
    numbers = {re.match(r"\d[A-G]?(?:\.(?:\d+|[ivx]+))?", heading)[0] for heading in _numbered()}
    assert {"0", "1F", "4G.1", "5.i"} <= numbers
    cited = {(name, hit[1]) for name, text in texts().items() for hit in CITATION.finditer(text)}
    assert not [found for found in cited if found[1] not in numbers]


def _numbered() -> list[str]:
    return [heading for heading in HEADING.findall(read("docs/specification.md")) if heading[0].isdigit()]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("docs/specification.md, 4G.1", "4G.1"),
        ("(specification 0)", "0"),
        ("specification, section 0", "0"),
        ("Specification 5.i: EOS", "5.i"),
    ],
)
def test_citations_are_found(text, number):
    assert CITATION.search(text)[1] == number
