"""Whether a recipe and a user's data go together: what is likely a mistake is refused with the command that fits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ..data.corpus import Corpus
from ..data.kinds import held_in
from ..data.options import SENTENCES, WORD_LIST
from ..evaluation.storytelling import is_conditional
from . import build
from .code import Code
from .config import RunConfig

FITTING = {SENTENCES: "text-vae", WORD_LIST: "words"}
"""The recipe to advise for each kind of data."""


def check_kind(recipe: str, config: RunConfig, changes: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` where data were named for a recipe of another kind of data, and the kind was not.

    A model of words may be meant to learn the words of a text, but whoever means that says so: ``data.unit``.
    """
    unit, corpus = config.data.unit, config.data.corpus
    asked = "data.corpus" in changes and "data.unit" not in changes
    column = config.data.options.get("column")
    # What is no name of a column is told by the check of the options.
    held = held_in(corpus, column if isinstance(column, str) else None) if asked else None
    if held is None:
        return
    if unit == WORD_LIST and held.texts:
        raise UserError(
            f"{corpus} holds texts of {held.words:z.1f} words, and recipe '{recipe}' models single words with how "
            f"often each occurs. To model its texts: {command(FITTING[SENTENCES], corpus)}. To model the words that "
            f"occur in them: {command(recipe, corpus, f'data.unit={WORD_LIST}')}"
        )
    if unit == SENTENCES and held.counted:
        raise UserError(
            f"{corpus} holds lines of word<TAB>count, and recipe '{recipe}' models sentences. To model its words: "
            f"{command(FITTING[WORD_LIST], corpus)}. To read what is behind the tabs as sentences: "
            f"{command(recipe, corpus, f'data.unit={SENTENCES}')}"
        )


def check_length(config: RunConfig, corpus: Corpus, code: Code) -> None:
    """Raise :class:`UserError` for texts that are longer than the model is made for, where no option bounds them.

    A model class says so as ``longest_text``, in scored tokens.
    """
    model, _ = build.check_programs(config, code)
    longest, options = getattr(model.kind, "longest_text", None), build.data_options(config)
    if longest is None or corpus.max_steps <= longest or getattr(options, options.bound) is not None:
        return
    name = config.data.corpus
    raise UserError(
        f"{name} has texts of up to {corpus.max_steps - 1:,} tokens, and {config.model.family} is made for "
        f"{longest - 1} at most: each has a latent state of its own. To model long texts: "
        f"{command(FITTING[SENTENCES], name)}. To cut them, or to say how long they may be: "
        f"--set data.{options.bound}={longest - 1}"
    )


def check_sources(config: RunConfig, corpus: Corpus, code: Code) -> None:
    """Raise :class:`UserError` for a model that reads a source on data without, and for one that reads none on pairs.

    A model class says that it reads a source by ``conditional``; None: it reads one where there is one.
    """
    model, _ = build.check_programs(config, code)
    if getattr(model.kind, "conditional", False) is None:
        return
    reads, there = is_conditional(model.kind), corpus.source_tokenizer is not None
    family, name = config.model.family, config.data.corpus
    if reads and not there:
        raise UserError(
            f"{family} reads a source beside each text, and {name} holds texts alone. Give pairs: verse-pairs, a table "
            "with columns source and target (data.source and data.column name others), or parallel files such as "
            "train.src and train.tgt. To let each text be its own source: --set data.sources=text"
        )
    if there and not reads:
        raise UserError(
            f"{family} reads no source, and {name} holds pairs. To model its targets alone: --set data.sources=none. A "
            "class of yours that reads sources says conditional = True"
        )


def command(recipe: str, corpus: str, *settings: str) -> str:
    """Return the command that trains a recipe on a corpus."""
    words = ["python -m ppl_text fit", shlex.quote(recipe), "--data", shlex.quote(corpus)]
    return " ".join([*words, *(f"--set {setting}" for setting in settings)])
