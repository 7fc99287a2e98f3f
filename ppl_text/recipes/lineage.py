"""A run that starts from another run's model: what is known of the parent, and how its weights are taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import RunFolderError
from ..data.corpus import Corpus
from ..training.weights import load_model_weights, read_metadata, weights_digest
from .config import RunConfig, load_config
from .folders import read_record

WEIGHTS = "model.safetensors"
RECORD = "parent.json"
"""The file of a child's folder that holds :func:`describe_parent`."""


def describe_parent(folder: Path) -> dict[str, Any]:
    """What ``parent.json`` keeps: folder, recipe, guide, step and validation bound of the weights, their SHA-256."""
    config, metadata = load_config(str(folder / "config.yaml")), read_metadata(folder / WEIGHTS)
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
    if read_record(folder / "data.json").get("fingerprint") != corpus.fingerprint:
        raise RunFolderError(
            f"the parent run {folder} was trained on other data than corpus '{config.data.corpus}'; a run that starts "
            "from its model needs the same words and the same tokens"
        )
    load_model_weights(folder / WEIGHTS, model)
