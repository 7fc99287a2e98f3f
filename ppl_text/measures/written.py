"""Texts as a model writes them, from scratch or for sources: how near they are to real ones, and how varied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.batch import device_of
from ..core.errors import UnknownNameError, UserError
from ..core.printing import decimal
from ..data.corpus import Split
from ..evaluation.decoding import Strategy, as_strategy
from ..evaluation.generation import sample_texts
from ..evaluation.sentences import chosen_rows, common_sentences, evaluation_set
from ..evaluation.storytelling import is_conditional
from ..metrics.bleu import bleu
from ..metrics.bleu_of_sets import mean_bleu, self_bleu
from ..metrics.divergence import FEWEST, mauve, ngram_divergence
from ..metrics.diversity import diversity, jaccard
from ..metrics.overlap import bert_score, rouge
from ..metrics.pretrained import Features
from .base import SEED, Numbers, Subject

SHOWN = 1
"""Texts of each kind that a row shows."""


@dataclass(frozen=True)
class Written:
    """Generated texts, and what they are compared with: ``references``, one for each where they are ``paired``, or all
    test texts. ``features``: the pretrained model of measures that need one; None: they are left out.
    """

    texts: tuple[str, ...]
    references: tuple[str, ...]
    paired: bool
    features: str | None = None


def _bleu(written: Written) -> Numbers:
    if written.paired:
        return {"bleu": bleu(written.texts, written.references).bleu4}
    return {"bleu": mean_bleu(written.texts, written.references)}


def _self_bleu(written: Written) -> Numbers:
    return {"self_bleu": self_bleu(written.texts)}


def _dist(written: Written) -> Numbers:
    words = [text.split() for text in written.texts]
    if not any(len(text) > 1 for text in words):
        return {}
    return dict(zip(("ent", "dist1", "dist2"), diversity(words), strict=True))


def _jaccard(written: Written) -> Numbers:
    return {"jaccard": jaccard([text.split() for text in written.texts])}


def _cnd(written: Written) -> Numbers:
    texts, references = ([text.split() for text in side] for side in (written.texts, written.references))
    return {"cnd": ngram_divergence(texts, references)}


def _mauve(written: Written) -> Numbers:
    if written.features is None or min(len(written.texts), len(written.references)) < FEWEST:
        return {}
    features = _features(written.features)
    return {"mauve": mauve(features(written.texts), _of_references(features, written.references)).score}


def _rouge(written: Written) -> Numbers:
    return dict(zip(("rouge1", "rouge2", "rouge_l"), rouge(written.texts, written.references), strict=True))


def _bertscore(written: Written) -> Numbers:
    if written.features is None:
        return {}
    return {"bertscore": bert_score(written.texts, written.references, written.features)}


METRICS: dict[str, Callable[[Written], Numbers]] = {
    "bleu": _bleu,
    "self_bleu": _self_bleu,
    "dist": _dist,
    "jaccard": _jaccard,
    "cnd": _cnd,
    "mauve": _mauve,
    "rouge": _rouge,
    "bertscore": _bertscore,
}
"""What can be measured of written texts, by name."""

OF_PAIRS = ("rouge", "bertscore")
"""Those that compare each text with a reference of its own."""

OF_TEXTS = ("self_bleu", "dist", "jaccard")
"""Those that compare texts with nothing but each other."""


def written_numbers(
    subject: Subject, settings: Mapping[str, Any], report: Callable[[str], None] = lambda what: None
) -> tuple[Numbers, dict[str, list[str]]]:
    """Return figures of texts as a model writes them, by name and strategy: ``bleu_beam``; and some of the texts.

    ``settings``: ``metrics``, names of :data:`METRICS` (without them nothing is written); ``written``, how many texts;
    ``strategies``, by a name of one's own a strategy each, as :func:`~ppl_text.evaluation.decoding.as_strategy` takes
    it; ``features``, the pretrained model of MAUVE and BERTScore, None to leave them out. Texts are drawn from scratch,
    and compared with all test texts; those of a conditional model are written for as many test sources, one each, and
    compared with their references. ``real_…`` are the figures of as many training texts instead, or, of a conditional
    model, those of its references that need no other texts. Where a strategy knows one text only, because nothing is
    drawn, it has no figures.

    Raises:
        UnknownNameError: a metric or a strategy that there is none of.
        UserError: a metric of pairs, where the model reads no source.
    """
    metrics = list(settings.get("metrics") or ())
    if not metrics:
        return {}, {}
    paired = is_conditional(subject.model)
    check_metrics(metrics, paired)
    number, features = settings["written"], settings.get("features")
    references = _references(subject, number, paired)
    found: Numbers = {}
    shown: dict[str, list[str]] = {}
    for name, given in settings["strategies"].items():
        report(f"texts by {name}")
        texts, unfinished = _write(subject, as_strategy(given), number, paired)
        shown[f"by {name}"] = list(texts[:SHOWN])
        found[f"unfinished_{name}"] = unfinished
        if len(texts) > 1:
            written = Written(tuple(texts), references, paired, features)
            found |= {f"{key}_{name}": value for key, value in measured(written, metrics).items()}
    report("the same of real texts")
    return found | {
        f"real_{key}": value for key, value in _real(subject, number, paired, metrics, features).items()
    }, shown


def check_metrics(metrics: Sequence[str], paired: bool) -> None:
    """Raise for metrics that there are none of, and for those of pairs where texts have no references of their own."""
    for name in metrics:
        if name not in METRICS:
            raise UnknownNameError("metric of generated texts", name, METRICS)
        if name in OF_PAIRS and not paired:
            raise UserError(
                f"metric '{name}' compares each text with a reference of its own, and this model reads no source; "
                f"metrics that apply: {', '.join(other for other in METRICS if other not in OF_PAIRS)}"
            )


def measured(written: Written, metrics: Sequence[str]) -> Numbers:
    """Return the figures of written texts by name."""
    return {key: value for name in metrics for key, value in METRICS[name](written).items()}


def _references(subject: Subject, number: int, paired: bool) -> tuple[str, ...]:
    """Return what texts are compared with: as the tokenizer reads them, or the references as they are."""
    if paired:
        return common_sentences(evaluation_set(subject.corpus, "test", number, SEED, batch_size=64)).texts
    return tuple(texts_as_read(subject.corpus.splits["test"]))


def _write(subject: Subject, strategy: Strategy, number: int, paired: bool) -> tuple[list[str], int]:
    """Return texts, and how many of them were cut off: from scratch, or one for each of so many test sources."""
    model, corpus = subject.model, subject.corpus
    options: dict[str, Any] = {"steps": 2 * corpus.max_steps, "strategy": strategy, "guide": subject.guide}
    if not paired:
        found = sample_texts(model, corpus.tokenizer, number, seed=SEED, **options)
        return found.texts, found.unfinished
    rows = evaluation_set(corpus, "test", number, SEED, batch_size=64)
    texts, unfinished = list[str](), 0
    for place, batch in enumerate(common_sentences(rows, device_of(model))):
        found = sample_texts(model, corpus.tokenizer, 1, seed=SEED + place, source=batch.source, **options)
        texts, unfinished = texts + found.texts, unfinished + found.unfinished
    return texts, unfinished


def _real(subject: Subject, number: int, paired: bool, metrics: Sequence[str], features: str | None) -> Numbers:
    """Return the figures of real texts in the place of generated ones."""
    if paired:
        references = _references(subject, number, paired)
        return measured(Written(references, references, paired), [name for name in metrics if name in OF_TEXTS])
    splits = subject.corpus.splits
    return _of_training_texts(splits["train"], splits["test"], number, tuple(metrics), features)


@lru_cache(maxsize=4)
def _of_training_texts(
    train: Split, test: Split, number: int, metrics: tuple[str, ...], features: str | None
) -> Numbers:
    """Return the figures of training texts, drawn without replacement; rows of one table share them."""
    rows = chosen_rows(len(train), number).nonzero().squeeze(-1).numpy()
    drawn = tuple(texts_as_read(train.take(rows)))
    return measured(Written(drawn, tuple(texts_as_read(test)), False, features), metrics)


@lru_cache(maxsize=1)
def _features(name: str) -> Features:
    return Features(name)


@lru_cache(maxsize=2)
def _of_references(features: Features, references: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the features of references, which all texts of a table are compared with."""
    return features(references)


def written_notes(results: Mapping[str, Any]) -> list[str]:
    """Say how texts were written, what the columns mean, and what they are of real texts; nothing of other tables."""
    settings = results["settings"]
    rows = [row["measures"] for row in results["rows"] if row["seeds"]]
    if not settings.get("metrics") or not rows:
        return []
    ways = ", ".join(f"{name} ({as_strategy(given)})" for name, given in settings["strategies"].items())
    notes = [
        f"{settings['written']:,} texts a row, written by {ways}. Self-BLEU and Jaccard similarity: higher is less "
        "varied. BLEU is the mean over the texts of BLEU-4 with all test texts as references, where they have none of "
        "their own; CND is an approximation of the paper's."
    ]
    if settings.get("features") is None and {"mauve", "bertscore"} & set(settings["metrics"]):
        notes.append(
            "MAUVE and BERTScore are left out: they need a pretrained model, reproduce --features NAME|FOLDER."
        )
    real = {key.removeprefix("real_"): value for key, value in rows[0].items() if key.startswith("real_")}
    said = [f"{key} {decimal(real[key], 3)}" for key in _KEYS if isinstance(real.get(key), float | int)]
    return [*notes, f"As many real texts: {', '.join(said)}."] if said else notes


_KEYS = ("bleu", "self_bleu", "ent", "dist1", "dist2", "jaccard", "cnd", "mauve")
"""Figures that real texts have, too."""


def texts_as_read(split: Split) -> list[str]:
    """Return the texts of a split as its tokenizer reads them."""
    decode = split.target.tokenizer.decode
    return [decode(part.tokens(row)) for part in split.target.table.parts() for row in range(len(part))]
