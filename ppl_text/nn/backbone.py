"""The one seam to the models of ``transformers``: decoders, read either way, with something injected.

Nothing of their code is repeated or replaced. A backbone is built from their configuration classes, and what is
injected comes in by the hooks of torch and by their registry of attention functions (specification 6):

- *values* are changed where the value projection ends, before heads are split and before anything is cached;
- *states* are added to in front of a block;
- *memory* is one more key and value for each layer, joined inside the attention function, so that it is no part of a
  cache and works where activations are computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..core.errors import UnknownNameError, UserError
from ..core.protocols import State
from .adapters import LowRankUpdate
from .architectures import (
    ARCHITECTURES,
    SPREAD,
    build_network,
    cache_of,
    causal_mask,
    contents_of,
    past_keyword,
    seen_by_all,
    value_width,
)

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


class Source(NamedTuple):
    """What a text is written behind, of R rows: states (R, S, H), and which of them count (R, S)."""

    states: Tensor
    counted: Tensor

    def repeated(self, lead: torch.Size) -> Source:
        """Return rows (…, B) flattened, of B sources."""
        states, counted = self
        wide = states.expand(*lead, *states.shape[-2:]).flatten(0, -3)
        return Source(wide, counted.expand(*lead, -1).flatten(0, -2))


ADAPTATIONS = ("full", "frozen", "low-rank")
"""What is trained of a backbone."""


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
        read_norm: ``read`` returns states as the next block reads them, behind its norm (whose weights are constants
            then), where blocks grow their states. Single entries of a pretrained network's are hundreds of times as
            large as all others.

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
        read_norm: bool = False,
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
        sizes |= {"inner": 4 * width, "key_heads": heads, "head": width // heads}
        given = {key: sizes[name] for name, keys in self._anatomy.sizes.items() for key in keys}
        spread = {self._anatomy.spread: SPREAD / math.sqrt(width)} if self._anatomy.spread else {}
        dropped = dict.fromkeys(self._anatomy.dropout, dropout)
        given |= dict(self._anatomy.plain) | spread | dropped | dict(settings or {})
        self.network = build_network(self._anatomy, vocabulary, given)
        self.value_dim = value_width(self._attention(0), self._anatomy, width)
        self._past = past_keyword(self.stack)
        self._injected, self._looked_at = NOTHING, False
        self._read_norm = read_norm and bool(self._anatomy.norm)
        self.updates = nn.ModuleList()
        self._adapt(adapt, adapt_rank)
        for place, block in enumerate(self.blocks):
            block.register_forward_pre_hook(partial(self._add, place), with_kwargs=True)
            self._value_projection(place).register_forward_hook(partial(self._change, place))
            self._attention(place).memory = self._attention(place).seen = None
        for block in self.network.modules() if checkpointing else ():
            if hasattr(block, "gradient_checkpointing"):
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
                inputs, outputs = wide if self._anatomy.joint else wide[::-1]
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
        table = self.embedding.weight
        # The embedding goes by several names where an encoder shares it.
        own = {n: x for n, x in self.network.state_dict().items() if x.data_ptr() != table.data_ptr()}
        if missing := [name for name in own if name not in tensors]:
            raise UserError(f"the pretrained weights lack {', '.join(missing[:3])}: are they of this architecture?")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                shapes = f"{tuple(tensors[name].shape)}, and the model needs {tuple(tensor.shape)}"
                raise UserError(f"the pretrained weight {name} has the shape {shapes}; leave sizes of the model out")
            tensor.copy_(tensors[name])
        take_rows(table, tensors[embedding], rows)

    @property
    def stack(self) -> Any:
        """The decoder within the network: itself, unless there is an encoder beside it."""
        return getattr(self.network, self._anatomy.stack) if self._anatomy.stack else self.network

    @property
    def blocks(self) -> Sequence[Any]:
        """The L blocks."""
        found: Sequence[Any] = getattr(self.stack, self._anatomy.layers)
        return found

    @property
    def sharded_blocks(self) -> Sequence[nn.Module]:
        """The blocks, for processes that share out the parameters."""
        return tuple(self.blocks)

    @property
    def embedding(self) -> nn.Embedding:
        """The embedding of the V symbols."""
        found: nn.Embedding = getattr(self.stack, self._anatomy.embedding)
        return found

    def _attention(self, place: int) -> Any:
        return getattr(self.blocks[place], self._anatomy.attention)

    def _value_projection(self, place: int) -> nn.Module:
        found: nn.Module = getattr(self._attention(place), self._anatomy.value)
        return found

    def forward(self, embedded: Tensor, injected: Injected = NOTHING, source: Source | None = None) -> Tensor:
        """Return states (R, T, H) of embeddings (R, T, H), each given those before it, and the source.

        Padding, if any, is at the end.
        """
        if source is None:
            self._check(embedded.shape[1])
            mask = causal_mask(embedded.shape[1], embedded.shape[1], embedded.device) if injected.memory else None
            states: Tensor = self._run(embedded, injected, mask, None)[0]
            return states
        steps, counted = embedded.shape[1], F.pad(source.counted, (0, embedded.shape[1]), value=True)
        joined = torch.cat([source.states.to(embedded.dtype), embedded], 1)
        self._check(joined.shape[1])
        mask = causal_mask(joined.shape[1], joined.shape[1], embedded.device) & counted[:, None, None, :]
        positions = (counted.cumsum(-1) - 1).clamp(min=0)
        whole: Tensor = self._run(joined, injected, mask, positions)[0]
        return whole[:, -steps:]

    def read(self, embedded: Tensor, counted: Tensor) -> list[Tensor]:
        """Return the states after each block, L times (R, T, H), every position seeing all that are ``counted`` (R, T).

        The last ones are those that the network puts out, after its final normalisation.
        """
        self._check(embedded.shape[1])
        mask = seen_by_all(counted).expand(-1, 1, embedded.shape[1], -1)
        last, states = self._run(embedded, NOTHING, mask, None, every=True)
        return [*(self._as_read(place, states[place]) for place in range(1, self.number)), last]

    def _as_read(self, place: int, states: Tensor) -> Tensor:
        """Return the states in front of a block as they are, or behind its norm, with weights that are constants."""
        if not self._read_norm:
            return states
        norm: nn.Module = getattr(self.blocks[place], self._anatomy.norm)
        # Processes that hold a part of the parameters each gather these few for themselves: no block is run.
        whole = {name: getattr(p, "full_tensor", lambda p=p: p)().detach() for name, p in norm.named_parameters()}
        read: Tensor = functional_call(norm, whole, (states,))
        return read

    @property
    def encodes(self) -> bool:
        """Whether sources are read by an encoder, rather than in front of the text."""
        return False

    def source(self, embedded: Tensor, read: Sequence[Tensor], counted: Tensor) -> Source:
        """Return what a text is written behind: embedded sources (R, S, H), which it follows in one sequence.

        ``read``: what :meth:`read` makes of them, for networks that attend to that.
        """
        return Source(embedded, counted)

    def begin(self, rows: int, injected: Injected = NOTHING, source: Source | None = None) -> State:
        """Return the state before the first token of ``rows`` texts: keys and values of each layer, of the source's."""
        weight = self.embedding.weight
        nothing = weight.new_zeros(rows, self._heads, 0, self._attention(0).head_dim)
        counted = torch.zeros(rows, 0, dtype=torch.bool, device=weight.device)
        state: State = (counted, *[nothing] * (2 * self.number))
        return state if source is None else self.step(state, source.states, injected, source.counted)[1]

    @property
    def _heads(self) -> int:
        """How many heads keys and values have."""
        return int(self.value_dim // self._attention(0).head_dim)

    def step(
        self, state: State, embedded: Tensor, injected: Injected = NOTHING, counted: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the states (R, T, H) of what follows, (R, T, H), and what is known after it.

        ``counted`` (R, T): False where it is padding; None: all of it counts.
        """
        seen, *stored = state
        seen, mask, positions = self._following(seen, embedded.shape[1], counted)
        past = cache_of(stored)
        last, _ = self._run(embedded, injected, mask, positions, past=past)
        return last, (seen, *contents_of(past, self.number))

    def _following(self, seen: Tensor, steps: int, counted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is seen after some more steps, their mask, and their positions."""
        own = seen.new_ones(len(seen), steps) if counted is None else counted
        seen = torch.cat([seen, own], dim=-1)
        self._check(seen.shape[-1])
        mask = causal_mask(steps, seen.shape[-1], seen.device) & seen[:, None, None, :]
        return seen, mask, (seen.cumsum(-1) - 1).clamp(min=0)[:, -steps:]

    @torch.no_grad()
    def memory_attention(
        self, embedded: Tensor, injected: Injected, source: Source | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return how much of its attention each position pays to the memory, and would if all it reads had the same.

        (R, L, T), means over heads, and (R, T). A source in front of the text is among what is read; what an encoder
        says of one is attended to by itself, and is not. Raises :class:`UserError` where no memory is injected.
        """
        if not any(part is not None for part in injected.memory):
            raise UserError("attention on the memory needs a memory: this model injects none")
        self._looked_at = True
        try:
            self.forward(embedded, injected, source)
            found = [self._attention(place).seen for place in range(self.number)]
        finally:
            self._looked_at = False
            for place in range(self.number):
                self._attention(place).seen = None
        equal: Tensor = next(part[1] for part in found if part is not None)
        shares = torch.stack([torch.zeros_like(equal) if part is None else part[0] for part in found], dim=1)
        steps = embedded.shape[1]
        return shares[..., -steps:], equal[:, -steps:]

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
        others: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the last states, and those in front of each block where ``every`` one is wanted."""
        known = {**(others or {}), **({} if past is None else {self._past: past})}
        known = known if positions is None else {"position_ids": positions, **known}
        with self._injecting(injected):
            out = self.stack(
                inputs_embeds=embedded,
                attention_mask=mask,
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
        if not self._anatomy.joint:
            return change(projected).to(projected.dtype)
        query, key, value = projected.chunk(3, dim=-1)
        return torch.cat([query, key, change(value).to(value.dtype)], dim=-1)


def take_rows(own: Tensor, given: Tensor, rows: Sequence[int]) -> None:
    """Copy row ``rows[i]`` of ``given`` to row i of ``own``; one of -1 stays."""
    places = torch.as_tensor(rows, device=own.device)
    known = places >= 0
    own[known] = given.to(own.device)[places[known]].to(own.dtype)


def _of(parts: Sequence[Any], place: int) -> Any:
    return parts[place] if parts else None
