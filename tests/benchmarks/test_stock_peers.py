"""Peers in stock Pyro compute what the hand-written loops do: loss and gradients on the same draws, padded or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import contestants, encoder_decoder, language_model, latent_sequences, layerwise_transformer
from benchmarks.contestants import OURS, STOCK
from benchmarks.peers import Words
from benchmarks.peers.encoder_decoder import Pairs

WORDS = Words(
    np.array([[3, 4, 5, 9, 2, 0], [7, 2, 0, 0, 0, 0], [9, 11, 8, 4, 4, 2]], dtype=np.int64),
    np.array([5, 2, 6], dtype=np.int64),
)
PAIRS = Pairs(
    Words(np.array([[5, 6, 2, 0], [8, 2, 0, 0], [3, 10, 7, 2]], dtype=np.int64), np.array([3, 2, 4], dtype=np.int64)),
    WORDS,
)
LATENT, PAIR = latent_sequences.SIZES["try"], encoder_decoder.SIZES["try"]
LOOP = "PyTorch loop"


class Case(NamedTuple):
    """The table of a race, its sizes, a batch, and the noise that the loop is given: what stock Pyro draws."""

    table: dict[str, str]
    sizes: Any
    words: Any
    noise: Callable[[], Any] | None = None
    loop: str = LOOP


def by_step(width: int) -> Tensor:
    """(B, T, width): drawn as a site per step draws it."""
    rows, steps = WORDS.tokens.shape
    return torch.stack([torch.normal(torch.zeros(rows, width), torch.ones(rows, width)) for _ in range(steps)], 1)


def of_pairs() -> tuple[Tensor, Tensor]:
    rows = len(WORDS.tokens)
    z = torch.normal(torch.zeros(rows, PAIR.latent), torch.ones(rows, PAIR.latent))
    return z, by_step(2 * PAIR.encoder)


CASES = {
    "language model": Case(contestants.LANGUAGE_CONTESTANTS, language_model.SIZES["try"], WORDS),
    "switching": Case(contestants.LATENT_CONTESTANTS["codes-contextual"], LATENT, WORDS),
    "vae-attn": Case(contestants.LATENT_CONTESTANTS["vae-attn"], LATENT, WORDS, lambda: by_step(LATENT.latent)),
    "gavam": Case(contestants.LATENT_CONTESTANTS["gavam"], LATENT, WORDS, lambda: by_step(LATENT.latent)),
    "davam-prior": Case(contestants.LATENT_CONTESTANTS["davam-prior"], LATENT, WORDS),
    "ded-attn": Case(contestants.PAIR_CONTESTANTS["ded-attn"], PAIR, PAIRS),
    "vattn-h": Case(contestants.PAIR_CONTESTANTS["vattn-h"], PAIR, PAIRS, of_pairs),
    "plain GPT-2": Case(
        contestants.LAYERED_CONTESTANTS["none"], layerwise_transformer.SIZES["try"], WORDS, loop="plain GPT-2"
    ),
}
each = pytest.mark.parametrize("name", CASES)


def built(case: Case, who: str, *, quiet: bool = True) -> Any:
    """A contestant in training, at parameters large enough that a mistake shows; quiet: without dropout."""
    contestant = contestants.build(who, 0, "cpu", case.table, case.sizes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in contestant.networks.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    if quiet:
        for part in contestant.networks.modules():
            if isinstance(part, nn.Dropout) or hasattr(part, "attn_dropout"):
                part.eval()
    return contestant


def loss_of(contestant: Any, case: Case, noise: Any) -> Tensor:
    batch = contestant.prepare(case.words)
    if not hasattr(contestant, "losses") or hasattr(contestant, "svi"):
        return contestant.loss(batch)
    losses = contestant.losses(batch) if noise is None else contestant.losses(batch, noise)
    return losses.mean()


def gradients(contestant: Any, loss: Tensor) -> dict[str, Tensor]:
    named = {name: value for name, value in contestant.networks.named_parameters() if value.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: value for name, value in zip(named, found, strict=True) if value is not None}


@each
def test_loss_and_gradients_are_those_of_the_loop_on_the_same_draws(name: str) -> None:
    case = CASES[name]
    theirs, stock = built(case, case.loop), built(case, STOCK)
    torch.manual_seed(3)
    found = loss_of(stock, case, None)
    torch.manual_seed(3)
    expected = loss_of(theirs, case, None if case.noise is None else case.noise())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() > 1.0
    ours, wanted = gradients(stock, found), gradients(theirs, expected)
    assert ours.keys() == wanted.keys()
    for key, value in wanted.items():
        atol = 1e-5 * (1.0 + float(value.abs().max()))
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=atol, msg=lambda m, k=key: f"{k}: {m}")


@each
def test_a_step_moves_what_is_trained(name: str) -> None:
    """What is timed: ``SVI.step`` with dropout; it returns the loss that was compared, and moves all that has one."""
    case = CASES[name]
    stock = built(case, STOCK, quiet=False)
    before = {key: value.detach().clone() for key, value in stock.networks.named_parameters()}
    torch.manual_seed(3)
    expected = loss_of(stock, case, None).item()
    torch.manual_seed(3)
    assert stock.step(stock.prepare(case.words)) == pytest.approx(expected, rel=1e-5)
    moved = {key for key, value in stock.networks.named_parameters() if not torch.equal(value, before[key])}
    loop = built(case, case.loop)
    assert moved == set(gradients(loop, loss_of(loop, case, None if case.noise is None else case.noise())))


@pytest.mark.parametrize(("name", "module"), [("language model", language_model), ("switching", latent_sequences)])
def test_ours_is_the_loop_of_families_without_other_parity_tests(name: str, module: Any) -> None:
    case = CASES[name]
    theirs, ours = built(case, LOOP), contestants.build(OURS, 0, "cpu", case.table, case.sizes)
    ours.model.load_state_dict(theirs.networks.state_dict())
    ours.model.eval()
    expected, found = loss_of(theirs, case, None), loss_of(ours, case, None)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    longer = case._replace(words=Words(np.pad(WORDS.tokens, ((0, 0), (0, 3))), WORDS.lengths))
    assert loss_of(theirs, longer, None).item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = gradients(theirs, expected)
    named = dict(ours.model.named_parameters())
    for key, value in zip(named, torch.autograd.grad(found, list(named.values())), strict=True):
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
