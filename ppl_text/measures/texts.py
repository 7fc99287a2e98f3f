"""The sections that every kind of text has: bounds beside references, what the latents carry, samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ..core.errors import RETRAIN, DivergedError
from ..core.printing import decimal, percent
from ..data.corpus import Corpus, Split
from ..data.shares import Shares, shares_of
from ..evaluation.likelihood import Likelihood
from ..evaluation.report import Row, Section, latent_sections
from ..evaluation.storytelling import decodes_from_guide, is_conditional
from ..metrics.words import entropy, merged_counts
from .base import Evaluation, Measure, ObjectiveBound, Subject
from .views import khat_pictures, plane_sections, reconstruction_sections


@dataclass(frozen=True)
class References:
    """What bounds are compared with; nats per text, EOS scored.

    ``letters``: cross-entropy of an i.i.d. model of letters (tokens, for sentences) and EOS, maximum likelihood on
    train, NaN where train is not there; ``entropy``: of the split itself (:func:`split_entropy`), below which no
    model's cross-entropy of the whole split can fall; ``telling``: whether any text repeats, so that the entropy is
    more than the number of texts.
    """

    letters: float
    entropy: float
    telling: bool = True


class TextMeasure(Measure):
    """The sections that every kind of text has: bounds beside references, what the latents carry, samples.

    Subclasses say which i.i.d. model texts are compared with (:meth:`symbol_cross_entropy`), how they were taken from
    the split (:meth:`taken`), how many samples are ``shown``, and whether ``in_line`` or each on its own.
    """

    shown: ClassVar[int]
    in_line: ClassVar[bool] = False

    def symbol_cross_entropy(self, train: Split, data: Split) -> float:
        """Return that of an i.i.d. model of the symbols of ``train`` on ``data``, nats per text, EOS scored."""
        raise NotImplementedError(f"{type(self).__name__}: define symbol_cross_entropy(train, data)")

    def references(self, corpus: Corpus, split: str, *, conditional: bool = False) -> References:
        """Return what bounds on a split are compared with; ``conditional``: the model reads the sources."""
        train, data = corpus.splits.get("train"), corpus.splits[split]
        symbols = math.nan if train is None else self.symbol_cross_entropy(train, data)
        return References(symbols, *split_entropy(data, conditional))

    def taken(self, likelihood: Likelihood, corpus: Corpus) -> str:
        """Return which texts of the split were scored."""
        raise NotImplementedError(f"{type(self).__name__}: define taken(likelihood, corpus)")

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """Bounds, latents, and reconstructions and samples where some are asked for."""
        figures = subject.latents(evaluation.split, evaluation.limit, evaluation.seed)
        found = [self.bounds(subject, evaluation), *latent_sections(figures, subject.cures, subject.corpus.noun)]
        found += plane_sections(subject, evaluation)
        if evaluation.samples:
            found += [*reconstruction_sections(subject, evaluation), self.samples(subject, evaluation)]
        return found

    def bounds(self, subject: Subject, evaluation: Evaluation) -> Section:
        """Bounds, their parts and references; nats per text. Where nothing is latent, ln p(w) in their place."""
        found, corpus = evaluation.likelihood, subject.corpus
        references = self.references(corpus, evaluation.split, conditional=is_conditional(subject.model))
        rows = bound_rows(found, evaluation.other, subject.model.latents)
        rows += reference_rows(references, corpus.symbol)
        shares = shares_of(corpus.splits[evaluation.split])
        lines = (*self.perplexities(found, corpus), *doubt_lines(found, corpus.noun), *diverged_lines(found))
        of_split = (*share_lines(shares, corpus), *repeat_lines(corpus, evaluation.split))
        latents = ", ".join(spec.name for spec in subject.model.latents)
        length = f"{decimal(found.n_eos / found.n_sent, 2)} scored tokens a {corpus.noun}."
        line = f"Nats per {corpus.noun}, EOS scored, over {self.taken(found, corpus)}; {length}"
        if not found.exact:
            line += f" Standard errors are of the draws of {latents}, around the expectation of each figure."
        return Section(
            f"{'Log-likelihood of' if found.exact else 'Bounds on'} the {evaluation.split} {corpus.noun}s",
            ("quantity", f"nats per {corpus.noun}", "Monte-Carlo s.e.", *([] if found.exact else ["k̂ > 0.7"])),
            tuple(rows) if found.exact else tuple((*row, "")[:4] for row in rows),
            (line, *lines, *of_split, *unknown_reference(references, corpus)),
            self.asides(found),
            bound_values(found, references, evaluation.other) | share_values(shares),
            pictures=khat_pictures(subject, evaluation),
        )

    def perplexities(self, likelihood: Likelihood, corpus: Corpus) -> tuple[str, ...]:
        """Return the lines on perplexity; none by default."""
        return ()

    def asides(self, likelihood: Likelihood) -> tuple[str, ...]:
        """Return the lines that only a terminal shows; none by default."""
        return ()

    def samples(self, subject: Subject, evaluation: Evaluation) -> Section:
        """Draw texts from the model, and how many of them are new or cut off; say so where none can be drawn."""
        try:
            drawn = subject.samples(evaluation.samples, evaluation.seed)
        except DivergedError as error:
            return Section("Samples", lines=(f"None: {error}.",), values={"samples": None})
        shown = tuple(text or "∅" for text in drawn.texts[: self.shown])
        counts = f"distinct: {percent(drawn.unique, 1)} · cut off without EOS: {drawn.unfinished}"
        return Section(
            beside=bool(subject.model.latents) and not is_conditional(subject.model),
            title=f"Samples from the {drawn_from(subject.model)} ({drawn.drawn:,} drawn)",
            lines=(f"{subject.corpus.noun}s of the training list: {percent(drawn.in_list, 1)} · {counts}",),
            quotes=(" ".join(shown),) if self.in_line else shown,
            values={"samples": {name: value for name, value in asdict(drawn).items() if name != "texts"}},
        )


def drawn_from(model: Any) -> str:
    """Return what the latents of samples are drawn from."""
    if not model.latents:
        return "model"
    return "posterior given the source" if decodes_from_guide(model) else "prior"


def bound_rows(likelihood: Likelihood, other: ObjectiveBound | None, latents: Sequence[Any]) -> list[Row]:
    """Name, value and Monte-Carlo standard error of each bound, as text, k̂ beside it; nats per text."""
    k, names = likelihood.particles, ", ".join(spec.name for spec in latents)
    further = [] if other is None else [(f"bound of {other.name}", decimal(other.bound), decimal(other.error))]
    if likelihood.exact:
        return [("log-likelihood ln p(w): nothing is latent", decimal(likelihood.iw), "exact"), *further]
    weighted = decimal(likelihood.iw), _error(likelihood.iw_se, k), tail_of(likelihood)
    return [
        ("ELBO", decimal(likelihood.elbo), _error(likelihood.elbo_se, k)),
        (f"importance-weighted bound, K = {k}", *weighted),
        *further,
        ("KL(q ‖ p)", decimal(likelihood.kl), ""),
        (f"reconstruction E_q[ln p(w | {names})]", decimal(-likelihood.rec), ""),
    ]


def _error(value: float, particles: int) -> str:
    """Return a standard error as text; one draw says nothing of its spread, and a bound of -∞ has none."""
    if math.isnan(value):
        return "unknown (K = 1)" if particles == 1 else ""
    return decimal(value)


def tail_of(likelihood: Likelihood) -> str:
    """Return the share of the texts with k̂ > 0.7, and what it says of an error; a bound of -∞ has none."""
    if not likelihood.finite:
        return ""
    return percent(likelihood.khat_bad) + (", unreliable" if likelihood.unreliable else "")


def doubt_lines(likelihood: Likelihood, noun: str) -> tuple[str, ...]:
    """Say what it means where the importance-weighted figures are unreliable."""
    if not likelihood.unreliable:
        return ()
    return (
        f"k̂ > 0.7 on {percent(likelihood.khat_bad)} of the {noun}s (median {decimal(likelihood.khat_median, 2)}): a "
        "few draws carry the weight there, so what is importance-weighted is loose and its error claims no coverage; "
        "a guide nearer to the posterior helps, more --particles little.",
    )


def diverged_lines(likelihood: Likelihood) -> tuple[str, ...]:
    """Say what it means where a bound is no number."""
    if not math.isnan(likelihood.elbo):
        return ()
    part = "the KL" if math.isnan(likelihood.kl) else "the reconstruction"
    return (f"No bound is a number, since {part} is none: the weights have diverged. {RETRAIN}.",)


def split_entropy(split: Split, conditional: bool) -> tuple[float, bool]:
    """Return H(x) of a split's texts by their counts, nats, and whether it tells more than how many there are.

    Texts with the same ids are one x, also where they have become equal by ``<unk>`` or by truncation. With shares p of
    the different x, a model's mean log-probability of the whole split is Σ p ln p̂ ≤ Σ p ln p = -H(x). Where all differ
    that is -ln N: true, and no limit that a model of sentences comes near. ``conditional``: it is H(x | source)
    instead, which is 0 where no source stands beside two texts.
    """
    if not conditional or split.source is None:
        digests = np.concatenate(list(Split(split.target).digests()))
        _, places = np.unique(digests, return_inverse=True)
        counts = np.bincount(places, weights=split.counts.astype(np.float64))
        return entropy(counts), bool(counts.max() > 1)
    table = split.target.table
    texts = [table.tokens(row) for row in range(len(table))]
    sources = [split.source.table.tokens(row) for row in range(len(table))]
    pairs = merged_counts(zip(sources, texts, strict=True), split.counts)
    left = max(0.0, entropy(pairs) - entropy(merged_counts(sources, split.counts)))
    return left, left > 1e-9


def reference_rows(references: References, symbol: str) -> list[Row]:
    """Return what bounds are compared with, as text; the entropy of the split where it tells something."""
    iid = (f"i.i.d. {symbol} model ({symbol}s and EOS)", decimal(-references.letters), "exact")
    most = ("most on the whole split: minus its entropy", decimal(-references.entropy), "exact")
    return [*([iid] if math.isfinite(references.letters) else []), *([most] if references.telling else [])]


def unknown_reference(references: References, corpus: Corpus) -> tuple[str, ...]:
    """Say why the reference model is not shown, where it gives some text no probability."""
    if math.isfinite(references.letters):
        return ()
    why = f"these texts have a {corpus.symbol} that train never has, so that it gives them no probability"
    if math.isnan(references.letters):
        why = "the training texts, which it is made of, are not there"
    return (f"The i.i.d. {corpus.symbol} model is left out: {why}.",)


def share_lines(shares: Shares | None, corpus: Corpus) -> tuple[str, ...]:
    """Say what of the split is not what its texts were; nothing where all of it is."""
    if shares is None:
        return ()
    unknown, truncated, dropped = (percent(share, 2) for share in (shares.unknown, shares.truncated, shares.dropped))
    return (
        f"Of the split {unknown} of the {corpus.symbol}s are <unk>; too long were {truncated} of the {corpus.noun}s, "
        f"which were truncated, and {dropped}, which were dropped.",
    )


def repeat_lines(corpus: Corpus, split: str) -> tuple[str, ...]:
    """Say how many texts of the split stand in others too; nothing where none does."""
    found = [f"{repeat.texts:,} stand in {repeat.other} too" for repeat in corpus.repeats if repeat.split == split]
    size = len(corpus.splits[split])
    return (f"Of its {size:,} {corpus.noun}s {' and '.join(found)}, as they are scored.",) if found else ()


def share_values(shares: Shares | None) -> dict[str, float]:
    """Return the shares as plain values, by name."""
    return {} if shares is None else {f"{name}_share": value for name, value in asdict(shares).items()}


def bound_values(likelihood: Likelihood, references: References, other: ObjectiveBound | None) -> dict[str, Any]:
    """Bounds, their parts and references as plain values."""
    without = {f.name for f in fields(likelihood) if likelihood.exact and f.name.startswith("khat")} | {"tails"}
    if math.isnan(likelihood.n_bytes):
        without |= {"n_spaced", "n_bytes"}
    values: dict[str, Any] = {
        **{name: value for name, value in asdict(likelihood).items() if name not in without},
        "iw_per_token": likelihood.iw_per_token,
        "iw_sum": likelihood.iw_sum,
        "perplexity": likelihood.perplexity,
        "perplexity_se": likelihood.perplexity_se,
        "perplexity_sampling_se": likelihood.perplexity_sampling_se,
        "elbo_perplexity": likelihood.elbo_perplexity,
        "elbo_perplexity_se": likelihood.elbo_perplexity_se,
        "unreliable": likelihood.unreliable,
        "letter_model": -references.letters,
        "split_entropy": references.entropy,
    }
    if not math.isnan(likelihood.n_bytes):
        values |= {"ppl_word": likelihood.word_perplexity, "bits_per_byte": likelihood.bits_per_byte}
    if likelihood.n_steps:
        values |= {"kl_per_step": likelihood.kl_per_step, "paper_ppl": likelihood.paper_perplexity}
    if other is not None:
        values |= {"objective": other.name, "objective_bound": other.bound, "objective_bound_se": other.error}
    return values
