"""Peak of live tensor bytes, against allocations that are known."""

import torch

from ppl_text.comparing.costs import LiveBytes, peak_bytes

KIB = 256
"""float32 numbers in one KiB."""


def test_the_peak_is_the_greatest_sum_alive_at_one_time():
    def work():
        first = torch.zeros(10 * KIB)
        second = torch.zeros(20 * KIB)
        del first
        third = torch.zeros(5 * KIB)
        return second, third

    assert peak_bytes(work) == 30 * 1024


def test_what_was_there_before_does_not_count():
    before = torch.zeros(50 * KIB)
    assert peak_bytes(lambda: before.add_(1.0)) == 0
    assert peak_bytes(lambda: before.view(2, -1)[0].sum()) == 4


def test_views_share_and_freed_memory_comes_back():
    with LiveBytes() as memory:
        base = torch.zeros(8 * KIB)
        views = [base.view(8, KIB), base[:3], base.t()]
        assert memory.live == 8 * 1024
        del base
        assert memory.live == 8 * 1024
        del views
        assert memory.live == 0
    assert memory.peak == 8 * 1024


def test_what_autograd_keeps_counts_until_backward():
    """exp keeps its result: two results of 16 KiB are alive though no name holds the first."""
    x = torch.zeros(16 * KIB, requires_grad=True)
    with LiveBytes() as memory:
        y = x.exp().exp()
        assert memory.live == 32 * 1024
        del y
        assert memory.live == 0


def test_allocations_inside_backward_are_seen():
    class Wasteful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, gradient):
            waste = torch.zeros(100 * KIB)
            return gradient * torch.ones(4 * KIB) + waste[:1]

    x = torch.zeros(4 * KIB, requires_grad=True)

    def work():
        Wasteful.apply(x).backward()

    peak = peak_bytes(work)
    assert 100 * 1024 <= peak <= 120 * 1024
    assert x.grad is not None


def test_a_larger_graph_holds_more():
    """A chain of n saved activations of 4 KiB each holds n times 4 KiB at the end of the forward pass."""
    x = torch.ones(KIB * 4, requires_grad=True)

    def chain(n):
        y = x
        for _ in range(n):
            y = y.sin()
        y.sum().backward()

    small, large = peak_bytes(lambda: chain(5)), peak_bytes(lambda: chain(25))
    # sin keeps its operand, 4 KiB: one more for each link.
    assert large - small == 20 * 4 * 1024


def test_tensors_that_outlive_the_context_are_not_followed():
    with LiveBytes() as memory:
        kept = torch.zeros(KIB)
    del kept
    assert memory.live == 1024


def test_tensors_without_one_storage_are_passed_over():
    with LiveBytes() as memory:
        sparse = torch.zeros(KIB).to_sparse()
        assert sparse.layout is torch.sparse_coo
        torch.zeros(KIB, device="meta")
    assert memory.peak < 3 * 1024
