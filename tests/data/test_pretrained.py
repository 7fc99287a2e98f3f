import json

import numpy as np
import pytest
from families.pretrained_folders import FOLDERS, TEXTS
from transformers import AutoTokenizer

from ppl_text.core.errors import UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.pretrained import pretrained_folder, pretrained_tokenizer, row_map
from ppl_text.data.tokenizers import Tokenizer, bpe_tokenizer

TYPED = (
    *TEXTS,
    "",
    " lead and  two spaces ",
    "I'rex isn't it's 12345 6",
    "日本語 ☃ 𝄞 é e\u0301 \u00a0x",
    "<unk> what <mask> <|im_start|>",
)
"""Texts without the names of padding, BOS and EOS."""


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    return FOLDERS[request.param](tmp_path_factory.mktemp("pretrained") / request.param)


def test_texts_are_encoded_and_decoded_as_by_the_folders_own_tokenizer(folder):
    tokenizer, own, rows = pretrained_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder), row_map(folder)
    assert tokenizer.symbols[:3] == ("<pad>", "<s>", "</s>")
    for text, ids in zip(TYPED, tokenizer.encode(TYPED), strict=True):
        expected = own(text, add_special_tokens=False)["input_ids"]
        assert rows[ids].tolist() == expected
        assert tokenizer.decode(ids) == own.decode(expected)


def test_a_run_keeps_the_tokenizer_whole(folder, tmp_path):
    tokenizer = pretrained_tokenizer(str(folder))
    tokenizer.save(tmp_path / "tokenizer.json")
    for kept in (Tokenizer.load(tmp_path / "tokenizer.json"), pretrained_tokenizer(str(tmp_path / "tokenizer.json"))):
        assert kept == tokenizer
        assert kept.encode(TYPED) == tokenizer.encode(TYPED)
        assert kept.vocabulary == tokenizer.vocabulary


def test_no_text_is_padding_or_begins_or_ends_a_sentence(folder):
    texts = ["<pad> <s> </s> <|endoftext|>", "<s>", "</s>", "a<|endoftext|>"]
    assert min(min(ids) for ids in pretrained_tokenizer(str(folder)).encode(texts)) >= 3


REORDERED = {"gpt2": [319, -1, -1], "llama": [-1, 1, 2, 0], "bart": [1, 0, 2, 3]}


@pytest.mark.parametrize("architecture", FOLDERS)
def test_rows_are_those_of_the_specials_and_then_the_others_in_order(architecture, tmp_path):
    folder = FOLDERS[architecture](tmp_path)
    rows, own = row_map(folder), AutoTokenizer.from_pretrained(folder)
    first = REORDERED[architecture]
    assert rows[: len(first)].tolist() == first
    assert (np.diff(rows[len(first) :]) == 1).all()
    assert sorted(rows[rows >= 0]) == list(range(len(own))), "every pretrained row has its place"


def test_gpt2_at_its_own_size_has_two_new_rows(tmp_path):
    # 50,257 symbols as GPT-2 has them: 256 bytes, <|endoftext|> at the end, and 50,000 that no text here contains.
    from families.pretrained_folders import gpt2_folder

    folder = gpt2_folder(tmp_path)
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    vocab = description["model"]["vocab"]
    vocab.pop("<|endoftext|>")
    vocab |= {f"☃{i}": i for i in range(len(vocab), 50_256)} | {"<|endoftext|>": 50_256}
    description["added_tokens"][0]["id"] = 50_256
    path.write_text(json.dumps(description))
    rows = row_map(folder)
    assert pretrained_tokenizer(str(folder)).size == len(rows) == 50_259
    assert rows[:5].tolist() == [50_256, -1, -1, 0, 1]


def test_a_tokenizer_that_is_not_the_folders_is_refused(folder):
    size = pretrained_tokenizer(str(folder)).size
    other = bpe_tokenizer(["the dog hears the sea"] * 2, vocabulary=270)
    with pytest.raises(
        UserError, match=rf"is not that of the pretrained model in .*: it has {other.size} symbols, where"
    ):
        row_map(folder, other.vocabulary)
    same_size = Vocabulary(size, digest=other.vocabulary.digest)
    with pytest.raises(
        UserError, match=rf"it has as many symbols \({size}\), but others; set data.tokenizer=pretrained"
    ):
        row_map(folder, same_size)
    assert len(row_map(folder, Vocabulary(size))) == size, "a vocabulary that nobody has said more of"


def test_what_is_no_pretrained_model_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json; get the files where there is a network"):
        pretrained_folder(str(tmp_path))
    with pytest.raises(UserError, match="no name that the hub could have; get the files"):
        pretrained_folder("no/such/folder")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"expected a folder with config\.json or a file NAME\.gguf; got a file"):
        pretrained_folder(str(tmp_path / "file"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match=r"it holds no tokenizer; expected tokenizer\.json and tokenizer_config\.json"):
        pretrained_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        pretrained_tokenizer(str(tmp_path))


def test_a_name_that_is_nowhere_says_how_to_get_it(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"hf download gpt2 --local-dir DIR\) and give DIR, or start from random weights"
    ):
        pretrained_folder("gpt2")


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    import transformers
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    unknown = {"unk_token": "<unk>"}
    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1}, **unknown))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **unknown).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="of the kind WordLevel; expected byte pairs"):
        pretrained_tokenizer(str(tmp_path))
