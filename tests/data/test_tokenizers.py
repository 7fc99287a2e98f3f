"""Texts to ids and back: closed alphabets, tokenizers made from sentences, tokenizer.json on disk."""

import json
import os
import string
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch

from ppl_text.core.errors import ConfigError, DataError, PplTextError, UserError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from ppl_text.data.tokenizers import (
    SPECIALS,
    UNKNOWN,
    Tokenizer,
    bpe_tokenizer,
    character_tokenizer,
    open_character_tokenizer,
    word_tokenizer,
)

ALPHABETS = {
    "latin": string.ascii_lowercase,
    "any order": "zyxabc",
    "greek": "αβγδεζηθικλμνξοπρστυφχψως",
    "composed": "aéñöß",
    "marks": "qहदन\u0303\u0301\u093f\u094d\u0940",
    "han and emoji": "漢字😀𝔘",
    "markup": "<s>/pad ",
    "white space": " \t\n\u00a0",
}


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_ids_follow_the_alphabet(alphabet):
    tokenizer = character_tokenizer(alphabet)
    assert tokenizer.size == 3 + len(alphabet)
    assert tokenizer.symbols == (*SPECIALS, *alphabet)
    assert tokenizer.encode(list(alphabet)) == [[i] for i in range(3, 3 + len(alphabet))]
    assert (PAD_ID, BOS_ID, EOS_ID) == (0, 1, 2)


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_round_trip(alphabet, tmp_path):
    rng = np.random.default_rng(0)
    tokenizer = character_tokenizer(alphabet)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    texts = ["".join(rng.choice(list(alphabet), size=n)) for n in (0, 1, 2, 5, 40, 40, 40)]
    ids = tokenizer.encode(texts)
    assert [tokenizer.decode(i) for i in ids] == [unicodedata.normalize("NFC", t) for t in texts]
    assert all(len(i) == len(unicodedata.normalize("NFC", t)) for i, t in zip(ids, texts, strict=True))
    assert loaded.encode(texts) == ids
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded == tokenizer


def test_symbols_are_code_points_after_nfc():
    tokenizer = character_tokenizer("eéq\u0303")
    assert tokenizer.encode(["e\u0301"]) == tokenizer.encode(["é"]) == [[4]], "composed: one symbol"
    assert tokenizer.encode(["q\u0303"]) == [[5, 6]], "no composed form: two symbols"
    assert tokenizer.decode(tokenizer.encode(["e\u0301"])[0]) == "é"


def test_specials_cannot_be_written_in_a_text():
    tokenizer = character_tokenizer("<s>/pad")
    for text in ("<s>", "</s>", "<pad>", "a<s>d"):
        (ids,) = tokenizer.encode([text])
        assert min(ids) > EOS_ID
        assert tokenizer.decode(ids) == text


def test_decode_stops_at_eos_and_skips_padding():
    tokenizer = character_tokenizer("abc")
    ids = [BOS_ID, 3, PAD_ID, 5, EOS_ID, 4, PAD_ID]
    for given in (ids, tuple(ids), iter(ids), np.array(ids), torch.tensor(ids)):
        assert tokenizer.decode(given) == "ac"
    assert tokenizer.decode([]) == tokenizer.decode([EOS_ID, 3]) == ""


@pytest.mark.parametrize("wrong", [6, -1])
def test_decode_refuses_what_is_no_id(wrong):
    with pytest.raises(DataError, match=f"cannot decode id {wrong}: the vocabulary has ids 0 to 5"):
        character_tokenizer("abc").decode([3, wrong])


def test_unknown_character_names_text_and_character():
    with pytest.raises(DataError) as caught:
        character_tokenizer("abc").encode(["ab", "cae\u0301", "b"])
    message = str(caught.value)
    assert message.startswith("text 'cae\u0301' has the character 'é' (U+00E9, LATIN SMALL LETTER E WITH ACUTE)")
    assert "its 3 characters are 'abc'" in message


def test_one_text_is_not_taken_for_many():
    with pytest.raises(TypeError, match=r"encode\(\[text\]\)"):
        character_tokenizer("abc").encode("abc")


@pytest.mark.parametrize(
    ("alphabet", "message"),
    [
        ("", "one or more different characters; got ''"),
        ("aba", "one or more different characters; got 'aba'"),
        ("a\u212b", r"U\+212B, ANGSTROM SIGN\), which Unicode's NFC replaces by 'Å'"),
    ],
)
def test_bad_alphabet(alphabet, message):
    with pytest.raises(DataError, match=message):
        character_tokenizer(alphabet)


def test_fingerprint_is_that_of_the_alphabet():
    prints = [character_tokenizer(a).fingerprint for a in ("abc", "abc", "acb", "abcd")]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert character_tokenizer("abc") != character_tokenizer("acb")


# -- tokenizers made from sentences ------------------------------------------------------------------

SENTENCES = ["the cat sat on the mat", "the <unk> sat", "a _UNK is a word , N is too", "Éa שלום 😀 q\u0303"] * 5

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
    tokenizer = word_tokenizer(SENTENCES)
    counts = Counter(word for text in SENTENCES for word in text.split())
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
    tokenizer = bpe_tokenizer(SENTENCES, vocabulary=300)
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
    (ids,) = MAKERS[kind]([*SENTENCES, *UNICODE]).encode([text])
    assert all(i > EOS_ID for i in ids)


@pytest.mark.parametrize("kind", MAKERS)
def test_known_sentences_come_back(kind):
    tokenizer = MAKERS[kind](SENTENCES)
    for text, ids in zip(SENTENCES, tokenizer.encode(SENTENCES), strict=True):
        assert tokenizer.decode(ids) == composed(text)


@pytest.mark.parametrize("kind", MAKERS)
def test_on_disk_and_back(kind, tmp_path):
    tokenizer = MAKERS[kind](SENTENCES)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded == tokenizer
    assert loaded.encode([*SENTENCES, *UNICODE]) == tokenizer.encode([*SENTENCES, *UNICODE])
    assert loaded.symbols[3] == UNKNOWN
    assert loaded != MAKERS[kind](["other words zzz"])


@pytest.mark.parametrize("kind", MAKERS)
def test_prefixes_are_the_first_tokens(kind):
    tokenizer = MAKERS[kind](SENTENCES)
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
    tokenizer = bpe_tokenizer(SENTENCES, vocabulary=280)
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


# -- on disk ----------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(
        UserError, match=r"none\.json' cannot be read: No such file or directory; give the tokenizer\.json"
    ):
        Tokenizer.load(tmp_path / "none.json")


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "tokenizer.json"
    character_tokenizer("abc").save(path)
    path.write_text(path.read_text()[:keep])
    with pytest.raises(UserError, match=r"tokenizer\.json' is damaged: .*; restore it from a copy"):
        Tokenizer.load(path)


def test_binary_file(tmp_path):
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read: it is not UTF-8"):
        Tokenizer.load(tmp_path / "t.json")


def test_tokenizer_of_someone_else(tmp_path):
    path = tmp_path / "tokenizer.json"
    character_tokenizer("abc").save(path)
    content = json.loads(path.read_text())
    content["model"]["vocab"] = {"[PAD]": 0, "a": 1, "b": 2, "c": 3}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json': not a tokenizer of ppl_text: .*; got \[PAD\], a, b"):
        Tokenizer.load(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_saving_replaces_whole_files_only(tmp_path, monkeypatch, step):
    path = tmp_path / "tokenizer.json"
    character_tokenizer("abc").save(path)
    before = path.read_text()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(PplTextError, match=r"cannot write .*the disk is full") as caught:
        character_tokenizer("xyz").save(path)
    assert caught.value.exit_code == 1
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    with pytest.raises(PplTextError, match=r"cannot write .*No such file"):
        character_tokenizer("xyz").save(tmp_path / "none" / "tokenizer.json")


def test_pieces_are_what_a_reader_sees_of_each_token():
    tokenizer = bpe_tokenizer(["the dog the dog"] * 3, vocabulary=270)
    ids = tokenizer.encode(["the dog é"])[0]
    assert tokenizer.pieces([*ids[:2], EOS_ID]) == ["the", "dog", "</s>"]
    assert tokenizer.pieces(ids[-2:]) == [tokenizer.symbols[i] for i in ids[-2:]], "bytes of a character"
    words = word_tokenizer(["a b"])
    assert words.pieces([4, 5, 3, EOS_ID]) == ["a", "b", "<unk>", "</s>"]
