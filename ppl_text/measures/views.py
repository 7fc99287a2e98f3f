"""What a report shows of single texts: their k̂, where their latents lie, and their reconstructions."""

from __future__ import annotations

from pathlib import Path

from ..comparing.charts import khat_figure
from ..core.batch import device_of
from ..core.errors import DivergedError, UserError
from ..core.printing import Quote
from ..evaluation.generation import reconstructed
from ..evaluation.likelihood import measuring
from ..evaluation.planar import planar_texts
from ..evaluation.report import Picture, Section
from ..evaluation.sentences import common_sentences, evaluation_set
from ..evaluation.storytelling import check_teller, is_conditional
from ..plots.points import points_figure
from .base import Evaluation, Subject

PLACED = 200
"""Texts whose latents are shown in two dimensions."""

SHOWN = 8
"""Texts that are shown with their reconstructions."""


def khat_pictures(subject: Subject, evaluation: Evaluation) -> tuple[Picture, ...]:
    """Draw the histogram of k̂ over the texts, where there is one and figures are wanted."""
    tails = evaluation.likelihood.tails
    if not evaluation.pictures or subject.folder is None or tails is None:
        return ()
    label = f"K = {evaluation.likelihood.particles}"
    target = Path("figures/khat.png")
    khat_figure({label: tails.khat}, subject.folder / target, subject.corpus.noun, tails.weights)
    return (Picture(f"Pareto k̂ of the {evaluation.split} {subject.corpus.noun}s", str(target)),)


def plane_sections(subject: Subject, evaluation: Evaluation) -> list[Section]:
    """Return where the latents of some texts lie in two dimensions; nothing where texts have no vector each."""
    if not evaluation.pictures or subject.folder is None:
        return []
    rows = evaluation_set(subject.corpus, evaluation.split, _fewer(evaluation.limit, PLACED), evaluation.seed)
    data, noun = common_sentences(rows, device_of(subject.model)), f"{evaluation.split} {subject.corpus.noun}s"
    try:
        with measuring(evaluation.seed, subject.model, subject.guide):
            points = planar_texts(subject.model, subject.guide, data)
    except DivergedError as error:
        return [Section("Latents in two dimensions", lines=(f"None: {error}.",))]
    if points is None:
        return []
    target = Path("figures/latents.png")
    points_figure(points.x, points.y, points.texts, points.axes, subject.folder / target)
    line = (
        f"Posterior means of {len(points.texts):,} {noun} on the two axes along which they differ most. Latents of a "
        "text stand side by side; those with a value a step are averaged over its steps."
    )
    picture = Picture(f"latents of the {noun} in two dimensions", str(target), points)
    return [Section("Latents in two dimensions", lines=(line,), pictures=(picture,))]


def reconstruction_sections(subject: Subject, evaluation: Evaluation) -> list[Section]:
    """Return some texts beside what is written from a draw of their latents; nothing where none is to be had.

    A conditional model's texts stand beside their sources elsewhere.
    """
    model, corpus = subject.model, subject.corpus
    if not model.latents or is_conditional(model):
        return []
    rows = evaluation_set(corpus, evaluation.split, _fewer(evaluation.limit, SHOWN), evaluation.seed)
    data, title = common_sentences(rows, device_of(model)), f"Reconstructions of {evaluation.split} {corpus.noun}s"
    batch = data.merged()
    try:
        check_teller(model, subject.guide)
        with measuring(evaluation.seed, model, subject.guide):
            written = reconstructed(model, subject.guide, corpus.tokenizer, batch, corpus.max_steps)
    except (DivergedError, UserError) as error:
        return [Section(title, lines=(f"None: {error}.",))]
    read = [corpus.tokenizer.decode(row) for row in batch.tokens.tolist()]
    table = tuple((Quote(text or "∅"), Quote(again or "∅")) for text, again in zip(read, written, strict=True))
    line = "Latents drawn from q given the text as the model reads it, then greedy tokens given them."
    return [Section(title, ("text", "reconstruction"), table, (line,))]


def _fewer(limit: int | None, most: int) -> int:
    """Return how many texts are taken, at most as many as are evaluated."""
    return most if limit is None else min(limit, most)
