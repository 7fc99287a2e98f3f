"""L4: published tables as data, and what it takes to fill them again: ``python -m ppl_text reproduce TABLE``.

A table is one YAML file: its columns, its rows (a recipe and what is changed of it, beside the published figures), the
published claims that follow from comparing rows, and budgets. To add one: write the file, and name in ``measure`` the
kind of :data:`ppl_text.measures.MEASURES` that fills a row. Nothing heavy is imported here.
"""

from __future__ import annotations

from importlib import resources

from ..core.errors import UnknownNameError

_SUFFIX = ".yaml"


def table_names() -> list[str]:
    """Return the tables that ``reproduce`` knows."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(_SUFFIX) for file in files if file.name.endswith(_SUFFIX))


def table_text(name: str) -> str:
    """Return the YAML of a table; raises :class:`UnknownNameError`."""
    if name not in table_names():
        raise UnknownNameError("table", name, table_names())
    return (resources.files(__name__) / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
