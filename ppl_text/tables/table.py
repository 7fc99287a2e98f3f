"""What a published table is: columns, rows, claims and budgets, typed and checked.

A table may be printed with the same rows for several corpora: one YAML file, of which one part is filled at a time. The
file's ``parts`` name the corpora. ``{part}`` in a text stands for the part's name, and a mapping whose keys are all
``in PART`` or ``else`` for the value of the part that is filled::

    recipe: "{part}-vae"
    published: {in ptb: {rec: 101.27}, in snli: {rec: 33.08}, else: {}}

A table of other measures of the same runs says ``trained_as: TABLE``: its parts and what its budgets and rows train are
that table's, by name, and a run that lies finished there is copied (:func:`~ppl_text.tables.rows.run_task`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import ConfigError, UnknownNameError, UserError, nearest
from ..core.numbers import is_whole
from ..measures import MEASURES
from ..recipes.plain_yaml import parse_yaml
from . import table_text
from .published import recomputed

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
"""A name that is safe as a folder's."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """One measured quantity: its key in the measures, its heading, how many digits to print.

    ``published``: the key of the published figure that belongs beside it; ``error``: the key of its standard error;
    ``interval``: the keys of the ends of its interval; ``block``: what it is measured at, of a table with ``blocks``.
    """

    key: str
    title: str
    digits: int = 2
    published: str | None = None
    error: str | None = None
    interval: tuple[str, str] | None = None
    block: str = ""

    def in_blocks(self, blocks: Mapping[str, str]) -> list[Column]:
        """Return one column for each block, named by its suffix: ``KEY_SUFFIX``; itself where there are none."""
        if not blocks:
            return [self]
        own = {"key": self.key, "published": self.published, "error": self.error}
        named = [({k: v and f"{v}_{suffix}" for k, v in own.items()}, title) for suffix, title in blocks.items()]
        return [self.model_copy(update={**keys, "block": title}) for keys, title in named]


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
    difference, a fault of the paper); ``data`` changes that hold for rows which train nothing too; ``at`` the number
    that it differs in from the other rows of its group, where a figure is drawn over it. ``recomputed``: which of the
    published figures are not printed but follow from those that are (:mod:`~ppl_text.tables.published`). ``extra``:
    the row that is run before this one, of whose run ``data.extra_limit`` texts are added to the training texts.
    """

    name: Name
    title: str
    group: str
    recipe: str | None = None
    set: dict[str, Any] = {}
    data: dict[str, Any] = {}
    published: dict[str, float] = {}
    remark: str = ""
    at: float | None = None
    recomputed: tuple[str, ...] = ()
    extra: Name | None = None

    def changes(self, budget: Budget, seed: int) -> dict[str, Any]:
        """Return the dotted key to value of everything that is changed of the recipe; the more special value wins."""
        return {**budget.set, **self.data, **self.set, **budget.rows.get(self.name, {}), "seed": seed}


class Corpus(_Part):
    """One of the corpora that a table is printed for: ``corpus`` is its name (None: a user gives the data).

    ``about``: what it is, and where it is had from; ``tokens``: scored tokens a text, by which the published
    perplexities are divided.
    """

    title: str
    corpus: str | None = None
    about: str = ""
    tokens: float | None = None


class Panel(_Part):
    """One of the axes of a scan: its ``label``, and what is drawn, by the key of a measure the name of the line."""

    label: str
    lines: dict[str, str]


PANELS = (
    Panel(label="nats per text", lines={"rec": "Rec"}),
    Panel(label="nats per text", lines={"kl": "KL"}),
    Panel(label="perplexity", lines={"ppl_elbo": "from the ELBO", "paper_ppl": "paper_ppl, no bound"}),
)
"""What a scan shows that does not say it."""


class Drawing(_Part):
    """A figure of the rows of a ``group``: ``scan`` over the number ``at`` which they stand, ``curves`` of training.

    ``about``: what it shows. Of a scan, ``label`` is that of its axis, ``panels`` what it shows over it, and ``beside``
    the row that it is compared with, whose values are dashed lines.
    """

    group: str
    kind: Literal["scan", "curves"]
    about: str
    label: str = ""
    panels: tuple[Panel, ...] = PANELS
    beside: Name | None = None


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
    and ``corpus`` that part's. ``measure``: the kind of measures that fills a row; ``baselines``: rows that its
    figures compare others with; ``drawings``: further figures, of groups of rows. ``blocks``: where every column is
    measured several times (texts of several lengths), the suffix of the keys of each time, and its title; the page has
    a table for each. ``given``: settings of the measures that a user has given, which win over those of the budget;
    ``set``: changes of every row's recipe that a user has given, which win over the rows' own. ``trained_as``: the
    table that trains the same rows, where there is one.
    """

    name: Name
    title: str
    source: str
    corpus: str | None = None
    parts: dict[Name, Corpus] = {}
    part: Name | None = None
    measure: str
    baselines: tuple[Name, ...] = ()
    blocks: dict[str, str] = {}
    columns: tuple[Column, ...]
    given: dict[str, Any] = {}
    set: dict[str, Any] = {}
    trained_as: Name | None = None
    groups: dict[str, str]
    budgets: dict[str, Budget]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()

    def budget(self, name: str) -> Budget:
        """Return a budget by name; raises :class:`UnknownNameError`."""
        if name not in self.budgets:
            raise UnknownNameError("budget", name, self.budgets)
        found = self.budgets[name]
        for key in self.given:
            if key not in found.measure:
                known = ", ".join(found.measure) or "none"
                raise UserError(f"table {self.name} has no setting '{key}' of its measures; it has: {known}")
        return found.model_copy(update={"measure": {**found.measure, **self.given}})

    @property
    def by_hand(self) -> dict[str, Any]:
        """What a user has given, by keys as ``reproduce --set`` takes them."""
        return {**self.set, **{MEASURE + key: value for key, value in self.given.items()}}

    def select(self, names: Sequence[str] | None) -> tuple[Row, ...]:
        """Select rows by name or number (``3``, ``1-7``), in the table's order; all of them for None.

        Raises :class:`UnknownNameError`.
        """
        if names is None:
            return self.rows
        wanted = {row for name in names for row in self._named(name)}
        return tuple(row for row in self.rows if row.name in wanted)

    def _named(self, name: str) -> list[str]:
        """Return the names of the rows that a name, a number or a range of numbers (counted from 1) means."""
        known = [row.name for row in self.rows]
        first, _, last = name.partition("-")
        if name not in known and is_whole(first) and (not last or is_whole(last)):
            numbers = range(int(first), int(last or first) + 1)
            if numbers and numbers[0] >= 1 and numbers[-1] <= len(known):
                return known[numbers[0] - 1 : numbers[-1]]
        if name not in known:
            raise UnknownNameError(
                f"row of table {self.name}", name, known, f"Numbers from 1 to {len(known)} are accepted too, as 1-3."
            )
        return [name]


MEASURE = "measure."
"""What settings of the measures begin with, where they stand among changes of recipes."""


def load_table(
    name: str,
    part: str | None = None,
    given: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
) -> Table:
    """Read a table that comes with the package, or that ``part`` of it (default: its first).

    ``given``: settings of its measures; ``set``: changes of every row's recipe. Raises :class:`UnknownNameError` or,
    for a faulty file, ConfigError.
    """
    found = parse_table(name, table_text(name), part)
    return found.model_copy(update={"given": dict(given or {}), "set": dict(set or {})})


def table_parts(name: str) -> dict[str, Any]:
    """Return the corpora that a table is printed for, by name; nothing where it is printed for one."""
    return _parts(_tree(name, table_text(name)))


def _tree(name: str, text: str) -> dict[str, Any]:
    tree = parse_yaml(text, f"table '{name}'")
    return {"name": name, **(tree if isinstance(tree, Mapping) else {})}


def _parts(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a table's tree: its own, else those of the table that trains its rows."""
    if "trained_as" in tree and "parts" not in tree:
        return table_parts(tree["trained_as"])
    return dict(tree.get("parts") or {})


def parse_table(name: str, text: str, part: str | None = None) -> Table:
    """Read a table, or a part of it, from its YAML; raises :class:`ConfigError` with every fault."""
    tree = _tree(name, text)
    parts = _parts(tree)
    chosen = check_part(name, part, parts)
    if chosen is not None:
        own = of_part({**tree, "parts": parts}, chosen, list(parts))
        tree = {"corpus": parts[chosen].get("corpus"), **own, "part": chosen}
    if (base := tree.get("trained_as")) is not None:
        tree = _trained_as(tree, load_table(base, chosen))
    try:
        table = Table.model_validate(tree)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(f"table '{name}' is faulty:\n" + "\n".join(f"- {fault}" for fault in faults)) from error
    table = table.model_copy(update={"columns": tuple(c for own in table.columns for c in own.in_blocks(table.blocks))})
    _check_references(table)
    tokens = None if chosen is None else table.parts[chosen].tokens
    return table.model_copy(update={"rows": tuple(_with_recomputed(row, tokens) for row in table.rows)})


def _with_recomputed(row: Row, tokens: float | None) -> Row:
    """Return a row with the published figures that follow from the printed ones."""
    found = recomputed(row.published, tokens)
    return row.model_copy(update={"published": {**row.published, **found}, "recomputed": tuple(found)})


def _trained_as(tree: Mapping[str, Any], base: Table) -> dict[str, Any]:
    """Fill the rows and budgets of a tree with what those of the same name train in another table."""
    rows = {row.name: row.model_dump(include={"title", "recipe", "set", "data"}) for row in base.rows}
    own = [{**rows.get(row.get("name"), {}), **row} for row in tree["rows"]]
    names = {row.get("name") for row in own}
    budgets = {key: budget.model_dump(include={"about", "set"}) for key, budget in base.budgets.items()}
    for key, budget in base.budgets.items():
        changes = {name: change for name, change in budget.rows.items() if name in names}
        own_budget = tree["budgets"].get(key, {})
        budgets[key] |= {**own_budget, "rows": {**changes, **own_budget.get("rows", {})}}
    return {**tree, "rows": own, "budgets": budgets}


def _check_references(table: Table) -> None:
    """Check that the rows of claims, groups, columns and measures exist, and that names differ."""
    names, keys = [row.name for row in table.rows], {column.key for column in table.columns}
    faults = [f"row '{name}' stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    faults += [
        f"row '{row.name}' is of unknown group '{row.group}'" for row in table.rows if row.group not in table.groups
    ]
    for budget in table.budgets.values():
        faults += [f"budget '{budget.about}' changes no row '{name}'" for name in budget.rows if name not in names]
    if table.corpus is None and not table.parts:
        faults.append("it names no corpus")
    if table.measure not in MEASURES:
        known = ", ".join(MEASURES)
        faults.append(f"measures '{table.measure}' are not known{nearest(table.measure, MEASURES)}; known: {known}")
    faults += [
        f"row '{row.name}' adds texts of no row '{row.extra}'" for row in table.rows if row.extra not in {None, *names}
    ]
    faults += [
        f"row '{row.name}' adds texts of row '{row.extra}' and does not say how many under budget '{name}': set "
        "data.extra_limit"
        for row in table.rows
        if row.extra is not None
        for name, budget in table.budgets.items()
        if not isinstance(row.changes(budget, 0).get("data.extra_limit"), int)
    ]
    faults += [f"there is no baseline row '{name}'" for name in table.baselines if name not in names]
    for claim in table.claims:
        faults += [f"claim '{claim.text}' names no row '{n}'" for n in (claim.better, claim.worse) if n not in names]
        faults += [] if claim.column in keys else [f"claim '{claim.text}' names no column '{claim.column}'"]
    for drawing in table.drawings:
        faults += (
            [] if drawing.group in table.groups else [f"figure '{drawing.about}' is of no group '{drawing.group}'"]
        )
        faults += (
            [] if drawing.beside in {None, *names} else [f"figure '{drawing.about}' has no row '{drawing.beside}'"]
        )
        nowhere = [row.name for row in table.rows if row.group == drawing.group and row.at is None]
        faults += [f"row '{name}' of a scan does not say where it stands" for name in nowhere if drawing.kind == "scan"]
    if faults:
        raise ConfigError(f"table '{table.name}' is faulty:\n" + "\n".join(f"- {fault}" for fault in faults))


_IN, _ELSE = "in ", "else"


class Chosen(NamedTuple):
    """Which part of a table to fill (None: it has none), and on what data (None: the part's own)."""

    part: str | None
    data: str | None


def choose_part(table: str, parts: Mapping[str, Any], data: str | None) -> Chosen:
    """Return what ``--data [PART=]PATH`` means for a table; its first part where nothing is given.

    Without ``PART=`` the last name of the path tells, or the data are the name of a part that has its own corpus.
    Raises :class:`UserError` where neither does, and where a part needs data that were not given.
    """
    if not parts:
        return Chosen(None, data)
    if data is None:
        return Chosen(next(iter(parts)), None)
    name, equals, path = data.partition("=")
    if not equals:
        name, path = (data, "") if data in parts else (Path(data).name, data)
    if name not in parts:
        raise UserError(
            f"--data {data}: table {table} is printed for {', '.join(parts)}; say which of them that is, "
            f"e.g. --data {list(parts)[-1]}={path or data}"
        )
    return Chosen(name, path or None)


def of_part(tree: Any, part: str, parts: Sequence[str]) -> Any:
    """Make every choice of a tree and replace every ``{part}``; raises :class:`ConfigError` for an unknown part.

    An entry of a list that is chosen to be null is not there.
    """
    if isinstance(tree, str):
        return tree.replace("{part}", part)
    if isinstance(tree, list):
        chosen = (of_part(item, part, parts) for item in tree)
        return [item for item in chosen if item is not None]
    if not isinstance(tree, Mapping):
        return tree
    if tree and all(isinstance(key, str) and (key == _ELSE or key.startswith(_IN)) for key in tree):
        unknown = [key for key in tree if key != _ELSE and key.removeprefix(_IN) not in parts]
        if unknown:
            raise ConfigError(f"'{unknown[0]}' is no part of the table; its parts: {', '.join(parts)}")
        return of_part(tree.get(f"{_IN}{part}", tree.get(_ELSE)), part, parts)
    return {key: of_part(value, part, parts) for key, value in tree.items()}


def check_part(table: str, part: str | None, parts: Mapping[str, Any]) -> str | None:
    """Return the part to fill, its first where none is named; raises :class:`UnknownNameError`."""
    if part is None:
        return next(iter(parts), None)
    if part not in parts:
        raise UnknownNameError(f"part of table {table}", part, parts)
    return part
