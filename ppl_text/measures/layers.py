"""Several latents of a text: what a paper prints of them, averaged over layers, beside the bounds, which sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.atomic import finite_or_none
from ..core.batch import device_of
from ..core.latents import of_sentence
from ..core.printing import decimal
from ..data.corpus import Corpus
from ..evaluation.layers import PARTICLES, AveragedFigures, averaged_figures
from ..evaluation.report import Section
from ..evaluation.sentences import common_sentences, evaluation_set
from .base import SEED, Evaluation, Measure, Measured, Numbers, Subject
from .sentences import SentenceMeasure
from .written import written_notes


class LayerMeasure(Measure):
    """Figures averaged over latents of the whole text, beside the bounds; nothing where there are not several."""

    name = "layers"
    alone = False

    def applies(self, corpus: Corpus) -> bool:
        """Apply to texts that count once: how many latents there are is a matter of the model."""
        return not corpus.weighted

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """The averaged figures beside the valid ones, where a model has several latents of the whole text."""
        if len(of_sentence(subject.model.latents)) < 2:
            return []
        found = figures_of(subject, evaluation.split, evaluation.limit, evaluation.seed)
        valid = evaluation.likelihood
        rows = (
            ("KL(q ‖ p), nats", decimal(valid.kl), decimal(found.kl)),
            ("Rec + KL, nats", decimal(-valid.elbo), decimal(found.elbo_negative)),
            (
                "PPL from importance samples",
                f"{decimal(valid.perplexity)} (K = {valid.particles})",
                f"{decimal(found.perplexity)} (K = {found.particles})",
            ),
        )
        line = (
            f"The right column divides the terms of the {found.layers} latents by {found.layers}, and nats by "
            "tokens with BOS and EOS, as some papers print it: no bounds, and no figures to select models by."
        )
        title = f"Summed and averaged over the latents of the {evaluation.split} {subject.corpus.noun}s"
        header = ("figure", "sum: the bound", "mean over latents: no bound")
        return [Section(title, header, rows, (line,), (), numbers_of(found))]

    def row(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Figures of a sentence model, and those that are averaged over latents of the whole text.

        ``settings`` are those of :meth:`SentenceMeasure.row <ppl_text.measures.sentences.SentenceMeasure.row>`, whose
        numbers come first; ``paper_particles`` K of ``paper_ppl`` (30 where it is not there). In addition
        ``kl_mean_layers``, ``paper_elbo_negative`` (nats a sentence), ``paper_ppl``, and ``active_units_mean`` and
        ``active_units_02_mean``, averaged over the latents. A model with one latent or none has them, too: averaged
        over one, and divided by the same tokens, as the table's other rows are.
        """
        bounds = SentenceMeasure().row(subject, settings, report)
        report("figures averaged over latents")
        particles = settings.get("paper_particles", PARTICLES)
        found = figures_of(subject, "test", settings["sentences"], SEED, particles)
        names = [spec.name for spec in of_sentence(subject.model.latents)]
        averaged = {**numbers_of(found), **active_means(bounds.numbers, names)}
        return bounds._replace(numbers={**bounds.numbers, **finite_or_none(averaged)})

    def notes(self, results: Mapping[str, Any]) -> list[str]:
        """Say what sentences' notes say, and what the averaged figures are."""
        found = SentenceMeasure().notes(results)
        if not found:
            return []
        return [
            *found,
            "KL, -ELBO and perplexities are those of bounds: the KLs of all latents are summed. paper_ppl, "
            "kl_mean_layers and paper_elbo_negative divide them by the number of latents and nats by tokens with BOS "
            "and EOS, as published; they are no bounds. Active units of a latent of each layer are averaged over the "
            "layers where the column says mean.",
            *written_notes(results),
        ]


def figures_of(
    subject: Subject, split: str, limit: int | None, seed: int, particles: int = PARTICLES
) -> AveragedFigures:
    """Return the averaged figures of a split, or of ``limit`` texts drawn from it."""
    rows = evaluation_set(subject.corpus, split, limit, seed)
    data = common_sentences(rows, device_of(subject.model))
    return averaged_figures(subject.model, subject.guide, data, particles=particles, seed=seed)


def numbers_of(found: AveragedFigures) -> Numbers:
    """Return the figures by name; the KL only where there is a latent."""
    averaged = {"kl_mean_layers": found.kl, "paper_elbo_negative": found.elbo_negative} if found.layers else {}
    return {**averaged, "paper_ppl": found.perplexity, "paper_particles": found.particles}


def active_means(numbers: Mapping[str, float | int | None], sites: Sequence[str]) -> Numbers:
    """Return means over the latents of their active units, from the numbers of a sentence model; nothing for none."""
    found: Numbers = {}
    for key in ("active_units", "active_units_02"):
        values = [numbers.get(f"{key}_{site}" if len(sites) > 1 else key) for site in sites]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            found[f"{key}_mean"] = sum(known) / len(known)
    return found
