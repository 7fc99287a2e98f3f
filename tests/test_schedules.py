"""Schedules against values worked out by hand, and their faults."""

import itertools
import math

import pytest

from ppl_text.core.errors import ConfigError, UnknownNameError
from ppl_text.schedules import (
    SCHEDULES,
    build,
    constant,
    cyclical,
    exponential,
    in_steps,
    linear,
    logistic,
    restarts,
    warmup,
)

BY_HAND = {
    "constant": (constant, {"value": 0.3}, {0: 0.3, 10**6: 0.3}),
    "linear": (linear, {"start": 0.1, "end": 1.0, "steps": 90}, {0: 0.1, 1: 0.11, 45: 0.55, 90: 1.0, 91: 1.0}),
    "linear, falling": (linear, {"start": 5.0, "end": 1.0, "steps": 4}, {0: 5.0, 1: 4.0, 3: 2.0, 4: 1.0, 9: 1.0}),
    "linear, delayed": (
        linear,
        {"start": 0.1, "end": 5.0, "steps": 10, "delay": 10},
        {0: 0.1, 10: 0.1, 15: 2.55, 20: 5.0, 30: 5.0},
    ),
    "linear, jump": (linear, {"start": 0.0, "end": 1.0, "steps": 0, "delay": 3}, {2: 0.0, 3: 1.0}),
    "logistic": (
        logistic,
        {"midpoint": 4500, "width": 1000},
        # (1 + tanh(x)) / 2 = 1 / (1 + exp(-2x))
        {0: 1 / (1 + math.exp(9)), 4500: 0.5, 5500: 1 / (1 + math.exp(-2)), 10**6: 1.0},
    ),
    "logistic, the public code's": (
        logistic,
        {"midpoint": 4500, "width": 1000, "freeze_after": 3000},
        {3000: 0.0474258731775667, 3001: 0.0474258731775667, 10**6: 0.0474258731775667},
    ),
    # ten epochs of 20 updates; rises by 1 / (5 · 20) per update from 0.1
    "cyclical, PTB": (
        cyclical,
        {"period": 200, "rise": 0.45, "start": 0.1},
        {0: 0.1, 1: 0.11, 50: 0.6, 90: 1.0, 199: 1.0, 200: 0.1, 250: 0.6},
    ),
    "cyclical, DELLA": (
        cyclical,
        {"period": 200, "hold": 0.5, "rise": 0.25, "start": 1e-5},
        {0: 1e-5, 100: 1e-5, 125: (1 + 1e-5) / 2, 150: 1.0, 199: 1.0, 200: 1e-5},
    ),
    "cyclical, two cycles": (
        cyclical,
        {"period": 10, "cycles": 2},
        {0: 0.0, 5: 1.0, 10: 0.0, 19: 1.0, 20: 1.0, 21: 1.0},
    ),
    "warmup, cosine": (
        warmup,
        {"value": 0.8, "warmup_steps": 4, "steps": 12, "final": 0.2},
        {0: 0.2, 1: 0.4, 3: 0.8, 4: 0.8, 6: 0.5 + 0.3 * math.sqrt(0.5), 8: 0.5, 12: 0.2, 99: 0.2},
    ),
    "warmup, linear": (
        warmup,
        {"value": 1.0, "warmup_steps": 2, "steps": 12, "decay": "linear"},
        {0: 0.5, 1: 1.0, 2: 1.0, 7: 0.5, 12: 0.0, 13: 0.0},
    ),
    "warmup, none": (
        warmup,
        {"value": 1.0, "warmup_steps": 0, "steps": 2, "decay": "linear"},
        {0: 1.0, 1: 0.5, 2: 0.0},
    ),
    "exponential": (
        exponential,
        {"value": 0.8, "factor": 0.5, "period": 10, "final": 0.15},
        {0: 0.8, 9: 0.8, 10: 0.4, 19: 0.4, 20: 0.2, 30: 0.15, 10**6: 0.15},
    ),
    "restarts": (
        restarts,
        {"value": 0.8, "period": 8, "plateau": 2, "final": 0.2},
        {0: 0.8, 1: 0.8, 2: 0.5 + 0.3 * math.sqrt(0.5), 4: 0.5, 5: 0.5, 7: 0.5 - 0.3 * math.sqrt(0.5), 8: 0.8, 12: 0.5},
    ),
}


@pytest.mark.parametrize(("function", "arguments", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_values_worked_out_by_hand(function, arguments, expected):
    for step, value in expected.items():
        assert function(step, **arguments) == pytest.approx(value, rel=1e-12, abs=1e-15), step


@pytest.mark.parametrize(("function", "arguments", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_build_gives_the_same_function(function, arguments, expected):
    name = next(name for name, known in SCHEDULES.items() if known is function)
    schedule = build({"name": name, **arguments})
    for step in expected:
        assert schedule(step) == function(step, **arguments)


def test_the_end_is_reached_exactly():
    assert linear(3, start=0.1, end=0.7, steps=3) == 0.7
    assert cyclical(5, period=10, start=0.1, end=0.7) == 0.7
    assert warmup(9, value=0.3, warmup_steps=1, steps=9, final=0.1) == 0.1


def test_a_number_is_a_constant():
    assert build(0.25)(0) == build(0.25)(12345) == 0.25
    assert build(1)(3) == 1.0


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'linaer' \(did you mean 'linear'\?\)") as caught:
        build({"name": "linaer"})
    assert caught.value.exit_code == 2


BAD = {
    "no name": ({"steps": 3}, ["needs a name"]),
    "missing": ({"name": "linear", "end": 0}, ["'start' is missing", "'steps' is missing"]),
    "unknown and missing": (
        {"name": "linear", "start": 0, "end": 1, "step": 3},
        ["unknown argument 'step' (did you mean 'steps'?)", "'steps' is missing"],
    ),
    "types": (
        {"name": "linear", "start": "a", "end": None, "steps": True},
        [
            "'start' must be a finite number; got 'a'",
            "'end' must be a finite number",
            "'steps' must be a finite number",
        ],
    ),
    "range": (
        {"name": "cyclical", "period": 0, "rise": 2},
        ["'period' must be a number above 0", "'rise' must be a share"],
    ),
    "whole": ({"name": "cyclical", "period": 5, "cycles": 1.5}, ["'cycles' must be a whole number; got 1.5"]),
    "negative": ({"name": "linear", "start": 0, "end": 1, "steps": -1}, ["'steps' must be a number of 0 or more"]),
    "shares": ({"name": "cyclical", "period": 5, "hold": 0.7}, ["may not sum to more than 1"]),
    "warmup too long": ({"name": "warmup", "value": 1, "warmup_steps": 9, "steps": 3}, ["may not exceed 'steps' (3)"]),
    "decay": (
        {"name": "warmup", "value": 1, "warmup_steps": 0, "steps": 3, "decay": "square"},
        ["'decay' must be one of cosine, linear; got 'square'"],
    ),
    "not a number": (math.nan, ["'value' must be a finite number; got nan"]),
    "text": ("0.5", ["'value' must be a finite number; got '0.5'"]),
}


@pytest.mark.parametrize(("spec", "messages"), BAD.values(), ids=BAD)
def test_all_faults_are_named_at_once(spec, messages):
    with pytest.raises(ConfigError) as caught:
        build(spec)
    for message in messages:
        assert message in str(caught.value)
    assert caught.value.exit_code == 2


BATCHES = 37
"""Updates of an epoch."""


def in_epochs(**spec):
    return build(in_steps(spec, BATCHES))


def test_linear_annealing_over_ten_epochs_is_the_papers_at_every_edge():
    """Specification 0: kl_start to 1 over 10 epochs, (1 - kl_start) / (10 · an epoch's updates) more each update."""
    beta, weight = in_epochs(name="linear", epochs=10, start=0.1), 0.1
    for step in range(12 * BATCHES):
        assert beta(step) == pytest.approx(weight, abs=1e-12)
        weight = min(1.0, weight + 0.9 / (10 * BATCHES))
    assert beta(10 * BATCHES - 1) < 1.0
    assert beta(10 * BATCHES) == 1.0


def test_the_cyclical_recipe_is_the_papers_at_every_update():
    """Specification 0: β restarts at 0.1 every 10 epochs and rises by 1 / (5 · #batches) per step to 1."""
    beta = in_epochs(name="cyclical", period_epochs=10, start=0.1, rise=0.45)
    for step in range(25 * BATCHES):
        if step % (10 * BATCHES) == 0:
            weight = 0.1
        assert beta(step) == pytest.approx(weight, abs=1e-12), step
        weight = min(1.0, weight + 1 / (5 * BATCHES))


@pytest.mark.parametrize("epoch", [37, 100, 2.5])
def test_cycles_of_two_epochs_are_the_layerwise_papers(epoch):
    """Specification 2C: 1e-5 in the first epoch; linear to 1 over the first half of the second, then 1.

    ``epoch`` is no whole number where gradients are accumulated over batches.
    """
    spec = {"name": "cyclical", "period_epochs": 2, "hold": 0.5, "rise": 0.25, "start": 1e-5}
    beta = build(in_steps(spec, epoch))
    for cycle in (0, 1, 7):
        corners = {0: 1e-5, 0.4: 1e-5, 1: 1e-5, 1.25: (1 + 1e-5) / 2, 1.5: 1.0, 1.6: 1.0, 1.99: 1.0}
        for epochs, value in corners.items():
            assert beta((2 * cycle + epochs) * epoch) == pytest.approx(value, rel=1e-9), (cycle, epochs)
    rising = [beta(step) for step in range(math.ceil(epoch), math.floor(1.5 * epoch))]
    for before, after in itertools.pairwise(rising):
        assert after - before == pytest.approx((1 - 1e-5) / (epoch / 2))


def test_the_cyclical_rate_is_the_papers_in_every_epoch():
    """Specification 0: 0.5 · lr · (1 + cos π·((e-1) mod 10)/10) in epoch e = 1, 2, …"""
    rate = in_epochs(name="restarts", value=1e-3, period_epochs=10, plateau_epochs=1)
    for step in range(25 * BATCHES):
        epoch = 1 + step // BATCHES
        assert rate(step) == pytest.approx(0.5e-3 * (1 + math.cos(math.pi * ((epoch - 1) % 10) / 10)), rel=1e-12), step


def test_what_counts_no_epochs_stays_as_it_is():
    for spec in (0.5, {"name": "linear", "start": 0, "steps": 3}, {"name": "nobody", "epochs": 3}, "text"):
        assert in_steps(spec, None) == in_steps(spec, 5) == spec
    warm = {"name": "warmup", "value": 1, "warmup_epochs": 0.5, "epochs": 2}
    assert in_steps(warm, 10) == {"name": "warmup", "value": 1, "warmup_steps": 5.0, "steps": 20}
    assert warm["epochs"] == 2


def test_faults_of_epochs_are_named():
    line = {"name": "linear", "start": 0, "epochs": 3}
    with pytest.raises(ConfigError, match=r"'epochs': a word list .* has no epochs; give 'steps'"):
        in_steps(line, None)
    with pytest.raises(ConfigError, match="'epochs' and 'steps' are one argument in two units; give one"):
        in_steps({**line, "steps": 3}, 5)
    with pytest.raises(ConfigError, match="'epochs' must be a finite number; got 'x'"):
        in_steps({**line, "epochs": "x"}, 5)
    with pytest.raises(ConfigError, match=r"unknown argument 'period_epochs'.*\(epochs, delay_epochs in epochs\)"):
        build(in_steps({**line, "period_epochs": 3}, 5))
