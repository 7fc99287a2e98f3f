"""Record what a device does for one batch, a GPU as a CUDA graph, and replay it for every later batch of that shape.

A step of two Pyro programs launches thousands of small kernels, and Python takes longer to launch them than the device
to run them. A graph holds the kernels with the addresses that they read and write, and is launched at once. So
everything that changes from batch to batch has to lie where it lay at the recording: the batch is copied into the
recorded one, weights, moments, β and learning rate are changed in place, and the device's random generator goes on.
"""

from __future__ import annotations

import traceback
import warnings
import weakref
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyro
import torch

import ppl_text

from ..core.batch import Batch
from ..core.errors import UserError
from .compiled import CompiledGradients
from .programs import own_random_numbers

WAIT = "called a synchronizing CUDA operation"
"""What torch warns of where the host waits for the device; its other warnings speak of synchronizing too."""

LIBRARIES = ("site-packages", "dist-packages", "lib/python")
"""What a path holds that is none of the project's or of a user's."""


class Graphs(Protocol):
    """What records on one kind of device."""

    whole: bool
    """Whether a recording may hold a whole update, the optimizer's part as well; else the loss and its gradient."""
    takes: str
    """What to say while something is recorded; "" where that takes no time."""

    def __init__(self, device: torch.device) -> None: ...

    def eagerly(self, run: Callable[[], Any]) -> Any:
        """Run as recordings run, unrecorded, and return what that returns."""

    def watched(self) -> AbstractContextManager[list[str]]:
        """Context that notes where the host waits for the device, a line each: what no recording can hold."""

    def record(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Return what computes again, from the tensors that ``run`` reads, what it does and returns.

        Nothing that outlasts it has been computed by then.
        """


class CudaGraphs:
    """CUDA graphs that share one pool of memory: what one of them no longer needs, the next may use.

    torch closes a pool with the last graph that uses it and refuses to record into it again: later ones get another.
    """

    whole = True
    takes = ""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def eagerly(self, run: Callable[[], Any]) -> Any:
        """Run on the stream of the recordings, so that what autograd keeps of a stream is of that one."""
        present = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            found = run()
        present.wait_stream(self._stream)
        return found

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Note every wait that torch warns of."""
        found: list[str] = []

        def note(message: Warning | str, *rest: Any) -> None:
            if WAIT in str(message):
                found.append(describe_wait(traceback.extract_stack()))
            else:
                shown(message, *rest)

        with warnings.catch_warnings():
            shown = warnings.showwarning
            warnings.filterwarnings("always", message=f".*{WAIT}")
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            warnings.showwarning = note  # type: ignore[assignment]
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode(mode)

    def record(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Record on a stream of its own; raises ``RuntimeError`` for what a graph cannot hold."""
        if not self._alive:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            found = run()
        self._alive.add(graph)

        def replay() -> Any:
            graph.replay()
            return found

        return replay


RECORDERS: dict[str, type[Graphs]] = {"cuda": CudaGraphs, "cpu": CompiledGradients}
"""Kinds of devices that record."""


def graphs_on(device: torch.device, wanted: bool | None = None) -> Graphs | None:
    """Return what records on this device, None where nothing does; what takes its time only where it is ``wanted``."""
    recorder = RECORDERS.get(device.type)
    if recorder is None or wanted is False or (wanted is None and recorder.takes):
        return None
    return recorder(device)


def of_whole_steps(graphs: Graphs | None) -> Graphs | None:
    """Return what records, where it records whole updates and validations."""
    return graphs if graphs is not None and graphs.whole else None


def describe_wait(frames: traceback.StackSummary) -> str:
    """Say that the host waits for the device, and where."""
    return f"the host waits for the device at {innermost_line(frames)}"


def innermost_line(frames: traceback.StackSummary) -> str:
    """Return ``FILE:LINE, in FUNCTION`` of the innermost frame that is no library's and not this file's.

    Where a program of the user's calls one of ours, that is the user's line; a script that calls us has none to change.
    """
    package = Path(ppl_text.__file__).parent
    known = [f for f in frames if f.filename != __file__ and not any(part in f.filename for part in LIBRARIES)]
    ours = [Path(f.filename).is_relative_to(package) for f in known]
    entered = ours.index(True) if True in ours else len(known)
    users = [f for f, own in zip(known[entered:], ours[entered:], strict=True) if not own]
    frame = (users or known or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"


class _Recording(NamedTuple):
    """One recorded shape: the batch that it reads, and how it is replayed."""

    batch: Batch
    replay: Callable[[], Any]


@dataclass
class Captured:
    """``function(batch, *options)`` of tensors on a device, recorded for each shape of the batch and each ``options``.

    The first call with a shape runs as it stands, the second one records. What is returned is overwritten by the next
    call with the same shape. Whatever cannot be recorded runs as it stands from then on: a place where the host waits
    for the device, or an operation that CUDA refuses to record; ``report`` is told why, once.

    While Pyro's validation is on, which asks the device, nothing is recorded.

    Args:
        function: reads no Python number that changes from call to call, and draws random numbers from torch's own
            generator of the device only.
        graphs: of the batch's device; None: always as it stands.
        report: is told, once, why nothing is recorded, and what takes its time.
        leaving: context in which a recording that takes its time can be abandoned.
    """

    function: Callable[..., Any]
    graphs: Graphs | None
    report: Callable[[str], Any]
    leaving: Callable[[], AbstractContextManager[None]] = nullcontext

    def __post_init__(self) -> None:
        self._recorded: dict[Hashable, _Recording] = {}
        self._seen: set[Hashable] = set()

    def __call__(self, batch: Batch, *options: Hashable) -> Any:
        """Return what ``function`` finds for a batch."""
        if self.graphs is None or pyro.infer.util.is_validation_enabled():
            return self.function(batch, *options)
        shape = (_shape_of(batch), *options)
        if shape not in self._recorded:
            recording = self._record(self.graphs, batch, options) if shape in self._seen else None
            if recording is None:
                self._seen.add(shape)
                return self._eagerly(batch, options)
            self._recorded[shape] = recording
        recording = self._recorded[shape]
        for place, tensor in zip(recording.batch.tensors(), batch.tensors(), strict=True):
            place.copy_(tensor, non_blocking=True)
        return recording.replay()

    @property
    def recorded(self) -> Collection[Hashable]:
        """Return what is replayed: shapes of the batch with the options."""
        return self._recorded.keys()

    def forget(self) -> None:
        """Drop all recordings, since what they read or write has been put elsewhere."""
        self._recorded.clear()
        self._seen.clear()

    def _eagerly(self, batch: Batch, options: tuple[Hashable, ...]) -> Any:
        if self.graphs is None:
            return self.function(batch, *options)
        with self.graphs.watched() as waits:
            found = self.graphs.eagerly(lambda: self.function(batch, *options))
        if waits:
            self._give_up(waits[0])
        return found

    def _record(self, graphs: Graphs, batch: Batch, options: tuple[Hashable, ...]) -> _Recording | None:
        own = batch.map(torch.clone)
        if graphs.takes:
            place = len(self._recorded) + 1
            self.report(f"{graphs.takes}, for each shape: {batch.size} x {batch.steps} ({place})")
        try:
            with self.leaving() if graphs.takes else nullcontext():
                replay = graphs.record(lambda: self.function(own, *options))
        except RuntimeError as error:
            reason = " ".join(str(error).split("\n", 1)[0].split())
            self._give_up(f"{reason} (at {innermost_line(traceback.extract_tb(error.__traceback__))})")
            _check_generator(batch.tokens.device)
            return None
        return _Recording(own, replay)

    def _give_up(self, reason: str) -> None:
        self.forget()
        self.graphs = None
        self.report(f"not captured as a graph, step by step instead: {reason}")


def _check_generator(device: torch.device) -> None:
    """Raise :class:`UserError` where a recording that failed has left the device's random generator unusable."""
    try:
        with own_random_numbers(device):
            torch.rand((), device=device)
    except RuntimeError as error:
        raise UserError(
            f"the recording of a training step failed and {device} draws no random numbers any more ({error}); "
            "start again with --no-capture"
        ) from error


def _shape_of(batch: Batch) -> Hashable:
    return tuple(tuple(tensor.shape) for tensor in batch.tensors())
