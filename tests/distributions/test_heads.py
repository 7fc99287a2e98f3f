"""Scores of a vocabulary head: against log_softmax, with gradients, in chunks, and in bounded memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppl_text.comparing.costs import peak_bytes
from ppl_text.distributions import tokens as token_site
from ppl_text.distributions.tokens import DecodedTokens, SoftmaxScore, TokenSequence, score_outcomes

ROWS, WIDTH, SIZE = 11, 5, 7
with_and_without_bias = pytest.mark.parametrize("biased", [False, True])


def parts(biased: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    states, weight = torch.randn(ROWS, WIDTH).double(), 2.0 * torch.randn(SIZE, WIDTH).double()
    bias = torch.randn(SIZE).double().requires_grad_() if biased else None
    return states.requires_grad_(), weight.requires_grad_(), bias, torch.randint(SIZE, (ROWS,))


def by_log_softmax(states: Tensor, weight: Tensor, bias: Tensor | None, outcomes: Tensor) -> Tensor:
    logits = states @ weight.t() + (0.0 if bias is None else bias)
    return logits.log_softmax(-1)[torch.arange(len(outcomes)), outcomes]


def with_gradients(value: Tensor, *leaves: Tensor | None) -> list[Tensor]:
    factors = torch.linspace(-1.0, 2.0, ROWS, dtype=torch.float64)
    return [value, *torch.autograd.grad(value @ factors, [x for x in leaves if x is not None])]


FEW = {"KEPT_FOR_GRADIENT": 3 * SIZE, "HELD_AT_ONCE": 2 * SIZE}
WAYS = {"at once": {}, "in chunks, by torch": FEW, "in chunks, twice": {**FEW, "CHUNKS": None}}
"""The second needs a torch that has such a pass, and is the third in one that has none."""


@with_and_without_bias
@pytest.mark.parametrize("limits", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("by_hand", [True, False])
def test_scores_and_gradients_are_those_of_log_softmax(
    biased: bool, limits: dict[str, int | None], by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(token_site, name, value)
    if not by_hand:  # the way on a GPU
        monkeypatch.setattr(token_site, "worthwhile", lambda states: False)
    given = parts(biased)
    found = with_gradients(score_outcomes(*given), *given[:3])
    for a, b in zip(found, with_gradients(by_log_softmax(*given), *given[:3]), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(score_outcomes(*given), by_log_softmax(*given))


@with_and_without_bias
def test_hand_written_gradient_equals_finite_differences_and_can_be_asked_for_twice(biased: bool) -> None:
    states, weight, bias, outcomes = parts(biased)
    assert torch.autograd.gradcheck(lambda *x: SoftmaxScore.apply(*x, outcomes), (states, weight, bias))
    total = SoftmaxScore.apply(states, weight, bias, outcomes).sum()
    first, second = (torch.autograd.grad(total, [states, weight], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_frozen_head_gets_no_gradient_and_states_theirs_all_the_same() -> None:
    states, weight, _, outcomes = parts(False)
    (expected,) = torch.autograd.grad(by_log_softmax(states, weight, None, outcomes).sum(), states)
    frozen = weight.detach()
    score_outcomes(states, frozen, None, outcomes).sum().backward()
    torch.testing.assert_close(states.grad, expected)
    assert frozen.grad is None


def test_huge_logits_stay_finite() -> None:
    states, weight, _, outcomes = parts(False)
    given = (1e4 * states.detach().float().requires_grad_(), weight.detach().float().requires_grad_(), None, outcomes)
    values = with_gradients(score_outcomes(*given).double(), given[1])
    assert all(v.isfinite().all() for v in values)


def test_autocast_changes_the_product_and_nothing_after_it() -> None:
    states, weight, _, outcomes = parts(False)
    states, weight = states.detach().float().requires_grad_(), weight.detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score_outcomes(states, weight, None, outcomes)
        logits = states @ weight.t()
    assert found.dtype is torch.float32
    assert logits.dtype is torch.bfloat16
    torch.testing.assert_close(found, logits.float().log_softmax(-1)[torch.arange(ROWS), outcomes])


def tokens_and_states(particles: int, size: int, width: int, steps: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens (2, T), lengths (2,), states (K, 2, T, H) and weights."""
    torch.manual_seed(1)
    lengths = torch.tensor([steps, 3])
    tokens = torch.randint(3, size + 2, (2, steps))
    tokens[0, -1] = tokens[1, 2] = 2
    tokens[1, 3:] = 0
    return tokens, lengths, torch.randn(particles, 2, steps, width), torch.randn(size, width)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1.0, 1.0, SIZE)])
def test_tokens_from_states_are_those_from_the_logits(bias: Tensor | None) -> None:
    tokens, lengths, states, weight = tokens_and_states(4, SIZE, WIDTH)
    states.requires_grad_()
    lazy = DecodedTokens(states, weight, bias, lengths)
    full = TokenSequence(torch.nn.functional.linear(states, weight, bias), lengths)
    assert (lazy.batch_shape, lazy.event_shape, lazy.support) == (full.batch_shape, full.event_shape, full.support)
    torch.testing.assert_close(lazy.log_prob(tokens), full.log_prob(tokens))
    gradients = [torch.autograd.grad(d.log_prob(tokens).sum(), states)[0] for d in (lazy, full)]
    torch.testing.assert_close(*gradients)
    drawn = []
    for distribution in (lazy, full):
        torch.manual_seed(2)
        drawn.append(distribution.sample((3,)))
    assert torch.equal(*drawn)
    assert drawn[0].shape == (3, 4, 2, 6)


def test_what_is_no_outcome_has_no_probability_and_padding_no_say() -> None:
    tokens, lengths, states, weight = tokens_and_states(1, SIZE, WIDTH)
    density = DecodedTokens(states, weight, None, lengths)
    assert density.log_prob(tokens.index_fill(1, torch.tensor([1]), 1))[0].tolist() == [-torch.inf] * 2
    soiled = tokens.clone()
    soiled[1, 3:] = 5
    torch.testing.assert_close(density.log_prob(soiled), density.log_prob(tokens), rtol=0, atol=0)
    wild = states.clone()
    wild[:, 1, 3:] = 1e30
    torch.testing.assert_close(DecodedTokens(wild, weight, None, lengths).log_prob(tokens), density.log_prob(tokens))


def test_particles_that_change_nothing_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, lengths, states, weight = tokens_and_states(1, SIZE, WIDTH)
    density, rows = DecodedTokens(states[0], weight, None, lengths).expand(torch.Size((500, 2))), []
    score = token_site._score
    monkeypatch.setattr(token_site, "_score", lambda s, *rest: rows.append(len(s)) or score(s, *rest))
    assert density.log_prob(tokens).shape == (500, 2)
    assert rows == [12]


def test_hundreds_of_particles_need_the_memory_of_few_logits() -> None:
    """K = 500 sentences of 12 tokens, V = 10,000: all logits were 480 MB."""
    tokens, lengths, states, weight = tokens_and_states(500, 10_000, 8)
    density = DecodedTokens(states, weight, None, lengths)

    def work() -> None:
        with torch.no_grad():
            density.log_prob(tokens)

    assert peak_bytes(work) < 5 * 4 * token_site.HELD_AT_ONCE
