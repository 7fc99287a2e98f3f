"""The table of all families: what a step is made of is counted right, ratios and shares follow, nothing is left out."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import families, limits, page, race, table
from benchmarks.contestants import COMPILED, OURS, STOCK, WAYS, build
from benchmarks.families import FAMILIES, Kind, Missing
from benchmarks.limits import Rates, Work
from benchmarks.peers import Words
from ppl_text.models import MODELS

TINY = ["--sizes", "try", "--rounds", "3", "--steps", "1", "--warmup", "1"]
KINDS = [(family, name) for family, kinds in FAMILIES.items() for name in kinds]


@pytest.fixture(autouse=True)
def _small_machine(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured of a machine is measured on little, and by one thread."""
    monkeypatch.setattr(race, "limit_threads", lambda threads: 1)
    monkeypatch.setattr(limits, "PRODUCT", {"cpu": 32})
    monkeypatch.setattr(limits, "COPIED", {"cpu": 1_000})


def small(family: str, name: str) -> tuple[Any, Any, Any]:
    """Our contestant of the tiny form, its batch, and its sizes."""
    kind = FAMILIES[family][name]
    ours = build(OURS, 0, "cpu", kind.contestants, *kind.given("try"))
    return ours, ours.prepare(kind.batch(kind.sizes["try"])), kind.sizes["try"]


def test_operations_of_a_language_model_are_those_of_a_hand_count() -> None:
    """Four gates of embedding and state, and the vocabulary; twice that on the way back, and the bias as a product."""
    ours, batch, sizes = small("language_model", "lstm")
    tokens, outcomes = 32 * 24, sizes.vocabulary - 2
    products = 4 * sizes.hidden * (sizes.embedding + sizes.hidden) + sizes.hidden * outcomes
    assert limits.work_of(ours, batch).operations == 3 * 2 * tokens * products + 2 * tokens * outcomes


def test_operations_of_a_transformer_are_those_of_a_hand_count() -> None:
    """Twelve H² a token and block, attention of all pairs, the vocabulary; twice that on the way back."""
    ours, batch, sizes = small("layerwise_transformer", "none")
    tokens, outcomes = sizes.batch * sizes.steps, sizes.vocabulary - 2
    block = 12 * sizes.width**2 + 2 * sizes.steps * sizes.width
    assert limits.work_of(ours, batch).operations == 3 * 2 * tokens * (sizes.layers * block + sizes.width * outcomes)


def test_operations_of_hand_written_gradients_are_counted() -> None:
    """Ours makes the gradient of the softmax itself, that of the bias by a product; the loop leaves it to autograd."""
    kind = FAMILIES["language_model"]["lstm"]
    loop = build("PyTorch loop", 0, "cpu", kind.contestants, *kind.given("try"))
    counted = limits.work_of(loop, loop.prepare(kind.batch(kind.sizes["try"]))).operations
    ours, batch, sizes = small("language_model", "lstm")
    assert limits.work_of(ours, batch).operations == counted + 2 * 32 * 24 * (sizes.vocabulary - 2)


def test_what_the_counter_does_not_see() -> None:
    x, weight = torch.randn(4, 5), torch.randn(6, 5)
    assert limits.count_operations(lambda: x.exp().softmax(-1).sum()) == 0
    assert limits.count_operations(lambda: F.linear(x, weight)) == 2 * 4 * 5 * 6


def test_bytes_are_those_of_parameters_gradients_state_and_what_is_kept() -> None:
    ours, batch, _ = small("language_model", "lstm")
    found = limits.work_of(ours, batch).bytes
    parameters = sum(parameter.numel() for parameter in ours.parameters)
    at_least = 2 * 4 * parameters * 4  # itself, its gradient and two moments of Adam, four bytes each, there and back
    longer = ours.prepare(Words(np.full((64, 24), 3), np.full(64, 24)))
    assert at_least < found < limits.work_of(ours, longer).bytes < 2 * found


def test_the_limit_is_the_longer_of_the_two_times() -> None:
    rates = Rates({"float32": 10.0, "bf16": 100.0}, 5.0)
    assert Work(40, 10).limit(rates) == (4.0, "products")
    assert Work(40, 10).limit(rates, "bf16") == (2.0, "bytes")


def test_a_machine_is_measured_by_its_best_time() -> None:
    """By a clock that is slow at first: a product takes 8 s and then 2, as does a copy, which reads and writes."""
    ticks = itertools.chain.from_iterable((0.0, 8.0 if turn == 0 else 2.0) for turn in range(2 * limits.REPEATS))
    assert limits.measure_rates(clock=lambda: next(ticks)) == ({"float32": 32**3}, 4_000.0)


def test_every_family_is_there_with_peers_that_exist_or_the_reason() -> None:
    assert FAMILIES.keys() == set(MODELS)
    for family, name in KINDS:
        kind = FAMILIES[family][name]
        assert kind.peers.keys() == page.PEERS.keys()
        assert kind.sizes.keys() >= set(families.SIZES)
        for found in kind.peers.values():
            assert found.reason if isinstance(found, Missing) else found in kind.contestants


def test_rows_agree_with_their_rounds(tmp_path, capsys, monkeypatch) -> None:
    """And the page with the file: what ran has figures, what cannot run here says what would run it."""
    family, name = "language_model", "lstm"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = tmp_path / "table.json"
    table.main([family, *TINY, "--clock", "processor", "--json", str(file)])
    report = json.loads(file.read_text(encoding="utf-8"))
    kind = report["families"][family][name]
    rows = kind["rows"]
    ours, peer = rows[OURS], rows[FAMILIES[family][name].peers["loop"]]
    assert ours["status"] == peer["status"] == rows["ours, in the trainer"]["status"] == rows[STOCK]["status"] == "run"
    assert ours["tokens_per_second"] == pytest.approx(kind["tokens"] / ours["seconds"], rel=1e-3)
    assert ours["share"] == pytest.approx(kind["limit"]["seconds"] / ours["seconds"], rel=1e-3)
    middle = sorted(theirs / own for theirs, own in zip(peer["rounds"], ours["rounds"], strict=True))[1]
    assert ours["ratios"]["loop"]["ratio"] == pytest.approx(middle, rel=1e-3)
    assert "ratios" not in peer
    for captured in ("ours, captured", "ours, captured, bf16"):
        command = f"python -m benchmarks.table {family} --sizes try --device cuda"
        assert rows[captured] == {"status": "not run", "command": command}
    assert len(report["load_average"]) == 2
    assert report["environment"]["commit"]
    shown = capsys.readouterr().out
    assert shown.rstrip() == page.table_markdown(report)
    assert f"`{command}`" in shown
    assert f"`python -m benchmarks.table {family} --sizes try --rounds 3 --steps 1 --warmup 1 --clock proc" in shown


def test_one_that_fails_costs_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(name: str, *rest: Any) -> Any:
        if name == "ours, in the trainer":
            raise RuntimeError("CUDA out of memory\nand more")
        return build(name, *rest)

    monkeypatch.setattr(table, "build", breaking)
    kind = FAMILIES["language_model"]["lstm"]
    found = table.measure("language_model", kind, settings())["rows"]
    assert found["ours, in the trainer"] == {"status": "failed", "reason": "CUDA out of memory"}
    assert found[OURS]["status"] == "run"


def settings(device: str = "cpu") -> table.Settings:
    return table.Settings("try", device, 1, 1, 1, "processor", Rates({"float32": 1e9, "bf16": 2e9}, 1e9))


def test_a_missing_package_is_told_with_the_command_that_installs_it() -> None:
    assert table.not_run("sentence_vae", families.JAX, settings())["command"] == (
        "pip install numpyro jax && python -m benchmarks.table sentence_vae --sizes try --device cpu"
    )
    assert "jax[cuda13]" in table.not_run("sentence_vae", families.JAX, settings("cuda"))["command"]


def test_what_computes_less_has_no_share_and_bf16_has_its_own_rate_and_peer() -> None:
    kind = FAMILIES["layerwise_transformer"]["value"]
    peer = kind.peers["loop"]
    seconds = {OURS: [2.0], "ours, captured, bf16": [1.0], peer: [4.0], f"{peer}, bf16": [3.0]}
    work, rates = Work(10, 1), Rates({"float32": 10.0, "bf16": 20.0}, 100.0)
    assert table.share(peer, seconds, kind, work, rates) is None
    assert table.share(OURS, seconds, kind, work, rates) == 0.5
    assert table.share("ours, captured, bf16", seconds, kind, work, rates) == 0.5
    assert table.ratios(OURS, seconds, kind)["loop"]["ratio"] == 2.0
    assert table.ratios("ours, captured, bf16", seconds, kind)["loop"]["ratio"] == 3.0
    assert f"{peer}, bf16" in table.raced_names(kind, settings("cuda"))


def kind_of(**changes: Any) -> dict[str, Any]:
    figures = {"status": "run", "seconds": 0.0123, "tokens_per_second": 62_400.0, "peak_bytes": 2_500_000}
    ratios = {"loop": {"ratio": 1.1, "low": 1.0, "high": 1.2}}
    kind = {
        "tokens": 768,
        "alike": True,
        "limit": {"operations": 3_000_000_000, "bytes": 5_000_000, "seconds": 0.006, "of": "products"},
        "missing": {"jax": {"status": "not applicable", "reason": "none"}},
        "rows": {
            OURS: {**figures, "share": 0.487, "ratios": ratios},
            "ours, captured": {"status": "not run", "command": "run it"},
            "ours, captured, bf16": {"status": "not run", "command": "run it"},
            "PyTorch loop": {**figures, "share": None, "peak_bytes": None},
        },
    }
    return {**kind, **changes}


def test_the_page_says_all_of_a_report() -> None:
    report = {
        "command": "python -m benchmarks.table",
        "clock": "wall",
        "rounds": 9,
        "load_average": [2.0, 1.0],
        "environment": {
            "device": "cpu",
            "cuda": None,
            "threads": 1,
            "cpu": "CPU",
            "python": "3.11",
            "commit": "abcdefghij",
            "packages": {"torch": "2.13.0", "jax": "not installed"},
        },
        "rates": {"operations": {"float32": 9e10}, "bytes": 2e10},
        "families": {"f": {"k": kind_of(), "l": kind_of(alike=False)}},
    }
    text = page.table_markdown(report)
    work = "768 tokens, 3.00 GFLOP, 5 MB, at least 6.00 ms for its products"
    assert f"| **`f`, k**: {work} |" in text
    assert f"| **`f`, l**: {work}; (b) has nothing latent and computes less |" in text
    assert "| **ours** | 12.3 | 62,400 | 2.5 | not run | 1.10 (1.00–1.20) | not applicable | 49 % |" in text
    assert "| ours, captured; ours, captured, bf16 not run: `run it` |" in text
    assert "| PyTorch loop | 12.3 | 62,400 |  |  |  |  |  |" in text
    assert "- (c) NumPyro, jitted, not applicable: none (`f`, k; `f`, l)." in text
    assert "load average 1.0 to 2.0, commit `abcdefg`; Python 3.11, torch 2.13.0." in text
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert columns == {len(page.HEADER) + 1}


def test_a_wrong_family_or_device_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, said in (
        (["words"], "FAMILY: expected one of deep_state_space, sentence_vae, "),
        (["--device", "cuda"], "--device cuda: no CUDA GPU is visible to torch"),
    ):
        with pytest.raises(SystemExit) as left:
            table.main(arguments)
        assert left.value.code == 2
        assert said in capsys.readouterr().err


def test_kinds_of_one_size_are_built_without_sizes() -> None:
    assert Kind({}, {"try": None}, lambda sizes: None, {}).given("try") == []


def test_our_ways_are_the_races() -> None:
    for family, name in KINDS:
        assert FAMILIES[family][name].contestants.keys() >= {OURS, *WAYS} - {COMPILED}
    assert race.CLOCKS.keys() == {"wall", "processor"}
