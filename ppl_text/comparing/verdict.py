"""What a comparison means, in words: a pure function of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.printing import decimal, percent, plus_minus, significant
from ..evaluation.collapse import is_collapsed
from ..evaluation.standard_errors import is_unreliable
from .rows import Measurement

GAIN = 0.01
"""Nats per sentence below which a gain is not worth a word."""

LOOSE = 0.1
"""Share of the texts with k̂ > 0.7 above which importance-weighted bounds are not simply to be trusted."""


def verdict(rows: Sequence[Measurement], noun: str = "sentence") -> list[str]:
    """Say which guide and which estimator are best, what a richer objective gains, what k̂ says, and what collapsed.

    ``noun``: what a text is called.
    """
    if not rows:
        return []
    found = [best_guide(rows, noun), *best_estimators(rows), *gains(rows, noun), *reliability(rows, noun)]
    return [line for line in [*found, *collapse(rows, noun)] if line]


def best_guide(rows: Sequence[Measurement], noun: str) -> str:
    """Name the guide with the highest bound, and say whether the next one is really lower.

    By two standard errors, and only where no bound hangs on a few draws.
    """
    if not (bounded := [row for row in rows if math.isfinite(_height(row))]):
        return "No guide has a finite bound; a point mass has none."
    if len(bounded) < len(rows):
        without = sorted({name(row, rows) for row in rows if not math.isfinite(_height(row))})
        return f"{best_guide(bounded, noun)} No finite bound: {', '.join(without)}."
    ranked = sorted(_best_rows(rows), key=_height, reverse=True)
    first = ranked[0]
    what = f"{name(first, rows)} has the highest bound: {decimal(_height(first))} nats per {noun} ({_at(first)})"
    if len(ranked) == 1:
        return f"{what}; it is the only guide here."
    second = ranked[1]
    mean, error = paired_difference(first, second)
    above = f"{plus_minus(mean, error)} above {name(second, rows)} ({_at(second)}) on the same {noun}s"
    if mean <= 2 * error:
        return (
            f"{what}, but {above} is within two standard errors: too close to call; more --sentences and --draws may "
            "tell."
        )
    if doubted := [name(row, rows) for row in (first, second) if _doubtful(row)]:
        return (
            f"{what}, {above}; but by k̂ the bound of {' and of '.join(doubted)} hangs on a few draws, so that this "
            "error claims no coverage and no difference is called real."
        )
    return f"{what}, {above}: a real difference."


def best_estimators(rows: Sequence[Measurement]) -> list[str]:
    """Name the objective with the best signal-to-noise ratio at equal draws, guide by guide.

    Not across guides: far from its optimum a guide has large gradients, which say nothing for an estimator.
    """
    lines = []
    for group in _by_guide(rows):
        found = []
        for whose in ("model", "guide"):
            seen = [(snr, row) for row in group if (snr := getattr(row, f"snr_{whose}_equal_draws")) is not None]
            if len(seen) < 2:
                continue
            top, row = max(seen, key=lambda pair: pair[0])
            found.append(
                f"of the {whose}'s parameters by {row.objective} (SNR {significant(top)})"
                if top > row.snr_floor_equal_draws
                else f"of the {whose}'s parameters: none above its noise, try more --repeats"
            )
        if found:
            lines.append(f"{name(group[0], rows)}: least noisy gradient at equal draws {', '.join(found)}.")
    return lines


def gains(rows: Sequence[Measurement], noun: str) -> list[str]:
    """Say whether a richer objective still raises the bound above the plain ELBO of the same guide."""
    lines = []
    for group in _by_guide(rows):
        if group[0].exact:
            lines.append(f"{name(group[0], rows)}: nothing is latent, so every bound is ln p(x) itself, without error.")
            continue
        plain = next((row for row in group if row.family in ("elbo", "elbo-analytic", "stl")), None)
        best = max(group, key=_height)
        if plain is None or len(group) < 2:
            continue
        if best is plain:
            lines.append(f"{name(plain, rows)}: no objective is above {plain.objective}.")
            continue
        mean, error = paired_difference(best, plain)
        gain = f"{name(plain, rows)}: {_at(best)} {{}} {plus_minus(mean, error)} nats a {noun} {{}} {plain.objective}"
        if mean <= max(GAIN, 2 * error):
            lines.append(f"{gain.format('gains', 'over')}: nothing to speak of; {plain.objective} will do.")
            continue
        doubt = " (an error that claims no coverage, by k̂)" if _doubtful(best) else ""
        lines.append(
            f"{gain.format('is', 'above')}{doubt}: at least so far is this guide from the posterior; a tighter "
            "objective or a richer guide gains."
        )
    return lines


def reliability(rows: Sequence[Measurement], noun: str) -> list[str]:
    """Say whether importance-weighted figures can be trusted, by k̂."""
    lines = []
    for group in _by_guide(rows):
        row = group[0]
        if row.khat_bad is None or row.khat_median is None:
            continue
        found = f"{name(row, rows)}: k̂ > 0.7 on {percent(row.khat_bad)} of the {noun}s"
        if row.khat_bad > LOOSE:
            claim = " and their errors claim no coverage" if is_unreliable(row.khat_bad) else " on these"
            lines.append(f"{found}: a few draws carry the weight there; importance-weighted bounds are loose{claim}.")
        else:
            lines.append(f"{found} (median {decimal(row.khat_median, 2)}): importance-weighted bounds can be trusted.")
    return lines


def collapse(rows: Sequence[Measurement], noun: str) -> list[str]:
    """Warn where the latents, or one of several, carry nothing, whatever the other columns say."""
    lines = []
    for group in _by_guide(rows):
        row = group[0]
        if row.exact:
            continue
        if is_collapsed(row.kl, row.active_units):
            perfect = " Its ESS is perfect because there is nothing to infer." if (row.ess or 0.0) > 0.9 else ""
            used = _used(row.kl, row.active_units, row.units)
            lines.append(
                f"WARNING {name(row, rows)}: {used}: the guide has collapsed on the prior and tells nothing of the "
                f"{noun}.{perfect}"
            )
            continue
        lines += [
            f"WARNING {name(row, rows)}, latent '{latent}': {_used(*site)}: it has collapsed on its prior."
            for latent, site in row.sites.items()
            if is_collapsed(site.kl, site.active_units)
        ]
    return lines


def _used(kl: float, active: int | None, units: int | None) -> str:
    of = "" if units is None else f" of {units}"
    return f"KL {decimal(max(0.0, kl))} nats" + ("" if active is None else f", {active}{of} units active")


def name(row: Measurement, rows: Sequence[Measurement]) -> str:
    """Name a guide, with its run where there are several."""
    return f"'{row.guide}'" if len({r.run for r in rows}) == 1 else f"'{row.guide}' of {row.run}"


def _height(row: Measurement) -> float:
    return row.bound if row.bound_equal_k is None else row.bound_equal_k


def _doubtful(row: Measurement) -> bool:
    """Tell whether the error of :func:`_height` claims no coverage."""
    return row.unreliable(row.particles if row.bound_equal_k is None else row.equal_k)


def _at(row: Measurement) -> str:
    if row.exact:
        return "exact"
    return row.objective if row.equal_k in (None, row.particles) else f"{row.family} at K = {row.equal_k}"


def _by_guide(rows: Sequence[Measurement]) -> list[list[Measurement]]:
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        groups.setdefault((row.run, row.guide), []).append(row)
    return list(groups.values())


def _best_rows(rows: Sequence[Measurement]) -> list[Measurement]:
    return [max(group, key=_height) for group in _by_guide(rows)]


def paired_difference(first: Measurement, second: Measurement) -> tuple[float, float]:
    """Return the mean of ``first - second`` over the common sentences, nats per sentence, and its standard error.

    With shares w: √(N/(N-1) Σ_n w_n² (d_n - d̄)²), which holds the draw of the sentences and of the latents; what the
    sentences have in common drops out of d_n.
    """
    difference = first.by_sentence - second.by_sentence
    share = first.weights / first.weights.sum()
    mean = float(share @ difference)
    n = len(difference)
    error = math.sqrt(n / (n - 1) * float(share**2 @ (difference - mean) ** 2)) if n > 1 else math.inf
    return mean, error
