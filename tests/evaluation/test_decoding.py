"""Strategies against chains small enough to enumerate: every text with its probability."""

import itertools
import math
from collections import Counter

import pytest
import torch

from ppl_text.core.errors import DivergedError, UnknownNameError, UserError
from ppl_text.core.vocabulary import BOS_ID, EOS_ID, PAD_ID, ReservedIds
from ppl_text.evaluation.decoding import STRATEGIES, Beam, Greedy, Sample, as_strategy, search
from ppl_text.evaluation.shaping import OfLength

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


class Given:
    """A decoder that begins with a given state."""

    def __init__(self, step, state=()):
        self.step, self._state = step, state

    def begin(self, rows):
        assert all(len(part) == rows for part in self._state)
        return self._state


class Chains:
    """Each row its own Markov chain of second order over EOS and some symbols: P(w_t | w_{t-2}, w_{t-1}, chain).

    The state holds the chain and the token before the last, so that a search that mixes rows up is found out. The
    logits are shifted by any constant, as a network's are.
    """

    def __init__(self, chains, symbols=2, spread=1.5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        ids = EOS_ID + 1 + symbols
        self.logits = spread * torch.randn(chains, ids, ids, symbols + 1, generator=generator) + 7.0
        self.chains, self.symbols = chains, symbols

    def state(self, device="cpu"):
        return torch.arange(self.chains, device=device), torch.full((self.chains,), BOS_ID, device=device)

    def step(self, state, tokens):
        chain, before = state
        return self.logits.to(tokens.device)[chain, before, tokens], (chain, tokens)

    def search(self, strategy, steps, device="cpu"):
        found = search(strategy, Given(self.step, self.state(device)), self.chains, steps)
        assert found.shape == (self.chains, steps)
        assert found.device.type == device
        return [tuple(row) for row in found.tolist()]

    def next(self, chain, text):
        """ln p of each id that may follow ``text``."""
        before, last = (BOS_ID, BOS_ID, *text)[-2:]
        row = self.logits[chain, before, last].double().log_softmax(-1).tolist()
        return {EOS_ID + i: value for i, value in enumerate(row)}

    def score(self, chain, text):
        return sum(self.next(chain, text[:t])[token] for t, token in enumerate(text))

    def endings(self, steps):
        """All texts of at most ``steps`` tokens that end."""
        symbols = range(EOS_ID + 1, EOS_ID + 1 + self.symbols)
        return [(*body, EOS_ID) for n in range(steps) for body in itertools.product(symbols, repeat=n)]


def padded(text, steps):
    return (*text, *[PAD_ID] * (steps - len(text)))


def greedy_by_hand(chains, chain, steps):
    text = ()
    while len(text) < steps and EOS_ID not in text:
        following = chains.next(chain, text)
        text = (*text, max(following, key=following.get))
    return padded(text, steps)


def beam_by_hand(chains, chain, steps, width, alpha):
    """Lists and sorting, one row; stops only when ``width`` endings are as good as the best unfinished text."""
    live, endings = [((), 0.0)], []
    for t in range(1, steps + 1):
        spread = [((*text, i), s + p) for text, s in live for i, p in chains.next(chain, text).items()]
        spread.sort(key=lambda item: -item[1])
        endings += [(text, s / t**alpha) for text, s in spread[:width] if text[-1] == EOS_ID]
        live = [(text, s) for text, s in spread if text[-1] != EOS_ID][:width]
        if len(endings) >= width and sorted(score for _, score in endings)[-width] >= live[0][1] / t**alpha:
            break
    return padded(max(endings, key=lambda item: item[1])[0] if endings else live[0][0], steps)


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_takes_the_most_probable_token_of_each_row(device):
    chains = Chains(40)
    found = chains.search(Greedy(), 5, device)
    assert found == [greedy_by_hand(chains, chain, 5) for chain in range(40)]
    assert len({row.index(EOS_ID) if EOS_ID in row else 5 for row in found}) > 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 2.0])
def test_a_beam_as_wide_as_there_are_texts_finds_the_best(alpha, device):
    chains = Chains(30, seed=1)
    found = chains.search(Beam(width=40, length_penalty=alpha), 4, device)
    for chain, row in enumerate(found):
        best = max(chains.endings(4), key=lambda text: chains.score(chain, text) / len(text) ** alpha)
        assert row == padded(best, 4)
    assert found != chains.search(Greedy(), 4, device)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_a_narrow_beam_is_the_one_made_by_hand(width, alpha):
    chains = Chains(60, symbols=3, spread=1.0, seed=2)
    found = chains.search(Beam(width, alpha), 6)
    assert found == [beam_by_hand(chains, chain, 6, width, alpha) for chain in range(60)]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(alpha):
    chains = Chains(200, symbols=3, seed=3)
    assert chains.search(Beam(1, alpha), 5) == chains.search(Greedy(), 5)


def test_wider_beams_find_better_texts_and_a_row_does_not_depend_on_the_others():
    chains = Chains(100, symbols=4, spread=1.0, seed=4)
    means = []
    for width in (1, 2, 4, 16):
        found = chains.search(Beam(width), 6)
        means.append(sum(chains.score(i, [t for t in row if t != PAD_ID]) for i, row in enumerate(found)) / 100)
    assert means == sorted(means)
    assert means[0] < means[-1]
    chains.logits, chains.chains = chains.logits[7:8], 1
    assert chains.search(Beam(16), 6) == found[7:8]


def conditioned(chains, chain, text):
    """ln of Π_t p(w_t | w_{<t}, w_t ≠ EOS): what a text weighs where its length is stated."""
    total = 0.0
    for t, token in enumerate(text):
        following = chains.next(chain, text[:t])
        total += following[token] - math.log1p(-math.exp(following[EOS_ID]))
    return total


class Held:
    """Chains whose texts have a stated length."""

    def __init__(self, chains, length):
        self.decoder, self.rows, self.length = (
            OfLength(Given(chains.step, chains.state()), length),
            chains.chains,
            length,
        )
        self.bodies = list(itertools.product(range(EOS_ID + 1, EOS_ID + 1 + chains.symbols), repeat=length))

    def search(self, strategy):
        found = search(strategy, self.decoder, self.rows, self.length + 1).tolist()
        assert {row[-1] for row in found} == {EOS_ID}
        return [tuple(row[:-1]) for row in found]


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Sample(0.5, top_k=2), Beam(3), Beam(9, 1.0)], ids=str)
@pytest.mark.parametrize("length", [1, 4])
def test_texts_of_a_stated_length_have_it_under_every_strategy(strategy, length):
    held = Held(Chains(50, symbols=3, seed=6), length)
    assert set(held.search(strategy)) <= set(held.bodies)


def test_a_wide_beam_finds_the_best_text_of_a_stated_length():
    chains = Chains(20, seed=7)
    held = Held(chains, 4)
    best = [max(held.bodies, key=lambda body: conditioned(chains, i, body)) for i in range(20)]
    assert held.search(Beam(16)) == best
    assert held.search(Greedy()) != best


def test_texts_of_a_stated_length_are_drawn_as_each_step_is_conditioned():
    chains = Chains(1, seed=8)
    expected = {body: math.exp(conditioned(chains, 0, body)) for body in Held(chains, 3).bodies}
    assert sum(expected.values()) == pytest.approx(1.0)
    chains.logits, chains.chains = chains.logits.expand(20_000, -1, -1, -1), 20_000
    torch.manual_seed(0)
    drawn = Counter(Held(chains, 3).search(Sample()))
    for body, share in expected.items():
        assert drawn[body] / 20_000 == pytest.approx(share, abs=5 * math.sqrt(share / 20_000))


def chain_of(first, then):
    """A step whose first token has probabilities ``first`` and all others ``then``; EOS comes first in both."""

    def step(state, tokens):
        table = torch.tensor([first, then]).log()
        return table[(tokens != BOS_ID).long()], state

    return step


def one(strategy, step, steps):
    return search(strategy, Given(step), rows=1, steps=steps)[0].tolist()


def test_an_ending_is_kept_while_unfinished_texts_that_look_better_decay():
    step = chain_of([0.3, 0.36, 0.34], [0.2, 0.4, 0.4])
    assert one(Beam(3), step, 6) == [EOS_ID, 0, 0, 0, 0, 0]
    assert one(Beam(2), step, 6)[0] != EOS_ID


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_poor_endings_do_not_end_the_search_for_a_good_text(width):
    """Five sure steps with an improbable way out at each."""

    def step(state, tokens):
        (place,) = state
        table = torch.tensor([[0.01, 0.98, 0.01], [0.98, 0.01, 0.01]]).log()
        return table[(place == 5).long()], (place + 1,)

    found = search(Beam(width), Given(step, (torch.zeros(1, dtype=torch.long),)), rows=1, steps=9)
    assert found.tolist() == [[3, 3, 3, 3, 3, EOS_ID, 0, 0, 0]]


def test_the_length_penalty_weighs_a_sure_long_text_against_a_short_one():
    """ln 0.4 against 2 · ln 0.6 + … : '' has 0.4, 'a' 0.6 · 0.6."""
    step = chain_of([0.4, 0.6], [0.6, 0.4])
    assert one(Beam(4, 0.0), step, 4) == [EOS_ID, 0, 0, 0]
    assert one(Beam(4, 1.0), step, 4) == [3, EOS_ID, 0, 0]


def test_a_text_without_end_is_cut_off_at_the_limit():
    step = chain_of([0.0, 0.3, 0.7], [0.0, 0.9, 0.1])
    for strategy in (Greedy(), Beam(3)):
        assert one(strategy, step, 3) == [4, 3, 3]


def test_a_cut_off_text_gives_way_to_one_that_ends():
    step = chain_of([0.1, 0.9], [0.01, 0.99])
    assert one(Beam(2), step, 3) == [EOS_ID, 0, 0]


def test_a_beam_stops_when_nothing_can_overtake_the_best_ending():
    asked = []

    def step(state, tokens):
        asked.append(len(tokens))
        return chain_of([0.9, 0.1], [0.5, 0.5])(state, tokens)

    assert one(Beam(3), step, 50)[0] == EOS_ID
    assert asked == [3]


def filtered(probabilities, temperature, top_k, top_p):
    """The distribution that one token is drawn from, by hand."""
    heated = {i: p ** (1 / temperature) for i, p in probabilities.items()}
    ranked = sorted(heated.items(), key=lambda item: -item[1])[: top_k or None]
    total, kept, mass = sum(p for _, p in ranked), {}, 0.0
    for i, p in ranked:
        if mass >= (top_p or math.inf):
            break
        kept[i], mass = p, mass + p / total
    return {i: p / sum(kept.values()) for i, p in kept.items()}


SAMPLES = {
    "ancestral": Sample(),
    "cold": Sample(temperature=0.6),
    "hot": Sample(temperature=2.5),
    "top-k": Sample(top_k=2),
    "top-k larger than V": Sample(top_k=50),
    "nucleus": Sample(top_p=0.7),
    "whole nucleus": Sample(top_p=1.0),
    "all three": Sample(temperature=1.4, top_k=3, top_p=0.75),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", SAMPLES.values(), ids=SAMPLES)
def test_texts_come_as_often_as_their_probability_says(strategy, device):
    """Every text of at most 3 tokens within 5 standard errors; those of probability 0 never."""
    chains, n = Chains(1, symbols=3, spread=1.0, seed=5), 40_000
    state = torch.zeros(n, dtype=torch.long, device=device), torch.full((n,), BOS_ID, device=device)
    torch.manual_seed(1)
    found = search(strategy, Given(chains.step, state), n, 3)
    counts = Counter(tuple(i for i in row if i != PAD_ID) for row in found.tolist())
    expected = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, p in expected.items():
            if EOS_ID in text:
                longer[text] = p
                continue
            following = {i: math.exp(value) for i, value in chains.next(0, text).items()}
            kept = filtered(following, strategy.temperature, strategy.top_k, strategy.top_p)
            longer |= {(*text, i): p * q for i, q in kept.items()}
        expected = longer
    assert set(counts) <= set(expected)
    for text, p in expected.items():
        assert counts[text] == pytest.approx(n * p, abs=5 * math.sqrt(n * p * (1 - p)) + 1), text


def support(strategy, probabilities, n=4000):
    torch.manual_seed(0)
    logits = torch.tensor(probabilities).log().expand(n, -1)
    return set(strategy.choose(logits).tolist())


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        (Sample(top_p=0.01), {1}),
        (Sample(top_p=0.49), {1}),
        (Sample(top_p=0.51), {1, 3}),
        (Sample(top_p=0.74), {1, 3}),
        (Sample(top_p=0.76), {0, 1, 3}),
        (Sample(top_p=0.95), {0, 1, 2, 3}),
        (Sample(top_k=1), {1}),
        (Sample(top_k=3), {0, 1, 3}),
        (Sample(top_k=2, top_p=0.6), {1}),  # 0.5 of 0.75 is enough
        (Sample(temperature=0.5, top_p=0.7), {1}),  # squares: 0.25 of 0.345
        (Sample(temperature=2.0, top_p=0.5), {1, 3}),  # roots: 0.71 of 1.91
    ],
    ids=str,
)
def test_the_kept_tokens_are_the_fewest_of_enough_mass(strategy, kept):
    assert support(strategy, [0.15, 0.5, 0.1, 0.25]) == kept


def test_the_coldest_sampling_is_greedy_whatever_the_size_of_the_logits():
    chains = Chains(200, symbols=4, seed=6)
    assert chains.search(Sample(temperature=1e-6), 5) == chains.search(Greedy(), 5)
    huge = torch.tensor([[-1e30, 3e33, 2e33, -math.inf]])
    assert Sample(temperature=1e-6).choose(huge).tolist() == [1]


def test_draws_come_from_torchs_generator():
    chains = Chains(100, seed=7)
    torch.manual_seed(3)
    first = chains.search(Sample(), 5)
    second = chains.search(Sample(), 5)
    torch.manual_seed(3)
    assert chains.search(Sample(), 5) == first != second


def test_a_nucleus_of_everything_is_plain_sampling():
    chains, found = Chains(100, seed=7), []
    for top_p in (None, 1.0):
        torch.manual_seed(3)
        found.append(chains.search(Sample(top_p=top_p), 5))
    assert found[0] == found[1]


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Sample(top_p=0.9), Beam(3)], ids=str)
def test_after_the_end_there_is_padding_and_before_it_none(strategy):
    for row in Chains(100, spread=1.0, seed=8).search(strategy, 6):
        body = row[: row.index(EOS_ID)] if EOS_ID in row else row
        assert not {PAD_ID, BOS_ID} & set(body)
        assert set(row[len(body) + 1 :]) <= {PAD_ID}


def test_the_search_stops_when_all_rows_have_ended():
    asked = []

    def step(state, tokens):
        asked.append(tokens.tolist())
        return torch.tensor([[0.0, -50.0]]).expand(len(tokens), -1), state

    found = search(Greedy(), Given(step), rows=2, steps=100)
    assert found[:, 0].tolist() == [EOS_ID, EOS_ID]
    assert asked == [[BOS_ID, BOS_ID]]


@pytest.mark.parametrize("strategy", [Greedy(), Beam(3), Beam(2, 1.0)], ids=str)
def test_a_wrapped_tokenizer_keeps_its_own_ids(strategy):
    """Ids that end in padding, BOS and EOS: the same texts with the outcomes in another order."""
    chains, ids = Chains(50, symbols=3, seed=9), ReservedIds(pad=4, bos=5, eos=3, first_outcome=0)
    there = torch.tensor([4, 5, 3, 0, 1, 2])  # own id -> wrapped id
    back = there.argsort()

    def step(state, tokens):
        logits, state = chains.step(state, back[tokens])
        return torch.cat([logits[:, 1:], logits[:, :1]], dim=-1), state

    expected = torch.tensor(chains.search(strategy, 5))
    found = search(strategy, Given(step, chains.state()), 50, 5, ids)
    assert torch.equal(found, there[expected])


BAD = {
    "temperature 0": (lambda: Sample(temperature=0.0), "temperature must be .* got 0.0 .* the strategy greedy"),
    "temperature nan": (lambda: Sample(temperature=math.nan), "temperature must be a finite number"),
    "temperature inf": (lambda: Sample(temperature=math.inf), "temperature must be a finite number"),
    "top_k 0": (lambda: Sample(top_k=0), "top_k, the number of tokens to draw from, must be 1 or more; got 0"),
    "top_p 0": (lambda: Sample(top_p=0.0), r"top_p, .*, must be in \(0, 1\]; got 0.0"),
    "top_p 1.1": (lambda: Sample(top_p=1.1), r"must be in \(0, 1\]; got 1.1"),
    "top_p nan": (lambda: Sample(top_p=math.nan), r"must be in \(0, 1\]; got nan"),
    "width 0": (lambda: Beam(0), "the width of a beam must be 1 or more; got 0"),
    "negative penalty": (lambda: Beam(2, -0.1), "length_penalty must be a number from 0 to 10; got -0.1"),
    "penalty 11": (lambda: Beam(2, 11.0), "length_penalty must be a number from 0 to 10; got 11"),
    "penalty nan": (lambda: Beam(2, math.nan), "length_penalty must be a number from 0"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_strategies_have_names():
    assert [as_strategy(name) for name in STRATEGIES] == [Greedy(), Sample(), Beam()]
    assert as_strategy(Beam(7)) == Beam(7)
    with pytest.raises(UnknownNameError, match=r"'gready' \(did you mean 'greedy'\?\); known: beam, greedy, sample"):
        as_strategy("gready")


BROKEN = {"NaN": [0.0, math.nan, 0.0], "+inf": [0.0, math.inf, 0.0], "all forbidden": [-math.inf] * 3}


@pytest.mark.parametrize("strategy", [Sample(), Sample(temperature=0.5, top_k=2, top_p=0.9), Greedy(), Beam(2)])
@pytest.mark.parametrize("row", BROKEN.values(), ids=BROKEN)
def test_logits_that_are_no_numbers_end_in_one_message(strategy, row):
    """The second text diverges at its second token; that a token is forbidden is none of it."""

    def step(state, tokens):
        sound = torch.tensor([-math.inf, 0.0, 0.0]).expand(len(tokens), -1)
        broken = (state[0] == 1) & (tokens > EOS_ID)
        return torch.where(broken.unsqueeze(-1), torch.tensor(row), sound), state

    assert search(strategy, Given(step, (torch.zeros(2),)), rows=2, steps=3).shape == (2, 3)
    with pytest.raises(
        DivergedError, match=r"logits of tokens are NaN or infinite in \d of \d rows: the weights have .*lr"
    ):
        search(strategy, Given(step, (torch.arange(2),)), rows=2, steps=3)
