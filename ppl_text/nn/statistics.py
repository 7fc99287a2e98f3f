"""Running statistics: buffers that follow what the batches of a training say, moved once per update of the parameters.

An objective runs the programs as often as it needs to: in chunks of particles, once more on the way back, a second time
with detached parameters. A dry run or a look at gradients runs them and updates nothing. None of that may count, so
``forward`` only notes what a batch says; the trainer commits the last note after each update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]
"""Sum of a tensor over the processes of a parallel training."""

Figures = tuple[Tensor, ...]
"""What one batch says, on the device."""


def alone(values: Tensor) -> Tensor:
    """Return the sum over the processes of a training that has only one."""
    return values


class RunningStatistics(nn.Module):
    """A network part whose buffers follow what batches say: batch normalisation, a code book of moving averages.

    To write your own: inherit, register the statistics as buffers, and

    - in ``forward``, call ``self.note(*figures)`` with what the batch says (counts, sums, means), whatever the
      objective is doing, and read the buffers as you like, but do not change them;
    - define ``follow(figures, total)``, which moves the buffers by one batch;
    - define ``estimate(batches, total)``, which sets them from the figures of several batches at fixed parameters;
      or say ``estimated = False`` where the statistics are themselves weights that training reads (codes that a decoder
      is trained on), which have to be judged as they are.

    One run of a program calls ``forward`` once: the last note is what the batch says. Both methods run without
    gradients. They are part of the training step, which must not ask the device: no ``.item()``, no Python branch on a
    value. Notes are taken in training mode only, so a part that is not trained keeps its statistics.

    A training loop of your own calls :func:`commit` after each ``optimizer.step()``.
    """

    estimated: ClassVar[bool] = True
    """Whether weights are judged by statistics estimated anew over training texts."""

    _noted: Figures | None = None

    def note(self, *figures: Tensor) -> None:
        """Keep what the present batch says, in the place of what was noted before."""
        if self.training:
            self._noted = tuple(figure.detach() for figure in figures)

    def take(self) -> Figures | None:
        """Return what was noted last, and forget it; None where nothing was."""
        noted, self._noted = self._noted, None
        return noted

    def follow(self, figures: Figures, total: Total) -> None:
        """Move the statistics by one batch, whose share in each process ``figures`` are; ``total`` adds those up."""
        raise NotImplementedError(f"{type(self).__name__}: define follow(figures, total), which moves the buffers")

    def estimate(self, batches: Sequence[Figures], total: Total) -> None:
        """Set the statistics to those of these batches, which know nothing of the values before."""
        raise NotImplementedError(f"{type(self).__name__}: define estimate(batches, total), or say estimated = False")


def statistics_of(*programs: nn.Module) -> list[RunningStatistics]:
    """Return the parts of the programs that have running statistics, each once."""
    found = (part for program in programs for part in program.modules() if isinstance(part, RunningStatistics))
    return list(dict.fromkeys(found))


def discard(parts: Iterable[RunningStatistics]) -> None:
    """Forget what was noted: before an update, which is none of its business."""
    for part in parts:
        part.take()


def commit(parts: Iterable[RunningStatistics], total: Total = alone) -> None:
    """Move all statistics of which something was noted: once, after an update of the parameters."""
    for part in parts:
        noted = part.take()
        if noted is not None:
            part.follow(noted, total)
