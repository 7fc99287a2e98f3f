"""The machine: what it is (``environment.json``), the threads it gives to torch, the processes of a parallel run."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor

import ppl_text

from ..core.processes import own_place

_PACKAGES = ("torch", "pyro-ppl", "numpy", "lightning-fabric", "safetensors", "tokenizers")


def describe_environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return versions, platform, processors, device and, for a run from a checkout, the git commit.

    All values are plain (strings, numbers, None, dictionaries of them), fit for JSON. ``commit`` ends in
    ``+changes`` when tracked files of the checkout differ from it, and is None outside of a checkout.
    """
    device = torch.device(device)
    return {
        "ppl_text": ppl_text.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "processes": own_place().size,
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cuda": torch.version.cuda,
        "commit": commit_of(Path(ppl_text.__file__).resolve().parents[1]),
    }


def commit_of(folder: Path) -> str | None:
    """Return the commit of the checkout whose top is ``folder``; None when it is none or git is missing."""
    if not (folder / ".git").exists():
        return None
    head = _git(folder, "rev-parse", "--verify", "HEAD")
    if not head:
        return None
    return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Context in which torch uses ``count`` threads (None: as many as before), restored afterwards.

    At the sizes of a word model a second thread gains little on an idle machine, and on a busy one the two
    wait for each other at every operation: a step can take thirty times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Ranks:
    """Sum, agree and gather over the processes of a ``Fabric``; with one process all of it is free."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.size: int = fabric.world_size
        self.index: int = fabric.global_rank
        self.is_first: bool = fabric.is_global_zero
        self.sharded = isinstance(fabric.strategy, ModelParallelStrategy)
        """Whether each process holds a part of the parameters: :mod:`.sharding`."""

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        return values if self.size == 1 else self._fabric.all_reduce(values.clone(), reduce_op="sum")

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        return values if self.size == 1 else self.total(values) / self.size

    def largest(self, *numbers: int) -> list[int]:
        """Return, for each number, the largest that any process holds in its place."""
        if self.size == 1:
            return list(numbers)
        held = torch.tensor(numbers, device=self._fabric.device)
        found: list[int] = self._fabric.all_reduce(held, reduce_op="max").tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """Collect one object of each process, in order, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def first_goes_first(self) -> AbstractContextManager[None]:
        """Context that the first process leaves before the others enter it."""
        return nullcontext() if self.size == 1 else self._fabric.rank_zero_first()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self._fabric.barrier()


def is_lost(error: RuntimeError) -> bool:
    """Tell whether an error says that processes no longer reach each other."""
    if not torch.distributed.is_available():
        return False
    named = (torch.distributed.DistBackendError, torch.distributed.DistNetworkError, torch.distributed.DistStoreError)
    return isinstance(error, named) or any(saying in str(error) for saying in _LOST)


_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "Socket closed")
"""How gloo says that another process is gone; it raises a plain ``RuntimeError``."""


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints, or nothing where it is missing, refuses or takes too long."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Name of the processor as Linux gives it, else what the platform knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
