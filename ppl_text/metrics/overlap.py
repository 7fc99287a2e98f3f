"""How much texts have in common with one reference each: ROUGE by words, BERTScore by what a model makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ppl_text.core.errors import DataError, UserError

from .pretrained import unpacked


class Rouge(NamedTuple):
    """Means over the texts of three F-measures, per cent: common words, pairs of words, and words in their order."""

    rouge1: float
    rouge2: float
    rouge_l: float


def rouge(texts: Sequence[str], references: Sequence[str]) -> Rouge:
    """Compare texts with one reference each by Google's ``rouge-score``, which the layer-wise Transformer's paper used.

    Per text F = 2PR/(P + R), P and R the shares of the text's and of the reference's n-grams that the other has, each
    as often as there at most (ROUGE-1, ROUGE-2); of ROUGE-L the longest common subsequence of words in the place of
    the common n-grams, a text being one sentence. Words are lower-cased runs of letters and digits, without stemming:
    the package's defaults. Source: Lin and Hovy 2002; Lin 2004, "ROUGE: a Package for Automatic Evaluation of
    Summaries".

    Raises :class:`DataError` for no text, and for unequal numbers of texts and references.

    Example::

        >>> [round(share, 1) for share in rouge(["the cat sat"], ["The cat slept."])]
        [66.7, 50.0, 66.7]
    """
    _check_pairs("ROUGE", texts, references)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    means = (math.fsum(row[key].fmeasure for row in rows) / len(rows) for key in ("rouge1", "rouge2", "rougeL"))
    return Rouge._make(100.0 * mean for mean in means)


def bert_score(texts: Sequence[str], references: Sequence[str], model: str, layers: int | None = None) -> float:
    """Mean over the texts of the F-measure of BERTScore, per cent, as the package ``bert-score`` computes it.

    With contextual vectors of unit length x_i of the text's tokens and y_j of the reference's, P = mean_i max_j
    x_i·y_j, R = mean_j max_i x_i·y_j, F = 2PR/(P + R); no weights by rarity, no rescaling. An empty text has 0.
    Source: Zhang et al. 2020, "BERTScore: Evaluating Text Generation with BERT". Figures of different models cannot be
    compared: the paper's is the package's own choice for English, ``roberta-large`` at layer 17.

    Args:
        texts: what is scored.
        references: one for each.
        model: an encoder such as BERT, by its name on the Hugging Face hub or its folder, or
            :data:`~ppl_text.metrics.pretrained.PACKAGED`.
        layers: the layer whose states are taken; None: what the package knows of the name, or else the last one.

    Raises:
        UserError: the package is not installed, or the model is none that it can read.
        DataError: no text, or unequal numbers of texts and references.
    """
    _check_pairs("BERTScore", texts, references)
    try:
        import bert_score as package
    except ImportError as error:
        raise UserError(
            "BERTScore needs the package bert-score, which is in the extra metrics: pip install 'ppl-text[metrics]'; "
            "or leave bertscore out of the metrics"
        ) from error
    # The package asks the tokenizer for a method that transformers 5 has not, where there is nothing to tokenise.
    pairs = [pair for pair in zip(texts, references, strict=True) if all(side.strip() for side in pair)]
    if not pairs:
        return 0.0
    with unpacked(model) as folder:
        try:
            chosen = layers or package.utils.model2layers.get(model) or _layers(folder)
            *_, f = package.score(*map(list, zip(*pairs, strict=True)), model_type=folder, num_layers=chosen)
        except (OSError, ValueError, KeyError, OverflowError, AssertionError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"BERTScore with '{model}': expected an encoder such as BERT or RoBERTa, as a name on the Hugging Face "
                "hub or a folder with config.json, and model_max_length in tokenizer_config.json; got: "
                f"{reason[0].rstrip(' :')}"
            ) from error
    return 100.0 * float(f.double().sum()) / len(texts)


def _layers(name: str) -> int:
    """Return how many layers a model has."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(name, trust_remote_code=False).num_hidden_layers)


def _check_pairs(name: str, texts: Sequence[str], references: Sequence[str]) -> None:
    if not texts or len(texts) != len(references):
        raise DataError(
            f"{name} compares one text or more with as many references; got {len(texts)}, {len(references)}"
        )
