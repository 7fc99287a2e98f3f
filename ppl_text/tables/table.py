"""What a published table is: columns, rows, claims and budgets, typed and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import ConfigError, UnknownNameError, nearest
from ..recipes.tree import parse_yaml
from . import table_text
from .parts import check_part, of_part

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
"""A name that is safe as a folder's."""


KINDS = ("words", "sentences")
"""Names of what can be measured of a row; ``measures.py`` has the functions."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """One measured quantity: its key in the measures, its heading, how many digits to print.

    ``published``: the key of the published figure that belongs beside it; ``error``: the key of its standard error;
    ``interval``: the keys of the ends of its interval.
    """

    key: str
    title: str
    digits: int = 2
    published: str | None = None
    error: str | None = None
    interval: tuple[str, str] | None = None


class Budget(_Part):
    """How long to train and how finely to measure: changes of every row's recipe, and the settings of the measures.

    ``rows``: further changes of single rows, by name.
    """

    about: str
    set: dict[str, Any] = {}
    rows: dict[Name, dict[str, Any]] = {}
    measure: dict[str, Any] = {}


class Row(_Part):
    """One row: a recipe with changes (None: nothing is trained), beside the published figures.

    ``group`` is the part of the table that it stands in; ``remark`` what the comparison must know (a reason for a
    difference, a fault of the paper); ``data`` changes that hold for rows which train nothing too.
    """

    name: Name
    title: str
    group: str
    recipe: str | None = None
    set: dict[str, Any] = {}
    data: dict[str, Any] = {}
    published: dict[str, float] = {}
    remark: str = ""

    def changes(self, budget: Budget, seed: int) -> dict[str, Any]:
        """Dotted key to value of everything that is changed of the recipe; the more special value wins."""
        return {**budget.set, **self.data, **self.set, **budget.rows.get(self.name, {}), "seed": seed}


class Corpus(_Part):
    """One of the corpora that a table is printed for: ``corpus`` is its name (None: a user gives the data).

    ``about``: what it is, and where it is had from.
    """

    title: str
    corpus: str | None = None
    about: str = ""


class Claim(_Part):
    """A published ordering, to be looked up in our rows: ``better`` is said to beat ``worse`` in ``column``."""

    text: str
    better: Name
    worse: Name
    column: str
    higher: bool = False
    remark: str = ""


class Table(_Part):
    """A published table (or several of one paper) with everything that is needed to fill it again.

    ``parts``: the corpora that it is printed for, by name, where there are several; ``part``: the one that is filled,
    and ``corpus`` that part's.
    """

    name: Name
    title: str
    source: str
    corpus: str | None = None
    parts: dict[Name, Corpus] = {}
    part: Name | None = None
    measure: str
    columns: tuple[Column, ...]
    groups: dict[str, str]
    budgets: dict[str, Budget]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    def budget(self, name: str) -> Budget:
        """A budget by name; raises :class:`UnknownNameError`."""
        if name not in self.budgets:
            raise UnknownNameError("budget", name, self.budgets)
        return self.budgets[name]

    def select(self, names: Sequence[str] | None) -> tuple[Row, ...]:
        """Rows by name or number (``3``, ``1-7``), in the table's order; all of them for None.

        Raises :class:`UnknownNameError`.
        """
        if names is None:
            return self.rows
        wanted = {row for name in names for row in self._named(name)}
        return tuple(row for row in self.rows if row.name in wanted)

    def _named(self, name: str) -> list[str]:
        """The names of the rows that a name, a number or a range of numbers (counted from 1) means."""
        known = [row.name for row in self.rows]
        first, _, last = name.partition("-")
        if name not in known and first.isdecimal() and (not last or last.isdecimal()):
            numbers = range(int(first), int(last or first) + 1)
            if numbers and numbers[0] >= 1 and numbers[-1] <= len(known):
                return known[numbers[0] - 1 : numbers[-1]]
        if name not in known:
            raise UnknownNameError(
                f"row of table {self.name}", name, known, f"Numbers from 1 to {len(known)} are accepted too, as 1-3."
            )
        return [name]


def load_table(name: str, part: str | None = None) -> Table:
    """Read a table that comes with the package, or that ``part`` of it (default: its first).

    Raises :class:`UnknownNameError` or, for a faulty file, ConfigError.
    """
    return parse_table(name, table_text(name), part)


def table_parts(name: str) -> dict[str, Any]:
    """The corpora that a table is printed for, by name; nothing where it is printed for one."""
    tree = parse_yaml(table_text(name), f"table '{name}'")
    return dict(tree.get("parts", {}))


def parse_table(name: str, text: str, part: str | None = None) -> Table:
    """A table, or a part of it, from its YAML; raises :class:`ConfigError` with every fault."""
    tree = parse_yaml(text, f"table '{name}'")
    tree = {"name": name, **(tree if isinstance(tree, Mapping) else {})}
    parts = tree.get("parts") or {}
    chosen = check_part(name, part, parts)
    if chosen is not None:
        tree = {"corpus": parts[chosen].get("corpus"), **of_part(tree, chosen, list(parts)), "part": chosen}
    try:
        table = Table.model_validate(tree)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(f"table '{name}' is faulty:\n" + "\n".join(f"- {fault}" for fault in faults)) from error
    _check_references(table)
    return table


def _check_references(table: Table) -> None:
    """Rows of claims, groups, columns and measures must exist, and names must differ."""
    names, keys = [row.name for row in table.rows], {column.key for column in table.columns}
    faults = [f"row '{name}' stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    faults += [
        f"row '{row.name}' is of unknown group '{row.group}'" for row in table.rows if row.group not in table.groups
    ]
    for budget in table.budgets.values():
        faults += [f"budget '{budget.about}' changes no row '{name}'" for name in budget.rows if name not in names]
    if table.corpus is None and not table.parts:
        faults.append("it names no corpus")
    if table.measure not in KINDS:
        known = ", ".join(KINDS)
        faults.append(f"measures '{table.measure}' are not known{nearest(table.measure, KINDS)}; known: {known}")
    for claim in table.claims:
        faults += [f"claim '{claim.text}' names no row '{n}'" for n in (claim.better, claim.worse) if n not in names]
        faults += [] if claim.column in keys else [f"claim '{claim.text}' names no column '{claim.column}'"]
    if faults:
        raise ConfigError(f"table '{table.name}' is faulty:\n" + "\n".join(f"- {fault}" for fault in faults))
