"""Sentences that count once each: what a run shows of them, and the rows of tables of sentence models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.atomic import finite_or_none
from ..core.latents import of_sentence
from ..core.printing import decimal, percent, plus_minus
from ..data.batches import EvaluationSet
from ..data.corpus import Corpus, Split, TokenTable
from ..evaluation.collapse import SENTENCES, CollapseMonitor
from ..evaluation.latents import LatentFigures, SiteFigures, StepFigures
from ..evaluation.likelihood import Likelihood
from ..evaluation.standard_errors import is_unreliable
from .base import SEED, Measured, Numbers, Subject
from .texts import TextMeasure, tail_of

if TYPE_CHECKING:
    from ..training.validation import Monitor

SCORES = "scores.safetensors"
"""In the subject's folder: what every sentence scored, log-weights too, from which bounds and perplexities follow."""


class SentenceMeasure(TextMeasure):
    """Texts that count once: perplexities with what normalises them, and what their latents carry."""

    name = "sentences"
    version = 3
    shown = 10

    def applies(self, corpus: Corpus) -> bool:
        """Return whether texts count once."""
        return not corpus.weighted

    def symbol_cross_entropy(self, train: Split, data: Split) -> float:
        """Return that of the i.i.d. token model of the training sentences."""
        return token_cross_entropy(train.target.table, data.target.table)

    def taken(self, likelihood: Likelihood, corpus: Corpus) -> str:
        """Say whether sentences were drawn from the split, or all of them."""
        n = f"{likelihood.n_sent:z,.0f} {corpus.noun}s"
        if likelihood.sampling_se:
            return f"{n} drawn from the split (± {decimal(likelihood.sampling_se)} from the draw)"
        return f"all {n}"

    def perplexities(self, likelihood: Likelihood, corpus: Corpus) -> tuple[str, ...]:
        """Return the perplexities with their errors and what they are normalised by, and why they may be infinite."""
        n = f"{likelihood.n_eos:z,.0f} scored tokens (EOS counted, BOS not) in {likelihood.n_sent:z,.0f} {corpus.noun}s"
        if likelihood.sampling_se:
            n += f" (± {decimal(likelihood.perplexity_sampling_se)} from the draw of these)"
        if likelihood.exact:
            return (f"PPL {decimal(likelihood.perplexity)}, exact; over {n}.", *unit_lines(likelihood))
        tail = f" (k̂ > 0.7: {tail_of(likelihood)})" if likelihood.finite else ""
        line = (
            f"PPL {plus_minus(likelihood.elbo_perplexity, likelihood.elbo_perplexity_se)} from the ELBO, "
            f"{plus_minus(likelihood.perplexity, likelihood.perplexity_se)} from K = {likelihood.particles} importance "
            f"samples{tail}; over {n}."
        )
        if likelihood.finite:
            return (line, *unit_lines(likelihood), *stepwise_lines(likelihood, corpus.noun))
        if math.isnan(likelihood.elbo):
            return (line,)
        return (
            line,
            "KL = ∞: the guide puts all its mass on one point, which has no density under the prior, so every bound is "
            "-∞ and says so; only the reconstruction is a number.",
        )

    def monitor(self, subject: Subject, validation: EvaluationSet, *, everything: bool = False) -> Monitor | None:
        """Return what the latents of whole sentences carry, and whether they have collapsed."""
        if not of_sentence(subject.model.latents):
            return None
        number = None if everything else SENTENCES
        return CollapseMonitor(validation, cures=subject.cures, sentences=number, noun=subject.corpus.noun)

    def row(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Rec, KL and -ELBO (nats per sentence), perplexities, mutual information (nats) and active units.

        ``settings``: ``sentences`` of the test split (None: all of it), ``particles`` K of the importance-weighted
        perplexity, ``representation``: sentences behind mutual information and active units (None: all). Perplexities
        are per token, EOS counted and BOS not, from the sums that stand beside them (``rec_sum``, ``kl_sum``,
        ``n_eos``) and the log-weights that are kept in :data:`SCORES`.
        """
        report(f"bounds of the test sentences, K = {settings['particles']}")
        store = None if subject.folder is None else subject.folder / SCORES
        likelihood = subject.evaluate("test", settings["particles"], settings["sentences"], SEED, store=store)
        found: Numbers = {
            "steps": subject.steps,
            "rec": likelihood.rec,
            "kl": likelihood.kl,
            "elbo_negative": -likelihood.elbo,
            "elbo_se": likelihood.elbo_se,
            "iw_negative": -likelihood.iw,
            "iw_se": likelihood.iw_se,
            "ppl_elbo": likelihood.elbo_perplexity,
            "ppl_elbo_se": likelihood.elbo_perplexity_se,
            "ppl": likelihood.perplexity,
            "ppl_se": likelihood.perplexity_se,
            "ppl_sampling_se": likelihood.perplexity_sampling_se,
            "khat_bad": likelihood.khat_bad,
            "khat_median": likelihood.khat_median,
            "particles": likelihood.particles,
            "rec_sum": likelihood.rec_sum,
            "kl_sum": likelihood.kl_sum,
            "iw_sum": likelihood.iw_sum,
            "n_eos": likelihood.n_eos,
            "n_words": likelihood.n_words,
            "n_sent": likelihood.n_sent,
            "sampling_se": likelihood.sampling_se,
            **unit_numbers(likelihood),
        }
        if likelihood.n_steps:
            found |= {
                "kl_per_step": likelihood.kl_per_step,
                "paper_ppl": likelihood.paper_perplexity,
                "step_kl_sum": likelihood.step_kl_sum,
                "n_steps": likelihood.n_steps,
            }
        if likelihood.exact:
            without = ("kl", "elbo_negative", "ppl_elbo", "ppl_elbo_se", "khat_bad", "khat_median")
            found = {key: value for key, value in found.items() if key not in without}
        report("mutual information and active units")
        latents = subject.latents("test", settings["representation"], SEED)
        if latents is not None:
            found |= {key: value for key, value in latents.as_dict().items() if not isinstance(value, list | dict)}
        found |= kl_by_site(subject.model, latents, likelihood)
        return Measured(finite_or_none(found), {})

    def notes(self, results: Mapping[str, Any]) -> list[str]:
        """Say what perplexities are divided by and mutual information cannot pass, of the rows that were measured."""
        rows = [row for row in results["rows"] if row["seeds"] and row["measures"].get("n_eos")]
        if not rows:
            return []
        # An exact row has one particle, whatever the others have.
        sentences, tokens, particles = max(
            tuple(r["measures"][key] for key in ("n_sent", "n_eos", "particles")) for r in rows
        )
        notes = [
            f"{sentences:z,.0f} test sentences, {tokens:z,.0f} scored tokens (EOS counted, BOS not), by which the nats "
            f"of perplexities are divided; the importance-weighted ones are from K = {particles:z,.0f} draws."
        ]
        for row in rows:
            if is_unreliable(row["measures"].get("khat_bad")):
                notes.append(
                    f"{row['title']}: k̂ > 0.7 on {percent(row['measures']['khat_bad'])} of the sentences, so the "
                    "importance-weighted perplexity hangs on a few draws and its error claims no coverage."
                )
        caps: dict[tuple[int, float], list[str]] = {}
        for row in rows:
            if (compared := row["measures"].get("compared")) is not None:
                cap = round(row["measures"]["mutual_information_cap"], 6)
                caps.setdefault((int(compared), cap), []).append(row["title"])
        most = max(caps, default=0)
        for (compared, cap), titles in sorted(caps.items(), reverse=True):
            whose = "" if (compared, cap) == most else f" of {', '.join(titles)}"
            notes.append(
                f"MI{whose} is against the aggregate posterior of {compared:,} of the sentences, and can be "
                f"{decimal(cap, 2)} nats at most."
            )
        return notes


def unit_numbers(likelihood: Likelihood) -> Numbers:
    """Return what the importance-weighted bound is per word between white space and per byte, where that is known."""
    if math.isnan(likelihood.n_bytes):
        return {}
    return {
        "ppl_word": likelihood.word_perplexity,
        "bits_per_byte": likelihood.bits_per_byte,
        "n_spaced": likelihood.n_spaced,
        "n_bytes": likelihood.n_bytes,
    }


def unit_lines(likelihood: Likelihood) -> tuple[str, ...]:
    """Say what it is per word and per byte, where tokens are not just words."""
    if math.isnan(likelihood.n_bytes) or likelihood.n_spaced == likelihood.n_eos or not likelihood.finite:
        return ()
    return (
        f"Per word between white space PPL {decimal(likelihood.word_perplexity)}, "
        f"{decimal(likelihood.bits_per_byte)} bits per byte (the end of a text counts as a word and as a byte), which "
        "other tokenizers can be compared with.",
    )


def kl_by_site(model: Any, latents: LatentFigures | None, likelihood: Likelihood) -> Numbers:
    """Return the KL of each site, nats per sentence and per step where it has some: ``kl_SITE``, ``kl_SITE_per_step``.

    Those of ``latents``; of a lone site that these say nothing of, all the KL that there is. Of several sites of whole
    sentences also ``information_so_far_SITE``, I(x; it and the sites drawn before it), and its active units,
    ``active_units_SITE`` at 0.01 and ``active_units_02_SITE`` at 0.2.
    """
    if latents is None:
        return {
            key: value
            for spec in model.latents
            for key, value in ((f"kl_{spec.name}", likelihood.kl), (f"kl_{spec.name}_per_step", likelihood.kl_per_step))
        }
    found: Numbers = {f"kl_{name}": site.kl for name, site in latents.sites.items()}
    if len(whole := {name: site for name, site in latents.sites.items() if isinstance(site, SiteFigures)}) > 1:
        for name, site in whole.items():
            found |= {
                f"information_so_far_{name}": site.so_far,
                f"active_units_{name}": site.active_units,
                f"active_units_02_{name}": site.active_units_02,
            }
    stepwise = {name: site for name, site in latents.sites.items() if isinstance(site, StepFigures)}
    return {**found, **{f"kl_{name}_per_step": site.kl_per_step for name, site in stepwise.items()}}


def stepwise_lines(likelihood: Likelihood, noun: str) -> tuple[str, ...]:
    """Return the perplexity of a KL that is averaged over latent steps, and why it is no bound; nothing without steps.

    Where a text has one step of the latents it is the perplexity from the ELBO.
    """
    if not likelihood.n_steps:
        return ()
    steps = decimal(likelihood.n_steps / likelihood.n_sent, 2)
    return (
        f"paper_ppl {decimal(likelihood.paper_perplexity)}, which is no bound: it charges a {noun} for one average "
        f"latent step ({decimal(likelihood.kl_per_step)} nats) where it has {steps}, as some papers print it.",
    )


def token_cross_entropy(train: TokenTable, data: TokenTable) -> float:
    """-(1/N) Σ_sentences ln p(x), nats per sentence, p(x) = Π_i p(x_i) · p(EOS) with the frequencies of ``train``.

    In closed form from the counts of the tokens (specification 5.i); infinite where ``train`` lacks a token of
    ``data``.
    """
    of_train, of_data = _token_counts(train), _token_counts(data)
    size = max(len(of_train), len(of_data))
    of_train, of_data = (np.pad(counts, (0, size - len(counts))) for counts in (of_train, of_data))
    total = of_train.sum() + len(train)
    used = of_data > 0
    with np.errstate(divide="ignore"):
        log_p = np.log(of_train[used] / total)
    return float(-(of_data[used] @ log_p) / len(data) - np.log(len(train) / total))


def _token_counts(table: TokenTable) -> NDArray[np.float64]:
    """Return how often each id occurs, up to the highest."""
    counts = np.zeros(0)
    for part in table.parts():
        of_part = np.bincount(part.ids)
        counts = np.pad(counts, (0, max(0, len(of_part) - len(counts))))
        counts[: len(of_part)] += of_part
    return counts
