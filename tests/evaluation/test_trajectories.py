"""Cross-entropy by prior Monte Carlo against closed forms, direct sums and the truth."""

import math
from dataclasses import asdict

import pytest
import torch

from ppl_text.core.errors import DataError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.evaluation.trajectories import prior_cross_entropy
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.models.language_model import LanguageModel

from .emitting import EOS, A, B, Classes, Recorded, words
from .programs import evaluation_set

ONE = [[0.2, 0.5, 0.2, 0.1]]
TWO = [[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]]
TEXTS, WEIGHTS = [[A], [A, B], [B, B, A], []], [4.0, 2.0, 1.0, 3.0]


def cross_entropy(model, texts, weights):
    logs = [math.log(model.probability([*text, EOS])) for text in texts]
    return -math.fsum(w * x for w, x in zip(weights, logs, strict=True)) / math.fsum(weights)


def spiky(classes, sharp):
    """Each class likes a letter of its own; EOS follows half of the time."""
    table = torch.full((classes, classes), (0.5 - sharp) / (classes - 1), dtype=torch.float64)
    return torch.cat([torch.full((classes, 1), 0.5, dtype=torch.float64), table.fill_diagonal_(sharp)], 1)


@pytest.mark.parametrize("trajectories", [1, 2, 50])
def test_where_the_state_does_not_matter_one_trajectory_is_exact(trajectories):
    """The data have fewer outcomes than the model, whose normaliser they must not change."""
    model = Classes(ONE)
    found = prior_cross_entropy(model, words(*TEXTS, weights=WEIGHTS), trajectories=trajectories)
    truth = cross_entropy(model, TEXTS, WEIGHTS)
    assert (found.value, found.low, found.high) == pytest.approx((truth,) * 3, abs=1e-6)
    assert found.bias == pytest.approx(0.0, abs=1e-6)
    assert found.trajectories == trajectories
    assert found.alone == (1.0 if trajectories == 1 else 0.0), "no one trajectory makes up more than half of two equals"


@pytest.mark.parametrize("sticky", [False, True])
def test_few_classes_in_closed_form(sticky):
    model = Classes(TWO, sticky=sticky)
    found = prior_cross_entropy(model, words(*TEXTS, weights=WEIGHTS), trajectories=40_000, seed=1)
    truth = cross_entropy(model, TEXTS, WEIGHTS)
    error = (found.high - found.low) / 3.92  # the interval is one of 95%
    assert error < 0.005
    assert abs(found.value - truth) < 5 * error
    assert abs((found.low + found.high) / 2 - truth) < 5 * error
    assert abs(cross_entropy(Classes(TWO, sticky=not sticky), TEXTS, WEIGHTS) - truth) > 0.03, "the cases differ"


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_stream_equals_the_sum_over_the_same_paths(chunk):
    model = Recorded(spiky(5, 0.49), sticky=True)
    texts, weights = [[3], [4, 4], [5, 5, 5, 5, 5], [7, 3]], [1.0, 2.0, 3.0, 4.0]
    found = prior_cross_entropy(model, words(*texts, weights=weights), trajectories=53, chunk=chunk)
    classes = (torch.special.ndtr(torch.cat(model.paths).squeeze(-1)) * 5).long()
    value, alone = 0.0, 0.0
    for text, weight in zip(texts, weights, strict=True):
        chosen = model.table.detach()[classes[:, : len(text) + 1], torch.tensor([*text, EOS]) - 2]
        p = chosen.prod(1)
        value -= weight / 10 * math.log(p.mean())
        alone += weight / 10 * float(p.max() > 0.5 * p.sum())
    assert len(classes) == 53
    assert found.value == pytest.approx(value, rel=1e-5)
    assert found.alone == pytest.approx(alone)


def test_alone_is_right_when_the_largest_comes_late():
    """One class of 60 makes the word: with 60 paths it is drawn once or not at all in most streams."""
    shares = set()
    for seed in range(12):
        model = Recorded(spiky(60, 0.4999), sticky=True)
        found = prior_cross_entropy(model, words([3, 3, 3]), trajectories=60, chunk=10, seed=seed)
        hits = int((torch.special.ndtr(torch.cat(model.paths)[:, 0, 0]) * 60 < 1).sum())
        if hits:
            assert found.alone == (1.0 if hits == 1 else 0.0)
            shares.add(found.alone)
    assert shares == {0.0, 1.0}


def test_the_real_model_against_its_own_likelihood():
    torch.manual_seed(0)
    model = DeepStateSpace(Vocabulary(7), state_dim=3, hidden=(8,))
    texts, weights = [[3], [4, 5, 6], [6, 6]], [1.0, 2.0, 5.0]
    found = prior_cross_entropy(model, words(*texts, weights=weights), trajectories=200, chunk=200, seed=4)
    batch = collate(texts, weights, 4, 3)
    torch.manual_seed(4)
    with torch.no_grad():
        paths = model.prior(torch.full((200,), 4), 4).sample()
        log_p = model.likelihood(paths.unsqueeze(1).expand(200, 3, 4, 3), batch.lengths).log_prob(batch.tokens)
    means = log_p.double().logsumexp(0) - math.log(200)
    assert found.value == pytest.approx(float(-(means * batch.weights / 8).sum()), rel=1e-5)


def test_the_chunk_does_not_matter_but_for_the_draws():
    model, data = Classes(TWO, sticky=True), words([A, A], [B, B])
    means = []
    for chunk in (1, 16, 64):
        values = torch.tensor(
            [prior_cross_entropy(model, data, trajectories=64, chunk=chunk, seed=s).value for s in range(40)]
        )
        means.append((values.mean(), values.std() / 40**0.5))
    for mean, error in means[1:]:
        assert abs(mean - means[0][0]) < 5 * (error**2 + means[0][1] ** 2) ** 0.5


@pytest.fixture(scope="module")
def repeated():
    """60 estimates with few trajectories for many rare words, and the truth."""
    model = Classes(spiky(20, 0.48), sticky=True)
    texts = [[3 + m, 3 + m] for m in range(20)]
    data = words(*texts)
    found = [prior_cross_entropy(model, data, trajectories=300, seed=s, chunk=100) for s in range(60)]
    return found, cross_entropy(model, texts, [1.0] * 20)


def test_the_cross_entropy_is_over_estimated(repeated):
    found, truth = repeated
    values = torch.tensor([f.value for f in found])
    assert values.mean() - truth > 4 * values.std() / 60**0.5


def test_the_bootstrap_sees_the_bias(repeated):
    found, truth = repeated
    bias = torch.tensor([f.value for f in found]).mean() - truth
    assert torch.tensor([f.bias for f in found]).mean() == pytest.approx(float(bias), rel=0.3)


def test_the_interval_covers_the_truth(repeated):
    """Which the percentile interval, of twice the bias, does not: it would mirror at the value."""
    found, truth = repeated
    covered = sum(f.low <= truth <= f.high for f in found) / 60
    percentile = sum(2 * f.value - f.high <= truth <= 2 * f.value - f.low for f in found) / 60
    assert covered >= 0.8
    assert percentile <= 0.3


def test_the_interval_narrows_with_more_trajectories():
    model, data = Classes(TWO, sticky=True), words([A, A])
    few, many = (prior_cross_entropy(model, data, trajectories=k, replicates=200) for k in (500, 8000))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4.0, rel=0.3)


def assert_close(a, b):
    """Equal up to float32: log-probabilities of other batch shapes are summed in another order."""
    assert asdict(a) == pytest.approx(asdict(b), rel=1e-5, abs=1e-5)


def test_words_of_no_weight_do_not_count():
    model = Classes(TWO, sticky=True)
    plain = prior_cross_entropy(model, words([A], [B]), trajectories=30)
    filled = prior_cross_entropy(model, words([A], [B], [A, A], weights=[1.0, 1.0, 0.0], rows=8), trajectories=30)
    assert_close(filled, plain)


def test_batches_of_different_steps_are_one_set():
    texts, weights = [[A], [B], [A, B, A]], [1.0, 2.0, 3.0]
    apart = evaluation_set(collate(texts[:2], weights[:2], 2, 2), collate(texts[2:], weights[2:], 4, 3))
    model = Classes(TWO, sticky=True)
    together = prior_cross_entropy(model, words(*texts, weights=weights), trajectories=40)
    assert_close(prior_cross_entropy(model, apart, trajectories=40), together)


def test_what_is_impossible_costs_more_than_anything_but_is_a_number():
    model = Classes([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]], sticky=True)
    found = prior_cross_entropy(model, words([A, B]), trajectories=20)
    assert 1e29 < found.value < math.inf
    possible = prior_cross_entropy(model, words([A, A], [B]), trajectories=4000)
    assert possible.value == pytest.approx(-0.5 * (math.log(1 / 16) + math.log(1 / 8)), abs=0.1)


def test_paths_are_drawn_a_chunk_at_a_time():
    model = Classes(TWO)
    prior_cross_entropy(model, words([A]), trajectories=70, chunk=32)
    assert model.drawn == [32, 32, 6]


def test_measuring_leaves_no_trace():
    model = Classes(TWO)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (prior_cross_entropy(model, words([A]), trajectories=9, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert first == again != other


def test_a_model_that_feeds_tokens_back_is_refused():
    with pytest.raises(UserError, match=r"LanguageModel has no emit: .* such as deep_state_space"):
        prior_cross_entropy(LanguageModel(Vocabulary(5)), words([A]), trajectories=5)


@pytest.mark.parametrize("wrong", ["trajectories", "replicates", "chunk"])
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(UserError, match=r"must be 1 or more; got .*0"):
        prior_cross_entropy(Classes(TWO), words([A]), **{"trajectories": 5, wrong: 0})


@pytest.mark.parametrize("data", [evaluation_set(), words([A], weights=[0.0])], ids=["no batch", "no weight"])
def test_no_words_are_a_message(data):
    with pytest.raises(DataError, match="no word to measure"):
        prior_cross_entropy(Classes(TWO), data, trajectories=5)
