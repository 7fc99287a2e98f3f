"""How fast a training step could be on a machine: its products over the measured rate, its bytes over the bandwidth.

The larger of the two times is the limit. Operations are counted by torch's ``FlopCounterMode`` on the CPU, where it
sees each matrix product, convolution and LSTM layer of a step, those of hand-written gradients too, which are made of
the same operators. Not counted: elementwise operations, softmax, norms, embeddings, what the optimiser does; products
fused into an operator that the counter does not know (``linear_cross_entropy``, attention without dropout on a CPU).

Bytes are what has to move at least: parameters, gradients and the optimiser's state are each read and written once, and
so is whatever else is alive at the peak of the step. Small models stay in a processor's caches, which are faster than
the memory whose bandwidth is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ppl_text.comparing.costs import peak_bytes

PRODUCT, COPIED = {"cpu": 1_024, "cuda": 8_192}, {"cpu": 2**26, "cuda": 2**28}
"""Rows of the square matrices, and float32 numbers of the vectors, on which a machine is measured."""

REPEATS = 7
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Rates(NamedTuple):
    """What a machine does: operations a second in matrix products by dtype, and bytes a second, read or written."""

    operations: Mapping[str, float]
    bytes: float


class Limit(NamedTuple):
    """Seconds that a step takes at least, and what for: its ``products`` or its ``bytes``."""

    seconds: float
    of: str


class Work(NamedTuple):
    """What a step is made of: operations in matrix products, and bytes that have to move at least."""

    operations: int
    bytes: int

    def limit(self, rates: Rates, dtype: str = "float32") -> Limit:
        """Return what the step takes at least on a machine."""
        times = {"products": self.operations / rates.operations[dtype], "bytes": self.bytes / rates.bytes}
        longest = max(times, key=lambda of: times[of])
        return Limit(times[longest], longest)


def measure_rates(
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[], None] = lambda: None,
    product: int | None = None,
    copied: int | None = None,
) -> Rates:
    """Measure a machine with as many threads as torch has now: the best of a few products and of a few copies.

    Products of float32 are of float32 throughout; on a GPU bf16 is measured, too.
    """
    size, count = product or PRODUCT[device], copied or COPIED[device]
    operations = {}
    for name in ("float32", "bf16") if device == "cuda" else ("float32",):
        left, right = (torch.randn(size, size, device=device).to(DTYPES[name]) for _ in range(2))
        out = torch.empty_like(left)
        seconds = _best(lambda left=left, right=right, out=out: torch.mm(left, right, out=out), clock, wait)
        operations[name] = 2 * size**3 / seconds
    source, target = torch.randn(count, device=device), torch.empty(count, device=device)
    return Rates(operations, 2 * source.nbytes / _best(lambda: target.copy_(source), clock, wait))


def _best(work: Callable[[], Any], clock: Callable[[], float], wait: Callable[[], None]) -> float:
    times = []
    for _ in range(REPEATS):
        wait()
        start = clock()
        work()
        wait()
        times.append(clock() - start)
    return min(times[1:])


def work_of(contestant: Any, batch: Any) -> Work:
    """Count what a step of a contestant on the CPU is made of; it takes a first step, which is not counted."""
    contestant.step(batch)
    operations = count_operations(lambda: contestant.step(batch))
    held = peak_bytes(lambda: contestant.step(batch))
    trained = sum(parameter.nbytes for parameter in contestant.parameters)
    state = sum(
        value.nbytes
        for entry in contestant.optimizer.state.values()
        for value in entry.values()
        if isinstance(value, Tensor)
    )
    return Work(operations, 2 * (trained + state + held))  # gradients are among what a step holds


def count_operations(work: Callable[[], Any]) -> int:
    """Count the operations of matrix products in ``work()``, a multiplication and an addition each as one."""
    with FlopCounterMode(display=False, custom_mapping=RECURRENT) as counter:
        work()
    return counter.get_total_flops()


def _lstm(inputs: Any, from_input: Any, from_state: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """One layer in one direction: every step multiplies its input and the state before it."""
    steps, rows = inputs[:2]
    return 2 * steps * rows * (from_input[0] * from_input[1] + from_state[0] * from_state[1])


def _lstm_backward(*arguments: Any, **named: Any) -> int:
    return 2 * _lstm(*arguments, **named)


RECURRENT = {
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
    torch.ops.aten.mkldnn_rnn_layer_backward: _lstm_backward,
}
"""Layers that torch runs in one operator on a CPU, which its counter does not know."""
