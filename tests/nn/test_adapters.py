"""Low-rank updates against the sum of two matrices, and what stays frozen."""

import pytest
import torch

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.nn.adapters import LowRankUpdate
from ppl_text.nn.backbone import Backbone

SIZES = {"layers": 2, "width": 16, "heads": 4, "positions": 8, "dropout": 0.0}


def test_it_is_a_matrix_of_low_rank():
    update = LowRankUpdate(5, 7, 2).double()
    x = torch.randn(3, 5, dtype=torch.float64)
    assert torch.equal(update(x), torch.zeros(3, 7, dtype=torch.float64)), "nothing at first"
    torch.nn.init.normal_(update.up)
    matrix = update.up @ update.down
    torch.testing.assert_close(update(x), x @ matrix.T)
    assert torch.linalg.matrix_rank(matrix) == 2
    with pytest.raises(UserError, match="1 or more; got 0"):
        LowRankUpdate(5, 7, 0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_adapted_backbone_is_one_with_other_weights(architecture):
    settings = {} if architecture == "gpt2" else {"num_key_value_heads": 2, "intermediate_size": 24}
    adapted = Backbone(architecture, 9, **SIZES, settings=settings, adapt="low-rank", adapt_rank=3).double().eval()
    plain = Backbone(architecture, 9, **SIZES, settings=settings).double().eval()
    plain.network.load_state_dict(adapted.network.state_dict())
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(adapted(x), plain(x), rtol=0, atol=0)
    updates = iter(adapted.updates)
    with torch.no_grad():
        for block in plain.blocks:
            attention = block.attn if architecture == "gpt2" else block.self_attn
            for name in ("c_attn",) if architecture == "gpt2" else ("q_proj", "v_proj"):
                update = next(updates)
                torch.nn.init.normal_(update.up)
                matrix = update.up @ update.down
                getattr(attention, name).weight += matrix.T if architecture == "gpt2" else matrix
    torch.testing.assert_close(adapted(x), plain(x), rtol=1e-9, atol=1e-9)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(name.startswith("updates.") or "wte" in name or "embed_tokens" in name for name in trained)
    assert len(trained) == 1 + sum(2 for _ in adapted.updates)


def test_a_frozen_backbone_trains_its_embedding():
    frozen = Backbone("gpt2", 9, **SIZES, adapt="frozen")
    assert [name for name, p in frozen.named_parameters() if p.requires_grad] == ["network.wte.weight"]
    assert not frozen.updates
    with pytest.raises(UnknownNameError, match="unknown adapt 'lora'"):
        Backbone("gpt2", 9, **SIZES, adapt="lora")
