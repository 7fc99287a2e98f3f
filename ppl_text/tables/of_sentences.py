"""What is measured of a sentence model: reconstruction, KL, perplexities, and what the latents carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.atomic import finite_or_none
from ..core.errors import UserError
from ..data.corpus import Corpus
from ..recipes import folders
from ..run import Run
from .measured import SEED, Measured, Measures

SCORES = "scores.safetensors"
"""In a run's folder: what every sentence scored, log-weights too, from which the bounds and perplexities follow."""


def measure_sentences(run: Run, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
    """Rec, KL and -ELBO (nats per sentence), perplexities, mutual information (nats) and active units.

    ``settings``: ``sentences`` of the test split (None: all of it), ``particles`` K of the importance-weighted
    perplexity, ``representation``: sentences behind mutual information and active units (None: all). Perplexities are
    per token, EOS counted and BOS not, from the sums that stand beside them (``rec_sum``, ``kl_sum``, ``n_eos``) and
    the log-weights that are kept in :data:`SCORES`.
    """
    report(f"bounds of the test sentences, K = {settings['particles']}")
    likelihood = run.evaluate("test", settings["particles"], settings["sentences"], SEED, store=run.folder / SCORES)
    found: Measures = {
        "steps": _last_step(run),
        "rec": likelihood.rec,
        "kl": likelihood.kl,
        "elbo_negative": -likelihood.elbo,
        "elbo_se": likelihood.elbo_se,
        "iw_negative": -likelihood.iw,
        "iw_se": likelihood.iw_se,
        "ppl_elbo": likelihood.elbo_perplexity,
        "ppl": likelihood.perplexity,
        "particles": likelihood.particles,
        "rec_sum": likelihood.rec_sum,
        "kl_sum": likelihood.kl_sum,
        "iw_sum": likelihood.iw_sum,
        "n_eos": likelihood.n_eos,
        "n_words": likelihood.n_words,
        "n_sent": likelihood.n_sent,
        "sampling_se": likelihood.sampling_se,
    }
    if likelihood.exact:
        found = {key: value for key, value in found.items() if key not in ("kl", "elbo_negative", "ppl_elbo")}
    report("mutual information and active units")
    return Measured(finite_or_none(found | _of_latents(run, settings["representation"])), {})


def _of_latents(run: Run, limit: int | None) -> Measures:
    """What the latents carry; nothing where nothing is latent."""
    latents = run.latents("test", limit, SEED)
    if latents is None:
        return {}
    return {key: value for key, value in latents.as_dict().items() if not isinstance(value, list)}


def _last_step(run: Run) -> int:
    """How many updates were made: a rule may end a training before its last epoch."""
    return int(folders.read_record(run.folder / "results.json")["trained"]["step"])


def no_oracle(corpus: Corpus, settings: Mapping[str, Any], seed: int, report: Callable[[str], None]) -> Measured:
    """Sentences have no row without a model: raises :class:`UserError`."""
    raise UserError("a row of a table of sentences needs a recipe")
