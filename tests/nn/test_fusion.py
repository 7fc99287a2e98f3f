"""Low-rank fusion against its equations, written out entry by entry, and against the published sizes."""

import pytest
import torch

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.nn.fusion import FUSIONS, LowRankFusion


def random_fusion(form, rank=3, width=5, latent_dim=2):
    fusion = LowRankFusion(width, latent_dim, rank=rank, form=form, start="normal").double()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    return fusion


def terms(fusion, value, latent):
    """A_j and C_j as the equations have them, j = 1 … r, for one value (d,) and one latent (p,)."""
    one = torch.ones(1, dtype=value.dtype)
    parts = []
    for linear, x in ((fusion.of_value, value), (fusion.of_latent, latent)):
        joined = torch.cat([x, one])
        weights = linear.weight.reshape(fusion.rank, fusion.width, -1)
        biases = linear.bias.reshape(fusion.rank, fusion.width)
        parts.append([weights[j] @ joined + biases[j] for j in range(fusion.rank)])
    return parts


@pytest.mark.parametrize("form", FUSIONS)
def test_it_is_its_equation(form):
    fusion = random_fusion(form)
    value, latent = torch.randn(4, 6, 5, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    found = fusion(value, latent)
    for row in range(4):
        for step in range(6):
            v, z = value[row, step], latent[row]
            if form == "sum":
                wanted = v + fusion.of_latent.weight @ z + fusion.of_latent.bias
            else:
                of_value, of_latent = terms(fusion, v, z)
                products = (a * c for a, c in zip(of_value, of_latent, strict=True))
                wanted = sum(products) if form == "lmf" else sum(of_value) * sum(of_latent)
            torch.testing.assert_close(found[row, step], wanted)


def test_the_rank_has_no_effect_on_a_product_of_sums():
    fusion, single = random_fusion("sum_prod", rank=4), random_fusion("sum_prod", rank=1)
    with torch.no_grad():
        for many, one in zip(fusion.parameters(), single.parameters(), strict=True):
            one.copy_(many.unflatten(0, (4, 5)).sum(0))
    value, latent = torch.randn(3, 7, 5, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(fusion(value, latent), single(value, latent))


def test_a_sum_of_products_of_higher_rank_is_no_product():
    """ṽ(v, z) of rank 1 has ṽ(v, z) ṽ(v', z') = ṽ(v, z') ṽ(v', z) entry by entry; of rank 2 it has not."""
    values, latents = torch.randn(2, 1, 5, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)

    def cross(fusion):
        table = [[fusion(values[i], latents[j])[0] for j in range(2)] for i in range(2)]
        return (table[0][0] * table[1][1] - table[0][1] * table[1][0]).abs().max()

    assert cross(random_fusion("lmf", rank=1)) < 1e-9
    assert cross(random_fusion("sum_prod", rank=2)) < 1e-9
    assert cross(random_fusion("lmf", rank=2)) > 1e-3


@pytest.mark.parametrize("form", FUSIONS)
def test_it_starts_as_the_identity_and_still_learns_of_the_latent(form):
    fusion = LowRankFusion(5, 2, form=form)
    value, latent = torch.randn(4, 6, 5), torch.randn(4, 2)
    fused = fusion(value, latent)
    assert torch.equal(fused, value)
    fused.square().sum().backward()
    assert fusion.of_latent.weight.grad.abs().max() > 0


def test_the_published_size():
    """2,469,888 parameters a layer at d = 768, p = 32, r = 4: the share of 193,353,984 that specification 2A finds."""
    with torch.device("meta"):
        for form in ("lmf", "sum_prod"):
            assert sum(p.numel() for p in LowRankFusion(768, 32, form=form).parameters()) == 2_469_888


def test_what_it_cannot_be():
    with pytest.raises(UnknownNameError, match="lmf, sum, sum_prod"):
        LowRankFusion(4, 2, form="product")
    with pytest.raises(UnknownNameError, match="identity, normal"):
        LowRankFusion(4, 2, start="zero")
    with pytest.raises(UserError, match="1 or more; got 4, 0, 1"):
        LowRankFusion(4, 0, rank=1)
