"""Sentences of one corpus: cleaned, divided, given a vocabulary, and stored with their ids.

Texts pass through in chunks and lie in flat columns (:mod:`ppl_text.data.columns`), so that a corpus may be larger
than memory. What is done to a text, once, before anything else sees it: lower case where asked for, Unicode's NFC,
one space for each run of white space, none at the ends.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from hashlib import blake2b

from ppl_text.core.errors import DataError

from .columns import TextBuilder, TextColumn, chunks
from .corpus import SPLITS, Corpus, fingerprint
from .options import BPE_VOCABULARY, SentenceOptions
from .reading import shortened
from .sources import Source
from .tables import SentenceSplit, TableBuilder
from .tokenizers import UNK_ID, Tokenizer
from .vocabularies import bpe_tokenizer, open_character_tokenizer, word_tokenizer

Place = Callable[[str], str]
"""A cleaned text to the name of its split."""


def clean(text: str, lower: bool = False) -> str:
    """The text as tokenizers see it: NFC, single spaces, in lower case where asked for.

    Example::

        >>> clean("  Cafe\\u0301\\tau  lait\\r\\n", lower=True)
        'café au lait'
    """
    # Lower case first: of J and j with a caron, only the small one has a composed form.
    return " ".join(unicodedata.normalize("NFC", text.lower() if lower else text).split())


def division(options: SentenceOptions, wanted: Collection[str] = ("test", "valid")) -> Place:
    """Which split a sentence of undivided data belongs to: decided by the sentence alone, and the seed.

    u(x) = keyed BLAKE2 of x in lower case, as a number in [0, 1): test where u < test_share, valid where
    test_share ≤ u < test_share + valid_share, else train. So equal sentences share a split (none of test is in
    train), adding or sorting lines moves no other, and sizes are binomial. ``wanted`` leaves out a split that comes
    from elsewhere.
    """
    if not wanted:
        return lambda _: "train"
    key = options.seed.to_bytes(16, "little")
    test, valid = options.test_share, options.test_share + options.valid_share
    regions = [("test", 0.0, test), ("valid", test, valid)]
    taken = [(name, low, high) for name, low, high in regions if name in wanted]

    def place(text: str) -> str:
        digest = blake2b(clean(text, lower=True).encode(), digest_size=8, key=key).digest()
        u = int.from_bytes(digest, "little") / 2.0**64
        return next((name for name, low, high in taken if low <= u < high), "train")

    return place


def assemble(
    name: str, sources: Mapping[str, Source], options: SentenceOptions, place: Place, notes: Sequence[str] = ()
) -> Corpus:
    """Read the sources, build the vocabulary from train, and store the ids of every split.

    ``sources`` maps splits to where they come from, train at least; ``place`` takes the others out of train. The
    vocabulary is that of train before long sentences are truncated or dropped. Raises :class:`DataError` for data
    that cannot be read or leave a split empty.
    """
    told = list(notes)
    texts: dict[str, TextColumn] = {}
    for split, source in sources.items():
        texts |= _collected(source, split, options, place, told)
    origin = {split: sources.get(split, sources["train"]) for split in SPLITS}
    for split in SPLITS:
        if not texts.get(split):
            raise DataError(_too_few(split, texts, options), origin[split].where)
    tokenizer = _tokenizer(texts["train"], options, sources["train"])
    told.append(f"vocabulary: {tokenizer.size:,} symbols ({options.tokenizer}), made from train")
    splits = {split: _encoded(split, texts.pop(split), tokenizer, options, origin[split], told) for split in SPLITS}
    return Corpus(
        name=name,
        splits=splits,
        tokenizer=tokenizer,
        max_steps=max(int(split.table.lengths.max()) for split in splits.values()),
        notes=tuple(told),
        fingerprint=fingerprint(splits, tokenizer),
        noun="sentence",
        symbol="token",
        weighted=False,
        clean=partial(clean, lower=options.lower),
    )


def _too_few(split: str, texts: Mapping[str, TextColumn], options: SentenceOptions) -> str:
    return (
        f"too few sentences to divide: {sum(map(len, texts.values())):,} leave none for {split} with "
        f"test_share={options.test_share:g}, valid_share={options.valid_share:g}, seed={options.seed}; give more "
        "sentences or larger shares, or a folder with train, valid and test files"
    )


def _collected(
    source: Source, split: str, options: SentenceOptions, place: Place, told: list[str]
) -> dict[str, TextColumn]:
    """Cleaned texts of one source by split; ``told`` hears what was dropped."""
    builders = {split: TextBuilder()}
    whose = place if split == "train" else lambda _: split
    read = empty = 0
    limited = False
    for number, raw in source.rows():
        read += 1
        text = clean(raw, options.lower)
        if "\0" in text:
            raise source.fault(number, f"a NUL character in {shortened(text)}; remove it")
        if not text:
            empty += 1
            if options.empty == "refuse":
                raise source.fault(number, "no text; remove the line, or drop such lines with data.empty=drop")
            continue
        builders.setdefault(whose(text), TextBuilder()).append(text)
        limited = split == "train" and options.limit is not None and len(builders[split]) >= options.limit
        if limited:
            break
    if read == empty:
        raise DataError("there is no sentence in it; expected one on each line (or in each row)", source.where)
    told.append(
        f"{source.name}: {read:,} {source.unit}s read"
        + (f", {empty:,} without text dropped" if empty else "")
        + (f"; stopped at {options.limit:,} training sentences (limit)" if limited else "")
    )
    told.extend(source.notes)
    return {name: builder.column() for name, builder in builders.items()}


def _tokenizer(texts: Iterable[str], options: SentenceOptions, source: Source) -> Tokenizer:
    try:
        if options.tokenizer == "bpe":
            return bpe_tokenizer(texts, vocabulary=options.vocabulary or BPE_VOCABULARY)
        make = {"word": word_tokenizer, "character": open_character_tokenizer}[options.tokenizer]
        return make(texts, vocabulary=options.vocabulary, min_count=options.min_count)
    except DataError as error:
        raise DataError(str(error), source.where) from error


def _encoded(
    split: str, texts: TextColumn, tokenizer: Tokenizer, options: SentenceOptions, source: Source, told: list[str]
) -> SentenceSplit:
    """The ids of a split's sentences, long ones treated as the options say."""
    table, kept, fit = TableBuilder(), TextBuilder(), _Fit(tokenizer, options, source)
    for chunk in chunks(texts):
        sentences, ids = fit(chunk)
        table.extend(ids)
        if options.max_tokens is not None:
            kept.extend(sentences)
    found = SentenceSplit.of(kept.column() if options.max_tokens is not None else texts, table.table(), tokenizer)
    if not len(found):
        raise DataError(
            f"every sentence of {split} has more than max_tokens={options.max_tokens} tokens; raise it or set "
            "long=truncate",
            source.where,
        )
    told += [f"{split}: {fit.long:,} sentences of more than {options.max_tokens} tokens {fit.became}"] * bool(fit.long)
    unknown = int((found.table.ids == UNK_ID).sum()) / max(1, len(found.table.ids))
    told.append(
        f"{split}: {len(found):,} sentences, {found.scored_tokens:,} scored tokens "
        f"({found.scored_tokens / len(found):.3f} a sentence, EOS counted), {unknown:.2%} <unk>"
    )
    return found


class _Fit:
    """Texts to the texts and ids that are kept; counts the long ones."""

    def __init__(self, tokenizer: Tokenizer, options: SentenceOptions, source: Source) -> None:
        self._tokenizer, self._options, self._source = tokenizer, options, source
        self.long = 0
        self.became = {"truncate": "truncated"}.get(options.long, "dropped")

    def __call__(self, texts: list[str]) -> tuple[list[str], list[list[int]]]:
        ids = self._tokenizer.encode(texts)
        most = self._options.max_tokens
        if most is None or max(map(len, ids)) <= most:
            return texts, ids
        rows = [self._shortened(text, row, most) for text, row in zip(texts, ids, strict=True)]
        # A first character of more bytes than max_tokens leaves nothing of its sentence.
        rows = [(text, row) for text, row in rows if row]
        return [text for text, _ in rows], [row for _, row in rows]

    def _shortened(self, text: str, ids: list[int], most: int) -> tuple[str, list[int]]:
        if len(ids) <= most:
            return text, ids
        self.long += 1
        if self._options.long == "refuse":
            raise self._refusal(text, len(ids), most)
        if self._options.long == "drop":
            return "", []
        prefix = self._tokenizer.prefix(text, most)
        return prefix, self._tokenizer.encode([prefix])[0]

    def _refusal(self, text: str, tokens: int, most: int) -> DataError:
        """Name the line, which only now is looked for."""
        source, lower = self._source, self._options.lower
        number = next(number for number, raw in source.rows() if clean(raw, lower) == text)
        advice = "raise max_tokens, or truncate or drop such sentences with data.long"
        return source.fault(number, f"{tokens:,} tokens, more than max_tokens={most}: {shortened(text)}; {advice}")
