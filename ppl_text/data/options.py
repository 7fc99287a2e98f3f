"""Options of a corpus: given ones over defaults, checked, all faults at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeVar

from ppl_text.core.errors import ConfigError, nearest

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and in words what would."""

T = TypeVar("T")


def whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number, ``least`` or more; ``True`` is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def whole_rule(least: int, otherwise: str = "") -> Rule:
    """A whole number from ``least`` on, or None where ``otherwise`` says what that means."""
    words = f"a whole number, {least} or more" + (f", or none for {otherwise}" if otherwise else "")
    return (lambda v: (bool(otherwise) and v is None) or whole(v, least)), words


def _share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < 1


SHARE: Rule = (_share, "a number between 0 and 1, both excluded")


def one_of(*names: str) -> Rule:
    """One of some names."""
    return (lambda v: isinstance(v, str) and v in names), " or ".join(", ".join(map(repr, names)).rsplit(", ", 1))


def faults_in(merged: Mapping[str, Any], given: Iterable[str], rules: Mapping[str, Rule], elsewhere: str) -> list[str]:
    """What is wrong with options: unknown names, then values. ``elsewhere`` is told of each unknown name."""
    faults = [
        f"unknown option '{name}'{nearest(name, rules)}; known: {', '.join(rules)}{elsewhere}"
        for name in given
        if name not in rules
    ]
    return faults + [f"{n} must be {rules[n][1]}; got {v!r}" for n, v in merged.items() if not rules[n][0](v)]


@dataclass(frozen=True)
class SentenceOptions:
    """How sentences are read, divided and tokenised.

    ============ ================================================================================
    tokenizer    ``word`` (between white space), ``bpe`` (of bytes), ``character``
    vocabulary   largest V, the four reserved ids counted; None: every type (8,000 for ``bpe``)
    min_count    words or characters that occur less often in train become ``<unk>``; bpe: no effect
    lower        lower-case the texts
    max_tokens   most tokens of a sentence, EOS not counted; None: any number
    long         what becomes of a longer one: ``truncate``, ``drop``, or ``refuse`` with its line
    empty        what becomes of a line without text: ``drop`` or ``refuse``
    limit        stop reading when train has so many sentences; None reads all
    seed         of the division of a lone file (and of a split that a folder lacks)
    test_share   share of all sentences that goes to test
    valid_share  share of all sentences that goes to valid
    column       column of the text in csv, jsonl, parquet and hub data; None: ``text``, ``sentence``
                 or the only column of strings
    subset       configuration of a ``hub:`` data set that has several
    ============ ================================================================================
    """

    tokenizer: str = "word"
    vocabulary: int | None = None
    min_count: int = 1
    lower: bool = False
    max_tokens: int | None = None
    long: str = "truncate"
    empty: str = "drop"
    limit: int | None = None
    seed: int = 0
    test_share: float = 0.1
    valid_share: float = 0.1
    column: str | None = None
    subset: str | None = None


BPE_VOCABULARY = 8000
"""V of BPE where none is given."""

_NAME: Rule = (lambda v: v is None or (isinstance(v, str) and bool(v)), "a name, or none")

SENTENCE_RULES: dict[str, Rule] = {
    "tokenizer": one_of("word", "bpe", "character"),
    "vocabulary": whole_rule(5, "every type"),
    "min_count": whole_rule(1),
    "lower": (lambda v: isinstance(v, bool), "true or false"),
    "max_tokens": whole_rule(1, "any length"),
    "long": one_of("truncate", "drop", "refuse"),
    "empty": one_of("drop", "refuse"),
    "limit": whole_rule(1, "all sentences"),
    "seed": (lambda v: whole(v, 0) and int(v) < 2**64, "a whole number from 0 to 2^64 − 1"),
    "test_share": SHARE,
    "valid_share": SHARE,
    "column": _NAME,
    "subset": _NAME,
}


def sentence_options(given: Mapping[str, Any], defaults: SentenceOptions | None = None) -> SentenceOptions:
    """Return ``defaults`` with what was given; raises :class:`ConfigError` with all faults at once."""
    defaults = defaults or SentenceOptions()
    merged = {**asdict(defaults), **{k: v for k, v in given.items() if k in SENTENCE_RULES}}
    faults = faults_in(merged, given, SENTENCE_RULES, " (these are of sentences, data.unit=sentences)")
    if not faults and merged["test_share"] + merged["valid_share"] >= 1:
        faults.append(
            f"test_share {merged['test_share']} and valid_share {merged['valid_share']} leave nothing to train"
        )
    if not faults and merged["tokenizer"] == "bpe":
        merged["vocabulary"] = BPE_VOCABULARY if merged["vocabulary"] is None else merged["vocabulary"]
        if merged["vocabulary"] < 260:
            faults.append(f"vocabulary must be 260 or more for bpe (4 reserved, 256 bytes); got {merged['vocabulary']}")
    if faults:
        raise ConfigError("corpus options: " + "; ".join(faults))
    return replace(defaults, **merged)
