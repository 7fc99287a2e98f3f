"""Ways to sum over all paths are raced only where they agree: ln Z and its gradient to rounding."""

import pytest
import torch

from benchmarks import forward_algorithm
from benchmarks.contestants import OURS
from benchmarks.forward_algorithm import WAYS, Chain, chain, gradient


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("codes", "steps"), [(2, 2), (3, 7), (4, 24)])
def test_evidence_and_gradient_are_those_of_the_product_of_matrices(name, codes, steps):
    given = chain(codes, steps, rows=3, dtype=torch.float64)
    row = given.initial.exp() * given.emissions[:, 0].exp()
    for t in range(1, steps):
        row = (row.unsqueeze(1) @ given.transitions[:, t - 1].exp()).squeeze(1) * given.emissions[:, t].exp()
    expected = row.sum(-1).log()
    torch.testing.assert_close(WAYS[name](given), expected)
    wanted = torch.autograd.grad(expected.sum(), list(given))
    for part, got, right in zip(given, gradient(WAYS[name], given), wanted, strict=True):
        if "Pyro" in name and part is not given.emissions:  # which normalises once more
            right = right - part.exp() * right.sum(-1, keepdim=True)
        torch.testing.assert_close(got, right)


def test_a_race_shows_every_way_at_every_size(monkeypatch):
    small = Chain(*(part.detach() for part in chain(2, 3, rows=2)))
    monkeypatch.setattr(forward_algorithm, "chain", lambda codes, steps: small)
    found = {(2, 3): forward_algorithm.run(2, 3, rounds=2, repeats=1)}
    lines = forward_algorithm.table(found).splitlines()
    assert [line.split(" | ")[0].strip("|* ") for line in lines[2:]] == list(WAYS)
    assert f"**{OURS}**" in lines[2]
    assert "(1.00)" in lines[2]
