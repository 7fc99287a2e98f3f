"""Whether what a file holds is built like what is wanted: names, kinds and shapes, whatever the values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..core.errors import PplTextError, RunFolderError
from ..core.limits import pass_on_memory_errors

_MISFITS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""All that values of the wrong kind can make their readers raise."""


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Context in which what a stored state is not fit for becomes a :class:`RunFolderError` that names the file."""
    try:
        yield
    except PplTextError:
        raise
    except _MISFITS as error:
        pass_on_memory_errors(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunFolderError(
            f"{path} does not fit this model, guide and optimizer ({reason}); resume it with the configuration and the "
            "version of ppl_text that it was trained with"
        ) from error


def check_structure(stored: Any, ours: Any, where: str, optional: Collection[str] = ()) -> None:
    """Raise ``ValueError``, with the name of the field, where a stored value is not built like one of ours.

    What is None here may be anything there, and what comes in another number is not looked into: a list of another
    length, or numbers in a row where we have none yet. ``optional``: names that older versions do not know.
    """
    if isinstance(ours, Mapping):
        _expect(isinstance(stored, Mapping), where, "named values", stored)
        for name, value in ours.items():
            if name in stored:
                check_structure(stored[name], value, f"{where}.{name}", optional)
            elif name not in optional:
                raise ValueError(f"'{where}.{name}' is missing")
    elif isinstance(ours, Tensor):
        row = ours.shape == (0,)
        fits = isinstance(stored, Tensor) and (stored.dim() == 1 if row else stored.shape == ours.shape)
        shape = "in a row" if row else f"of shape {tuple(ours.shape)}"
        _expect(fits and stored.dtype == ours.dtype, where, f"numbers {shape} and of type {ours.dtype}", stored)
    elif isinstance(ours, str | bytes):
        _expect(isinstance(stored, type(ours)), where, "a text", stored)
    elif isinstance(ours, Sequence):
        _expect(isinstance(stored, list | tuple), where, "a list", stored)
        if len(stored) == len(ours):
            for place, (theirs, own) in enumerate(zip(stored, ours, strict=True)):
                check_structure(theirs, own, f"{where}.{place}", optional)
    elif isinstance(ours, bool):
        _expect(isinstance(stored, bool), where, "true or false", stored)
    elif isinstance(ours, int):
        _expect(isinstance(stored, int), where, "a whole number", stored)
    elif isinstance(ours, float):
        _expect(isinstance(stored, int | float), where, "a number", stored)


def check_tensors(stored: Any, where: str) -> None:
    """Raise ``ValueError`` where a stored value is no mapping of names to tensors."""
    _expect(isinstance(stored, Mapping), where, "named values", stored)
    for name, value in stored.items():
        _expect(isinstance(value, Tensor), f"{where}.{name}", "numbers", value)


MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""What optimizers keep that is shaped like the parameter."""

NEEDED = ("params", "lr", "eps")
"""What an optimizer's group must have, where it has it at all; the rest has defaults, or stays the optimizer's own."""


def check_optimizer(stored: Any, optimizer: Optimizer) -> None:
    """Raise ``ValueError`` where a stored state is not built like that of an optimizer, of whatever step."""
    check_structure(stored, {"state": {}, "param_groups": []}, "optimizer")
    rows, theirs, ours = stored["state"], stored["param_groups"], optimizer.state_dict()["param_groups"]
    _expect(len(theirs) == len(ours), "optimizer.param_groups", f"{len(ours)} of them", theirs)
    for place, (group, own) in enumerate(zip(theirs, ours, strict=True)):
        _check_group(group, own, f"optimizer.param_groups.{place}")
    names = {name for row in rows.values() if isinstance(row, Mapping) for name in row}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in theirs for index in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        if index in rows:
            _check_row(rows[index], parameter, names, f"optimizer.state.{index}")


def _check_group(group: Any, own: Mapping[str, Any], where: str) -> None:
    _expect(isinstance(group, Mapping), where, "named values", group)
    for name, value in own.items():
        if name not in group and name in NEEDED:
            raise ValueError(f"'{where}.{name}' is missing")
        given = group.get(name)
        single = isinstance(given, Tensor) and not given.dim()
        # A rate is a tensor where steps are recorded, on either side.
        if value is None:
            _expect(given is None or isinstance(given, int | float), f"{where}.{name}", "a number or none", given)
        elif given is not None and not isinstance(value, Tensor) and not single:
            # A rate or a weight decay of 0 may be a whole number on one side.
            check_structure(given, float(value) if type(value) is int else value, f"{where}.{name}")
        elif isinstance(value, Tensor):
            _expect(single or isinstance(given, int | float), f"{where}.{name}", "a number", given)


def _check_row(row: Any, parameter: Tensor, names: Collection[str], where: str) -> None:
    _expect(isinstance(row, Mapping), where, "named values", row)
    if row and (missing := names - row.keys()):
        raise ValueError(f"'{where}.{min(missing)}' is missing")
    for name, value in row.items():
        if name in MOMENTS:
            check_structure(value, parameter.detach(), f"{where}.{name}")
        elif name == "step":
            single = isinstance(value, int | float) or (isinstance(value, Tensor) and not value.dim())
            _expect(single, f"{where}.{name}", "a number", value)


def _expect(fits: bool, where: str, expected: str, got: Any) -> None:
    if not fits:
        shown = f"{got.dtype} of shape {tuple(got.shape)}" if isinstance(got, Tensor) else repr(got)
        raise ValueError(f"'{where}': expected {expected}; got {shown[:80]}")
