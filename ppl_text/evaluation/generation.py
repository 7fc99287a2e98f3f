"""Texts out of a trained model: from the model itself, through the guide and back, and between two texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..core.batch import EOS_ID, Batch
from ..core.errors import UserError
from ..data.batches import collate
from ..data.tokenizers import Tokenizer
from ..objectives.terms import trace_terms

CHUNK = 256
"""Texts that are encoded at once."""


class Generative(Protocol):
    """What a model offers for generation; ``decode`` and ``interpolate`` where something is latent."""

    latents: Any

    def generate(self, n: int, steps: int) -> Tensor:
        """Ids (n, steps) from the model."""
        ...

    def decode(self, states: Tensor) -> Tensor:
        """Most probable ids (…, T) given the latents."""
        ...

    def interpolate(self, first: Tensor, second: Tensor, lengths: tuple[int, int], points: int) -> Tensor:
        """Ids (points, T) between two latents."""
        ...


class Samples(NamedTuple):
    """Texts drawn from the model, and how many of them were cut off at the step limit without an EOS."""

    texts: list[str]
    unfinished: int


def sample_texts(model: Generative, tokenizer: Tokenizer, n: int, *, steps: int, seed: int) -> Samples:
    """Draw n texts from the model; those without EOS after ``steps`` tokens are cut off and counted."""
    with seeded(seed):
        tokens = model.generate(n, steps).cpu()
    unfinished = int((~(tokens == EOS_ID).any(-1)).sum())
    return Samples([tokenizer.decode(row) for row in tokens.tolist()], unfinished)


def reconstruct_texts(
    model: Any, guide: Any, tokenizer: Tokenizer, texts: Sequence[str], *, max_steps: int, seed: int
) -> list[str]:
    """z ~ q(z | text), then the most probable tokens given z: one reconstruction for each text.

    Where z has one step for each token (axis T), it ends with the text's own steps: beyond them is padding.
    Raises :class:`UserError` where the model has nothing latent.
    """
    check_latent(model, "reconstruct from")
    check_texts(tokenizer, texts, max_steps)
    decoded: list[str] = []
    with seeded(seed), torch.no_grad():
        for start in range(0, len(texts), CHUNK):
            batch = encode_batch(tokenizer, texts[start : start + CHUNK]).to(_device(model))
            rows = model.decode(_latent(model, guide, batch)).tolist()
            if "T" in model.latents[0].axes:
                rows = [row[:length] for row, length in zip(rows, batch.lengths.tolist(), strict=True)]
            decoded += [tokenizer.decode(row) for row in rows]
    return decoded


def interpolate_texts(
    model: Any, guide: Any, tokenizer: Tokenizer, first: str, second: str, *, points: int, max_steps: int, seed: int
) -> list[str]:
    """``points`` texts from the latents of ``first`` to those of ``second``, both drawn from the guide.

    Raises :class:`UserError` where the model has nothing latent.
    """
    check_latent(model, "interpolate between")
    if points < 2:
        raise UserError(f"an interpolation has at least 2 points; got {points}")
    check_texts(tokenizer, [first, second], max_steps)
    with seeded(seed), torch.no_grad():
        batch = encode_batch(tokenizer, [first, second]).to(_device(model))
        states = _latent(model, guide, batch)
        lengths = batch.lengths.tolist()
        tokens = model.interpolate(states[0], states[1], (lengths[0], lengths[1]), points).cpu()
    return [tokenizer.decode(row) for row in tokens.tolist()]


def check_latent(model: Any, purpose: str) -> None:
    """Raise :class:`UserError` where a model has no latent site: a text has no encoding then."""
    if not model.latents:
        raise UserError(
            f"this model ({model.family}) has no latent to {purpose}: it can only generate; take a run of a model with "
            "latents, such as the recipe words"
        )


def check_texts(tokenizer: Tokenizer, texts: Sequence[str], max_steps: int) -> None:
    """Raise :class:`UserError` for texts that are empty, longer than the run has seen, or of unknown characters."""
    for text, row in zip(texts, tokenizer.encode(texts), strict=True):
        if not row or len(row) + 1 > max_steps:
            raise UserError(f"text {text!r} has {len(row)} tokens; this run takes 1 to {max_steps - 1}")


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> Batch:
    """Texts as one batch, as wide as the longest of them."""
    ids = tokenizer.encode(texts)
    longest = max(len(row) + 1 for row in ids)
    return collate(ids, [1.0] * len(ids), steps=longest, rows=len(ids))


def _latent(model: Any, guide: Any, batch: Batch) -> Tensor:
    """The value that the guide draws for the model's one latent site."""
    terms = trace_terms(model, guide, batch)
    (name,) = (spec.name for spec in model.latents)
    return terms.latents[name].value


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch draws from ``seed``; the global random state is as before afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
