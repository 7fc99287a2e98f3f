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
        rows, mean, variance = _pooled([figures], total)
        several = rows > 1.0
        self.batches += several
        share = several * self.batches.clamp(min=1).reciprocal().clamp(min=self.momentum)
        self.running_mean.lerp_(mean, share.to(mean.dtype))
        self.running_variance.lerp_(variance, share.to(mean.dtype))

    @torch.no_grad()
    def estimate(self, batches: Sequence[Figures], total: Total) -> None:
        """Set m and v to mean and unbiased variance over all rows of the batches, as if they were one batch."""
        rows, mean, variance = _pooled(batches, total)
        several = rows > 1.0
        self.running_mean.copy_(torch.where(several, mean, self.running_mean))
        self.running_variance.copy_(torch.where(several, variance, self.running_variance))
        self.batches.copy_(torch.where(several, len(batches), self.batches))


def _pooled(batches: Sequence[Figures], total: Total) -> Figures:
    """Rows (), means (D,) and unbiased variances (D,) of all rows, given rows, means and biased variances of batches.

    The sum of squares about the common mean is that about each batch's own and what lies between them.
    """
    rows, mean, variance = (torch.stack(column) for column in zip(*batches, strict=True))
    number = total(rows.sum())
    shares = rows.unsqueeze(-1)
    common = total((shares * mean).sum(0)) / number.clamp(min=1.0)
    squares = total((shares * (variance + (mean - common).square())).sum(0))
    return number, common, squares / (number - 1.0).clamp(min=1.0)
