"""Texts out of a model: repeatable, counted, and through the guide and back."""

import pytest
import torch

from guides.language_model import ExactGuide
from ppl_text.core.errors import DataError, UserError
from ppl_text.evaluation import generation
from ppl_text.evaluation.generation import interpolate_texts, reconstruct_texts, sample_texts, seeded
from ppl_text.models.language_model import LanguageModel


@pytest.fixture
def programs(trained):
    return trained.model, trained.guide, trained.corpus.tokenizer


def test_samples_are_repeatable_and_leave_the_random_state_alone(programs):
    model, _, tokenizer = programs
    before = torch.get_rng_state()
    first = sample_texts(model, tokenizer, 50, steps=6, seed=1)
    assert first == sample_texts(model, tokenizer, 50, steps=6, seed=1)
    assert first != sample_texts(model, tokenizer, 50, steps=6, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first.texts) == 50
    assert max(map(len, first.texts)) <= 6


def test_texts_without_an_end_are_counted(programs):
    """A text of as many letters as steps has no EOS; every shorter one has."""
    model, _, tokenizer = programs
    samples = sample_texts(model, tokenizer, 200, steps=3, seed=1)
    assert samples.unfinished == sum(len(text) == 3 for text in samples.texts)
    assert 0 < samples.unfinished < 200


def test_reconstruction_does_not_depend_on_how_many_are_encoded_at_once(programs, monkeypatch):
    """With a guide that has no spread, chunks of 2 give what one batch gives."""
    model, guide, tokenizer = programs
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.zeros(*shape, **options))
    texts = ["bade", "ma", "ro", "tolu", "sa"]
    whole = reconstruct_texts(model, guide, tokenizer, texts, max_steps=6, seed=0)
    monkeypatch.setattr(generation, "CHUNK", 2)
    assert reconstruct_texts(model, guide, tokenizer, texts, max_steps=6, seed=0) == whole
    assert len(whole) == 5


class Copying:
    """A model whose latent is the ids themselves: what is encoded is what is decoded."""

    def __init__(self, model):
        self._model, self.latents = model, model.latents

    def parameters(self):
        return self._model.parameters()

    def decode(self, states):
        return states.long()

    def interpolate(self, first, second, lengths, points):
        assert lengths == (5, 3)
        return torch.stack([first if point < points - 1 else second for point in range(points)]).long()


def test_reconstruction_pairs_each_text_with_its_own(programs, monkeypatch):
    model, guide, tokenizer = programs
    monkeypatch.setattr(generation, "_latent", lambda model, guide, batch: batch.tokens)
    monkeypatch.setattr(generation, "CHUNK", 2)
    texts = ["bade", "ma", "ro", "tolu", "sa"]
    assert reconstruct_texts(Copying(model), guide, tokenizer, texts, max_steps=6, seed=0) == texts


def test_interpolation_leads_from_one_text_to_the_other(programs, monkeypatch):
    model, guide, tokenizer = programs
    monkeypatch.setattr(generation, "_latent", lambda model, guide, batch: batch.tokens)
    found = interpolate_texts(Copying(model), guide, tokenizer, "bade", "ma", points=3, max_steps=6, seed=0)
    assert found == ["bade", "bade", "ma"]


def test_the_ends_of_an_interpolation_are_the_reconstructions(programs):
    model, guide, tokenizer = programs
    ends = reconstruct_texts(model, guide, tokenizer, ["bade", "mato"], max_steps=6, seed=4)
    found = interpolate_texts(model, guide, tokenizer, "bade", "mato", points=5, max_steps=6, seed=4)
    assert [found[0], found[-1]] == ends


BAD = {
    "empty": ([""], UserError, "text '' has 0 tokens; this run takes 1 to 5"),
    "too long": (["ma", "babababa"], UserError, "text 'babababa' has 8 tokens; this run takes 1 to 5"),
    "unknown": (["x"], DataError, "text 'x' has the character 'x'"),
}


@pytest.mark.parametrize(("texts", "kind", "message"), BAD.values(), ids=BAD)
def test_texts_that_do_not_fit_are_refused(programs, texts, kind, message):
    model, guide, tokenizer = programs
    with pytest.raises(kind, match=message):
        reconstruct_texts(model, guide, tokenizer, texts, max_steps=6, seed=0)


def test_a_model_without_latents_generates_and_does_no_more(programs):
    _, _, tokenizer = programs
    model = LanguageModel(tokenizer.size)
    assert len(sample_texts(model, tokenizer, 5, steps=4, seed=0).texts) == 5
    arguments = model, ExactGuide(model), tokenizer
    with pytest.raises(UserError, match=r"this model \(language_model\) has no latent to reconstruct from"):
        reconstruct_texts(*arguments, ["ma"], max_steps=6, seed=0)
    with pytest.raises(UserError, match=r"this model \(language_model\) has no latent to interpolate between"):
        interpolate_texts(*arguments, "ma", "ro", points=3, max_steps=6, seed=0)


def test_an_interpolation_needs_two_points(programs):
    with pytest.raises(UserError, match="at least 2 points; got 1"):
        interpolate_texts(*programs, "ma", "ro", points=1, max_steps=6, seed=0)


def test_seeded_gives_the_random_state_back_after_a_fault():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="negative"), seeded(3):
        torch.rand(5, out=torch.rand(2).new_empty(-1))
    assert torch.equal(torch.get_rng_state(), before)
