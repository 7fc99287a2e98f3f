"""Nearest texts against distances computed by hand, in chunks of any size."""

import itertools
import math

import pytest

from ppl_text.core.errors import DataError, UserError
from ppl_text.data.corpus import Side, Split
from ppl_text.evaluation import neighbours
from ppl_text.evaluation.neighbours import nearest_texts

from .spelling import MAX_STEPS, TOKENIZER, FlowReader, PlainReader, Reader, Spelling, code, constant

TEXTS = ["".join(letters) for n in (1, 2, 3) for letters in itertools.product("acdh", repeat=n)]


def split_of(texts):
    return Split(Side(texts, TOKENIZER))


def found(text, n, *, texts=TEXTS, guide=None, **options):
    return nearest_texts(
        Spelling(), guide or Reader(), split_of(texts), TOKENIZER, text, n=n, max_steps=MAX_STEPS, **options
    )


def by_hand(text, texts):
    return sorted((math.dist(code(text), code(other)), other) for other in set(texts))


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("text", ["acd", "b", "efgh"])
def test_the_nearest_are_those_of_all_pairs(text, chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    nearest, expected = found(text, 6), by_hand(text, TEXTS)
    assert [distance for _, distance in nearest] == pytest.approx([distance for distance, _ in expected[:6]], abs=1e-4)
    for other, distance in nearest:
        assert distance == pytest.approx(math.dist(code(text), code(other)), abs=1e-4)
    assert len({other for other, _ in nearest}) == 6


def test_the_text_itself_comes_first_at_no_distance():
    assert found("cad", 1) == [("cad", 0.0)]


@pytest.mark.parametrize("chunk", [2, 5, 256])
def test_equal_texts_count_once(chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    nearest = found("aaa", 3, texts=["aab"] * 9 + ["aba"] * 2 + ["aad", "ccc"] + ["aab"] * 4)
    assert sorted(text for text, _ in nearest) == ["aab", "aad", "aba"]


def test_there_may_be_fewer_than_asked_for():
    assert [text for text, _ in found("a", 10, texts=["a", "d", "c"])] == ["a", "c", "d"]


@pytest.mark.parametrize("guide", [FlowReader(), PlainReader()], ids=["flow", "program"])
def test_where_no_mean_is_known_it_is_that_of_some_draws(guide):
    """σ = 0.01: the noise of a mean of 16 is 0.0025 in each of 4 dimensions."""
    nearest = found("acd", 5, guide=guide, seed=3)
    expected = [distance for distance, _ in by_hand("acd", TEXTS)[:5]]
    assert [distance for _, distance in nearest] == pytest.approx(expected, abs=0.03)
    own = [found(text, 1, guide=guide, seed=i)[0].distance for i, text in enumerate(TEXTS[:12])]
    assert 0.0 < sum(own) / 12 < 0.012  # the difference of two single draws has a mean length of 0.027
    assert nearest == found("acd", 5, guide=guide, seed=3)
    assert nearest != found("acd", 5, guide=guide, seed=4)


def test_the_split_is_encoded_in_chunks_and_progress_is_told(monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", 10)
    told, guide = [], Reader()
    found("a", 2, guide=guide, report=lambda *both: told.append(both))
    assert guide.rows_at_once == [1, *[10] * 8, 4]
    assert told == [(i, 9) for i in range(1, 10)]


def test_programs_are_measured_as_they_will_be_used():
    guide, modes = Reader().train(), []
    guide.register_module("watch", None)
    posterior = guide.posterior
    guide.posterior = lambda batch: modes.append(guide.training) or posterior(batch)
    found("a", 1, guide=guide)
    assert set(modes) == {False}
    assert guide.training


def test_what_cannot_be_compared_is_refused(trained):
    arguments = {"n": 2, "max_steps": MAX_STEPS}
    with pytest.raises(UserError, match=r"this model \(constant\) has no latent to compare texts by"):
        nearest_texts(constant(Spelling()), Reader(), split_of(TEXTS), TOKENIZER, "a", **arguments)
    with pytest.raises(UserError, match=r"this model \(deep_state_space\) has a latent for each token.*sentence_vae"):
        nearest_texts(trained.model, trained.guide, split_of(TEXTS), TOKENIZER, "a", **arguments)
    with pytest.raises(UserError, match="the number of neighbours must be 1 or more; got 0"):
        found("a", 0)
    with pytest.raises(UserError, match="text 'abcde' has 5 tokens; this run takes 1 to 4"):
        found("abcde", 1)
    with pytest.raises(DataError, match="text 'xa' has the character 'x'"):
        found("xa", 1)
