"""Files of users' as they are read: regular ones, as long as they may be; JSON that is nested as deep as one reads."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any, BinaryIO

NESTED = "lists or objects are nested too deep"
"""What is wrong with JSON on which Python gives up."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read its bytes; raise ``OSError`` for all else.

    A pipe would be waited for, and a device may have no end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}; a regular file is expected", str(path))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | os.PathLike[str], most: int = -1) -> bytes:
    """Return what a regular file holds; raise ``OSError`` for all else, and where it is longer than ``most`` bytes."""
    with open_regular(path) as file:
        content = file.read(most + 1) if most >= 0 else file.read()
    if 0 <= most < len(content):
        raise OSError(errno.EFBIG, f"it is longer than {most:,} bytes", str(path))
    return content


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON object that a regular file holds; raise ``OSError`` or ``ValueError`` where it holds none."""
    found = parse_json(read_regular(path))
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says; raise ``ValueError`` where it is none, or is nested too deep.

    Example::

        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
            ...
        ValueError: lists or objects are nested too deep
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(NESTED) from error
