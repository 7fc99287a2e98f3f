"""Pretrained models as they lie in a folder: what config.json says of them, and their tensors by name.

Nothing here builds a network. config.json is read as the JSON that it is, and weights from ``safetensors`` files only:
a pickle (``pytorch_model.bin``) could run code, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_text.core.errors import UserError
from ppl_text.core.reading import read_object

from .pretrained import CONFIG, GGUF, pretrained_folder, row_map

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_text.core.vocabulary import Vocabulary

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Names of the weights of a model: one file, or several with an index that says what is where."""


class _Keys(NamedTuple):
    """How an architecture's files call things: keys of config.json, tensors without the base model's prefix."""

    layers: str
    width: str
    heads: str
    positions: str
    inner: str
    prefix: str
    embedding: str
    tied: tuple[str, ...] = ()


_LLAMA = _Keys(
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "max_position_embeddings",
    "intermediate_size",
    "model.",
    "embed_tokens.weight",
)

ARCHITECTURES = {
    "gpt2": _Keys("n_layer", "n_embd", "n_head", "n_positions", "n_inner", "transformer.", "wte.weight"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    "bart": _Keys(
        "decoder_layers",
        "d_model",
        "decoder_attention_heads",
        "max_position_embeddings",
        "decoder_ffn_dim",
        "model.",
        "shared.weight",
        ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight"),
    ),
}
"""Architectures whose folders are read, by the ``model_type`` of config.json."""

_IN_GGUF = ("llama", "mistral")
"""Those whose GGUF files are read: there the two halves of each head of queries and keys are interleaved."""

_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Constants that older versions kept among the weights."""

_BOOKKEEPING = {"architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"}
"""Keys of config.json that say nothing of the network."""


@dataclass(frozen=True)
class Pretrained:
    """What a pretrained folder says of its model.

    Args:
        name: what the user calls it.
        folder: that of the model, or its GGUF file.
        architecture: a key of :data:`ARCHITECTURES`.
        layers: Transformer blocks (of a decoder, where there is an encoder too).
        width: of the hidden states.
        heads: of attention.
        positions: most tokens that it reads at once, all of which see each other: no more than a window of attention.
        vocabulary: rows of its embedding, some of which may belong to no token.
        inner: width within the feed-forward layers.
        embedding: name of the embedding among :func:`weights`.
        settings: everything that config.json says of the network, JSON values by the names of ``transformers``.
    """

    name: str
    folder: Path
    architecture: str
    layers: int
    width: int
    heads: int
    positions: int
    vocabulary: int
    inner: int
    embedding: str
    settings: Mapping[str, Any]


def pretrained_settings(name: str | Path) -> Pretrained:
    """Return what a pretrained model's config.json says, once its weights have been found.

    Args:
        name: as for :func:`~ppl_text.data.pretrained.pretrained_folder`.

    Raises:
        UserError: no such model, one of another architecture, or one whose weights are missing or damaged.
    """
    folder = pretrained_folder(str(name))
    config = _gguf_config(folder) if folder.suffix == GGUF else _read_json(folder / CONFIG)
    architecture = config.get("model_type")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"pretrained model '{name}' is of the architecture {architecture!r}; supported: {', '.join(ARCHITECTURES)}"
        )
    if folder.suffix == GGUF and architecture not in _IN_GGUF:
        raise UserError(
            f"pretrained model '{name}' is of the architecture {architecture!r}; GGUF files are read of "
            f"{' and '.join(_IN_GGUF)} alone: take its folder with {WEIGHTS}"
        )
    settings = {key: value for key, value in config.items() if key not in _BOOKKEEPING}
    sizes, embedding = _sizes(folder, config), ARCHITECTURES[architecture].embedding
    found = Pretrained(str(name), folder, architecture, **sizes, embedding=embedding, settings=settings)
    _check_embedding(found)
    return found


def _sizes(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a model by the names of :class:`Pretrained`, all whole numbers from 1 on."""
    keys = ARCHITECTURES[config["model_type"]]
    names = {field: getattr(keys, field) for field in ("layers", "width", "heads", "positions", "inner")}
    names["vocabulary"] = "vocab_size"
    sizes: dict[str, Any] = {field: config.get(name) for field, name in names.items()}
    # GPT-2 leaves out that it is four times as wide within.
    if sizes["inner"] is None and config["model_type"] == "gpt2" and type(sizes["width"]) is int:
        sizes["inner"] = 4 * sizes["width"]
    if wrong := [field for field, value in sizes.items() if type(value) is not int or value < 1]:
        came = ", ".join(f"{names[field]} {sizes[field]!r}" for field in wrong)
        raise UserError(f"pretrained model '{folder}': expected whole numbers from 1 on in {CONFIG}; got {came}")
    window = config.get("sliding_window")
    if type(window) is int and window > 0 and config.get("use_sliding_window", True):
        sizes["positions"] = min(sizes["positions"], window)
    return sizes


def weights(found: Pretrained) -> dict[str, Tensor]:
    """Return the tensors of a pretrained model by the names of its base model (``wte.weight``, ``h.0.ln_1.bias``, …).

    A head that is not tied to the embedding is ``lm_head.weight``. Dtypes are those of the files.

    Raises:
        UserError: a file is damaged.
    """
    keys = ARCHITECTURES[found.architecture]
    if found.folder.suffix == GGUF:
        tensors = _gguf_tensors(found)
    else:
        tensors = {}
        for file in _weight_files(found.folder):
            tensors |= _loaded(file)
    named = {key.removeprefix(keys.prefix): value for key, value in tensors.items() if not key.endswith(_BUFFERS)}
    for other in keys.tied:
        tied = named.pop(other, None)
        if tied is not None:
            named.setdefault(keys.embedding, tied)
    return named


def embedding_rows(found: Pretrained, vocabulary: Vocabulary) -> list[int]:
    """Return the row of a pretrained embedding for each id of a run's tokenizer, -1 for a symbol that it lacks.

    A padding, BOS or EOS that was added to a tokenizer alone has no row.

    Raises:
        UserError: as for :func:`~ppl_text.data.pretrained.row_map`, or where the tokenizer has other symbols beyond
            the rows of the embedding.
    """
    rows: list[int] = row_map(found.name, vocabulary).tolist()
    beyond = [symbol for symbol, row in enumerate(rows) if row >= found.vocabulary]
    ids = vocabulary.ids
    if others := set(beyond).difference((ids.pad, ids.bos, ids.eos)):
        raise UserError(
            f"pretrained model '{found.name}': its tokenizer has {len(others):,} symbols beyond the "
            f"{found.vocabulary:,} rows of its embedding; are they of one model? Symbols added to a tokenizer need "
            "rows (model.resize_token_embeddings(len(tokenizer)) of transformers, before both are saved)"
        )
    for symbol in beyond:
        rows[symbol] = -1
    return rows


def _check_embedding(found: Pretrained) -> None:
    """Raise where the weights do not hold the embedding that config.json speaks of."""
    if found.folder.suffix == GGUF:
        return
    keys = ARCHITECTURES[found.architecture]
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(found.folder):
        shapes |= {key.removeprefix(keys.prefix): shape for key, shape in _shapes(file).items()}
    expected = (found.vocabulary, found.width)
    shape = next((shapes[key] for key in (keys.embedding, *keys.tied) if key in shapes), None)
    if shape != expected:
        raise UserError(
            f"pretrained folder '{found.folder}': expected an embedding {keys.embedding} of shape {expected}, as "
            f"{CONFIG} has it; got {'none' if shape is None else shape}. Are weights and {CONFIG} of one model?"
        )


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder; raises :class:`UserError` where some or all are missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        places = _read_json(folder / INDEX).get("weight_map")
        names = sorted(set(places.values())) if isinstance(places, dict) else []
        if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
            raise UserError(f"{folder / INDEX}: expected a weight_map of tensors to files beside it; download it again")
        if gone := [n for n in names if not (folder / n).is_file()]:
            raise UserError(f"pretrained folder '{folder}' lacks {', '.join(gone)} of {INDEX}; download it again")
        return [folder / n for n in names]
    pickled = next(folder.glob("pytorch_model*.bin"), None)
    if pickled is not None:
        raise UserError(
            f"pretrained folder '{folder}' holds its weights as a pickle ({pickled.name}), which could run code and is "
            f"not read; expected {WEIGHTS}: convert it with AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR) of "
            "transformers, if you trust it"
        )
    raise UserError(
        f"pretrained folder '{folder}' holds no weights; expected {WEIGHTS} or {INDEX}: get the files where there is a "
        "network (hf download NAME --local-dir DIR), or start from random weights: leave model.backbone out"
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _loaded(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"pretrained weights {file} are damaged: {reason}; download them again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; download it again") from error


def _gguf_config(file: Path) -> dict[str, Any]:
    """Return what config.json would say of the model in a GGUF file."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        found: dict[str, Any] = load_gguf_checkpoint(str(file))["config"]
    except ImportError as error:
        raise UserError(
            f"pretrained model '{file}': reading a GGUF file needs the packages gguf and accelerate: "
            "pip install 'ppl-text[judge]'"
        ) from error
    except Exception as error:  # the reader raises whatever a damaged file leads it to
        raise _damaged(file, error) from error
    return found


def _gguf_tensors(found: Pretrained) -> dict[str, Tensor]:
    """Return the tensors of a GGUF file of Llama type in float32, by the names and in the order of ``transformers``."""
    import torch
    from gguf import GGUFReader, dequantize

    tensors = {}
    for stored in GGUFReader(str(found.folder)).tensors:
        values = torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy())
        name = _gguf_name(stored.name)
        if name is None:
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = found.heads if "q_proj" in name else found.settings.get("num_key_value_heads", found.heads)
            # The file pairs the two halves of each head, which rotary positions turn together, row by row.
            values = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
        tensors[name] = values
    return tensors


_GGUF_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of a Llama's tensors in GGUF files, and in ``transformers``."""


def _gguf_name(name: str) -> str | None:
    """Return what ``transformers`` calls a tensor; None for a constant (``rope_freqs``)."""
    parts = name.split(".")
    block = f"layers.{parts[1]}." if parts[0] == "blk" else ""
    kind = _GGUF_NAMES.get(parts[-2])
    return None if kind is None else f"{block}{kind}.{parts[-1]}"
