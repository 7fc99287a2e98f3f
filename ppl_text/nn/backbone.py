"""The one seam to the models of ``transformers``: causal decoders, read either way, with something injected.

Nothing of their code is repeated or replaced. A backbone is built from their configuration classes, and what is
injected comes in by the hooks of torch and by their registry of attention functions (specification 6):

- *values* are changed where the value projection ends, before heads are split and before anything is cached;
- *states* are added to in front of a block;
- *memory* is one more key and value for each layer, joined inside the attention function, so that it is no part of a
  cache and works where activations are computed twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..core.errors import UnknownNameError, UserError
from ..core.protocols import State
from .adapters import LowRankUpdate

Change = Callable[[Tensor], Tensor]
"""Makes new values (R, T, d) of a layer's values."""


class Injected(NamedTuple):
    """What a backbone is given beside its inputs, layer by layer, None where a layer gets nothing; R rows.

    ``values``: changes of the values (R, T, d); ``states``: what is added to the states in front of a block, (R, H);
    ``memory``: one more key and value, (R, 2 d). An empty sequence: nothing in any layer.
    """

    values: Sequence[Change | None] = ()
    states: Sequence[Tensor | None] = ()
    memory: Sequence[Tensor | None] = ()


NOTHING = Injected()


class _Anatomy(NamedTuple):
    """Where things are in a decoder of ``transformers``: names of attributes, and of keys of its configuration."""

    configuration: str
    keys: Mapping[str, str]
    embedding: str
    layers: str
    attention: str
    value: str
    key: str | None
    adapted: tuple[str, ...]
    dropout: tuple[str, ...]


ARCHITECTURES: Mapping[str, _Anatomy] = {
    "gpt2": _Anatomy(
        "GPT2Config",
        {"layers": "n_layer", "width": "n_embd", "heads": "n_head", "positions": "n_positions", "inner": "n_inner"},
        "wte",
        "h",
        "attn",
        "c_attn",
        None,
        ("c_attn",),
        ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    "llama": _Anatomy(
        "LlamaConfig",
        {
            "layers": "num_hidden_layers",
            "width": "hidden_size",
            "heads": "num_attention_heads",
            "positions": "max_position_embeddings",
            "inner": "intermediate_size",
        },
        "embed_tokens",
        "layers",
        "self_attn",
        "v_proj",
        "k_proj",
        ("q_proj", "v_proj"),
        ("attention_dropout",),
    ),
}
"""Causal decoders whose value projection can be wrapped, by name."""

ADAPTATIONS = ("full", "frozen", "low-rank")
"""What is trained of a backbone."""

ATTENTION = "ppl_text"
"""Name of the attention function in the registry of ``transformers``."""


class Backbone(nn.Module):
    """h_1..h_T = decoder(e_1..e_T): the blocks of a Transformer of V symbols, width H and L layers, and its embedding.

    ``forward`` is causal; ``read`` lets every position see all others, with the same blocks; ``begin`` and ``step`` go
    on token by token with what was computed before. Each takes what is :class:`Injected`.

    Args:
        architecture: a name of :data:`ARCHITECTURES`.
        vocabulary: V.
        layers, width, heads: L, H and the heads of each layer.
        positions: longest sequence.
        dropout: of embeddings, attention and residuals, in training only, where the architecture has them.
        settings: further keys of the architecture's configuration, in the words of ``transformers``.
        checkpointing: compute each block a second time on the way back instead of keeping what is inside of it.
        adapt: ``full``: all is trained; ``frozen``: the embedding of the symbols alone; ``low-rank``: that, and updates
            of the maps to queries and values (:class:`~ppl_text.nn.adapters.LowRankUpdate`).
        adapt_rank: of these updates.

    Raises:
        UserError: an architecture that is not known, or settings that do not fit together.
    """

    def __init__(
        self,
        architecture: str,
        vocabulary: int,
        *,
        layers: int,
        width: int,
        heads: int,
        positions: int,
        dropout: float = 0.1,
        settings: Mapping[str, Any] | None = None,
        checkpointing: bool = False,
        adapt: str = "full",
        adapt_rank: int = 8,
    ) -> None:
        super().__init__()
        if adapt not in ADAPTATIONS:
            raise UnknownNameError("adapt", adapt, ADAPTATIONS)
        if architecture not in ARCHITECTURES:
            raise UnknownNameError("architecture", architecture, tuple(ARCHITECTURES))
        if width % heads:
            raise UserError(f"width must be a multiple of heads; got {width} and {heads}")
        self.architecture, self.positions, self.width, self.number = architecture, positions, width, layers
        self._anatomy = ARCHITECTURES[architecture]
        sizes = {"layers": layers, "width": width, "heads": heads, "positions": positions}
        given = {self._anatomy.keys[name]: size for name, size in sizes.items()}
        given |= dict.fromkeys(self._anatomy.dropout, dropout) | dict(settings or {})
        self.network = _build(self._anatomy, vocabulary, given)
        self.value_dim = _value_dim(self._attention(0), self._anatomy, width)
        self._past = _past_keyword(self.network)
        self._injected, self._looked_at = NOTHING, False
        self.updates = nn.ModuleList()
        self._adapt(adapt, adapt_rank)
        for place, block in enumerate(self.blocks):
            block.register_forward_pre_hook(partial(self._add, place), with_kwargs=True)
            self._value_projection(place).register_forward_hook(partial(self._change, place))
            self._attention(place).memory = self._attention(place).seen = None
            if checkpointing:
                block.gradient_checkpointing = True
                block._gradient_checkpointing_func = self._twice

    def _adapt(self, adapt: str, rank: int) -> None:
        """Freeze all but the embedding of the symbols, and add updates, before anything else is hooked to the maps."""
        if adapt == "full":
            return
        self.network.requires_grad_(False)
        self.embedding.weight.requires_grad_(True)
        for place in range(self.number if adapt == "low-rank" else 0):
            for name in self._anatomy.adapted:
                projection = getattr(self._attention(place), name)
                # A linear map of GPT-2 has its weight the other way round.
                wide = tuple(projection.weight.shape)
                inputs, outputs = wide if self._anatomy.key is None else wide[::-1]
                update = LowRankUpdate(inputs, outputs, rank)
                projection.register_forward_hook(update.added)
                self.updates.append(update)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], embedding: str, rows: Sequence[int]) -> None:
        """Take over pretrained tensors by the names that ``transformers`` has for them.

        Args:
            tensors: of the network; what is not in it is left alone.
            embedding: name of that of the symbols.
            rows: for each of the V symbols its row in that, -1 for a symbol that it lacks, which keeps its own.

        Raises:
            UserError: tensors are missing, or have other shapes.
        """
        own = self.network.state_dict()
        table = f"{self._anatomy.embedding}.weight"
        if missing := [name for name in own if name != table and name not in tensors]:
            raise UserError(f"the pretrained weights lack {', '.join(missing[:3])}: are they of this architecture?")
        for name, tensor in own.items():
            if name != table and tensor.shape != tensors[name].shape:
                shapes = f"{tuple(tensors[name].shape)}, and the model needs {tuple(tensor.shape)}"
                raise UserError(f"the pretrained weight {name} has the shape {shapes}; leave sizes of the model out")
            if name != table:
                tensor.copy_(tensors[name])
        take_rows(self.embedding.weight, tensors[embedding], rows)

    @property
    def blocks(self) -> Sequence[Any]:
        """The L blocks."""
        found: Sequence[Any] = getattr(self.network, self._anatomy.layers)
        return found

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding of the V symbols."""
        found: nn.Embedding = getattr(self.network, self._anatomy.embedding)
        return found

    def _attention(self, place: int) -> Any:
        return getattr(self.blocks[place], self._anatomy.attention)

    def _value_projection(self, place: int) -> nn.Module:
        found: nn.Module = getattr(self._attention(place), self._anatomy.value)
        return found

    def forward(self, embedded: Tensor, injected: Injected = NOTHING, counted: Tensor | None = None) -> Tensor:
        """Return states (R, T, H) of embeddings (R, T, H), each given those before it.

        ``counted`` (R, T): False where a position is padding that lies in front of others; it is seen by none, and
        positions are counted without it. None: padding, if any, is at the end.
        """
        self._check(embedded.shape[1])
        mask = positions = None
        if counted is not None:
            positions = (counted.cumsum(-1) - 1).clamp(min=0)
        if counted is not None or injected.memory:
            mask = _causal(embedded.shape[1], embedded.shape[1], embedded.device)
            mask = mask if counted is None else mask & counted[:, None, None, :]
        states: Tensor = self._run(embedded, injected, mask, positions)[0]
        return states

    def read(self, embedded: Tensor, counted: Tensor) -> list[Tensor]:
        """Return the states after each block, L times (R, T, H), every position seeing all that are ``counted`` (R, T).

        The last ones are those that the network puts out, after its final normalisation.
        """
        self._check(embedded.shape[1])
        # Of a row without a position nothing is read, but a softmax over nothing is NaN.
        seen = counted | (~counted.any(-1, keepdim=True))
        mask = seen[:, None, None, :].expand(-1, 1, embedded.shape[1], -1)
        last, states = self._run(embedded, NOTHING, mask, None, every=True)
        return [*states[1 : self.number], last]

    def begin(self, rows: int) -> State:
        """Return the state before the first position of ``rows`` texts: keys and values of each layer, of no step."""
        weight, attention = self.embedding.weight, self._attention(0)
        heads = self.value_dim // attention.head_dim
        nothing = weight.new_zeros(rows, heads, 0, attention.head_dim)
        counted = torch.zeros(rows, 0, dtype=torch.bool, device=weight.device)
        return (counted, *[nothing] * (2 * self.number))

    def step(
        self, state: State, embedded: Tensor, injected: Injected = NOTHING, counted: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the states (R, T, H) of what follows, (R, T, H), and what is known after it.

        ``counted`` (R, T): False where it is padding; None: all of it counts.
        """
        seen, *stored = state
        steps = embedded.shape[1]
        own = seen.new_ones(len(seen), steps) if counted is None else counted
        seen = torch.cat([seen, own], dim=-1)
        self._check(seen.shape[-1])
        mask = _causal(steps, seen.shape[-1], seen.device) & seen[:, None, None, :]
        positions = (seen.cumsum(-1) - 1).clamp(min=0)[:, -steps:]
        past = _cache_of(stored)
        last, _ = self._run(embedded, injected, mask, positions, past=past)
        return last, (seen, *_contents(past, self.number))

    @torch.no_grad()
    def memory_attention(self, embedded: Tensor, injected: Injected) -> Tensor:
        """Return how much of its attention each position pays to the memory, (R, L, T): means over heads."""
        if not any(part is not None for part in injected.memory):
            raise UserError("attention on the memory needs a memory: this model injects none")
        self._looked_at = True
        try:
            self.forward(embedded, injected)
        finally:
            self._looked_at = False
        found = [self._attention(place).seen for place in range(self.number)]
        blank = embedded.new_zeros(embedded.shape[:2])
        for place in range(self.number):
            self._attention(place).seen = None
        return torch.stack([blank if part is None else part for part in found], dim=1)

    def _check(self, steps: int) -> None:
        if steps > self.positions:
            raise UserError(
                f"the model has {self.positions:,} positions, and a text of {steps:,} came: shorten texts with --set "
                "data.max_tokens=N (with data.long=truncate, drop or refuse), or write shorter ones"
            )

    def _run(
        self,
        embedded: Tensor,
        injected: Injected,
        mask: Tensor | None,
        positions: Tensor | None,
        *,
        every: bool = False,
        past: Any = None,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the last states, and those in front of each block where ``every`` one is wanted."""
        known = {} if past is None else {self._past: past}
        with self._injecting(injected):
            out = self.network(
                inputs_embeds=embedded,
                attention_mask=mask,
                position_ids=positions,
                use_cache=past is not None,
                output_hidden_states=every,
                **known,
            )
        return out.last_hidden_state, (out.hidden_states if every else ())

    @contextmanager
    def _injecting(self, injected: Injected) -> Iterator[None]:
        before, self._injected = self._injected, injected
        self._remember(injected)
        try:
            yield
        finally:
            self._injected = before
            self._remember(before)

    def _remember(self, injected: Injected) -> None:
        """Put keys and values of the memory where the attention function finds them."""
        for place in range(self.number):
            attention, memory = self._attention(place), _of(injected.memory, place)
            heads = None if memory is None else memory.unflatten(-1, (2, -1, 1, attention.head_dim)).unbind(1)
            attention.memory, attention.watched = heads, self._looked_at

    def _twice(self, run: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Checkpoint a block, which has to find on the way back what was injected on the way there."""
        injected = self._injected

        def again(*given: Any, **options: Any) -> Any:
            with self._injecting(injected):
                return run(*given, **options)

        return checkpoint(again, *arguments, use_reentrant=False, **named)

    def _add(self, place: int, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        shift = _of(self._injected.states, place)
        if shift is None:
            return None
        first, *others = arguments
        return (first + shift.unsqueeze(-2).to(first.dtype), *others), named

    def _change(self, place: int, _: nn.Module, __: Any, projected: Tensor) -> Tensor | None:
        change = _of(self._injected.values, place)
        if change is None:
            return None
        if self._anatomy.key is not None:
            return change(projected)
        query, key, value = projected.chunk(3, dim=-1)
        return torch.cat([query, key, change(value).to(value.dtype)], dim=-1)


def take_rows(own: Tensor, given: Tensor, rows: Sequence[int]) -> None:
    """Copy row ``rows[i]`` of ``given`` to row i of ``own``; one of -1 stays."""
    places = torch.as_tensor(rows, device=own.device)
    known = places >= 0
    own[known] = given.to(own.device)[places[known]].to(own.dtype)


def _of(parts: Sequence[Any], place: int) -> Any:
    return parts[place] if parts else None


def _causal(steps: int, width: int, device: torch.device) -> Tensor:
    """(1, 1, T, W): True where one of the last T of W positions sees another."""
    return torch.ones(steps, width, dtype=torch.bool, device=device).tril(width - steps)[None, None]


def sizes_in(architecture: str) -> dict[str, str]:
    """Return what an architecture's configuration calls layers, width, heads and positions.

    Raises :class:`UnknownNameError` for one that is not known.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, tuple(ARCHITECTURES))
    return {name: key for name, key in ARCHITECTURES[architecture].keys.items() if name != "inner"}


def _build(anatomy: _Anatomy, vocabulary: int, given: Mapping[str, Any]) -> Any:
    import transformers

    _register()
    try:
        # The ids that generation of theirs would need are none of ours.
        config = getattr(transformers, anatomy.configuration)(
            vocab_size=vocabulary, bos_token_id=None, eos_token_id=None, pad_token_id=None, **given
        )
        return transformers.AutoModel.from_config(config, attn_implementation=ATTENTION)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{anatomy.configuration} of transformers does not take {dict(given)}: {error!r}") from error


def _value_dim(attention: Any, anatomy: _Anatomy, width: int) -> int:
    """Return d, the width of the values: with grouped heads less than that of the states."""
    projection = getattr(attention, anatomy.value, None)
    if projection is None:
        raise UserError(
            f"{type(attention).__name__} has no value projection '{anatomy.value}' that could be wrapped; use an "
            f"architecture that has one: {', '.join(ARCHITECTURES)}"
        )
    return width if anatomy.key is None else int(projection.weight.shape[0])


def _past_keyword(network: Any) -> str:
    """Return what a network calls what it has computed before: the name has changed."""
    return "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"


def _cache_of(stored: Sequence[Tensor]) -> Any:
    """Make a cache of keys and values (R, heads, T, d) in turn, layer by layer."""
    from transformers import DynamicCache

    made = DynamicCache()
    if stored[0].shape[2]:
        for place, (key, value) in enumerate(zip(stored[::2], stored[1::2], strict=True)):
            made.update(key, value, place)
    return made


def _contents(past: Any, number: int) -> list[Tensor]:
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

    if module.memory is not None:
        keys, values = module.memory
        key, value = (torch.cat([own.to(x.dtype), x], 2) for own, x in ((keys, key), (values, value)))
        if attention_mask is None:
            attention_mask = _causal(query.shape[2], key.shape[2] - 1, key.device)
        attention_mask = torch.cat([torch.ones_like(attention_mask[..., :1]), attention_mask], -1)
        if module.watched:
            module.seen = _share_of_first(module, query, key, attention_mask, options.get("scaling"))
    attended: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    return attended, None


def _share_of_first(module: Any, query: Tensor, key: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Return the weight of the first key for each query, (R, T), mean over heads."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(-1, -2) * factor).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)[..., 0].mean(1)
