"""Texts in two dimensions: distances are those of their vectors, and padding is no step."""

import types

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_text.core.batch import Batch
from ppl_text.core.latents import LatentSpec
from ppl_text.evaluation.planar import comparable_latents, planar_texts, text_vectors
from ppl_text.evaluation.sentences import CommonSentences

Z, Z2 = (LatentSpec(name, ("D",), {"D": 3}) for name in ("z", "z2"))
PATH = LatentSpec("h", ("T", "D"), {"D": 2})
CODE = LatentSpec("c", (), {}, support="integer_interval")
WEIGHTS = LatentSpec("a", ("T", "S"), {})
OTHER_WAY = LatentSpec("g", ("D", "T"), {"D": 2})

COMPARABLE = {
    "of the text": ((Z,), (Z,)),
    "two of the text": ((Z, Z2), (Z, Z2)),
    "of the text, not of its steps": ((Z, PATH), (Z,)),
    "of steps alone": ((PATH,), (PATH,)),
    "a code": ((CODE,), ()),
    "a code beside": ((CODE, Z), ()),
    "attention weights": ((WEIGHTS,), ()),
    "nothing": ((), ()),
}


@pytest.mark.parametrize(("latents", "expected"), COMPARABLE.values(), ids=COMPARABLE)
def test_what_texts_are_compared_by(latents, expected):
    assert tuple(comparable_latents(types.SimpleNamespace(latents=latents))) == expected


def batch_of(lengths):
    tokens = torch.ones(len(lengths), max(lengths), dtype=torch.long)
    lengths = torch.tensor(lengths)
    return Batch(tokens, lengths, torch.ones(len(lengths)), tokens)


def known(means):
    """Model and guide whose posterior has these means (B, 3)."""
    guide = types.SimpleNamespace(posterior=lambda batch: dist.Normal(means, 1.0))
    return types.SimpleNamespace(latents=(Z,)), guide


def test_distances_in_the_plane_are_those_of_means_that_lie_in_a_plane():
    plane = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 3, dtype=torch.float64) + 5.0
    found = planar_texts(*known(plane), CommonSentences((batch_of([1] * 6),), tuple("abcdef")))
    places = torch.tensor([found.x, found.y], dtype=torch.float64).T
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(plane, plane))
    assert found.texts == tuple("abcdef")
    assert torch.tensor(found.x).var() >= torch.tensor(found.y).var()
    shares = [float(axis.split("(")[1].split("%")[0]) for axis in found.axes]
    variances = places.var(0)
    assert shares == pytest.approx((100 * variances / variances.sum()).tolist(), abs=0.51)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_axis_points_the_same_way_however_it_was_found(sign):
    means = torch.tensor([[1.0, 0.1, 0.0], [3.0, 0.2, 0.0], [7.0, 0.1, 0.0]]) * torch.tensor([sign, 1.0, 1.0])
    found = planar_texts(*known(means), CommonSentences((batch_of([1, 1, 1]),), ("a", "b", "c")))
    assert list(found.x) == sorted(found.x, reverse=sign < 0)


@pytest.mark.parametrize("means", [torch.ones(3, 3), torch.zeros(1, 3)], ids=["all alike", "one text"])
def test_texts_that_are_alike_lie_on_one_place(means):
    found = planar_texts(*known(means), CommonSentences((batch_of([1] * len(means)),), ("t",) * len(means)))
    assert found.x == found.y == (0.0,) * len(means)
    assert found.axes == ("axis 1 (0% of the variance)", "axis 2 (0% of the variance)")


@pytest.mark.parametrize("spec", [PATH, OTHER_WAY], ids=["steps first", "steps last"])
def test_a_path_is_averaged_over_a_text_s_own_steps(spec):
    value = torch.arange(12.0).reshape(2, 3, 2)
    value[1, 1:] = 1e6  # padding
    drawn = value if spec is PATH else value.swapaxes(1, 2)

    def guide(batch):
        with pyro.plate("sentences", 2, dim=-1):
            pyro.sample(spec.name, dist.Delta(drawn).to_event(2))

    model = types.SimpleNamespace(latents=(spec,))
    found = text_vectors(model, guide, batch_of([3, 1]))
    torch.testing.assert_close(found, torch.stack([value[0].mean(0), value[1, 0]]))


def test_nothing_is_placed_where_texts_have_no_vector():
    model = types.SimpleNamespace(latents=(CODE,))
    assert planar_texts(model, None, CommonSentences((), ())) is None
