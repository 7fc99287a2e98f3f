"""What a training decides for itself, and why: lines for those who ask (``-v``)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..data.corpus import Corpus
from ..training.capture import graphs_on
from ..training.programs import count_parameters
from . import build, folders
from .config import RunConfig


def decisions(
    folder: Path, config: RunConfig, corpus: Corpus, programs: tuple[nn.Module, nn.Module], device: torch.device
) -> list[str]:
    """Return a line for each choice that no one has made by name: folder, device, precision, batches, sizes."""
    found = [
        f"recipe: {config.recipe} ({config.description or 'no description'})",
        f"folder: {folder}{_because_free(folder, config)}",
        f"device: {device}{_because_of_device(config, device)}; precision {config.precision}",
        f"threads: {torch.get_num_threads()} ({'threads' if config.threads else 'those of torch'})",
        _of_capture(config, device),
        _of_batches(config, corpus),
        f"vocabulary: {corpus.tokenizer.size:,} symbols; the longest text has {corpus.max_steps} tokens, EOS counted",
        f"parameters: {count_parameters(*programs)} (model + guide), drawn from seed {config.seed}",
        f"objective: {config.objective}, for guide {config.guide.name} of {config.model.family}",
    ]
    if config.parent is not None:
        found.append(f"parent: {config.parent}, whose model this begins with")
    return found


def _because_free(folder: Path, config: RunConfig) -> str:
    chosen = folder.parent == folders.RUNS and folder.name.startswith(f"{config.recipe}-")
    return ", the first free one of its recipe" if chosen else ""


def _because_of_device(config: RunConfig, device: torch.device) -> str:
    if config.device != "auto":
        return f" (device: {config.device})"
    why = "torch sees a GPU" if device.type == "cuda" else "no GPU is visible"
    return f" (device: auto, and {why})"


def _of_capture(config: RunConfig, device: torch.device) -> str:
    if config.capture is False:
        return "steps: run as they stand (capture: false)"
    graphs = graphs_on(device, config.capture)
    if graphs is None:
        return f"steps: run as they stand, since a {device.type} takes its time to record them (capture: null)"
    return f"steps: {'recorded as graphs' if graphs.whole else 'their losses and gradients compiled (capture: true)'}"


def _of_batches(config: RunConfig, corpus: Corpus) -> str:
    stream = build.training_batches(config, corpus)
    epoch = build.epoch_length(stream)
    long = "drawn ∝ counts, without end" if epoch is None else f"{epoch:,} make an epoch"
    return f"batches: of {config.data.batch_size} texts of {len(corpus.splits['train']):,}; {long}"
