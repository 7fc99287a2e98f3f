"""What a model publishes about each of its latent sites, and the values that they take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Latents: TypeAlias = "dict[str, Tensor]"
"""The value of every latent site by name, (…, rows, *event); no site for a model without latents."""

Steps = TypeVar("Steps", bound=Any)
"""Of how many steps something is: a number, or a tensor of one for each text."""

STEP_AXES = ("T", "S")
"""Axes that run along a text: target steps, and source or latent steps."""


@dataclass(frozen=True)
class LatentSpec:
    """One latent site: its name, the letters and sizes of its event axes, and its support.

    ``axes`` uses the letters of the glossary (K particles, B sentences, T target steps, S source
    steps, L layers, M code book entries, D latent width, V vocabulary). ``sizes`` gives the known
    widths; an axis that is left out (T, S) is as long as the batch. ``support`` is the name of a
    constraint in ``torch.distributions.constraints``, without the event axes: ``"real"`` for R^D.
    ``stride``: of an axis S that runs along the target text, one step for so many of its tokens and
    one for what is left; None: S runs along the source.

    Example::

        >>> LatentSpec("h", axes=("T", "D"), sizes={"D": 8}).describe()
        'h: (T, D=8) real'
    """

    name: str
    axes: tuple[str, ...]
    sizes: dict[str, int]
    support: str = "real"
    stride: int | None = None

    @property
    def step_axis(self) -> str | None:
        """The event axis that runs along a text (``"T"``, ``"S"``); None for a latent of the whole sentence."""
        return next((axis for axis in self.axes if axis in STEP_AXES), None)

    @property
    def step_place(self) -> int | None:
        """Where :attr:`step_axis` stands among the event axes."""
        return None if self.step_axis is None else self.axes.index(self.step_axis)

    def event_shape(self, steps: int, source_steps: int | None = None) -> tuple[int, ...]:
        """Return the shape of one sentence's value in a batch of ``steps`` target steps."""
        known = {axis: self.own_steps(steps, source_steps, axis) for axis in STEP_AXES} | self.sizes
        shape = {axis: known.get(axis) for axis in self.axes}
        missing = [axis for axis, size in shape.items() if size is None]
        if missing:
            raise ValueError(f"latent '{self.name}': the length of axis {missing[0]} is not known")
        return tuple(size for size in shape.values() if size is not None)

    def own_steps(self, steps: Steps, source_steps: Steps | None = None, axis: str | None = None) -> Steps | None:
        """Return how many steps a text of ``steps`` tokens has along ``axis``, by default the :attr:`step_axis`.

        ``source_steps``: those of its source. None where the axis does not run along a text, or its length is not
        known. Numbers, or tensors of one number a text.
        """
        axis = self.step_axis if axis is None else axis
        if axis == "S":
            return source_steps if self.stride is None else -(-steps // self.stride)
        return steps if axis == "T" else None

    def describe(self) -> str:
        """Site, axes and support in one line."""
        shape = ", ".join(f"{a}={self.sizes[a]}" if a in self.sizes else a for a in self.axes)
        return f"{self.name}: ({shape}) {self.support}"


def of_sentence(latents: Iterable[LatentSpec]) -> tuple[LatentSpec, ...]:
    """Return the latents that belong to whole sentences, those without a step axis."""
    return tuple(spec for spec in latents if spec.step_axis is None)
