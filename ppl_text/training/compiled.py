"""Compile what a CPU does for one batch, and run that for every later batch of its shape.

A step of two Pyro programs is hundreds of small operations, each with an overhead of its own and a trip to memory. No
compiler follows Pyro's handlers, autograd and hand-written gradients through Python. So the operations are written down
as they happen, the whole way there and back, and ``torch.compile`` makes a few loops of the list.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from .random_numbers import random_numbers_kept


class CompiledGradients:
    """Recorder of a CPU (:class:`~ppl_text.training.capture.Graphs`): of losses and gradients, in compiled loops.

    What it records is a function of tensors alone, which may draw from torch's generator, and whose Python is as good
    as constant: it changes nothing but tensors that it has made. Its draws are those that it makes as it stands, but
    for masks of dropout, which may be others; sums may round otherwise. Each shape takes a C++ compiler a minute or
    so, and some seconds in later runs: torch keeps what is compiled (``TORCHINDUCTOR_CACHE_DIR``, by default in the
    folder for temporary files).
    """

    whole = False
    takes = "compiling the loss and its gradient, which takes a minute or more at first"

    def __init__(self, device: torch.device) -> None:
        """Nothing to prepare."""

    def eagerly(self, run: Callable[[], Any]) -> Any:
        """Run as it stands."""
        return run()

    def watched(self) -> AbstractContextManager[list[str]]:
        """Note nothing: what asks for a number cannot be written down, and says so then."""
        return nullcontext([])

    def record(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Return what ``run`` computes, compiled; raises ``RuntimeError`` for what cannot be written down or compiled.

        What it finds may be any nesting of tensors and None in tuples, named tuples, lists and dictionaries.
        """
        from torch.utils import _pytree as trees

        form: Any = None

        def leaves() -> list[Tensor | None]:
            nonlocal form
            found, form = trees.tree_flatten(run())
            return found

        with random_numbers_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a run has to say was said by the one before; the rest is torch's own
            program, held = _with_inputs(_written_down(leaves))
            compiled = torch.compile(program, fullgraph=True, dynamic=False, options=_options())

            def replay() -> Any:
                with torch.no_grad():
                    return trees.tree_unflatten(_apart(compiled(*held), held), form)

            replay()
        return replay


def _written_down(leaves: Callable[[], list[Tensor | None]]) -> fx.GraphModule:
    """Return the operations of a function, which runs once; raises ``RuntimeError``."""
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        with torch.backends.mkldnn.flags(enabled=False):  # its recurrent layers are no operations that can be compiled
            written: fx.GraphModule = make_fx(leaves)()
    except RuntimeError as error:
        if "aten._local_scalar_dense" not in str(error):
            raise
        raise RuntimeError("a value is asked for as a Python number").with_traceback(error.__traceback__) from None
    return written


def _options() -> dict[str, Any]:
    """Draw from torch's own generator; look at no input again, since each is the same tensor at every call."""
    skip = getattr(torch.compiler, "skip_all_guards_unsafe", None)  # of newer versions
    return {"fallback_random": True} | ({} if skip is None else {"guard_filter_fn": skip})


def _with_inputs(written: fx.GraphModule) -> tuple[fx.GraphModule, list[Tensor]]:
    """Return the program with the tensors that it holds as its inputs, and those tensors: they change in place."""
    graph = written.graph
    names = dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr")
    tensors = {name: attrgetter(name)(written) for name in names}
    held = {id(tensor): tensor for tensor in tensors.values()}
    with graph.inserting_before(next(iter(graph.nodes))):
        inputs = {key: graph.placeholder(f"held_{place}") for place, key in enumerate(held)}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            node.replace_all_uses_with(inputs[id(tensors[str(node.target)])])
            graph.erase_node(node)
    return fx.GraphModule({}, graph), list(held.values())


def _apart(found: Sequence[Tensor | None], held: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the tensors found, copied where they lie in one that is held or that another one lies in.

    A compiler computes equal things once; what uses them may change one of them in place.
    """
    places = {tensor.untyped_storage().data_ptr() for tensor in held}
    apart: list[Tensor | None] = []
    for tensor in found:
        if tensor is not None:
            place = tensor.untyped_storage().data_ptr()
            tensor = tensor.clone() if place in places else tensor
            places.add(place)
        apart.append(tensor)
    return apart
