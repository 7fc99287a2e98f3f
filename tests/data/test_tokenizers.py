"""Texts to ids and back, and tokenizer.json on disk."""

import json
import os
import string
import unicodedata

import numpy as np
import pytest
import torch

from ppl_text.core.errors import DataError, PplTextError, UserError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID
from ppl_text.data.tokenizers import SPECIALS, Tokenizer, character_tokenizer

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
