"""Texts to ids and back: a thin face on Hugging Face ``tokenizers``, and the tokenizers that are made from texts.

All put a text into Unicode's NFC first (and nothing else: case, width and compatibility forms stay as they are). Their
ids 0-2 are padding, BOS and EOS, which no text is encoded to, not even ``"<s>"``; in those made from sentences id 3 is
``<unk>``, also where a text has ``<unk>``: files of research corpora come with it. Any other word, such as Yahoo's
``_UNK``, is an ordinary one.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from ppl_text.core.atomic import write_atomically
from ppl_text.core.errors import ConfigError, DataError, UserError
from ppl_text.core.reading import read_regular
from ppl_text.core.vocabulary import UNK_ID, ReservedIds, Vocabulary

from .options import LEAST_BPE

SPECIALS = ("<pad>", "<s>", "</s>")
"""Names of the ids of padding, BOS and EOS."""

UNKNOWN = "<unk>"
"""Name of the id that stands for what a vocabulary does not have, where it is not closed."""

ELSEWHERE = ("byte_fallback", "ignore_merges", "fuse_unk", "end_of_word_suffix", "continuing_subword_prefix")
"""Rules of byte pairs that the project's own tokenizers do without."""

RESERVED = (*SPECIALS, UNKNOWN)
"""Symbols of ids 0-3 of a tokenizer made from sentences."""


class NoSymbolError(DataError):
    """Texts of which no symbol is left for a vocabulary."""


class Tokenizer:
    """A vocabulary of V symbols, of which ids 0, 1 and 2 are padding, BOS and EOS.

    ``symbols`` is the tuple of the V strings by id. What ``decode(encode([x])[0])`` gives depends on the tokenizer: x
    in NFC for characters of a closed alphabet and for BPE; for words, those of x with one space between them and
    ``<unk>`` for what the vocabulary lacks; for characters with ``<unk>``, that in the place of each that it lacks.

    Args:
        backend: a tokenizer whose first symbols are :data:`SPECIALS`; without ``<unk>`` as the next one, the others
            are the characters of a closed alphabet.

    Raises:
        UserError: a tokenizer of another kind.
    """

    def __init__(self, backend: Backend) -> None:
        vocabulary = sorted(backend.get_vocab().items(), key=lambda item: item[1])
        self.symbols = tuple(symbol for symbol, _ in vocabulary)
        if [i for _, i in vocabulary] != list(range(len(vocabulary))) or self.symbols[: len(SPECIALS)] != SPECIALS:
            raise UserError(
                f"not a tokenizer of ppl_text: ids must be 0 … V-1, the first three {', '.join(SPECIALS)}; "
                f"got {', '.join(self.symbols[:3]) or 'none'}"
            )
        self._backend = backend
        # Without an <unk> the backend would drop an unknown character in silence, and it takes longer for the others.
        self._alphabet = {c: i for i, c in enumerate(self.symbols) if c not in SPECIALS} if self._is_closed else None

    @property
    def size(self) -> int:
        """V, the three special symbols counted."""
        return len(self.symbols)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What models are built from: V and the reserved ids."""
        digest = hashlib.sha256(json.dumps(self.symbols).encode()).hexdigest()
        return Vocabulary(self.size, ReservedIds(unk=UNK_ID if self.has_unknown else None), digest=digest)

    @property
    def has_unknown(self) -> bool:
        """Whether id 3 is ``<unk>``; without it the vocabulary is closed, or holds every byte."""
        return self.symbols[UNK_ID : UNK_ID + 1] == (UNKNOWN,)

    @property
    def _is_closed(self) -> bool:
        """Whether the symbols are the characters of an alphabet; bytes, without ``<unk>`` too, spell any text."""
        alone = all(len(symbol) == 1 for symbol in self.symbols[len(SPECIALS) :])
        return alone and not self.has_unknown and self._backend.pre_tokenizer is None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over all that decides how a text is encoded: equal for tokenizers that encode alike."""
        parts = json.loads(self._backend.to_str())
        decisive = [self.symbols, parts["model"].get("merges"), parts["normalizer"], parts["pre_tokenizer"]]
        # What only tokenizers that come from elsewhere have: runs know those of before by the four above.
        rules = {name: value for name in ELSEWHERE if (value := parts["model"].get(name))}
        found = [token for token in parts["added_tokens"] if token["content"] != UNKNOWN]
        decisive += [rules, found] if rules or found else []
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without BOS and EOS; raise :class:`DataError` for an unknown character."""
        if isinstance(texts, str):
            raise TypeError("Tokenizer.encode takes a sequence of texts; write encode([text]) for one")
        if (alphabet := self._alphabet) is not None:
            try:
                return [[alphabet[character] for character in _nfc(text)] for text in texts]
            except KeyError:
                raise self._unknown_character(texts, alphabet) from None
        # One by one: on short texts this is faster than encode_batch, and it starts no threads.
        return [self._backend.encode(text, add_special_tokens=False).ids for text in texts]

    def count(self, texts: Sequence[str]) -> NDArray[np.int64] | None:
        """Return the number of tokens (N,) of each text, or None where that takes an encoding."""
        if self._alphabet is None:
            return None
        return np.fromiter((len(_nfc(text)) for text in texts), dtype=np.int64, count=len(texts))

    def prefix(self, text: str, most: int) -> str:
        """Return the longest beginning of ``text`` that is at most ``most`` tokens long.

        It ends where a token ends, so that its ids are the first ones of ``text``; where the last token would be
        a part of a character (BPE of bytes), before that character.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= most:
            return text
        start, end = encoding.offsets[most - 1]
        # A character of several byte tokens lies across the cut where the next token begins before the last ends.
        return text[: start if encoding.offsets[most][0] < end else end].rstrip()

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first EOS, without padding and BOS; any iterable of ints will do, tensors too."""
        kept, reserved = [], self.vocabulary.ids
        for i in map(int, ids):
            if i == reserved.eos:
                break
            if not 0 <= i < self.size:
                raise DataError(f"cannot decode id {i}: the vocabulary has ids 0 to {self.size - 1}")
            if i not in (reserved.pad, reserved.bos):
                kept.append(i)
        text: str = self._backend.decode(kept, skip_special_tokens=False)
        return text

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return what each id stands for by itself, as a reader sees it: its text without the white space around it.

        Where that is nothing, or a part of a character, its symbol.
        """
        texts = [(self.symbols[int(i)], self.decode([i]).strip()) for i in ids]
        return [text if text and "\ufffd" not in text else symbol for symbol, text in texts]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json`` whole or not at all; raises :class:`CheckpointError` where it cannot."""
        text = self._backend.to_str(pretty=True)
        write_atomically(Path(path), lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read what :meth:`save` wrote; raises :class:`UserError` for a missing or damaged file."""
        try:
            text = read_regular(path).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"tokenizer '{path}' cannot be read: {reason}; give the tokenizer.json of a run") from error
        try:
            backend = Backend.from_str(text)
        except Exception as error:  # the backend raises bare Exception for a damaged file
            raise UserError(
                f"tokenizer '{path}' is damaged: {error}; restore it from a copy or train the run again"
            ) from error
        try:
            return cls(backend)
        except UserError as error:
            raise UserError(f"tokenizer '{path}': {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.symbols)

    def _unknown_character(self, texts: Sequence[str], alphabet: Mapping[str, int]) -> DataError:
        text, unknown = next((t, c) for t in texts for c in _nfc(t) if c not in alphabet)
        return DataError(
            f"text {text!r} has the character {describe_character(unknown)}, which the tokenizer does not know; "
            f"its {len(alphabet)} characters are {''.join(alphabet)!r}"
        )


def character_tokenizer(alphabet: str) -> Tokenizer:
    """One symbol for each code point of ``alphabet``, in its order, from id 3 on; no ``<unk>``.

    A symbol is a *code point after NFC*, not what a reader sees as one letter: ``"e"`` + combining acute
    becomes the single ``"é"``, but ``"q"`` + combining tilde has no composed form and stays two symbols.

    Raises :class:`DataError` for an alphabet that is empty, repeats a character, or holds one that NFC
    replaces (it could never occur in a text).

    Example:
        >>> character_tokenizer("abc").encode(["cab"])
        [[5, 3, 4]]
    """
    if not alphabet or len(set(alphabet)) < len(alphabet):
        raise DataError(f"an alphabet needs one or more different characters; got {alphabet!r}")
    unstable = [c for c in alphabet if _nfc(c) != c]
    if unstable:
        raise DataError(
            f"the alphabet has {describe_character(unstable[0])}, which Unicode's NFC replaces by {_nfc(unstable[0])!r}"
        )
    ids: dict[str, int] = {symbol: i for i, symbol in enumerate((*SPECIALS, *alphabet))}
    # A BPE without merges splits into code points; the names of the specials can never be merged.
    model: Any = models.BPE(vocab=ids, merges=[])
    backend = Backend(model)
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def word_tokenizer(texts: Iterable[str], *, vocabulary: int | None = None, min_count: int = 1) -> Tokenizer:
    """One symbol for each word between white space: the most frequent first, ties in alphabetical order.

    ``vocabulary`` is the largest V, the four reserved symbols counted; ``min_count`` drops rarer words. What is
    dropped is encoded as ``<unk>``. Decoding joins words by one space, so that
    ``decode(encode([x])[0]) == " ".join(x.split())`` up to ``<unk>``.

    Raises :class:`DataError` where no word is left.

    Example:
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

    Example:
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
        raise NoSymbolError(
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


def describe_character(character: str) -> str:
    """A character with its code point and name, since many look alike: ``'é' (U+00E9, LATIN …)``."""
    return f"{character!r} (U+{ord(character):04X}, {unicodedata.name(character, 'no name')})"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
