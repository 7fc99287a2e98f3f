"""What the JSON records of a run folder hold, as far as it is read again; more may stand beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import RunFolderError
from ..core.limits import MOST
from ..core.reading import read_object
from ..core.validation import in_words

Step = Annotated[int, Field(ge=0, le=MOST)]


class Record(BaseModel):
    """A record: what is named here has these types, other names anything."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class DataRecord(Record):
    """``data.json``; runs of older versions do not say how long texts are."""

    corpus: str = ""
    fingerprint: str | None = None
    max_steps: Annotated[int, Field(gt=0, le=MOST)] | None = None
    max_source_steps: Step = 0
    notes: list[str] = []


class Packages(Record):
    """Versions by package."""

    torch: str


class EnvironmentRecord(Record):
    """``environment.json``."""

    device_name: str
    cpu_count: int | None
    packages: Packages


class ParentRecord(Record):
    """``parent.json``."""

    folder: str
    recipe: str
    guide: str
    step: Step | None
    validation_bound: float | None = None
    sha256: str


class Trained(Record):
    """``trained`` of ``results.json``."""

    step: Step
    best_step: Step = 0
    stopped: str
    lengths: list[dict[str, int]] = []


class Figures(Record):
    """A guide in ``swap`` of ``results.json``; what was no finite number is null."""

    guide: str
    elbo: float | None
    elbo_se: float | None
    iw: float | None
    iw_se: float | None
    gap: float | None
    gap_se: float | None
    kl: float | None
    khat_good: float | None
    khat_ok: float | None
    khat_bad: float | None
    parameters: float | None = None


class SwapRecord(Record):
    """``swap`` of ``results.json``."""

    before: Figures
    after: Figures
    particles: Step
    sentences: Step
    seed: int
    noun: str = ""


class ResultsRecord(Record):
    """``results.json`` of a run, or of a table, which has neither of these."""

    trained: Trained = Trained(step=0, stopped="")
    swap: SwapRecord | None = None


RECORDS: dict[str, type[Record]] = {
    "data.json": DataRecord,
    "environment.json": EnvironmentRecord,
    "parent.json": ParentRecord,
    "results.json": ResultsRecord,
}
"""By the name of the file; others are any JSON object."""


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder; raises :class:`RunFolderError` where it is missing, damaged or another one.

    The message names file and field.
    """
    try:
        values = read_object(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); the run folder is incomplete") from error
    try:
        RECORDS.get(path.name, Record).model_validate(values)
    except ValidationError as error:
        raise RunFolderError(f"{path}: {_first(error)}; the run folder is damaged, put a good copy back") from error
    return values


def check_records(folder: Path) -> None:
    """Read all records that a run's folder has; raises as :func:`read_record`."""
    for name in RECORDS:
        if (folder / name).is_file():
            read_record(folder / name)


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    field = ".".join(map(str, found["loc"]))
    return f"'{field}' is missing" if found["type"] == "missing" else f"'{field}': {in_words(found)}"
