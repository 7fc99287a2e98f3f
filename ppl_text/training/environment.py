"""``environment.json``: on what a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import ppl_text

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
