"""Texts out of a trained model: from the model itself, through the guide and back, and between two texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..core.batch import Batch, device_of
from ..core.errors import DivergedError, UserError
from ..core.latents import Latents
from ..core.limits import MOST_POINTS, check_most
from ..data.batches import collate
from ..data.tokenizers import Tokenizer
from ..training.random_numbers import random_numbers_kept, seed_all
from .decoding import Greedy, Sample, Strategy, check_logits, search
from .shaping import OfLength
from .storytelling import (
    LATENTS,
    PATHS,
    check_latent,
    check_latents,
    check_length,
    check_path,
    check_sites,
    check_source,
    check_strategy,
    check_teller,
    check_texts,
    feeds_back,
    has_own_way,
    has_steps,
    storyteller,
)

BLOCK = 65_536
"""Texts from the model itself whose latents are drawn at once."""

CHUNK = 256
"""Texts that are encoded at once, and rows that are searched at once."""

ANCESTRAL, GREEDY = Sample(), Greedy()
"""The strategies by default: for texts from the prior, and for texts of given latents."""


Report = Callable[[int, int], Any]
"""``(done, total)``: told of progress, in texts."""


class Samples(NamedTuple):
    """Texts drawn from the model, and how many of them were cut off at the step limit without an EOS."""

    texts: list[str]
    unfinished: int


def sample_texts(
    model: Any,
    tokenizer: Tokenizer,
    n: int,
    *,
    steps: int,
    seed: int,
    strategy: Strategy = ANCESTRAL,
    guide: Any = None,
    source: Batch | None = None,
    length: int | None = None,
    latents: str = LATENTS[0],
    report: Report = lambda done, total: None,
) -> Samples:
    """Write n texts of the story: latents drawn for each, then the tokens by ``strategy``, by default drawn as well.

    Args:
        model: the story.
        tokenizer: turns ids into texts.
        n: how many texts; of a conditional model, for each row of ``source``.
        steps: texts without EOS after so many tokens are cut off and counted.
        seed: of the draws; the global random state is left alone.
        strategy: how tokens are chosen.
        guide: needed where the story decodes from q.
        source: what a conditional model reads, one row for each n texts, which stand together.
        length: tokens of every text, EOS not counted (:class:`~ppl_text.evaluation.shaping.OfLength`), whatever
            ``steps`` is; latents that run along the text have as many steps, and one for EOS. None: each text ends
            where it does.
        latents: ``sample``, or ``mean`` for posterior means (:data:`LATENTS`).
        report: ``report(done, total)`` is told how many texts are written.

    Returns:
        The texts. Where no latent is drawn, a deterministic strategy knows one text only (of each source), which comes
        once whatever n is.

    Raises:
        UserError: the strategy does not apply, a source is missing, there is one that the model does not read, the
            model cannot be held to a length, or there are no posterior means to decode from.
    """
    check_strategy(model, strategy, ANCESTRAL)
    check_source(model, source)
    check_teller(model, guide)
    check_length(model, length, strategy)
    check_latents(model, guide, latents)
    if strategy.deterministic and (not model.latents or latents == "mean"):
        n = 1
    rows = n if source is None else n * source.size
    texts: list[str] = []
    unfinished, own = 0, None if source is None else source.to(device_of(model))
    with seeded(seed), torch.no_grad():
        teller = storyteller(model, guide, latents)
        for start in range(0, rows, BLOCK):
            size = min(BLOCK, rows - start)
            given = None if own is None else own.take(torch.arange(start, start + size, device=own.tokens.device) // n)
            drawn = from_prior(teller, size, steps, given, length)
            told = partial(_told, report, start, rows)
            tokens = write(model, teller, drawn, size, strategy, steps, given, length, told).cpu()
            unfinished += int((~(tokens == model.vocabulary.ids.eos).any(-1)).sum())
            texts += [tokenizer.decode(row) for row in tokens.tolist()]
    return Samples(texts, unfinished)


def _told(report: Report, before: int, total: int, done: int) -> None:
    report(before + done, total)


def reconstruct_texts(
    model: Any,
    guide: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_steps: int,
    seed: int,
    strategy: Strategy = GREEDY,
    source: Batch | None = None,
    report: Report = lambda done, total: None,
) -> list[str]:
    """Draw latents ~ q(· | text), then tokens given them by ``strategy``: one reconstruction for each text.

    Where a latent has one step for each token, the text ends with its own steps: beyond them is padding. Otherwise
    it is cut off after 2 · ``max_steps`` tokens. ``source``: what a conditional model reads beside each text, as many
    rows. ``report(done, total)`` is told how many are done. Raises :class:`UserError` where the model has nothing
    latent, for texts that do not fit, for a strategy that does not apply, and for a source that is missing or not read.
    """
    check_latent(model, "reconstruct from")
    check_strategy(model, strategy, GREEDY)
    check_source(model, source)
    check_teller(model, guide)
    check_texts(tokenizer, texts, max_steps)
    decoded: list[str] = []
    with seeded(seed), torch.no_grad():
        for batch in batches_of(tokenizer, texts, source):
            decoded += reconstructed(model, guide, tokenizer, batch, max_steps, strategy)
            report(len(decoded), len(texts))
    return decoded


def batches_of(tokenizer: Tokenizer, texts: Sequence[str], source: Batch | None) -> Iterator[Batch]:
    """Give the texts in batches of :data:`CHUNK`, each text beside its row of ``source`` where there is one."""
    for start in range(0, len(texts), CHUNK):
        chosen = range(start, min(start + CHUNK, len(texts)))
        own = None if source is None else source.take(torch.tensor(chosen, device=source.tokens.device))
        yield encode_batch(tokenizer, [texts[i] for i in chosen], own)


def reconstructed(
    model: Any, guide: Any, tokenizer: Tokenizer, batch: Batch, max_steps: int, strategy: Strategy = GREEDY
) -> list[str]:
    """Return what :func:`reconstruct_texts` does of the texts of a batch, which has their sources beside them."""
    batch = batch.to(device_of(model))
    latents = encoded(model, guide, batch)
    limit = batch.steps if has_steps(model) else 2 * max_steps
    rows = write(model, storyteller(model, guide), latents, batch.size, strategy, limit, batch.source).tolist()
    if has_steps(model):
        rows = [row[:length] for row, length in zip(rows, batch.lengths.tolist(), strict=True)]
    return [tokenizer.decode(row) for row in rows]


def interpolate_texts(
    model: Any,
    guide: Any,
    tokenizer: Tokenizer,
    first: str,
    second: str,
    *,
    points: int,
    max_steps: int,
    seed: int,
    path: str = PATHS[0],
    strategy: Strategy = GREEDY,
    source: Batch | None = None,
    sites: Sequence[str] | None = None,
) -> list[str]:
    """``points`` texts from the latents of ``first`` to those of ``second``, both drawn from the guide.

    The ends are what :func:`reconstruct_texts` makes of the two texts with the same seed; between them lead
    :func:`points_between` or, where the model has one, its own way. ``source``: the one row that a conditional model
    reads beside both texts and all between. ``sites``: the latents that move, by name, while the others stay where
    ``first`` has them (None: all move); the last text then is no reconstruction. Raises :class:`UserError` where the
    model has nothing latent, for texts that do not fit, for a path, a strategy or sites that do not apply, and for a
    source that is missing or not read.
    """
    check_latent(model, "interpolate between")
    check_strategy(model, strategy, GREEDY)
    check_source(model, source)
    check_teller(model, guide)
    check_path(model, path)
    moved = check_sites(model, sites)
    if points < 2:
        raise UserError(f"an interpolation has at least 2 points; got {points}")
    check_most(points, MOST_POINTS, "the number of points of an interpolation")
    check_texts(tokenizer, [first, second], max_steps)
    with seeded(seed), torch.no_grad():
        own = None if source is None else repeated(source, 2)
        batch = encode_batch(tokenizer, [first, second], own).to(device_of(model))
        found = encoded(model, guide, batch)
        ends = [{name: value[row] for name, value in found.items()} for row in range(2)]
        if has_own_way(model):
            lengths = batch.lengths.tolist()
            latents = model.between(*ends, points, (lengths[0], lengths[1]))
        else:
            latents = {
                name: points_between(ends[0][name], ends[1][name], points, path)
                if name in moved
                else value[:1].expand(points, *value.shape[1:])
                for name, value in found.items()
            }
        steps = batch.steps if has_steps(model) else 2 * max_steps
        given = None if source is None else repeated(source.to(device_of(model)), points)
        tokens = write(model, storyteller(model, guide), latents, points, strategy, steps, given)
    return [tokenizer.decode(row) for row in tokens.tolist()]


def points_between(first: Tensor, second: Tensor, points: int, path: str) -> Tensor:
    """Return points (n, *event) from z_0 = ``first`` to z_1 = ``second`` (*event,), exact ends, at t = 0, …, 1.

    The entries of an event with several axes count as those of one long vector, of D entries.

    ``linear``: (1 - t) z_0 + t z_1, which between two draws of N(0, I) passes through the empty middle of the prior.
    ``spherical``: of unit vectors u_0, u_1 at the angle Ω, ℓ(t) · [sin((1 - t)Ω) u_0 + sin(tΩ) u_1] / sin Ω (slerp,
    Shoemake 1985; for latents White 2016, "Sampling Generative Networks"), with the length ℓ(t) linear from ‖z_0‖ to
    ‖z_1‖, so that no point is shorter or longer than both ends. Draws of N(0, I_D) for large D stand at Ω ≈ π/2, where
    the weights are cos θ and sin θ. Along one line (Ω = 0 or π, always for D = 1) there is no arc; it is linear there.
    """
    t = torch.linspace(0.0, 1.0, points, dtype=torch.float64, device=first.device).unsqueeze(-1)
    a, b = first.double().flatten(), second.double().flatten()
    shares = 1.0 - t, t
    if path == "spherical":
        shares = _on_an_arc(a, b, shares)
    return (shares[0] * a + shares[1] * b).to(first.dtype).reshape(points, *first.shape)


def _on_an_arc(a: Tensor, b: Tensor, shares: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the linear ``shares`` (n, 1) of a and b (D,) become on the arc between them."""
    angle = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1.0, 1.0).acos()
    length = shares[0] * a.norm() + shares[1] * b.norm()

    def share(linear: Tensor, end: Tensor) -> Tensor:
        curved = (linear * angle).sin() / angle.sin() * length / end.norm().clamp_min(1e-12)
        return torch.where(angle.sin() > 1e-6, curved, linear)

    return share(shares[0], a), share(shares[1], b)


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str], source: Batch | None = None) -> Batch:
    """Put texts into one batch, as wide as the longest of them; ``source``: what stands beside each, as many rows."""
    ids = tokenizer.encode(texts)
    longest = max(len(row) + 1 for row in ids)
    batch = collate(ids, [1.0] * len(ids), steps=longest, rows=len(ids))
    return batch if source is None else replace(batch, source=source)


def repeated(batch: Batch, times: int) -> Batch:
    """Repeat every row ``times`` times: row r of the batch becomes rows r·times, r·times + 1, …."""
    return batch.take(torch.arange(batch.size, device=batch.tokens.device).repeat_interleave(times))


def from_prior(teller: Any, rows: int, steps: int, source: Batch | None, length: int | None) -> Latents:
    """Draw latents of R = ``rows`` texts, of ``length`` tokens and EOS where that is stated."""
    given = getattr(teller, "draw_given", None)
    if length is not None and callable(given):
        drawn: Latents = given(torch.full((rows,), length + 1, device=device_of(teller)), source)
    else:
        drawn = teller.draw(rows, steps if length is None else length + 1, source)
    return _finite(drawn, "draws from scratch")


def write(
    model: Any,
    teller: Any,
    latents: Latents,
    rows: int,
    strategy: Strategy,
    steps: int,
    source: Batch | None = None,
    length: int | None = None,
    told: Callable[[int], Any] = lambda done: None,
) -> Tensor:
    """Return the ids (R, T) given latents of R = ``rows`` texts, at most ``steps`` tokens where they are fed back.

    ``teller``: the model's :func:`storyteller`; ``told``: hears how many are done.
    With a ``length`` each text has so many and EOS. A bounded number of rows, a beam's counted, is searched at once.
    """
    if not feeds_back(model):
        emitted = model.emit(latents)
        if isinstance(logits := getattr(emitted, "logits", None), Tensor):
            check_logits(logits)
        tokens: Tensor = emitted.sample() if strategy == ANCESTRAL else emitted.mode
        told(rows)
        return tokens
    size = max(1, CHUNK // strategy.width)
    found = []
    for start in range(0, rows, size):
        chosen = slice(start, min(rows, start + size))
        some = {name: value[chosen] for name, value in latents.items()}
        given = None if source is None else source.take(torch.arange(rows, device=source.tokens.device)[chosen])
        decoder, ids = teller.decoder(some, given), model.vocabulary.ids
        held = decoder if length is None else OfLength(decoder, length, ids)
        most = min(steps, getattr(decoder, "longest", steps)) if length is None else length + 1
        found.append(search(strategy, held, chosen.stop - start, most, ids))
        told(chosen.stop)
    return torch.cat(found)


def encoded(model: Any, guide: Any, batch: Batch) -> Latents:
    """Draw latents (B, …) that the guide draws for the texts of a batch."""
    with pyro.validation_enabled(False):  # what is no number is told in our words
        nodes = poutine.trace(guide).get_trace(batch).nodes
    return _finite({spec.name: nodes[spec.name]["value"] for spec in model.latents}, "draws given the texts")


def _finite(latents: Latents, what: str) -> Latents:
    """Return latents (R, …) as they are; raises :class:`DivergedError` for NaN and +inf (a logarithm may be -inf)."""
    for name, value in latents.items():
        bad = (value.isnan() | (value == math.inf)).flatten(1).any(1) if value.dim() > 1 else value.isnan()
        if bool(bad.any()):
            texts = f"{int(bad.sum()):,} of {len(bad):,} texts"
            raise DivergedError(f"latent '{name}' is NaN or infinite in {texts} ({what})")
    return latents


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which all draws are from ``seed``; the global random states are as before afterwards."""
    with random_numbers_kept(range(torch.cuda.device_count())):
        seed_all(seed)
        yield
