"""Several finished runs on one page: their bounds, what they differ in, all their figures, and how they were trained.

All that is shown lies in the run folders, so that no corpus is read and nothing is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..comparing.charts import bounds_figure
from ..core.errors import RunFolderError
from ..core.places import check_place
from ..core.printing import MISSING, decimal, percent, plus_minus, significant
from ..evaluation.page import GENERATOR, page
from ..evaluation.report import Document, Picture, Section
from ..plots.scans import curves_figure
from . import folders
from .config import load_config

DEFAULT = "report.html"
"""Name of the page, beside the first run's folder."""


class Finished(NamedTuple):
    """A finished run as its folder has it: a short name, what it was trained on, its options and its results."""

    name: str
    folder: Path
    fingerprint: str
    options: dict[str, Any]
    results: dict[str, Any]

    @property
    def noun(self) -> str:
        """What a text is called; runs of older versions do not say."""
        return str(self.results.get("noun", "text"))


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "ELBO ± s.e.": lambda r: plus_minus(r.get("elbo"), r.get("elbo_se")),
    "importance-weighted ± s.e.": lambda r: plus_minus(r.get("iw"), r.get("iw_se")),
    "K": lambda r: _written(r.get("particles")),
    "KL": lambda r: decimal(r.get("kl")),
    "Rec": lambda r: decimal(r.get("rec")),
    "PPL ± s.e.": lambda r: plus_minus(r.get("perplexity"), r.get("perplexity_se")),
    "k̂ > 0.7": lambda r: percent(r.get("khat_bad")),
    "I(x; z)": lambda r: decimal(r.get("mutual_information")),
    "active units": lambda r: _written(r.get("active_units")),
    "steps": lambda r: f"{r['trained']['step']:,}",
}
"""Columns of the table of bounds; one that no run has is left out."""


def write_page(runs: Sequence[Path], target: Path | None = None, *, force: bool = False) -> Path:
    """Write one page on several finished runs and return its path.

    Args:
        runs: their folders.
        target: the page; None: ``report.html`` beside the first folder.
        force: also in the place of a file that is no page of ours.

    Raises:
        RunFolderError: a folder that holds no run, or one that is not finished.
        UserError: a target that cannot be written, or is there and is no page of ours.
    """
    found = read_runs(runs)
    option, target = "--out" if target else "the page", target or found[0].folder.parent / DEFAULT
    check_place(option, target, _is_page, force=force)
    with tempfile.TemporaryDirectory() as drawn:
        document = Document(f"{len(found)} runs", {}, tuple(_sections(found, Path(drawn))))
        folders.write_text(target, page(document, Path(drawn)))
    return target


def read_runs(runs: Sequence[Path]) -> list[Finished]:
    """Read finished runs from their folders, each once, by names that tell them apart."""
    distinct = list({folder.resolve(): folder for folder in runs}.values())
    names = [folder.resolve().name for folder in distinct]
    return [
        _read(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(distinct, names, strict=True)
    ]


def _read(folder: Path, name: str) -> Finished:
    folders.require_run(folder)
    results = folders.read_record(folder / "results.json") if (folder / "results.json").is_file() else {}
    if "trained" not in results:
        raise RunFolderError(
            f"run {folder} is not finished, so that there is nothing to report; go on with it: "
            f"{folders.resume_command(folder)}"
        )
    fingerprint = folders.read_record(folder / folders.DATA).get("fingerprint", "")
    options = load_config(str(folder / folders.CONFIG)).model_dump()
    return Finished(name, folder, str(fingerprint), options, results)


def _is_page(path: Path) -> bool:
    """Tell whether a file is a page that was written here, by its beginning."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(BEGINNING)


BEGINNING = 4096
"""Characters within which a page of ours says that it is one."""


def _sections(runs: Sequence[Finished], drawn: Path) -> Iterator[Section]:
    """Return the sections of each corpus, and what all runs differ in."""
    corpora = list(dict.fromkeys(run.fingerprint for run in runs))
    if len(corpora) > 1:
        line = f"The runs were trained on {len(corpora)} corpora; bounds of different texts do not compare."
        yield Section("Corpora", lines=(line,))
    for number, fingerprint in enumerate(corpora, 1):
        of_corpus = [run for run in runs if run.fingerprint == fingerprint]
        where = f", {of_corpus[0].options['data']['corpus']}" if len(corpora) > 1 else ""
        yield _bounds(of_corpus, where, drawn, f"bounds-{number}.png")
        yield from _course(of_corpus, where, drawn, f"curves-{number}.png")
    if len(runs) > 1:
        yield _differences(runs)
    yield Section("All figures", ("figure", *(run.name for run in runs)), _all_figures(runs))


def _bounds(runs: Sequence[Finished], where: str, drawn: Path, name: str) -> Section:
    noun = runs[0].noun
    cells = {title: [column(run.results) for run in runs] for title, column in COLUMNS.items()}
    shown = {title: column for title, column in cells.items() if set(column) - {MISSING, "unknown"}}
    who = [
        (run.name, run.options["model"]["family"], run.options["guide"]["name"], run.options["objective"])
        for run in runs
    ]
    rows = tuple((*names, *values) for names, values in zip(who, zip(*shown.values(), strict=True), strict=True))
    bounds_figure([row for run in runs for row in _drawn_bounds(run)], drawn / name, noun)
    line = f"Nats per {noun} at β = 1, whatever was trained by, with Monte-Carlo standard errors."
    picture = Picture("bounds of the runs, with their Monte-Carlo errors", name)
    header = ("run", "model", "guide", "objective", *shown)
    return Section(f"Bounds on the test {noun}s{where}", header, rows, (line,), pictures=(picture,))


def _drawn_bounds(run: Finished) -> Iterator[dict[str, Any]]:
    """Return the bounds of a run as rows of a chart."""
    about = {"run": run.name, "guide": run.options["guide"]["name"]}
    kinds = {"iw": "ln p(x)"} if run.results.get("exact") else {"elbo": "ELBO", "iw": "importance-weighted"}
    for key, name in kinds.items():
        bound, error = run.results.get(key), run.results.get(f"{key}_se")
        yield {**about, "objective": name, "bound": bound, "bound_se": error}


def _course(runs: Sequence[Finished], where: str, drawn: Path, name: str) -> Iterator[Section]:
    metrics = {run.name: run.folder / "metrics.jsonl" for run in runs}
    curves_figure({name: path for name, path in metrics.items() if path.is_file()}, drawn / name, runs[0].noun)
    if (drawn / name).is_file():
        yield Section(f"Training{where}", pictures=(Picture("reconstruction and KL of the validations", name),))


def _all_figures(runs: Sequence[Finished]) -> tuple[tuple[str, ...], ...]:
    """Return every number of ``results.json`` by its name, a column a run."""
    numbers = [dict(_leaves(run.results)) for run in runs]
    keys = dict.fromkeys(key for found in numbers for key, value in found.items() if _is_number(value))
    return tuple((key, *(_written(found.get(key)) for found in numbers)) for key in keys)


def _differences(runs: Sequence[Finished]) -> Section:
    """Return the options that the runs differ in, a column a run."""
    options = [dict(_leaves(run.options)) for run in runs]
    keys = dict.fromkeys(key for found in options for key in found)
    cells = {key: tuple(str(found.get(key, MISSING)) for found in options) for key in keys}
    rows = tuple((key, *values) for key, values in cells.items() if len(set(values)) > 1)
    if not rows:
        return Section("What they differ in", lines=("No option.",))
    return Section("What they differ in", ("option", *(run.name for run in runs)), rows)


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Return the values of a tree by dotted keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _written(value: Any) -> str:
    """Write a number of any size; counts as they are."""
    if not _is_number(value):
        return MISSING
    return f"{value:,}" if isinstance(value, int) else significant(value, 6)
