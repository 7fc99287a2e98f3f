"""Pretrained models of Hugging Face: their folders, and their tokenizers as tokenizers of the project.

A pretrained tokenizer keeps its symbols, merges and rules; only its ids change, so that padding, BOS and EOS are 0, 1
and 2. Texts are therefore encoded and decoded as the folder's own tokenizer does it, up to the ids, and nothing else is
done to them, not even NFC. :func:`row_map` says which row of the pretrained embedding belongs to each id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from ppl_text.core.errors import UserError
from ppl_text.core.vocabulary import Vocabulary

from .tokenizers import SPECIALS, UNKNOWN, Tokenizer

CONFIG, GGUF = "config.json", ".gguf"
"""What every pretrained folder holds, and the ending of a file that is a whole pretrained model."""

_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
"""Files, any of which makes a tokenizer."""

_FILES = ("*.json", "*.safetensors", "merges.txt", "tokenizer.model")
"""What is downloaded of a model: numbers and texts, no pickles and no code."""


def pretrained_folder(name: str) -> Path:
    """Return the folder of a pretrained model, or its GGUF file.

    Args:
        name: a folder with ``config.json``; a file ``NAME.gguf``; or a name on the Hugging Face hub, which is looked
            for in the local cache first and downloaded only where it is not there and the network is.

    Raises:
        UserError: there is none.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == GGUF:
        return path
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise UserError(f"pretrained folder '{name}' holds no {CONFIG}; {_how_to_get('NAME')}")
        return path
    if path.exists():
        raise UserError(f"pretrained model '{name}': expected a folder with {CONFIG} or a file NAME.gguf; got a file")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    """Return the folder of a model in the local cache of the hub, downloaded where need be."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    reason = "it is not in the local cache"
    for offline in dict.fromkeys((True, constants.HF_HUB_OFFLINE)):
        try:
            folder = Path(snapshot_download(name, local_files_only=offline, allow_patterns=[*_FILES]))
        except HFValidationError:
            reason = "no such folder, and no name that the hub could have"
            break
        except LocalEntryNotFoundError:
            reason = "no such folder, not in the local cache of Hugging Face, and the hub cannot be reached"
        except HfHubHTTPError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        except OSError as error:
            reason = error.strerror or type(error).__name__
        else:
            if (folder / CONFIG).is_file():
                return folder
            reason = f"its folder in the local cache holds no {CONFIG}"
    raise UserError(f"pretrained model '{name}': {reason}; {_how_to_get(name)}")


def _how_to_get(name: str) -> str:
    return (
        f"get the files where there is a network (hf download {name} --local-dir DIR) and give DIR, or start from "
        "random weights: leave model.backbone out, with data.tokenizer=bpe in place of pretrained"
    )


class _Renumbered(NamedTuple):
    """A pretrained tokenizer under the project's ids, and the pretrained id of each (V,), -1 for a new one."""

    tokenizer: Tokenizer
    rows: NDArray[np.int64]


def pretrained_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer of a pretrained model with padding, BOS and EOS as ids 0, 1 and 2.

    The tokens that the model's own files name for these are taken, whatever they are called there, and those that it
    lacks are new symbols. Where one token begins and ends texts (``<|endoftext|>`` of GPT-2), it is neither: it becomes
    padding, if nothing else is, and BOS and EOS are new. ``<unk>`` comes next, and then all others in the order of the
    pretrained ids. No text is encoded to the three, as with any tokenizer of the project; other special tokens are
    found in texts as before.

    Args:
        name: as for :func:`pretrained_folder`; or the ``tokenizer.json`` of a run, which is taken as it is.

    Raises:
        UserError: there is no such model, or its tokenizer is not of byte pairs (BPE).
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".json":
        return Tokenizer.load(path)
    return _renumbered(pretrained_folder(name)).tokenizer


def row_map(folder: str | Path, vocabulary: Vocabulary | None = None) -> NDArray[np.int64]:
    """Return the row (V,) of the pretrained embedding for each id of :func:`pretrained_tokenizer`, -1 for a new one.

    Args:
        folder: as for :func:`pretrained_folder`.
        vocabulary: of the tokenizer that a run holds, which must be this one.

    Raises:
        UserError: that is another tokenizer.
    """
    tokenizer, rows = _renumbered(pretrained_folder(str(folder)))
    if vocabulary is not None:
        _check_same(str(folder), tokenizer.vocabulary, vocabulary)
    return rows


def _check_same(folder: str, own: Vocabulary, given: Vocabulary) -> None:
    """Raise where a run's vocabulary is not that of a pretrained tokenizer; without a digest, sizes alone tell."""
    what = None
    if given.size != own.size:
        what = f"{given.size:,} symbols, where {own.size:,} are expected"
    elif given.digest not in (None, own.digest):
        what = f"as many symbols ({given.size:,}), but others"
    if what is not None:
        raise UserError(
            f"the tokenizer of the data is not that of the pretrained model in '{folder}': it has {what}; set "
            f"data.tokenizer=pretrained and data.pretrained={folder}, or leave model.backbone out to start from random "
            "weights"
        )


def _renumbered(path: Path) -> _Renumbered:
    backend, named = _own(path)
    description = json.loads(backend.to_str())
    model = description["model"]
    if model["type"] != "BPE":
        raise UserError(
            f"the tokenizer of '{path}' is of the kind {model['type']}; expected byte pairs (BPE), as GPT-2, BART and "
            "Llama have them"
        )
    ids: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    reserved = _reserved(ids, {token["content"] for token in description["added_tokens"]}, named)
    taken = {symbol for symbol in reserved if symbol is not None}
    if ordinary := [symbol for symbol in SPECIALS if symbol in ids and symbol not in taken]:
        raise UserError(
            f"the tokenizer of '{path}' has an ordinary symbol {ordinary[0]}, which is reserved here; expected a "
            "special token of that name, or none"
        )
    others = sorted((symbol for symbol in ids if symbol not in taken), key=lambda symbol: ids[symbol])
    if named.get("unk") == UNKNOWN in others:
        others.insert(0, others.pop(others.index(UNKNOWN)))
    model["vocab"] = {symbol: i for i, symbol in enumerate((*SPECIALS, *others))}
    added = [token for token in description["added_tokens"] if token["content"] not in taken]
    for token in added:
        token["id"] = model["vocab"][token["content"]]
    if model.get("unk_token") in taken:
        model["unk_token"] = None
    description |= {
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    rows = [-1 if symbol is None else ids[symbol] for symbol in (*reserved, *others)]
    return _Renumbered(Tokenizer(Backend.from_str(json.dumps(description))), np.array(rows, dtype=np.int64))


def _own(path: Path) -> tuple[Backend, dict[str, str | None]]:
    """Return a pretrained model's own fast tokenizer, and which of its tokens are called pad, bos, eos and unk."""
    from transformers import AutoTokenizer

    expected = "expected tokenizer.json and tokenizer_config.json as transformers saves them"
    # Where these are all missing, an empty tokenizer would be made up.
    if path.is_dir() and not any((path / name).is_file() for name in _TOKENIZERS):
        raise UserError(f"pretrained folder '{path}': it holds no tokenizer; {expected}")
    where, options = (path.parent, {"gguf_file": path.name}) if path.suffix == GGUF else (path, {})
    try:
        # A folder of a run is a local one: nothing is looked for elsewhere, and no code of a model's is run.
        own = AutoTokenizer.from_pretrained(str(where), local_files_only=True, trust_remote_code=False, **options)
        backend = own.backend_tokenizer
    except Exception as error:  # the libraries raise whatever a damaged file leads them to
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"pretrained model '{path}': its tokenizer cannot be read ({reason}); {expected}") from error
    return backend, {role: getattr(own, f"{role}_token") for role in ("pad", "bos", "eos", "unk")}


def _reserved(
    ids: Mapping[str, int], added: set[str], named: Mapping[str, str | None]
) -> tuple[str | None, str | None, str | None]:
    """Return the pretrained symbols that are padding, BOS and EOS; None for what there is none."""
    found = {role: symbol if symbol in ids else None for role, symbol in named.items()}
    both = found["bos"] if found["bos"] == found["eos"] else None
    if both is not None:
        found |= {"bos": None, "eos": None}
    if found["pad"] in (both, found["bos"], found["eos"], found["unk"]):
        found["pad"] = None
    for role, symbol in zip(("pad", "bos", "eos"), SPECIALS, strict=True):
        if found[role] is None and symbol in added and symbol not in found.values():
            found[role] = symbol
    if found["pad"] is None and both not in (found["bos"], found["eos"]):
        found["pad"] = both
    return found["pad"], found["bos"], found["eos"]
