"""Folders with one file for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ppl_text.core.errors import DataError

from .corpus import SPLITS


def split_files(folder: Path, endings: Sequence[str], hint: str = "") -> dict[str, Path]:
    """The file of each split that the folder has; train must be there, and none may be there twice.

    ``endings`` are those that are read. Raises :class:`DataError`, with ``hint`` where there is no training file.
    """
    names = [f"train{ending}" for ending in endings]
    expected = f"expected {', '.join(names[:-1])} or {names[-1]} (and, if there are any, valid.* and test.*)"
    try:
        present = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", folder) from error
    found = {}
    for split in SPLITS:
        candidates = [f"{split}{ending}" for ending in endings if f"{split}{ending}" in present]
        if len(candidates) > 1:
            raise DataError(f"both {' and '.join(candidates)} are there; keep the one that is meant", folder)
        if candidates:
            found[split] = folder / candidates[0]
    if "train" not in found:
        message = f"no training file in the folder: {expected}; found {listed(present) or 'nothing'}"
        other = any(name.startswith("train.") for name in present)
        raise DataError(message + (f"; {hint}" if hint and other else ""), folder)
    return found


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a row, with "and n more" for those beyond ``most``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
