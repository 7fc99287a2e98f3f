"""Options of corpora: what is said about those that will not do, and that every one is explained."""

import pytest

from ppl_text.core.errors import ConfigError
from ppl_text.data.options import OPTIONS, SENTENCES, WORD_LIST, corpus_options


def message_of(unit, options, **more):
    with pytest.raises(ConfigError) as caught:
        corpus_options(unit, options, **more)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_lie_below_what_is_given():
    found = corpus_options(WORD_LIST, {"limit": None, "seed": 3}, {"limit": 5, "min_count": 10})
    assert (found.limit, found.min_count, found.seed, found.test_share) == (None, 10, 3, 0.1)
    assert hash(found) == hash(corpus_options(WORD_LIST, {"limit": None, "min_count": 10, "seed": 3}))


@pytest.mark.parametrize("unit", OPTIONS)
def test_every_option_says_what_it_means(unit):
    assert all(field.description for field in OPTIONS[unit].model_fields.values())


def test_all_errors_are_named_at_once():
    given = {"splt": "standard", "seed": -1, "limit": "many", "test_share": 1.0, "min_length": 9, "max_length": 3}
    message = message_of(WORD_LIST, {**given, "max_tokens": 3})
    assert message.startswith("corpus options:\n- ")
    for part in (
        "unknown key 'splt' (did you mean 'split'?); known here: split, seed, limit,",
        "(max_tokens: for sentences, data.unit=sentences)",
        "'seed': expected greater than or equal to 0; got -1 (seed of the division)",
        "'limit': expected a valid integer; got 'many' (keep only so many of the most frequent types; null: all)",
        "'test_share': expected less than 1; got 1.0 (share that goes to test)",
        "'max_length': expected min_length (9) or more; got 3",
    ):
        assert part in message
    for part in (
        "corpus options: unknown key 'data.min_lenght' (did you mean 'tokenizer'?)",
        "known here: corpus, tokenizer, ",
    ):
        assert part not in message


def test_the_place_in_a_recipe_stands_before_each_name():
    message = message_of(SENTENCES, {"batchsize": 2, "lower": "yes"}, section="data", others=["corpus", "batch_size"])
    assert "unknown key 'data.batchsize' (did you mean 'batch_size'?); known here: corpus, batch_size, tok" in message
    assert "'data.lower': expected a valid boolean; got 'yes' (lower-case the texts)" in message


WRONG = {
    WORD_LIST: {
        "split": ["both", ["standard"]],
        "seed": [True, 0.5, 2**64],
        "limit": [0],
        "min_count": [0],
        "min_length": ["2", 13],
        "test_share": ["0.1", 0, True],
        "test_tokens": [0, 1.5],
        "valid_share": [float("nan"), 1],
    },
    SENTENCES: {
        "tokenizer": ["words"],
        "vocabulary": [4],
        "max_tokens": [0],
        "long": ["cut"],
        "empty": [None],
        "lower": [1],
        "column": ["", 3],
        "valid_share": [0.9],
        "source_max_tokens": [0],
    },
}


@pytest.mark.parametrize(
    ("unit", "option", "value"),
    [(u, o, v) for u, options in WRONG.items() for o, values in options.items() for v in values],
)
def test_each_option_is_checked(unit, option, value):
    named = "max_length" if option == "min_length" and value == 13 else option
    assert f"corpus options: '{named}': expected " in message_of(unit, {option: value})


def test_options_that_do_not_go_together():
    assert "'vocabulary': expected 260 or more for bpe: 4 reserved symbols and 256 bytes; got 100" in message_of(
        SENTENCES, {"tokenizer": "bpe", "vocabulary": 100}
    )
    assert "'valid_share': expected less than 1 together with test_share (0.5); got 0.5" in message_of(
        SENTENCES, {"test_share": 0.5, "valid_share": 0.5}
    )
    assert "'source': expected another column than that of the text; got 'en'" in message_of(
        SENTENCES, {"column": "en", "source": "en"}
    )
