"""Words and bytes of what was scored, and perplexities by them that do not depend on the tokenizer."""

import math
from dataclasses import replace

import pytest
import torch

from ppl_text.core.vocabulary import EOS_ID, PAD_ID
from ppl_text.data.batches import evaluation_batches
from ppl_text.data.corpus import Side, Split
from ppl_text.data.tokenizers import bpe_tokenizer, character_tokenizer, open_character_tokenizer, word_tokenizer
from ppl_text.evaluation.likelihood import SentenceBounds, summarize
from ppl_text.evaluation.sentences import common_sentences, text_units

BOUNDS = SentenceBounds(1.0, 6.0, 9.0, 4.0, 0.0, 0.0, -13.0, -12.0, 0.0, 0.0, 0.0, 0.5)
"""Of a sentence of six tokens, whose bound is -12 nats."""

TEXTS = ["the dog sees", "größe  é", "a", "the dog sees the sea"]


def sentences(tokenizer, texts=TEXTS):
    return common_sentences(
        evaluation_batches(Split(Side(texts, tokenizer)), weighted=False, batch_size=3, buckets=(9, 99))
    )


def test_the_end_of_a_text_is_a_word_and_a_byte():
    """BPE keeps every byte of a text in NFC, words one space between them."""
    exact = text_units(sentences(bpe_tokenizer(TEXTS, vocabulary=300)), bpe_tokenizer(TEXTS, vocabulary=300))
    assert exact == (3 + 2 + 1 + 5 + 4, sum(len(t.encode()) for t in ("the dog sees", "größe  é", "a", TEXTS[3])) + 4)
    by_words = text_units(sentences(word_tokenizer(TEXTS)), word_tokenizer(TEXTS))
    assert by_words == (exact.words, exact.bytes - 1)
    letters = open_character_tokenizer(TEXTS)
    assert text_units(sentences(letters), letters) == exact


def test_weights_count():
    tokenizer = character_tokenizer("ab")
    data = sentences(tokenizer, ["ab", "b"])
    for batch in data.batches:
        batch.weights[batch.lengths == 3] = 5.0
    assert text_units(data, tokenizer) == (2 * 5 + 2, 3 * 5 + 2)


def test_a_text_that_was_truncated_counts_as_far_as_it_was_scored():
    tokenizer = word_tokenizer(TEXTS)
    data = sentences(tokenizer, ["the dog sees the sea"])
    cut = torch.tensor([[*tokenizer.encode(["the dog"])[0], EOS_ID, PAD_ID]])
    shorter = replace(data.batches[0], tokens=cut, decoder_inputs=cut)
    assert text_units(replace(data, batches=(shorter,)), tokenizer) == (3, 8)


def test_unknown_words_leave_nothing_to_say_unless_the_text_has_them():
    known = word_tokenizer(["the dog sees", "<unk>"])
    assert text_units(sentences(known, ["the dog"]), known) == (3, 8)
    assert text_units(sentences(known, ["the cat"]), known) is None
    assert text_units(sentences(known, ["the <unk>"]), known) == (3, 10)


def test_perplexity_per_word_and_bits_per_byte():
    bounds = SentenceBounds(*(torch.full((10,), value, dtype=torch.float64) for value in BOUNDS))
    found = summarize(bounds, particles=8)
    assert math.isnan(found.word_perplexity)
    assert math.isnan(found.bits_per_byte)
    known = replace(found, n_spaced=100.0, n_bytes=700.0)
    assert known.word_perplexity == pytest.approx(math.exp(120.0 / 100))
    assert known.bits_per_byte == pytest.approx(120.0 / 700 / math.log(2))
    # One token a word: it is the perplexity per token.
    assert replace(known, n_spaced=60.0).word_perplexity == known.perplexity
