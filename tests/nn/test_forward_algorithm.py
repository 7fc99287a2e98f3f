"""The forward algorithm beside the sum over all paths, and its gradient beside autograd's of that sum."""

import itertools

import pytest
import torch

from ppl_text.nn.forward_algorithm import LogEvidence


def chain(steps, codes, rows=3, dtype=torch.float64):
    """Random ln π, ln A and ln b; rows of different lengths."""
    torch.manual_seed(steps + codes)
    initial = torch.randn(rows, codes, dtype=dtype).log_softmax(-1)
    transitions = (2 * torch.randn(rows, steps - 1, codes, codes, dtype=dtype)).log_softmax(-1)
    emissions = 3 * torch.randn(rows, steps, codes, dtype=dtype) - 2
    lengths = torch.tensor([steps, 1, max(1, steps - 1)])[:rows]
    return [part.requires_grad_() for part in (initial, transitions, emissions)], lengths


def by_enumeration(parts, lengths):
    """ln Σ over all paths, row by row."""
    initial, transitions, emissions = parts
    rows = []
    for row, length in enumerate(lengths.tolist()):
        paths = []
        for path in itertools.product(range(initial.shape[1]), repeat=length):
            score = initial[row, path[0]] + emissions[row, 0, path[0]]
            for t in range(1, length):
                score = score + transitions[row, t - 1, path[t - 1], path[t]] + emissions[row, t, path[t]]
            paths.append(score)
        rows.append(torch.stack(paths).logsumexp(0))
    return torch.stack(rows)


@pytest.mark.parametrize(("steps", "codes"), [(1, 3), (2, 2), (4, 3)])
def test_evidence_and_gradient_are_those_of_the_sum_over_paths(steps, codes):
    parts, lengths = chain(steps, codes)
    found, _ = LogEvidence.apply(*parts, lengths)
    expected = by_enumeration(parts, lengths)
    torch.testing.assert_close(found, expected)
    weights = torch.tensor([0.7, -1.3, 2.0], dtype=torch.float64)
    ours = torch.autograd.grad((found * weights).sum(), parts)
    theirs = torch.autograd.grad((expected * weights).sum(), parts, materialize_grads=True)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted)


def test_gradients_are_posterior_probabilities():
    parts, lengths = chain(4, 3)
    found, _ = LogEvidence.apply(*parts, lengths)
    initial, pairs, codes = torch.autograd.grad(found.sum(), parts)
    one = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(initial.sum(-1), one)
    torch.testing.assert_close(codes.sum((1, 2)), lengths.double())
    torch.testing.assert_close(pairs.sum((1, 2, 3)), lengths.double() - 1)


def test_a_code_that_is_impossible_leaves_evidence_and_gradient_finite():
    (initial, transitions, emissions), lengths = chain(3, 3)
    blocked = emissions.detach().clone()
    blocked[:, :, 1] = -torch.inf
    blocked.requires_grad_()
    found, _ = LogEvidence.apply(initial, transitions, blocked, lengths)
    assert found.isfinite().all()
    gradients = torch.autograd.grad(found.sum(), (initial, transitions, blocked))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[2][:, :, 1].abs().max() == 0


def test_long_texts_neither_underflow_nor_lose_their_digits():
    (initial, transitions, emissions), _ = chain(400, 2, rows=1, dtype=torch.float32)
    lengths = torch.tensor([400])
    found, _ = LogEvidence.apply(initial, transitions, emissions - 30, lengths)
    exact, _ = LogEvidence.apply(*(part.double() for part in (initial, transitions, emissions - 30)), lengths)
    assert exact < -10_000
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0.0)


def test_what_is_known_of_a_code_at_its_step_is_the_posterior_of_the_last_one():
    parts, _ = chain(4, 3)
    _, known = LogEvidence.apply(*parts, torch.tensor([4, 4, 4]))
    assert not known.requires_grad
    for t in range(4):
        found, _ = LogEvidence.apply(*parts, torch.full((3,), t + 1))
        (posterior,) = torch.autograd.grad(found.sum(), parts[2])
        torch.testing.assert_close(known[:, t].exp(), posterior[:, t])


def test_codes_that_a_token_tells_apart_by_hundreds_of_nats():
    (initial, transitions, emissions), lengths = chain(4, 3, dtype=torch.float32)
    told = emissions.detach().clone()
    told[:, 1, 0] += 300.0
    told[:, 2, 1] += 400.0
    parts = [initial, transitions, told.requires_grad_()]
    found, _ = LogEvidence.apply(*parts, lengths)
    exact = [part.detach().double().requires_grad_() for part in parts]
    expected = by_enumeration(exact, lengths)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0.0)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), parts), torch.autograd.grad(expected.sum(), exact), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


def by_logarithms(parts, lengths):
    """The recursion in logarithms, row by row, for autograd."""
    initial, transitions, emissions = parts
    current = [initial + emissions[:, 0]]
    for t in range(1, emissions.shape[1]):
        current.append((current[-1].unsqueeze(-1) + transitions[:, t - 1]).logsumexp(-2) + emissions[:, t])
    return torch.stack(current, 1)[torch.arange(len(lengths)), lengths - 1].logsumexp(-1)


def apart(steps, codes, *, emitted=0.0, moved=0.0, begun=0.0):
    """A chain with a code of its own at every step, these many nats ahead; other codes are left to as hardly."""
    parts, lengths = chain(steps, codes)
    initial, transitions, emissions = (part.detach().clone() for part in parts)
    favoured = torch.randint(codes, (len(lengths), steps))
    rows, places = torch.arange(len(lengths)).unsqueeze(-1), torch.arange(steps)
    emissions[rows, places, favoured] += emitted
    transitions -= moved * (1 - torch.eye(codes, dtype=transitions.dtype))
    initial[:, 0] += begun
    return [part.requires_grad_() for part in (initial, transitions, emissions)], lengths


APART = {
    "tokens tell codes apart": {"emitted": 1e4},
    "and codes do not change": {"emitted": 1e4, "moved": 1e4},
    "and change too dearly": {"emitted": 1e4, "moved": 3e4, "begun": -1e4},
    "codes never change": {"emitted": 1e4, "moved": torch.inf},
}


@pytest.mark.parametrize("nats", APART.values(), ids=APART)
@pytest.mark.parametrize(("steps", "codes"), [(6, 3), (2, 2)])
def test_codes_may_lie_ten_thousands_of_nats_apart(nats, steps, codes):
    if nats.get("moved") == torch.inf:
        parts, lengths = apart(steps, codes, emitted=nats["emitted"])
        stay = torch.eye(codes, dtype=torch.bool)
        parts[1] = parts[1].detach().masked_fill(~stay, -torch.inf).requires_grad_()
    else:
        parts, lengths = apart(steps, codes, **nats)
    found, known = LogEvidence.apply(*parts, lengths)
    expected = by_logarithms(parts, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-9)
    assert known.isfinite().all()
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), parts), torch.autograd.grad(expected.sum(), parts), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_what_stands_behind_a_text_may_be_no_number():
    parts, _ = chain(5, 3)
    lengths = torch.tensor([3, 1, 2])
    plain, _ = LogEvidence.apply(*parts, lengths)
    behind = torch.arange(5) >= lengths.unsqueeze(-1)
    broken = [
        parts[0],
        parts[1].detach().masked_fill(behind[:, 1:, None, None], torch.nan).requires_grad_(),
        parts[2].detach().masked_fill(behind.unsqueeze(-1), torch.inf).requires_grad_(),
    ]
    found, _ = LogEvidence.apply(*broken, lengths)
    assert torch.equal(found, plain)
    for got, wanted in zip(
        torch.autograd.grad(found.sum(), broken), torch.autograd.grad(plain.sum(), parts), strict=True
    ):
        assert torch.equal(got, wanted)


def test_a_text_that_no_code_can_emit_has_no_evidence_and_spoils_no_other():
    (initial, transitions, emissions), lengths = chain(4, 3)
    blocked = emissions.detach().clone()
    blocked[0, 2] = -torch.inf
    parts = [initial, transitions, blocked.requires_grad_()]
    found, _ = LogEvidence.apply(*parts, lengths)
    assert found[0] == -torch.inf
    expected = by_enumeration([part[1:] for part in parts], lengths[1:])
    torch.testing.assert_close(found[1:], expected)
    ours = torch.autograd.grad(found[1:].sum(), parts)
    theirs = torch.autograd.grad(expected.sum(), parts)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("nats", [0.0, 1e4])
def test_long_texts_of_many_codes_are_taken_in_stretches(nats):
    parts, _ = apart(250, 16, emitted=nats, moved=nats / 2)
    lengths = torch.tensor([250, 249, 101])
    found, _ = LogEvidence.apply(*parts, lengths)
    expected = by_logarithms(parts, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), parts), torch.autograd.grad(expected.sum(), parts), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
