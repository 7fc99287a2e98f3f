"""Runs keep the code of their own that they were trained with; opening a run runs it by consent only.

::

    DIR/code/mine.py     a copy of each file of the user's
    DIR/code.json        {"/home/me/mine.py:Mine": {"file": "code/mine.py", "origin": "/home/me/mine.py", "sha256": …},
                          "guide:theirs": {…, "package": {"name": "their-guides", "version": "1.0"}}}

Consent is ``--trust`` (in Python ``trust=True``), whoever made the run, or naming the file, unchanged, in the command.
A class that Python passed and that has no file of its own is passed again; its text is kept for reading. A name of an
installed package needs no further consent where the record has that package in that version: it was installed, and
named, before. Any other package that offers the name today needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import RunFolderError, TrustError, UserError
from ..core.reading import read_regular
from ..core.registry import Package, Source, read_source
from . import folders
from .code import LIVE, Code, Own, is_own, name_of, named, own_references, package_of
from .config import recipe_tree
from .tree import assign, is_recipe_file

Record = Mapping[str, Any]
"""Of one text: ``file`` (in the folder), ``origin`` and ``sha256``; None where no source could be had. Of a name of an
installed package also ``package``."""

NOTHING: Record = {"file": None, "origin": None, "sha256": None}


def keep(folder: Path, code: Code, tree: Mapping[str, Any]) -> None:
    """Copy the code of the user's that a configuration names into its run's folder, and write the record."""
    texts = [text for text in own_references(tree) if text in code]
    kept: dict[str, str] = {}
    record: dict[str, Any] = {}
    for text in texts:
        source, package = code[text].source, code[text].package
        if source is None:
            record[text] = dict(NOTHING) if package is None else {**NOTHING, "package": _identity(package)}
            continue
        if source.digest not in kept:
            stem = code[text].name if text.startswith(LIVE) else source.path.stem
            kept[source.digest] = _free_name(stem, list(kept.values()))
            folders.write_bytes(folder / kept[source.digest], source.text)
        origin = str(source.path) if text.startswith(LIVE) else text.partition(":")[0]
        record[text] = {"file": kept[source.digest], "origin": origin, "sha256": source.digest}
    if record:
        folders.write_record(folder / folders.CODE, record)


def _free_name(stem: str, taken: list[str]) -> str:
    names = (f"{folders.CODE_FOLDER}/{stem}{'' if n == 1 else f'-{n}'}.py" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def opened(folder: Path, needed: Mapping[str, str], given: Code, *, trust: bool) -> dict[str, Own]:
    """Return the code that the configuration of a run's folder needs, where all of it may run.

    Args:
        folder: of the run.
        needed: the :func:`~.code.own_references` of its configuration.
        given: what the command names and Python passes; consent to a file covers all that the run has from it, as
            long as it is what the run keeps.
        trust: run what the folder keeps (for runs that keep nothing: the files that their configuration names).

    Raises:
        TrustError: something may not run; says which files would.
        UserError: a copy is not what the record says, a file has changed, or is gone.
    """
    record = _record(folder)
    found: dict[str, Own] = {}
    refused: list[str] = []
    missing: dict[str, str] = {}
    for text, kind in needed.items():
        kept, passed = record.get(text), _passed(text, given)
        if passed is not None:
            found[text] = passed
        elif text.startswith(LIVE):
            missing[text] = kind
        elif not is_own(text):
            package = package_of(name_of(text), kind)
            if trust or text in given or (package is not None and _recorded(kept) == _identity(package)):
                found[text] = Own(name_of(text), None, package=package)
            else:
                refused.append(f"{kind} {name_of(text)}: {_which_package(package, kept)}")
        elif trust:
            found[text] = Own(name_of(text), _original(folder, text, kind) if kept is None else _copy(folder, kept))
        elif (own := _consented(text, kept, given)) is not None:
            found[text] = own
        else:
            refused.append(f"{kind} {name_of(text)}: {_which(folder, text, kept)}")
    if missing or refused:
        raise TrustError("\n".join([*_pass_again(folder, missing, record), *_consent_to(folder, refused)]))
    return found


def _identity(package: Package) -> dict[str, str]:
    """Return what the record keeps of an installed package."""
    return {"name": package.name, "version": package.version}


def _recorded(kept: Record | None) -> Any:
    return None if kept is None else kept.get("package")


def _which_package(package: Package | None, kept: Record | None) -> str:
    now = "" if package is None else f"{package.target} of the installed package {package.name} {package.version}"
    before = _recorded(kept)
    then = "had no such name of a package" if before is None else f"had it from {before['name']} {before['version']}"
    return f"{now} (the run {then})"


def _passed(text: str, given: Code) -> Own | None:
    """Return the class or object that Python passed for this text: the same piece, or another of its name."""
    live = {key: own for key, own in given.items() if own.live is not None}
    return live.get(text) or next((own for own in live.values() if own.name == name_of(text)), None)


def _consented(text: str, kept: Record | None, given: Code) -> Own | None:
    """Return the code behind a text where a file that was named has what the run keeps, wherever it lies.

    Where the run keeps nothing, the file that its configuration names has to be the one.

    Raises:
        UserError: that very file is named, and has changed.
    """
    own = given.get(text)
    if kept is None:
        return own
    sources = [own.source for own in given.values() if own.source is not None]
    same = next((source for source in sources if source.digest == kept["sha256"]), None)
    if same is not None:
        return Own(name_of(text), same)
    if own is not None and own.source is not None:
        raise UserError(
            f"{own.source.path} has changed since the run was made: SHA-256 {own.source.digest} now, {kept['sha256']} "
            "then; restore it, or go on with the copy that the run keeps, by --trust (in Python trust=True)"
        )
    return None


def _pass_again(folder: Path, missing: Mapping[str, str], record: Mapping[str, Record]) -> list[str]:
    """Say of all that was passed in Python that it has to be passed again; nothing where nothing is missing."""
    if not missing:
        return []
    kept = {text: record[text]["file"] for text in missing if text in record and record[text]["file"]}
    parts = ", ".join(
        f"{kind} {name_of(text)}" + (f" (its text, for reading: {folder / str(kept[text])})" if text in kept else "")
        for text, kind in missing.items()
    )
    given = "".join(f", {kind}={name_of(text)}" for text, kind in missing.items())
    return [
        f"{folder} needs what was passed in Python and has no file of its own: {parts}; pass it again: "
        f"ppl_text.load({str(folder)!r}{given}). To open runs from the command line, put it into a file and train with "
        "FILE.py:NAME"
    ]


def _consent_to(folder: Path, refused: Sequence[str]) -> list[str]:
    """Say which files opening the run would run, and how to consent; nothing where there are none."""
    if not refused:
        return []
    listed = "".join(f"\n- {line}" for line in refused)
    return [
        f"{folder} needs code of its own, and opening it would run:{listed}\nRead it first. To run it, add --trust "
        "(in Python trust=True); or name a file of yours with the same text, as FILE.py:NAME, or the package's name, "
        "where the command takes one (fit --resume DIR --guide FILE.py:NAME; in Python ppl_text.load(DIR, guide=…), or "
        "the class)"
    ]


def _which(folder: Path, text: str, kept: Record | None) -> str:
    if kept is None:
        return f"{text.partition(':')[0]} (the run keeps no copy of it)"
    return f"{folder / str(kept['file'])} (copy of {kept['origin']}, SHA-256 {kept['sha256']})"


def _original(folder: Path, text: str, kind: str) -> Source:
    try:
        return read_source(text, kind)
    except UserError as error:
        raise UserError(f"{folder} keeps no copy of its code, and {error}; put the file back") from error


def _copy(folder: Path, kept: Record) -> Source:
    """Read the copy of a file; raises :class:`RunFolderError` where its SHA-256 is not that of the record."""
    path = folder / str(kept["file"])
    if path.parent.resolve() != folder.resolve() / folders.CODE_FOLDER or path.is_symlink():
        raise RunFolderError(
            f"{folder / folders.CODE} names {path}, which is no file in {folder / folders.CODE_FOLDER}; a run keeps "
            "its code there, and nothing else is run for it: ask who made the run for a whole copy"
        )
    try:
        source = Source(path, read_regular(path))
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror}); the run folder is incomplete") from error
    if source.digest != kept["sha256"]:
        raise RunFolderError(
            f"{path} is not the code that the run was trained with: SHA-256 {source.digest}, recorded "
            f"{kept['sha256']}; restore it (it was copied from {kept['origin']})"
        )
    return source


def _record(folder: Path) -> dict[str, Record]:
    """Read ``code.json``; empty for runs that have none."""
    path = folder / folders.CODE
    record = folders.read_record(path) if path.is_file() else {}
    if not all(map(_is_record, record.values())):
        raise RunFolderError(f"{path} is no record of a run's code; the run folder is damaged")
    return record


def _is_record(values: Any) -> bool:
    if not isinstance(values, dict) or not NOTHING.keys() <= values.keys():
        return False
    package = values.get("package", {"name": "", "version": ""})
    texts = [values[key] for key in NOTHING if values[key] is not None]
    named = isinstance(package, dict) and {"name", "version"} <= package.keys()
    return named and all(isinstance(text, str) for text in (*texts, *package.values()))


def of_recipe(recipe: str, changes: Mapping[str, Any], given: Code, *, trust: bool) -> dict[str, Own]:
    """Return the code that a new run of a recipe needs.

    What the command names and what a recipe of the user's names may run. The ``config.yaml`` of a run, under whatever
    name, and any other recipe in a run's folder count as that run: what they name themselves needs ``trust``.
    """
    tree = recipe_tree(recipe, {key: value for key, value in changes.items() if key != "preset"})
    code = {**named(as_tree(changes)), **given}
    folder = run_of(recipe) if is_recipe_file(recipe) else None
    if folder is None:
        return {**named(tree), **code}
    rest = {text: kind for text, kind in own_references(tree).items() if text not in code}
    return {**opened(folder, rest, code, trust=trust), **code}


def run_of(recipe: str) -> Path | None:
    """Return the folder of the run that a recipe file belongs to, links followed; None for one of no run."""
    given = Path(recipe).expanduser()
    for path in (given, given.resolve()):
        if path.name == folders.CONFIG:
            return path.parent
        for place in path.absolute().parents:
            if folders.has_run(place) and ((place / folders.DATA).is_file() or (place / folders.CODE).is_file()):
                return place
    return None


def as_tree(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys and values as a tree."""
    tree: dict[str, Any] = {}
    for dotted, value in changes.items():
        assign(tree, dotted, value)
    return tree


def same_code(folder: Path, code: Code, tree: Mapping[str, Any]) -> bool:
    """Tell whether a run keeps just the code that another with this configuration would be trained with."""
    record = _record(folder)

    def same(text: str, own: Own | None) -> bool:
        digest = own.source.digest if own is not None and own.source is not None else None
        package = _identity(own.package) if own is not None and own.package is not None else None
        return text in record and (record[text]["sha256"], _recorded(record[text])) == (digest, package)

    return all(same(text, code.get(text)) for text in own_references(tree))
