"""A run: one model, guide and objective trained on one corpus, kept in a folder and usable from Python.

import ppl_text as pt
run = pt.fit("words")
run.evaluate(split="test", particles=64)
run.generate(5)
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from . import objectives
from .core.atomic import write_atomically
from .core.errors import RunFolderError, UserError
from .core.protocols import Objective
from .core.registry import is_file_reference
from .data.corpora import Corpus
from .evaluation.generation import interpolate_texts, reconstruct_texts, sample_texts
from .evaluation.likelihood import Likelihood, sentence_bounds, summarize
from .evaluation.report import results, run_report
from .evaluation.words import WordReferences, WordSamples, word_references, word_samples
from .plots.figures import training_figure
from .recipes import build
from .recipes.config import RunConfig, check_config, load_config
from .training.checkpoints import Checkpoints
from .training.environment import describe_environment
from .training.options import TrainingResult
from .training.progress import Progress, Quiet
from .training.weights import load_weights

RUNS = Path("runs")
"""Where runs go that are given no folder."""


class Run:
    """A run folder, live.

    ``folder`` holds ``config.yaml`` (complete, re-runnable), ``data.json`` (what the corpus was),
    ``tokenizer.json``, ``environment.json``, ``metrics.jsonl``, ``checkpoints/``, ``model.safetensors``
    (the weights with the best validation bound) and, when finished, ``report.md``, ``results.json`` and
    ``figures/``. Make one with :func:`fit`, open one with :func:`load`.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"<Run {self.folder} of {self.config.recipe}, guide {self.config.guide.name}, {state}>"

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus that the run was made on; raises where it has changed since."""
        corpus = build.load_data(self.config)
        record = self.folder / "data.json"
        stored = _read_json(record)["fingerprint"] if record.is_file() else corpus.fingerprint
        if stored != corpus.fingerprint:
            raise UserError(
                f"corpus '{self.config.data.corpus}' is not what run {self.folder} was trained on (other words or "
                "counts); restore the old files, or train a new run on the new ones"
            )
        return corpus

    @cached_property
    def programs(self) -> build.Programs:
        """Model and guide; for a trained run with its best weights, on the run's device."""
        programs = build.build_programs(self.config, self.corpus.tokenizer.size)
        if (self.folder / "model.safetensors").is_file():
            load_weights(self.folder / "model.safetensors", *programs)
        device = build.build_fabric(self.config).device
        return build.Programs(programs.model.to(device), programs.guide.to(device))

    @property
    def model(self) -> nn.Module:
        """p(latents, tokens)."""
        return self.programs.model

    @property
    def guide(self) -> nn.Module:
        """q(latents | tokens)."""
        return self.programs.guide

    @property
    def finished(self) -> bool:
        """Whether training came to its end and the report was written."""
        return (self.folder / "report.md").is_file()

    def evaluate(
        self, split: str = "test", particles: int = 64, limit: int | None = None, seed: int = 0, progress: Any = None
    ) -> Likelihood:
        """ELBO and importance-weighted bound of a split, nats per sentence, with standard errors.

        Every text of the split counts with its weight, or ``limit`` texts are drawn from it.
        """
        if particles < 1:
            raise UserError(f"particles must be 1 or more; got {particles}")
        self._require_weights()
        data = build.evaluation_set(self.corpus, split, limit, seed)
        device = next(self.model.parameters()).device
        report = progress or (lambda done, total: None)
        bounds = sentence_bounds(
            self.model, self.guide, data, particles=particles, device=device, seed=seed, report=report
        )
        return summarize(bounds, particles, sampled=limit is not None)

    def references(self, split: str = "test") -> WordReferences:
        """What a word model's bounds are compared with."""
        return word_references(self.corpus, split)

    def generate(self, n: int = 10, seed: int = 0) -> list[str]:
        """Draw n texts from the prior."""
        if n < 1:
            raise UserError(f"the number of texts must be 1 or more; got {n}")
        self._require_weights()
        steps = 2 * self.corpus.max_steps
        return sample_texts(self.model, self.corpus.tokenizer, n, steps=steps, seed=seed).texts  # type: ignore[arg-type]

    def reconstruct(self, texts: Sequence[str], seed: int = 0) -> list[str]:
        """Latents drawn from the guide for each text, then its most probable tokens."""
        self._require_weights()
        steps = self.corpus.max_steps
        return reconstruct_texts(self.model, self.guide, self.corpus.tokenizer, texts, max_steps=steps, seed=seed)

    def interpolate(self, first: str, second: str, points: int = 7, seed: int = 0) -> list[str]:
        """Texts between two texts, through the noise that drives the prior."""
        self._require_weights()
        steps = self.corpus.max_steps
        return interpolate_texts(
            self.model, self.guide, self.corpus.tokenizer, first, second, points=points, max_steps=steps, seed=seed
        )

    def train(
        self, objective: Objective | None = None, *, resume: bool = False, progress: Progress | None = None
    ) -> TrainingResult:
        """Train to the end (or go on with training), load the best weights, write the report."""
        progress = progress or Quiet()
        fabric = build.build_fabric(self.config)
        programs = build.build_programs(self.config, self.corpus.tokenizer.size)
        for note in self.corpus.notes:
            progress.message(note)
        trainer = build.build_trainer(
            self.config,
            self.corpus,
            programs,
            objective or build.build_objective(self.config),
            self.folder,
            fabric,
            progress,
        )
        result = trainer.fit(resume=resume)
        self.__dict__.pop("programs", None)
        progress.message("evaluating on the test split …")
        self.report(result)
        return result

    def report(self, result: TrainingResult) -> Path:
        """Evaluate on test and write ``results.json``, ``figures/`` and ``report.md``; return the report's path."""
        options = self.config.report
        likelihood = self.evaluate("test", options.particles, options.sentences, self.config.seed)
        references = self.references("test")
        samples = word_samples(self.model, self.corpus, options.samples, self.config.seed)  # type: ignore[arg-type]
        training_figure(self.folder / "metrics.jsonl", self.folder / "figures" / "training.png")
        values = {"split": "test", **results(likelihood, references, samples)}
        _write_text(self.folder / "results.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        text = run_report(self._facts(result), "test", likelihood, references, samples, self.corpus.notes)
        _write_text(self.folder / "report.md", text)
        return self.folder / "report.md"

    def samples(self, n: int = 1000, seed: int = 0) -> WordSamples:
        """Words drawn from the prior, with the share of them that are words of the training list."""
        self._require_weights()
        return word_samples(self.model, self.corpus, n, seed)  # type: ignore[arg-type]

    def _facts(self, result: TrainingResult) -> dict[str, str]:
        config, environment = self.config, _read_json(self.folder / "environment.json")
        ended = f"{result.step:,} steps ({'all of them' if result.stopped == 'steps' else 'validation stopped rising'})"
        return {
            "run": f"Run {self.folder.name}: {config.recipe}",
            "model": f"{config.model.family}, {sum(p.numel() for p in self.model.parameters()):,} parameters",
            "guide": f"{config.guide.name}, {sum(p.numel() for p in self.guide.parameters()):,} parameters",
            "objective": config.objective,
            "corpus": f"{config.data.corpus}, {len(self.corpus.splits['train']):,} training types",
            "trained": f"{ended}; best validation at step {result.best_step:,}",
            "seed": str(config.seed),
            "machine": f"{environment['device_name']}, {environment['cpu_count']} cores, "
            f"torch {environment['packages']['torch']}",
        }

    def _require_weights(self) -> None:
        if not (self.folder / "model.safetensors").is_file():
            raise RunFolderError(
                f"run {self.folder} has no weights yet; train it: python -m ppl_text fit --resume {self.folder}"
            )


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
    changes = {
        **dict(set or {}),
        **_given("data.corpus", _absolute_path(data)),
        **_given("guide.name", _guide_name(guide)),
        **_given("training.steps", steps),
        **_given("seed", seed),
        **_given("device", device),
        **_given("precision", None if precision is None else str(precision)),
    }
    made = None if objective is None else objectives.build(objective)
    changes.update(_given("objective", None if made is None else made.name))
    run = _to_resume(recipe, resume, out, changes) if resume is not None else None
    resumed = run is not None
    if run is None:
        run = create(load_config(recipe or DEFAULT_RECIPE, changes), out)
    run.train(made, resume=resumed, progress=progress)
    return run


def create(config: RunConfig, out: str | Path | None = None) -> Run:
    """Check everything that can be checked, then make the run's folder; nothing is trained."""
    build.check_programs(config)
    build.build_objective(config)
    fabric = build.build_fabric(config)
    run = Run(Path(out) if out is not None else next_folder(config.recipe), config)
    corpus = build.load_data(config)
    _make_folder(run.folder)
    _write_text(run.folder / "config.yaml", config.to_yaml())
    record = {"corpus": config.data.corpus, "fingerprint": corpus.fingerprint, "notes": list(corpus.notes)}
    _write_text(run.folder / "data.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    _write_text(run.folder / "environment.json", json.dumps(describe_environment(fabric.device), indent=2) + "\n")
    corpus.tokenizer.save(run.folder / "tokenizer.json")
    run.__dict__["corpus"] = corpus
    return run


def load(folder: str | Path, device: str | None = None) -> Run:
    """Open a run folder; raises :class:`RunFolderError` where it is none. ``device`` replaces the run's own."""
    folder = Path(folder)
    path = folder / "config.yaml"
    if not path.is_file():
        what = "holds no run (no config.yaml)" if folder.is_dir() else "does not exist"
        raise RunFolderError(
            f"{folder} {what}; give the folder of a run, e.g. one that 'python -m ppl_text fit' printed"
        )
    config = load_config(str(path))
    tree = {**config.model_dump(), **_given("device", device)}
    return Run(folder, check_config(tree, source=str(path)))


def next_folder(recipe: str) -> Path:
    """The first of ``runs/RECIPE-1``, ``runs/RECIPE-2``, … that does not exist yet."""
    number = 1
    while (RUNS / f"{recipe}-{number}").exists():
        number += 1
    return RUNS / f"{recipe}-{number}"


def _to_resume(
    recipe: str | None, resume: str | Path, out: str | Path | None, changes: Mapping[str, Any]
) -> Run | None:
    """The run to go on with, or None where ``auto`` finds none."""
    if resume == "auto":
        folders = [Path(out)] if out is not None else _newest_first(recipe or DEFAULT_RECIPE)
        runs = [load(f) for f in folders if (f / "config.yaml").is_file()]
        found = [run for run in runs if not run.finished and _has_checkpoint(run.folder)]
        if not found:
            return None
        run = found[0]
    else:
        run = load(resume)
        if not _has_checkpoint(run.folder):
            raise RunFolderError(f"{run.folder} holds no checkpoint to resume from; start anew without --resume")
    if recipe is not None and load_config(recipe).recipe != run.config.recipe:
        raise RunFolderError(f"{run.folder} holds a run of recipe '{run.config.recipe}', not of '{recipe}'")
    return Run(run.folder, _resumed_config(run, changes))


def _resumed_config(run: Run, changes: Mapping[str, Any]) -> RunConfig:
    """The stored configuration; only how long and where it is trained may change."""
    free = {"training.steps", "device"}
    wanted = load_config(str(run.folder / "config.yaml"), changes)
    kept = load_config(str(run.folder / "config.yaml"), {k: v for k, v in changes.items() if k in free})
    if wanted != kept:
        blocked = ", ".join(sorted(k for k in changes if k not in free))
        raise UserError(
            f"{run.folder} is resumed with the configuration it was started with; {blocked} cannot change. "
            "Resume without it, or start a new run"
        )
    return kept


def _has_checkpoint(folder: Path) -> bool:
    return Checkpoints(folder, {}).newest() is not None


def _newest_first(recipe: str) -> list[Path]:
    """The folders that :func:`next_folder` has named, last one first."""
    numbers = [folder.name.removeprefix(f"{recipe}-") for folder in RUNS.glob(f"{recipe}-*")]
    return [RUNS / f"{recipe}-{n}" for n in sorted((int(n) for n in numbers if n.isdigit()), reverse=True)]


def _make_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        advice = f"go on with it (--resume {folder}), or " if (folder / "config.yaml").is_file() else ""
        raise RunFolderError(f"{folder} is not empty; {advice}choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error.strerror}; choose another with --out") from error


def _guide_name(guide: str | type | None) -> str | None:
    if isinstance(guide, type):
        source = inspect.getsourcefile(guide)
        if source is None or not source.endswith(".py"):
            raise UserError(
                f"guide class {guide.__name__} must stand in a .py file, so that the run can be loaded again"
            )
        return f"{Path(source).resolve()}:{guide.__qualname__}"
    if guide is not None and is_file_reference(guide):
        path, _, attribute = guide.partition(":")
        return f"{Path(path).expanduser().resolve()}:{attribute}"
    return guide


def _absolute_path(data: str | Path | None) -> str | None:
    """A path as the run must remember it; names of corpora stay as they are."""
    if data is None:
        return None
    from .data.corpora import CORPORA

    path = Path(data).expanduser()
    return str(path.resolve()) if str(data) not in CORPORA and path.exists() else str(data)


def _given(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); the run folder is incomplete") from error
    return values


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


__all__ = ["Run", "create", "fit", "load", "next_folder"]
