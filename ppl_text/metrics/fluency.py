"""How fluent texts are to a language model that did not write them: n-grams of texts at hand, or a pretrained model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import DataError

from .pretrained import read_pretrained

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 8
"""Texts that a pretrained model reads at once: its logits take 200 kB a token."""


class Fluency(NamedTuple):
    """What a judge says of several texts, each by its own mean, -ln p per scored token.

    ``nats``        the mean over the texts, nats per token of the judge
    ``deviation``   the standard deviation between the texts; NaN for one
    ``perplexity``  exp(``nats``): the geometric mean of the texts' perplexities
    """

    nats: float
    deviation: float
    perplexity: float


def fluency(surprises: NDArray[np.float64]) -> Fluency:
    """Summarise what a judge said of N texts (N,), nats per token; raises :class:`DataError` for no text.

    Example::

        >>> import numpy as np
        >>> [round(figure, 3) for figure in fluency(np.array([1.0, 3.0]))]
        [2.0, 1.414, 7.389]
    """
    if not len(surprises):
        raise DataError("no texts were given, so that a judge has nothing to say of them")
    nats = float(surprises.mean())
    deviation = float(surprises.std(ddof=1)) if len(surprises) > 1 else math.nan
    return Fluency(nats, deviation, math.exp(nats))


class NgramJudge:
    """-ln p(text) / (n + 1), nats per scored token: a Kneser-Ney model of the words of sentences, EOS scored.

    The vocabulary is open: all words that the sentences do not have are one more symbol. Importing ``nltk`` takes a
    second, when the judge is made.

    Args:
        sentences: what it learns from.
        order: n of the n-grams.
    """

    def __init__(self, sentences: Iterable[str], order: int = 3) -> None:
        from .ngrams import Sentences, kneser_ney

        self._model = kneser_ney(Sentences(sentences), order, open_vocabulary=True)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return nats per token (N,) of each text."""
        rows = [text.split() for text in texts]
        return np.array([-self._model.log_prob(row) / (len(row) + 1) for row in rows])


class PretrainedJudge:
    """-ln p(c_2 … c_n | c_1) / (n - 1), nats per token of its own tokenizer: a pretrained causal model.

    As is customary of GPT-2, the text stands alone, from its second token on: what a model begins and ends texts with
    (a chat's marks, for one) is nothing that a text says. It is read by ``transformers``, its weights from
    ``safetensors`` or GGUF files only, which hold numbers and no code; code that comes with a model is not run.

    Args:
        name: of a model of the Hugging Face hub, a folder, or a file ``NAME.gguf``.

    Raises:
        UserError: there is no such model in such files, or a package that reads GGUF files is missing.
    """

    def __init__(self, name: str) -> None:
        self._tokenizer, self._model = read_pretrained(name, "AutoModelForCausalLM", "judge", "a causal language model")

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return nats per token (N,) of each text; raises :class:`DataError` for one of fewer than two tokens."""
        import torch

        ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if short := [text for text, row in zip(texts, ids, strict=True) if len(row) < 2]:
            raise DataError(f"text {short[0]!r} has fewer than two tokens, of which a judge scores the second")
        # Texts of like lengths together, so that little of a batch is padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = np.empty(len(ids))
        with torch.no_grad():
            for start in range(0, len(order), ROWS):
                chosen = order[start : start + ROWS]
                found[chosen] = self._surprise([ids[i] for i in chosen]).numpy()
        return found

    def _surprise(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return nats per token (R,) of some tokenised texts."""
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        # What fills a row comes after it, where a causal model does not look back from, and is not scored.
        tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
        there = torch.arange(longest) < lengths.unsqueeze(-1)
        logits = self._model(input_ids=tokens, attention_mask=there.long()).logits[:, :-1].float()
        surprise = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return surprise.double().where(there[:, 1:], 0.0).sum(-1) / (lengths - 1)
