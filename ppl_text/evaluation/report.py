"""The report of a run, in Markdown, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..core.atomic import finite_or_none
from .collapse import verdict_of
from .latents import LatentFigures
from .likelihood import Likelihood
from .words import WordReferences, WordSamples


def bound_rows(likelihood: Likelihood, references: WordReferences) -> list[tuple[str, str, str]]:
    """Name, value and Monte-Carlo standard error of each quantity, as text; nats per word or sentence.

    Where nothing is latent, one row takes the place of the bounds and their parts: ln p(w), exact.
    """
    k, latent = likelihood.particles, "h" if references.unit == "word" else "z"
    bounds = [
        ("ELBO", f"{likelihood.elbo:z.3f}", _error(likelihood.elbo_se, k)),
        (f"importance-weighted bound, K = {k}", f"{likelihood.iw:z.3f}", _error(likelihood.iw_se, k)),
        ("KL(q ‖ p)", f"{likelihood.kl:z.3f}", ""),
        (f"reconstruction E_q[ln p(w | {latent})]", f"{-likelihood.rec:z.3f}", ""),
    ]
    exact = [("log-likelihood ln p(w): nothing is latent", f"{likelihood.iw:z.3f}", "exact")]
    return [
        *(exact if likelihood.exact else bounds),
        (f"i.i.d. {references.symbol} model ({references.symbol}s and EOS)", f"{-references.letters:z.3f}", "exact"),
        ("entropy of the split: no model can pass", f"{-references.entropy:z.3f}", "exact"),
    ]


def _error(value: float, particles: int) -> str:
    """A standard error as text; one draw says nothing of its spread, and a bound of -∞ has none."""
    if math.isnan(value):
        return "unknown (K = 1)" if particles == 1 else ""
    return f"{value:z.3f}"


def perplexity_lines(likelihood: Likelihood) -> list[str]:
    """Perplexities of sentences with what they are normalised by, and why they are infinite where they are."""
    n = f"{likelihood.n_eos:,.0f} scored tokens (EOS counted, BOS not) in {likelihood.n_sent:,.0f} sentences"
    if likelihood.exact:
        return [f"PPL {likelihood.perplexity:z.3f}, exact; over {n}."]
    lines = [
        f"PPL {likelihood.elbo_perplexity:z.3f} from the ELBO, {likelihood.perplexity:z.3f} from K = "
        f"{likelihood.particles} importance samples; over {n}."
    ]
    if not likelihood.finite:
        lines.append(
            "KL = ∞: the guide puts all its mass on one point, which has no density under the prior, so every bound is "
            "-∞ and says so; only the reconstruction is a number."
        )
    return lines


def latent_rows(figures: LatentFigures) -> list[tuple[str, str]]:
    """What the latents carry, as text."""
    units, dimensions = figures.latent_units, sorted(figures.kl_by_dimension, reverse=True)
    active = [("0.01", figures.active_units), ("0.2", figures.active_units_02)]
    return [
        ("KL(q(z given x) ‖ p(z))", f"{figures.kl:z.3f} nats"),
        (
            "mutual information I(x; z)",
            f"{figures.mutual_information:z.3f} nats; cap {figures.mutual_information_cap:z.3f}, the entropy of the "
            f"{figures.compared:,} sentences compared",
        ),
        ("KL(q(z) ‖ p(z)) of their aggregate", f"{figures.marginal_kl:z.3f} nats"),
        *((f"units active at {at}", f"{n} of {units}") for at, n in active if n is not None),
        *([("KL by dimension, largest first", " ".join(f"{kl:.2f}" for kl in dimensions))] if dimensions else []),
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a ``|`` within a cell is escaped, a line break becomes a space."""
    cells = [[" ".join(cell.splitlines()).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    first, *others = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([first, "|" + " --- |" * len(header), *others])


def sampling_line(likelihood: Likelihood, unit: str = "word") -> str:
    """How the bounds were measured, in one sentence."""
    n, error = f"{likelihood.n_sent:,.0f}", f"± {likelihood.sampling_se:.3f} from the draw"
    drawn = f"{n} {unit}s drawn from the split" + (" ∝ counts" if unit == "word" else "") + f" ({error})"
    latent = "h" if unit == "word" else "z"
    every = f"every type of the split, weighted by its count ({n} tokens)" if unit == "word" else f"all {n} {unit}s"
    return (
        f"Nats per {unit}, EOS scored, over {drawn if likelihood.sampling_se else every}; "
        f"{likelihood.n_eos / likelihood.n_sent:.2f} scored tokens a {unit}."
        + ("" if likelihood.exact else f" Standard errors are of the draws of {latent}.")
    )


def run_report(
    facts: Mapping[str, str],
    split: str,
    likelihood: Likelihood,
    references: WordReferences,
    samples: WordSamples,
    notes: Sequence[str],
    shown: int = 60,
    latents: Sequence[str] = (),
) -> str:
    """``report.md``: what was run, the bounds, what the latents carry (:func:`latent_section`), samples, notes."""
    curves, unit = "log-likelihood" if likelihood.exact else "bound and KL", references.unit
    gap = " " if unit == "word" else "\n>\n> "
    parts = [
        f"# {facts['run']}",
        table(["what", "value"], [[k, v] for k, v in facts.items() if k != "run"]),
        f"## {'Log-likelihood of' if likelihood.exact else 'Bounds on'} the {split} {unit}s",
        table(["quantity", f"nats per {unit}", "Monte-Carlo s.e."], bound_rows(likelihood, references)),
        sampling_line(likelihood, unit),
        *(perplexity_lines(likelihood) if unit == "sentence" else []),
        *latents,
        f"## Samples from the {'model' if likelihood.exact else 'prior'} ({samples.drawn:,} drawn)",
        f"{unit.capitalize()}s of the training list: {samples.in_list:.1%} · distinct: {samples.unique:.1%} · "
        f"cut off without EOS: {samples.unfinished}",
        "> " + gap.join(word or "∅" for word in samples.words[: shown if unit == "word" else 10]),
        f"## Training\n\n![{curves} over training](figures/training.png)",
    ]
    if notes:
        parts += ["## Notes on the data", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def latent_section(figures: LatentFigures | None, recipe: str = "") -> list[str]:
    """The report's section on the latents; nothing where none belongs to a whole sentence."""
    if figures is None:
        return []
    said = verdict_of(figures, recipe)
    return ["## What the latents carry", table(["quantity", "value"], latent_rows(figures)), said[0].upper() + said[1:]]


def results(
    likelihood: Likelihood,
    references: WordReferences,
    samples: WordSamples | None = None,
    latents: LatentFigures | None = None,
    recipe: str = "",
) -> dict[str, Any]:
    """The same figures as plain values, for ``results.json`` and ``--json``; what is no finite number is None."""
    values: dict[str, Any] = {
        **asdict(likelihood),
        "iw_per_token": likelihood.iw_per_token,
        "iw_sum": likelihood.iw_sum,
        "perplexity": likelihood.perplexity,
        "elbo_perplexity": likelihood.elbo_perplexity,
        "letter_model": -references.letters,
        "split_entropy": references.entropy,
    }
    if latents is not None:
        values |= {**latents.as_dict(), "latents": verdict_of(latents, recipe)}
    if samples is not None:
        values["samples"] = {k: v for k, v in asdict(samples).items() if k != "words"}
    return finite_or_none(values)
