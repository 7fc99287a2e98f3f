"""Options of corpora: one model for each kind, with what each option means and its default."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ppl_text.core.limits import MOST, MOST_OUTCOMES
from ppl_text.core.validation import checked

WORD_LIST, SENTENCES = "word-list", "sentences"
"""Kinds of corpora: word types with counts, read by characters; sentences, each counting once."""

BPE_VOCABULARY, LEAST_BPE = 8000, 260
"""V of BPE where none is given, and the least that it can be: 4 reserved symbols and 256 bytes."""

PRETRAINED = "pretrained"
"""The kind of tokenizer that no text is read for."""

Count = Annotated[int, Field(ge=1, le=MOST)]
Outcomes = Annotated[int, Field(ge=5, le=MOST_OUTCOMES)]
Share = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def before(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what options were before runs kept them, where that is not the default of today."""
        return {}

    @classmethod
    def for_own_text(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the defaults of a user's own text where they are others; ``given``: the options that are known."""
        return {}

    def unused(self, *names: str) -> list[str]:
        """Return those of some options that were changed although nothing asks for them."""
        fields = type(self).model_fields
        return sorted(name for name in names if getattr(self, name) != fields[name].default)


class WordListOptions(_Options):
    """How a word list is filtered and divided."""

    bound: ClassVar[str] = "max_length"
    """The option that bounds how long texts are."""

    epochs: ClassVar[bool] = False
    """Whether training goes through the texts epoch by epoch; words are drawn ∝ counts, without end."""

    split: Literal["standard", "alternative"] = Field(
        "standard",
        description="standard: each token goes to test with test_share; alternative: so many of the types",
    )
    seed: Seed = Field(0, description="seed of the division")
    limit: Count | None = Field(None, description="keep only so many of the most frequent types; null: all")
    min_count: Count = Field(1, description="drop types that occur less often")
    min_length: Count = Field(2, description="drop types with fewer letters")
    max_length: Count = Field(12, description="drop types with more letters", validate_default=True)
    test_share: Share = Field(0.1, description="share that goes to test")
    test_tokens: Count | None = Field(
        None, description="about so many tokens to test, where test_share has more (split=standard); null: test_share"
    )
    valid_share: Share = Field(0.05, description="share of what then remains that goes to valid")
    column: Name | None = Field(
        None, description="column of the words in a table; null: word, text, sentence or the only column of strings"
    )
    count: Name | None = Field(
        None, description="column of their counts; null: count or frequency, and without one the words are counted"
    )

    @field_validator("test_tokens")
    @classmethod
    def _counts_tokens(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("split") == "alternative":
            raise ValueError(f"split=alternative divides types, whatever their tokens: expected none; got {value}")
        return value

    @field_validator("max_length")
    @classmethod
    def _leaves_a_length(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_length", value):
            raise ValueError(f"expected min_length ({info.data['min_length']}) or more; got {value}")
        return value


class SentenceOptions(_Options):
    """How sentences are read, divided and tokenised, and what stands beside each where they come in pairs."""

    bound: ClassVar[str] = "max_tokens"
    epochs: ClassVar[bool] = True

    @classmethod
    def before(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Divide by whole sentences, where that makes a difference."""
        cut = given.get("long", "truncate") == "truncate" and {"max_tokens", "source_max_tokens"} & given.keys()
        return {"divide": "whole"} if cut else {}

    @classmethod
    def for_own_text(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Cut off the words that occur once, so that ``<unk>`` is trained before valid and test are scored by it."""
        return {"min_count": 2} if given.get("tokenizer", "word") == "word" else {}

    tokenizer: Literal["word", "bpe", "character", "pretrained"] = Field(
        "word",
        description="word: between white space; bpe: byte pairs; character: code points; pretrained: that of a "
        "pretrained model",
    )
    pretrained: Name | None = Field(
        None,
        description="pretrained model whose tokenizer is taken: a folder, NAME.gguf, or a name in the cache of Hugging "
        "Face",
        validate_default=True,
    )
    vocabulary: Outcomes | None = Field(
        None,
        description=f"largest V, the four reserved ids counted; null: every type, {BPE_VOCABULARY:,} for bpe",
        validate_default=True,
    )
    min_count: Count = Field(1, description="words or characters that occur less often in train become <unk>")
    lower: bool = Field(False, description="lower-case the texts")
    max_tokens: Count | None = Field(None, description="most tokens of a sentence, EOS not counted; null: any number")
    long: Literal["truncate", "drop", "refuse"] = Field(
        "truncate", description="what becomes of a longer one; refuse names its line"
    )
    empty: Literal["drop", "refuse"] = Field("drop", description="what becomes of a line without text")
    limit: Count | None = Field(None, description="stop reading when train has so many sentences; null: read all")
    train_limit: Count | None = Field(
        None,
        description="train on so many of the training sentences, drawn by seed, each draw within the larger ones; "
        "vocabulary and other splits stay those of all; null: on all",
    )
    extra: Name | None = Field(
        None,
        description="file of further training sentences, such as generated ones, in the vocabulary of the others",
    )
    extra_limit: Count | None = Field(None, description="take so many of extra, the first; null: all")
    seed: Seed = Field(0, description="seed of the division of a lone file, and of a split that a folder lacks")
    test_share: Share = Field(0.1, description="share of all sentences that goes to test")
    valid_share: Share = Field(0.1, description="share of all sentences that goes to valid", validate_default=True)
    divide: Literal["scored", "whole"] = Field(
        "scored",
        description="what decides a sentence's split: the text that is scored, after long=truncate; whole: all of it, "
        "as before, so that sentences that are equal once truncated may stand in several splits",
    )
    column: Name | None = Field(
        None, description="column of the text; null: text, sentence or the only column of strings"
    )
    subset: Name | None = Field(None, description="configuration of a hub: data set that has several")
    source: Name | None = Field(
        None,
        description="column of what stands beside each text, for conditional models; null: that of a known pair "
        "(source and target, answer and question, line and reply), else nothing does; of parallel files their ending",
    )
    sources: Literal["given", "none", "text"] = Field(
        "given",
        description="given: those of the data, where these are pairs; none: left out, for a model that reads none; "
        "text: each text is its own source, cut like it and of its vocabulary",
        validate_default=True,
    )
    source_max_tokens: Count | None = Field(
        None, description="most tokens of a source, EOS not counted; null: any number"
    )
    source_vocabulary: Outcomes | None = Field(
        None, description="largest V of the sources, like vocabulary, which it is where null", validate_default=True
    )
    shared_vocabulary: bool = Field(False, description="one vocabulary for both sides, made of both")
    fit_on: Literal["train", "all"] = Field(
        "train", description="splits that vocabularies are made from; all: valid and test too, as some papers did"
    )

    stream: bool = Field(
        False,
        description="keep the token ids of text files on disk and read them, and texts, from there: for a corpus "
        "larger than memory",
    )

    @field_validator("stream")
    @classmethod
    def _holds_no_rows(cls, value: bool, info: ValidationInfo) -> bool:
        held = [name for name in ("train_limit", "extra") if info.data.get(name) is not None]
        held += ["sources"] * (info.data.get("sources") == "text")
        if value and held:
            raise ValueError(
                f"expected none of {', '.join(held)} beside it, which need the training texts in memory; "
                "data.limit reads fewer"
            )
        return value

    @field_validator("pretrained")
    @classmethod
    def _is_of_the_tokenizer(cls, value: str | None, info: ValidationInfo) -> str | None:
        wanted = info.data.get("tokenizer") == PRETRAINED
        if wanted and value is None:
            raise ValueError(
                "expected a folder of a pretrained model, or its name, for data.tokenizer=pretrained; got none"
            )
        if value is None or wanted or "tokenizer" not in info.data:
            return value
        raise ValueError(f"expected data.tokenizer=pretrained beside it; got {info.data['tokenizer']}")

    @field_validator("vocabulary", "source_vocabulary")
    @classmethod
    def _holds_all_bytes(cls, value: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("tokenizer") == "bpe" and value is not None and value < LEAST_BPE:
            raise ValueError(f"expected {LEAST_BPE} or more for bpe: 4 reserved symbols and 256 bytes; got {value}")
        return value

    @field_validator("valid_share")
    @classmethod
    def _leaves_something_to_train(cls, value: float, info: ValidationInfo) -> float:
        test = info.data.get("test_share", 0.0)
        if value + test >= 1:
            raise ValueError(f"expected less than 1 together with test_share ({test:g}); got {value:g}")
        return value

    @field_validator("source")
    @classmethod
    def _is_another_column(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("column"):
            raise ValueError(f"expected another column than that of the text; got {value!r}")
        return value

    @field_validator("sources")
    @classmethod
    def _is_no_column(cls, value: str, info: ValidationInfo) -> str:
        if value == "text" and (column := info.data.get("source")) is not None:
            raise ValueError(f"expected no column of sources (data.source) beside it; got {column!r}")
        return value

    @field_validator("shared_vocabulary")
    @classmethod
    def _is_one(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("source_vocabulary") is not None:
            raise ValueError("one vocabulary has one size, data.vocabulary: expected no source_vocabulary beside it")
        return value

    @property
    def source_limit(self) -> int | None:
        """Most tokens of a source."""
        return self.max_tokens if self.sources == "text" else self.source_max_tokens


Options: TypeAlias = WordListOptions | SentenceOptions

OPTIONS: dict[str, type[Options]] = {WORD_LIST: WordListOptions, SENTENCES: SentenceOptions}
"""The options of each kind of corpus."""


def corpus_options(
    unit: str,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    *,
    section: str = "",
    others: Collection[str] = (),
) -> Any:
    """Return the options of a kind of corpus.

    Args:
        unit: the kind, a key of :data:`OPTIONS`.
        given: values by name.
        defaults: those that the corpus has of its own.
        section: the place in a recipe, for messages.
        others: what else may be given there.

    Raises:
        OptionsError: all that is wrong with them at once.
    """
    model = OPTIONS[unit]
    foreign = {
        name: f"{name}: for {kind}, data.unit={kind}"
        for kind, other in OPTIONS.items()
        for name in other.model_fields.keys() - model.model_fields.keys()
    }
    values = {**(defaults or {}), **given}
    return checked(model, values, "corpus options", section=section, others=others, elsewhere=foreign)
