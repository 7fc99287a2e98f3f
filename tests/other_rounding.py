"""Other arithmetic than any machine's at hand: ``OTHER_ROUNDING=1 python -m pytest``; each number is another machine.

IEEE 754 fixes + - · / and √ to the last bit; sums, matrix products and elementary functions it does not, and there
processors, libraries and versions differ. Here what enters a sum or product and what leaves one, or an elementary
function, has its two last bits changed. Numbers that end in many zeros stay: integers, halves, results that are exact
everywhere.

The change is a function of value, number of entries and machine. So the same computation gives the same numbers twice,
and what claims to be reproducible on one machine remains so; the same rows in a batch of another size come out
otherwise, as they may elsewhere. Real processes that a test starts are not reached.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

SUMS = {
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.mv, aten.addmv, aten.dot, aten.convolution),
    *(aten.sum, aten.mean, aten.var, aten.std, aten.var_mean, aten.cumsum, aten.prod, aten.logsumexp),
    *(aten.linalg_vector_norm, aten.linalg_inv_ex, aten.linalg_solve_triangular),
}
"""Operations that add products: by which order and in which width is not fixed."""

FUNCTIONS = {
    *(aten.exp, aten.expm1, aten.log, aten.log1p, aten.pow, aten.rsqrt, aten.sin, aten.cos, aten.logaddexp),
    *(aten.tanh, aten.sigmoid, aten.softplus, aten.log_sigmoid_forward, aten.erf, aten.erfinv, aten.lgamma),
    *(aten._softmax, aten._log_softmax, aten._softmax_backward_data, aten._log_softmax_backward_data),
    *(aten.softplus_backward, aten.embedding_dense_backward, aten.native_batch_norm, aten.native_batch_norm_backward),
    *(aten.linalg_cholesky_ex, aten.linalg_qr, aten._linalg_eigh, aten._linalg_slogdet, aten._linalg_svd),
    *(aten._thnn_fused_gru_cell, aten.mkldnn_rnn_layer),
}
"""Further operations whose last bits are the library's own."""

WORDS = {torch.float32: (torch.int32, 14, 0xFF), torch.float64: (torch.int64, 28, 0xFFFFF)}
"""The integers that floats are stored as, a shift that mixes bits, and the low bits that an exact number lacks."""


def rounded_otherwise(x: Any, machine: int) -> Any:
    """Return ``x``; where it is a tensor of floats, flip some of the two last bits of its entries in place."""
    if type(x) is not Tensor or x.dtype not in WORDS or not x.is_contiguous():
        return x
    kind, shift, low = WORDS[x.dtype]
    word = x.detach().view(kind)
    mixed = (word ^ (7919 * machine + x.numel())) * 0x2C1B3C6D
    mixed = (mixed ^ (mixed >> shift)) * 0x297A2D39
    inexact = ((word & low) != 0) & x.detach().isfinite()
    word ^= torch.where(inexact, (mixed >> shift) & 3, 0).to(kind)
    return x


class OtherRounding(TorchDispatchMode):
    """All operations inside round otherwise, those of backward passes too."""

    def __init__(self, machine: int) -> None:
        super().__init__()
        self._machine = machine

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run one operation."""
        kind = func.overloadpacket
        if func._schema.is_mutable or kind not in SUMS | FUNCTIONS:
            return func(*args, **(kwargs or {}))
        if kind in SUMS:
            args = tuple(self._copied(value) for value in args)
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple) else [found]:
            rounded_otherwise(value, self._machine)
        return found

    def _copied(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return rounded_otherwise(value.clone(memory_format=torch.contiguous_format), self._machine)


class Plugin:
    """Runs every test and its fixtures under :class:`OtherRounding`."""

    def __init__(self, machine: int) -> None:
        self._mode: Callable[[], OtherRounding] = lambda: OtherRounding(machine)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Fixtures."""
        with self._mode():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        """The test itself."""
        with self._mode():
            return (yield)
