"""Shared by the benchmark suites: the same threads for everybody, and the interleaved race's table."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import race
from benchmarks.contestants import available

TABLES = pytest.StashKey[dict[str, str]]()
"""Tables of the interleaved races by title."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--race-threads 1`` where other programs want the second CPU."""
    parser.addoption("--race-threads", type=int, help="CPUs and threads for all contestants (default: all there are)")


def pytest_configure(config: pytest.Config) -> None:
    """No race has been run yet."""
    config.stash[TABLES] = {}


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    """Threads of torch and of JAX: one for each CPU that the process may use."""
    return race.limit_threads(request.config.getoption("--race-threads"))


@pytest.fixture(scope="session")
def standings(request: pytest.FixtureRequest, threads: int) -> dict[str, race.Standing]:
    """Ratios of an interleaved race; medians of runs made one after the other drift with the machine's load."""
    raced = race.run(available(), rounds=20, steps=5, warmup=20)
    rows = race.standings(raced.seconds)
    title = "side by side: one training step, B=128, T=13, D=8"
    request.config.stash[TABLES][title] = f"{race.table(rows, raced.peaks)}\n\n{threads} threads each"
    return {row.name: row for row in rows}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the interleaved ratios under pytest-benchmark's own table."""
    for title, table in config.stash[TABLES].items():
        terminalreporter.section(title)
        terminalreporter.write_line(table)
