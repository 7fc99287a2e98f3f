"""What a model publishes about each of its latent sites."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LatentSpec:
    """One latent site: its name, the letters and sizes of its event axes, and its support.

    ``axes`` uses the letters of the glossary (K particles, B sentences, T target steps, S source
    steps, L layers, M code book entries, D latent width, V vocabulary). ``sizes`` gives the known
    widths; an axis that is left out (T, S) is as long as the batch. ``support`` is the name of a
    constraint in ``torch.distributions.constraints``, without the event axes: ``"real"`` for R^D.

    Example::

        >>> LatentSpec("h", axes=("T", "D"), sizes={"D": 8}).describe()
        'h: (T, D=8) real'
    """

    name: str
    axes: tuple[str, ...]
    sizes: dict[str, int]
    support: str = "real"

    def event_shape(self, steps: int, source_steps: int | None = None) -> tuple[int, ...]:
        """Shape of one sentence's value in a batch of ``steps`` target steps."""
        known = {"T": steps, **({} if source_steps is None else {"S": source_steps}), **self.sizes}
        missing = [axis for axis in self.axes if axis not in known]
        if missing:
            raise ValueError(f"latent '{self.name}': the length of axis {missing[0]} is not known")
        return tuple(known[axis] for axis in self.axes)

    def describe(self) -> str:
        """Site, axes and support in one line."""
        shape = ", ".join(f"{a}={self.sizes[a]}" if a in self.sizes else a for a in self.axes)
        return f"{self.name}: ({shape}) {self.support}"
