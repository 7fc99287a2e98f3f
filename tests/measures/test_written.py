"""Texts as a model writes them: figures of texts that are known, from scratch and for sources, and what is refused."""

from types import SimpleNamespace

import pytest
import torch

from guides.language_model import ExactGuide
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.data.corpus import Corpus, Side, Split
from ppl_text.data.tokenizers import word_tokenizer
from ppl_text.evaluation.decoding import Beam, Greedy, Sample
from ppl_text.evaluation.generation import Samples
from ppl_text.measures import load_measure, written
from ppl_text.measures.base import Subject
from ppl_text.metrics.bleu import bleu
from ppl_text.metrics.bleu_of_sets import mean_bleu, self_bleu
from ppl_text.metrics.divergence import ngram_divergence
from ppl_text.metrics.diversity import diversity, jaccard
from ppl_text.metrics.overlap import rouge
from ppl_text.models.language_model import LanguageModel

TEXTS = [f"{who} {does} {what}" for who in ("the dog", "a cat") for does in ("sees", "hears") for what in ("me", "us")]
SETTINGS = {
    "metrics": ["bleu", "self_bleu", "dist", "jaccard", "cnd"],
    "written": 3,
    "strategies": {"drawn": {"name": "sample", "top_k": 2}, "best": {"name": "beam", "width": 4, "min_length": 2}},
}
DRAWN, BEST = ["the dog sees us", "a cat", "us us"], ["the dog sees me", "the dog sees me", "the dog hears me"]


def corpus(sources=False):
    tokenizer = word_tokenizer(TEXTS)

    def split(texts):
        return Split(
            Side(texts, tokenizer),
            source=Side([text[::-1] for text in texts], word_tokenizer([t[::-1] for t in TEXTS])) if sources else None,
        )

    splits = {"train": split(TEXTS), "test": split([*TEXTS[:4], "the stranger sees me"])}
    return Corpus("known", splits, (), "text", "word", weighted=False)


@pytest.fixture
def asked(monkeypatch):
    """What texts were asked for: strategies, how many, and the sources; texts come from two lists."""
    calls = []

    def known(model, tokenizer, n, *, steps, seed, strategy, guide, source=None):
        calls.append((n, strategy, None if source is None else source.size))
        texts = DRAWN if strategy == Sample(top_k=2) else BEST
        return Samples(texts[: n if source is None else source.size], 1)

    monkeypatch.setattr(written, "sample_texts", known)
    return calls


def subject_of(data, **attributes):
    return Subject(SimpleNamespace(latents=(), conditional=False, **attributes), None, data)


def words(texts):
    return [text.split() for text in texts]


def test_texts_from_scratch_are_compared_with_all_test_texts_as_they_are_read(asked):
    found, shown = written.written_numbers(subject_of(corpus()), SETTINGS)
    test = [*TEXTS[:4], "the <unk> sees me"]
    assert asked == [(3, Sample(top_k=2), None), (3, Beam(4, min_length=2), None)]
    for name, texts in (("drawn", DRAWN), ("best", BEST)):
        assert found[f"bleu_{name}"] == mean_bleu(texts, test)
        assert found[f"self_bleu_{name}"] == self_bleu(texts)
        assert (found[f"ent_{name}"], found[f"dist1_{name}"], found[f"dist2_{name}"]) == diversity(words(texts))
        assert found[f"jaccard_{name}"] == jaccard(words(texts))
        assert found[f"cnd_{name}"] == ngram_divergence(words(texts), words(test))
        assert found[f"unfinished_{name}"] == 1
    assert shown == {"by drawn": DRAWN[:1], "by best": BEST[:1]}


def test_as_many_training_texts_stand_beside_them(asked):
    found, _ = written.written_numbers(subject_of(corpus()), {**SETTINGS, "written": 100})
    assert found["real_self_bleu"] == pytest.approx(self_bleu(TEXTS))
    assert found["real_cnd"] == pytest.approx(ngram_divergence(words(TEXTS), words([*TEXTS[:4], "the <unk> sees me"])))
    fewer, _ = written.written_numbers(subject_of(corpus()), {**SETTINGS, "written": 2})
    assert 0 < fewer["real_jaccard"] < 1


def test_texts_for_sources_are_compared_with_their_references(asked):
    settings = {**SETTINGS, "metrics": [*SETTINGS["metrics"], "rouge"], "strategies": {"best": "beam"}}
    subject = Subject(SimpleNamespace(latents=(), conditional=True, anywhere=None), None, corpus(sources=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "device_of", lambda model: "cpu")
        found, _ = written.written_numbers(subject, settings)
    assert sum(rows for _, _, rows in asked) == 3
    references = written._references(subject, 3, True)
    texts = [text for _, _, rows in asked for text in BEST[:rows]]
    assert len(references) == 3
    assert set(references) <= {*TEXTS[:4], "the stranger sees me"}
    assert found["bleu_best"] == bleu(texts, references).bleu4
    assert (found["rouge1_best"], found["rouge2_best"], found["rouge_l_best"]) == rouge(texts, references)
    assert found["cnd_best"] == ngram_divergence(words(texts), words(references))
    assert found["real_jaccard"] == jaccard(words(references))
    assert not {"real_bleu", "real_rouge1", "real_cnd"} & set(found)


def test_one_text_only_has_no_figures():
    """Greedy tokens of a model without latents: one text, whatever is asked for."""
    torch.manual_seed(0)
    data = corpus()
    model = LanguageModel(data.vocabulary)
    settings = {**SETTINGS, "strategies": {"greedy": "greedy", "drawn": "sample"}}
    found, shown = written.written_numbers(Subject(model, ExactGuide(model), data), settings)
    assert "bleu_greedy" not in found
    assert "bleu_drawn" in found
    assert len(shown["by greedy"]) == 1


def test_what_needs_a_pretrained_model_is_left_out_without_one(asked, monkeypatch):
    settings = {**SETTINGS, "metrics": ["mauve", "bertscore"], "strategies": {"best": "beam"}}
    subject = Subject(SimpleNamespace(latents=(), conditional=True), None, corpus(sources=True))
    monkeypatch.setattr(written, "device_of", lambda model: "cpu")
    assert set(written.written_numbers(subject, settings)[0]) == {"unfinished_best"}
    monkeypatch.setattr(written, "bert_score", lambda texts, references, model: (texts, references, model))
    found, _ = written.written_numbers(subject, {**settings, "features": "bert"})
    assert found["bertscore_best"][2] == "bert"


def test_mauve_is_of_the_features_of_texts_and_of_all_references(monkeypatch):
    monkeypatch.setattr(written, "FEWEST", 2)
    monkeypatch.setattr(written, "_features", lambda name: lambda texts: (name, tuple(texts)))
    monkeypatch.setattr(written, "mauve", lambda texts, references: SimpleNamespace(score=(texts, references)))
    found = written.measured(written.Written(("a", "b"), ("c", "d", "e"), False, "m"), ["mauve"])
    assert found == {"mauve": (("m", ("a", "b")), ("m", ("c", "d", "e")))}


def test_nothing_is_written_where_nothing_is_asked_for(asked):
    measure = load_measure("generation")
    assert measure.beside(subject_of(corpus()), {"sentences": 3}) == {}
    assert asked == []
    assert set(measure.beside(subject_of(corpus()), SETTINGS)) > {"bleu_best", "real_bleu"}
    filled = measure.row(subject_of(corpus()), SETTINGS, lambda what: None)
    assert filled.numbers["steps"] == 0
    assert filled.texts["by best"] == BEST[:1]


def test_metrics_that_do_not_apply_are_refused(asked):
    for metrics, error, message in (
        (["blue"], UnknownNameError, r"unknown metric of generated texts 'blue' \(did you mean 'bleu'\?\)"),
        (
            ["bleu", "rouge"],
            UserError,
            "'rouge' compares each text with a reference of its own.*: bleu, self_bleu, dist",
        ),
    ):
        with pytest.raises(error, match=message):
            written.written_numbers(subject_of(corpus()), {**SETTINGS, "metrics": metrics})
    assert asked == []


def test_notes_say_how_texts_were_written_and_what_real_ones_have():
    notes = load_measure("generation").notes
    rows = [{"seeds": [0], "measures": {"real_bleu": 30.0, "real_cnd": 0.01, "real_unknown": 3}}]
    settings = {**SETTINGS, "strategies": {"greedy": "greedy"}, "features": None}
    said = notes({"rows": rows, "settings": settings})
    assert said[0].startswith(f"3 texts a row, written by greedy ({Greedy()}).")
    assert said[1] == "As many real texts: bleu 30.000, cnd 0.010."
    left_out = notes({"rows": rows, "settings": {**settings, "metrics": ["mauve"]}})
    assert "reproduce --features NAME|FOLDER" in left_out[1]
    assert notes({"rows": [], "settings": settings}) == []
