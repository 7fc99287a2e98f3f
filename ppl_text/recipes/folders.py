"""Where runs lie: the names of their folders, and what a folder says about itself."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ..core.atomic import PARTIAL_SUFFIX, write_atomically
from ..core.errors import RunFolderError, UserError
from ..core.registry import is_file_reference
from ..training.checkpoints import Checkpoints

RUNS = Path("runs")
"""Where runs go that are given no folder."""


def next_folder(recipe: str) -> Path:
    """The first of ``runs/RECIPE-1``, ``runs/RECIPE-2``, … that does not exist yet."""
    return first_free(RUNS, recipe)


def next_swap(parent: Path, guide: str) -> Path:
    """The first of ``PARENT/swaps/GUIDE-1``, … that does not exist yet; a guide from a file by its class alone."""
    name = guide.partition(":")[2] if is_file_reference(guide) else guide
    return first_free(parent / "swaps", re.sub(r"[^\w.-]", "_", name) or "guide")


def first_free(place: Path, name: str) -> Path:
    """Return the first of ``PLACE/NAME-1``, ``PLACE/NAME-2``, … that does not exist yet."""
    number = 1
    while (place / f"{name}-{number}").exists():
        number += 1
    return place / f"{name}-{number}"


def newest_first(recipe: str) -> list[Path]:
    """The folders that :func:`next_folder` has named, last one first."""
    found = RUNS.iterdir() if RUNS.is_dir() else iter(())
    numbers = [folder.name.removeprefix(f"{recipe}-") for folder in found if folder.name.startswith(f"{recipe}-")]
    return [RUNS / f"{recipe}-{n}" for n in sorted((int(n) for n in numbers if n.isdecimal()), reverse=True)]


def has_run(folder: Path) -> bool:
    """Whether the folder holds the configuration of a run."""
    return (folder / "config.yaml").is_file()


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a state to resume from."""
    return Checkpoints(folder, {}).newest() is not None


def way_on(folder: Path) -> str:
    """The command that goes on with an unfinished run: from its checkpoint, or from the start where it has none."""
    resume = f"--resume {folder}" if has_checkpoint(folder) else f"{folder / 'config.yaml'}"
    return f"python -m ppl_text fit {resume}"


def check_free(folder: Path) -> None:
    """Raise :class:`RunFolderError`, with advice that works, where a folder is not free for a new run."""
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be used: {error.strerror}; choose another with --out") from error
    if taken and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another folder with --out")
    if taken:
        advice = f"go on with the run in it ({way_on(folder)}), or " if has_checkpoint(folder) else ""
        raise RunFolderError(f"{folder} is not empty; {advice}choose another folder with --out")


def make_folder(folder: Path) -> None:
    """Make the folder of a new run, which must be free."""
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error.strerror}; choose another with --out") from error


def remove_unstarted(folder: Path) -> None:
    """Remove the folder of a run that was killed before its first checkpoint: it holds nothing that was trained.

    A folder with anything else in it is left alone.
    """
    if not folder.is_dir() or has_checkpoint(folder):
        return
    made = {"config.yaml", "data.json", "environment.json", "tokenizer.json", "parent.json", "checkpoints"}
    if all(path.name in made or path.name.endswith(PARTIAL_SUFFIX) for path in folder.iterdir()):
        shutil.rmtree(folder)


def move_folder(folder: Path, target: Path) -> None:
    """Give a run's folder another place, which must be free; at any moment one of the two is whole.

    Raises :class:`RunFolderError` or :class:`UserError` where the place is taken or cannot be used.
    """
    check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            target.rmdir()
        if folder.stat().st_dev == target.parent.stat().st_dev:
            os.rename(folder, target)
            return
        partial = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder, partial)
        os.rename(partial, target)
        shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be moved to {target}: {error.strerror}; choose another folder") from error


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder; raises :class:`RunFolderError` where it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); the run folder is incomplete") from error
    if not isinstance(values, dict):
        raise RunFolderError(f"{path} holds no JSON object; the run folder is damaged")
    return values


def write_record(path: Path, values: dict[str, Any]) -> None:
    """Write a strict JSON object, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))
