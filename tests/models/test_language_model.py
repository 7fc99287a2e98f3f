"""The recurrent language model against enumeration, plain loops over cells, and its own samples."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import pytest
import torch
from pyro import poutine
from scipy.stats import chisquare
from torch import Tensor, nn

from guides.language_model import ExactGuide
from ppl_text.comparing.costs import peak_bytes
from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.protocols import Model
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID, Vocabulary
from ppl_text.data.batches import collate
from ppl_text.evaluation.decoding import Sample, search
from ppl_text.models import MODELS
from ppl_text.models.language_model import LanguageModel
from ppl_text.objectives import build

VOCABULARY = 6
LETTERS = [3, 4, 5]
WORDS = [[3, 4, 5], [], [5], [4, 4]]
SINGLE = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}
every_cell = pytest.mark.parametrize("cell", SINGLE)


def model_of(cell: str, scale: float = 0.6) -> LanguageModel:
    """A small model with weights of order one, in float64."""
    torch.manual_seed(0)
    model = LanguageModel(Vocabulary(VOCABULARY), hidden_dim=4, embedding_dim=3, cell=cell)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale)
    return model.double()


def batch_of(ids: list[list[int]], steps: int, weights: list[float] | None = None) -> Batch:
    return collate(ids, torch.tensor(weights or [1.0] * len(ids), dtype=torch.float64), steps, len(ids))


def log_p(model: LanguageModel, batch: Batch) -> Tensor:
    """ln p(w) of the Pyro program, (B,)."""
    trace = poutine.trace(model).get_trace(batch)
    trace.compute_log_prob()
    assert {n for n, s in trace.nodes.items() if s["type"] == "sample"} == {"sentences", "tokens"}
    value: Tensor = trace.nodes["tokens"]["log_prob"]
    return value


def prefixes(length: int) -> Batch:
    """All strings of ``length`` letters that have not ended."""
    tokens = torch.tensor(list(itertools.product(LETTERS, repeat=length)))
    inputs = torch.cat([torch.full((len(tokens), 1), BOS_ID), tokens[:, :-1]], dim=1)
    return Batch(tokens, torch.full((len(tokens),), length), torch.ones(len(tokens)), inputs)


def finished(length: int) -> list[list[int]]:
    """All words of fewer than ``length`` letters."""
    return [list(word) for n in range(length) for word in itertools.product(LETTERS, repeat=n)]


@every_cell
def test_words_up_to_a_length_and_what_goes_on_beyond_it_have_probability_one(cell: str) -> None:
    model = model_of(cell)
    with torch.no_grad():
        ended = log_p(model, batch_of(finished(5), 5)).exp().sum()
        going_on = log_p(model, prefixes(5)).exp().sum()
    assert float(ended + going_on) == pytest.approx(1.0, abs=1e-12)
    assert 0.2 < float(ended) < 0.999


def by_hand(model: LanguageModel, word: list[int], single: nn.Module) -> Tensor:
    """ln p(w EOS) letter by letter, with a cell that makes one step."""
    memory, total, previous = None, torch.zeros((), dtype=torch.float64), BOS_ID
    for token in [*word, EOS_ID]:
        memory = single(model.embedding.weight[previous].unsqueeze(0), memory)
        state = memory[0] if isinstance(memory, tuple) else memory
        scores = model.head.weight @ state[0] + model.head.bias
        total = total + scores[token - EOS_ID] - scores.exp().sum().log()
        previous = token
    return total


@every_cell
def test_likelihood_and_gradient_equal_a_loop_over_a_single_cell(cell: str) -> None:
    model, twin = model_of(cell), model_of(cell)
    single = SINGLE[cell](3, 4, dtype=torch.float64)
    for name, parameter in twin.cell.named_parameters():
        setattr(single, name.removesuffix("_l0"), parameter)
    found = log_p(model, batch_of(WORDS, 5))
    expected = torch.stack([by_hand(twin, word, single) for word in WORDS])
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(log_p(model, batch_of(WORDS, 5)), expected)
    factors = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    (found @ factors).backward()
    (expected @ factors).backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
        # No gradient reaches an embedding that is never fed back.
        assert ours.grad.abs().max() > 0


@every_cell
def test_padding_changes_neither_values_nor_gradients(cell: str) -> None:
    model = model_of(cell)
    wide, narrow = log_p(model, batch_of(WORDS, 9)), log_p(model, batch_of(WORDS, 4))
    torch.testing.assert_close(wide, narrow)
    pairs = (torch.autograd.grad(value.sum(), list(model.parameters())) for value in (wide, narrow))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b)


@every_cell
def test_every_letter_depends_on_all_letters_before_it_and_on_none_after(cell: str) -> None:
    model = model_of(cell)
    with torch.no_grad():
        first, second = (model.states(torch.tensor([[BOS_ID, *rest]])) for rest in ([3, 4, 5], [5, 4, 5]))
        later = model.states(torch.tensor([[BOS_ID, 3, 4, 4]]))
    assert ((first - second).abs().amax(-1) > 1e-3).tolist() == [[False, True, True, True]]
    torch.testing.assert_close(first[:, :3], later[:, :3], rtol=0, atol=0)


EXACT = [
    *("elbo", "elbo:3", "elbo-analytic", "elbo-analytic:2", "stl", "stl:2", "iwae:4", "iwae:5/2", "renyi:0.5:3"),
    *("renyi:-1:2", "vr-max:3", "dreg:2", "dreg:5/2", "free-bits:1", "free-bits:1:batch:2", "free-bits:1:dimension"),
]
STOCK = ["pyro:Trace_ELBO", "pyro:Trace_ELBO:2", "pyro:RenyiELBO:2", "pyro:TraceMeanField_ELBO", "pyro:TraceGraph_ELBO"]


@pytest.mark.parametrize("spec", [*EXACT, *STOCK])
@every_cell
def test_every_bound_is_the_log_likelihood_with_its_gradient(cell: str, spec: str) -> None:
    model = model_of(cell)
    batch = batch_of(WORDS, 5, [1.0] * 4 if spec in STOCK else [2.0, 0.5, 0.0, 1.0])
    exact = log_p(model, batch)
    target = -(batch.weights * exact).sum() / batch.weights.sum()
    estimate = build(spec)(model, ExactGuide(model), batch, *([] if spec in STOCK else [torch.tensor(0.3)]))
    torch.testing.assert_close(estimate.bound, exact.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(estimate.log_likelihood, exact.detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(estimate.kl, torch.zeros(4, dtype=estimate.kl.dtype))
    torch.testing.assert_close(estimate.loss, target)
    torch.testing.assert_close(torch.ones(4).double() if estimate.ess is None else estimate.ess, torch.ones(4).double())
    for a, b in zip(*(torch.autograd.grad(v, list(model.parameters())) for v in (estimate.loss, target)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("spec", ["stepwise:3", "fivo:3"])
def test_step_by_step_objectives_say_what_is_missing(spec: str) -> None:
    model = model_of("gru")
    with pytest.raises(UserError, match=r"the model LanguageModel lacks smc_init\(\); .* lacks smc_step\(\)"):
        build(spec)(model, ExactGuide(model), batch_of(WORDS, 5))


def generate(model: LanguageModel, n: int, steps: int) -> Tensor:
    """Texts by ancestral sampling."""
    return search(Sample(), model.decoder(model.draw(n, steps)), n, steps)


def probabilities(model: LanguageModel, steps: int) -> dict[tuple[int, ...], float]:
    """p of everything that ``generate`` can return in so many steps, by its ids without padding."""
    ends = finished(steps)
    cut = prefixes(steps)
    with torch.no_grad():
        of_ends, of_cut = log_p(model, batch_of(ends, steps)).exp(), log_p(model, cut).exp()
    found = {(*word, EOS_ID): float(p) for word, p in zip(ends, of_ends, strict=True)}
    return found | {tuple(row): float(p) for row, p in zip(cut.tokens.tolist(), of_cut, strict=True)}


@every_cell
def test_generated_words_are_as_frequent_as_they_are_probable(cell: str) -> None:
    model, n = model_of(cell), 20_000
    expected = probabilities(model, 3)
    torch.manual_seed(1)
    drawn = Counter(tuple(i for i in row if i != PAD_ID) for row in generate(model, n, 3).tolist())
    assert drawn.keys() <= expected.keys()
    assert min(expected.values()) * n > 5
    test = chisquare([drawn[word] for word in expected], [n * p for p in expected.values()])
    assert test.pvalue > 6e-7  # that of five sigmas


@every_cell
def test_generated_rows_end_at_their_first_end(cell: str) -> None:
    torch.manual_seed(0)
    rows = generate(model_of(cell), 300, 4)
    assert rows.shape == (300, 4)
    for row in rows.tolist():
        letters = list(itertools.takewhile(lambda i: i in LETTERS, row))
        rest = row[len(letters) :]
        assert rest in ([], [EOS_ID, *[PAD_ID] * (len(rest) - 1)])
    assert 0 < int((rows != EOS_ID).all(1).sum()) < 300


@every_cell
def test_an_overfitted_model_reaches_the_entropy_of_its_list(cell: str) -> None:
    """Three words of probabilities 1/2, 0.3 and 0.2, two of them alike up to their ends.

    In float64: near the optimum the steps of Adam go by the rounding of the gradient.
    """
    torch.manual_seed(0)
    model = LanguageModel(Vocabulary(VOCABULARY), hidden_dim=8, cell=cell).double()
    batch, share = batch_of([[3, 4], [3, 4, 5], [5, 5]], 4, [5.0, 3.0, 2.0]), [0.5, 0.3, 0.2]
    entropy = -sum(p * math.log(p) for p in share)
    optimizer, objective = torch.optim.Adam(model.parameters(), lr=0.03), build("elbo")
    before = copy.deepcopy(model)
    for _ in range(300):
        optimizer.zero_grad()
        objective(model, ExactGuide(model), batch).loss.backward()
        optimizer.step()
    losses = [float(objective(m, ExactGuide(m), batch).loss.detach()) for m in (before, model)]
    assert losses[0] > entropy + 1.0
    assert entropy < losses[1] < entropy + 0.02
    with torch.no_grad():
        torch.testing.assert_close(log_p(model, batch).exp(), torch.tensor(share).double(), rtol=0, atol=0.01)


def test_the_model_keeps_its_contract() -> None:
    model = LanguageModel(Vocabulary(29))
    assert isinstance(model, Model)
    assert model.latents == ()
    assert MODELS[model.family].endswith(f":{type(model).__name__}")
    assert model.embedding.embedding_dim == model.cell.hidden_size == 8
    # 29·8 letters, 3·(8 + 8 + 2)·8 of the cell, 27·(8 + 1) outcomes.
    assert sum(p.numel() for p in model.parameters()) == 232 + 432 + 243
    assert LanguageModel(Vocabulary(29), hidden_dim=16).embedding.embedding_dim == 16
    assert LanguageModel(Vocabulary(29), embedding_dim=5).cell.input_size == 5


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown cell 'gur' \(did you mean 'gru'\?\)"):
        LanguageModel(Vocabulary(6), cell="gur")


def test_logits_of_a_large_vocabulary_stand_in_memory_once() -> None:
    """A step of 8 x 16 tokens over 5,000 words: 2.6 MB of logits, beside 0.3 MB of parameters and of gradients."""
    model = LanguageModel(Vocabulary(5_000), hidden_dim=8, embedding_dim=8, cell="lstm")
    batch = collate([[7] * 15] * 8, [1.0] * 8, 16, 8)
    logits = 8 * 16 * (5_000 - 2) * 4
    peak = peak_bytes(lambda: build("elbo")(model, ExactGuide(model), batch).loss.backward())
    assert logits < peak < 1.5 * logits
