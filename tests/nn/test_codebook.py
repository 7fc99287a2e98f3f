"""A code book follows what is assigned to it: against the formulas, a public library, and clusters that are known."""

import pytest
import torch

from ppl_text.core.errors import UserError
from ppl_text.nn.codebook import CodeBook, nearest
from ppl_text.nn.statistics import alone, commit

SIZE, WIDTH = 4, 3


def book(**options):
    torch.manual_seed(0)
    return CodeBook(SIZE, WIDTH, **{"start": "uniform", "revive": 0.0, **options}).double().train()


def vectors(*shape):
    torch.manual_seed(1)
    return torch.randn(*shape, WIDTH, dtype=torch.float64)


def test_nearest_is_the_smallest_distance():
    values, codes = vectors(2, 5), vectors(SIZE)
    assert torch.equal(nearest(values, codes), torch.cdist(values, codes.expand(2, SIZE, WIDTH)).argmin(-1))
    assert torch.equal(nearest(codes, codes), torch.arange(SIZE))


def test_a_batch_moves_the_codes_by_the_formulas_once():
    made, values = book(decay=0.8), vectors(2, 6)
    counted = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    counts, sums, codes = made.counts.clone(), made.sums.clone(), made.codes.clone()
    found = made(values, counted)
    found = made(values, counted)  # an objective may run a program twice
    assert torch.equal(made.codes, codes)
    commit([made], alone)
    for k in range(SIZE):
        mine = values[counted & (found == k)]
        counts[k] = 0.8 * counts[k] + 0.2 * len(mine)
        sums[k] = 0.8 * sums[k] + 0.2 * mine.sum(0)
    torch.testing.assert_close(made.counts, counts)
    torch.testing.assert_close(made.sums, sums)
    smoothed = (counts + 1e-5) * counts.sum() / (counts.sum() + SIZE * 1e-5)
    torch.testing.assert_close(made.codes, sums / smoothed.unsqueeze(-1))


def test_batches_whose_gradients_are_gathered_move_the_codes_as_one():
    values, counted = vectors(3, 4), torch.tensor([[1, 1, 1, 0]] * 2 + [[1, 1, 0, 0]], dtype=torch.bool)
    whole, pieces = book(decay=0.8), book(decay=0.8)
    whole(values, counted)
    for row in range(3):
        pieces(values[row], counted[row])
        pieces.set_aside()
    for made in (whole, pieces):
        commit([made])
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(pieces.get_buffer(name), buffer)


def test_dead_codes_become_different_vectors_of_all_batches_that_are_gathered():
    """Two places a batch has a vector for, and a third and fourth that only the second one has."""
    made, values = book(decay=0.0, revive=0.9), vectors(2, 4)
    counted = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    notes = []
    for row in range(2):
        made(values[row], counted[row])
        notes.append(made.take())
    counts, sums, found, there = made.pool(notes)
    assert counts.sum() == counted.sum()
    torch.testing.assert_close(sums.sum(0), values[counted].sum(0))
    assert there.tolist() == [1.0] * 4
    near = torch.cdist(found, values[counted])
    torch.testing.assert_close(near.amin(1), torch.zeros(4, dtype=torch.float64))
    assert len(set(near.argmin(1).tolist())) == 4
    first, second = notes[0][2], notes[1][2]
    assert torch.equal(found, torch.cat([first[:2], second[2:]]))


def test_in_evaluation_nothing_is_noted():
    made = book().eval()
    made(vectors(2, 6), torch.ones(2, 6, dtype=torch.bool))
    assert made.take() is None


def test_it_is_the_public_librarys():
    library = pytest.importorskip("vector_quantize_pytorch", reason="an oracle, where it is installed")
    made, values = book(decay=0.9), vectors(3, 7)
    theirs = library.VectorQuantize(dim=WIDTH, codebook_size=SIZE, decay=0.9, threshold_ema_dead_code=0).double()
    theirs._codebook.embed.data.copy_(made.codes)
    theirs._codebook.embed_avg.data.copy_(made.sums)
    theirs._codebook.cluster_size.data.copy_(made.counts)
    mask = torch.arange(7) < torch.tensor([[7], [4], [2]])
    _, indices, _ = theirs.train()(values, mask=mask)
    found = made(values, mask)
    commit([made], alone)
    assert torch.equal(indices[mask], found[mask])
    torch.testing.assert_close(made.codes, theirs._codebook.embed.squeeze(0))


def test_a_dead_code_becomes_a_vector_of_the_batch_with_its_sum_and_count():
    made, values = book(decay=0.5, revive=0.1), vectors(1, 3)
    made.counts.copy_(torch.tensor([1.5, 1.5, 1.5, 0.01]))
    made.codes[3] = 100.0
    made.sums.copy_(made.codes * made.counts.unsqueeze(-1))
    made(values, torch.tensor([[True, True, False]]))
    commit([made], alone)
    least = 0.1 * (0.5 * 4.51 + 0.5 * 2) / SIZE
    assert made.counts[3].item() == pytest.approx(least)
    assert any(torch.allclose(made.sums[3], least * vector) for vector in values[0, :2])
    torch.testing.assert_close(made.codes[3], made.sums[3] / least, rtol=1e-3, atol=0.0)


def test_no_vector_revives_two_codes_and_those_dead_for_longest_come_first():
    made, values = CodeBook(5, WIDTH, start="uniform", revive=0.5, decay=0.5).double().train(), vectors(1, 3)
    made.codes[0] = values[0, 0]
    made.counts.copy_(torch.tensor([9.0, 0.03, 0.01, 0.02, 0.04]))
    made.sums.copy_(made.codes * made.counts.unsqueeze(-1))
    near = values[:, :1] + 0.01 * values
    made(near, torch.tensor([[True, False, True]]))
    commit([made], alone)
    same = torch.cdist(made.codes, near[0]) < 1e-3
    assert same[1].sum() == same[4].sum() == 0
    assert sorted(same[[2, 3]].double().argmax(-1).tolist()) == [0, 2]
    assert same[[2, 3]].sum() == 2


def test_particles_share_a_vector():
    made, values = book(), vectors(2, 3)
    counted = torch.tensor([[True, True, True], [True, False, False]])
    indices = torch.tensor([[[0, 1, 2], [3, 0, 0]], [[0, 2, 2], [1, 0, 0]]])
    made.assign(values, counted, indices)
    counts, sums, *_ = made.take()
    assert counts.tolist() == [1.0, 1.0, 1.5, 0.5]
    expected = torch.stack(
        [values[0, 0], 0.5 * values[0, 1] + 0.5 * values[1, 0], 0.5 * values[0, 1] + values[0, 2], 0.5 * values[1, 0]]
    )
    torch.testing.assert_close(sums, expected)


def test_codes_that_the_first_batch_has_no_vector_for_start_at_those_of_the_next():
    torch.manual_seed(0)
    made = CodeBook(8, WIDTH, start="data").double().train()
    first = made.codes.clone()
    for step in range(3):
        torch.manual_seed(10 + step)
        made(torch.randn(1, 3, WIDTH, dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool))
        assert ((made.codes - first).norm(dim=-1) > 0.1).sum() == min(8, 3 * (step + 1))
        commit([made], alone)


def test_the_first_batch_starts_the_codes_at_its_clusters():
    centres = torch.tensor([[0.0, 0, 9], [9.0, 0, 0], [0.0, 9, 0], [9.0, 9, 9]], dtype=torch.float64)
    torch.manual_seed(3)
    values = (centres.repeat_interleave(50, 0) + 0.1 * torch.randn(200, WIDTH)).unsqueeze(0)
    counted = torch.ones(1, 200, dtype=torch.bool)
    for seed in range(20):  # k-means may end in a worse place: some seed finds the clusters
        torch.manual_seed(seed)
        made = CodeBook(SIZE, WIDTH, start="data").double().train()
        found = made(values, counted)
        if len(found.unique()) == SIZE and (torch.cdist(made.codes, centres).amin(0) < 1.0).all():
            break
    else:
        pytest.fail("k-means never found four clusters that are far apart")
    assert bool(made.started)
    codes = made.codes.clone()
    made(values + 100.0, counted)
    assert torch.equal(made.codes, codes)  # once
    again = CodeBook(SIZE, WIDTH, start="data").double().train()
    again.load_state_dict(made.state_dict())
    again(values + 100.0, counted)
    assert torch.equal(again.codes, codes)


@pytest.mark.parametrize("options", [{"size": 1}, {"decay": 1.0}, {"revive": -1.0}, {"revive": 1.0}, {"start": "zero"}])
def test_what_makes_no_code_book_is_refused(options):
    with pytest.raises(UserError):
        CodeBook(**{"size": SIZE, "width": WIDTH, **options})
