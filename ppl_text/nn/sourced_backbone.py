"""Decoders that attend to what an encoder says of a source, and the choice among backbones by their architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..core.protocols import State
from .architectures import cache_of, causal_mask, contents_of, seen_by_all
from .backbone import NOTHING, Backbone, Injected, Source


class SourcedBackbone(Backbone):
    """A decoder with an encoder beside it: ``read`` is the encoder's, and a text attends to what that says of a source.

    Encoder and decoder have L blocks each, and one embedding. Latents enter the decoder alone.
    """

    def forward(self, embedded: Tensor, injected: Injected = NOTHING, source: Source | None = None) -> Tensor:
        """Return states (R, T, H) of embeddings (R, T, H), each given those before it, and the source."""
        self._check(embedded.shape[1])
        mask = causal_mask(embedded.shape[1], embedded.shape[1], embedded.device) if injected.memory else None
        states: Tensor = self._run(embedded, injected, mask, None, others=_attended(source))[0]
        return states

    def read(self, embedded: Tensor, counted: Tensor) -> list[Tensor]:
        """Return the states after each block of the encoder, L times (R, T, H); ``counted`` (R, T) of them are seen."""
        self._check(embedded.shape[1])
        mask = seen_by_all(counted).expand(-1, 1, embedded.shape[1], -1)
        out = self.network.encoder(inputs_embeds=embedded, attention_mask=mask, output_hidden_states=True)
        return [*out.hidden_states[1 : self.number], out.last_hidden_state]

    @property
    def sharded_blocks(self) -> Sequence[nn.Module]:
        """The blocks of encoder and decoder."""
        return (*getattr(self.network.encoder, self._anatomy.layers), *self.blocks)

    @property
    def encodes(self) -> bool:
        """Whether sources are read by an encoder: they are."""
        return True

    def source(self, embedded: Tensor, read: Sequence[Tensor], counted: Tensor) -> Source:
        """Return what the encoder says."""
        return Source(read[-1], counted)

    def begin(self, rows: int, injected: Injected = NOTHING, source: Source | None = None) -> State:
        """Return the state before the first token: nothing of the text, keys and values of the source in each layer."""
        counted, *nothing = super().begin(rows)
        if source is None:
            return (counted, counted, *nothing, *nothing)
        stored = []
        for block in self.blocks:
            for projection in (block.encoder_attn.k_proj, block.encoder_attn.v_proj):
                stored.append(
                    projection(source.states).unflatten(-1, (-1, block.encoder_attn.head_dim)).transpose(1, 2)
                )
        return (counted, source.counted, *nothing, *stored)

    def step(
        self, state: State, embedded: Tensor, injected: Injected = NOTHING, counted: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the states (R, T, H) of what follows, and what is known after it."""
        from transformers import EncoderDecoderCache

        seen, given, *stored = state
        own, others = stored[: 2 * self.number], stored[2 * self.number :]
        seen, mask, _ = self._following(seen, embedded.shape[1], counted)
        past = EncoderDecoderCache(cache_of(own), cache_of(others))
        # The source's states are asked for, and not read where their keys and values are known.
        source = Source(embedded.new_zeros(len(given), given.shape[1], self.width), given) if given.shape[1] else None
        last, _ = self._run(embedded, injected, mask, None, past=past, others=_attended(source))
        return last, (seen, given, *contents_of(past.self_attention_cache, self.number), *others)


def _attended(source: Source | None) -> dict[str, Tensor]:
    if source is None:
        return {}
    return {"encoder_hidden_states": source.states, "encoder_attention_mask": seen_by_all(source.counted)}


def build_backbone(architecture: str, vocabulary: int, **options: Any) -> Backbone:
    """Return a backbone of an architecture; the arguments are those of :class:`Backbone`."""
    return (SourcedBackbone if architecture == "bart" else Backbone)(architecture, vocabulary, **options)
