"""The batch: what every model and guide is given, and nothing else; and the device that it has to be on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, device, nn


@dataclass(frozen=True)
class Batch:
    """B sentences of at most T scored tokens, padded to a static shape.

    ============== ======= =====================================================================
    field          shape   meaning
    ============== ======= =====================================================================
    tokens         (B, T)  int64: w_1 … w_n EOS, then padding (id 0). BOS is given, never scored,
                           and therefore stands in ``decoder_inputs`` only.
    lengths        (B,)    int64: scored tokens of each row, EOS counted (n + 1)
    weights        (B,)    float: what the row counts for; 0 for a filler row that only keeps the
                           shape static, a word's multiplicity in weighted evaluation, otherwise 1
    decoder_inputs (B, T)  int64: BOS w_1 … w_n, after word dropout. Drawn once per batch, so that
                           model and guide see the same inputs.
    source         Batch   what a conditional model reads; None for unconditional text
    ============== ======= =====================================================================
    """

    tokens: Tensor
    lengths: Tensor
    weights: Tensor
    decoder_inputs: Tensor
    source: Batch | None = None

    def __post_init__(self) -> None:
        if self.tokens.dim() != 2 or self.tokens.shape != self.decoder_inputs.shape:
            raise ValueError(
                "Batch: tokens and decoder_inputs must both have shape (B, T); "
                f"got {tuple(self.tokens.shape)} and {tuple(self.decoder_inputs.shape)}"
            )
        for name in ("lengths", "weights"):
            if getattr(self, name).shape != self.tokens.shape[:1]:
                raise ValueError(
                    f"Batch: {name} must have shape (B,) = ({self.tokens.shape[0]},); "
                    f"got {tuple(getattr(self, name).shape)}"
                )

    @property
    def size(self) -> int:
        """B, filler rows counted."""
        return self.tokens.shape[0]

    @property
    def steps(self) -> int:
        """T, padding counted."""
        return self.tokens.shape[1]

    @property
    def scored(self) -> Tensor:
        """(B, T): True on the tokens that are scored, up to EOS."""
        import torch

        return torch.arange(self.steps, device=self.lengths.device) < self.lengths.unsqueeze(-1)

    @property
    def shares(self) -> Tensor:
        """(B,): what each row counts for among all of them, summing to 1; zeros for a batch of filler rows alone."""
        import torch

        return self.weights / self.weights.sum().clamp(min=torch.finfo(self.weights.dtype).tiny)

    def take(self, rows: Tensor) -> Batch:
        """Return the sentences ``rows`` (R,), in that order, as wide as the longest of them."""
        steps = int(self.lengths[rows].max())
        return Batch(
            self.tokens[rows, :steps],
            self.lengths[rows],
            self.weights[rows],
            self.decoder_inputs[rows, :steps],
            None if self.source is None else self.source.take(rows),
        )

    def counted(self) -> Batch:
        """Return the sentences that count: without the filler rows."""
        return self.take(self.weights.nonzero().squeeze(-1))

    def to(self, device: Any) -> Batch:
        """Return the same batch on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch whose tensors, those of the source too, are changed one by one."""
        values = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name != "source"}
        return Batch(**values, source=None if self.source is None else self.source.map(change))

    def tensors(self) -> list[Tensor]:
        """Return the tensors, those of the source last."""
        own = [getattr(self, f.name) for f in fields(self) if f.name != "source"]
        return own + ([] if self.source is None else self.source.tensors())


def device_of(module: nn.Module) -> device:
    """Return the device of the first parameter; the CPU where there is no parameter."""
    import torch

    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
