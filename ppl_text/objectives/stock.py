"""Stock Pyro ELBOs as objectives, run as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import infer
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UserError, nearest
from ..core.limits import MOST_PARTICLES, check_most
from ..core.numbers import real, whole
from ..core.protocols import Estimate
from .bounds import elbo, monte_carlo_scores, total_kl
from .estimate import Beta
from .terms import Program, trace_terms

_JIT = "traces functions of tensors, and a program takes a Batch"
UNFIT = {
    "ELBO": "is the base class and estimates nothing",
    "ReweightedWakeSleep": "has two losses, one for each program",
    "TraceTailAdaptive_ELBO": "has gradients but no value",
    "Trace_MMD": "needs a kernel and is no bound",
    **dict.fromkeys(("JitTrace_ELBO", "JitTraceEnum_ELBO", "JitTraceGraph_ELBO", "JitTraceMeanField_ELBO"), _JIT),
}
"""ELBO classes of ``pyro.infer`` that cannot train here, and why."""


def _refuse_unfit(class_name: str) -> None:
    if class_name in UNFIT:
        raise UserError(f"pyro.infer.{class_name} {UNFIT[class_name]}; use pyro:Trace_ELBO or pyro:RenyiELBO:K")


class StockObjective:
    """Wrap a ``pyro.infer.ELBO``: its own loss and its own gradients, per sentence.

    Pyro sums over the sentence plate; the loss is divided by the number of sentences. Every weight must be 1, or 0 for
    a filler row, which Pyro is not shown. The parameters of both modules are registered with ``pyro.module`` for the
    duration of the call, in a parameter store of its own. Estimators without ``differentiable_loss``
    (RenyiELBO) give gradients through ``loss_and_grads``; they are handed on through a surrogate of equal
    gradient. Reported bound, likelihood and KL are those of one further single-particle trace, since
    stock estimators return a sum only.
    """

    def __init__(self, stock: infer.ELBO, name: str) -> None:
        _refuse_unfit(type(stock).__name__)
        self.stock, self.name, self.particles = stock, name, stock.num_particles

    def __call__(self, model: nn.Module, guide: nn.Module, batch: Batch, beta: Beta = 1.0) -> Estimate:
        """See :class:`~ppl_text.core.protocols.Objective`; a β other than 1 is refused."""
        betas = beta.values() if isinstance(beta, Mapping) else [beta]
        if any(float(value) != 1.0 for value in betas):
            raise UserError(f"{self.name}: a stock Pyro objective knows no β; use 'elbo' or 'iwae:K' for β ≠ 1")
        training = torch.is_grad_enabled()
        # The stock loss comes first, so that it sees the same random numbers as without the wrapper.
        loss = self._mean_loss(model, guide, batch) if training else None
        with torch.no_grad():
            terms = trace_terms(model, guide, batch)
            reading = elbo(monte_carlo_scores(terms))
        if loss is None:
            loss = -(batch.weights * reading.bound).sum() / batch.weights.sum()
        return Estimate(loss, reading.bound, terms.log_likelihood.mean(0), total_kl(reading))

    def _mean_loss(self, model: nn.Module, guide: nn.Module, batch: Batch) -> Tensor:
        ordinary, filler = batch.weights == 1, batch.weights == 0
        if not bool((ordinary | filler).all()):
            raise UserError(f"{self.name}: a stock Pyro objective weighs all sentences alike; use 'elbo' or 'iwae:K'")
        shown = batch.counted() if bool(filler.any()) else batch
        return self._loss(model, guide, shown) / shown.size

    def _loss(self, model: nn.Module, guide: nn.Module, batch: Batch) -> Tensor:
        def registered(name: str, program: nn.Module) -> Program:
            def run(batch: Batch) -> Any:
                pyro.module(name, program)
                return program(batch)

            return run

        programs = registered("model", model), registered("guide", guide)
        with pyro.get_param_store().scope():
            if hasattr(self.stock, "differentiable_loss"):
                loss: Tensor = self.stock.differentiable_loss(*programs, batch)
                return loss
            return self._surrogate(programs, [*model.parameters(), *guide.parameters()], batch)

    def _surrogate(self, programs: tuple[Program, Program], parameters: list[nn.Parameter], batch: Batch) -> Tensor:
        """Return a scalar with the value and the gradients that ``loss_and_grads`` computes."""
        kept = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        value = self.stock.loss_and_grads(*programs, batch)
        surrogate = torch.zeros((), device=batch.tokens.device)
        for p, before in zip(parameters, kept, strict=True):
            if p.grad is not None:
                surrogate = surrogate + (p * p.grad).sum()
            p.grad = before
        return surrogate - surrogate.detach() + value


def parse_stock(spec: str) -> StockObjective:
    """``pyro:Trace_ELBO[:K]``, ``pyro:RenyiELBO[:ALPHA][:K]``, …: any ELBO class of ``pyro.infer``.

    One number is K; for RenyiELBO two numbers are the order α and K.
    """
    _, _, rest = spec.partition(":")
    class_name, *numbers = rest.split(":")
    kinds = {n: v for n, v in vars(infer).items() if isinstance(v, type) and issubclass(v, infer.ELBO)}
    known = sorted(set(kinds) - set(UNFIT))
    _refuse_unfit(class_name)
    if class_name not in known:
        raise UserError(
            f"unknown Pyro objective '{class_name}'{nearest(class_name, known)}; pyro.infer has {', '.join(known)}"
        )
    try:
        particles = whole(numbers[-1]) if numbers else 2 if class_name == "RenyiELBO" else 1
        extra = {"alpha": real(numbers[0])} if class_name == "RenyiELBO" and len(numbers) == 2 else {}
        order = extra.get("alpha", 0.0)
        if len(numbers) > 1 + len(extra) or particles < 1 or not math.isfinite(order) or order == 1.0:
            raise ValueError
    except ValueError:
        usage = f"pyro:{class_name}[:ALPHA]:K, ALPHA ≠ 1," if class_name == "RenyiELBO" else f"pyro:{class_name}[:K]"
        raise UserError(f"objective '{spec}': expected {usage} with K a whole number above 0") from None
    check_most(particles, MOST_PARTICLES, f"objective '{spec}': K")
    stock = kinds[class_name](num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1, **extra)
    return StockObjective(stock, spec)
