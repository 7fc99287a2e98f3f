"""Texts given sources: how near they come to the references, how varied they are, and which way the source goes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..core.atomic import finite_or_none
from ..core.batch import device_of
from ..core.printing import Quote, decimal, percent, plus_minus
from ..data.corpus import Corpus
from ..evaluation.decoding import Greedy
from ..evaluation.generation import sample_texts
from ..evaluation.likelihood import measuring
from ..evaluation.report import Picture, Section
from ..evaluation.sentences import CommonSentences, common_sentences, evaluation_set
from ..evaluation.sources import Lost, Ways, WrittenLikelihood, ways_of, written_likelihood
from ..evaluation.storytelling import decodes_from_guide, is_conditional
from ..metrics.bleu import Bleu, bleu, signature
from ..metrics.diversity import SourceDiversity, diversity_by_source
from ..plots.attention import Pair, attention_figure
from .base import SEED, Evaluation, Measure, Measured, Numbers, Subject
from .sentences import SentenceMeasure

DRAWS = 10
"""Texts that are written for a source where the latents are drawn, as in the paper (specification 3D)."""

SHOWN = 8
"""Sources that a report shows with their texts."""

PICTURES = 3
"""Of them, those whose attention it draws."""

NOTHING = 0.1
"""Nats a sentence, below which nothing is said to flow (or two standard errors, where they are more)."""

FIGURES = ("bleu1", "bleu2", "bleu3", "bleu4", "sacrebleu")


class PairMeasure(Measure):
    """Texts given sources, beside the bounds of the texts; nothing where the model reads no source."""

    name = "pairs"
    alone = False

    def applies(self, corpus: Corpus) -> bool:
        """Return whether a source stands beside each text."""
        return corpus.source_tokenizer is not None

    def sections(self, subject: Subject, evaluation: Evaluation) -> list[Section]:
        """The way of the source, the texts beside their references; side by side where samples are asked for."""
        if not is_conditional(subject.model):
            return []
        data = sentences_of(subject, evaluation.split, evaluation.limit, evaluation.seed)
        likelihood = written(subject, data, evaluation.likelihood.particles, evaluation.seed)
        ways = ways_of(subject.model, subject.guide, data, seed=evaluation.seed)
        texts = write_texts(subject, data, DRAWS, evaluation.seed)
        found = [*_way_section(subject, likelihood, ways), _text_section(subject, texts)]
        if evaluation.samples:
            found.append(_side_by_side(texts, attention_pictures(subject, data)))
        return found

    def row(self, subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None]) -> Measured:
        """Figures of a sentence model, and those of its texts given their sources.

        ``settings``: ``sentences`` of the test split (None: all) and ``particles`` K of both likelihoods; ``draws`` of
        the latents for each source; ``shown``: sources whose texts the row shows. To the names of
        :meth:`SentenceMeasure.row <ppl_text.measures.sentences.SentenceMeasure.row>` come ``bleu1_map``, …,
        ``sacrebleu_sampling``, ``ent``, ``dist1``, ``dist2`` (by pairs) and ``dist2_paper`` (by words), and
        ``ppl_posterior`` of the model that writes; and nats a sentence that another source costs, ``lost_whole``,
        ``lost_around`` the latents, ``lost_SITE``, and ``lost_SITE_prior`` with its prior's draw.
        """
        bounds = SentenceMeasure().row(subject, {"representation": settings["sentences"], **settings}, report)
        data = sentences_of(subject, "test", settings["sentences"], SEED)
        report("likelihood of what is written")
        likelihood = written(subject, data, settings["particles"], SEED)
        ways = ways_of(subject.model, subject.guide, data, seed=SEED)
        report(f"texts given {len(data.texts):,} sources")
        texts = write_texts(subject, data, settings["draws"], SEED)
        found = {**bounds.numbers, **likelihood_numbers(likelihood), **way_numbers(ways), **text_numbers(texts)}
        if "ppl_posterior" not in found:  # the story writes
            found |= {"ppl_posterior": found["ppl"], "ppl_posterior_se": found["ppl_se"]}
        return Measured(finite_or_none(found), {}, texts.shown(settings["shown"]))

    def notes(self, results: Mapping[str, Any]) -> list[str]:
        """Say what the figures of texts are of, and what is no likelihood."""
        rows = [row for row in results["rows"] if row["seeds"]]
        if not rows:
            return []
        draws = results["settings"]["draws"]
        return [
            *SentenceMeasure().notes(results),
            "MAP: greedy tokens at posterior means (where nothing is latent, greedy tokens). Sampling: greedy tokens "
            f"for each of {draws} draws of the latents; BLEU is the mean over them, Ent, Dist-1 and Dist-2 are of the "
            f"{draws} texts of a source together, averaged over the sources. dist2_paper divides different pairs, also "
            "those across two texts, by words; dist2 by pairs within texts.",
            f"BLEU-n is nltk's without smoothing, against one reference with its own words; sacreBLEU: {signature()}.",
            "ppl_posterior is that of the model that writes, ln of the mean over the draws of q of p(y | latents), a "
            "bound that pays no KL; ppl is the importance-weighted one of the story, whose latents have their prior.",
        ]


@dataclass(frozen=True)
class WrittenTexts:
    """Sources, references, and what was written for each of N sources.

    ``best``: greedy tokens at posterior means, or where nothing is latent; empty where there are no such means.
    ``drawn``: greedy tokens for each of several draws of the latents, by source; empty where nothing is latent.
    ``unfinished``: how many of all were cut off without EOS.
    """

    sources: tuple[str, ...]
    references: tuple[str, ...]
    best: tuple[str, ...]
    drawn: tuple[tuple[str, ...], ...]
    unfinished: int

    @cached_property
    def of_best(self) -> Bleu | None:
        """BLEU of the texts at posterior means."""
        return bleu(self.best, self.references) if self.best else None

    @cached_property
    def of_drawn(self) -> Bleu | None:
        """Mean over the draws of the BLEU of all sources."""
        if not self.drawn:
            return None
        by_draw = [bleu(texts, self.references) for texts in zip(*self.drawn, strict=True)]
        return Bleu._make(math.fsum(column) / len(by_draw) for column in zip(*by_draw, strict=True))

    @cached_property
    def diversity(self) -> SourceDiversity | None:
        """Of the texts that were drawn."""
        return diversity_by_source([[t.split() for t in texts] for texts in self.drawn]) if self.drawn else None

    def shown(self, number: int) -> dict[str, list[str]]:
        """Return the texts of some sources, by source and reference."""
        found = {}
        for i in spread_rows(len(self.sources), number):
            best = [f"MAP: {self.best[i] or '∅'}"] if self.best else []
            found[f"{self.sources[i]} → {self.references[i]}"] = [*best, *(t or "∅" for t in self.drawn_of(i)[:3])]
        return found

    def drawn_of(self, row: int) -> tuple[str, ...]:
        """Return the texts that were drawn for a source."""
        return self.drawn[row] if self.drawn else ()


def sentences_of(subject: Subject, split: str, limit: int | None, seed: int) -> CommonSentences:
    """Return the texts of :meth:`Subject.evaluate <ppl_text.measures.base.Subject.evaluate>`, 64 at a time."""
    rows = evaluation_set(subject.corpus, split, limit, seed, batch_size=64)
    return common_sentences(rows, device_of(subject.model))


def written(subject: Subject, data: CommonSentences, particles: int, seed: int) -> WrittenLikelihood:
    """Return the likelihood of the model that writes."""
    return written_likelihood(subject.model, subject.guide, data, particles=particles, seed=seed)


def write_texts(subject: Subject, data: CommonSentences, draws: int, seed: int) -> WrittenTexts:
    """Write texts for all sources: at posterior means, where there are some, and by ``draws`` of the latents."""
    model, corpus = subject.model, subject.corpus
    means = decodes_from_guide(model) and callable(getattr(subject.guide, "at_means", None))
    best: list[str] = []
    drawn: list[tuple[str, ...]] = []
    sources: list[str] = []
    unfinished = 0
    for number, batch in enumerate(data):
        options: dict[str, Any] = {"steps": 2 * corpus.max_steps, "strategy": Greedy(), "guide": subject.guide}
        options |= {"source": batch.source, "seed": seed + number}
        if means or not model.latents:
            found = sample_texts(model, corpus.tokenizer, 1, latents="mean" if means else "sample", **options)
            best, unfinished = best + found.texts, unfinished + found.unfinished
        if model.latents:
            found = sample_texts(model, corpus.tokenizer, draws, **options)
            drawn += [tuple(found.texts[i : i + draws]) for i in range(0, len(found.texts), draws)]
            unfinished += found.unfinished
        sources += [] if batch.source is None else _decoded(corpus, batch.source.tokens.tolist())
    return WrittenTexts(tuple(sources), data.texts, tuple(best), tuple(drawn), unfinished)


def _decoded(corpus: Corpus, rows: Sequence[Sequence[int]]) -> list[str]:
    tokenizer = corpus.source_tokenizer
    return [] if tokenizer is None else [tokenizer.decode(row) for row in rows]


def text_numbers(texts: WrittenTexts) -> Numbers:
    """Return BLEU, sacreBLEU and diversity by name."""
    found: Numbers = {}
    for way, scores in (("map", texts.of_best), ("sampling", texts.of_drawn)):
        found |= {} if scores is None else {f"{f}_{way}": v for f, v in zip(FIGURES, scores, strict=True)}
    if (varied := texts.diversity) is not None:
        found |= dict(zip(("ent", "dist1", "dist2", "dist2_paper"), varied, strict=True))
    return {**found, "unfinished": texts.unfinished}


def likelihood_numbers(found: WrittenLikelihood) -> Numbers:
    """Return the perplexity by name; nothing where there is none."""
    if math.isnan(found.nats):
        return {}
    return {"ppl_posterior": found.perplexity, "ppl_posterior_se": found.perplexity_se}


def way_numbers(ways: Ways | None) -> Numbers:
    """Return by name what another source costs, nats a sentence, with its standard error."""
    if ways is None:
        return {}
    named = {"lost_around": ways.around} | ({} if ways.whole is None else {"lost_whole": ways.whole})
    named |= {f"lost_{site}": lost for site, lost in ways.other.items()}
    named |= {f"lost_{site}_prior": lost for site, lost in ways.prior.items()}
    return {
        key: value for name, lost in named.items() for key, value in ((name, lost.nats), (f"{name}_se", lost.error))
    }


def flows(lost: Lost) -> bool:
    """Return whether a loss is more than :data:`NOTHING`, and than its own noise."""
    return lost.nats > max(NOTHING, 2.0 * lost.error)


def verdict(ways: Ways) -> str:
    """Say in words what flows through each latent, and what goes around them all."""
    if not ways.prior:
        cost = f"another source costs {_nats(ways.around)} a sentence"
        return f"nothing is latent: what a text takes from its source goes directly ({cost})."
    if ways.whole is None:
        costs = [f"a draw of the prior for {site} costs {_nats(lost)}" for site, lost in ways.prior.items()]
        return (
            f"q reads the text as well as its source. {_listed(costs).capitalize()} a sentence; another source, the "
            f"latents held, costs {_nats(ways.around)}."
        )
    if not flows(ways.whole):
        return f"texts take nothing from their sources: another one costs {_nats(ways.whole)} a sentence."
    used = [site for site, lost in ways.other.items() if flows(lost)]
    idle = [site for site in ways.other if site not in used]
    shares = [_way(f"through {site}", ways.other[site], ways.whole) for site in used]
    shares += [_way("around the latents", ways.around, ways.whole)] if flows(ways.around) else []
    said = [
        f"of the {_nats(ways.whole)} a sentence that another source costs, {_listed(shares)}"
        if shares
        else f"another source costs {_nats(ways.whole)} a sentence, and no way alone costs any of it"
    ]
    nothing = [f"{site} ({_nats(ways.other[site])})" for site in idle]
    said += [f"nothing flows through {_listed(nothing)}"] if nothing else []
    said += [f"nothing goes around the latents ({_nats(ways.around)})"] if not flows(ways.around) else []
    return f"{_head(used, idle, flows(ways.around))}: {'; '.join(said)}."


def _head(used: Sequence[str], idle: Sequence[str], past: bool) -> str:
    """Return the verdict in a few words."""
    if not used:
        return (
            f"{_listed(idle)} {'is' if len(idle) == 1 else 'are'} bypassed" if past else "each way makes up for another"
        )
    bypassed = f", {_listed(idle)} bypassed" if idle else ""
    return f"the source goes through {_listed(used)}{' and around the latents' if past else ''}{bypassed}"


def _way(name: str, lost: Lost, whole: Lost) -> str:
    return f"{_nats(lost)} ({percent(lost.nats / whole.nats)}) {'go' if name.startswith('around') else 'flow'} {name}"


def _nats(lost: Lost) -> str:
    return f"{plus_minus(lost.nats, lost.error, 2)} nats"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _way_section(subject: Subject, likelihood: WrittenLikelihood, ways: Ways | None) -> list[Section]:
    """Return the section on likelihood and ways; none where there is one text, and nothing to exchange."""
    lines, noun = [], subject.corpus.noun
    if ways is not None:
        lines.append(f"verdict: {verdict(ways)}")
        lines.append(
            f"What ln p(y given latents, x) falls by, nats a {noun}, over {ways.sentences:,} of them, each with the "
            "source of another; standard errors are between them."
        )
    if decodes_from_guide(subject.model):
        lines.append(
            f"PPL(y given x) {plus_minus(likelihood.perplexity, likelihood.perplexity_se)} of the model that writes: "
            f"latents drawn from q, tokens given them, K = {likelihood.particles} draws; a bound that pays no KL. The "
            "bounds and KLs above are those of the story, whose latents come from its prior: what was trained, and not "
            "what writes."
        )
    if not lines:
        return []
    values: dict[str, Any] = likelihood_numbers(likelihood)
    if ways is None:
        return [Section(_WAYS, lines=tuple(lines), values=values)]
    rows = [] if ways.whole is None else [_row("another source in all", ways.whole, ways)]
    for site in ways.prior:
        rows += [_row(f"{site} of another source", ways.other[site], ways)] if site in ways.other else []
        rows.append(_row(f"{site} drawn from its prior", ways.prior[site], ways))
    if ways.prior:
        rows.append(_row("another source, the latents held", ways.around, ways))
    values |= {**way_numbers(ways), "ways": verdict(ways)}
    return [Section(_WAYS, ("with", "nats lost", "s.e.", "share"), tuple(rows), tuple(lines), (), values)]


_WAYS = "What texts take from their sources"


def _row(name: str, lost: Lost, ways: Ways) -> tuple[str, ...]:
    share = "" if ways.whole is None or not flows(ways.whole) else percent(lost.nats / ways.whole.nats)
    return (name, decimal(lost.nats), decimal(lost.error), share)


def _text_section(subject: Subject, texts: WrittenTexts) -> Section:
    """Return BLEU of both ways to write, and diversity."""
    ways = {"MAP: greedy, at posterior means" if subject.model.latents else "greedy": texts.of_best}
    ways["sampling: greedy, latents drawn"] = texts.of_drawn
    rows = [(name, *(decimal(value, 2) for value in scores)) for name, scores in ways.items() if scores is not None]
    lines = [
        f"Of {len(texts.references):,} {subject.corpus.noun}s, against one reference each; BLEU-n of words, without "
        f"smoothing, per cent; sacreBLEU {signature()}. Of all texts {texts.unfinished:,} were cut off without EOS."
    ]
    if (varied := texts.diversity) is not None:
        lines.append(
            f"{len(texts.drawn[0])} draws a source: entropy {decimal(varied.entropy)} nats, Dist-1 "
            f"{decimal(varied.distinct_1)}, Dist-2 {decimal(varied.distinct_2)} by pairs within texts "
            f"({decimal(varied.distinct_2_paper)} by words, pairs across texts counted, as the paper has it); of the "
            "draws of a source together, averaged over the sources."
        )
    header = ("texts", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "sacreBLEU")
    return Section("Texts given their sources", header, tuple(rows), tuple(lines), (), text_numbers(texts))


def _side_by_side(texts: WrittenTexts, pictures: tuple[Picture, ...]) -> Section:
    """Return some sources with their references and texts, and pictures of the attention."""
    columns = ["source", "reference", *(["MAP"] if texts.best else []), *(["draws"] if texts.drawn else [])]
    rows = []
    for i in spread_rows(len(texts.sources), SHOWN):
        drawn = [" · ".join(text or "∅" for text in texts.drawn_of(i)[:3])] if texts.drawn else []
        best = [texts.best[i] or "∅"] if texts.best else []
        rows.append(tuple(map(Quote, (texts.sources[i], texts.references[i], *best, *drawn))))
    return Section("Sources, references and texts", tuple(columns), tuple(rows), pictures=pictures)


def spread_rows(number: int, most: int) -> list[int]:
    """Return which of that many texts are shown, ``most`` at most, evenly over all: batches go by length."""
    shown = min(number, most)
    return [(2 * i + 1) * number // (2 * shown) for i in range(shown)]


def attention_pictures(subject: Subject, data: CommonSentences) -> tuple[Picture, ...]:
    """Draw the attention of some pairs where the guide publishes it; return the pictures."""
    attention = getattr(subject.guide, "attention", None)
    # A guide may hold a network of that name.
    if subject.folder is None or not inspect.ismethod(attention):
        return ()
    rows = torch.tensor(spread_rows(len(data.texts), PICTURES), device=device_of(subject.model))
    batch, reader = data.merged().take(rows), subject.corpus.source_tokenizer
    if batch.source is None or reader is None:
        return ()
    with measuring(0, subject.model, subject.guide):
        seen = attention(batch)
    if seen is None:
        return ()
    weights, spread = seen[0].cpu().numpy(), None if seen[1] is None else seen[1].cpu().numpy()
    found = []
    for i in range(batch.size):
        steps, places = int(batch.lengths[i]), int(batch.source.lengths[i])
        target = subject.corpus.tokenizer.pieces(batch.tokens[i, :steps].tolist())
        source = reader.pieces(batch.source.tokens[i, :places].tolist())
        width = None if spread is None else spread[i, :steps] if spread.ndim == 2 else spread[i, :steps, :places]
        picture = f"figures/attention-{i + 1}.png"
        attention_figure(Pair(target, source, weights[i, :steps, :places], width), subject.folder / picture)
        found.append(Picture(f"attention of pair {i + 1}", picture))
    return tuple(found)
