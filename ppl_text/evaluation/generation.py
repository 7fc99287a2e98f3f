"""Texts out of a trained model: from the model itself, through the guide and back, and between two texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from pyro import poutine
from torch import Tensor

from ..core.batch import EOS_ID, Batch
from ..core.errors import UnknownNameError, UserError
from ..data.batches import collate
from ..data.tokenizers import Tokenizer
from ..decoding import Greedy, Sample, Strategy, search

CHUNK = 256
"""Texts that are encoded at once, and rows that are searched at once."""

ANCESTRAL, GREEDY = Sample(), Greedy()
"""The strategies by default: for texts from the prior, and for texts of given latents."""

PATHS = ("spherical", "linear")
"""Ways between two latents."""


class Generative(Protocol):
    """What every model offers for generation.

    One that feeds tokens back, such as ``sentence_vae``, has ``begin(z, rows)``, ``step(tokens, memory)`` (see
    :mod:`ppl_text.decoding`) and, where it has latents, ``prior_draws(n)``: all strategies apply. One with a latent for
    each token, such as ``deep_state_space``, has ``decode(states)`` and
    ``interpolate(first, second, lengths, points)``.
    """

    latents: Any

    def generate(self, n: int, steps: int) -> Tensor:
        """Ids (n, steps) drawn from the model."""
        ...


class Samples(NamedTuple):
    """Texts drawn from the model, and how many of them were cut off at the step limit without an EOS."""

    texts: list[str]
    unfinished: int


def sample_texts(
    model: Generative, tokenizer: Tokenizer, n: int, *, steps: int, seed: int, strategy: Strategy = ANCESTRAL
) -> Samples:
    """n texts of the model: z ~ p(z) for each, then the tokens by ``strategy``, by default drawn as well.

    Those without EOS after ``steps`` tokens are cut off and counted. Where nothing is latent, a deterministic strategy
    knows one text only, which comes once whatever n is. Raises :class:`UserError` for a strategy that does not apply.
    """
    check_strategy(model, strategy, ANCESTRAL)
    with seeded(seed), torch.no_grad():
        tokens = (model.generate(n, steps) if strategy == ANCESTRAL else _from_prior(model, n, strategy, steps)).cpu()
    unfinished = int((~(tokens == EOS_ID).any(-1)).sum())
    return Samples([tokenizer.decode(row) for row in tokens.tolist()], unfinished)


def reconstruct_texts(
    model: Any,
    guide: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_steps: int,
    seed: int,
    strategy: Strategy = GREEDY,
) -> list[str]:
    """z ~ q(z | text), then tokens given z by ``strategy``: one reconstruction for each text.

    Where z has one step for each token (axis T), it ends with the text's own steps: beyond them is padding. Otherwise
    it is cut off after 2 · ``max_steps`` tokens. Raises :class:`UserError` where the model has nothing latent, for
    texts that do not fit and for a strategy that does not apply.
    """
    check_latent(model, "reconstruct from")
    check_strategy(model, strategy, GREEDY)
    check_texts(tokenizer, texts, max_steps)
    decoded: list[str] = []
    with seeded(seed), torch.no_grad():
        for start in range(0, len(texts), CHUNK):
            batch = encode_batch(tokenizer, texts[start : start + CHUNK]).to(device_of(model))
            rows = _given(model, _latent(model, guide, batch), strategy, 2 * max_steps).tolist()
            if has_paths(model):
                rows = [row[:length] for row, length in zip(rows, batch.lengths.tolist(), strict=True)]
            decoded += [tokenizer.decode(row) for row in rows]
    return decoded


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
) -> list[str]:
    """``points`` texts from the latents of ``first`` to those of ``second``, both drawn from the guide.

    The ends are what :func:`reconstruct_texts` makes of the two texts with the same seed; between them lead
    :func:`points_between` or, where latents are paths, the model's own way. Raises :class:`UserError` where the model
    has nothing latent, for texts that do not fit, and for a path or a strategy that does not apply.
    """
    check_latent(model, "interpolate between")
    check_strategy(model, strategy, GREEDY)
    check_path(model, path)
    if points < 2:
        raise UserError(f"an interpolation has at least 2 points; got {points}")
    check_texts(tokenizer, [first, second], max_steps)
    with seeded(seed), torch.no_grad():
        batch = encode_batch(tokenizer, [first, second]).to(device_of(model))
        ends = _latent(model, guide, batch)
        if has_paths(model):
            lengths = batch.lengths.tolist()
            tokens = model.interpolate(ends[0], ends[1], (lengths[0], lengths[1]), points)
        else:
            tokens = _given(model, points_between(ends[0], ends[1], points, path), strategy, 2 * max_steps)
    return [tokenizer.decode(row) for row in tokens.tolist()]


def points_between(first: Tensor, second: Tensor, points: int, path: str) -> Tensor:
    """Points (n, D) from z_0 = ``first`` to z_1 = ``second`` (D,), the ends exact, at t = 0, 1/(n-1), …, 1.

    ``linear``: (1 - t) z_0 + t z_1, which between two draws of N(0, I) passes through the empty middle of the prior.
    ``spherical``: of unit vectors u_0, u_1 at the angle Ω, ℓ(t) · [sin((1 - t)Ω) u_0 + sin(tΩ) u_1] / sin Ω (slerp,
    Shoemake 1985; for latents White 2016, "Sampling Generative Networks"), with the length ℓ(t) linear from ‖z_0‖ to
    ‖z_1‖, so that no point is shorter or longer than both ends. Draws of N(0, I_D) for large D stand at Ω ≈ π/2, where
    the weights are cos θ and sin θ. Along one line (Ω = 0 or π, always for D = 1) there is no arc; it is linear there.
    """
    t = torch.linspace(0.0, 1.0, points, dtype=torch.float64, device=first.device).unsqueeze(-1)
    a, b = first.double(), second.double()
    shares = 1.0 - t, t
    if path == "spherical":
        shares = _on_an_arc(a, b, shares)
    return (shares[0] * a + shares[1] * b).to(first.dtype)


def _on_an_arc(a: Tensor, b: Tensor, shares: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What the linear ``shares`` (n, 1) of a and b (D,) become on the arc between them."""
    angle = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1.0, 1.0).acos()
    length = shares[0] * a.norm() + shares[1] * b.norm()

    def share(linear: Tensor, end: Tensor) -> Tensor:
        curved = (linear * angle).sin() / angle.sin() * length / end.norm().clamp_min(1e-12)
        return torch.where(angle.sin() > 1e-6, curved, linear)

    return share(shares[0], a), share(shares[1], b)


def check_latent(model: Any, purpose: str) -> None:
    """Raise :class:`UserError` where a model has no latent site: a text has no encoding then."""
    if not model.latents:
        raise UserError(
            f"this model ({model.family}) has no latent to {purpose}: it can only generate; take a run of a model with "
            "latents, such as the recipe words"
        )


def check_strategy(model: Any, strategy: Strategy, own: Strategy) -> None:
    """Raise :class:`UserError` for any strategy but the model's ``own`` where it feeds no token back."""
    if strategy != own and not _feeds_back(model):
        raise UserError(
            f"this model ({model.family}) feeds no token back, so there is nothing to search token by token: texts are "
            "sampled from the prior (strategy sample, without options) and decoded greedily from given latents "
            "(strategy greedy); leave the other options out"
        )


def check_path(model: Any, path: str) -> None:
    """Raise :class:`UserError` for a path that is unknown, or that the model's latents do not take."""
    if path not in PATHS:
        raise UnknownNameError("path", path, PATHS)
    if has_paths(model) and path != "spherical":
        raise UserError(
            f"this model ({model.family}) interpolates spherically, in the noise that drives its latent paths; leave "
            f"out the path '{path}'"
        )


def check_texts(tokenizer: Tokenizer, texts: Sequence[str], max_steps: int) -> None:
    """Raise :class:`UserError` for texts that are empty, longer than the run has seen, or of unknown characters."""
    for text in texts:
        if "\0" in text:
            raise UserError(f"text {text!r} has a NUL character; remove it")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"text {text!r} has {text[error.start]!r} at place {error.start + 1}, half a character or a byte that "
                "is not UTF-8; mend the text"
            ) from error
    for text, row in zip(texts, tokenizer.encode(texts), strict=True):
        if not row or len(row) + 1 > max_steps:
            raise UserError(f"text {text!r} has {len(row)} tokens; this run takes 1 to {max_steps - 1}")


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> Batch:
    """Texts as one batch, as wide as the longest of them."""
    ids = tokenizer.encode(texts)
    longest = max(len(row) + 1 for row in ids)
    return collate(ids, [1.0] * len(ids), steps=longest, rows=len(ids))


def has_paths(model: Any) -> bool:
    """Whether the latent is a path with a step for each token, rather than one vector for the whole text."""
    return any("T" in spec.axes for spec in model.latents)


def device_of(model: Any) -> torch.device:
    """Where the model's parameters are."""
    device: torch.device = next(model.parameters()).device
    return device


def _feeds_back(model: Any) -> bool:
    return callable(getattr(model, "begin", None))


def _from_prior(model: Any, n: int, strategy: Strategy, steps: int) -> Tensor:
    """Ids (n, steps) with z ~ p(z), or the one row (1, steps) that there is without z and chance."""
    if model.latents:
        return _searched(model, model.prior_draws(n), n, strategy, steps)
    return _searched(model, None, 1 if strategy.deterministic else n, strategy, steps)


def _given(model: Any, z: Tensor, strategy: Strategy, steps: int) -> Tensor:
    """Ids (R, T) given latents (R, …)."""
    tokens: Tensor = _searched(model, z, len(z), strategy, steps) if _feeds_back(model) else model.decode(z)
    return tokens


def _searched(model: Any, z: Tensor | None, rows: int, strategy: Strategy, steps: int) -> Tensor:
    """Ids (R, steps) token by token; a bounded number of rows, a beam's counted, at once."""
    size = max(1, CHUNK // strategy.width)
    found = []
    for start in range(0, rows, size):
        count = min(size, rows - start)
        memory = model.begin(None if z is None else z[start : start + count], count)
        found.append(search(strategy, model.step, memory, count, steps))
    return torch.cat(found)


def _latent(model: Any, guide: Any, batch: Batch) -> Tensor:
    """The value that the guide draws for the model's one latent site."""
    (name,) = (spec.name for spec in model.latents)
    value: Tensor = poutine.trace(guide).get_trace(batch).nodes[name]["value"]
    return value


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch draws from ``seed``; the global random state is as before afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
