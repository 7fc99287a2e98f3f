"""The sections that every kind of text has: bounds beside references, what the latents carry, samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..data.corpus import Corpus
from ..data.shares import Shares, shares_of
from ..evaluation.generation import is_conditional
from ..evaluation.likelihood import Likelihood
from ..evaluation.report import Row, Section, latent_sections
from .base import Evaluation, Measure, ObjectiveBound, Subject


@dataclass(frozen=True)
class References:
    """What bounds are compared with; nats per text, EOS scored.

    ``letters``: cross-entropy of an i.i.d. model of letters (tokens, for sentences) and EOS, maximum likelihood on
    train; ``entropy``: of the split itself, below which no model's cross-entropy can fall.
    """

    letters: float
    entropy: float


class TextMeasure(Measure):
    """The sections that every kind of text has: bounds beside references, what the latents carry, samples.

    Subclasses say what texts are compared with (:meth:`references`), how they were taken from the split
    (:meth:`taken`), and how samples are shown.
    """

    shown: ClassVar[int]
    between: ClassVar[str]

    def references(self, corpus: Corpus, split: str) -> References:
        """Return what bounds on a split are compared with."""
        raise NotImplementedError(f"{type(self).__name__}: define references(corpus, split)")

    def taken(self, likelihood: Likelihood, corpus: Corpus) -> str:
        """Return which texts of the split were scored."""
        raise NotImplementedError(f"{type(self).__name__}: define taken(likelihood, corpus)")

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """Bounds, latents, and samples where some are asked for."""
        figures = subject.latents(evaluation.split, evaluation.limit, evaluation.seed)
        found = [self.bounds(subject, evaluation), *latent_sections(figures, subject.cures)]
        if evaluation.samples:
            found.append(self.samples(subject, evaluation))
        return found

    def bounds(self, subject: Subject, evaluation: Evaluation) -> Section:
        """Bounds, their parts and references; nats per text. Where nothing is latent, ln p(w) in their place."""
        found, corpus = evaluation.likelihood, subject.corpus
        references = self.references(corpus, evaluation.split)
        conditional = is_conditional(subject.model)
        rows = bound_rows(found, evaluation.other, subject.model.latents)
        rows += reference_rows(references, corpus.symbol, conditional=conditional)
        shares = shares_of(corpus.splits[evaluation.split])
        latents = ", ".join(spec.name for spec in subject.model.latents)
        length = f"{found.n_eos / found.n_sent:.2f} scored tokens a {corpus.noun}."
        line = f"Nats per {corpus.noun}, EOS scored, over {self.taken(found, corpus)}; {length}"
        if not found.exact:
            line += f" Standard errors are of the draws of {latents}."
        return Section(
            f"{'Log-likelihood of' if found.exact else 'Bounds on'} the {evaluation.split} {corpus.noun}s",
            ("quantity", f"nats per {corpus.noun}", "Monte-Carlo s.e."),
            tuple(rows),
            (line, *self.perplexities(found), *share_lines(shares, corpus), *unknown_reference(references, corpus)),
            self.asides(found),
            bound_values(found, references, evaluation.other) | share_values(shares),
        )

    def perplexities(self, likelihood: Likelihood) -> tuple[str, ...]:
        """Return the lines on perplexity; none by default."""
        return ()

    def asides(self, likelihood: Likelihood) -> tuple[str, ...]:
        """Return the lines that only a terminal shows; none by default."""
        return ()

    def samples(self, subject: Subject, evaluation: Evaluation) -> Section:
        """Draw texts from the model, and how many of them are new or cut off."""
        drawn = subject.samples(evaluation.samples, evaluation.seed)
        counts = f"distinct: {drawn.unique:.1%} · cut off without EOS: {drawn.unfinished}"
        return Section(
            f"Samples from the {'model' if evaluation.likelihood.exact else 'prior'} ({drawn.drawn:,} drawn)",
            lines=(
                f"{subject.corpus.noun}s of the training list: {drawn.in_list:.1%} · {counts}",
                "> " + self.between.join(text or "∅" for text in drawn.texts[: self.shown]),
            ),
            values={"samples": {name: value for name, value in asdict(drawn).items() if name != "texts"}},
        )


def bound_rows(likelihood: Likelihood, other: ObjectiveBound | None, latents: Sequence[Any]) -> list[Row]:
    """Name, value and Monte-Carlo standard error of each bound, as text; nats per text."""
    k, names = likelihood.particles, ", ".join(spec.name for spec in latents)
    further = [] if other is None else [(f"bound of {other.name}", f"{other.bound:z.3f}", f"{other.error:.3f}")]
    if likelihood.exact:
        return [("log-likelihood ln p(w): nothing is latent", f"{likelihood.iw:z.3f}", "exact"), *further]
    return [
        ("ELBO", f"{likelihood.elbo:z.3f}", _error(likelihood.elbo_se, k)),
        (f"importance-weighted bound, K = {k}", f"{likelihood.iw:z.3f}", _error(likelihood.iw_se, k)),
        *further,
        ("KL(q ‖ p)", f"{likelihood.kl:z.3f}", ""),
        (f"reconstruction E_q[ln p(w | {names})]", f"{-likelihood.rec:z.3f}", ""),
    ]


def _error(value: float, particles: int) -> str:
    """Return a standard error as text; one draw says nothing of its spread, and a bound of -∞ has none."""
    if math.isnan(value):
        return "unknown (K = 1)" if particles == 1 else ""
    return f"{value:z.3f}"


def reference_rows(references: References, symbol: str, *, conditional: bool = False) -> list[Row]:
    """Return what bounds are compared with, as text; the entropy of the texts is no limit for a model of a source."""
    iid = (f"i.i.d. {symbol} model ({symbol}s and EOS)", f"{-references.letters:z.3f}", "exact")
    entropy = ("entropy of the split: no model can pass", f"{-references.entropy:z.3f}", "exact")
    known: list[Row] = [iid] if math.isfinite(references.letters) else []
    return known if conditional else [*known, entropy]


def unknown_reference(references: References, corpus: Corpus) -> tuple[str, ...]:
    """Say why the reference model is not shown, where it gives some text no probability."""
    if math.isfinite(references.letters):
        return ()
    return (
        f"The i.i.d. {corpus.symbol} model is left out: these texts have a {corpus.symbol} that train never has, so "
        "that it gives them no probability.",
    )


def share_lines(shares: Shares | None, corpus: Corpus) -> tuple[str, ...]:
    """Say what of the split is not what its texts were; nothing where all of it is."""
    if shares is None:
        return ()
    return (
        f"Of the split {shares.unknown:.2%} of the {corpus.symbol}s are <unk>; too long were {shares.truncated:.2%} of "
        f"the {corpus.noun}s, which were truncated, and {shares.dropped:.2%}, which were dropped.",
    )


def share_values(shares: Shares | None) -> dict[str, float]:
    """Return the shares as plain values, by name."""
    return {} if shares is None else {f"{name}_share": value for name, value in asdict(shares).items()}


def bound_values(likelihood: Likelihood, references: References, other: ObjectiveBound | None) -> dict[str, Any]:
    """Bounds, their parts and references as plain values."""
    values: dict[str, Any] = {
        **asdict(likelihood),
        "iw_per_token": likelihood.iw_per_token,
        "iw_sum": likelihood.iw_sum,
        "perplexity": likelihood.perplexity,
        "elbo_perplexity": likelihood.elbo_perplexity,
        "letter_model": -references.letters,
        "split_entropy": references.entropy,
    }
    if other is not None:
        values |= {"objective": other.name, "objective_bound": other.bound, "objective_bound_se": other.error}
    return values
