"""ppl_text: variational models of text as Pyro programs.

A generative story (model), a variational family (guide) and an objective make one trained run; each
can be exchanged without touching the other two. Public names are resolved lazily, so that
``import ppl_text`` costs neither torch nor pyro.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "fit": "ppl_text.fitting",
    "load": "ppl_text.run",
    "reproduce": "ppl_text.tables.reproduce",
    "Run": "ppl_text.run",
    "Batch": "ppl_text.core.batch",
    "LatentSpec": "ppl_text.core.latents",
    "PplTextError": "ppl_text.core.errors",
    "UserError": "ppl_text.core.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ppl_text' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
