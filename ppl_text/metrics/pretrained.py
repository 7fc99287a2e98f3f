"""Pretrained models that judge texts or turn them into features: found, read without running code, or refused.

Weights come from ``safetensors`` or GGUF files only, which hold numbers and no code; code that comes with a model is
not run.
"""

from __future__ import annotations

import importlib.util
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_text.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

GGUF = ".gguf"

PACKAGED = "all-minilm-l6-v2"
"""The name of the encoder that comes as a package of the Python index, for machines that reach no hub."""

_PACKAGE, _ZIP = "all_minilm_l6_v2", "model.zip"

ROWS = 32
"""Texts that are turned into features at once."""

LONGEST = 512
"""Tokens of a text that are read."""


class Read(NamedTuple):
    """A pretrained tokenizer and the model that goes with it, in evaluation mode."""

    tokenizer: Any
    model: Any


def read_pretrained(name: str, kind: str, who: str, what: str) -> Read:
    """Read a pretrained model by ``transformers``.

    Args:
        name: of a model of the Hugging Face hub, a folder, or a file ``NAME.gguf``.
        kind: the class of ``transformers`` that makes it, ``AutoModel`` or another.
        who: what a message calls it, such as "judge".
        what: what a message says that is expected, such as "a causal language model".

    Raises:
        UserError: there is no such model in such files, or a package that reads GGUF files is missing.
    """
    import transformers

    where, options = name, dict[str, Any](trust_remote_code=False)
    if name.endswith(GGUF):
        where, options["gguf_file"] = str(Path(name).parent), Path(name).name
    weights = {} if name.endswith(GGUF) else {"use_safetensors": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        model = getattr(transformers, kind).from_pretrained(where, **options, **weights).eval()
    except ImportError as error:
        raise UserError(
            f"{who} '{name}': reading a GGUF file needs the packages gguf and accelerate: pip install 'ppl-text[judge]'"
        ) from error
    except (OSError, ValueError, KeyError, struct.error) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{who} '{name}': expected {what} as a name on the Hugging Face hub, a folder with config.json and "
            f"*.safetensors, or a file NAME.gguf; got: {reason[0].rstrip(' :')}"
        ) from error
    return Read(tokenizer, model)


@contextmanager
def unpacked(name: str) -> Iterator[str]:
    """Context in which ``name`` is that of a model or a folder, also where it is :data:`PACKAGED`.

    The package holds its folder in a zip file, which is unpacked (90 MB) for as long as the context lasts. Raises
    :class:`UserError` where it is not installed.
    """
    if name != PACKAGED:
        yield name
        return
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the features '{PACKAGED}' are those of a package that is not installed: pip install {PACKAGED}-model; or "
            "name a folder with a pretrained model, or one of the Hugging Face hub"
        )
    with tempfile.TemporaryDirectory(prefix="ppl-text-") as folder:
        with zipfile.ZipFile(Path(next(iter(found.submodule_search_locations))) / _ZIP) as file:
            file.extractall(folder)
        yield folder


class Features:
    """What a pretrained model makes of texts: one vector each, its last hidden states put together.

    Of a model that looks back only, as GPT-2 does, the state of the last token, which has read all of the text (the
    features of MAUVE); of one that looks both ways, as BERT does, the mean over the tokens. A text without a token has
    zeros. Tokens beyond :data:`LONGEST`, or the model's own limit, are not read.

    Args:
        name: of a model of the Hugging Face hub, a folder, or :data:`PACKAGED`.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, name: str) -> None:
        with unpacked(name) as folder:
            self._tokenizer, self._model = read_pretrained(
                folder, "AutoModel", "features", "a pretrained encoder or language model"
            )
        limit = getattr(self._model.config, "max_position_embeddings", None) or LONGEST
        self._limit, self._looks_back = min(LONGEST, limit), _looks_back_only(self._model)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the features (N, D) of N texts."""
        import torch

        ids = [self._tokenizer(text)["input_ids"][: self._limit] for text in texts]
        found = np.zeros((len(ids), self._model.config.hidden_size), np.float32)
        # Texts of like lengths together, so that little of a batch is padding.
        order = [i for i in sorted(range(len(ids)), key=lambda i: len(ids[i])) if ids[i]]
        with torch.no_grad():
            for start in range(0, len(order), ROWS):
                chosen = order[start : start + ROWS]
                found[chosen] = self._of([ids[i] for i in chosen]).numpy()
        return found

    def _of(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the features (R, D) of some tokenised texts."""
        import torch

        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
        there = torch.arange(longest) < lengths.unsqueeze(-1)
        states: Tensor = self._model(input_ids=tokens, attention_mask=there.long()).last_hidden_state.float()
        if self._looks_back:
            return states[torch.arange(len(rows)), lengths - 1]
        return states.where(there.unsqueeze(-1), 0.0).sum(1) / lengths.unsqueeze(-1)


def _looks_back_only(model: Any) -> bool:
    """Return whether the state of a token stays whatever follows it."""
    import torch

    with torch.no_grad():
        states = model(input_ids=torch.tensor([[0, 1], [0, 2]])).last_hidden_state[:, 0]
    return torch.allclose(states[0], states[1], rtol=1e-4, atol=1e-5)
