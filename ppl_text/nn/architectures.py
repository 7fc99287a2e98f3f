"""What is known of the networks of ``transformers``: where their parts are, how they are built, what they attend by."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import UnknownNameError, UserError
from ..core.limits import pass_on_memory_errors


class Anatomy(NamedTuple):
    """Where things are in a decoder of ``transformers``: names of attributes, and of keys of its configuration.

    ``sizes`` are those of a network unless its settings say otherwise. ``norm`` is what a block reads its states by,
    where these grow from block to block; ``spread`` the key of the standard deviation of initial weights, where it is
    to go by the width; ``plain`` what turns off a window of attention, in which ways of reading a text would differ.
    """

    configuration: str
    sizes: Mapping[str, tuple[str, ...]]
    stack: str
    embedding: str
    layers: str
    attention: str
    value: str
    adapted: tuple[str, ...]
    dropout: tuple[str, ...]
    norm: str = ""
    spread: str = ""
    plain: tuple[tuple[str, Any], ...] = ()

    @property
    def joint(self) -> bool:
        """Whether one map makes queries, keys and values."""
        return self.value in self.adapted and len(self.adapted) == 1


LLAMA = Anatomy(
    "LlamaConfig",
    {
        "layers": ("num_hidden_layers",),
        "width": ("hidden_size",),
        "heads": ("num_attention_heads",),
        "positions": ("max_position_embeddings",),
        "inner": ("intermediate_size",),
        "key_heads": ("num_key_value_heads",),
        "head": ("head_dim",),
    },
    "",
    "embed_tokens",
    "layers",
    "self_attn",
    "v_proj",
    ("q_proj", "v_proj"),
    ("attention_dropout",),
    norm="input_layernorm",
)

ARCHITECTURES: Mapping[str, Anatomy] = {
    "gpt2": Anatomy(
        "GPT2Config",
        {"layers": ("n_layer",), "width": ("n_embd",), "heads": ("n_head",), "positions": ("n_positions",)},
        "",
        "wte",
        "h",
        "attn",
        "c_attn",
        ("c_attn",),
        ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        norm="ln_1",
    ),
    "llama": LLAMA,
    "mistral": LLAMA._replace(configuration="MistralConfig", plain=(("sliding_window", None),)),
    "qwen2": LLAMA._replace(configuration="Qwen2Config"),
    "qwen3": LLAMA._replace(configuration="Qwen3Config"),
    "bart": Anatomy(
        "BartConfig",
        {
            "layers": ("encoder_layers", "decoder_layers"),
            "width": ("d_model",),
            "heads": ("encoder_attention_heads", "decoder_attention_heads"),
            "positions": ("max_position_embeddings",),
            "inner": ("encoder_ffn_dim", "decoder_ffn_dim"),
        },
        "decoder",
        "embed_tokens",
        "layers",
        "self_attn",
        "v_proj",
        ("q_proj", "v_proj"),
        ("dropout", "attention_dropout", "activation_dropout"),
        spread="init_std",
    ),
}
"""Decoders whose value projection can be wrapped, by ``model_type``; ``bart`` has an encoder for sources beside it.

Another one of Llama's form, whose blocks normalise what they read and map it to values by ``v_proj``, takes a line here
and one in :data:`ppl_text.data.pretrained_models.ARCHITECTURES`.
"""

SPREAD = 0.64
"""σ √H of initial weights that go by the width H: 0.02 at 1,024, where BART has it from.

Its blocks are normalised behind each sum: what attention says of the source, through two such maps, is about (σ √H)² of
what it is added to; with 0.02 at a width of 128 that is 0.05, and is not learned.
"""

ATTENTION = "ppl_text"
"""Name of the attention function in the registry of ``transformers``."""


FUSED = {"gelu_new": "gelu_pytorch_tanh"}
"""Activations of ``transformers`` by several operations, and the same function by one of torch's own."""


def seen_by_all(counted: Tensor) -> Tensor:
    """(R, 1, 1, S): what is seen of rows (R, S); of one without a position nothing is read, but all of it is seen.

    A softmax over nothing is NaN.
    """
    return (counted | (~counted.any(-1, keepdim=True)))[:, None, None, :]


def causal_mask(steps: int, width: int, device: torch.device) -> Tensor:
    """(1, 1, T, W): True where one of the last T of W positions sees another."""
    return torch.ones(steps, width, dtype=torch.bool, device=device).tril(width - steps)[None, None]


def keys_of_sizes(architecture: str) -> list[str]:
    """Return what an architecture's configuration calls layers, width, heads and positions.

    Raises :class:`UnknownNameError` for one that is not known.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, tuple(ARCHITECTURES))
    sizes = ARCHITECTURES[architecture].sizes
    return [key for name in ("layers", "width", "heads", "positions") for key in sizes[name]]


def build_network(anatomy: Anatomy, vocabulary: int, given: Mapping[str, Any]) -> Any:
    """Make a network at random; raises :class:`UserError` for settings that do not fit together."""
    import transformers

    _register()
    try:
        # The ids that generation of theirs would need are none of ours.
        config = getattr(transformers, anatomy.configuration)(
            vocab_size=vocabulary, bos_token_id=None, eos_token_id=None, pad_token_id=None, **given
        )
        activation = getattr(config, "activation_function", None)
        if activation in FUSED:
            config.activation_function = FUSED[activation]
        return transformers.AutoModel.from_config(config, attn_implementation=ATTENTION)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        pass_on_memory_errors(error)
        raise UserError(f"{anatomy.configuration} of transformers does not take {dict(given)}: {error!r}") from error


def value_width(attention: Any, anatomy: Anatomy, width: int) -> int:
    """Return d, the width of the values: with grouped heads less than that of the states."""
    projection = getattr(attention, anatomy.value, None)
    if projection is None:
        raise UserError(
            f"{type(attention).__name__} has no value projection '{anatomy.value}' that could be wrapped; use an "
            f"architecture that has one: {', '.join(ARCHITECTURES)}"
        )
    return width if anatomy.joint else int(projection.weight.shape[0])


def past_keyword(network: Any) -> str:
    """Return what a network calls what it has computed before: the name has changed."""
    return "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"


def cache_of(stored: Sequence[Tensor]) -> Any:
    """Make a cache of keys and values (R, heads, T, d) in turn, layer by layer."""
    from transformers import DynamicCache

    made = DynamicCache()
    if stored[0].shape[2]:
        for place, (key, value) in enumerate(zip(stored[::2], stored[1::2], strict=True)):
            made.update(key, value, place)
    return made


def contents_of(past: Any, number: int) -> list[Tensor]:
    """Return keys and values of a cache in turn, layer by layer."""
    return [tensor for layer in past.layers[:number] for tensor in (layer.keys, layer.values)]


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend by torch's own kernels, to the memory of a layer too, which every position sees."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if getattr(module, "memory", None) is not None:
        keys, values = module.memory
        key, value = (torch.cat([own.to(x.dtype), x], 2) for own, x in ((keys, key), (values, value)))
        if attention_mask is None:
            attention_mask = causal_mask(query.shape[2], key.shape[2] - 1, key.device)
        attention_mask = torch.cat([torch.ones_like(attention_mask[..., :1]), attention_mask], -1)
        if module.watched:
            share = _share_of_first(module, query, key, attention_mask, options.get("scaling"))
            module.seen = share, attention_mask.sum(-1).squeeze(1).reciprocal().expand_as(share)
    attended: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    return attended, None


def _share_of_first(module: Any, query: Tensor, key: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Return the weight of the first key for each query, (R, T), mean over heads."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(-1, -2) * factor).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)[..., 0].mean(1)
