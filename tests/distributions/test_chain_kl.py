"""chain_kl against torch's Gaussian KL step by step, and against Monte Carlo in expectation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_text.distributions.chains import FlowChain, chain_kl
from ppl_text.distributions.transforms import ConditionalFlow

from .flow_cases import AFFINE, CASES, affine_by_hand, conditional, mlp

B, T, D, C = 3, 4, 3, 2
LENGTHS = torch.tensor([4, 1, 3])
PAIRS = [
    *[(q, "tril inverse") for q in AFFINE],
    *[("diag", p) for p in AFFINE],
    ("tril", "tril inverse x3"),
    ("tril x2", "tril"),
    ("tril inverse x2", "tril x2"),
]


def chains(q_name: str, p_name: str) -> tuple[FlowChain, FlowChain, Tensor]:
    """q reads contexts, p does not, as a guide and a model do."""
    q_flow, p_flow = conditional(CASES[q_name], D, context_dim=C), conditional(CASES[p_name], D)
    torch.manual_seed(5)
    context = torch.randn(B, T, C, dtype=torch.float64)
    initial = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    return FlowChain(q_flow, initial, LENGTHS, T, context), FlowChain(p_flow, initial, LENGTHS, T), context


def gaussian(flow: ConditionalFlow, state: Tensor, context: Tensor | None = None) -> MultivariateNormal:
    mean, matrix = affine_by_hand(flow.family, mlp(flow, state, context))
    return MultivariateNormal(mean, scale_tril=(matrix * matrix.diagonal().sign()).tril())


@pytest.mark.parametrize(("q_name", "p_name"), PAIRS, ids=[f"{q} to {p}" for q, p in PAIRS])
def test_equals_the_sum_of_gaussian_divergences_along_the_path(q_name: str, p_name: str) -> None:
    q, p, context = chains(q_name, p_name)
    path = q.rsample()
    found, foreign = chain_kl(q, p, path), chain_kl(q, p, path.clone())
    for b in range(B):
        state, expected = q.initial, torch.zeros((), dtype=torch.float64)
        for t in range(int(LENGTHS[b])):
            expected = expected + kl_divergence(gaussian(q.kernel, state, context[b, t]), gaussian(p.kernel, state))
            state = path[b, t]
        torch.testing.assert_close(found[b], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(foreign[b], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("q_name", ["diag", "tril", "tril x2"])
def test_equals_monte_carlo_in_expectation_with_less_variance(q_name: str) -> None:
    q, p, _ = chains(q_name, "tril inverse")
    n = 4000
    with torch.no_grad():
        wide = q.expand((n, B))
        path = wide.rsample()
        sampled = wide.log_prob(path) - p.log_prob(path)
        closed = chain_kl(wide, p, path)
    assert closed.shape == sampled.shape == (n, B)
    error = (sampled - closed).std(0) / n**0.5
    assert ((sampled.mean(0) - closed.mean(0)).abs() < 5 * error).all()
    assert (closed.var(0) < sampled.var(0)).all()
    # One step only: given h_0 nothing is left to chance.
    assert float(closed[:, 1].std()) < 1e-9


def test_gradients_equal_those_of_the_gaussian_divergence() -> None:
    q, p, context = chains("diag", "tril inverse")
    parameters = [*q.kernel.parameters(), *p.kernel.parameters()]
    path = q.rsample()
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        state = q.initial
        for t in range(int(LENGTHS[b])):
            expected = expected + kl_divergence(gaussian(q.kernel, state, context[b, t]), gaussian(p.kernel, state))
            state = path[b, t]
    wanted = torch.autograd.grad(expected, parameters, retain_graph=True)
    found = torch.autograd.grad(chain_kl(q, p, path).sum(), parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pair", [("nvp halves", "tril"), ("tril", "nvp halves"), ("tril, nvp, diag", "diag")])
def test_is_none_where_a_flow_is_not_affine(pair: tuple[str, str]) -> None:
    q, p, _ = chains(*pair)
    assert chain_kl(q, p, q.rsample()) is None


def test_of_a_chain_with_itself_is_zero_and_padding_adds_nothing() -> None:
    q, p, _ = chains("tril", "tril inverse")
    path = q.rsample()
    torch.testing.assert_close(chain_kl(q, q, path), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-9)
    beyond = (torch.arange(T) >= LENGTHS[:, None])[..., None]
    soiled = path.detach().masked_fill(beyond, 1e30)
    torch.testing.assert_close(chain_kl(q, p, soiled), chain_kl(q, p, path))
