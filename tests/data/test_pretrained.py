import json
from string import ascii_letters

import numpy as np
import pytest
from families.pretrained_folders import FOLDERS, TEXTS
from transformers import AutoTokenizer

from ppl_text.core.errors import ConfigError, DataError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.catalogue import load_corpus
from ppl_text.data.pretrained import pretrained_folder, pretrained_tokenizer, row_map
from ppl_text.data.randomness import WordDropout
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


@pytest.fixture
def data(tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    for split in ("train", "valid", "test"):
        (place / f"{split}.txt").write_text("".join(f"{text} {split}\n" for text in (*TEXTS, "no one")))
    return place


def load(place, folder, **options):
    return load_corpus(str(place), unit="sentences", tokenizer="pretrained", pretrained=str(folder), **options)


def test_a_corpus_is_read_in_the_symbols_of_the_folder(folder, data):
    corpus, tokenizer = load(data, folder), pretrained_tokenizer(str(folder))
    assert corpus.tokenizer == tokenizer
    assert corpus.vocabulary == tokenizer.vocabulary
    train = corpus.splits["train"]
    for i, text in enumerate(train.texts):
        assert list(train.target.table.tokens(i)) == tokenizer.encode([text])[0]
        assert tokenizer.decode(train.target.table.tokens(i)) == text
    assert f"vocabulary: {tokenizer.size} symbols, those of the pretrained {folder}" in corpus.notes


def test_a_corpus_depends_on_the_tokenizer(data, tmp_path):
    prints = {load(data, make(tmp_path / name)).fingerprint for name, make in FOLDERS.items()}
    prints.add(load(data, FOLDERS["gpt2"](tmp_path / "other", texts=TEXTS[:2])).fingerprint)
    assert len(prints) == 4


def test_long_texts_are_counted_in_these_tokens(folder, data):
    tokenizer, own = pretrained_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    texts = load(data, folder).splits["train"].texts
    lengths = [len(own(text, add_special_tokens=False)["input_ids"]) for text in texts]
    most = max(lengths) - 1
    cut = load(data, folder, max_tokens=most)
    assert cut.splits["train"].long.truncated == sum(length > most for length in lengths) > 0
    for text, whole, row in zip(cut.splits["train"].texts, texts, range(len(texts)), strict=True):
        ids = list(cut.splits["train"].target.table.tokens(row))
        assert ids == tokenizer.encode([whole])[0][: len(ids)]
        assert len(ids) <= most
        assert whole.startswith(text)
    dropped = load(data, folder, max_tokens=most, long="drop").splits["train"]
    assert len(dropped) == sum(length <= most for length in lengths)
    with pytest.raises(DataError, match=rf"more than max_tokens={most}"):
        load(data, folder, max_tokens=most, long="refuse")


def test_texts_that_are_equal_once_truncated_share_a_split(folder, tmp_path):
    letters = [*ascii_letters, *"日本語é☃"]
    lines = [f"{a}{b} the {a}日 sea tail{number}" for a in letters for b in "日te" for number in range(3)]
    (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    for most in (4, 7, 9):
        corpus = load(tmp_path / "lines.txt", folder, max_tokens=most, test_share=0.3, valid_share=0.3)
        assert not corpus.repeats


def test_both_sides_of_pairs_share_it(folder, tmp_path):
    for split in ("train", "valid", "test"):
        rows = "".join(f"{text} {split}\t{other}\n" for text, other in zip(TEXTS, TEXTS[::-1], strict=True))
        (tmp_path / f"{split}.tsv").write_text(f"source\ttarget\n{rows}")
    corpus = load(tmp_path, folder, shared_vocabulary=True, min_count=2)
    assert corpus.source_tokenizer is corpus.tokenizer
    assert "not used, with tokenizer=pretrained: min_count, shared_vocabulary" in corpus.notes


def test_words_cannot_become_unknown_where_there_is_no_such_symbol(tmp_path):
    ids = pretrained_tokenizer(str(FOLDERS["gpt2"](tmp_path))).vocabulary.ids
    assert ids.unk is None
    with pytest.raises(ConfigError, match="the byte pairs of a pretrained model may lack it"):
        WordDropout(0.5, ids, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tokenizer": "pretrained"}, "'pretrained': expected a folder of a pretrained model, or its name, for"),
        ({"pretrained": "gpt2"}, "'pretrained': expected data.tokenizer=pretrained beside it; got word"),
    ],
)
def test_the_kind_and_the_model_go_together(options, says):
    with pytest.raises(ConfigError) as raised:
        load_corpus("verses", **options)
    assert says in str(raised.value)


def test_a_name_in_the_local_cache_is_found_without_a_network(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--someone--tiny"
    folder = FOLDERS["gpt2"](place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    assert pretrained_folder("someone/tiny") == folder
    assert pretrained_tokenizer("someone/tiny") == pretrained_tokenizer(str(folder))
