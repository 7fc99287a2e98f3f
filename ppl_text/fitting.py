"""From a recipe, or from a run that was stopped, to a trained run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import objectives
from .core.errors import RunFolderError, UserError
from .recipes import build, folders
from .recipes.config import load_config, recipe_tree, source_of
from .recipes.faults import Faults
from .recipes.references import guide_reference
from .recipes.resuming import resumed_config
from .run import Run, load
from .training.progress import Progress

DEFAULT_RECIPE = "words"


def fit(
    recipe: str | None = None,
    *,
    data: str | Path | None = None,
    guide: str | type | None = None,
    objective: Any = None,
    set: Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train a recipe (default: ``words``) and return its run; the Python face of ``python -m ppl_text fit``.

    ``set`` maps dotted keys to values (``{"training.lr": 3e-3}``). ``guide`` is a name, ``FILE.py:CLASS`` or
    a class that was defined in a file. ``objective`` is a name or a stock ``pyro.infer.ELBO`` instance.
    ``resume`` is the folder of a run to go on with, or ``"auto"``: the newest unfinished run of this recipe.
    """
    faults = Faults()
    made = None if objective is None else faults.attempt(objectives.build, objective)
    changes = {
        **dict(set or {}),
        **_given("data.corpus", None if data is None else str(data)),
        **_given("guide.name", None if guide is None else faults.attempt(guide_reference, guide)),
        **_given("training.steps", steps),
        **_given("seed", seed),
        **_given("device", device),
        **_given("precision", precision),
        **_given("objective", None if made is None else made.name),
    }
    run = None if resume is None else _to_resume(recipe, resume, out, changes)
    if run is not None:
        faults.raise_any(source_of(run.config.recipe))
        run.train(made, resume=True, progress=progress)
        return run
    run = _new(recipe or DEFAULT_RECIPE, changes, out, faults)
    run.train(made, progress=progress)
    return run


def _new(recipe: str, changes: Mapping[str, Any], out: str | Path | None, faults: Faults) -> Run:
    """A run that has no folder yet; raises with all that is wrong at once."""
    if out is not None:
        faults.attempt(folders.check_free, Path(out))
    parts = build.check_parts(recipe_tree(recipe, changes), source_of(recipe), faults)
    run = Run(Path(out) if out is not None else folders.next_folder(parts.config.recipe), parts.config)
    run.__dict__["corpus"] = parts.corpus
    return run


def _to_resume(
    recipe: str | None, resume: str | Path, out: str | Path | None, changes: Mapping[str, Any]
) -> Run | None:
    """The run to go on with, or None where ``auto`` finds none."""
    name = None if recipe is None else load_config(recipe).recipe
    if resume == "auto":
        places = folders.newest_first(name or DEFAULT_RECIPE) if out is None else [Path(out)]
        runs = (load(folder) for folder in places if folders.has_run(folder) and folders.has_checkpoint(folder))
        run = next((run for run in runs if not run.finished), None)
        if run is None:
            return None
    else:
        run = load(resume)
        if out is not None and Path(out).resolve() != run.folder.resolve():
            raise UserError(f"--resume {resume} goes on in that folder; leave out --out {out}")
        if not folders.has_checkpoint(run.folder):
            raise RunFolderError(
                f"{run.folder} holds no checkpoint to resume from; start it anew: {folders.way_on(run.folder)}"
            )
    if name is not None and name != run.config.recipe:
        raise RunFolderError(
            f"{run.folder} holds a run of recipe '{run.config.recipe}', not of '{name}'; leave out the recipe, or give "
            f"the folder of a run of '{name}'"
        )
    return Run(run.folder, resumed_config(run.folder, run.config, changes))


def _given(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}
