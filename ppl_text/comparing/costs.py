"""What a training step costs and how noisy its gradient is: variance, signal-to-noise ratio, time, peak memory."""

from __future__ import annotations

import copy
import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..core.batch import Batch
from ..core.protocols import Objective
from ..evaluation.likelihood import Report
from ..evaluation.sentences import stream_seed
from .candidates import Pair

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class GradientStatistics(NamedTuple):
    """Noise of one gradient, from R independent estimates g of it.

    Attributes:
        variance: tr Cov g = Σ_i Var g_i of a single estimate, unbiased.
        signal: ‖E g‖², estimated by ‖ḡ‖² - tr/R, which may come out below 0.
        repeats: R.
    """

    variance: float
    signal: float
    repeats: int

    @property
    def snr(self) -> float | None:
        """‖E g‖ / √(tr Cov g), the noise of the mean taken off; 0 where it hides the signal.

        None where no gradient was seen: both are 0. A gradient without any noise has SNR infinity.
        """
        if self.variance == 0.0:
            return None if self.signal <= 0.0 else math.inf
        return math.sqrt(max(0.0, self.signal) / self.variance)


class GradientMoments:
    """Running mean and total variance of flat gradients (Welford), in float64: two vectors whatever R is."""

    def __init__(self) -> None:
        self.repeats = 0
        self._mean: Tensor | None = None
        self._squares = 0.0

    def add(self, gradient: Tensor) -> None:
        """Count one more estimate, (P,)."""
        value = gradient.detach().double()
        self.repeats += 1
        if self._mean is None:
            self._mean = value.clone()
            return
        before = value - self._mean
        self._mean += before / self.repeats
        self._squares += float(before @ (value - self._mean))

    def statistics(self) -> GradientStatistics | None:
        """Summarise R ≥ 2 estimates; None where there are no parameters."""
        if self._mean is None or self._mean.numel() == 0:
            return None
        if self.repeats < 2:
            raise ValueError(f"a variance needs 2 or more gradients; got {self.repeats}")
        variance = self._squares / (self.repeats - 1)
        signal = float(self._mean.square().sum()) - variance / self.repeats
        return GradientStatistics(variance, signal, self.repeats)


def loss_gradients(objective: Objective, model: nn.Module, guide: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """∂ loss / ∂ parameters at β = 1, flat: (P_model,) and (P_guide,); zeros where the loss does not reach."""
    parameters = [list(program.parameters()) for program in (model, guide)]
    everything = [*parameters[0], *parameters[1]]
    found: Sequence[Tensor | None] = [None] * len(everything)
    if everything:
        loss = objective(model, guide, batch).loss
        if loss.requires_grad:
            found = torch.autograd.grad(loss, everything, allow_unused=True)
    split = len(parameters[0])
    return _flat(parameters[0], found[:split]), _flat(parameters[1], found[split:])


def _flat(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return torch.cat([g.reshape(-1) for g in filled]) if filled else torch.zeros(0)


def training_copies(model: nn.Module, guide: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Copy both programs to take gradients of, in training mode but without dropout.

    So the variance is that of the draws of the latents alone, and running statistics of a batch normalisation change
    in the copy only; the run's own programs stay as they are.
    """
    copied: tuple[nn.Module, nn.Module] = copy.deepcopy((model, guide))
    for program in copied:
        program.requires_grad_(True).train()
        for module in program.modules():
            if isinstance(module, DROPOUTS):
                module.eval()
            elif isinstance(module, nn.RNNBase):
                module.dropout = 0.0
    return copied


class Cost(NamedTuple):
    """Cost and noise of a training step.

    Attributes:
        seconds: median of loss and backward on one batch.
        peak_bytes: most bytes of live tensors meanwhile.
        model: noise of the gradient for the model's parameters; None where there are none.
        guide: the same for the guide's.
    """

    seconds: float
    peak_bytes: int
    model: GradientStatistics | None
    guide: GradientStatistics | None


class Station:
    """One objective under one guide while training steps are taken in turns."""

    def __init__(self, programs: tuple[nn.Module, nn.Module], objective: Objective, batch: Batch, seed: int) -> None:
        self._programs, self._objective, self._batch, self._seed = programs, objective, batch, seed
        self._moments = GradientMoments(), GradientMoments()
        self._seconds: list[float] = []
        self._peak = 0

    def warm_up(self) -> None:
        """Take a first step, whose peak memory counts and whose time does not."""
        torch.manual_seed(stream_seed(self._seed, "memory"))
        self._peak = peak_bytes(self._gradients, self._device)

    def step(self, repeat: int) -> None:
        """Take one more gradient, timed."""
        torch.manual_seed(stream_seed(self._seed, "gradient", repeat))
        self._wait()
        start = time.perf_counter()
        gradients = self._gradients()
        self._wait()
        self._seconds.append(time.perf_counter() - start)
        for moments, gradient in zip(self._moments, gradients, strict=True):
            moments.add(gradient)

    def cost(self) -> Cost:
        """Summarise the recorded steps."""
        model, guide = (moments.statistics() for moments in self._moments)
        return Cost(statistics.median(self._seconds), self._peak, model, guide)

    def _gradients(self) -> tuple[Tensor, Tensor]:
        return loss_gradients(self._objective, *self._programs, self._batch)

    @property
    def _device(self) -> torch.device:
        return self._batch.tokens.device

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def measure_costs(
    pairs: Sequence[Pair], batch: Batch, *, repeats: int, seed: int, report: Report = lambda: None
) -> list[Cost]:
    """Measure gradients, time and memory of a training step on ``batch``, pair by pair.

    The pairs take turns, one step each in every round, so that a machine that is busy for a while slows all of them.
    ``report()`` is called after each step.
    """
    copies = {id(candidate): training_copies(candidate.model, candidate.guide) for candidate, _ in pairs}
    stations = [
        Station(copies[id(candidate)], objective, batch, stream_seed(seed, candidate.guide_name, objective.name))
        for candidate, objective in pairs
    ]
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), torch.enable_grad():
        for station in stations:
            station.warm_up()
            report()
        for repeat in range(repeats):
            for station in stations:
                station.step(repeat)
                report()
    return [station.cost() for station in stations]


def signal_to_noise(noise: GradientStatistics | None, estimates: float = 1.0) -> float | None:
    """Return the SNR of the mean of so many gradient estimates; None for no gradient, or none that is noisy."""
    snr = None if noise is None else noise.snr
    return None if snr is None or math.isinf(snr) else snr * math.sqrt(estimates)


def noise_floor(repeats: int) -> float:
    """1/√R: the SNR below which R gradients do not tell the signal from 0.

    There ‖E g‖² is estimated to be less than the noise tr/R of the mean gradient that was taken off, which noise alone
    reaches in one case of six where the gradient varies in one direction, and hardly ever where it varies in many.
    """
    return 1.0 / math.sqrt(repeats)


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of tensors made in it and still alive; ``peak`` is their greatest sum.

    Storages are followed by weak references: views share one, in-place results make none, and what autograd keeps
    for the backward pass counts for as long as it is kept. What was alive before does not count. Not seen: the
    workspace inside a single operator, and gradients that are accumulated without a new tensor.

    Example::

        with LiveBytes() as memory:
            loss(batch).backward()
        memory.peak
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._follow(tensor, counted=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._follow(tensor, counted=True)
        return result

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        for finalizer in self._known.values():
            finalizer.detach()
        self._known.clear()

    def _follow(self, tensor: Tensor, *, counted: bool) -> None:
        """Note a storage when it is first seen; as an operand it was there before and counts nothing."""
        if tensor.device.type == "meta" or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counted else 0
        self._known[key] = weakref.finalize(storage, self._release, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _release(self, key: int, size: int) -> None:
        self.live -= size
        self._known.pop(key, None)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def peak_bytes(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Return the most bytes that ``work()`` held at one time beyond what was held before it.

    Live tensors on the CPU; what the allocator held on a GPU.
    """
    if torch.device(device).type != "cuda":
        with LiveBytes() as memory:
            work()
        return memory.peak
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
