"""Data of another kind than a recipe's are refused with the command that fits, and the command does."""

import itertools
import json
import shlex

import pytest

from ppl_text.core.errors import UserError
from ppl_text.data.kinds import held_in
from ppl_text.recipes.build import build_programs
from ppl_text.recipes.errors import Errors
from ppl_text.recipes.start import checked_parts, model_remarks

SENTENCES = [f"the {a} {b} the sea" for a in ("king", "dog", "cat", "bird") for b in ("sees", "hears", "fears")] * 3
COUNTS = [f"{a}{b}{c}\t{9 + i}" for i, (a, b, c) in enumerate(itertools.product("bdlm", "aeiou", "bdlm"))]


def written(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def sentences_as(folder, form):
    """The sentences in one of the forms that are read."""
    if form == "folder":
        (folder / "d").mkdir()
        written(folder / "d" / "train.txt", SENTENCES)
        return str(folder / "d")
    lines = {
        "csv": ["id,text", *(f"{i},{line}" for i, line in enumerate(SENTENCES))],
        "jsonl": [json.dumps({"text": line}) for line in SENTENCES],
        "tsv": [f"{i}\t{line}" for i, line in enumerate(SENTENCES)],
        "txt": SENTENCES,
    }
    return written(folder / f"mine.{form}", lines[form])


def parts(recipe, corpus, **changes):
    given = {"data.corpus": corpus, **{key.replace("__", "."): value for key, value in changes.items()}}
    return checked_parts(recipe, given, {}, Errors(), [])


def commands_of(message):
    """The commands that a message advises, as recipe and changes."""
    found = [part.split(". To ")[0] for part in message.split("python -m ppl_text fit ")[1:]]
    for words in map(shlex.split, found):
        changes = dict(word.split("=") for word in words if "=" in word)
        yield words[0], words[words.index("--data") + 1], {key.replace(".", "__"): v for key, v in changes.items()}


@pytest.mark.parametrize("form", ["txt", "csv", "jsonl", "tsv", "folder"])
def test_sentences_are_no_words(tmp_path, form):
    corpus = sentences_as(tmp_path, form)
    with pytest.raises(UserError, match=r"holds texts of 5.0 words, and recipe 'words' models single words") as caught:
        parts("words", corpus)
    (recipe, named, changes), *_ = commands_of(str(caught.value))
    assert (recipe, named, changes) == ("text-vae", corpus, {})
    assert not parts(recipe, named).corpus.weighted


def test_the_words_of_a_text_are_learned_where_that_is_said(tmp_path):
    corpus = sentences_as(tmp_path, "txt")
    with pytest.raises(UserError) as caught:
        parts("words", corpus)
    *_, (recipe, named, changes) = commands_of(str(caught.value))
    assert (recipe, changes) == ("words", {"data__unit": "word-list"})
    assert set(parts(recipe, named, **changes).corpus.splits["train"].texts) <= {
        w for line in SENTENCES for w in line.split()
    }


def test_counted_words_are_no_sentences(tmp_path):
    corpus = written(tmp_path / "list.tsv", COUNTS)
    with pytest.raises(
        UserError, match=r"holds lines of word<TAB>count, and recipe 'text-lm' models sentences"
    ) as caught:
        parts("text-lm", corpus)
    (recipe, named, _), (same, _, changes) = commands_of(str(caught.value))
    assert parts(recipe, named).corpus.weighted
    assert same == "text-lm"
    assert not parts(same, named, data__min_count=1, **changes).corpus.weighted


def test_long_texts_are_no_words_of_the_state_space_model(tmp_path):
    lines = [f"{i} " + " ".join(SENTENCES[j] for j in range(12))[:-4] for i in range(60)]
    corpus = written(tmp_path / "long.txt", lines)
    unit = {"data__unit": "sentences", "data__min_count": 1}
    with pytest.raises(UserError, match=r"has texts of up to 60 tokens, and deep_state_space is made for 40") as caught:
        parts("words", corpus, **unit)
    assert "fit text-vae --data" in str(caught.value)
    assert str(caught.value).endswith("--set data.max_tokens=40")
    assert parts("words", corpus, **unit, data__max_tokens=40).corpus.max_steps == 41
    assert parts("words", corpus, **unit, data__max_tokens=70).corpus.max_steps == 61, "said, so meant"
    short = written(tmp_path / "short.txt", SENTENCES)
    assert parts("words", short, **unit).corpus.max_steps == 6


def test_a_configuration_that_names_its_own_data_is_not_asked(tmp_path):
    """Only data that a command names beside a recipe are looked at."""
    corpus = sentences_as(tmp_path, "txt")
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: words\ndata: {{corpus: '{corpus}'}}\n", encoding="utf-8")
    assert checked_parts(str(path), {}, {}, Errors(), []).corpus.weighted


@pytest.mark.parametrize(
    ("lines", "held"),
    [
        (["a b c", "a"], (2.0, False)),
        (["one", "word", "each"], (1.0, False)),
        (["a\t1", "b\t2"], (1.0, True)),
        (["a\tb c", "b\t2"], (1.5, False)),
        (["12", "13"], (1.0, False)),
        (["", " "], None),
        (["a\tb\tc"], None),
    ],
)
def test_what_files_hold(tmp_path, lines, held):
    assert held_in(written(tmp_path / "mine.txt", lines)) == held


def test_what_is_not_there_holds_nothing(tmp_path):
    assert held_in("hub:x/y") is held_in(str(tmp_path)) is held_in("words") is None


# -- sources ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [json.dumps({"source": f"{line} now", "target": line}) for line in SENTENCES]
    return written(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


def test_a_model_that_reads_sources_is_given_some(tmp_path, pairs):
    assert parts("pairs-ded", pairs).corpus.source_tokenizer is not None
    texts = sentences_as(tmp_path, "txt")
    with pytest.raises(UserError, match=r"has no sources, which source_max_tokens is about; expected pairs"):
        parts("pairs-ded", texts)
    with pytest.raises(UserError, match=r"encoder_decoder reads a source beside each text, and .* holds texts alone"):
        parts("pairs-ded", texts, data__source_max_tokens=None)
    found = parts("pairs-ded", texts, data__sources="text").corpus
    assert found.source_tokenizer == found.tokenizer


def test_a_model_that_reads_none_is_given_the_targets_alone(pairs):
    with pytest.raises(
        UserError, match=r"reads no source, and .* pairs\. To model its targets alone: --set data.sources=none"
    ):
        parts("text-lm", pairs)
    found = parts("text-lm", pairs, data__sources="none").corpus
    assert found.source_tokenizer is None
    assert set(found.splits["train"].texts) <= set(SENTENCES)


def test_texts_beyond_the_positions_are_refused_in_every_split_before_training(tmp_path):
    for split, long in (("train", 0), ("valid", 0), ("test", 2)):
        written(tmp_path / f"{split}.txt", SENTENCES + ["the king sees the sea and the sea sees the king"] * long)
    options = {"model__positions": 10, "data__tokenizer": "word"}
    config, corpus, *_ = parts("verses-gpt2", str(tmp_path), **options)
    model = build_programs(config, corpus.vocabulary).model
    message = r"test: 2 of 38 texts have more tokens than the 10 positions of the model, the longest 13"
    with pytest.raises(UserError, match=message):
        model_remarks(model, corpus)
    model.backbone.positions = 13
    assert model_remarks(model, corpus) == []
