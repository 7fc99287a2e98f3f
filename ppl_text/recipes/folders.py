"""Run folders: where they lie, what their records say, and the run whose model another one started from.

::

    runs/words-1/                   config.yaml  data.json  environment.json  tokenizer.json  metrics.jsonl
                                    checkpoints/  model.safetensors  report.md  report.html  results.json  figures/
    runs/words-1/swaps/tril-1/      the same, and parent.json
    a run with code of its own      the same, and code/ and code.json
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..core.atomic import PARTIAL_SUFFIX, write_atomically
from ..core.errors import RunFolderError, UserError
from ..core.locks import locked, refuse_locked
from ..core.numbers import is_whole
from ..core.printing import quoted_path
from ..core.processes import own_place
from ..data.catalogue import cleaning
from ..data.corpus import Corpus
from ..data.forms import TextForm, form_of
from ..data.tokenizers import Tokenizer
from ..training.checkpoints import Checkpoints
from ..training.machine import describe_environment
from ..training.programs import count_parameters
from ..training.weights import load_model_weights, read_metadata, weights_digest
from .code import is_own, name_of
from .config import DataSection, RunConfig, load_config
from .records import read_record

RUNS = Path("runs")
"""Where runs go that are given no folder."""

CONFIG, WEIGHTS, PARENT = "config.yaml", "model.safetensors", "parent.json"
"""Files of a run folder: its configuration, its best weights, and :func:`describe_parent`."""

PAGE = "report.html"
"""The report as one page."""

DATA, TOKENIZER, SOURCE_TOKENIZER = "data.json", "tokenizer.json", "source-tokenizer.json"
"""What the corpus was, and how its texts were encoded: what :func:`read_form` needs."""

CODE, CODE_FOLDER = "code.json", "code"
"""Of a run with code of the user's: the record and the copies (:mod:`.trust`)."""

LOCK = ".lock"
"""Held by the process that trains in the folder."""

MADE_FIRST = {CONFIG, DATA, TOKENIZER, SOURCE_TOKENIZER, "environment.json", PARENT, CODE, CODE_FOLDER, "checkpoints"}
"""What a run's folder holds before its first checkpoint."""

UNSTARTED = "holds what a run left that ended before its first checkpoint, and nothing to resume from"

_ENDS = {
    "steps": "all of them",
    "patience": "validation stopped rising",
    "decays": "the learning rate decayed as often as it may",
    "untrained": "the model is frozen and the guide has no parameter",
}
"""Why a training ended, for reports."""


def next_folder(recipe: str) -> Path:
    """Return the first of ``runs/RECIPE-1``, ``runs/RECIPE-2``, … that does not exist yet."""
    return first_free(RUNS, recipe)


def next_swap(parent: Path, guide: str) -> Path:
    """Return the first free one of ``PARENT/swaps/GUIDE-1``, …; a guide from a file is named by its class alone."""
    name = name_of(guide) if is_own(guide) else guide
    return first_free(parent / "swaps", re.sub(r"[^\w.-]", "_", name) or "guide")


def first_free(place: Path, name: str) -> Path:
    """Return the first of ``PLACE/NAME-1``, ``PLACE/NAME-2``, … that does not exist yet."""
    number = 1
    while (place / f"{name}-{number}").exists():
        number += 1
    return place / f"{name}-{number}"


def newest_first(recipe: str) -> list[Path]:
    """Return the folders that :func:`next_folder` has named, last one first."""
    found = RUNS.iterdir() if RUNS.is_dir() else iter(())
    numbers = [folder.name.removeprefix(f"{recipe}-") for folder in found if folder.name.startswith(f"{recipe}-")]
    return [RUNS / f"{recipe}-{n}" for n in sorted((int(n) for n in numbers if is_whole(n)), reverse=True)]


def has_run(folder: Path) -> bool:
    """Tell whether the folder holds the configuration of a run."""
    return (folder / CONFIG).is_file()


def require_run(folder: Path) -> None:
    """Raise :class:`RunFolderError` where the folder holds no run."""
    if not has_run(folder):
        if is_unstarted(folder):
            raise RunFolderError(f"{folder} {UNSTARTED}; {start_over(folder)}")
        what = f"holds no run (no {CONFIG})" if folder.is_dir() else "does not exist"
        raise RunFolderError(
            f"{folder} {what}; give the folder of a run, e.g. one that 'python -m ppl_text fit' printed"
        )


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is a state to resume from."""
    return Checkpoints(folder, {}).newest() is not None


def newest_step(folder: Path) -> int:
    """Return the step of the newest state, 0 without one."""
    return max(Checkpoints(folder, {}).steps(), default=0)


def is_unstarted(folder: Path) -> bool:
    """Tell whether a folder holds what a run left that ended before its first checkpoint, and nothing else.

    The proof is ``data.json``, which is written first; a partial file of it is one, too.
    """
    if not folder.is_dir() or folder.is_symlink():
        return False
    names = {path.name for path in folder.iterdir()} - {LOCK}
    partial = {name for name in names if name.endswith(PARTIAL_SUFFIX)}
    if not names or not names - partial <= MADE_FIRST:
        return False
    states = folder / "checkpoints"
    whole = [path for path in states.rglob("*") if not path.name.endswith(PARTIAL_SUFFIX)] if states.is_dir() else []
    return not whole and (names == partial or _is_record_of_data(folder / DATA))


def _is_record_of_data(path: Path) -> bool:
    try:
        return {"corpus", "fingerprint"} <= read_record(path).keys()
    except RunFolderError:
        return False


def start_over(folder: Path) -> str:
    """Return how an unstarted run is started over: by a command, or by the one that began it, which nothing tells."""
    if has_run(folder):
        return f"start it over: {resume_command(folder)}"
    return f"start it over: the same fit command with --resume auto --out {quoted_path(folder)}"


def resume_command(folder: Path) -> str:
    """Return the command that goes on with an unfinished run: from its checkpoint, or from the start without one.

    What has nothing of worth in it is started over in its place, anything else in another one. Processes of one machine
    that train together go on as many.
    """
    resume = f"--resume {quoted_path(folder)}" if has_checkpoint(folder) else quoted_path(folder / CONFIG)
    if is_unstarted(folder):
        resume += f" --resume auto --out {quoted_path(folder)}"
    place = own_place()
    together = f" --devices {place.size}" if place.size > 1 and place.nodes == 1 else ""
    return f"python -m ppl_text fit {resume}{together}{trusting(folder)}"


def go_on(folder: Path) -> str:
    """Return a sentence on how a run goes on that the machine has stopped; "" where nothing is left of it."""
    if has_checkpoint(folder):
        return f"Go on with: {resume_command(folder)}"
    advice = start_over(folder) if is_unstarted(folder) else ""
    return advice[:1].upper() + advice[1:]


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Context in which no other process trains in a run's folder, which is there.

    Raises :class:`RunFolderError`, with the pid of the process that does, and :class:`UserError` where nothing can be
    written.
    """
    try:
        with locked(folder / LOCK, folder):
            yield
    except PermissionError as error:
        raise UserError(_read_only(folder, error)) from error
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise UserError(_read_only(folder, error)) from error


def _read_only(folder: Path, error: OSError) -> str:
    return f"{folder} cannot be written: {error.strerror}; make it writable, or copy the folder and go on with the copy"


def refuse_occupied(folder: Path) -> None:
    """Raise :class:`RunFolderError` where another process trains in the folder, but those that train with this one."""
    if own_place().is_first:
        refuse_locked(folder / LOCK, folder)


def trusting(folder: Path) -> str:
    """Return what a command that opens a run needs besides: consent, where the run keeps code of its own."""
    record = read_record(folder / CODE) if (folder / CODE).is_file() else {}
    return " --trust" if any(not entry.get("package") for entry in record.values()) else ""


def check_free(folder: Path) -> None:
    """Raise :class:`RunFolderError`, with advice that works, where a folder is not free for a new run."""
    check_folder(folder)
    refuse_occupied(folder)
    if is_unstarted(folder):
        raise RunFolderError(f"{folder} {UNSTARTED}; {start_over(folder)}, or choose another folder with --out")
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        advice = f"go on with the run in it ({resume_command(folder)}), or " if has_checkpoint(folder) else ""
        raise RunFolderError(f"{folder} is not empty; {advice}choose another folder with --out")


def check_folder(folder: Path) -> None:
    """Raise :class:`UserError` where a folder can be neither used nor made: a file, a long name, a read-only place."""
    try:
        there = is_there(folder)
        nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if is_there(place))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be used: {error.strerror}; choose another with --out") from error
    if there and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another folder with --out")
    if not nearest.is_dir():
        raise UserError(f"the folder {folder} cannot be made: {nearest} is a file; choose another with --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"the folder {folder} cannot be written: {nearest} is read-only to you; choose another with --out"
        )


def is_there(path: Path) -> bool:
    """Tell whether something has this name, be it a link to nothing; raise ``OSError`` where nothing can have it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def make_folder(folder: Path) -> None:
    """Make the folder of a new run, which must be free."""
    check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error.strerror}; choose another with --out") from error


def open_folder(folder: Path, config: RunConfig, corpus: Corpus, device: str, held: ExitStack) -> None:
    """Make the folder of a new run, with what is known before training; what an unstarted one left is removed.

    While ``held`` is open no other process trains in it.
    """
    parent = None if config.parent is None else describe_parent(Path(config.parent))
    if not is_unstarted(folder):
        make_folder(folder)
    held.enter_context(occupied(folder))
    if is_unstarted(folder):
        _empty(folder)
    form = form_of(corpus)
    lengths = {"max_steps": form.max_steps}
    if form.source_tokenizer is not None:
        lengths["max_source_steps"] = form.max_source_steps
    record = {"corpus": config.data.corpus, "fingerprint": corpus.fingerprint, **lengths, "notes": list(corpus.notes)}
    write_record(folder / DATA, record)  # first: it says whose the folder is
    form.tokenizer.save(folder / TOKENIZER)
    if form.source_tokenizer is not None:
        form.source_tokenizer.save(folder / SOURCE_TOKENIZER)
    write_record(folder / "environment.json", describe_environment(device))
    if parent is not None:
        write_record(folder / PARENT, parent)


def with_own_tokenizer(folder: Path, config: RunConfig) -> RunConfig:
    """Return the configuration with the run's own tokenizer in place of the pretrained model that it came from.

    The run keeps it whole, so that the model need not be there any more.
    """
    if config.data.options.get("pretrained") is None or not (folder / TOKENIZER).is_file():
        return config
    data = {**config.data.model_dump(), "pretrained": str(folder / TOKENIZER)}
    return config.model_copy(update={"data": DataSection.model_validate(data)})


def read_form(folder: Path, config: RunConfig) -> TextForm | None:
    """Return what texts must be like for the run of a folder, without its corpus.

    None for a run of an older version, which did not keep how long its texts are.
    """
    record = read_record(folder / DATA) if (folder / DATA).is_file() else {}
    if record.get("max_steps") is None or not (folder / TOKENIZER).is_file():
        return None
    data, source = config.data, folder / SOURCE_TOKENIZER
    return TextForm(
        Tokenizer.load(folder / TOKENIZER),
        cleaning(data.corpus, data.unit, data.options),
        record["max_steps"],
        Tokenizer.load(source) if source.is_file() else None,
        record.get("max_source_steps", 0),
    )


def remove_unstarted(folder: Path) -> None:
    """Remove the folder of a run that was killed before its first checkpoint: it holds nothing that was trained.

    A folder with anything else in it is left alone.
    """
    if is_unstarted(folder):
        refuse_occupied(folder)
        _empty(folder)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _empty(folder: Path) -> None:
    """Remove all but the lock from an unstarted folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def move_folder(folder: Path, target: Path) -> None:
    """Give a run's folder another place, which must be free; at any moment one of the two is whole.

    Raises :class:`RunFolderError` or :class:`UserError` where the place is taken or cannot be used.
    """
    check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            target.rmdir()
        if folder.stat().st_dev == target.parent.stat().st_dev:
            os.rename(folder, target)
            return
        partial = target.with_name(f".{os.getpid()}{PARTIAL_SUFFIX}")
        shutil.copytree(folder, partial)
        os.rename(partial, target)
        shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be moved to {target}: {error.strerror}; choose another folder") from error


def write_record(path: Path, values: dict[str, Any]) -> None:
    """Write a strict JSON object, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def describe_parent(folder: Path) -> dict[str, Any]:
    """Return what ``parent.json`` keeps: folder, recipe, guide, step and bound of the weights, their SHA-256."""
    config, metadata = load_config(str(folder / CONFIG)), read_metadata(folder / WEIGHTS)
    return {
        "folder": str(folder),
        "recipe": config.recipe,
        "guide": config.guide.name,
        "step": metadata.get("step"),
        "validation_bound": metadata.get("validation_bound"),
        "sha256": weights_digest(folder / WEIGHTS),
    }


def check_parent(config: RunConfig) -> None:
    """Raise :class:`RunFolderError` where the parent is gone or its weights are not those that were meant."""
    if config.parent is None:
        return
    folder = Path(config.parent)
    if not (folder / WEIGHTS).is_file():
        raise RunFolderError(
            f"the parent run {folder} is gone (it holds no {WEIGHTS}), so that this run cannot start from its model; "
            "move it back, or say where it is with --set parent=DIR"
        )
    if config.parent_weights not in (None, weights_digest(folder / WEIGHTS)):
        raise RunFolderError(
            f"the weights of the parent run {folder} have changed since this run was made (another SHA-256 of "
            f"{WEIGHTS}); put the old ones back, or start from the new ones with --set parent_weights=null"
        )


def inherit(config: RunConfig, corpus: Corpus, model: nn.Module) -> None:
    """Load the parent's trained weights into ``model``; nothing without a parent.

    Raises :class:`RunFolderError` where the parent is gone, has changed, or is another model of other data.
    """
    if config.parent is None:
        return
    check_parent(config)
    folder = Path(config.parent)
    if read_record(folder / DATA).get("fingerprint") != corpus.fingerprint:
        raise RunFolderError(
            f"the parent run {folder} was trained on other data than corpus '{config.data.corpus}'; a run that starts "
            "from its model needs the same words and the same tokens"
        )
    load_model_weights(folder / WEIGHTS, model)


def report_facts(
    folder: Path, config: RunConfig, corpus: Corpus, programs: tuple[nn.Module, nn.Module], trained: Mapping[str, Any]
) -> dict[str, str]:
    """Return the table at the head of a report: what was trained, on what, and where.

    ``trained``: how training ended, as ``results.json`` keeps it.
    """
    environment = read_record(folder / "environment.json")
    model, guide = (f"{number:,} parameters" for number in count_parameters(*programs))
    rows = "types" if corpus.weighted else f"{corpus.noun}s"
    frozen = ", frozen" if not any(stage.trains("model") for stage in config.training.in_stages()) else ""
    kept = f"weights of the {config.training.in_stages()[-1].keep} validation, step {trained['best_step']:,}"
    kept = kept if read_metadata(folder / WEIGHTS).get("validation_bound") is not None else "never validated"
    return {
        **_parent_fact(folder),
        "model": f"{config.model.family}, {model}{frozen}",
        "guide": f"{config.guide.name}, {guide}",
        "objective": config.objective,
        "training": "; ".join([*config.training.described(config.objective), *config.training.one_optimizer]),
        "corpus": f"{config.data.corpus}, {len(corpus.splits['train']):,} training {rows}",
        "trained": f"{trained['step']:,} steps ({_ENDS[trained['stopped']]}); {kept}",
        "seed": str(config.seed),
        "machine": f"{environment['device_name']}, {environment['cpu_count']} cores, "
        f"torch {environment['packages']['torch']}",
    }


def _parent_fact(folder: Path) -> dict[str, str]:
    if not (folder / PARENT).is_file():
        return {}
    parent: dict[str, Any] = read_record(folder / PARENT)
    at = "" if parent["step"] is None else f", weights of step {parent['step']:,}"
    return {"parent": f"{parent['folder']}: {parent['recipe']}, guide {parent['guide']}{at}"}
