"""Tokenizers made from sentences: ids by hand, round trips, reserved symbols, prefixes."""

import unicodedata
from collections import Counter

import numpy as np
import pytest

from ppl_text.core.errors import ConfigError, DataError
from ppl_text.core.vocabulary import EOS_ID
from ppl_text.data.tokenizers import SPECIALS, UNK_ID, UNKNOWN, Tokenizer, character_tokenizer
from ppl_text.data.vocabularies import bpe_tokenizer, open_character_tokenizer, word_tokenizer

TEXTS = ["the cat sat on the mat", "the <unk> sat", "a _UNK is a word , N is too", "Éa שלום 😀 q\u0303"] * 5

MAKERS = {
    "word": lambda texts: word_tokenizer(texts),
    "character": lambda texts: open_character_tokenizer(texts),
    "bpe": lambda texts: bpe_tokenizer(texts, vocabulary=300),
}

UNICODE = [
    "",
    "the cat",
    "e\u0301 q\u0303",
    "😀👩‍👩‍👧 flag 🇩🇪",
    "\u202eשלום\u202c مرحبا",
    "हिन्दी 漢字 ﬁ Å Å",
    "a\ufeffb \u200b zero",
    "<s> </s> <pad>",
    "x<unk>y <unk>",
]


def composed(text):
    return unicodedata.normalize("NFC", text)


def test_words_by_hand():
    tokenizer = word_tokenizer(["b a <unk> a", "c a b <s>"])
    assert tokenizer.symbols == (*SPECIALS, UNKNOWN, "a", "b", "c")
    assert tokenizer.encode(["c d <unk> a", "<s> </s> <pad> A", ""]) == [[6, 3, 3, 4], [3, 3, 3, 3], []]
    assert tokenizer.decode([5, 3, 4, 2, 4]) == "b <unk> a"
    assert tokenizer.has_unknown
    assert not character_tokenizer("abc").has_unknown


def test_words_are_cut_off_by_count_and_by_size():
    texts = ["d d d d c c c b b a", "b"]
    assert word_tokenizer(texts, min_count=3).symbols[4:] == ("d", "b", "c"), "ties in alphabetical order"
    assert word_tokenizer(texts, vocabulary=6).symbols[4:] == ("d", "b")
    assert word_tokenizer(texts, vocabulary=6, min_count=4).symbols[4:] == ("d",)


def test_word_vocabulary_is_every_type_of_train():
    tokenizer = word_tokenizer(TEXTS)
    counts = Counter(word for text in TEXTS for word in text.split())
    del counts[UNKNOWN]
    assert set(tokenizer.symbols[4:]) == {composed(word) for word in counts}
    assert tokenizer.encode(["_UNK"]) != [[UNK_ID]], "Yahoo's unknown is an ordinary word"


def test_characters_by_hand():
    tokenizer = open_character_tokenizer(["ba a"], min_count=1)
    assert tokenizer.symbols == (*SPECIALS, UNKNOWN, "a", " ", "b")
    assert tokenizer.encode(["ab z<unk>"]) == [[4, 6, 5, 3, 3]]
    assert tokenizer.decode([4, 6, 5, 3]) == "ab <unk>"
    assert open_character_tokenizer(["ba a"], min_count=2).symbols[4:] == ("a",)


@pytest.mark.parametrize("text", UNICODE)
def test_bpe_loses_nothing(text):
    tokenizer = bpe_tokenizer(TEXTS, vocabulary=300)
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == composed(text)
    assert all(i > EOS_ID for i in ids)
    assert ids.count(UNK_ID) == text.count(UNKNOWN)


def test_bpe_learns_pairs():
    tokenizer = bpe_tokenizer(["aaab aaab aaab aab"] * 10, vocabulary=266)
    assert tokenizer.size == 266
    assert len(tokenizer.encode(["aaab aaab"])[0]) < 9
    assert bpe_tokenizer(["ab"], vocabulary=5000).size <= 262, "fewer where there are no more pairs"
    assert tokenizer == bpe_tokenizer(["aaab aaab aaab aab"] * 10, vocabulary=266)


def test_bpe_learns_nothing_from_the_name_of_the_unknown():
    tokenizer = bpe_tokenizer(["<unk> <unk>", "ab"] * 50, vocabulary=300)
    assert "ab" in tokenizer.symbols
    assert not any("un" in symbol or "nk" in symbol for symbol in tokenizer.symbols[4:])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("text", UNICODE)
def test_no_text_is_encoded_to_padding_or_the_ends(kind, text):
    (ids,) = MAKERS[kind]([*TEXTS, *UNICODE]).encode([text])
    assert all(i > EOS_ID for i in ids)


@pytest.mark.parametrize("kind", MAKERS)
def test_known_texts_come_back(kind):
    tokenizer = MAKERS[kind](TEXTS)
    for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
        assert tokenizer.decode(ids) == composed(text)


@pytest.mark.parametrize("kind", MAKERS)
def test_on_disk_and_back(kind, tmp_path):
    tokenizer = MAKERS[kind](TEXTS)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded == tokenizer
    assert loaded.encode([*TEXTS, *UNICODE]) == tokenizer.encode([*TEXTS, *UNICODE])
    assert loaded.symbols[3] == UNKNOWN
    assert loaded != MAKERS[kind](["other words zzz"])


@pytest.mark.parametrize("kind", MAKERS)
def test_prefixes_are_the_first_tokens(kind):
    tokenizer = MAKERS[kind](TEXTS)
    for text in ["the cat 😀 sat שלום <unk> mat", "😀😀😀", "q\u0303a é", "catsat thethe"]:
        text = composed(text)
        (ids,) = tokenizer.encode([text])
        found = []
        for most in range(1, len(ids) + 2):
            prefix = tokenizer.prefix(text, most)
            (first,) = tokenizer.encode([prefix])
            assert text.startswith(prefix)
            assert len(first) <= most
            assert first == ids[: len(first)]
            found.append(len(first))
        assert found == sorted(found)
        assert tokenizer.prefix(text, len(ids)) == text
        # A cut loses a space, or a character whose bytes it would part.
        assert all(most - n <= 4 for most, n in zip(range(1, len(ids) + 1), found, strict=False))


def test_random_texts_are_never_parted_wrongly():
    rng = np.random.default_rng(0)
    tokenizer = bpe_tokenizer(TEXTS, vocabulary=280)
    for _ in range(200):
        text = composed("".join(rng.choice(list("the cat😀éש<unk>"), size=12)))
        (ids,) = tokenizer.encode([text])
        most = int(rng.integers(1, len(ids) + 1))
        (first,) = tokenizer.encode([tokenizer.prefix(text, most)])
        assert first == ids[: len(first)]


def test_nothing_to_make_a_vocabulary_of():
    with pytest.raises(DataError, match=r"no word is left for the vocabulary: 1 different ones .* min_count 1"):
        word_tokenizer(["<unk> <unk>"])
    with pytest.raises(DataError, match=r"no character is left .* lower min_count or raise vocabulary"):
        open_character_tokenizer(["abc"], min_count=2)
    with pytest.raises(ConfigError, match="vocabulary must be 260 or more for bpe: 4 reserved symbols and 256 bytes"):
        bpe_tokenizer(["abc"], vocabulary=259)
