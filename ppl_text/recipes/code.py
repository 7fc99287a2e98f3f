"""What a user gives for a part (a name, a file, a class) as the text that a configuration keeps."""

from __future__ import annotations

import inspect
import os

from guides import GUIDES

from ..core.errors import UserError
from ..core.registry import is_file_reference


def guide_reference(guide: str | type) -> str:
    """A guide by name, or ``FILE.py:CLASS`` with an absolute path; raises :class:`UserError` where there is no file."""
    if isinstance(guide, type):
        return _class_reference(guide)
    if not is_file_reference(guide):
        return guide
    path, colon, attribute = guide.partition(":")
    return f"{os.path.abspath(os.path.expanduser(path))}{colon}{attribute}"


def _class_reference(guide: type) -> str:
    """A registered class by its name, any other by file and name: a run must be able to load it again."""
    target = f"{guide.__module__}:{guide.__qualname__}"
    for table in GUIDES.values():
        for name, registered in table.items():
            if registered == target:
                return name
    advice = (
        "put it into a .py file of its own, at the top level, and import it from there: loading a run runs that file"
    )
    if guide.__module__ == "__main__" or "." in guide.__qualname__:
        raise UserError(f"guide class {guide.__qualname__} stands in a script, a notebook or a function; {advice}")
    source = inspect.getsourcefile(guide)
    if source is None or not source.endswith(".py"):
        raise UserError(f"guide class {guide.__qualname__} has no source file; {advice}")
    return f"{os.path.abspath(source)}:{guide.__qualname__}"
