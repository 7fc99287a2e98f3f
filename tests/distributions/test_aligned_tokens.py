"""Tokens of summed alignments: against the plain formula, enumeration of all alignments, and in bounded memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_text.comparing.costs import peak_bytes
from ppl_text.distributions import aligned_tokens
from ppl_text.distributions.aligned_tokens import AlignedEmissions, AlignedTokens
from ppl_text.distributions.log_weights import log_shares
from ppl_text.distributions.tokens import HELD_AT_ONCE, TokenSequence

STEPS, POSITIONS, WIDTH, SIZE, FIRST = 4, 3, 5, 7, 2
LENGTHS = torch.tensor([4, 2])
COUNTED = torch.tensor([[True, True, True], [True, False, True]])
TOKENS = torch.tensor([[5, 3, 8, 2], [4, 2, 0, 0]])


def parts(particles: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """States, memory, log-weights and head, all with gradients."""
    torch.manual_seed(0)
    scores = torch.randn(*particles, 2, STEPS, POSITIONS, dtype=dtype)
    found = {
        "states": torch.randn(*particles, 2, STEPS, WIDTH, dtype=dtype),
        "memory": 2.0 * torch.randn(2, POSITIONS, WIDTH, dtype=dtype),
        "log_weights": log_shares(scores, COUNTED.unsqueeze(-2)),
        "weight": torch.randn(SIZE, WIDTH, dtype=dtype),
        "bias": torch.randn(SIZE, dtype=dtype),
    }
    return {name: x.requires_grad_() for name, x in found.items()}


def make(given: dict[str, Tensor], **others: Any) -> AlignedTokens:
    return AlignedTokens(**{**given, "counted": COUNTED, "lengths": LENGTHS, **others})


def by_pairs(given: dict[str, Tensor]) -> Tensor:
    """ln p(w | s, t), (…, B, T, S, O), from the logits of all pairs."""
    outputs = given["states"].unsqueeze(-2) + given["memory"].unsqueeze(-3)
    return F.linear(outputs, given["weight"], given["bias"]).log_softmax(-1)


def plainly(given: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The mixture's ln p of each token, (…, B, T), 0 behind the lengths."""
    pairs = by_pairs(given)
    index = (tokens - FIRST).clamp(min=0)[..., None, None].expand(*pairs.shape[:-1], 1)
    joint = given["log_weights"] + pairs.gather(-1, index).squeeze(-1)
    steps = joint.masked_fill(~COUNTED.unsqueeze(-2), -torch.inf).logsumexp(-1)
    return torch.where(torch.arange(STEPS) < LENGTHS[:, None], steps, 0.0)


FEW = {"KEPT_FOR_GRADIENT": SIZE, "HELD_AT_ONCE": 5 * SIZE}
WAYS = {"at once": {}, "two steps at a time": FEW, "text by text": {**FEW, "HELD_AT_ONCE": 20 * SIZE}}


@pytest.mark.parametrize("limits", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("particles", [(), (3,)])
def test_density_and_gradients_are_those_of_the_plain_formula(
    limits: dict[str, int], particles: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(aligned_tokens, name, value)
    given = parts(particles)
    found, expected = make(given).log_prob(TOKENS), plainly(given, TOKENS).sum(-1)
    torch.testing.assert_close(found, expected)
    factors = torch.linspace(-1.0, 2.0, found.numel(), dtype=torch.float64).view(found.shape)
    gradients = [torch.autograd.grad((total * factors).sum(), list(given.values())) for total in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(make(given).log_prob(TOKENS), expected)


def test_density_and_posterior_are_those_of_all_alignments() -> None:
    given = {name: x.detach() for name, x in parts().items()}
    pairs, law = by_pairs(given), make(given)
    found = law.alignments(TOKENS)
    for row, length in enumerate(LENGTHS.tolist()):
        positions = COUNTED[row].nonzero().flatten().tolist()
        total, chosen = torch.tensor(0.0).double(), torch.zeros(STEPS, POSITIONS, dtype=torch.float64)
        for alignment in itertools.product(positions, repeat=length):
            terms = [
                given["log_weights"][row, t, s] + pairs[row, t, s, TOKENS[row, t] - FIRST]
                for t, s in enumerate(alignment)
            ]
            probability = torch.stack(terms).sum().exp()
            total = total + probability
            for t, s in enumerate(alignment):
                chosen[t, s] += probability
        torch.testing.assert_close(law.log_prob(TOKENS)[row], total.log())
        torch.testing.assert_close(found[row], chosen / total)


def test_logits_are_normalised_and_those_of_the_density_and_of_one_step() -> None:
    given = parts((3,))
    law = make(given)
    torch.testing.assert_close(law.logits.logsumexp(-1), torch.zeros(3, 2, STEPS, dtype=torch.float64))
    sequence = TokenSequence(law.logits, LENGTHS)
    torch.testing.assert_close(law.log_prob(TOKENS), sequence.log_prob(TOKENS))
    assert torch.equal(law.mode, sequence.mode)
    torch.manual_seed(1)
    drawn = law.sample(torch.Size((4,)))
    torch.manual_seed(1)
    assert torch.equal(drawn, sequence.sample(torch.Size((4,))))
    emissions = AlignedEmissions(given["memory"], COUNTED, given["weight"], given["bias"])
    for t in range(STEPS):
        step = emissions.step(given["states"][1, :, t], given["log_weights"][1, :, t])
        torch.testing.assert_close(step, law.logits[1, :, t])


def test_padding_of_text_and_source_changes_nothing_whatever_it_holds() -> None:
    given = parts()
    law, cells = make(given), torch.arange(STEPS) < LENGTHS[:, None]
    soiled = {
        **given,
        "states": torch.where(cells.unsqueeze(-1), given["states"], torch.nan),
        "memory": torch.where(COUNTED.unsqueeze(-1), given["memory"], torch.nan),
        "log_weights": torch.where(cells.unsqueeze(-1) & COUNTED.unsqueeze(-2), given["log_weights"], torch.nan),
    }
    wide = {name: F.pad(soiled[name], (0, 0, 0, 2), value=1e30) for name in ("states", "memory")}
    wide["log_weights"] = F.pad(soiled["log_weights"], (0, 2, 0, 2), value=9.0)
    wider = make({**soiled, **wide}, counted=F.pad(COUNTED, (0, 2)))
    tokens = F.pad(TOKENS, (0, 2), value=6)
    found = wider.log_prob(tokens)
    torch.testing.assert_close(found, law.log_prob(TOKENS))
    torch.testing.assert_close(wider.alignments(tokens)[:, :STEPS, :POSITIONS], law.alignments(TOKENS))
    gradients = zip(
        torch.autograd.grad(found.sum(), list(given.values())),
        torch.autograd.grad(law.log_prob(TOKENS).sum(), list(given.values())),
        strict=True,
    )
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs)


def test_a_source_without_positions_spoils_no_gradient() -> None:
    given = parts(dtype=torch.float32)
    found = make(given, counted=COUNTED & torch.tensor([[True], [False]])).log_prob(TOKENS)
    assert found[1] < -1e30
    gradients = torch.autograd.grad((found * torch.tensor([1.0, 0.0])).sum(), list(given.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 2)])
def test_memory_and_states_with_leading_axes_equal_the_loop(shape: tuple[int, ...]) -> None:
    given = {name: x.detach() for name, x in parts((3,)).items()}
    given["memory"] = given["memory"].expand(*shape, -1, -1) + torch.arange(shape[0]).view(-1, *[1] * len(shape), 1)
    found = make(given)
    assert (found.batch_shape, found.event_shape) == ((3, 2), (STEPS,))
    for k in range(3):
        alone = {**given, **{name: given[name][k] for name in ("states", "log_weights")}}
        if len(shape) == 2:
            alone["memory"] = given["memory"][k % shape[0]]
        torch.testing.assert_close(found.log_prob(TOKENS)[k], make(alone).log_prob(TOKENS))
        torch.testing.assert_close(found.logits[k], make(alone).logits)
    values = torch.stack([TOKENS, TOKENS.clamp(max=4)])
    each = torch.stack([make({**given, "memory": given["memory"]}).log_prob(v) for v in values])
    torch.testing.assert_close(found.log_prob(values.unsqueeze(1)), each)
    assert found.expand(torch.Size((4, 3, 2))).log_prob(TOKENS).shape == (4, 3, 2)


def test_steps_and_positions_that_disagree_get_too_little_and_never_too_much() -> None:
    """One-hot logits of 1 to 400 nats, on different tokens for u and v: the norm of float32 ends at about 64."""
    heights = torch.tensor([1.0, 30.0, 60.0, 90.0, 400.0])
    states = heights.view(-1, 1, 1) * torch.eye(SIZE)[0]
    memory = heights.view(-1, 1, 1) * torch.eye(SIZE)[1]
    tokens = torch.tensor([[FIRST + 2]]).expand(len(heights), 1)
    given = {
        "states": states.requires_grad_(),
        "memory": memory.requires_grad_(),
        "log_weights": torch.zeros(len(heights), 1, 1),
        "weight": torch.eye(SIZE),
        "bias": None,
    }
    ones = torch.ones(len(heights), 1, dtype=torch.bool)
    found = AlignedTokens(**given, counted=ones, lengths=torch.ones(len(heights), dtype=torch.int64)).log_prob(tokens)
    exact = (states + memory).double().log_softmax(-1)[:, 0, 2]
    torch.testing.assert_close(found[:3].double(), exact[:3], rtol=1e-6, atol=1e-5)
    assert (found.double() <= exact + 1e-5 * exact.abs()).all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found.sum(), [states, memory]))


def test_autocast_changes_the_products_with_the_head_and_nothing_after_them() -> None:
    given = {name: x.detach() for name, x in parts(dtype=torch.float32).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make(given).log_prob(TOKENS)
        steps = F.linear(given["states"], given["weight"], given["bias"])
        positions = F.linear(given["memory"], given["weight"])
    assert steps.dtype is torch.bfloat16
    assert found.dtype is torch.float32
    pairs = (steps.float().unsqueeze(-2) + positions.float().unsqueeze(-3)).log_softmax(-1)
    mixture = (given["log_weights"].unsqueeze(-1) + pairs).masked_fill(~COUNTED[:, None, :, None], -torch.inf)
    torch.testing.assert_close(found, TokenSequence(mixture.logsumexp(-2), LENGTHS).log_prob(TOKENS))


def test_particles_meet_a_memory_that_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given, seen = parts((500,)), []
    score = aligned_tokens._scores
    monkeypatch.setattr(aligned_tokens, "_scores", lambda u, v, *rest: seen.append(v.shape) or score(u, v, *rest))
    assert make(given).log_prob(TOKENS).shape == (500, 2)
    assert seen == [(2, POSITIONS, WIDTH)]


def test_hundreds_of_particles_need_the_memory_of_few_logits() -> None:
    """K = 300 texts of 4 tokens and 3 positions, V = 10,000: logits of all steps were 96 MB, of all pairs 288."""
    given = parts((300,), torch.float32)
    torch.manual_seed(1)
    given |= {"weight": torch.randn(10_000, WIDTH), "bias": torch.zeros(10_000)}
    law = make(given)

    def work() -> None:
        with torch.no_grad():
            law.log_prob(TOKENS)

    assert peak_bytes(work) < 4 * 4 * HELD_AT_ONCE
