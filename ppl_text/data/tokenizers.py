"""Texts to ids and back: a thin face on Hugging Face ``tokenizers``, saved as ``tokenizer.json``."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

from ppl_text.core.atomic import write_atomically
from ppl_text.core.errors import DataError, UserError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, ReservedIds, Vocabulary

SPECIALS = ("<pad>", "<s>", "</s>")
"""Names of the ids PAD 0, BOS 1 and EOS 2. No text is ever encoded to them, not even ``"<s>"``."""

UNKNOWN = "<unk>"
"""Name of the id that stands for what a vocabulary does not have, where it is not closed."""


class Tokenizer:
    """A vocabulary of V symbols, of which ids 0, 1 and 2 are padding, BOS and EOS.

    ``symbols`` is the tuple of the V strings by id, ``size`` is V, ``fingerprint`` a SHA-256 that is
    equal for tokenizers that encode alike. A text is put into Unicode's form NFC before it is encoded,
    and what comes back from :meth:`decode` is in NFC.

    What ``decode(encode([x])[0])`` gives depends on the tokenizer: x in NFC for characters of a closed
    alphabet and for BPE; for words, those of x with one space between them and ``<unk>`` for what the
    vocabulary lacks; for characters with ``<unk>``, that in the place of each character it lacks. See
    :mod:`ppl_text.data.vocabularies` for those made from sentences.
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
        # Without an <unk> the vocabulary is closed: the backend would drop an unknown character in silence.
        self._alphabet = None if self.has_unknown else frozenset(self.symbols[len(SPECIALS) :])

    @property
    def size(self) -> int:
        """V, the three special symbols counted."""
        return len(self.symbols)

    @property
    def vocabulary(self) -> Vocabulary:
        """What models are built from."""
        return Vocabulary(self.size, ReservedIds(unk=UNK_ID if self.has_unknown else None))

    @property
    def has_unknown(self) -> bool:
        """Whether id 3 is ``<unk>``; without it the vocabulary is closed."""
        return self.symbols[UNK_ID : UNK_ID + 1] == (UNKNOWN,)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over all that decides how a text is encoded."""
        parts = json.loads(self._backend.to_str())
        decisive = [self.symbols, parts["model"].get("merges"), parts["normalizer"], parts["pre_tokenizer"]]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS and EOS; raises :class:`DataError` for an unknown character."""
        if isinstance(texts, str):
            raise TypeError("Tokenizer.encode takes a sequence of texts; write encode([text]) for one")
        self._check_characters(texts)
        # One by one: on short texts this is faster than encode_batch, and it starts no threads.
        return [self._backend.encode(text, add_special_tokens=False).ids for text in texts]

    def prefix(self, text: str, most: int) -> str:
        """The longest beginning of ``text`` that is at most ``most`` tokens long.

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
        """Text up to the first EOS; PAD and BOS are skipped. Takes any iterable of ints, tensors too."""
        kept = []
        for i in map(int, ids):
            if i == EOS_ID:
                break
            if not 0 <= i < self.size:
                raise DataError(f"cannot decode id {i}: the vocabulary has ids 0 to {self.size - 1}")
            if i not in (PAD_ID, BOS_ID):
                kept.append(i)
        text: str = self._backend.decode(kept, skip_special_tokens=False)
        return text

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json`` whole or not at all; raises :class:`CheckpointError` where it cannot."""
        text = self._backend.to_str(pretty=True)
        write_atomically(Path(path), lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read what :meth:`save` wrote; raises :class:`UserError` for a missing or damaged file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
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

    def _check_characters(self, texts: Sequence[str]) -> None:
        if self._alphabet is None:
            return
        alphabet = self._alphabet
        if set().union(*map(_nfc, texts)) <= alphabet:
            return
        text, unknown = next((t, c) for t in texts for c in _nfc(t) if c not in alphabet)
        raise DataError(
            f"text {text!r} has the character {describe_character(unknown)}, which the tokenizer does not know; "
            f"its {len(alphabet)} characters are {''.join(self.symbols[len(SPECIALS) :])!r}"
        )


def character_tokenizer(alphabet: str) -> Tokenizer:
    """One symbol for each code point of ``alphabet``, in its order, from id 3 on; no ``<unk>``.

    A symbol is a *code point after NFC*, not what a reader sees as one letter: ``"e"`` + combining acute
    becomes the single ``"é"``, but ``"q"`` + combining tilde has no composed form and stays two symbols.

    Raises :class:`DataError` for an alphabet that is empty, repeats a character, or holds one that NFC
    replaces (it could never occur in a text).

    Example::

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


def describe_character(character: str) -> str:
    """A character with its code point and name, since many look alike: ``'é' (U+00E9, LATIN …)``."""
    return f"{character!r} (U+{ord(character):04X}, {unicodedata.name(character, 'no name')})"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
