"""The race of Transformers is fair only if nothing latent is the stock model: values, gradients, padding, update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import contestants, race
from benchmarks.layerwise_transformer import PARTICLES, SIZES, Ours, build_checkpointed, build_particles, build_passes
from benchmarks.peers import IGNORED, Words
from benchmarks.peers.gpt2 import PlainGPT2, build_bf16, texts
from ppl_text.core.vocabulary import OWN_IDS, ReservedIds
from ppl_text.models.layerwise_transformer import LayerwiseTransformer

SMALL = SIZES["try"]
WORDS = Words(
    np.array([[3, 4, 5, 9, 2, 0], [7, 2, 0, 0, 0, 0], [9, 11, 8, 4, 4, 2], [6, 3, 10, 2, 0, 0]], dtype=np.int64),
    np.array([5, 2, 6, 4], dtype=np.int64),
)
"""As many rows as have an inverse in float32, the dtype of a batch's weights."""
ALL_OUTCOMES = ReservedIds(first_outcome=0)
"""Padding and BOS are outcomes, as they are of the stock model."""


def parameters(seed: int = 1) -> Mapping[str, Tensor]:
    """Parameters large enough that a mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    named = PlainGPT2(0, "cpu", SMALL).networks.get_submodule("transformer").state_dict()
    return {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in named.items()}


def loaded(make: Callable[..., Any], *arguments: Any, quiet: bool = True, **named: Any) -> Any:
    """A contestant in training; quiet: without dropout."""
    contestant = make(*arguments, 0, "cpu", SMALL, **named)
    contestant.load(parameters())
    for part in networks(contestant).modules() if quiet else ():
        if isinstance(part, nn.Dropout):
            part.eval()
        if hasattr(part, "attn_dropout"):
            part.attn_dropout.p = 0.0
            part.training = False
    return contestant


def networks(contestant: Any) -> nn.Module:
    return contestant.modules if isinstance(contestant, Ours) else contestant.networks


def flat_gradients(contestant: Any, loss: Tensor) -> Mapping[str, Tensor]:
    """Gradients of the blocks and the embedding, by the stock names."""
    ours = isinstance(contestant, Ours)
    stack = contestant.model.backbone.network if ours else contestant.networks.get_submodule("transformer")
    named = dict(stack.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def over_outcomes(peer: PlainGPT2, words: Words, first: int) -> Tensor:
    """The stock model's loss by its own logits, of which ``first`` are left out of the softmax; nats per text."""
    batch = peer.prepare(words)
    logits = peer.networks(batch.inputs).logits[..., first:]
    outcomes = torch.where(batch.labels == IGNORED, IGNORED, batch.labels - first)
    return F.cross_entropy(logits.flatten(0, 1), outcomes.flatten(), reduction="sum") / len(outcomes)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float, atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(float(value.abs().max()) for value in expected.values()) > 0.01


def padded(words: Words) -> Words:
    return Words(np.pad(words.tokens, ((0, 0), (0, 3))), words.lengths)


@pytest.mark.parametrize("ids", [OWN_IDS, ALL_OUTCOMES], ids=["as trained", "all ids"])
@pytest.mark.parametrize("change", [lambda words: words, padded], ids=["", "padded"])
def test_nothing_latent_computes_the_stock_models_loss_and_gradients(
    ids: ReservedIds, change: Callable[[Words], Words]
) -> None:
    """In float64: padding and BOS left out of the softmax of both, and, with all ids outcomes, as both stand."""
    ours, theirs = loaded(Ours, "none", ids=ids), loaded(PlainGPT2)
    networks(ours).double()
    networks(theirs).double()
    expected = over_outcomes(theirs, WORDS, ids.first_outcome)
    batch = ours.prepare(change(WORDS))
    found = ours.loss(batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same(flat_gradients(ours, found), flat_gradients(theirs, expected), rtol=1e-9, atol=1e-11)


def test_the_stock_loss_that_is_timed_is_that_of_its_own_logits() -> None:
    """A mean over texts, all V ids in the softmax, padding without effect; float32, as the library computes it."""
    peer = loaded(PlainGPT2)
    expected = over_outcomes(peer, WORDS, 0).item()
    assert peer.loss(peer.prepare(WORDS)).item() == pytest.approx(expected, rel=1e-5)
    assert peer.loss(peer.prepare(padded(WORDS))).item() == pytest.approx(expected, rel=1e-5)


def test_two_ids_of_the_softmax_are_all_that_differs_in_a_timed_step() -> None:
    """One step from one seed, dropout, clipping and AdamW included, where the outcomes are the same."""
    ours, theirs = loaded(Ours, "none", ids=ALL_OUTCOMES, quiet=False), loaded(PlainGPT2, quiet=False)
    losses = []
    for contestant in (ours, theirs):
        torch.manual_seed(3)
        losses.append(contestant.step(contestant.prepare(WORDS)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[1] != pytest.approx(over_outcomes(loaded(PlainGPT2), WORDS, 0).item(), rel=1e-5)
    before, after = parameters(), theirs.networks.get_submodule("transformer").state_dict()
    for name, value in ours.model.backbone.network.state_dict().items():
        # The first step of Adam goes by the sign: where a gradient is as good as 0 the signs may differ.
        apart = (value - after[name]).abs() > 1e-6
        if name.endswith("c_attn.bias"):
            query, _, own = apart.chunk(3)  # what is added to all keys alike has no gradient
            apart = torch.cat([query, own])
        assert apart.double().mean() < 0.02, name
    assert (after["wte.weight"] - before["wte.weight"]).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["value", "memory"])
def test_padding_has_no_effect_on_ours(kind: str) -> None:
    ours, losses = loaded(Ours, kind), []
    for words in (WORDS, padded(WORDS)):
        torch.manual_seed(3)
        losses.append(ours.loss(ours.prepare(words)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_particles_share_one_reading_and_passes_have_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    read, real = [], LayerwiseTransformer.read

    def counting(model: LayerwiseTransformer, *arguments: Any) -> Any:
        read.append(1)
        return real(model, *arguments)

    monkeypatch.setattr(LayerwiseTransformer, "read", counting)
    for make, times in ((build_particles, 1), (build_passes, PARTICLES)):
        contestant = loaded(make)
        read.clear()
        contestant.step(contestant.prepare(WORDS))
        assert len(read) == times


def test_checkpointing_computes_the_same() -> None:
    """The timed gradients: what is kept differs, nothing else."""
    found = []
    for make in (Ours, build_checkpointed):
        contestant = loaded(make, "value")
        torch.manual_seed(3)
        found.append(flat_gradients(contestant, contestant.loss(contestant.prepare(WORDS))))
    assert_same(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_bf16_of_the_stock_model_is_near_its_float32() -> None:
    full, low = (loaded(make) for make in (PlainGPT2, build_bf16))
    batch = full.prepare(WORDS)
    # Eight bits of each product, a few dozen of them in a row.
    assert low.loss(batch).item() == pytest.approx(full.loss(batch).item(), rel=0.05)
    assert low.loss(batch).item() != full.loss(batch).item()


def test_a_race_runs_all_in_every_round() -> None:
    kind, names = "value", [contestants.OURS, "ours, checkpointing", "plain GPT-2"]
    table = contestants.LAYERED_CONTESTANTS[kind]
    raced = race.run(names, rounds=2, steps=1, warmup=1, table=table, words=texts(0, SMALL), sizes=[SMALL])
    rows = {row.name: row for row in race.standings(raced.seconds)}
    assert rows.keys() == raced.peaks.keys() == set(names)
    assert rows[contestants.OURS].ratio == 1.0
