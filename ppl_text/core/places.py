"""Where commands write and what they remove: new files, and their own earlier ones; others only by force."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import UserError

FORCE = "--force"
"""The option by which a user means it."""


def target_of(path: str | Path) -> Path:
    """Return where a file would be written: links are followed, since it is not the link that is written."""
    return Path(os.path.realpath(path))


def check_place(option: str, path: str | Path, own: Callable[[Path], bool], *, force: bool = False) -> None:
    """Raise :class:`UserError` where a command may not write a file, before anything is done for it.

    Args:
        option: what named the file, for messages.
        path: of the file.
        own: tells by its content whether a file is one that the command wrote before.
        force: also in the place of another regular file.
    """
    target = target_of(path)
    try:
        refusal = _why_not(target, own, force)
    except OSError as error:
        refusal = f"cannot be written: {error.strerror}"
    if refusal:
        raise UserError(f"{option} {path} {refusal}")


def _why_not(target: Path, own: Callable[[Path], bool], force: bool) -> str:
    """Return why a file cannot or may not be put there; "" where it may."""
    other = "give the name of a new file in an existing folder"
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        mode = None
    except NotADirectoryError:
        return f"cannot be written: {target.parent} is no folder; {other}"
    if mode is not None and not stat.S_ISREG(mode):
        return f"is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; {other}"
    if mode is None and not target.parent.is_dir():
        return f"cannot be written: folder {target.parent} does not exist; {other}"
    if not os.access(target.parent, os.W_OK):
        return f"cannot be written: the folder {target.parent} is read-only to you; {other}"
    if mode is not None and not force and not own(target):
        return f"is another file, which would be lost; {other}, or add {FORCE} to replace it"
    return ""


Made = Mapping[str, tuple[int, ...]]
"""Files below a folder by their relative paths, each with what tells whether it is still the same."""


def made_in(folder: Path) -> Made:
    """Return what lies in a folder now, links not followed, so that just this can be removed from it."""
    return {
        str(path.relative_to(folder)): _mark(path)
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _mark(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def remove_made(folder: Path, made: Made) -> None:
    """Remove what a folder held when it was looked at, and the folders that this leaves empty.

    What is new or has changed since stays. Of a folder that has been replaced by a link nothing is removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    there = made_in(folder)
    for name in there.keys() & made.keys():
        if there[name] == made[name]:
            (folder / name).unlink()
    places = {folder / place for name in made for place in Path(name).parents}
    for place in sorted(places, key=lambda place: len(place.parts), reverse=True):
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            place.rmdir()
