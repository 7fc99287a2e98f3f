"""The one seam to ArviZ: Pareto k̂ of importance weights, and ``inference.nc``, what ArviZ reads of a guide.

ArviZ 0.23 (``InferenceData``, Python 3.11) and 1.x (``DataTree``, Python 3.12 and later) name and sign things
differently; nothing outside this file knows of it. It needs no torch: tensors on the CPU are read as arrays.
"""

from __future__ import annotations

import json
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.atomic import write_atomically
from ..core.errors import UserError
from ..core.latents import STEP_AXES

if TYPE_CHECKING:
    import xarray as xr

    from ..evaluation.scores import Draws

GOOD, OK = 0.5, 0.7
"""k̂ < 0.5: the weights' variance is finite; up to 0.7 PSIS is still of practical use (Vehtari et al. 2024)."""

FEWEST_DRAWS = 30
"""The tail is a fifth of the draws; ArviZ 0.23 fits five points or more, but 1.x six, by its quartile rule."""

FLAT = 1e-4
"""Log-weights that differ by less (nats) count as equal: float32 sums of hundreds of nats are no finer."""

REPLICATES = 1000
"""Draws of ln p(x) at most."""

ZERO = 700.0
"""A weight that is smaller than the largest by a factor exp(700) is zero: float64 hardly has room for it."""


def pareto_k(log_weights: NDArray[Any]) -> NDArray[np.float64]:
    """k̂ of each sentence: shape of the generalised Pareto tail of its S importance weights.

    The fit is ArviZ's (PSIS: Vehtari, Simpson, Gelman, Yao and Gabry 2024, JMLR 25(72)) on
    the min(S/5, 3√S) largest of the weights w_s = p(x, z_s)/q(z_s | x), draws independent. Where there is no
    tail to fit, the answer is the limit:

    - -inf where these largest weights agree within 1e-4 nats: q is the posterior, or the weights have reached
      their bound; no tail at all.
    - +inf where so few draws carry all the weight that the tail has zeros in it (relative weights under 1e-304
      are zeros), and where ArviZ fits no tail because too many of its weights tie. Not to be trusted.

    A log-weight of -inf is a draw of weight zero: it counts among the S draws.

    Args:
        log_weights: (N, S) unnormalised log-weights in nats, one row a sentence; any constant may be added to a
            row. Left as they are.

    Returns:
        (N,) k̂; compare with 0.5 and 0.7 (:func:`khat_shares`).

    Raises:
        UserError: S < 30, or a log-weight that is NaN or +inf.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    _check_log_weights(log_weights)
    tail = _tail_length(log_weights.shape[1])
    heaviest = np.partition(log_weights, -tail, axis=1)[:, -tail:]
    largest, smallest = heaviest.max(axis=1), heaviest.min(axis=1)
    flat = np.isfinite(largest) & (smallest >= largest - FLAT)
    fits = (smallest > largest - ZERO) & ~flat
    khat = np.where(flat, -np.inf, np.inf)
    if fits.any():
        fitted = _psis(log_weights[fits])
        khat[fits] = np.where(np.isnan(fitted), np.inf, fitted)
    return khat


class KhatShares(NamedTuple):
    """Shares of sentences, summing to 1: k̂ < 0.5 (good), 0.5 ≤ k̂ ≤ 0.7 (ok), k̂ > 0.7 (bad)."""

    good: float
    ok: float
    bad: float


def khat_shares(k: NDArray[Any], weights: NDArray[Any] | None = None) -> KhatShares:
    """Count the weighted shares of the sentences by k̂.

    Args:
        k: (N,) k̂, ±inf included; NaN speaks for no trust and counts as bad.
        weights: (N,) weights of the sentences, 0 for a filler row; None weighs all alike.

    Raises:
        ValueError: the weights do not sum to a positive number, or there are not N of them.

    Example::

        >>> khat_shares(np.array([0.1, 0.5, 0.9]), np.array([2.0, 1.0, 1.0]))
        KhatShares(good=0.5, ok=0.25, bad=0.25)
    """
    k = np.asarray(k, dtype=np.float64)
    weights = np.ones_like(k) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != k.shape or not weights.sum() > 0:
        raise ValueError(f"expected {k.shape} weights with a positive sum, got {weights.shape}, sum {weights.sum()}")
    good, ok = (float(weights[kept].sum() / weights.sum()) for kept in (k < GOOD, (k >= GOOD) & (k <= OK)))
    return KhatShares(good, ok, float(weights[~(k <= OK)].sum() / weights.sum()))


KHAT = ("khat_good", "khat_ok", "khat_bad", "khat_median")
"""What :func:`khat_columns` names."""


def khat_columns(k: NDArray[Any], weights: NDArray[Any]) -> dict[str, float]:
    """Return the shares of :func:`khat_shares` and the median of k̂, weighted; NaN where there is no k̂.

    Args:
        k: (N,) k̂, or none at all.
        weights: (N,) weights of the sentences.

    Example::

        >>> khat_columns(np.array([0.1, 0.6, 0.2]), np.ones(3))["khat_median"]
        0.2
    """
    if not len(k):
        return dict.fromkeys(KHAT, math.nan)
    order = k.argsort()
    cumulated = weights[order].cumsum() / weights.sum()
    median = float(k[order][cumulated.searchsorted(0.5 - 1e-9)])
    return dict(zip(KHAT, (*khat_shares(k, weights), median), strict=True))


class Posterior(NamedTuple):
    """R draws from p(latents | text) of P sentences.

    Attributes:
        rows: (P,) which of the N sentences.
        axes: by site, the letters of its event axes; those that run along a text count from 1, the others from 0.
        values: by site, (R, P, *event).
        of: how many draws of the guide each of the R was picked from.
    """

    rows: NDArray[Any]
    axes: Mapping[str, Sequence[str]]
    values: Mapping[str, NDArray[Any]]
    of: int


class Predicted(NamedTuple):
    """Lengths (R, P) of texts written from draws of the posterior, beside ``observed`` (P,) of sentences ``rows``."""

    rows: NDArray[Any]
    observed: NDArray[Any]
    lengths: NDArray[Any]


class Inference(NamedTuple):
    """What one guide says of N sentences.

    Attributes:
        terms: log-terms (S, N) of its draws.
        khat: (N,) from :func:`pareto_k`.
        texts: the sentences.
        weights: (N,) what each counts for.
        log_evidence: (R, N) draws of ln p(text), latents integrated out (:func:`evidence_draws`).
        posterior: draws of the latents.
        predicted: lengths of texts written from them.
        left_out: by group that is missing, why.
    """

    terms: Draws
    khat: NDArray[Any]
    texts: Sequence[str]
    weights: NDArray[Any]
    log_evidence: NDArray[np.float64] | None = None
    posterior: Posterior | None = None
    predicted: Predicted | None = None
    left_out: Mapping[str, str] = MappingProxyType({})


def evidence_draws(log_weights: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """Draw ln p(x) of each sentence, (R, N), by the Bayesian bootstrap (Rubin 1981) of its S importance weights.

    Draw m is ln Σ_s g_ms w_s with g_m uniform on the simplex. The mean of p(x) over the draws is that of the weights,
    (1/S) Σ_s w_s; the spread is the Monte-Carlo error of it, as far as S draws know it. R = S, 1,000 at most.

    Args:
        log_weights: (S, N) ln p(x, z_s) - ln q(z_s | x) in nats.
        seed: of the bootstrap, the same for all sentences.
    """
    generator, number = np.random.default_rng(seed), len(log_weights)
    largest = np.max(log_weights, axis=0)
    weights = np.exp(log_weights - largest)
    means = [generator.dirichlet(np.ones(number)) @ weights for _ in range(min(number, REPLICATES))]
    return np.asarray(np.log(means) + largest)


def save_inference(path: Path, found: Inference, attributes: Mapping[str, Any]) -> None:
    """Write netCDF-4 that ``arviz.from_netcdf`` opens in every version; whole or not at all.

    ======================== ==========================================================================
    group                    variables (dimensions)
    ======================== ==========================================================================
    ``posterior``            each latent site (chain, draw, sentence, SITE_AXIS …)
    ``log_likelihood``       ``tokens`` (chain, draw, sentence): ln p(text), latents integrated out
    ``posterior_predictive`` ``length`` (chain, draw, sentence): scored tokens, EOS counted
    ``observed_data``        ``length`` (sentence), of the same sentences
    ``constant_data``        ``khat``, ``weight`` (sentence), of all
    ``guide_draws``          the guide's own draws: ``log_weight``, ``log_likelihood`` (draw, sentence), and
                             ``log_p``, ``log_q`` (draw, sentence, site)
    ======================== ==========================================================================

    ``sentence`` numbers the N sentences in every group, some of which hold a part of them; ``text`` is a coordinate
    beside it. There is one chain: the draws are independent. Each group has a ``description``. The attribute
    ``left_out`` of the file says which group is missing and why, ``khat_above_0.7`` on what share of the sentences the
    weights cannot be believed. Same content, same bytes: no time of creation is written.

    Args:
        path: where to; its folder exists.
        found: the content; tensors on the CPU.
        attributes: of the whole file (seeds, versions); what is neither text nor number is written as JSON.

    Raises:
        ValueError: terms that are not of these sentences.
        CheckpointError: the disk refuses; an older file is left untouched.
    """
    import xarray as xr

    _check_shapes(found)
    bad = khat_shares(found.khat, found.weights).bad
    named = {**attributes, "khat_above_0.7": bad, "left_out": dict(found.left_out)}
    parts = {
        "/": xr.Dataset(attrs={name: _attribute(value) for name, value in named.items()}),
        **_posterior(found),
        **_predicted(found),
        **_sentences(found),
    }
    for name, part in parts.items():
        part.attrs |= {"description": DESCRIPTIONS[name]} if name in DESCRIPTIONS else {}
    content = xr.DataTree.from_dict(parts).to_netcdf(engine="h5netcdf")
    write_atomically(path, lambda file: file.write(content))


DESCRIPTIONS = {
    "posterior": "p(latents | text) by importance resampling: independent picks among draws of the guide, in "
    "proportion to p(text, latents) / q(latents | text). Texts of middle length with k <= 0.7; latents with steps go "
    "as far as the shortest of them.",
    "log_likelihood": "ln p(text), the latents integrated out by importance sampling: each text has latents of its "
    "own, and given them, loo would be the harmonic mean of the likelihood. With fixed parameters nothing is learned "
    "from other texts, so that loo's elpd is the importance-weighted bound, summed over the texts, each once. The "
    "draws are the Bayesian bootstrap of the importance weights: p_loo and loo's k are of their Monte-Carlo error "
    "alone. The k of the weights themselves is khat in constant_data.",
    "posterior_predictive": "Scored tokens, EOS counted, of texts written from draws of p(latents | text).",
    "observed_data": "Scored tokens, EOS counted, of the texts that these predictions belong to.",
    "constant_data": "Of each text: Pareto k of the importance weights, and what it counts for in a mean.",
    "guide_draws": "The guide's own draws, not from the posterior, nats: log_weight = log_likelihood + log_p - log_q, "
    "where log_likelihood is ln p(tokens | latents).",
}
"""By group, what it holds and how to read it."""


def _arviz() -> Any:
    """Import ArviZ without the notice about its own version 1 that 0.23 gives once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        try:
            import arviz
        except OSError as error:
            # 0.23 keeps the day of its last notice in the user's cache folder and fails where it cannot.
            raise UserError(
                f"ArviZ cannot start: {error}. Set XDG_CACHE_HOME to a folder that can be written"
            ) from error
    return arviz


def _psis(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """k̂ (N,) of log-weights (N, S) by the ArviZ that is installed."""
    arviz = _arviz()
    if hasattr(arviz, "psislw"):
        return np.asarray(arviz.psislw(log_weights)[1])
    import xarray as xr

    # 1.x works on a DataArray of log-likelihoods, as for leave-one-out, and negates them itself to get log-weights.
    return np.asarray(xr.DataArray(-log_weights, dims=("sentence", "draw")).azstats.psislw(dim="draw")[1])


def _tail_length(draws: int) -> int:
    return int(min(draws / 5, 3 * math.sqrt(draws)))


def _check_log_weights(log_weights: NDArray[np.float64]) -> None:
    if log_weights.ndim != 2:
        raise ValueError(f"expected log-weights (sentences, draws), got the shape {log_weights.shape}")
    draws = log_weights.shape[1]
    if draws < FEWEST_DRAWS:
        raise UserError(
            f"Pareto k̂ needs {FEWEST_DRAWS} draws a sentence or more (hundreds for a steady one), got {draws}"
        )
    broken = np.flatnonzero((np.isnan(log_weights) | (log_weights == np.inf)).any(axis=1))
    if broken.size:
        raise UserError(f"log-weights of {broken.size} sentences are NaN or +inf, first of sentence {broken[0]}: no k̂")


def _check_shapes(found: Inference) -> None:
    terms = found.terms
    shape = (len(terms.log_likelihood), len(found.texts))
    named: dict[str, Any] = {"log_likelihood": terms.log_likelihood}
    named |= {f"log_p[{site}]": term for site, term in terms.log_p.items()}
    named |= {f"log_q[{site}]": term for site, term in terms.log_q.items()}
    wrong = [f"{name} {np.shape(term)}" for name, term in named.items() if np.shape(term) != shape]
    of_sentence = {"k̂": found.khat, "weights": found.weights}
    of_sentence |= {} if found.log_evidence is None else {"log_evidence": found.log_evidence[0]}
    wrong += [f"{name} {np.shape(term)}" for name, term in of_sentence.items() if np.shape(term) != shape[1:]]
    if wrong:
        raise ValueError(f"expected (S, N) = {shape}, but got {', '.join(wrong)}")


def _posterior(found: Inference) -> dict[str, xr.Dataset]:
    import xarray as xr

    if found.posterior is None:
        return {}
    rows, axes, values, of = found.posterior
    data, coords = {}, _coordinates(found, rows, draws=len(next(iter(values.values()))))
    for site, of_site in values.items():
        dims = [f"{site}_{axis}" for axis in axes[site]]
        data[site] = (("chain", "draw", "sentence", *dims), np.asarray(of_site)[None])
        for dim, axis, size in zip(dims, axes[site], np.shape(of_site)[2:], strict=True):
            coords[dim] = np.arange(size) + int(axis in STEP_AXES)
    return {"posterior": xr.Dataset(data, coords, {"picked_from": of})}


def _predicted(found: Inference) -> dict[str, xr.Dataset]:
    import xarray as xr

    if found.predicted is None:
        return {}
    rows, observed, lengths = found.predicted
    return {
        "posterior_predictive": xr.Dataset(
            {"length": (("chain", "draw", "sentence"), np.asarray(lengths)[None])},
            _coordinates(found, rows, draws=len(lengths)),
        ),
        "observed_data": xr.Dataset({"length": ("sentence", np.asarray(observed))}, _coordinates(found, rows)),
    }


def _sentences(found: Inference) -> dict[str, xr.Dataset]:
    """Make the groups that tell something of all sentences."""
    import xarray as xr

    terms, rows = found.terms, np.arange(len(found.texts))
    of_sentence, of_draw = _coordinates(found, rows), {"draw": np.arange(len(terms.log_likelihood))}
    constant = {"khat": ("sentence", found.khat), "weight": ("sentence", np.asarray(found.weights))}
    dims = ("draw", "sentence")
    raw = {"log_weight": terms.scores.log_weights, "log_likelihood": terms.log_likelihood}
    guide = xr.Dataset({name: (dims, np.asarray(term)) for name, term in raw.items()}, of_draw | of_sentence)
    if terms.log_q:
        guide = guide.assign_coords(site=[_storable(site) for site in terms.log_q])
        for name, by_site in (("log_p", terms.log_p), ("log_q", terms.log_q)):
            stacked = np.stack([np.asarray(by_site[site]) for site in terms.log_q], axis=-1)
            guide[name] = ((*dims, "site"), stacked)
    made = {"constant_data": xr.Dataset(constant, of_sentence), "guide_draws": guide}
    if found.log_evidence is not None:
        data = {"tokens": (("chain", "draw", "sentence"), found.log_evidence[None])}
        made["log_likelihood"] = xr.Dataset(data, _coordinates(found, rows, draws=len(found.log_evidence)))
    return made


def _coordinates(found: Inference, rows: NDArray[Any], draws: int | None = None) -> dict[str, Any]:
    """Return number and text of some sentences; with ``draws``, one chain of so many, too."""
    texts = np.array([_storable(found.texts[row]) for row in rows], dtype=object)
    chain = {} if draws is None else {"chain": [0], "draw": np.arange(draws)}
    return {**chain, "sentence": np.asarray(rows), "text": ("sentence", texts)}


def _attribute(value: Any) -> str | numbers.Real:
    """Turn a value into what netCDF can hold; truth values, lists and the like as JSON."""
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _storable(text: str) -> str:
    """Replace what HDF5's strings, UTF-8 that ends at a NUL, cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
