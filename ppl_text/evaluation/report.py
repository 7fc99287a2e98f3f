"""The report of a run, in Markdown, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .likelihood import Likelihood
from .words import WordReferences, WordSamples


def bound_rows(likelihood: Likelihood, references: WordReferences) -> list[tuple[str, str, str]]:
    """Name, value and Monte-Carlo standard error of each quantity, as text; nats per word or sentence.

    Where nothing is latent, one row takes the place of the bounds and their parts: ln p(w), exact.
    """
    k = likelihood.particles
    bounds = [
        ("ELBO", f"{likelihood.elbo:.3f}", _error(likelihood.elbo_se)),
        (f"importance-weighted bound, K = {k}", f"{likelihood.iw:.3f}", _error(likelihood.iw_se)),
        ("KL(q ‖ p)", f"{likelihood.kl:.3f}", ""),
        ("reconstruction E_q[ln p(w | h)]", f"{-likelihood.rec:.3f}", ""),
    ]
    exact = [("log-likelihood ln p(w): nothing is latent", f"{likelihood.iw:.3f}", "exact")]
    return [
        *(exact if likelihood.exact else bounds),
        (f"i.i.d. {references.symbol} model ({references.symbol}s and EOS)", f"{-references.letters:.3f}", "exact"),
        ("entropy of the split: no model can pass", f"{-references.entropy:.3f}", "exact"),
    ]


def _error(value: float) -> str:
    """A standard error as text; one draw says nothing of its spread."""
    return "unknown (K = 1)" if math.isnan(value) else f"{value:.3f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a ``|`` within a cell is escaped, a line break becomes a space."""
    cells = [[" ".join(cell.splitlines()).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    first, *others = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([first, "|" + " --- |" * len(header), *others])


def sampling_line(likelihood: Likelihood, unit: str = "word") -> str:
    """How the bounds were measured, in one sentence."""
    n, error = f"{likelihood.n_sent:,.0f}", f"± {likelihood.sampling_se:.3f} from the draw"
    drawn = f"{n} {unit}s drawn from the split" + (" ∝ counts" if unit == "word" else "") + f" ({error})"
    every = f"every type of the split, weighted by its count ({n} tokens)" if unit == "word" else f"all {n} {unit}s"
    return (
        f"Nats per {unit}, EOS scored, over {drawn if likelihood.sampling_se else every}; "
        f"{likelihood.n_eos / likelihood.n_sent:.2f} scored tokens a {unit}."
        + ("" if likelihood.exact else " Standard errors are of the draws of h.")
    )


def run_report(
    facts: Mapping[str, str],
    split: str,
    likelihood: Likelihood,
    references: WordReferences,
    samples: WordSamples,
    notes: Sequence[str],
    shown: int = 60,
) -> str:
    """``report.md``: what was run, the bounds, samples, and what to run next."""
    curves, unit = "log-likelihood" if likelihood.exact else "bound and KL", references.unit
    gap = " " if unit == "word" else "\n>\n> "
    parts = [
        f"# {facts['run']}",
        table(["what", "value"], [[k, v] for k, v in facts.items() if k != "run"]),
        f"## {'Log-likelihood of' if likelihood.exact else 'Bounds on'} the {split} {unit}s",
        table(["quantity", f"nats per {unit}", "Monte-Carlo s.e."], bound_rows(likelihood, references)),
        sampling_line(likelihood, unit),
        f"## Samples from the {'model' if likelihood.exact else 'prior'} ({samples.drawn:,} drawn)",
        f"{unit.capitalize()}s of the training list: {samples.in_list:.1%} · distinct: {samples.unique:.1%} · "
        f"cut off without EOS: {samples.unfinished}",
        "> " + gap.join(word or "∅" for word in samples.words[: shown if unit == "word" else 10]),
        f"## Training\n\n![{curves} over training](figures/training.png)",
    ]
    if notes:
        parts += ["## Notes on the data", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def results(likelihood: Likelihood, references: WordReferences, samples: WordSamples | None = None) -> dict[str, Any]:
    """The same figures as plain values, for ``results.json`` and ``--json``; what is no finite number is None."""
    values: dict[str, Any] = {
        **asdict(likelihood),
        "iw_per_token": likelihood.iw_per_token,
        "perplexity": likelihood.perplexity,
        "letter_model": -references.letters,
        "split_entropy": references.entropy,
    }
    if samples is not None:
        values["samples"] = {k: v for k, v in asdict(samples).items() if k != "words"}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
