"""A table whose rows train in a fraction of a second."""

import pytest
import yaml

from ppl_text.tables.table import parse_table

MEASURE = {"sentences": 40, "particles": 4, "trajectories": 300, "gap_words": 6, "gap_draws": 20, "samples": 30}


@pytest.fixture(scope="session")
def tiny_tree(tiny):
    """The tree of a table with a state-space row, a baseline and the oracle, on the tiny word list."""
    chain = {key: value for key, value in tiny.items() if not key.startswith(("model.", "guide."))}
    sizes = {key: value for key, value in tiny.items() if key not in chain}
    return {
        "title": "Tiny",
        "source": "none",
        "corpus": "words",
        "measure": "words",
        "groups": {"g": "All: of it"},
        "columns": [{"key": "test", "title": "H"}, {"key": "gap", "title": "gap"}],
        "budgets": {"small": {"about": "20 steps", "set": chain, "measure": MEASURE}},
        "rows": [
            {"name": "chain", "title": "chain", "group": "g", "recipe": "words", "set": sizes},
            {"name": "gru", "title": "gru", "group": "g", "recipe": "words-gru8"},
            {"name": "oracle", "title": "oracle", "group": "g"},
        ],
    }


@pytest.fixture(scope="session")
def tiny_table(tiny_tree):
    """The same, read."""
    return parse_table("tiny", yaml.safe_dump(tiny_tree))
