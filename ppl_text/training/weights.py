"""``model.safetensors``: the weights alone, for everyone who reads a run without resuming it.

Model and guide stand in one file under the prefixes ``model.`` and ``guide.``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..core.atomic import write_atomically
from ..core.errors import CheckpointError, DivergedError, RunFolderError
from ..core.reading import parse_json

_METADATA = "ppl_text"
"""The one key of the file's metadata: several keys would be written in an order that changes."""


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: dict[str, Any] | None = None) -> None:
    """Write the ``state_dict()`` of a module atomically; raises :class:`CheckpointError` when the disk refuses.

    A tensor that stands under two names (tied weights) is written once and its other names are kept in the
    file's metadata, since the format has no shared tensors.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple, str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            # A clone, because parts of one storage (cuDNN's LSTM weights) may not stand in one file.
            tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    content = save(tensors, metadata={_METADATA: json.dumps({"aliases": aliases, **(metadata or {})})})
    write_atomically(path, lambda file: file.write(content))


def load_weights(path: Path, model: nn.Module, guide: nn.Module) -> dict[str, Any]:
    """Load ``model.safetensors`` into model and guide; return the file's metadata (step, bound, …).

    Raises :class:`RunFolderError` when the file is missing or holds other parameters, and
    :class:`CheckpointError` when it is damaged.
    """
    tensors, metadata = _read(path)
    _load(nn.ModuleDict({"model": model, "guide": guide}), tensors, path, "model and guide")
    return metadata


def load_model_weights(path: Path, model: nn.Module) -> None:
    """Load the model's part of ``model.safetensors``, whatever the guide beside it; errors as :func:`load_weights`."""
    tensors, _ = _read(path)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    _load(nn.ModuleDict({"model": model}), own, path, "model")


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what was saved beside the weights (step, validation bound), no tensor read; errors as for weights."""
    _require(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = _metadata_of(file)
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    return {key: value for key, value in metadata.items() if key != "aliases"}


def weights_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of the file; raises :class:`RunFolderError` where there is none."""
    _require(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def under_present_names(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors that an older version saved under other names, as the parts' ``former_names`` say.

    ``former_names`` of a part maps the prefix that a parameter had within that part to the prefix that it has now.
    """
    renamed = dict(tensors)
    for place, part in module.named_modules():
        inside = f"{place}." if place else ""
        for old, new in getattr(part, "former_names", {}).items():
            for name in [name for name in renamed if name.startswith(inside + old)]:
                renamed[inside + new + name.removeprefix(inside + old)] = renamed.pop(name)
    return renamed


def _load(module: nn.Module, tensors: dict[str, Tensor], path: Path, what: str) -> None:
    tensors = under_present_names(module, tensors)
    errors = _differences(module.state_dict(), tensors)
    if errors:
        raise RunFolderError(
            f"the weights in {path} are not those of this {what}: {'; '.join(errors[:5])}"
            f"{' …' if len(errors) > 5 else ''}. Build them with the run's own config.yaml"
        )
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise DivergedError(f"{path}: '{name}' has NaN or infinite entries")
    module.load_state_dict(tensors)


def _require(path: Path) -> None:
    if not path.is_file():
        raise RunFolderError(f"{path} does not exist; give the folder of a run that has saved its weights")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors by all their names, and the metadata."""
    _require(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = _metadata_of(file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except _UNREADABLE as error:
        raise _damaged(path, error) from error
    for alias, name in metadata.pop("aliases", {}).items():
        tensors[alias] = tensors[name]
    return tensors, metadata


_UNREADABLE = (SafetensorError, OSError, ValueError)
"""All that a damaged file can make its reader raise."""


def _metadata_of(file: Any) -> dict[str, Any]:
    found = parse_json((file.metadata() or {}).get(_METADATA, "{}"))
    if not isinstance(found, dict):
        raise ValueError(f"its metadata '{_METADATA}' holds no JSON object")
    aliases, step, bound = found.get("aliases", {}), found.get("step"), found.get("validation_bound")
    names = set(file.keys())
    if not isinstance(aliases, dict) or not all(isinstance(name, str) and name in names for name in aliases.values()):
        raise ValueError(f"'aliases' of its metadata: expected names of tensors in it; got {str(aliases)[:80]}")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
        raise ValueError(f"'step' of its metadata: expected a whole number; got {str(step)[:80]}")
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float)):
        raise ValueError(f"'validation_bound' of its metadata: expected a number; got {str(bound)[:80]}")
    return found


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({error}); resume the run, which writes it again")


def _differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    missing = [f"'{name}' is missing from the file" for name in ours if name not in theirs]
    foreign = [f"'{name}' is unknown here" for name in theirs if name not in ours]
    shapes = [
        f"'{name}' has shape {tuple(theirs[name].shape)}, here {tuple(tensor.shape)}"
        for name, tensor in ours.items()
        if name in theirs and theirs[name].shape != tensor.shape
    ]
    kinds = [
        f"'{name}' is of type {theirs[name].dtype}, here {tensor.dtype}"
        for name, tensor in ours.items()
        if name in theirs and theirs[name].dtype != tensor.dtype
    ]
    return missing + foreign + shapes + kinds
