"""Tokenizers made from sentences: words, byte-pair encoding, characters; ids 0-3 are pad, BOS, EOS, ``<unk>``.

All put a text into Unicode's NFC first (and nothing else: case, width and compatibility forms stay as they are).
``<unk>`` in a text is id 3: files of research corpora come with it. ``<pad>``, ``<s>`` and ``</s>`` in a text are
never ids 0-2. Any other word, such as Yahoo's ``_UNK``, is an ordinary one.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from ppl_text.core.errors import ConfigError, DataError

from .tokenizers import SPECIALS, UNKNOWN, Tokenizer

RESERVED = (*SPECIALS, UNKNOWN)
"""Symbols of ids 0-3."""

LEAST_BPE = len(RESERVED) + 256
"""The reserved symbols and one for each byte: fewer cannot be asked of BPE."""


def word_tokenizer(texts: Iterable[str], *, vocabulary: int | None = None, min_count: int = 1) -> Tokenizer:
    """One symbol for each word between white space: the most frequent first, ties in alphabetical order.

    ``vocabulary`` is the largest V, the four reserved symbols counted; ``min_count`` drops rarer words. What is
    dropped is encoded as ``<unk>``. Decoding joins words by one space, so that
    ``decode(encode([x])[0]) == " ".join(x.split())`` up to ``<unk>``.

    Raises :class:`DataError` where no word is left.

    Example::

        >>> tokenizer = word_tokenizer(["a b a", "<unk> a"])
        >>> tokenizer.symbols[3:], tokenizer.encode(["b <unk> c a"])
        (('<unk>', 'a', 'b'), [[5, 3, 3, 4]])
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    kept = _most_frequent(counts, vocabulary, min_count, "word")
    model: Any = models.WordLevel(vocab={symbol: i for i, symbol in enumerate((*RESERVED, *kept))}, unk_token=UNKNOWN)
    backend = Backend(model)
    specials = normalizers.Replace(Regex(r"(?<!\S)(?:<pad>|</?s>)(?!\S)"), UNKNOWN)
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), specials])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend)


def open_character_tokenizer(texts: Iterable[str], *, vocabulary: int | None = None, min_count: int = 1) -> Tokenizer:
    """One symbol for each code point after NFC, the most frequent first; ``<unk>`` for each that is not kept.

    Spaces are symbols too, so that ``decode(encode([x])[0]) == x`` up to ``<unk>``. The arguments are those of
    :func:`word_tokenizer`. Raises :class:`DataError` where no character is left.

    Example::

        >>> open_character_tokenizer(["a ba"]).encode(["ab c<unk>"])
        [[4, 6, 5, 3, 3]]
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.replace(UNKNOWN, ""))
    kept = _most_frequent(counts, vocabulary, min_count, "character")
    # A BPE without merges splits into code points.
    ids: Any = {symbol: i for i, symbol in enumerate((*RESERVED, *kept))}
    backend = Backend(models.BPE(vocab=ids, merges=[], unk_token=UNKNOWN))
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.Fuse()
    return _with_unknown(backend)


def bpe_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """Byte-pair encoding over UTF-8 bytes, trained on ``texts``, with at most ``vocabulary`` symbols.

    Every text has an encoding (there is no unknown character; ``<unk>`` is only what a text writes so, and what word
    dropout puts), and ``decode(encode([x])[0])`` is x in NFC exactly. Ids that a model emitted may end within a
    character; such bytes are decoded as U+FFFD. Texts with few different pairs give fewer symbols than asked for.

    Raises :class:`ConfigError` for fewer than 260 symbols, :class:`DataError` for texts without a character.
    """
    if vocabulary < LEAST_BPE:
        raise ConfigError(
            f"vocabulary must be {LEAST_BPE} or more for bpe: 4 reserved symbols and 256 bytes; got {vocabulary}"
        )
    learner = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(RESERVED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with _one_thread():
        learner.train_from_iterator((text.replace(UNKNOWN, " ") for text in texts), trainer)
    learned = json.loads(learner.to_str())["model"]
    # Anew, because the trainer makes <s> and its like match in texts.
    merges: Any = [tuple(pair) for pair in learned["merges"]]
    return _with_unknown(_byte_level(models.BPE(vocab=learned["vocab"], merges=merges, unk_token=UNKNOWN)))


def _byte_level(model: models.BPE) -> Backend:
    backend = Backend(model)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_unknown(backend: Backend) -> Tokenizer:
    """Let ``<unk>`` in a text be id 3, where the model would take it apart."""
    backend.add_special_tokens([AddedToken(UNKNOWN, normalized=False)])
    return Tokenizer(backend)


def _most_frequent(counts: Mapping[str, int], vocabulary: int | None, min_count: int, what: str) -> list[str]:
    kept = [symbol for symbol, count in counts.items() if count >= min_count and symbol not in RESERVED]
    kept.sort(key=lambda symbol: (-counts[symbol], symbol))
    if vocabulary is not None:
        kept = kept[: max(0, vocabulary - len(RESERVED))]
    if not kept:
        raise DataError(
            f"no {what} is left for the vocabulary: {len(counts):,} different ones in the training text, "
            f"min_count {min_count}, vocabulary {vocabulary}; lower min_count or raise vocabulary"
        )
    return kept


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train without the library's threads: it warns at every later fork of the process where it used them."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
