"""What K draws of a guide score on each sentence, in bounded memory; and the file that keeps it.

Every bound, perplexity and standard error of an evaluation follows from these numbers
(:func:`~ppl_text.evaluation.likelihood.bounds_of`), so that they can be recomputed without the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro import poutine
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..core.atomic import write_atomically
from ..core.batch import Batch, device_of
from ..core.errors import UserError
from ..core.latents import Latents, LatentSpec
from ..core.limits import free_memory
from ..core.places import check_place, target_of
from ..core.printing import quoted_path
from ..core.reading import parse_json
from ..core.vocabulary import Vocabulary
from ..objectives.bounds import Scores
from ..objectives.terms import (
    Terms,
    collect_terms,
    is_auxiliary,
    log_density,
    particle_plate,
    stochastic_sites,
    trace_terms,
)

ROOM = 131_072
"""Particles x sentences x steps that a model of words in letters scores at once."""

WIDE_ROOM = 8_192
"""The same for models that feed tokens back beside a latent, or have many symbols: a step of a decoder takes some 35 kB
at 256 units and 140 kB at 1,024, one of a state-space model 40 kB at 10,000 symbols."""

MANY = 1_000
"""Symbols, from which on a model is wide."""

HELD = 300 * 2**20
"""Bytes that so much holds at 256 units, about."""

ON_DEVICE = 64
"""Times as much room on a device, at most, which small pieces would leave idle."""

SHARE = 4
"""What is scored at once holds a fourth of the memory that is free, at most."""

_METADATA = "ppl_text"
"""The one key of the file's metadata: several keys would be written in an order that changes."""


class SentenceScores(NamedTuple):
    """N sentences by K draws of the guide; float64, nats per sentence.

    ``weights`` (N,): what each sentence counts for; ``tokens`` (N,): scored tokens, EOS included; ``rec`` (N,):
    -E_q ln p(x | z) and ``kl`` (N,): E_q[ln q - ln p], by the K draws; ``steps`` (N,): latent steps, over all sites
    that have any, and ``step_kl`` (N,): the share of these sites in ``kl``, both 0 where no site has steps;
    ``log_weights`` (N, K): ln p(x, z_k) - ln q(z_k | x). ``exact``: nothing is latent, and the one log-weight is
    ln p(x).
    """

    weights: Tensor
    tokens: Tensor
    rec: Tensor
    kl: Tensor
    step_kl: Tensor
    steps: Tensor
    log_weights: Tensor
    exact: bool = False

    def counted(self) -> SentenceScores:
        """Return the sentences whose weight is above 0, on the CPU."""
        kept = self.weights > 0
        return SentenceScores._make([*(column[kept].cpu() for column in self[:7]), self.exact])


_SINCE = ("step_kl", "steps")
"""Columns that files of older versions lack: they are read as 0, steps that nobody has counted."""


class Draws(NamedTuple):
    """What K draws of a guide score on each of B sentences, without side losses; nats.

    Attributes:
        log_likelihood: (K, B) ln p(tokens | latents).
        log_p: by latent site, (K, B) ln p(site | earlier latents).
        log_q: by latent site, (K, B) ln q(site | text).
        steps: by latent site that has a step axis, (B,) how many steps count.
        values: what was drawn, by site; empty where it was not kept.
    """

    log_likelihood: Tensor
    log_p: dict[str, Tensor]
    log_q: dict[str, Tensor]
    steps: dict[str, Tensor]
    values: Latents

    @property
    def scores(self) -> Scores:
        """The same with ln q - ln p of each site."""
        return Scores(self.log_likelihood, {name: q - self.log_p[name] for name, q in self.log_q.items()}, {})


Whole = Callable[[Batch, int], Draws]
"""Draw K particles for a whole batch and score them at once."""


def room_for(model: Any) -> int:
    """Particles x sentences x steps that ``model`` scores at once, by the memory that is free.

    On a CPU about 300 MB at 256 units, and less only where a fourth of the free memory is less; on a GPU a fourth of
    what is free there, up to 64 times as much.
    """
    # Without a latent there is one particle, however many are asked for.
    decodes = callable(getattr(model, "decoder", None)) and bool(getattr(model, "latents", ()))
    vocabulary: Vocabulary | None = getattr(model, "vocabulary", None)
    wide = decodes or (vocabulary is not None and vocabulary.size > MANY)
    room, device = WIDE_ROOM if wide else ROOM, device_of(model)
    free = _free_on(device)
    times = 1.0 if free is None else free / (SHARE * HELD)
    return max(1, int(room * min(times, 1 if device.type == "cpu" else ON_DEVICE)))


def _free_on(device: torch.device) -> int | None:
    """Return the bytes that are free on a device, those that torch keeps for itself counted; None if nobody knows."""
    if device.type != "cuda":
        return free_memory()
    kept: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def score_batch(
    model: nn.Module,
    guide: nn.Module,
    batch: Batch,
    particles: int,
    *,
    chunk: int = 16,
    room: int | None = None,
    whole: Whole | None = None,
) -> SentenceScores:
    """Return the scores of all rows of a batch, filler too (where the batch had to be divided, zeros stand for filler).

    The guide draws ``chunk`` particles at a time, which decides the random numbers; the model scores them for as
    many sentences at a time as ``room`` allows (:func:`draw`), which decides nothing but memory.
    """
    log_weights, likelihood, divergence, stepwise = [], [], [], []
    steps = torch.zeros_like(batch.lengths, dtype=torch.float64)
    for start in range(0, particles, chunk):
        drawn = draw(model, guide, batch, min(chunk, particles - start), room, whole)
        logs = drawn.scores
        # A copy, since the next draws may come where these are.
        log_likelihood = logs.log_likelihood.to(torch.float64, copy=True)
        if not logs.kl:
            return _exact(log_likelihood[0], batch)
        log_weights.append(logs.log_weights.double())
        likelihood.append(log_likelihood)
        nothing = torch.zeros_like(likelihood[-1])
        divergence.append(sum((kl.double() for kl in logs.kl.values()), start=nothing))
        stepwise.append(sum((logs.kl[name].double() for name in drawn.steps), start=nothing))
        steps = sum((number.double() for number in drawn.steps.values()), start=torch.zeros_like(steps))
    return SentenceScores(
        weights=batch.weights.double(),
        tokens=batch.lengths.double(),
        rec=-torch.cat(likelihood).mean(0),
        kl=torch.cat(divergence).mean(0),
        step_kl=torch.cat(stepwise).mean(0),
        steps=steps,
        log_weights=torch.cat(log_weights).T,
    )


def _exact(log_likelihood: Tensor, batch: Batch) -> SentenceScores:
    """Return the scores of sentences (B,) where nothing is latent: ln p(x), whatever K is."""
    weights, tokens = batch.weights.double(), batch.lengths.double()
    zero = torch.zeros_like(log_likelihood)
    return SentenceScores(weights, tokens, -log_likelihood, zero, zero, zero, log_likelihood.unsqueeze(-1), exact=True)


def steps_of(q: Any, spec: LatentSpec, batch: Batch) -> Tensor | None:
    """Return how many steps of a site count in each sentence, (B,); None for one of the whole sentence.

    A distribution of steps says it as its ``lengths``; where ``q``, that of the site, has none, the spec does
    (:meth:`~ppl_text.core.latents.LatentSpec.own_steps`); an axis S of neither source nor stride is as long as it is
    wide.
    """
    if spec.step_place is None:
        return None
    width = q.event_shape[spec.step_place]
    while not hasattr(q, "lengths") and hasattr(q, "base_dist"):
        q = q.base_dist
    if isinstance(lengths := getattr(q, "lengths", None), Tensor):
        return lengths
    own = spec.own_steps(batch.lengths, None if batch.source is None else batch.source.lengths)
    return torch.full_like(batch.lengths, width) if own is None else own


def draw_whole(model: nn.Module, guide: nn.Module, batch: Batch, particles: int) -> Draws:
    """Draw K particles from the guide for a whole batch, and score them at once."""
    terms = trace_terms(model, guide, batch, particles)
    sites = terms.latents.items()
    values = {n: s.value for n, s in sites}
    steps = _steps(model, batch, {n: s.q for n, s in sites})
    return Draws(terms.log_likelihood, {n: s.log_p for n, s in sites}, {n: s.log_q for n, s in sites}, steps, values)


def _steps(model: nn.Module, batch: Batch, posteriors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the steps of the sites that have any, by name, given each site's distribution in the guide."""
    specs: dict[str, LatentSpec] = {spec.name: spec for spec in getattr(model, "latents", ())}
    found = {name: steps_of(q, specs[name], batch) for name, q in posteriors.items() if name in specs}
    return {name: steps for name, steps in found.items() if steps is not None}


def draw(
    model: nn.Module,
    guide: nn.Module,
    batch: Batch,
    particles: int,
    room: int | None = None,
    whole: Whole | None = None,
) -> Draws:
    """Draw K particles from the guide for a whole batch, and score them for parts of it.

    Where K·B·T is above ``room`` (None: :func:`room_for` the model), the model sees some of the sentences at a time,
    those of like lengths together, without filler rows and no wider than need be; the draws are the same, however it
    is divided. At least one sentence is scored at once, so that K·T may still pass ``room``. ``whole``:
    :func:`draw_whole` of these programs, where it is recorded.
    """
    room = room_for(model) if room is None else room
    if particles * batch.size * batch.steps <= room:
        return draw_whole(model, guide, batch, particles) if whole is None else whole(batch, particles)
    with particle_plate(particles):
        trace = poutine.trace(guide).get_trace(batch)
    shape = (particles, batch.size)
    log_q = {n: log_density(s).expand(shape) for n, s in stochastic_sites(trace) if not is_auxiliary(s)}
    specs = {spec.name: spec for spec in getattr(model, "latents", ())}
    parts: list[tuple[Tensor, Terms]] = []
    for rows in _parts(batch, particles, room):
        some = batch.take(rows)
        drawn = _drawn_for(trace, rows, some, specs)
        with particle_plate(particles):
            replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(some)
        parts.append((rows, collect_terms(drawn, replayed, particles, some)))
    log_p = {name: _scattered([(rows, terms.latents[name].log_p) for rows, terms in parts], shape) for name in log_q}
    likelihood = _scattered([(rows, terms.log_likelihood) for rows, terms in parts], shape)
    steps = _steps(model, batch, {name: trace.nodes[name]["fn"] for name in log_q})
    return Draws(likelihood, log_p, log_q, steps, {name: trace.nodes[name]["value"] for name in log_q})


def _parts(batch: Batch, particles: int, room: int) -> Iterator[Tensor]:
    """Return the rows that count, longest first, as many as fit into ``room`` under K particles."""
    kept = torch.nonzero(batch.weights > 0).squeeze(-1)
    lengths = batch.lengths[kept]
    order = lengths.argsort(descending=True, stable=True)
    start, rows, steps = 0, kept[order], lengths[order].tolist()
    while start < len(steps):
        end = start + max(1, room // (particles * steps[start]))
        yield rows[start:end]
        start = end


def _drawn_for(trace: poutine.Trace, rows: Tensor, some: Batch, specs: Mapping[str, LatentSpec]) -> poutine.Trace:
    """Return the guide's draws for the sentences ``some``, to replay a model against: axes along texts are cut."""
    part = poutine.Trace()
    for name, site in stochastic_sites(trace):
        sentences = len(site["fn"].batch_shape) - 1
        value = site["value"].expand(site["fn"].batch_shape + site["fn"].event_shape).index_select(sentences, rows)
        for place, axis in enumerate(specs[name].axes if name in specs else ()):
            steps = specs[name].own_steps(some.steps, None if some.source is None else some.source.steps, axis)
            if steps is not None:
                value = value.narrow(sentences + 1 + place, 0, steps)
        part.add_node(name, **{**site, "name": name, "value": value})
    return part


def _scattered(parts: Sequence[tuple[Tensor, Tensor]], shape: tuple[int, int]) -> Tensor:
    """Put values (K, R) of rows (R,) each, put where they belong in (K, B); 0 where there is none."""
    whole = parts[0][1].new_zeros(shape)
    for rows, values in parts:
        whole[:, rows] = values
    return whole


def join_scores(parts: Iterable[SentenceScores]) -> SentenceScores:
    """Put batches under each other."""
    kept = list(parts)
    columns = [torch.cat(column) for column in zip(*(part[:7] for part in kept), strict=True)]
    return SentenceScores._make([*columns, any(part.exact for part in kept)])


class StoredScores(NamedTuple):
    """What a file of scores holds: the numbers, and how they were made (``run``, ``split``, ``seed``, …)."""

    scores: SentenceScores
    about: dict[str, Any]


def store_scores(path: str | Path, scores: SentenceScores, about: Mapping[str, Any]) -> None:
    """Write the columns of the scores, (N,) each and ``log_weights`` (N, K), as safetensors, atomically.

    ``about``: plain values that say how they were made, kept in the file's metadata. Raises
    :class:`CheckpointError` when the disk refuses.
    """
    tensors = {name: getattr(scores, name).contiguous() for name in SentenceScores._fields[:7]}
    metadata = {_METADATA: json.dumps({**about, "exact": scores.exact})}
    content = save(tensors, metadata=metadata)
    write_atomically(target_of(path), lambda file: file.write(content))


def check_storable(path: str | Path, *, force: bool = False) -> None:
    """Raise :class:`UserError` where no scores may be put, before anything is measured for them.

    They replace earlier scores, and with ``force`` any regular file.
    """
    check_place("--store", path, holds_scores, force=force)


def holds_scores(path: Path) -> bool:
    """Tell whether a file is one of :func:`store_scores`."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return "exact" in parse_json((file.metadata() or {})[_METADATA]) and "log_weights" in set(file.keys())
    except (SafetensorError, KeyError, ValueError, TypeError, OSError):
        return False


def load_scores(path: str | Path) -> StoredScores:
    """Read what ``evaluate --store`` has written; raises :class:`UserError` where the file holds something else.

    ::

        scores, about = load_scores("scores.safetensors")
        summarize(bounds_of(scores), about["particles"], exact=scores.exact).perplexity
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            about = parse_json((file.metadata() or {})[_METADATA])
            stored = set(file.keys())
            nothing = torch.zeros_like(file.get_tensor("kl"))
            columns = [
                nothing if name in _SINCE and name not in stored else file.get_tensor(name)
                for name in SentenceScores._fields[:7]
            ]
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; write it with: python -m ppl_text evaluate RUN --store {quoted_path(path)}"
        ) from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{path} holds no scores ({error}); give a file that 'evaluate RUN --store FILE' has written"
        ) from error
    return StoredScores(SentenceScores._make([*columns, bool(about.pop("exact"))]), about)
