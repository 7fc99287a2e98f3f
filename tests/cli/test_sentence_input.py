"""Sentences as users have them: empty, long, single, in every script, and other ones than the run was trained on."""

import json
import re
import shutil
import unicodedata

import pytest
from families.pretrained_folders import FOLDERS

from ppl_text.core.printing import printable

from .test_bad_input import tree

SMALL = {
    "model.latent_dim": 2,
    "model.embedding_dim": 6,
    "model.hidden_dim": 6,
    "data.lower": False,
    "data.min_count": 1,
    "data.batch_size": 8,
    "data.buckets": 2,
    "training.steps": 3,
    "training.log_every": 1,
    "report.sentences": 6,
    "report.particles": 2,
    "report.samples": 3,
}
SPLITS = ("train", "valid", "test")


def options(**changes):
    given = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


def written(folder, train, valid=None, test=None):
    """A folder of three files; ``train`` stands for those that are not given."""
    folder.mkdir(exist_ok=True)
    for name, lines in zip(SPLITS, (train, valid or train, test or train), strict=True):
        (folder / f"{name}.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    return folder


@pytest.fixture
def fit(ppl, tmp_path):
    """``fit(folder, **changes)``: ``verses-vae``, tiny, on a folder; into ``run``."""

    def run(folder, **changes):
        return ppl("fit", "verses-vae", "--data", folder, *options(**changes), "--out", tmp_path / "run")

    return run


def refused(ended, *says):
    """One message, status 2."""
    assert (ended.status, ended.out) == (2, ""), ended.err
    assert "Traceback" not in ended.err
    for text in says:
        assert text in ended.err, ended.err
    assert ended.err.count("error: ") == 1


LINES = ["the cat sees a dog", "", "a dog", " \t ", "the dog sees the cat and the cat", "\u3000", "the cat"]


@pytest.mark.parametrize("place", ["printed", "report"])
def test_empty_lines_are_counted_and_reported(place, fit, tmp_path):
    ended = fit(written(tmp_path / "d", LINES, LINES[:3], LINES[:1]))
    assert ended.status == 0, ended.err
    said = ended.err if place == "printed" else (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "train.txt: 7 lines read, 3 without text dropped" in said
    assert "valid.txt: 3 lines read, 1 without text dropped" in said
    assert "train: 4 sentences" in said


def test_empty_lines_are_refused_by_option(fit, tmp_path):
    refused(fit(written(tmp_path / "d", LINES), data__empty="refuse"), "train.txt, line 2: no text; remove the line")
    assert not (tmp_path / "run").exists()


LONG = {
    "truncate": "train: 2 sentences of more than 4 tokens truncated",
    "drop": "train: 2 sentences of more than 4 tokens dropped",
}


@pytest.mark.parametrize("option", LONG)
def test_long_lines_are_counted_and_reported(option, fit, tmp_path):
    folder = written(tmp_path / "d", LINES, LINES[2:3], LINES[2:3])
    ended = fit(folder, data__max_tokens=4, data__long=option)
    assert ended.status == 0, ended.err
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert LONG[option] in ended.err
    assert LONG[option] in report
    assert f"{4 if option == 'truncate' else 2} training sentences" in report


def test_long_lines_are_refused_by_option(fit, tmp_path):
    ended = fit(written(tmp_path / "d", LINES), data__max_tokens=5, data__long="refuse")
    refused(ended, "train.txt, line 5: 8 tokens, more than max_tokens=5", "or truncate or drop such sentences")
    assert not (tmp_path / "run").exists()


def test_one_sentence_is_a_corpus(fit, ppl, tmp_path):
    """Every split has it; batches, validation, figures of the latents and neighbours can do with one."""
    assert fit(written(tmp_path / "d", ["only one"])).status == 0
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert (results["n_sent"], results["n_eos"], results["mutual_information_cap"]) == (1, 3, 0.0)
    near = ppl("generate", run, "--neighbours", "one two")
    assert re.fullmatch(r"\d+\.\d{4}\tonly one\n", near.out), near.err
    for arguments in (
        ["evaluate", run],
        ["generate", run, "--reconstruct", "only one"],
        ["swap", run, "--guide", "pooled", "--steps", "2", "--out", tmp_path / "swapped"],
        ["compare", run, "--objectives", "elbo,iwae:2", "--draws", "4", "--repeats", "2"],
    ):
        ended = ppl(*arguments)
        assert ended.status == 0, ended.err


def test_one_sentence_cannot_be_divided(fit, tmp_path):
    (tmp_path / "one.txt").write_text("only one\n", encoding="utf-8")
    refused(fit(tmp_path / "one.txt"), "one.txt: too few sentences to divide: 1 leave none for ")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_thread):
    """A finished run on a folder beside it; to be copied, not written to."""
    import ppl_text as pt

    place = tmp_path_factory.mktemp("vocabulary")
    folder = written(place / "d", [line for line in LINES if line.strip()])
    return pt.fit("verses-vae", data=folder, set=SMALL, out=place / "run")


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run whose corpus is a copy too."""
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    data = shutil.copytree(trained.folder.parent / "d", tmp_path / "d")
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8").replace(str(trained.folder.parent / "d"), str(data))
    config.write_text(text, encoding="utf-8")
    return folder


USES = {
    "evaluate": lambda run: ["evaluate", run],
    "neighbours": lambda run: ["generate", run, "--neighbours", "a dog"],
    "resume": lambda run: ["fit", "--resume", run, "--steps", "5"],
    "swap": lambda run: ["swap", run, "--guide", "pooled"],
    "compare": lambda run: ["compare", run],
}


@pytest.mark.parametrize("arguments", USES.values(), ids=USES)
def test_another_vocabulary_than_the_checkpoints_is_refused(arguments, copied, ppl, tmp_path):
    """One more word in the training text; nothing is written."""
    with (tmp_path / "d" / "train.txt").open("a", encoding="utf-8") as file:
        file.write("an elephant\n")
    before = tree(tmp_path)
    refused(ppl(*arguments(copied)), "is not what run", "(other texts, counts or vocabulary); restore the old files")
    assert tree(tmp_path) == before


def test_texts_are_written_though_the_corpus_has_changed(copied, ppl, tmp_path):
    """Weights and tokenizer are those of the run, whatever lies where its corpus was."""
    expected = ppl("generate", copied, "-n", "3").out
    (tmp_path / "d" / "train.txt").write_text("quite another text\n", encoding="utf-8")
    ended = ppl("generate", copied, "-n", "3")
    assert (ended.status, ended.out, ended.err) == (0, expected, "")


@pytest.mark.parametrize(
    "arguments",
    [USES["evaluate"], lambda run: ["generate", run], USES["swap"]],
    ids=["evaluate", "generate", "swap"],
)
def test_weights_of_another_vocabulary_are_refused(arguments, copied, ppl, tmp_path):
    """The weights come from a run on other sentences."""
    other = written(tmp_path / "other", ["one two three", "four five six seven eight nine ten eleven twelve"])
    ended = ppl("fit", "verses-vae", "--data", other, *options(), "--out", tmp_path / "second")
    assert ended.status == 0, ended.err
    shutil.copy(tmp_path / "second" / "model.safetensors", copied / "model.safetensors")
    ended = ppl(*arguments(copied))
    assert (ended.status in (1, 2), ended.out) == (True, ""), ended.err
    assert "Traceback" not in ended.err
    assert "embedding.weight" in ended.err
    assert ended.err.count("error: ") == 1


FORMS = {
    "composed": "café naïve Ångström",
    "decomposed": unicodedata.normalize("NFD", "café naïve Ångström"),
    "no composed form": "q\u0303 x\u0301\u0323",
    "compatibility": "\ufb01ne \u2460 \uff21\uff22",
    "right to left": "שלום עולם مرحبا",
    "overridden": "\u202eabc\u202c \u2067def\u2069",
    "joined emoji": "👩‍👩‍👧 🇩🇪 👍🏽 ❤\ufe0f",
    "beyond the basic plane": "𝔘nicode 𐍈 \U0010ffff",
    "spaces of all kinds": "a\u00a0b\u2003c\u3000d",
    "separators": "a\u2028b\u2029c\x85d\x0be\x1cf",
    "mark in the middle": "a\ufeffb \u200b zero\u200dwidth",
    "reserved names": "<s> </s> <pad> <unk>",
    "control": "bell\x07 delete\x7f",
}


def cleaned(text):
    return " ".join(unicodedata.normalize("NFC", text).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, one_thread):
    """``runs(tokenizer)``: a finished run on sentences in every form."""
    import ppl_text as pt

    made, place = {}, tmp_path_factory.mktemp("unicode")
    folder = written(place / "d", ["\ufeffthe first line", *FORMS.values()])

    def run(tokenizer):
        if tokenizer not in made:
            changes = {**SMALL, "data.tokenizer": tokenizer}
            if tokenizer == "pretrained":
                changes["data.pretrained"] = str(FOLDERS["gpt2"](place / "gpt2", texts=tuple(FORMS.values())))
            made[tokenizer] = pt.fit("verses-vae", data=folder, set=changes, out=place / tokenizer)
        return made[tokenizer]

    return run


@pytest.mark.parametrize("tokenizer", ["word", "bpe", "character", "pretrained"])
def test_every_form_of_unicode_comes_through(tokenizer, runs, ppl, tmp_path):
    """From the file to the neighbours: each text is its own nearest one, however it was typed."""
    run = runs(tokenizer)
    known = set(run.corpus.splits["train"].texts)
    assert known == {"the first line", *map(cleaned, FORMS.values())}
    for text in FORMS.values():
        for typed in (text, unicodedata.normalize("NFD", text)):
            ended = ppl("generate", run.folder, "--neighbours", typed, "-n", "14")
            assert (ended.status, ended.err) == (0, "")
            lines = ended.out.removesuffix("\n").split("\n")
            assert {line.split("\t", 1)[1] for line in lines} == set(map(printable, known))
            assert printable(cleaned(text)) in [
                line.split("\t", 1)[1] for line in lines if line.startswith(lines[0][:6])
            ]
    # Written as bytes, and split at \n only: some forms are line ends to others.
    (tmp_path / "typed.txt").write_bytes(("\ufeff" + "\n".join(FORMS.values()) + "\n\n").encode())
    ended = ppl("generate", run.folder, "--reconstruct", tmp_path / "typed.txt")
    assert ended.status == 0, ended.err
    lines = ended.out.removesuffix("\n").split("\n")
    assert [line.split("\t")[0] for line in lines] == list(map(printable, FORMS.values()))


def test_a_typed_text_is_read_as_the_corpus_was(copied, trained, ppl):
    """Spaces, forms of letters and, where the corpus is in lower case, capitals."""
    typed = ["a dog", "  a\u3000 dog "]
    found = [ppl("generate", copied, "--neighbours", text).out for text in typed]
    assert found[0] == found[1]
    assert found[0].startswith("0.0000\ta dog\n")
    assert trained.reconstruct([typed[0]]) == trained.reconstruct([typed[1]])
    assert trained.interpolate(*typed) == trained.interpolate(typed[0], typed[0])


def test_capitals_are_lowered_where_the_corpus_is(fit, tmp_path, ppl):
    assert fit(written(tmp_path / "d", ["The CAT \u00c9", "a dog"]), data__lower=True).status == 0
    found = [ppl("generate", tmp_path / "run", "--neighbours", t).out for t in ("the cat \u00e9", "THE Cat E\u0301")]
    assert found[0] == found[1]
    assert "0.0000\tthe cat \u00e9\n" in found[0]


NO_TEXT = {
    "NUL": ("a\0b", "text 'a\\x00b' has a NUL character; remove it"),
    "half a character": ("a \ud800", "'\\ud800' at place 3, half a character or a byte"),
    "nothing": (" \u3000 ", "has 0 tokens"),
}


@pytest.mark.parametrize("way", ["--reconstruct", "--neighbours"])
@pytest.mark.parametrize("case", NO_TEXT)
def test_what_is_no_text_is_refused(way, case, runs, ppl):
    text, says = NO_TEXT[case]
    refused(ppl("generate", runs("character").folder, way, text), says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"good\nwith\0NUL\n", "train.txt, line 2: not UTF-8 text: a NUL byte"),
        (b"good\nhalf \xed\xa0\x80\n", "train.txt, line 2: not UTF-8 text: byte 0xED"),
        ("in sixteen bits\n".encode("utf-16"), "train.txt, line 1: not UTF-8 text: byte 0xFF"),
    ],
    ids=["NUL", "lone surrogate", "UTF-16"],
)
def test_a_file_that_is_no_text_is_refused(content, says, fit, tmp_path):
    folder = written(tmp_path / "d", ["good"])
    (folder / "train.txt").write_bytes(content)
    refused(fit(folder), says)
    assert not (tmp_path / "run").exists()
