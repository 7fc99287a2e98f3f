"""The table of lengths against counts by hand."""

import torch

from ppl_text.nn.lengths import LengthTable
from ppl_text.nn.statistics import commit


def test_batches_whose_gradients_are_gathered_count_as_one_update():
    table = LengthTable(longest=4, decay=0.5).train()
    table.counts.copy_(torch.tensor([8.0, 0.0, 0.0, 2.0]))
    for lengths in ([1, 2], [2, 9], [3, 2]):
        table(torch.tensor(lengths), torch.tensor([1.0, 3.0]))
        table.set_aside()
    commit([table])
    assert table.counts.tolist() == [4.0 + 1.0, 3.0 + 1.0 + 3.0, 1.0, 1.0 + 3.0]
