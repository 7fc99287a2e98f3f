"""What guides read with: the LSTM over BOS … EOS, its last state, attention, and batch normalisation by rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import nn

from ppl_text.nn.recurrent import AttentionPooling, LastState, SentenceReader
from ppl_text.nn.statistics import RowNorm, commit

TOKENS, LENGTHS = torch.tensor([[3, 4, 2], [2, 0, 0]]), torch.tensor([3, 1])


def reader_of() -> SentenceReader:
    torch.manual_seed(0)
    return SentenceReader(6, 3, 4).double()


def test_the_last_state_is_that_of_the_whole_sentence_alone() -> None:
    reader = reader_of()
    found = LastState()(reader(TOKENS), LENGTHS)
    for row, ids in enumerate([[1, 3, 4, 2], [1, 2]]):
        _, (last, _) = reader.lstm(reader.embedding(torch.tensor([ids])))
        torch.testing.assert_close(found[row], last[0, 0])


def test_a_frozen_reader_keeps_nothing_for_a_gradient_and_reads_the_same() -> None:
    reader = reader_of()
    found = reader(TOKENS)
    reader.requires_grad_(False)
    assert reader(TOKENS).grad_fn is None
    assert torch.equal(reader(TOKENS), found)
    reader.lstm.bias_hh_l0.requires_grad_()
    (given,) = torch.autograd.grad(reader(TOKENS).square().sum(), [reader.lstm.bias_hh_l0])
    assert given.abs().min() > 0


def test_attention_is_a_weighted_mean_from_bos_to_eos() -> None:
    torch.manual_seed(1)
    pooling, states = AttentionPooling(4).double(), torch.randn(2, 4, 4).double()
    found = pooling(states, LENGTHS)
    for row, length in enumerate(LENGTHS):
        own = states[row, : length + 1]
        scores = torch.stack([pooling.score.weight[0] @ torch.tanh(pooling.hidden(state)) for state in own])
        shares = scores.exp() / scores.exp().sum()
        torch.testing.assert_close(found[row], (shares.unsqueeze(1) * own).sum(0))
        assert float((shares.max() - shares.min()).detach()) > 0.01


WEIGHTS = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])


def norm_of(gamma: float = 0.5) -> tuple[RowNorm, torch.Tensor]:
    torch.manual_seed(2)
    return RowNorm(3, gamma=gamma).double(), 1e-4 * torch.randn(5, 3).double() + 2.0


def test_rows_that_count_are_normalised_and_fillers_have_no_say() -> None:
    norm, x = norm_of()
    nn.init.constant_(norm.bias, 0.25)
    y, real = norm(x, WEIGHTS), WEIGHTS > 0
    torch.testing.assert_close(y[real].mean(0), torch.full((3,), 0.25).double())
    torch.testing.assert_close(y[real].var(0, correction=0), torch.full((3,), 0.25).double(), rtol=1e-3, atol=0)
    alone = RowNorm(3, gamma=0.5).double()
    nn.init.constant_(alone.bias, 0.25)
    torch.testing.assert_close(alone(x[real], torch.ones(3)), y[real])
    commit([norm, alone])
    for ours, theirs in zip(norm.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_is_torchs_batch_normalisation_with_a_fixed_scale() -> None:
    norm, x = norm_of(0.7)
    x = 1e4 * x
    other = nn.BatchNorm1d(3, eps=norm.epsilon, momentum=None).double()  # running means are plain means at first
    nn.init.constant_(other.weight, 0.7)
    weights = torch.ones(5)
    for module in (norm, other):
        module.train()
    for factor in (1.0, 3.0):
        torch.testing.assert_close(norm(factor * x, weights), other(factor * x))
        commit([norm])
    torch.testing.assert_close(norm.running_mean, other.running_mean)
    torch.testing.assert_close(norm.running_variance, other.running_var)
    torch.testing.assert_close(norm.eval()(x, weights), other.eval()(x))
    assert {name for name, _ in norm.named_parameters()} == {"bias"}


def test_a_single_row_is_normalised_by_the_running_means_which_stay() -> None:
    """It has no variance of its own; one that is about 0 would be divided by, and remembered."""
    norm, x = norm_of()
    norm(x, torch.ones(5))
    commit([norm])
    kept = [buffer.clone() for buffer in norm.buffers()]
    single = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    found = norm(x, single)
    commit([norm])
    for before, now in zip(kept, norm.buffers(), strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=0)
    torch.testing.assert_close(found, norm.eval()(x, single))
    fresh = RowNorm(3, gamma=0.5).double()
    y = fresh(x.requires_grad_(), single)
    y[1].sum().backward()
    commit([fresh])
    torch.testing.assert_close(y[1], 0.5 * x[1])
    assert x.grad is not None
    torch.testing.assert_close(x.grad[1], torch.full((3,), 0.5).double())
    assert int(fresh.batches) == 0


def test_running_means_follow_with_the_momentum_after_the_first_batches() -> None:
    norm, x = norm_of()
    for _ in range(30):
        norm(x, WEIGHTS)
        commit([norm])
    settled = norm.running_mean.clone()
    norm(x + 1.0, WEIGHTS)
    commit([norm])
    torch.testing.assert_close(norm.running_mean - settled, torch.full((3,), 0.1).double())


def test_what_is_not_committed_leaves_no_trace_and_evaluation_maps_each_row_by_itself() -> None:
    norm, x = norm_of()
    norm(x, WEIGHTS)
    commit([norm])
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(x + 5.0, WEIGHTS)
    norm.eval()
    whole = norm(x, WEIGHTS)
    torch.testing.assert_close(norm(x[:1], WEIGHTS[:1]), whole[:1])
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("rows", [2, 4])
def test_rows_that_do_not_differ_are_mapped_to_the_bias(rows: int) -> None:
    norm = RowNorm(2, gamma=0.5)
    nn.init.constant_(norm.bias, 0.3)
    x = torch.full((rows, 2), 1.5, requires_grad=True)
    y = norm(x, torch.ones(rows))
    y.sum().backward()
    torch.testing.assert_close(y, torch.full((rows, 2), 0.3))
    assert x.grad.isfinite().all()


def test_statistics_of_several_batches_are_those_of_all_their_rows() -> None:
    """Batches of different means and sizes, a filler row and a batch of a single row among them."""
    norm, x = norm_of()
    batches = [(x, WEIGHTS), (3.0 * x + 1.0, torch.ones(5)), (x[:1] - 1.0, torch.ones(1))]
    noted = []
    for rows, weights in batches:
        norm(rows, weights)
        noted.append(norm.take())
    norm.estimate(noted, lambda value: value)
    rows = torch.cat([rows[weights > 0] for rows, weights in batches])
    torch.testing.assert_close(norm.running_mean, rows.mean(0))
    torch.testing.assert_close(norm.running_variance, rows.var(0))
    assert int(norm.batches) == 3


def test_two_processes_move_by_the_rows_of_both() -> None:
    """Two threads stand for them, each with its own rows."""
    norm, x = norm_of()
    norm(x, torch.ones(5))
    commit([norm])
    halves, given, met = [], {}, Barrier(2, timeout=60)
    for rows in (x[:2], x[2:]):
        half, _ = norm_of()
        half(rows, torch.ones(len(rows)))
        halves.append(half)

    def move(place: int) -> None:
        def total(values: torch.Tensor) -> torch.Tensor:
            given[place] = values
            met.wait()
            found = given[0] + given[1]
            met.wait()
            return found

        commit([halves[place]], total)

    with ThreadPoolExecutor() as threads:
        list(threads.map(move, range(2)))
    for half in halves:
        for ours, theirs in zip(half.buffers(), norm.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)
