"""The one seam to ArviZ: Pareto k̂ of importance weights, and ``inference.nc``.

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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.atomic import write_atomically
from ..core.errors import UserError

if TYPE_CHECKING:
    import xarray as xr

    from ..evaluation.scores import Draws

GOOD, OK = 0.5, 0.7
"""k̂ < 0.5: the weights' variance is finite; up to 0.7 PSIS is still of practical use (Vehtari et al. 2024)."""

FEWEST_DRAWS = 30
"""The tail is a fifth of the draws; ArviZ 0.23 fits five points or more, but 1.x six, by its quartile rule."""

FLAT = 1e-4
"""Log-weights that differ by less (nats) count as equal: float32 sums of hundreds of nats are no finer."""

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


def save_comparison(
    path: Path,
    draws: Mapping[str, Draws],
    khats: Mapping[str, NDArray[Any]],
    texts: Sequence[str],
    weights: NDArray[Any],
    rows: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any],
) -> None:
    """Write ``inference.nc``: netCDF-4 that ``arviz.from_netcdf`` opens in every version; whole or not at all.

    ================== =============================================================================
    group              variables (dimensions)
    ================== =============================================================================
    ``log_likelihood`` ``tokens`` (chain, draw, guide, sentence), where ArviZ looks for it
    ``sample_stats``   ``log_weight`` (chain, draw, guide, sentence); ``log_p``, ``log_q`` (…, site)
    ``observed_data``  ``text``, ``weight`` (sentence)
    ``constant_data``  ``khat`` (guide, sentence)
    ``comparison``     a variable for each column of ``rows`` (row); ``guide``, ``objective`` as coordinates
    ================== =============================================================================

    There is one chain: the draws are independent. A site that a guide does not have is NaN. None among numbers is
    NaN, among texts empty. Same content, same bytes: no time of creation is written.

    Args:
        path: where to; its folder exists.
        draws: by guide, log-terms (S, N) on the CPU; all with the same number of draws.
        khats: by guide, (N,) from :func:`pareto_k`.
        texts: the N sentences.
        weights: (N,) weights of the sentences.
        rows: the table of ``compare``, plain names to plain values.
        attributes: of the whole file (seeds, versions); what is neither text nor number is written as JSON.

    Raises:
        ValueError: no guide, or terms that are not of these sentences or of different numbers of draws.
        CheckpointError: the disk refuses; an older file is left untouched.
    """
    import xarray as xr

    _check_shapes(draws, khats, len(texts), len(weights))
    root = xr.Dataset(attrs={name: _attribute(value) for name, value in attributes.items()})
    observed = {"text": ("sentence", _texts(texts)), "weight": ("sentence", np.asarray(weights))}
    parts = {
        "/": root,
        **_draws(draws, khats),
        "observed_data": xr.Dataset(observed, {"sentence": np.arange(len(texts))}),
        "comparison": _columns(rows),
    }
    content = xr.DataTree.from_dict(parts).to_netcdf(engine="h5netcdf")
    write_atomically(path, lambda file: file.write(content))


def load_comparison(path: Path) -> Any:
    """Load what :func:`save_comparison` wrote: ``InferenceData`` (ArviZ 0.x) or ``DataTree`` (1.x).

    Both give ``data["sample_stats"]["log_weight"]`` and ``data.attrs``.

    Raises:
        UserError: there is no such file, or it is not netCDF.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; `python -m ppl_text compare` writes it")
    try:
        data = _arviz().from_netcdf(str(path), engine="h5netcdf")
        # load and close of InferenceData work on copies; its datasets are what holds the file.
        for part in [data] if hasattr(data, "children") else data.values():
            part.load()
            part.close()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no netCDF file that ArviZ can open: {error}") from error
    return data


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


def _check_shapes(draws: Mapping[str, Draws], khats: Mapping[str, NDArray[Any]], sentences: int, weights: int) -> None:
    if not draws or draws.keys() != khats.keys():
        raise ValueError(f"expected draws and k̂ of the same guides, one or more; got {[*draws]} and {[*khats]}")
    shape = (len(next(iter(draws.values())).log_likelihood), sentences)
    wrong = [f"weights ({weights},)"] if weights != sentences else []
    for guide, terms in draws.items():
        named = {"log_likelihood": terms.log_likelihood}
        named |= {f"log_p[{site}]": term for site, term in terms.log_p.items()}
        named |= {f"log_q[{site}]": term for site, term in terms.log_q.items()}
        wrong += [f"{name} {np.shape(term)} of '{guide}'" for name, term in named.items() if np.shape(term) != shape]
        wrong += [f"k̂ {np.shape(khats[guide])} of '{guide}'"] if np.shape(khats[guide]) != (sentences,) else []
    if wrong:
        raise ValueError(f"expected (S, N) = {shape} of every guide, but got {', '.join(wrong)}")


def _draws(draws: Mapping[str, Draws], khats: Mapping[str, NDArray[Any]]) -> dict[str, xr.Dataset]:
    """Make all groups that come from draws."""
    import xarray as xr

    dims, terms = ("chain", "draw", "guide", "sentence"), [*draws.values()]
    number, sentences = np.shape(terms[0].log_likelihood)
    labels = {"guide": [_storable(guide) for guide in draws], "sentence": np.arange(sentences)}
    coords = {"chain": [0], "draw": np.arange(number), **labels}
    stats = xr.Dataset({"log_weight": (dims, _chain([t.scores.log_weights for t in terms]))}, coords)
    sites = list(dict.fromkeys(site for t in terms for site in (*t.log_p, *t.log_q)))
    if sites:
        stats = stats.assign_coords(site=[_storable(site) for site in sites])
        stats["log_p"] = ((*dims, "site"), _by_site([t.log_p for t in terms], sites))
        stats["log_q"] = ((*dims, "site"), _by_site([t.log_q for t in terms], sites))
    return {
        "log_likelihood": xr.Dataset({"tokens": (dims, _chain([t.log_likelihood for t in terms]))}, coords),
        "sample_stats": stats,
        "constant_data": xr.Dataset({"khat": (("guide", "sentence"), np.stack([khats[g] for g in draws]))}, labels),
    }


def _chain(terms: Sequence[Any]) -> NDArray[Any]:
    """(S, N) of each guide → (chain = 1, draw, guide, sentence)."""
    return np.stack([np.asarray(term) for term in terms], axis=1)[None]


def _by_site(terms: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> NDArray[Any]:
    """Terms by site of each guide → (chain = 1, draw, guide, sentence, site), NaN where a guide lacks the site."""
    known = next(term for of_guide in terms for term in of_guide.values())
    missing = np.full_like(np.asarray(known), np.nan)
    return np.stack([_chain([of_guide.get(site, missing) for of_guide in terms]) for site in sites], axis=-1)


def _columns(rows: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """Turn the rows of ``compare`` into columns: numbers as float64, all else as text."""
    import xarray as xr

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: ("row", _column([row.get(name) for row in rows])) for name in names}
    table = xr.Dataset(columns, {"row": np.arange(len(rows))})
    return table.set_coords([name for name in ("guide", "objective") if name in names])


def _column(values: Sequence[Any]) -> NDArray[Any]:
    if all(value is None or isinstance(value, numbers.Real) for value in values):
        return np.array([np.nan if value is None else float(value) for value in values])
    return _texts(["" if value is None else str(_attribute(value)) for value in values])


def _attribute(value: Any) -> str | numbers.Real:
    """Turn a value into what netCDF can hold; truth values, lists and the like as JSON."""
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _texts(texts: Sequence[str]) -> NDArray[Any]:
    return np.array([_storable(text) for text in texts], dtype=object)


def _storable(text: str) -> str:
    """Replace what HDF5's strings, UTF-8 that ends at a NUL, cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
