"""Train a recipe: :func:`fit`, the Python face of ``python -m ppl_text fit``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .core.watching import heard_by
from .recipes import start
from .recipes.code import Own, refer
from .recipes.errors import Errors
from .recipes.tree import source_of
from .run import Run
from .training.notebook import chosen_progress
from .training.progress import Progress, working_of

DEFAULT_RECIPE = "words"


def fit(
    recipe: str | None = None,
    *,
    data: str | Path | None = None,
    model: str | type | None = None,
    guide: str | type | None = None,
    objective: Any = None,
    set: Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    capture: bool | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    trust: bool = False,
    progress: Progress | bool | None = None,
) -> Run:
    """Train a recipe and return its run; the Python face of ``python -m ppl_text fit``.

    Args:
        recipe: a name or a ``.yaml`` file; default ``words``.
        data: corpus: a name, a file, a folder, or ``hub:NAME``.
        model: a family's name, ``FILE.py:CLASS`` or a class, built as ``Model(vocabulary, **options)``.
        guide: a name, ``FILE.py:CLASS`` or a class, built as ``Guide(model, **options)``.
        objective: a name, ``FILE.py:NAME``, a stock ``pyro.infer.ELBO`` instance, or an object or class of yours
            (:class:`~ppl_text.core.protocols.Objective`).
        set: dotted keys to values, ``{"training.lr": 3e-3}``.
        steps: number of updates.
        seed: of parameters, batches and noise.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``32`` or ``bf16``, of the networks.
        capture: record training steps, as graphs of a GPU (the default there) or compiled for a CPU.
        out: the run's folder; default: the next ``runs/RECIPE-N``.
        resume: the folder of a run to go on with, or ``"auto"``: the newest unfinished run of this recipe.
        trust: run the code that a run keeps which is resumed, or whose ``config.yaml`` is the recipe.
        progress: is told of notes, steps and validations. None: a notebook shows them below the cell, IPython's prompt
            as the command line does, a script nothing; True: as the command line; False: nothing.
    """
    errors = Errors()
    chosen: dict[str, str] = {}
    own: dict[str, Own] = {}
    for key, kind, thing in (
        ("model.family", "model", model),
        ("guide.name", "guide", guide),
        ("objective", "objective", objective),
    ):
        text, code = (None if thing is None else errors.attempt(refer, thing, kind)) or (None, {})
        chosen |= _given(key, text)
        own |= code
    changes = {
        **dict(set or {}),
        **_given("data.corpus", None if data is None else str(data)),
        **chosen,
        **_given("training.steps", steps),
        **_given("seed", seed),
        **_given("device", device),
        **_given("precision", precision),
        **_given("capture", capture),
    }
    name = recipe or DEFAULT_RECIPE
    found: start.Begun | Path | None = None
    if resume is not None:
        found = start.to_resume(name, recipe, resume, out, changes, own, consent=trust)
    leftover = found if isinstance(found, Path) else None
    progress = chosen_progress(progress)
    with heard_by(working_of(progress)):
        if isinstance(found, start.Begun):
            errors.raise_any(source_of(found.config.recipe))
            begun = found
        else:
            begun = start.new_run(name, changes, out, errors, own, consent=trust, leftover=leftover)
        for note in begun.notes:
            progress.message(note)
        run = Run(begun.folder, begun.config, corpus=begun.corpus, code=begun.code, trust=trust)
        run.train(resume=begun is found, progress=progress)
    return run


def _given(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}
