"""A device that reckons on the CPU, refuses what a GPU would refuse, and notes what makes the host wait for it.

Its tensors each hold a tensor of the CPU and say that they lie elsewhere. So whatever mixes devices fails here as it
would on a GPU, where no GPU is at hand; numbers, and the time that anything takes, are those of the CPU. It fills
torch's slot for devices of one's own, for the whole process: use it in a process that does nothing else.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import Accelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ppl_text.training.capture import RECORDERS, describe_wait

ROOT = Path(__file__).parents[2]
NAME = "pretended"
aten = torch.ops.aten

waits: list[str] = []
"""What made the host wait for the device, and where."""

refusals: list[str] = []
"""What a GPU would have refused on the way back, where an error would end the process and not reach anybody."""


@dataclass
class Recording:
    """The operations of a run with the tensors that they read and write: what a CUDA graph is made of."""

    operations: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)
    changed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, func: Any, args: Any, kwargs: Any) -> None:
        """Remember what an operation is about to change, since a recording computes nothing."""
        if func._schema.is_mutable:
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor):
                    whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
                    self.changed.setdefault(tensor.untyped_storage().data_ptr(), (whole, whole.clone()))

    def undo(self) -> None:
        """Put back what was there before the recording."""
        for whole, before in self.changed.values():
            whole.copy_(before)

    def replay(self) -> None:
        """Run the operations on the same tensors again; what comes out goes where it came out before."""
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            for func, args, kwargs, found in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and new is not old and new.data_ptr() != old.data_ptr():
                        old.copy_(new)


watched: list[str] = []
"""What made the host wait, as the trainer says it."""

recording: Recording | None = None
"""What is being recorded."""


class PretendedGraphs:
    """Records and replays operations, and refuses what a CUDA graph would."""

    whole, takes = True, ""

    def __init__(self, device: torch.device) -> None:
        """Nothing to prepare."""

    def eagerly(self, run: Callable[[], Any]) -> Any:
        return run()

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        watched.clear()
        yield watched

    def record(self, run: Callable[[], Any]) -> Callable[[], Any]:
        global recording
        made = recording = Recording()
        state = torch.get_rng_state()
        try:
            found = run()
        finally:
            recording = None
            torch.set_rng_state(state)
            made.undo()

        def replay() -> Any:
            made.replay()
            return found

        return replay


RECORDERS[NAME] = PretendedGraphs


class Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device: there is one, and its random numbers are those of the CPU."""

    _initialized = True

    def device(self, index: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def get_rng_state(self, device: Any = 0) -> Tensor:
        if recording is not None:
            raise RuntimeError("the random state cannot be read while a graph is recorded")
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        """Nothing: who restores the state of the CPU has done it."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
DEVICE = torch.device(NAME, 0)


class Pretended(Tensor):
    """A tensor on the device; ``held`` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        new: Pretended = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, layout=held.layout, device=DEVICE
        )
        new.held = held
        return new

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Pretended({tuple(self.shape)})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copy = Pretended(self.held.detach().clone())
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        wait("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor of the pretended device to numpy; use Tensor.cpu() first")


def wait(what: str) -> None:
    """Note that the host waits, and the innermost lines of the project that made it; no graph may hold that."""
    if recording is not None:
        raise RuntimeError(f"operation not permitted while a graph is recorded: {what}")
    stack = traceback.StackSummary.from_list([f for f in traceback.extract_stack() if f.filename != __file__])
    watched.append(describe_wait(stack))
    frames = [frame for frame in stack if Path(frame.filename).is_relative_to(ROOT)]
    ours = [f"{Path(f.filename).relative_to(ROOT)}:{f.lineno}" for f in frames]
    waits.append(f"{what} at {' < '.join(reversed(ours[-3:]))}")


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on what its tensors hold; raise where they do not lie together."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in given if isinstance(tensor, Pretended)]
    target = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    there = bool(ours) if target is None else target.type == NAME
    _note(func, args, kwargs, ours, there)
    hosts = [tensor for tensor in given if not isinstance(tensor, Pretended) and tensor.dim() > 0]
    if ours and hosts and func not in (aten.copy_.default, aten.index.Tensor, aten._index_put_impl_.default):
        shapes = [(type(tensor).__name__, tuple(tensor.shape)) for tensor in given]
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device: {shapes}")
    kept = {id(tensor.held): tensor for tensor in ours}
    plain = kwargs if target is None else {**kwargs, "device": torch.device("cpu")}
    args, plain = tree_map(lambda leaf: leaf.held if isinstance(leaf, Pretended) else leaf, (args, plain))
    if recording is not None and there:
        recording.keep(func, args, plain)
    found = func(*args, **plain)
    if recording is not None and there:
        recording.operations.append((func, args, plain, found))
    if not there or func is aten._local_scalar_dense.default:
        return found
    return tree_map(lambda leaf: _wrapped(leaf, kept) if isinstance(leaf, Tensor) else leaf, found)


def _wrapped(held: Tensor, kept: dict[int, Pretended]) -> Pretended:
    """The tensor of the device that holds this one: the operand itself, where an operation changed it in place."""
    return kept[id(held)] if id(held) in kept else Pretended(held)


def _note(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ours: list[Pretended], there: bool) -> None:
    """Note what waits: numbers read by the host, copies across, shapes that depend on values."""
    name = str(func)
    if func in (aten._to_copy.default, aten.copy_.default):
        across = isinstance(args[0], Pretended) != (isinstance(args[1], Pretended) if "copy_" in name[5:] else there)
        late = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        if across and (recording is not None or not late):
            wait("a copy")
    elif func in (aten.index.Tensor, aten._index_put_impl_.default) and isinstance(args[0], Pretended):
        index = [part for part in args[1] if isinstance(part, Tensor)]
        if any(not isinstance(part, Pretended) or part.dtype == torch.bool for part in index):
            wait("an index from the host, or a mask as index")
    elif ours and name.split(".")[1] in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"):
        wait(name)


class _Everything(TorchDispatchMode):
    """Sees operations without a tensor of the device too: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def _recurrent(layer: Any, inputs: Tensor, start: Any = None) -> Any:
    """An LSTM or GRU of one layer, batch first, step by step."""
    return _steps(layer._flat_weights, inputs, start, lstm=isinstance(layer, nn.LSTM), training=layer.training)


def _steps(weights: Any, inputs: Tensor, start: Any, *, lstm: bool, training: bool) -> Any:
    """Refuse gradients in evaluation mode, as cuDNN does."""
    input_weight, weight, input_bias, bias = weights
    zero = inputs.new_zeros(len(inputs), weight.shape[1])
    hidden, cell = (zero, zero) if start is None else (part[0] for part in (start if lstm else (start, start)))
    states = []
    for x in inputs.unbind(1):
        x, h = x @ input_weight.t() + input_bias, hidden @ weight.t() + bias
        if lstm:
            i, f, g, o = (x + h).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        else:
            (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
            update = (x_z + h_z).sigmoid()
            hidden = (1 - update) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + update * hidden
        states.append(hidden)
    path = torch.stack(states, 1)
    if path.requires_grad and not training:
        path.register_hook(_refuse)
    return path, (hidden[None], cell[None]) if lstm else hidden[None]


def _refuse(gradient: Tensor) -> None:
    refusals.append("cudnn RNN backward can only be called in training mode")


def _move(module: nn.Module) -> nn.Module:
    """Put parameters and buffers on the device in place, as ``Module.to`` does."""
    for part in module.modules():
        for parameter in part._parameters.values():
            if parameter is None or isinstance(parameter, Pretended):
                continue
            if isinstance(part, nn.RNNBase):
                part._flat_weight_refs = [None] * len(part._flat_weight_refs)  # nothing may refer to what is swapped
            moved = nn.Parameter(Pretended(parameter.detach().clone()), requires_grad=parameter.requires_grad)
            torch.utils.swap_tensors(parameter, moved)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, Pretended):
                part._buffers[name] = Pretended(buffer.clone())
        if isinstance(part, nn.RNNBase):
            part._init_flat_weights()
    return module


@contextmanager
def pretending() -> Iterator[None]:
    """Context in which the device can be used."""
    kept = {(kind, name): getattr(kind, name) for kind, name in ((nn.LSTM, "forward"), (nn.GRU, "forward"))}
    kept[nn.Module, "to"], kept[torch, "lstm"] = nn.Module.to, torch.lstm

    def forward(original: Any) -> Any:
        return lambda self, x, hx=None: _recurrent(self, x, hx) if isinstance(x, Pretended) else original(self, x, hx)

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        there = device is not None and device.type == NAME
        return _move(self) if there else kept[nn.Module, "to"](self, *args, **kwargs)

    def lstm(x: Tensor, hx: Any, weights: Any, *options: Any) -> Any:
        if not isinstance(x, Pretended):
            return kept[torch, "lstm"](x, hx, weights, *options)
        path, (hidden, cell) = _steps(weights, x, hx, lstm=True, training=options[3])
        return path, hidden, cell

    torch.lstm = lstm
    for kind in (nn.LSTM, nn.GRU):
        kind.forward = forward(kept[kind, "forward"])
    nn.Module.to = to
    only_lift = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # so that ``torch.tensor(…, device=…)`` is seen as the copy that it is
    try:
        with torch.autograd.set_multithreading_enabled(False), _Everything():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(only_lift)
        for (kind, name), value in kept.items():
            setattr(kind, name, value)


class _Accelerator(Accelerator):
    """What Lightning asks of a device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to set up."""

    def teardown(self) -> None:
        """Nothing to undo."""

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


def fabric(precision: Any = "32-true") -> Fabric:
    """One process on the device."""
    return Fabric(devices=1, precision=precision, strategy=SingleDeviceStrategy(DEVICE, accelerator=_Accelerator()))
