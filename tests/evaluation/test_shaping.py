"""Decoders around a decoder: logits by hand and by ``transformers``, and whole searches over chains of few texts."""

import itertools
import math

import pytest
import torch

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID, ReservedIds
from ppl_text.evaluation.decoding import Beam, Greedy, Sample, as_strategy, search
from ppl_text.evaluation.shaping import AtLeast, Penalised

from .test_decoding import Chains, Given, padded


def steps_of(decoder, tokens):
    """The logits of a row that is fed BOS and these tokens."""
    state, found = decoder.begin(1), []
    for token in [BOS_ID, *tokens]:
        logits, state = decoder.step(state, torch.tensor([token]))
        found.append(logits[0].tolist())
    return found


def constant(*logits):
    """A decoder that always gives these logits: of EOS, and of ids 3, 4, …."""
    return Given(lambda state, tokens: (torch.tensor(logits).expand(len(tokens), -1), state))


def test_what_a_text_has_is_divided_above_zero_and_multiplied_below():
    """θ = 2, logits 3, -1, 0.5 of EOS, ids 3 and 4."""
    found = steps_of(Penalised(constant(3.0, -1.0, 0.5), 2.0), [4, 3, 4])
    assert found == [[3.0, -1.0, 0.5], [3.0, -1.0, 0.25], [3.0, -2.0, 0.25], [3.0, -2.0, 0.25]]


def test_the_penalty_is_that_of_transformers():
    processor = pytest.importorskip("transformers").RepetitionPenaltyLogitsProcessor(1.2)
    torch.manual_seed(0)
    logits, tokens = torch.randn(5, 9), torch.tensor([3, 8, 3, 10, 5])
    found = steps_of(Penalised(Given(lambda state, t: (logits[:1], state)), 1.2), tokens.tolist())
    for n in range(1, 6):
        expected = processor(tokens[None, :n] - EOS_ID, logits[:1])[0]
        assert found[n] == pytest.approx(expected.tolist(), rel=1e-6)


def test_ids_that_are_no_outcomes_are_never_penalised():
    """A wrapped tokenizer: EOS 2, padding 3 and BOS 4 behind the two symbols 0 and 1."""
    ids = ReservedIds(pad=3, bos=4, eos=2, first_outcome=0)
    decoder = Penalised(constant(1.0, 2.0, 4.0), 2.0, ids)
    state = decoder.begin(2)
    for tokens, expected in (([4, 4], [[1, 2, 4], [1, 2, 4]]), ([1, 3], [[1, 1, 4], [1, 2, 4]])):
        logits, state = decoder.step(state, torch.tensor(tokens))
        assert logits.tolist() == expected


class Shaping:
    """Chains whose next tokens are those of a strategy's shaping, by hand: dictionaries and float64."""

    def __init__(self, chains, penalty, least):
        self.chains, self.penalty, self.least = chains, penalty, least

    def next(self, chain, text):
        before, last = (BOS_ID, BOS_ID, *text)[-2:]
        values = dict(enumerate(self.chains.logits[chain, before, last].double().tolist(), EOS_ID))
        for i in set(text):
            values[i] = values[i] / self.penalty if values[i] > 0 else values[i] * self.penalty
        if len(text) < self.least:
            del values[EOS_ID]
        total = math.log(sum(math.exp(v) for v in values.values()))
        return {i: v - total for i, v in values.items()}

    def score(self, chain, text):
        return sum(self.next(chain, text[:t])[token] for t, token in enumerate(text))


def around_zero(number, seed):
    """Chains whose logits have both signs."""
    chains = Chains(number, symbols=2, seed=seed)
    chains.logits = chains.logits - 7.0
    return chains


@pytest.mark.parametrize("least", [0, 2])
@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_a_wide_beam_finds_the_best_text_as_it_is_shaped(penalty, least):
    chains = around_zero(60, seed=1)
    by_hand = Shaping(chains, penalty, least)
    texts = [text for text in chains.endings(4) if len(text) > least]
    best = [padded(max(texts, key=lambda text: by_hand.score(i, text)), 4) for i in range(60)]
    options = {"repetition_penalty": penalty, "min_length": least}
    assert chains.search(Beam(40, **options), 4) == best
    if options != {"repetition_penalty": 1.0, "min_length": 0}:
        assert chains.search(Beam(40), 4) != best


def test_greedy_takes_the_best_token_as_it_is_shaped():
    chains = around_zero(30, seed=2)
    by_hand, expected = Shaping(chains, 1.5, 1), []
    for chain in range(30):
        text = ()
        while len(text) < 5 and EOS_ID not in text:
            following = by_hand.next(chain, text)
            text = (*text, max(following, key=following.get))
        expected.append(padded(text, 5))
    assert chains.search(Greedy(repetition_penalty=1.5, min_length=1), 5) == expected


@pytest.mark.parametrize("strategy", [Greedy, Sample, Beam], ids=lambda kind: kind.name)
def test_no_text_ends_too_soon_whatever_the_strategy(strategy):
    chains = Chains(100, symbols=3, seed=3)
    lengths = [row.index(EOS_ID) for row in chains.search(strategy(min_length=3), 8) if EOS_ID in row]
    assert min(lengths) == 3
    assert max(lengths) > 3


def test_a_least_length_beyond_the_limit_leaves_no_room_for_an_end():
    found = search(Greedy(min_length=9), constant(5.0, 0.0, 1.0), 1, 4)
    assert found.tolist() == [[4, 4, 4, 4]]


def test_draws_come_as_often_as_the_shaped_probabilities_say():
    chains, n = around_zero(1, seed=4), 40_000
    by_hand = Shaping(chains, 2.0, 1)
    chains.logits, chains.chains = chains.logits.expand(n, -1, -1, -1), n
    torch.manual_seed(0)
    rows = chains.search(Sample(repetition_penalty=2.0, min_length=1), 3)
    texts = [text for text in chains.endings(3) if len(text) > 1]
    texts += list(itertools.product((3, 4), repeat=3))
    shares = {padded(text, 3): math.exp(by_hand.score(0, text)) for text in texts}
    assert sum(shares.values()) == pytest.approx(1.0)
    for text, share in shares.items():
        assert rows.count(text) / n == pytest.approx(share, abs=5 * math.sqrt(share / n))


def test_a_row_keeps_what_it_has_seen_where_a_beam_reorders_rows():
    """State in front of the decoder's own is picked up with it: rows by index."""
    decoder = AtLeast(Penalised(constant(1.0, 2.0, 4.0), 2.0), 2)
    _, state = decoder.step(decoder.begin(2), torch.tensor([BOS_ID, BOS_ID]))
    _, state = decoder.step(state, torch.tensor([3, 4]))
    state = tuple(part.index_select(0, torch.tensor([1, 1])) for part in state)
    logits, _ = decoder.step(state, torch.tensor([PAD_ID, 3]))
    assert logits.tolist() == [[1.0, 2.0, 2.0], [1.0, 1.0, 2.0]]


BAD = {
    "penalty 0.9": (
        lambda: Beam(repetition_penalty=0.9),
        r"repetition_penalty must be a number from 1 \(none\) to 100",
    ),
    "penalty nan": (lambda: Greedy(repetition_penalty=math.nan), "repetition_penalty must be a number .* got nan"),
    "least -1": (lambda: Sample(min_length=-1), "min_length, the fewest tokens of a text, must be 0 or more; got -1"),
    "a base's field beside one's own": (lambda: Beam(0, min_length=1), "the width of a beam must be 1 or more"),
    "unknown option": (
        lambda: as_strategy({"name": "beam", "widht": 3}),
        r"unknown option of the strategy beam 'widht' \(did you mean 'width'\?\)",
    ),
    "no name": (lambda: as_strategy({"width": 3}), "unknown strategy 'None'"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises((UserError, UnknownNameError), match=message):
        make()


def test_a_mapping_describes_a_strategy_as_settings_have_it():
    described = {"name": "beam", "width": 10, "repetition_penalty": 1.2, "min_length": 3}
    assert as_strategy(described) == Beam(10, repetition_penalty=1.2, min_length=3)
    assert as_strategy({"name": "greedy"}) == as_strategy("greedy") == Greedy()
