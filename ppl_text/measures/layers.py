"""Latents and layers: what papers print of several latents, averaged, beside the bounds; attention on a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import finite_or_none
from ..core.batch import device_of
from ..core.latents import of_sentence
from ..core.printing import decimal, percent
from ..data.corpus import Corpus
from ..evaluation.generation import encoded
from ..evaluation.layers import PARTICLES, AveragedFigures, averaged_figures
from ..evaluation.likelihood import measuring
from ..evaluation.report import Picture, Section
from ..evaluation.sentences import common_sentences, evaluation_set
from ..plots.attention import MemoryShares, memory_figure
from .base import SEED, Evaluation, Measure, Measured, Numbers, Subject
from .pairs import spread_rows
from .sentences import SentenceMeasure
from .written import written_notes

WATCHED = 64
"""Texts whose attention on a memory is averaged."""

PICTURES = 3
"""Of them, those that a report draws."""


class LayerMeasure(Measure):
    """Figures averaged over latents of the whole text, beside the bounds; attention on a memory, where there is one."""

    name = "layers"
    alone = False

    def applies(self, corpus: Corpus) -> bool:
        """Apply to texts that count once: how many latents there are is a matter of the model."""
        return not corpus.weighted

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """The averaged figures of several latents of the whole text; attention on a memory, where there is one."""
        attention = memory_sections(subject, evaluation)
        if len(of_sentence(subject.model.latents)) < 2:
            return attention
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
        return [Section(title, header, rows, (line,), (), numbers_of(found)), *attention]

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


def memory_sections(subject: Subject, evaluation: Evaluation) -> list[Section]:
    """Return how much of its attention each layer pays to a memory that latents are written to, and pictures of it.

    Nothing where a model offers no ``memory_attention(batch, latents)``, or where that says None. It returns shares
    (B, L, T) that are means over heads, and (B, T), what they were if all that a step reads had the same.
    """
    look = getattr(subject.model, "memory_attention", None)
    if not callable(look) or not evaluation.samples:
        return []
    rows = evaluation_set(subject.corpus, evaluation.split, WATCHED, evaluation.seed)
    batch = common_sentences(rows, device_of(subject.model)).merged()
    with measuring(evaluation.seed, subject.model, subject.guide):
        found = look(batch, encoded(subject.model, subject.guide, batch))
    if found is None:
        return []
    shares, equal = (part.double().cpu().numpy() for part in found)
    lengths = batch.lengths.tolist()
    scored = np.arange(shares.shape[-1]) < np.array(lengths)[:, None]
    means = [float(layer[scored].mean()) for layer in shares.swapaxes(0, 1)]
    if_equal = float(equal[scored].mean())
    pictures = []
    for number, row in enumerate(spread_rows(batch.size, PICTURES) if subject.folder else (), 1):
        tokens = subject.corpus.tokenizer.pieces(batch.tokens[row, : lengths[row]].tolist())
        picture = f"figures/memory-{number}.png"
        seen = MemoryShares(tokens, shares[row, :, : lengths[row]], equal[row, : lengths[row]])
        memory_figure(seen, Path(subject.folder or "") / picture)
        pictures.append(Picture(f"attention on the memory of text {number}", picture))
    line = (
        f"Mean over heads and the tokens of {batch.size:,} {subject.corpus.noun}s, latents drawn from q. If all that a "
        f"step reads had the same share, the memory had {percent(if_equal, 1)}."
    )
    table = tuple((str(layer), percent(mean, 1)) for layer, mean in enumerate(means, 1))
    values = {"memory_attention": means, "memory_attention_if_equal": if_equal}
    header = ("layer", "share")
    return [Section("Attention on the memory", header, table, (line,), (), values, pictures=tuple(pictures))]


def active_means(numbers: Mapping[str, float | int | None], sites: Sequence[str]) -> Numbers:
    """Return means over the latents of their active units, from the numbers of a sentence model; nothing for none."""
    found: Numbers = {}
    for key in ("active_units", "active_units_02"):
        values = [numbers.get(f"{key}_{site}" if len(sites) > 1 else key) for site in sites]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            found[f"{key}_mean"] = sum(known) / len(known)
    return found
