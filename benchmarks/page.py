"""The tables of the speed page, made from the JSON files that the benchmarks write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PEERS = {"stock": "(a) stock Pyro", "loop": "(b) hand-written loop", "jax": "(c) NumPyro, jitted"}
"""The kinds of peers, and what they are called."""

HEADER = ("one training step", "ms", "tokens/s", "peak MB", *PEERS.values(), "of the limit")
EMPTY = len(HEADER) - 1


def table_markdown(report: Mapping[str, Any]) -> str:
    """Return the table of all families as Markdown, why peers are missing, and where it was made.

    A ratio is the peer's time divided by the row's, the median over rounds, with its 95 % interval: above 1 the row is
    faster. The limit stands beside the name of each kind of training. What has not run for one reason is one row.
    """
    lines = ["| " + " | ".join(HEADER) + " |", "| --- " + "| ---: " * EMPTY + "|"]
    for title, kind in _kinds(report):
        lines.append(f"| **{title}**: {_said_of(kind)} |{' |' * EMPTY}")
        lines.extend("| " + " | ".join(cells) + " |" for cells in _rows(kind))
    return "\n".join([*lines, "", *_reasons(report), "", where(report)])


def _kinds(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for family, kinds in report["families"].items():
        for name, kind in kinds.items():
            yield f"`{family}`, {name}", kind


def _said_of(kind: Mapping[str, Any]) -> str:
    limit = kind["limit"]
    work = f"{kind['tokens']:,} tokens, {limit['operations'] / 1e9:.2f} GFLOP, {limit['bytes'] / 1e6:,.0f} MB"
    less = "" if kind["alike"] else "; (b) has nothing latent and computes less"
    return f"{work}, at least {1e3 * limit['seconds']:.2f} ms for its {limit['of']}{less}"


def _rows(kind: Mapping[str, Any]) -> Iterator[list[str]]:
    waiting: dict[str, list[str]] = {}
    for name, row in kind["rows"].items():
        if row["status"] == "run":
            yield ["**ours**" if name == "ours" else name, *_figures(row, kind["missing"])]
        else:
            what = f"`{row['command']}`" if "command" in row else row["reason"]
            waiting.setdefault(f"{row['status']}: {what}", []).append(name)
    for why, names in waiting.items():
        yield ["; ".join(names) + f" {why}", *[""] * EMPTY]


def _figures(row: Mapping[str, Any], missing: Mapping[str, Any]) -> list[str]:
    peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.1f}"
    share = "" if row["share"] is None else f"{100 * row['share']:.0f} %"
    ratios = [""] * len(PEERS)
    if "ratios" in row:
        ratios = [missing[peer]["status"] if peer in missing else _ratio(row["ratios"].get(peer)) for peer in PEERS]
    return [f"{1e3 * row['seconds']:.1f}", f"{row['tokens_per_second']:,.0f}", peak, *ratios, share]


def _ratio(found: Mapping[str, float] | None) -> str:
    return "not run" if found is None else f"{found['ratio']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _reasons(report: Mapping[str, Any]) -> list[str]:
    """Say once why there is no peer of a kind, and for what."""
    found: dict[str, list[str]] = {}
    for title, kind in _kinds(report):
        for peer, why in kind["missing"].items():
            found.setdefault(f"{PEERS[peer]}, {why['status']}: {why['reason']}", []).append(title)
    return [f"- {why} ({'; '.join(titles)})." for why, titles in found.items()]


def where(report: Mapping[str, Any]) -> str:
    """Return where a report was made and under which load: a sentence or two."""
    place, rates = report["environment"], report["rates"]
    products = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates["operations"].items())
    return (
        f"{made(report)} Measured: matrix products at {products}; copies at {rates['bytes'] / 1e9:,.1f} GB/s, "
        f"read and written, {'on the card' if place['device'] != 'cpu' else 'of the memory'}."
    )


def made(report: Mapping[str, Any]) -> str:
    """Return command, machine, clock, load and versions of any report."""
    place = report["environment"]
    card = f"{place['device']}, CUDA {place['cuda']}; " if place["device"] != "cpu" else ""
    threads = f"{place['threads']} thread{'s' if place['threads'] > 1 else ''}"
    low, high = min(report["load_average"]), max(report["load_average"])
    packages = ", ".join(f"{name} {version}" for name, version in place["packages"].items() if version[0].isdigit())
    return (
        f"`{report['command']}`: {card}{place['cpu']}, {threads}, {report['clock']} time, {report['rounds']} "
        f"interleaved rounds, load average {low:.1f} to {high:.1f}, commit `{place['commit'][:7]}`; "
        f"Python {place['python']}, {packages}."
    )


def growth_markdown(report: Mapping[str, Any]) -> str:
    """Return how cost grows as a Markdown table: from the first value to the last, and at which power at its end.

    The power is that between the last two values: 1 where twice as much of it takes twice as long.
    """
    lines = [
        "| what grows | of | time | power at last | peak memory | power at last |",
        "| --- | --- " + "| ---: " * 4 + "|",
    ]
    for axis in report["axes"].values():
        values = axis["values"]
        span = f"{axis['label']}, {values[0]:,} to {values[-1]:,}"
        for name, line in axis["lines"].items():
            time = [f"{1e3 * value:,.1f}" for value in (line["seconds"][0], line["seconds"][-1])]
            peak = [f"{value / 1e6:,.1f}" for value in (line["peak_bytes"][0], line["peak_bytes"][-1])]
            powers = [_power(values, line[key]) for key in ("seconds", "peak_bytes")]
            cells = [span, name, f"{time[0]} to {time[1]} ms", powers[0], f"{peak[0]} to {peak[1]} MB", powers[1]]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", made(report)])


def _power(values: Sequence[float], costs: Sequence[float]) -> str:
    """Return ln of the costs' last ratio over ln of the values'; nothing where there is none."""
    if len(values) < 2 or min(costs[-2:]) <= 0:
        return ""
    return f"{math.log(costs[-1] / costs[-2]) / math.log(values[-1] / values[-2]):.2f}"
