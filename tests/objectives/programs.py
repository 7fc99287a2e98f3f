"""Small programs whose answers are known, and the batches they run on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.deep_state_space import (
    DiagonalGuide,
    LookAheadGuide,
    MeanFieldGuide,
    PriorGuide,
    SharedTransitionGuide,
    TriangularGuide,
)
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models.deep_state_space import DeepStateSpace

WORDS = [[3, 4], [5], [3, 3, 5, 4], [4, 5]]
"""Four words over the letters 3, 4, 5."""


def word_batch(words: list[list[int]] = WORDS, *, weights: list[float] | None = None, steps: int = 5) -> Batch:
    """Words as ids, EOS appended, padded to ``steps``."""
    numbers = torch.tensor([1.0] * len(words) if weights is None else weights, dtype=torch.float64)
    return collate(words, numbers, steps, len(words))


def plain_batch(rows: int) -> Batch:
    """A batch for programs that take their observations from elsewhere: ``rows`` sentences of one token."""
    return collate([[]] * rows, torch.ones(rows, dtype=torch.float64), 1, rows)


def chain_batch(rows: int, steps: int) -> Batch:
    """The same for programs that run step by step: every sentence has ``steps`` tokens."""
    return collate([[3] * (steps - 1)] * rows, torch.ones(rows, dtype=torch.float64), steps, rows)


STATE_SPACE_GUIDES = {
    "diag": DiagonalGuide,
    "tril": TriangularGuide,
    "shared": SharedTransitionGuide,
    "mean-field": MeanFieldGuide,
    "look-ahead": LookAheadGuide,
    "prior": PriorGuide,
}


def state_space(transition: str = "tril", guide: str = "diag") -> tuple[DeepStateSpace, nn.Module]:
    """A small model and guide in float64, far enough from their start that q differs from p."""
    torch.manual_seed(0)
    model = DeepStateSpace(Vocabulary(6), state_dim=2, transition=transition, hidden=(5,), layers=1)
    options = {} if guide == "prior" else {"embedding_dim": 3, "gru_dim": 4, "hidden": (5,)}
    q = STATE_SPACE_GUIDES[guide](model, **options)
    with torch.no_grad():
        for parameter in [*model.parameters(), *q.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double(), q.double()


class Program(nn.Module):
    """A Pyro program from a function of the batch, with the parameters it uses."""

    def __init__(self, run: Callable[[Batch, nn.ParameterDict], Any], **parameters: Tensor) -> None:
        super().__init__()
        self.run = run
        self.values = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in parameters.items()})

    def forward(self, batch: Batch) -> Any:
        """Run the function inside the sentence plate."""
        with pyro.plate("sentences", batch.size, dim=-1):
            return self.run(batch, self.values)


class Discrete:
    """z ~ Cat(π), x | z ~ Cat(rows of a table), guide Cat(q): p(x) and the posterior by enumeration."""

    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    emission = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]], dtype=torch.float64)

    def __init__(self, observed: Tensor) -> None:
        self.observed = observed
        joint = self.prior * self.emission[:, observed].T
        self.log_evidence = joint.sum(-1).log()
        self.posterior = joint / joint.sum(-1, keepdim=True)

    def model(self) -> Program:
        """p(z, x)."""

        def run(batch: Batch, _: nn.ParameterDict) -> None:
            z = pyro.sample("z", dist.Categorical(self.prior))
            pyro.sample("tokens", dist.Categorical(self.emission[z]), obs=self.observed)

        return Program(run)

    def guide(self, probabilities: Tensor) -> Program:
        """q(z | x)."""
        return Program(lambda batch, _: pyro.sample("z", dist.Categorical(probabilities)))


def gradients(loss: Tensor, *programs: nn.Module) -> dict[str, Tensor]:
    """Gradients of all parameters of all programs by name; zeros where the loss does not reach."""
    named = [(f"{i}.{name}", p) for i, program in enumerate(programs) for name, p in program.named_parameters()]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named, found, strict=True)}


def stock_gradients(stock: pyro.infer.ELBO, model: nn.Module, guide: nn.Module, batch: Batch) -> tuple[float, dict]:
    """Loss and gradients of a stock Pyro ELBO run as its documentation says, on copies with the same numbers."""
    model, guide = copy.deepcopy((model, guide))
    with pyro.get_param_store().scope():

        def registered(name: str, program: nn.Module) -> Callable[[Batch], Any]:
            def run(batch: Batch) -> Any:
                pyro.module(name, program)
                return program(batch)

            return run

        loss = stock.loss_and_grads(registered("m", model), registered("g", guide), batch)
    named = [(f"{i}.{n}", p) for i, program in enumerate((model, guide)) for n, p in program.named_parameters()]
    return loss, {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named}


def within(values: Tensor, expected: Tensor | float, *, errors: float = 5.0) -> bool:
    """Whether the mean over the first axis of independent draws is as expected, within that many standard errors."""
    error = values.std(0) / len(values) ** 0.5
    return bool(((values.mean(0) - expected).abs() <= errors * error + 1e-12).all())
