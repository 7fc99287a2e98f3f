"""GPT-2 as a language model, as anybody trains it: ``GPT2LMHeadModel`` of ``transformers`` and nothing of ours.

Input tokens are BOS w_1 … w_{T-1}, labels w_1 … w_T (padding is ignored), the head is tied to the embedding, attention
is torch's fused one, and nothing is cached. The loss is the library's own cross-entropy, -Σ_t ln p(w_t | w_{<t}), as a
mean over the texts, in nats: it is told that a batch has B items, so that clipping works on the same gradient. Dropout
0.1 as its configuration has it; gradients are clipped at global norm 5; AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import BEGIN, END, IGNORED, Words
from benchmarks.peers.loop import Loop

RATE = 1e-4


class Sizes(NamedTuple):
    """L blocks of width H, their heads, V, D of a latent (which the peer has none of), B, T."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    vocabulary: int = 4_000
    latent: int = 32
    batch: int = 32
    steps: int = 32


GPT2_SMALL = Sizes(12, 768, 12, 50_259, 32, 16, 64)
"""Those of the published model, with one more row each for padding and BOS."""


class Prepared(NamedTuple):
    """A batch as the step reads it: inputs (B, T), and labels (B, T), of which padding is ignored."""

    inputs: Tensor
    labels: Tensor


class PlainGPT2(Loop):
    """The contestant; ``bf16``: products in bfloat16, parameters and sums in float32, as torch's autocast has it."""

    def __init__(self, seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes(), *, bf16: bool = False) -> None:  # noqa: B008 - numbers
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(seed)
        self.device, self.bf16 = device, bf16
        config = GPT2Config(
            vocab_size=sizes.vocabulary,
            n_layer=sizes.layers,
            n_embd=sizes.width,
            n_head=sizes.heads,
            bos_token_id=BEGIN,
            eos_token_id=END,
            attn_implementation="sdpa",
            use_cache=False,
        )
        self.networks: nn.Module = GPT2LMHeadModel(config).to(device).train()
        self.parameters = list(self.networks.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, RATE, fused=True)

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Take over the parameters of the blocks and of the embedding, which the head shares."""
        self.networks.get_submodule("transformer").load_state_dict(parameters)

    def prepare(self, words: Words) -> Prepared:
        """Shift and mask; done before the clock starts."""
        tokens, lengths = map(torch.from_numpy, words)
        inputs = torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens[:, :-1]], 1)
        labels = tokens.masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None], IGNORED)
        return Prepared(inputs.to(self.device), labels.to(self.device))

    def loss(self, batch: Prepared) -> Tensor:
        """Loss of a batch, nats per text."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss: Tensor = self.networks(
                batch.inputs, labels=batch.labels, shift_labels=batch.labels, num_items_in_batch=len(batch.labels)
            ).loss
        return loss


def build_bf16(seed: int = 0, device: str = "cpu", sizes: Sizes = Sizes()) -> PlainGPT2:  # noqa: B008 - numbers
    """Its step in bfloat16."""
    return PlainGPT2(seed, device, sizes, bf16=True)


def texts(seed: int = 0, sizes: Sizes = Sizes()) -> Words:  # noqa: B008 - numbers
    """Return texts of equal lengths; tokens uniform over the vocabulary."""
    tokens = np.random.default_rng(seed).integers(END + 1, sizes.vocabulary, (sizes.batch, sizes.steps))
    tokens[:, -1] = END
    return Words(tokens.astype(np.int64), np.full(sizes.batch, sizes.steps, dtype=np.int64))
