"""The token site against enumeration of all strings and torch's own Categorical."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID
from ppl_text.distributions.tokens import TokenSequence, end_at_eos

OUTCOMES = 3  # EOS, a, b
A, Z = EOS_ID + 1, EOS_ID + 2


def all_strings(longest: int) -> list[list[int]]:
    """Every string over {a, b} of at most ``longest`` scored tokens, EOS included."""
    return [[*w, EOS_ID] for n in range(longest) for w in itertools.product((A, Z), repeat=n)]


def padded(strings: list[list[int]], steps: int) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([w + [PAD_ID] * (steps - len(w)) for w in strings])
    return tokens, torch.tensor([len(w) for w in strings])


@pytest.mark.parametrize("longest", [1, 2, 5])
def test_probabilities_of_all_strings_sum_to_one_minus_the_unfinished(longest: int) -> None:
    torch.manual_seed(longest)
    logits = torch.randn(longest, OUTCOMES, dtype=torch.float64)
    tokens, lengths = padded(all_strings(longest), longest)
    density = TokenSequence(logits.expand(len(tokens), -1, -1), lengths)
    total = density.log_prob(tokens).exp().sum()
    unfinished = (1 - logits.softmax(-1)[:, 0]).prod()
    torch.testing.assert_close(total, 1 - unfinished)
    assert float(total) < 1


def test_equals_a_sum_of_categoricals_and_scores_nothing_after_eos() -> None:
    torch.manual_seed(0)
    tokens, lengths = padded([[A, Z, A, EOS_ID], [EOS_ID], [Z, EOS_ID]], 6)
    logits = torch.randn(3, 6, OUTCOMES, dtype=torch.float64, requires_grad=True)
    found = TokenSequence(logits, lengths).log_prob(tokens)
    for b in range(3):
        expected = sum(Categorical(logits=logits[b, t]).log_prob(tokens[b, t] - EOS_ID) for t in range(int(lengths[b])))
        torch.testing.assert_close(found[b], expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    scored = torch.arange(6) < lengths[:, None]
    assert (gradient[~scored] == 0).all()
    assert (gradient[scored].abs().sum(-1) > 0).all()
    soiled = tokens.masked_fill(~scored, Z)
    torch.testing.assert_close(TokenSequence(logits, lengths).log_prob(soiled), found)


def test_padded_equals_unpadded_even_beside_wild_logits() -> None:
    torch.manual_seed(0)
    tokens, lengths = padded([[A, EOS_ID], [Z, A, EOS_ID]], 5)
    logits = torch.randn(2, 5, OUTCOMES, dtype=torch.float64)
    wild = logits.masked_fill((torch.arange(5) >= lengths[:, None])[..., None], 1e300).requires_grad_()
    found = TokenSequence(wild, lengths).log_prob(tokens)
    for b, n in enumerate(lengths.tolist()):
        alone = TokenSequence(logits[b : b + 1, :n], lengths[b : b + 1]).log_prob(tokens[b : b + 1, :n])
        torch.testing.assert_close(found[b : b + 1], alone)
    found.sum().backward()
    assert torch.isfinite(wild.grad).all()


@pytest.mark.parametrize("impossible", [PAD_ID, BOS_ID])
def test_padding_and_bos_are_no_outcomes(impossible: int) -> None:
    logits = torch.zeros(1, 3, OUTCOMES, requires_grad=True)
    density = TokenSequence(logits, torch.tensor([3]))
    assert density.log_prob(torch.tensor([[A, impossible, EOS_ID]])).item() == -torch.inf
    assert torch.isfinite(density.log_prob(torch.tensor([[A, Z, EOS_ID]]))).all()


def test_leading_axes_equal_the_loop() -> None:
    torch.manual_seed(0)
    tokens, lengths = padded([[A, EOS_ID], [Z, A, EOS_ID]], 4)
    logits = torch.randn(5, 2, 4, OUTCOMES, dtype=torch.float64)
    expected = torch.stack([TokenSequence(row, lengths).log_prob(tokens) for row in logits])
    assert TokenSequence(logits, lengths).batch_shape == (5, 2)
    torch.testing.assert_close(TokenSequence(logits, lengths).log_prob(tokens), expected)
    wide = TokenSequence(logits[0], lengths).expand((5, 2))
    torch.testing.assert_close(wide.log_prob(tokens.expand(5, 2, 4)), expected[0].expand(5, 2))
    particles = wide.sample()
    assert particles.shape == (5, 2, 4)
    assert TokenSequence(logits[0, :1], lengths).sample((7,)).shape == (7, 2, 4)


def test_values_with_sample_axes_in_front_are_scored_one_by_one() -> None:
    torch.manual_seed(0)
    density = TokenSequence(torch.randn(2, 4, OUTCOMES, dtype=torch.float64), torch.tensor([2, 4]))
    values = torch.randint(EOS_ID, EOS_ID + OUTCOMES, (5, 2, 4))
    expected = torch.stack([density.log_prob(v) for v in values])
    torch.testing.assert_close(density.log_prob(values), expected)


def test_sampling_frequencies_are_the_probabilities_of_the_strings() -> None:
    torch.manual_seed(0)
    steps, n = 3, 20_000
    logits = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.0, 0.0], [1.0, -1.0, 0.3]], dtype=torch.float64)
    draws = TokenSequence(logits.expand(n, -1, -1), torch.full((n,), steps)).sample()
    counts = Counter(tuple(row) for row in draws.tolist())
    strings = all_strings(steps)
    tokens, lengths = padded(strings, steps)
    probability = TokenSequence(logits.expand(len(strings), -1, -1), lengths).log_prob(tokens).exp()
    for row, p in zip(tokens.tolist(), probability.tolist(), strict=True):
        assert abs(counts[tuple(row)] / n - p) < 5 * (p * (1 - p) / n) ** 0.5
    cut_off = sum(v for k, v in counts.items() if EOS_ID not in k) / n
    assert abs(cut_off - (1 - float(probability.sum()))) < 0.02


def test_logits_in_bf16_are_normalised_in_float32() -> None:
    torch.manual_seed(0)
    tokens, lengths = padded([[A, EOS_ID]], 3)
    logits = torch.randn(1, 3, OUTCOMES).bfloat16()
    found = TokenSequence(logits, lengths).log_prob(tokens)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, TokenSequence(logits.float(), lengths).log_prob(tokens))


ENDINGS = {
    "after the first EOS": ([A, EOS_ID, Z, EOS_ID, A], [A, EOS_ID, PAD_ID, PAD_ID, PAD_ID]),
    "EOS at once": ([EOS_ID, A, Z], [EOS_ID, PAD_ID, PAD_ID]),
    "EOS last": ([A, Z, EOS_ID], [A, Z, EOS_ID]),
    "no EOS": ([A, Z, A], [A, Z, A]),
}


@pytest.mark.parametrize(("tokens", "expected"), ENDINGS.values(), ids=ENDINGS)
def test_end_at_eos(tokens: list[int], expected: list[int]) -> None:
    assert end_at_eos(torch.tensor([[tokens, tokens]])).tolist() == [[expected, expected]]


def test_validation_refuses_negative_ids() -> None:
    density = TokenSequence(torch.zeros(1, 2, OUTCOMES), torch.tensor([2]), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        density.log_prob(torch.tensor([[-1, EOS_ID]]))
