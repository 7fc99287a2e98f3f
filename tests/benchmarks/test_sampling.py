"""Both ways of drawing latents that are timed draw the same."""

import torch

from benchmarks.peers.latent_sequence import Sizes
from benchmarks.sampling import AGAIN, ONE, laws


def test_both_ways_draw_the_same_codes_from_one_seed():
    drawn = []
    for name in (ONE, AGAIN):
        law = laws(5, Sizes(latent=2, codes=4, width=3, layers=2), rows=3)[name]
        torch.manual_seed(1)
        drawn.append(law.sample())
    torch.testing.assert_close(*drawn)
    assert len(drawn[0].unique(dim=1)) == 3
