"""Running statistics: buffers that follow what the batches of a training say, moved once per update of the parameters.

An objective runs the programs as often as it needs to: in chunks of particles, once more on the way back, a second time
with detached parameters. A dry run or a look at gradients runs them and updates nothing. None of that may count, so
``forward`` only notes what a batch says; the trainer commits the last note after each update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
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
    - define ``pool(batches)``, which makes one batch of several, for updates that gather the gradients of several;
    - define ``estimate(batches, total)``, which sets them from the figures of several batches at fixed parameters;
      or say ``estimated = False`` where the statistics are themselves weights that training reads (codes that a decoder
      is trained on), which have to be judged as they are.

    One run of a program calls ``forward`` once: the last note is what the batch says. These methods run without
    gradients. They are part of the training step, which must not ask the device: no ``.item()``, no Python branch on a
    value. Notes are taken in training mode only, so a part that is not trained keeps its statistics.

    A training loop of your own calls :func:`commit` after each ``optimizer.step()``, and :func:`set_aside` between two
    batches whose gradients are gathered for one.
    """

    estimated: ClassVar[bool] = True
    """Whether weights are judged by statistics estimated anew over training texts."""

    _noted: Figures | None = None
    _aside: tuple[Figures, ...] = ()

    def note(self, *figures: Tensor) -> None:
        """Keep what the present batch says, in the place of what was noted before."""
        if self.training:
            self._noted = tuple(figure.detach() for figure in figures)

    @property
    def noted(self) -> Figures | None:
        """Return what was noted last; None where nothing was."""
        return self._noted

    def set_aside(self) -> None:
        """Keep what was noted beside what the batches to come say."""
        if self._noted is not None:
            self._aside, self._noted = (*self._aside, self._noted), None

    def forget(self) -> None:
        """Drop what was noted and what was set aside."""
        self._noted, self._aside = None, ()

    def take(self) -> Figures | None:
        """Return what was noted last, pooled with what was set aside, and forget it; None where nothing was noted."""
        self.set_aside()
        noted, self._aside = self._aside, ()
        return self.pool(noted) if len(noted) > 1 else next(iter(noted), None)

    def follow(self, figures: Figures, total: Total) -> None:
        """Move the statistics by one batch, whose share in each process ``figures`` are; ``total`` adds those up."""
        raise NotImplementedError(f"{type(self).__name__}: define follow(figures, total), which moves the buffers")

    def pool(self, batches: Sequence[Figures]) -> Figures:
        """Return the figures of one batch that has the texts of all of these."""
        raise NotImplementedError(
            f"{type(self).__name__}: define pool(batches), which makes one batch's figures of several, or train with "
            "accumulate: 1"
        )

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
        part.forget()


def set_aside(parts: Iterable[RunningStatistics]) -> None:
    """Keep what a batch says until that of the last batch of an update is there."""
    for part in parts:
        part.set_aside()


def commit(parts: Iterable[RunningStatistics], total: Total = alone) -> None:
    """Move all statistics of which something was noted: once, after an update of the parameters."""
    for part in parts:
        noted = part.take()
        if noted is not None:
            part.follow(noted, total)


class RowNorm(RunningStatistics):
    """y = γ (x - m) / sqrt(v + ε) + b with mean m and variance v of each entry over the rows of the batch; γ is fixed.

    ``forward(x (B, D), weights (B,)) -> (B, D)``. Rows of weight 0 only fill up a batch: they are normalised like the
    others, but have no part in m and v. So over the rows that count mean_b y_bd² = γ² v/(v + ε) + b_d², whatever x is,
    where two rows or more count. A single row has no variance: it is normalised by the running means, which stay.
    In evaluation mode m and v are running means (of v, unbiased), and each row is mapped by itself.

    In a parallel training each process normalises by its own rows; the running means are those of all rows.

    Args:
        width: D.
        gamma: γ.
        momentum: share of the newest batch in the running means, more in the first batches, of which they are plain
            means.
        epsilon: ε. It is far below torch's 1e-5: what small initial weights (U(-0.01, 0.01)) make has variances of
            1e-8 to 1e-11, and γ² v/(v + ε) is to be γ² from the first step on.
    """

    running_mean: Tensor
    running_variance: Tensor
    batches: Tensor

    def __init__(self, width: int, *, gamma: float, momentum: float = 0.1, epsilon: float = 1e-20) -> None:
        super().__init__()
        self.gamma, self.momentum, self.epsilon = gamma, momentum, epsilon
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_variance", torch.ones(width))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Normalise by the batch in training, by the running means in evaluation."""
        if self.training:
            counted = (weights > 0).to(x.dtype).unsqueeze(-1)
            number = counted.sum()
            rows = number.clamp(min=1.0)
            mean = (counted * x).sum(0) / rows
            variance = (counted * (x - mean).square()).sum(0) / rows
            self.note(number, mean, variance)
            several = number > 1.0
            mean = torch.where(several, mean, self.running_mean)
            variance = torch.where(several, variance, self.running_variance)
        else:
            mean, variance = self.running_mean, self.running_variance
        return self.gamma * (x - mean) * (variance + self.epsilon).rsqrt() + self.bias

    @torch.no_grad()
    def follow(self, figures: Figures, total: Total) -> None:
        """Move the running means towards a batch; one of a single row leaves them."""
        rows, mean, variance = _unbiased([figures], total)
        several = rows > 1.0
        self.batches += several
        share = several * self.batches.clamp(min=1).reciprocal().clamp(min=self.momentum)
        self.running_mean.lerp_(mean, share.to(mean.dtype))
        self.running_variance.lerp_(variance, share.to(mean.dtype))

    def pool(self, batches: Sequence[Figures]) -> Figures:
        """Return rows, mean and biased variance of all rows."""
        rows, mean, squares = _moments(batches, alone)
        return rows, mean, squares / rows.clamp(min=1.0)

    @torch.no_grad()
    def estimate(self, batches: Sequence[Figures], total: Total) -> None:
        """Set m and v to mean and unbiased variance over all rows of the batches, as if they were one batch."""
        rows, mean, variance = _unbiased(batches, total)
        several = rows > 1.0
        self.running_mean.copy_(torch.where(several, mean, self.running_mean))
        self.running_variance.copy_(torch.where(several, variance, self.running_variance))
        self.batches.copy_(torch.where(several, len(batches), self.batches))


def _unbiased(batches: Sequence[Figures], total: Total) -> Figures:
    """Rows (), means (D,) and unbiased variances (D,) of all rows of all processes, given figures of batches."""
    rows, mean, squares = _moments(batches, total)
    return rows, mean, squares / (rows - 1.0).clamp(min=1.0)


def _moments(batches: Sequence[Figures], total: Total) -> Figures:
    """Rows (), means (D,) and sums of squares about them (D,), given rows, means and biased variances of batches.

    The sum of squares about the common mean is that about each batch's own and what lies between them.
    """
    rows, mean, variance = (torch.stack(column) for column in zip(*batches, strict=True))
    number = total(rows.sum())
    shares = rows.unsqueeze(-1)
    common = total((shares * mean).sum(0)) / number.clamp(min=1.0)
    return number, common, total((shares * (variance + (mean - common).square())).sum(0))
