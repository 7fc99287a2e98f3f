"""The entropy gap against mutual information that is known."""

import json
import math

import pytest
import torch
from torch import nn

from ppl_text.core.errors import UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.distributions.tokens import TokenSequence
from ppl_text.evaluation import trajectories
from ppl_text.evaluation.trajectories import MOST_ENTROPIES, EntropyGap, affordable, entropy_gap, entropy_monitor
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.models.language_model import LanguageModel

from .emitting import Classes

SIGN = [[0.3, 0.6999, 0.0001], [0.3, 0.0001, 0.6999]]


def entropy(p):
    return float(torch.special.entr(torch.as_tensor(p, dtype=torch.float64)).sum(-1).mean())


def information(table):
    """I(w; class) = H[mean row] - mean H[row]."""
    table = torch.as_tensor(table, dtype=torch.float64)
    return entropy(table.mean(0)) - entropy(table)


def one_of(classes, eos=0.25):
    """Each class has a letter of its own."""
    letters = torch.eye(classes, dtype=torch.float64) * (1 - eos)
    return torch.cat([torch.full((classes, 1), eos, dtype=torch.float64), letters.clamp(min=1e-12)], 1)


def test_the_sign_of_the_noise_decides_one_letter_of_two():
    found = entropy_gap(Classes(SIGN), words=200, draws=1000, steps=30)
    assert information(SIGN) == pytest.approx(0.7 * math.log(2), abs=2e-3)
    assert found.mean().nats == pytest.approx(information(SIGN), abs=2e-3)
    assert float(found.expected.mean()) == pytest.approx(entropy(SIGN), abs=1e-5)
    assert found.draws == 1000


def test_noise_that_is_ignored_decides_nothing():
    found = entropy_gap(Classes([[0.2, 0.5, 0.3]]), words=50, draws=100, steps=30)
    assert found.gap.abs().max() < 1e-6
    assert float(found.marginal.mean()) == pytest.approx(entropy([0.2, 0.5, 0.3]), abs=1e-6)


def test_what_an_earlier_step_decided_is_not_counted_again():
    """The path's only noise comes first: later letters are as predictable given h_{t-1} as they are given h_t."""
    found = entropy_gap(Classes(SIGN, sticky=True), words=100, draws=500, steps=30).by_position()
    assert found[1].nats == pytest.approx(information(SIGN), abs=5e-3)
    assert all(abs(average.nats) < 1e-6 for t, average in found.items() if t > 1)
    assert len(found) > 3


def test_few_draws_are_biased_low_and_capped():
    model = Classes(one_of(27, eos=0.01))
    truth = information(one_of(27, eos=0.01))
    few, many = (entropy_gap(model, words=60, draws=k, steps=5) for k in (20, 1000))
    assert few.gap.max() <= math.log(20) + 1e-5 < truth
    assert few.mean().nats < truth - 0.4
    assert many.mean().nats == pytest.approx(truth - 26 / 2000, abs=5e-3), "to first order the bias is (M - 1) / 2K"


def test_one_draw_says_nothing():
    assert entropy_gap(Classes(SIGN), words=20, draws=1, steps=9).gap.abs().max() < 1e-6


def test_positions_end_with_the_first_eos():
    found = entropy_gap(Classes(SIGN), words=400, draws=2, steps=60)
    for word in range(400):
        rows = found.word == word
        assert found.position[rows].tolist() == list(range(1, int(rows.sum()) + 1))
        assert set(found.length[rows].tolist()) == {int(rows.sum()) - 1}
    letters = found.length[found.position == 1].double()
    assert len(letters) == 400
    assert float(letters.mean()) == pytest.approx(0.7 / 0.3, abs=5 * math.sqrt(0.7 / 0.09 / 400)), "geometric"


def test_a_word_that_is_cut_off():
    found = entropy_gap(Classes([[1e-30, 1.0]]), words=3, draws=2, steps=4)
    assert len(found.word) == 12
    assert set(found.length.tolist()) == {4}


class Counting(nn.Module):
    """h_t = t; a letter up to t = 3, then EOS: all words have three letters."""

    def __init__(self):
        super().__init__()
        self.initial = nn.Parameter(torch.zeros(1))
        self.latents = (LatentSpec("h", axes=("T", "D"), sizes={"D": 1}),)
        self.vocabulary = Vocabulary(4)

    def draw(self, n, steps, source=None):
        return {"h": torch.arange(1.0, steps + 1).view(1, -1, 1).expand(n, -1, -1)}

    def prior(self, lengths, steps):
        return self

    def at(self, t, state):
        class Next:
            def sample(self, shape=()):
                return (state + 1).expand(*shape, *state.shape)

        return Next()

    def emit(self, latents):
        logits = torch.where(latents["h"] > 3.5, torch.tensor([40.0, 0.0]), torch.tensor([0.0, 40.0]))
        return TokenSequence(logits, torch.tensor(logits.shape[-2]))


def test_lengths_do_not_count_eos():
    found = entropy_gap(Counting(), words=5, draws=3, steps=20)
    assert set(found.length.tolist()) == {3}
    assert sorted(set(found.position.tolist())) == [1, 2, 3, 4]
    assert len(found.word) == 20


def test_the_draws_of_a_state_are_independent_and_from_its_own_law():
    """The real model at h_0, against draws made one state at a time."""
    torch.manual_seed(0)
    model = DeepStateSpace(Vocabulary(9), state_dim=3, hidden=(8,))
    found = entropy_gap(model, words=4, draws=20_000, steps=1)
    with torch.no_grad():
        states = model.prior(torch.ones(20_000), 1).at(0, model.initial.expand(20_000, -1)).sample()
        p = model.emission(states).softmax(-1).double()
    assert found.marginal.tolist() == pytest.approx([entropy(p.mean(0))] * 4, abs=0.02)
    assert found.expected.tolist() == pytest.approx([entropy(p)] * 4, abs=0.02)
    assert float(found.gap.min()) > 0.1


def test_states_go_their_own_ways():
    """Two words in different states: each row is measured at its own word's state."""

    class Fixed(Classes):
        def logits(self, states):
            return torch.stack([torch.full_like(states[..., 0], -0.5), states[..., 0], -states[..., 0]], -1)

    found = entropy_gap(Fixed(SIGN, sticky=True), words=90, draws=5, steps=5)
    second = found.position == 2
    for word in found.word[second & (found.length > 2)].tolist():
        rows = (found.word == word) & (found.position > 1)
        assert found.expected[rows].std() < 1e-6
    assert found.expected[second].std() > 0.03
    assert (found.length[second] < 4).any(), "words that ended have made room"


@pytest.mark.parametrize("at_once", [1, 500, 10**6])
def test_how_much_is_simulated_at_once_does_not_matter(at_once):
    found = entropy_gap(Classes(SIGN), words=40, draws=300, steps=10, at_once=at_once)
    assert found.mean().nats == pytest.approx(information(SIGN), abs=5e-3)
    assert found.marginal.shape == found.expected.shape == found.word.shape


# -- averages ---------------------------------------------------------------------------------------


def by_hand():
    """Word 0 of one letter with gaps 1 and 3, word 1 of none with 5, word 2 of one with 2 and 2."""
    word, position, length = torch.tensor([[0, 1, 2, 0, 2], [1, 1, 1, 2, 2], [1, 0, 1, 1, 1]])
    gap = torch.tensor([1.0, 5.0, 2.0, 3.0, 2.0], dtype=torch.float64)
    return EntropyGap(word, position, length, gap + 10, torch.full_like(gap, 10.0), draws=7)


def test_averages_by_hand():
    found = by_hand()
    mean = found.mean()
    # Deviations from 2.6 by word: -1.2, 2.4, -1.2.
    assert mean == pytest.approx((2.6, math.sqrt((1.44 + 5.76 + 1.44) * 3 / 2) / 5, 3))
    assert (mean.bits, mean.error_bits) == pytest.approx((2.6 / math.log(2), mean.error / math.log(2)))
    positions = found.by_position()
    assert positions.keys() == {1, 2}
    assert positions[1] == pytest.approx((8 / 3, math.sqrt((25 + 49 + 4) / 9 / 2 / 3), 3)), "the usual standard error"
    assert positions[2] == pytest.approx((2.5, 0.5, 2))
    lengths = found.by_length()
    assert lengths.keys() == {0, 1}
    assert lengths[0].nats == 5.0
    assert math.isnan(lengths[0].error)
    assert lengths[1] == pytest.approx((2.0, 0.0, 2))


def test_the_error_is_the_spread_of_the_mean():
    """States that stay make the rows of a word alike; the error knows."""

    class Sticky(Classes):
        def logits(self, states):
            noise = torch.randn_like(states[..., 0]) * states[..., 0].abs()
            return torch.stack([torch.zeros_like(noise), noise, -noise], -1)

    found = [entropy_gap(Sticky(SIGN, sticky=True), words=60, draws=20, steps=12, seed=s).mean() for s in range(50)]
    nats, errors = torch.tensor([f.nats for f in found]), torch.tensor([f.error for f in found])
    assert float(errors.mean() / nats.std()) == pytest.approx(1.0, abs=0.3)


# -- what may go wrong, and the monitor -------------------------------------------------------------


def test_a_model_without_states_is_refused():
    with pytest.raises(UserError, match="LanguageModel has no emit and no prior and no initial"):
        entropy_gap(LanguageModel(Vocabulary(5)), words=2, draws=2, steps=2)


@pytest.mark.parametrize("wrong", ["words", "draws", "steps"])
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(UserError, match="1 or more words, draws and steps"):
        entropy_gap(Classes(SIGN), **{"words": 2, "draws": 2, "steps": 2, wrong: 0})


def test_measuring_leaves_no_trace():
    model = Classes(SIGN)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (entropy_gap(model, words=9, draws=9, steps=9, seed=s).mean() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert first == again != other


def test_the_monitor_says_what_the_measurement_says():
    model = Classes(SIGN)
    seen = entropy_monitor(model, steps=20, words=30, draws=40)(model, None)
    found = entropy_gap(model, words=30, draws=40, steps=20)
    assert seen == {
        "entropy_gap": found.mean().nats,
        "expected_entropy": float(found.expected.mean()),
        "marginal_entropy": float(found.marginal.mean()),
    }
    assert seen["entropy_gap"] == pytest.approx(seen["marginal_entropy"] - seen["expected_entropy"])


@pytest.mark.parametrize(("outcomes", "steps"), [(27, 24), (8_000, 60), (50_000, 60), (10**6, 200), (10**7, 10**4)])
def test_a_monitor_draws_no_more_than_it_has_time_for(outcomes, steps):
    words, draws = affordable(outcomes, steps, 200, 100)
    assert outcomes * steps * draws <= MOST_ENTROPIES or draws == 2  # the least that has a gap
    assert outcomes * steps * draws * words <= 20 * MOST_ENTROPIES or words == 2
    assert (words, draws) == (200, 100) or outcomes > 27


def test_a_monitor_of_a_large_vocabulary_takes_fewer_draws(monkeypatch):
    asked = []
    monkeypatch.setattr(trajectories, "entropy_gap", lambda model, **options: asked.append(options) or FEW)
    model = Classes(one_of(9))
    monkeypatch.setattr(trajectories, "MOST_ENTROPIES", 20 * model.vocabulary.size * 5)
    entropy_monitor(model, steps=20, words=30, draws=40)(model, None)
    assert asked == [{"words": 20, "draws": 5, "steps": 20}]


ONES = torch.ones(2, dtype=torch.int64)
FEW = EntropyGap(ONES, ONES, ONES, ONES.double(), ONES.double(), 2)


def test_a_run_of_a_state_space_model_is_monitored(trained):
    lines = (trained.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [record["monitor"] for record in map(json.loads, lines) if record["split"] == "valid"]
    assert len(seen) == 2
    assert all(s.keys() == {"entropy_gap", "expected_entropy", "marginal_entropy"} for s in seen)
    found = entropy_gap(trained.model, words=200, draws=100, steps=2 * trained.corpus.max_steps)
    assert seen[-1]["entropy_gap"] == pytest.approx(found.mean().nats, rel=1e-5)


def test_a_model_without_states_has_no_monitor():
    assert entropy_monitor(LanguageModel(Vocabulary(5)), steps=9) is None
