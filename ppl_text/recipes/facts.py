"""What a run's folder and report say of how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.corpus import Corpus
from ..training.machine import describe_environment
from ..training.options import TrainingResult
from .build import Programs
from .config import RunConfig
from .folders import make_folder, read_record, write_record
from .lineage import RECORD, describe_parent

_ENDS = {
    "steps": "all of them",
    "patience": "validation stopped rising",
    "decays": "the learning rate decayed as often as it may",
    "untrained": "the model is frozen and the guide has no parameter",
}


def open_folder(folder: Path, config: RunConfig, corpus: Corpus, device: str) -> None:
    """Make the folder of a new run, with what is known before training."""
    parent = None if config.parent is None else describe_parent(Path(config.parent))
    make_folder(folder)
    record = {"corpus": config.data.corpus, "fingerprint": corpus.fingerprint, "notes": list(corpus.notes)}
    write_record(folder / "data.json", record)
    write_record(folder / "environment.json", describe_environment(device))
    corpus.tokenizer.save(folder / "tokenizer.json")
    if parent is not None:
        write_record(folder / RECORD, parent)


def report_facts(
    folder: Path, config: RunConfig, corpus: Corpus, programs: Programs, result: TrainingResult
) -> dict[str, str]:
    """The table at the head of a report."""
    environment = read_record(folder / "environment.json")
    model, guide = (f"{sum(p.numel() for p in program.parameters()):,} parameters" for program in programs)
    rows = "types" if corpus.weighted else f"{corpus.noun}s"
    frozen = ", frozen" if not any(stage.trains("model") for stage in config.training.in_stages()) else ""
    best = f"best validation at step {result.best_step:,}" if result.best_bound is not None else "never validated"
    return {
        "run": f"Run {folder.name}: {config.recipe}",
        **_parent_fact(folder),
        "model": f"{config.model.family}, {model}{frozen}",
        "guide": f"{config.guide.name}, {guide}",
        "objective": config.objective,
        "training": f"{'; '.join(config.training.described(config.objective))}; {config.training.optimizer}",
        "corpus": f"{config.data.corpus}, {len(corpus.splits['train']):,} training {rows}",
        "trained": f"{result.step:,} steps ({_ENDS[result.stopped]}); {best}",
        "seed": str(config.seed),
        "machine": f"{environment['device_name']}, {environment['cpu_count']} cores, "
        f"torch {environment['packages']['torch']}",
    }


def _parent_fact(folder: Path) -> dict[str, str]:
    if not (folder / RECORD).is_file():
        return {}
    parent: dict[str, Any] = read_record(folder / RECORD)
    at = "" if parent["step"] is None else f", weights of step {parent['step']:,}"
    return {"parent": f"{parent['folder']}: {parent['recipe']}, guide {parent['guide']}{at}"}
