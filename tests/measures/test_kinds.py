"""Which measures apply, what a trainer records, and that a kind of one's own takes part."""

from types import SimpleNamespace

import pytest
from torch import nn

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.evaluation.collapse import CollapseMonitor
from ppl_text.evaluation.report import Section
from ppl_text.measures import MEASURES, load_measure, measures_of, monitor_of
from ppl_text.measures.base import Measure, Subject
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.models.language_model import LanguageModel
from ppl_text.models.sentence_vae import SentenceVAE

WORDS, SENTENCES = (SimpleNamespace(weighted=weighted, max_steps=6, noun="text") for weighted in (True, False))
MODELS = {
    "deep_state_space": DeepStateSpace(Vocabulary(9), state_dim=2, hidden=[3]),
    "sentence_vae": SentenceVAE(Vocabulary(9), latent_dim=2, embedding_dim=3, hidden_dim=3),
    "language_model": LanguageModel(Vocabulary(9)),
    "one's own": SimpleNamespace(latents=()),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_run_has_the_bounds_of_its_corpus(model):
    assert [measure.name for measure in measures_of(model, WORDS)] == ["words"]
    assert [measure.name for measure in measures_of(model, SENTENCES)] == ["sentences"]


class Lengths(Measure):
    """A further kind: how long texts are."""

    name = "lengths"

    def applies(self, corpus):
        return not corpus.weighted

    def sections(self, subject, evaluation):
        return [Section("Lengths", lines=(f"{evaluation.split}: {subject.corpus.max_steps}",))]

    def monitor(self, subject, validation, *, everything=False):
        return lambda model, guide: {"longest": 6}


def test_a_kind_of_ones_own_stands_beside_the_others(monkeypatch):
    monkeypatch.setitem(MEASURES, "lengths", f"{__name__}:Lengths")
    model = SimpleNamespace(measures=("sentences", "lengths"), latents=())
    found = measures_of(model, SENTENCES)
    assert [measure.name for measure in found] == ["sentences", "lengths"]
    subject = Subject(model, None, SENTENCES)
    assert found[1].sections(subject, SimpleNamespace(split="valid"))[0].lines == ("valid: 6",)
    with pytest.raises(UserError, match="measures 'lengths' fill no table"):
        found[1].row(subject, {}, print)
    with pytest.raises(UserError, match="a row of a table of lengths needs a recipe"):
        found[1].data_row(SENTENCES, {}, 0, print)
    assert found[1].notes({}) == found[1].figures(None, {}, ()) == []


def test_a_kind_without_bounds_stands_beside_one_that_has_some():
    model = SimpleNamespace(measures=("sentences", "codes"))
    assert [measure.name for measure in measures_of(model, WORDS)] == ["words", "codes"]
    assert [measure.name for measure in measures_of(model, SENTENCES)] == ["sentences", "codes"]
    assert not load_measure("codes").alone
    with pytest.raises(UserError, match="measures 'codes' fill no table"):
        load_measure("codes").row(None, {}, print)


def test_names_are_those_of_the_registry():
    assert {name: load_measure(name).name for name in MEASURES} == {name: name for name in MEASURES}
    with pytest.raises(UnknownNameError, match="did you mean 'words'"):
        load_measure("wrods")


class Both(nn.Module):
    """A model with a latent of the sentence and prior paths."""

    measures = ("words", "sentences")
    latents = (LatentSpec("z", ("D",), {"D": 1}),)
    draw = emit = prior = initial = staticmethod(lambda *_: None)


def test_a_monitor_is_what_the_models_latents_call_for(monkeypatch):
    validation = SimpleNamespace(batches=[], texts=[])
    monkeypatch.setattr(CollapseMonitor, "__init__", lambda self, data, **options: None)
    monkeypatch.setattr(CollapseMonitor, "__call__", lambda self, model, guide: {"mutual_information": 1.0})
    monkeypatch.setattr(CollapseMonitor, "remark", lambda self, values: "said")
    monkeypatch.setattr("ppl_text.measures.words.entropy_monitor", lambda model, steps: of_paths(model))

    def of_paths(model):
        return (lambda model, guide: {"entropy_gap": 2.0}) if hasattr(model, "emit") else None

    def recorded(model):
        monitor = monitor_of(Subject(model, None, WORDS), validation)
        return None if monitor is None else (monitor(model, None), getattr(monitor, "remark", lambda values: "")({}))

    assert recorded(MODELS["deep_state_space"]) == ({"entropy_gap": 2.0}, "")
    assert recorded(MODELS["sentence_vae"]) == ({"mutual_information": 1.0}, "said")
    assert recorded(MODELS["language_model"]) is None
    assert recorded(Both()) == ({"entropy_gap": 2.0, "mutual_information": 1.0}, "said")


def test_samples_are_counted(trained):
    samples = trained.subject.samples(300, seed=2)
    known = set(trained.corpus.splits["train"].texts)
    assert samples.drawn == len(samples.texts) == 300
    assert samples.in_list == sum(word in known for word in samples.texts) / 300
    assert samples.unique == len(set(samples.texts)) / 300
    limit = 2 * trained.corpus.max_steps
    assert samples.unfinished == sum(len(word) == limit for word in samples.texts)
    assert samples == trained.samples(300, seed=2)
