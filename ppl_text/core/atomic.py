"""Files that are wholly there or not at all, what to say when the disk refuses, and what strict JSON can hold."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError

PARTIAL_SUFFIX = ".partial"
"""Ending of a file that is being written: ``.step-00001000.pt.partial`` becomes ``step-00001000.pt``."""

LONGEST = 255
"""Bytes of a file's name, on the usual file systems."""

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit on the size of a file is reached",
}


class _KeepsErrno:
    """Writes to a file descriptor and remembers the first ``OSError`` instead of raising it.

    ``torch.save`` writes through a C++ zip writer, which replaces an ``OSError`` by a ``RuntimeError`` that
    says nothing of a full disk. Behind this file the writer never sees the fault; who opened it raises it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data`` (a full disk may take a part of it first) and return its size in bytes."""
        view = memoryview(data).cast("B")
        size = view.nbytes
        try:
            while self.error is None and view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Nothing is buffered here."""


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Let ``write(file)`` fill a temporary file in the same folder, then put it in the place of ``path``.

    The data is on the disk (fsync) before the name is, and the name before the call returns. At any moment,
    also after SIGKILL or a power cut, ``path`` is the old file or the new one. Raises
    :class:`CheckpointError` with the reason and the free space when the machine refuses; the old file and
    nothing else is left then.
    """
    partial = partial_of(path)
    try:
        _write_and_sync(partial, write)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise refused(path, error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """Return the name under which a file is written first, which is no longer than names may be."""
    name = f".{path.name}{PARTIAL_SUFFIX}"
    if len(os.fsencode(name)) > LONGEST:
        name = f".{hashlib.sha256(name.encode()).hexdigest()[:16]}{PARTIAL_SUFFIX}"
    return path.with_name(name)


def refused(path: Path, error: OSError) -> CheckpointError:
    """Return the error that tells the user why ``path`` could not be written, and what to do."""
    reason = _REASONS.get(error.errno or 0)
    if reason is None:
        advice = "Check the folder's permissions and the disk."
        return CheckpointError(f"cannot write {path}: {error.strerror or error}. {advice}")
    return CheckpointError(
        f"cannot write {path}: {reason} ({_free_space(path.parent)} free). What was saved before is untouched: "
        "make room or raise the limit."
    )


def finite_or_none(value: Any) -> Any:
    """Replace every float that is not finite by None, in dictionaries and lists too: JSON has no word for it.

    Example::

        >>> finite_or_none({"elbo": -1.5, "by_site": [math.inf, 2]})
        {'elbo': -1.5, 'by_site': [None, 2]}
    """
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half-written in ``folder``."""
    for path in folder.glob(f".*{PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)


def _write_and_sync(partial: Path, write: Callable[[Any], object]) -> None:
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        file = _KeepsErrno(descriptor)
        write(file)
        if file.error is not None:
            raise file.error
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; only POSIX systems can open a folder for that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**20:z,.1f} MiB"
