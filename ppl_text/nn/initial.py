"""Initial values: of all parameters of a network, by name, and of maps that begin as GPT-2's do."""

from __future__ import annotations

from torch import nn

from ..core.errors import UnknownNameError

RANGES: dict[str, tuple[float, float] | None] = {"uniform": (0.01, 0.1), "wide": (0.1, 0.1), "torch": None}
"""Half-widths of the uniform distributions that parameters and embeddings start from; None leaves torch's own."""


def initialise(module: nn.Module, name: str) -> None:
    """Draw all parameters of ``module`` anew: U(-r, r), embeddings U(-s, s).

    ``uniform``: r = 0.01, s = 0.1 (specification 0, the LSTM VAEs); ``wide``: r = s = 0.1 (the cyclical schedule's);
    ``torch``: as torch does, nothing is touched. Raises :class:`UnknownNameError` for any other name.
    """
    if name not in RANGES:
        raise UnknownNameError("init", name, RANGES)
    ranges = RANGES[name]
    if ranges is None:
        return
    others, embeddings = ranges
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -others, others)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.uniform_(part.weight, -embeddings, embeddings)


GPT2_SCALE = 0.02
"""Standard deviation of GPT-2's initial weights."""


def normal_linear(inputs: int, outputs: int, *, bias: bool = True, scale: float = GPT2_SCALE) -> nn.Linear:
    """Return x ↦ W x + b with weights N(0, ``scale``²) and b = 0, as GPT-2's maps begin."""
    made = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(made.weight, std=scale)
    if bias:
        nn.init.zeros_(made.bias)
    return made
