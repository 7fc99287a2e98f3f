"""Which file of a folder holds which split, and which two files hold a text and its source line by line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ppl_text.core.errors import DataError

from .corpus import SPLITS
from .lines import listed

JSON = (".json", ".jsonl", ".ndjson")
"""Endings of JSON, which may all hold an object on each line or one list of objects."""

ENDINGS = (".txt", ".tsv", ".csv", *JSON, ".parquet")
"""All endings of a split's file."""

ALIASES = {"validation": "valid", "dev": "valid", "val": "valid"}
"""What data sets and folders call their splits, where it is not what we call them."""

PARALLEL = ("tgt", "src")
"""Endings of parallel files, of texts and of their sources."""


def parallel_to(path: Path, endings: tuple[str, str] = PARALLEL) -> tuple[Path, Path] | None:
    """Return a file of texts and that of their sources, where ``path`` is one of them and both are there; or None.

    Their names end in ``endings`` (``x.tgt``, ``x.src``), or begin with them (``tgt-x.txt``, ``src-x.txt``).
    """
    for own in endings:
        if path.suffix == f".{own}":
            names = [path.with_suffix(f".{ending}") for ending in endings]
        elif path.name.startswith(f"{own}-"):
            names = [path.with_name(ending + path.name.removeprefix(own)) for ending in endings]
        else:
            continue
        if all(map(os.path.isfile, names)):
            return names[0], names[1]
    return None


def split_files(folder: Path, endings: tuple[str, str] = PARALLEL) -> dict[str, Path]:
    """Return the file of each split that the folder has; none may be there twice.

    ``val``, ``dev`` and ``validation`` are valid. Of parallel files it is that of the texts. Raises :class:`DataError`
    for a folder that cannot be read, a split that several files hold, and one of two parallel files alone.
    """
    try:
        present = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", folder) from error
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in present:
        split, side = _split_of(name, endings)
        if split not in found:
            continue
        if side and parallel_to(folder / name, endings) is None:
            raise DataError(
                f"{name} is there without its {'source' if side == endings[0] else 'text'} side; "
                f"expected two parallel files, {' and '.join(_both(name, side, endings))}",
                folder,
            )
        if side != endings[1]:
            found[split].append(name)
    for names in found.values():
        if len(names) > 1:
            raise DataError(f"both {' and '.join(names)} are there; keep the one that is meant", folder)
    return {split: folder / names[0] for split, names in found.items() if names}


def _split_of(name: str, endings: tuple[str, str]) -> tuple[str, str]:
    """Return the split that a file's name says, and of parallel files the side, else an empty string."""
    stem, ending = os.path.splitext(name)
    side = ending[1:] if ending[1:] in endings else ""
    first, dash, rest = stem.partition("-")
    if not side and dash and first in endings:
        side, stem = first, rest
    known = bool(side) or ending.lower() in ENDINGS
    return (ALIASES.get(stem.lower(), stem.lower()) if known else ""), side


def _both(name: str, side: str, endings: tuple[str, str]) -> list[str]:
    begins = name.startswith(f"{side}-")
    rest = name.removeprefix(side) if begins else name.removesuffix(side)
    return [ending + rest if begins else rest + ending for ending in reversed(endings)]


def with_train(folder: Path, found: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of splits, of which train must be one; raises :class:`DataError` otherwise."""
    if "train" not in found:
        present = sorted(path.name for path in folder.iterdir())
        raise DataError(
            f"no training file in the folder: expected train.txt (or {', '.join(ENDINGS[1:])}) and, if there are any, "
            f"valid (or val, dev, validation) and test; found {listed(present) or 'nothing'}",
            folder,
        )
    return dict(found)


def unread(folder: Path, found: Iterable[Path], endings: tuple[str, str] = PARALLEL) -> list[str]:
    """Return a note of the folder's other files, hidden ones excepted; none where there are no others."""
    read = {file for path in found for file in parallel_to(path, endings) or (path,)}
    others = sorted(path.name for path in folder.iterdir() if path not in read and path.name[0] != ".")
    return [f"not read in {folder}: {listed(others)}"] if others else []
