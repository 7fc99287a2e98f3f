"""How a training begins: one batch as a dry run before anything is written, then the folder, then the trainer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from ..core.batch import Batch
from ..core.errors import CheckpointError, Interrupted, PplTextError, ProcessLostError, RunFolderError, UserError
from ..core.limits import pass_on_memory_errors
from ..core.processes import own_place, part
from ..core.protocols import Estimate, Objective
from ..data.corpus import Corpus
from ..evaluation.storytelling import is_conditional
from ..objectives.sites import check_sites
from ..training.machine import is_lost, torch_threads
from ..training.options import TrainingResult
from ..training.progress import Progress
from ..training.random_numbers import random_numbers_kept
from . import build, folders, trust
from .code import Code, absolute, is_own, named, own_references
from .config import RunConfig, check_config, load_config, recipe_tree
from .decisions import decisions
from .errors import Errors, place_of
from .failing import in_words, place_in, users_programs
from .pairing import check_kind, check_length, check_sources
from .procedures import Procedure
from .records import check_records
from .stages import stage_objective
from .tree import source_of, value_at


def train(
    folder: Path,
    config: RunConfig,
    corpus: Corpus,
    code: Code | None = None,
    *,
    resume: bool = False,
    progress: Progress,
    held: ExitStack,
) -> TrainingResult:
    """Train a run to its end, or go on with its training.

    All is built, and one batch sent through it, before a new run's folder is made.

    Args:
        folder: of the run; free for a new one.
        config: what to train.
        corpus: what ``config.data`` names.
        code: what may run of the user's; a new run keeps it.
        resume: go on from the newest checkpoint.
        progress: is told of notes, steps and validations.
        held: keeps other processes out of a new run's folder until it is closed.

    Raises:
        Interrupted: by a signal, after the state was saved; says which command goes on.
        CheckpointError: the machine refuses to write; says the same.
        ProcessLostError: a process of a parallel training is gone; says the same.
        SystemExit: in each process of a parallel training but the first, which writes the report, once all is trained.
    """
    try:
        with torch_threads(config.threads):
            return _train(folder, config, corpus, code or {}, resume, progress, held)
    except (CheckpointError, ProcessLostError) as error:
        advice = folders.go_on(folder)
        raise type(error)(f"{error} {advice}" if advice else str(error)) from error
    except Interrupted as stop:
        raise Interrupted(f"{stop}. Go on with: {folders.resume_command(folder)}", stop.exit_code) from None


def _train(
    folder: Path,
    config: RunConfig,
    corpus: Corpus,
    code: Code,
    resume: bool,
    progress: Progress,
    held: ExitStack,
) -> TrainingResult:
    place = own_place()
    fabric = build.build_fabric(config, place)
    programs = build.build_programs(config, corpus.vocabulary, code=code)
    build.check_sharded(config, fabric, programs)
    if not resume:
        begin_with_others(config, corpus, programs)
    objective = build.build_objective(config, code)
    for note in (*corpus.notes, *model_remarks(programs.model, corpus)):
        progress.message(note)
    for line in decisions(folder, config, corpus, programs, fabric.device):
        progress.detail(line)
    batch = first_batch(corpus, config.data.batch_size)
    stages = config.training.in_stages()
    shown = [dry_run(*programs, stage_objective(own, objective, code), batch, own) for own in stages]
    for remark in dict.fromkeys(remark for found in shown for remark in found.remarks):
        progress.message(remark)
    with joined(fabric):
        trainer = build.build_trainer(config, corpus, programs, objective, folder, fabric, progress, code)
        if place.is_first:
            if not resume:
                folders.open_folder(folder, config, corpus, str(fabric.device), held)
                trust.keep(folder, code, config.model_dump())
            folders.write_text(folder / folders.CONFIG, config.to_yaml())
        with users_programs(code):
            return trainer.fit(resume=resume)


@contextmanager
def joined(fabric: Fabric) -> Iterator[None]:
    """Context in which the processes of a training are together; at its end all but the first leave for good.

    They meet here, so that what each has found wrong before is said before anything is written.
    """
    if fabric.world_size == 1:
        yield
        return
    for library in ("lightning_fabric", "lightning_utilities"):
        logging.getLogger(library).setLevel(logging.WARNING)
    with meeting("before the training began, and nothing was written"):
        fabric.launch()
    yield
    with meeting("after the last step, and all is saved"):
        fabric.barrier()
    torch.distributed.destroy_process_group()
    part()
    if not fabric.is_global_zero:
        sys.exit(0)


@contextmanager
def meeting(when: str) -> Iterator[None]:
    """Context in which a process that does not come to where all meet is told as one that is lost."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise ProcessLostError(f"another process of this training is gone {when}.") from error


def begin_with_others(config: RunConfig, corpus: Corpus, programs: build.Programs) -> None:
    """Load what a new run begins with: its parent's model, or what a program's ``load_pretrained()`` takes over."""
    folders.inherit(config, corpus, programs.model)
    own = programs if config.parent is None else programs[1:]
    for program in own:
        begin = getattr(program, "load_pretrained", None)
        if callable(begin):
            begin()


def model_remarks(model: nn.Module, corpus: Corpus) -> list[str]:
    """Return what a model has to say of the lengths of its training texts, by its ``remarks(lengths)``, if any.

    Raises :class:`UserError` for texts that it cannot be trained on, or read: of every split, in front of a training
    and not at its end, ``check_lengths(lengths)`` is asked, and of a model that reads sources ``check_lengths(lengths,
    sources)``.
    """
    check: Callable[..., None] = getattr(model, "check_lengths", lambda *_: None)
    own: Callable[[torch.Tensor], list[str]] = getattr(model, "remarks", lambda _: [])
    for name, split in corpus.splits.items():
        sides = [split.target] if split.source is None or not is_conditional(model) else [split.target, split.source]
        try:
            check(*(torch.from_numpy(side.table.lengths) for side in sides))
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    return own(torch.from_numpy(corpus.splits["train"].target.table.lengths))


class DryRun(NamedTuple):
    """What a first batch showed: the table of the sites, and what the objective remarks on the two programs."""

    sites: str
    remarks: list[str]


def dry_run(model: nn.Module, guide: nn.Module, objective: Objective, batch: Batch, training: Procedure) -> DryRun:
    """Send one batch through model, guide and objective, leaving parameters and the global random state alone.

    Raises:
        UserError: programs or objective fail on ``batch``.
    """
    with passing(batch, guide):
        table = check_sites(model, guide, batch)
        beta = training.first_beta([spec.name for spec in getattr(model, "latents", ())])
        refuse_points(objective(model, guide, batch, beta), objective)
        remarks = getattr(objective, "remarks", None)
        return DryRun(table, remarks(model, guide, batch) if remarks else [])


@contextmanager
def passing(batch: Batch, guide: nn.Module) -> Iterator[None]:
    """Context in which a first batch goes through both programs: their errors become messages, draws leave no trace."""
    with random_numbers_kept():
        try:
            yield
        except PplTextError:
            raise
        except (Exception, SystemExit) as error:
            pass_on_memory_errors(error)
            place = place_in(error) or place_of(error, type(guide))
            raise UserError(
                f"a first batch of {batch.size} sentences and {batch.steps} steps does not pass through model and "
                f"guide: {place}{in_words(error)}; mend the program before training"
            ) from error


def refuse_points(estimate: Estimate, objective: Objective) -> None:
    """Raise :class:`UserError` where the KL is infinite and in the loss."""
    if bool(torch.isposinf(estimate.kl).any()) and not bool(torch.isfinite(estimate.loss)):
        raise UserError(
            f"the KL of the guide from the prior is infinite (a point mass has no density), and so is the loss of "
            f"{objective.name}; train this guide with --objective reconstruction, or choose another guide"
        )


def first_batch(corpus: Corpus, size: int) -> Batch:
    """Return the first ``size`` texts of the training split as a batch."""
    train = corpus.splits["train"]
    return train.batch(np.arange(min(size, len(train))))


def resumed_config(folder: Path, config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Apply ``changes`` to a stored configuration: only how and where training goes on, and the report, may change.

    Raises:
        UserError: something else would change.
    """
    path = str(folder / folders.CONFIG)
    sections = ("training.", "report.", "device", "threads", "strategy")
    free = {k: v for k, v in changes.items() if k.startswith(sections)}
    fixed = {k: v for k, v in changes.items() if k not in free}
    blocked = sorted(k for k, v in fixed.items() if load_config(path, {k: v}) != config)
    if blocked:
        raise UserError(
            f"{folder} is resumed with the configuration it was started with; {', '.join(blocked)} cannot change. "
            "Resume without it, or start a new run"
        )
    if config.training.stages and not {"training.steps", "training.epochs"}.isdisjoint(free):
        raise UserError(
            f"{folder} is trained in stages, some of which may be over; give the lengths of those to come in "
            f"training.stages of {path}, and resume without --steps"
        )
    return load_config(path, free)


class Begun(NamedTuple):
    """A run that is to be trained, or trained on: its folder, its configuration, and the code of the user's in it.

    ``notes``: what of the recipe was dropped or assumed.
    """

    folder: Path
    config: RunConfig
    code: Code
    corpus: Corpus | None = None
    notes: tuple[str, ...] = ()


def new_run(
    recipe: str,
    changes: Mapping[str, Any],
    out: str | Path | None,
    errors: Errors,
    given: Code | None = None,
    *,
    consent: bool = False,
    leftover: Path | None = None,
) -> Begun:
    """Return a run that is to be trained, all of it checked; raises with all errors at once.

    Args:
        recipe: a name or a ``.yaml`` file.
        changes: dotted keys to values.
        out: its folder; None: the next ``runs/RECIPE-N``.
        errors: what was found wrong before.
        given: code that Python passes.
        consent: where the recipe is the ``config.yaml`` of a run, to what that run keeps.
        leftover: the folder of an unstarted run, which is started over in its place.
    """
    out = out if leftover is None else leftover
    if out is not None and leftover is None:
        errors.attempt(folders.check_free, Path(out))
    code = errors.attempt(partial(trust.of_recipe, trust=consent), recipe, changes, given or {})
    if code is None:
        errors.raise_any(source_of(recipe))
    notes: list[str] = []
    parts = checked_parts(recipe, changes, code or {}, errors, notes)
    folder = Path(out) if out is not None else folders.next_folder(parts.config.recipe)
    return Begun(folder, parts.config, code or {}, parts.corpus, tuple(notes))


def checked_parts(recipe: str, changes: Mapping[str, Any], code: Code, errors: Errors, told: list[str]) -> build.Parts:
    """Check a recipe with its changes, load what it names, and give it the sizes that its corpus asks for.

    Raises with all errors at once. ``told`` hears what was dropped, assumed and sized.
    """

    def load(config: RunConfig) -> Corpus:
        check_kind(recipe, config, changes)
        return build.load_data(config)

    source = source_of(recipe)
    parts = build.check_parts(recipe_tree(recipe, changes, code, told), source, errors, load, code)
    if rows := parts.config.sizes:
        tokens = parts.corpus.splits["train"].target.table.scored_tokens
        tree = recipe_tree(recipe, changes, code, tokens=tokens)
        same = build.data_options(check_config(tree, source)) == build.data_options(parts.config)
        before = parts.corpus
        parts = build.check_parts(tree, source, errors, (lambda _: before) if same else None, code)
        values = {key: value_at(tree, key) for row in rows for key in row.set}
        shown = ", ".join(f"{key}={value}" for key, value in values.items() if value is not None)
        told.append(f"sizes for {tokens:,} training tokens: {shown}")
    check_length(parts.config, parts.corpus, code)
    check_sources(parts.config, parts.corpus, code)
    return parts


def to_resume(
    default: str,
    recipe: str | None,
    resume: str | Path,
    out: str | Path | None,
    changes: Mapping[str, Any],
    given: Code | None = None,
    *,
    consent: bool = False,
) -> Begun | Path | None:
    """Return the run to go on with; where ``auto`` finds none, the folder of an unstarted one, or None.

    Args:
        default: the recipe whose runs ``auto`` looks through where none is named.
        recipe: the one that the run must be of, if any.
        resume: a folder, or ``"auto"``: the newest unfinished run.
        out: where ``auto`` looks instead; otherwise the folder itself, if anything.
        changes: to the stored configuration, see :func:`resumed_config`.
        given: code that Python passes.
        consent: to running the code that the run keeps; naming the same files in ``changes`` will do, too.
    """
    name = None if recipe is None else load_config(recipe).recipe
    if resume == "auto":
        places = folders.newest_first(name or default) if out is None else [Path(out)]
        found = next((place for place in places if _is_left(place, finished=out is not None)), None)
        if found is None or folders.is_unstarted(found):
            _refuse_if_taken(found)
            return found
        folder, config = _stored(found)
    else:
        folder, config = _stored(Path(resume))
        if out is not None and Path(out).resolve() != folder.resolve():
            raise UserError(f"--resume {resume} goes on in that folder; leave out --out {out}")
        folders.refuse_occupied(folder)
        if not folders.has_checkpoint(folder):
            command = folders.resume_command(folder)
            raise RunFolderError(f"{folder} holds no checkpoint to resume from; start it anew: {command}")
    folders.refuse_occupied(folder)
    if name is not None and name != config.recipe:
        raise RunFolderError(
            f"{folder} holds a run of recipe '{config.recipe}', not of '{name}'; leave out the recipe, or give the "
            f"folder of a run of '{name}'"
        )
    check_records(folder)
    given = {**named(trust.as_tree(changes)), **(given or {})}
    code = trust.opened(folder, own_references(config.model_dump()), given, trust=consent)
    config = resumed_config(folder, config, _as_stored(config, changes, given, code))
    if "training.steps" in changes:
        _refuse_fewer(folder, config.training.steps)
    return Begun(folder, config, {**given, **code})


def _is_left(folder: Path, *, finished: bool) -> bool:
    """Tell whether ``auto`` takes a folder: an unstarted run, an unfinished one, or with ``finished`` that, too."""
    if folders.is_unstarted(folder):
        return True
    there = folders.has_run(folder) and folders.has_checkpoint(folder)
    return there and (finished or not is_finished(*_stored(folder)))


def _refuse_if_taken(folder: Path | None) -> None:
    if folder is not None:
        folders.refuse_occupied(folder)


def _refuse_fewer(folder: Path, steps: int | None) -> None:
    """Raise :class:`UserError` where a run has made more steps than it is asked for."""
    done = folders.newest_step(folder)
    if steps is not None and steps < done:
        raise UserError(
            f"{folder} has been trained to step {done:,}, and --steps {steps} is fewer; give more to go on, leave it "
            "out, or train a new run"
        )


def _as_stored(config: RunConfig, changes: Mapping[str, Any], given: Code, code: Code) -> dict[str, Any]:
    """Return the changes without code that the run has already, though it is named or passed from another place."""
    stored = {"model.family": config.model.family, "guide.name": config.guide.name, "objective": config.objective}

    def same(key: str, text: Any) -> bool:
        now, new = code.get(stored.get(key, "")), given.get(absolute(text)) if is_own(text) else None
        if now is None or new is None or now.name != new.name:
            return False
        return now is new or (now.source is not None and new.source is not None and now.source.text == new.source.text)

    return {key: value for key, value in changes.items() if not same(key, value)}


def _stored(folder: Path) -> tuple[Path, RunConfig]:
    folders.require_run(folder)
    return folder, load_config(str(folder / folders.CONFIG))


def is_finished(folder: Path, config: RunConfig) -> bool:
    """Tell whether training came to the end that the configuration sets, and was reported."""
    path = folder / "results.json"
    trained = folders.read_record(path).get("trained", {}) if path.is_file() else {}
    early = ("patience", "decays", "untrained")
    return trained.get("stopped") in early or config.training.is_reached(trained)
