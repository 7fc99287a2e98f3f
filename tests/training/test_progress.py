"""What the user sees, and what metrics.jsonl keeps."""

import errno
import io
import json
import math
import os
import pty
import re
import threading
from dataclasses import replace

import pytest

from ppl_text.core.errors import CheckpointError
from ppl_text.training.progress import (
    BarProgress,
    PlainProgress,
    Quiet,
    describe_step,
    describe_validation,
    duration,
    make_progress,
)
from ppl_text.training.records import Clock, MetricsFile, StepRecord, ValidationRecord

STEP = StepRecord(
    step=1500,
    total=10_000,
    bound=-12.3456,
    kl=3.25,
    log_likelihood=-9.0956,
    loss=12.0,
    beta=0.5,
    lr=1e-3,
    grad_norm=1.5,
    seconds=15.0,
    steps_per_second=100.0,
    sentences_per_second=12_800.0,
)
VALID = ValidationRecord(1500, -12.5, -2.5, 3.0, -9.5, sentences=1000.0, tokens=5000.0, best=True, seconds=15.5)


def show(progress):
    progress.message("resumed from a file")
    progress.start(10_000, 1400)
    progress.message("a table [with brackets]\nof two lines")
    progress.step(STEP)
    progress.validation(VALID)
    progress.close()


def test_plain_lines_have_bound_kl_rate_and_time_left():
    stream = io.StringIO()
    show(make_progress(stream))
    lines = stream.getvalue().splitlines()
    assert lines.pop(0) == "resumed from a file"
    assert lines[0] == "training: 10,000 steps, 1,400 of them done before"
    assert lines[1:3] == ["a table [with brackets]", "of two lines"]
    assert lines[3] == (
        "step 1,500/10,000  bound -12.346 nats/sentence  KL 3.250  100.0 steps/s  12,800 sentences/s  left 1:25"
    )
    assert lines[4] == ("validation at step 1,500: bound -12.500 nats/sentence (-2.500 nats/token)  KL 3.000  (best)")
    assert len(lines) == 5


def test_the_validation_line_takes_up_what_was_monitored_while_it_fits():
    plain = describe_validation(VALID)
    one = describe_validation(replace(VALID, monitor={"entropy_gap": 1.07}))
    assert one == plain.replace("  (best)", "  entropy gap 1.070  (best)")
    long = replace(VALID, monitor={"x" * 60: 1.0, "gap": 2.0})
    assert describe_validation(long) == plain.replace("  (best)", "  gap 2.000  (best)")
    many = describe_validation(replace(VALID, monitor={f"entropy {n}": float(n) for n in range(9)}))
    assert len(many) <= 120
    assert "entropy 0 0.000" in many
    assert many.endswith("  (best)")


def test_lists_are_for_the_file_and_not_for_the_line(tmp_path):
    record = replace(VALID, monitor={"kl_by_dimension": [0.5, math.inf], "active units": 3.0}, stage="two")
    assert describe_validation(record) == describe_validation(replace(VALID, monitor={"active units": 3.0}))
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(record)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["monitor"] == {"kl_by_dimension": [0.5, None], "active units": 3.0}
    assert (line["stage"], "stage" in STEP.as_json()) == ("two", False)
    assert replace(STEP, stage="one", counted={"encoder_updates": 7}).as_json().items() >= {
        "stage": "one", "encoder_updates": 7
    }.items()  # fmt: skip


def test_beside_an_infinite_bound_stands_what_the_training_goes_by():
    infinite = {"bound": -math.inf, "kl": math.inf}
    assert "bound -inf, log-likelihood -9.096 nats/sentence  KL inf" in describe_step(replace(STEP, **infinite))
    line = describe_validation(replace(VALID, bound_per_token=-math.inf, **infinite))
    assert "bound -inf, log-likelihood -9.500 nats/sentence (-inf nats/token)  KL inf  (best)" in line


def read_all(descriptor):
    """All that comes from a pseudo-terminal until its other side is closed, which Linux reports as an error."""
    parts = []
    with os.fdopen(descriptor, "rb", buffering=0) as screen:
        try:
            while part := screen.read(4096):
                parts.append(part)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
    return b"".join(parts)


def test_a_terminal_gets_a_live_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = pty.openpty()
    seen = []
    reader = threading.Thread(target=lambda: seen.append(read_all(ours)))
    reader.start()
    with os.fdopen(theirs, "w") as stream:
        before = threading.active_count()
        progress = make_progress(stream)
        assert isinstance(progress, BarProgress)
        show(progress)
        assert threading.active_count() == before
    reader.join()
    text = seen[0].decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    for part in (
        "1500/10000 bound -12.346 nats  KL 3.25  100 steps/s  left 1:25",
        "resumed from a file",
        "a table [with brackets]",
    ):
        assert part in plain
    assert "validation at step 1,500: bound -12.500" in plain


def test_a_bar_that_never_started_can_be_closed(monkeypatch):
    from rich.console import Console

    BarProgress(Console(file=io.StringIO(), force_terminal=True)).close()


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, os.fdopen(ours, "rb"):
        assert isinstance(make_progress(stream), PlainProgress)


def test_quiet_says_nothing(capfd):
    show(Quiet())
    assert capfd.readouterr() == ("", "")


def test_durations():
    assert [duration(s) for s in (0, 59.6, 61, 3600, 90_061)] == ["0:00", "1:00", "1:01", "1:00:00", "25:01:01"]


def test_metrics_are_strict_json_in_order(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(STEP)
    file.append(VALID)
    file.sync()
    step, valid = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert step["split"] == "train"
    assert step["step"] == 1500
    assert {"bound", "kl", "log_likelihood", "loss", "beta", "lr", "grad_norm", "seconds"} <= step.keys()
    assert valid["split"] == "valid"
    assert valid["bound_per_token"] == -2.5
    assert "monitor" not in valid


def test_what_was_monitored_is_an_object_of_its_own(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(replace(VALID, monitor={"gap": 1.5, "odd": math.inf}))
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["monitor"] == {"gap": 1.5, "odd": None}


def test_what_json_does_not_know_becomes_null(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(ValidationRecord(1, -math.inf, math.nan, 3.0, -9.5, 1.0, 5.0))

    def refuse(token):
        raise AssertionError(token)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line["bound"] is None
    assert line["bound_per_token"] is None
    assert line["kl"] == 3.0


@pytest.mark.parametrize("tail", [b'{"step": 3, "spl', b'{"step": 2, "split": "train"}', b"\xff\xfe\n", b"[1]\n"])
def test_lines_after_a_step_and_broken_lines_are_cut(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    good = b"".join(b'{"step": %d, "split": "train"}\n' % s for s in (1, 2))
    path.write_bytes(good + b'{"step": 3, "split": "train"}\n' + tail)
    MetricsFile(path).cut_after(2)
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_metrics_that_need_no_cut_are_not_touched(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.cut_after(5)
    file.sync()
    assert not file.path.exists()
    file.append(STEP)
    before = file.path.stat().st_ino
    file.cut_after(1500)
    assert file.path.stat().st_ino == before


def test_metrics_that_cannot_be_written_are_a_message(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*metrics.jsonl: No such file"):
        MetricsFile(tmp_path / "missing" / "metrics.jsonl").append(STEP)


def test_a_clock_that_goes_back_makes_no_time_negative(monkeypatch):
    now = 100.0
    monkeypatch.setattr("ppl_text.training.records.time.perf_counter", lambda: now)
    clock = Clock()
    clock.start(50.0, 10)
    shown = []
    for now in (104.0, 80.0, 80.0, 81.0, 20.0):  # noqa: B007 - read by the clock
        shown.append((clock.seconds, clock.rate(len(shown) * 10 + 20)))
    assert [seconds for seconds, _ in shown] == [54.0, 54.0, 54.0, 55.0, 55.0]
    assert [rate for _, rate in shown] == [2.5, 2.5, 2.5, 10.0, 10.0]


def test_a_rate_that_nobody_knows_is_not_shown(monkeypatch):
    monkeypatch.setattr("ppl_text.training.records.time.perf_counter", lambda: 7.0)
    clock = Clock()
    rate = clock.rate(10)
    record = replace(STEP, steps_per_second=rate, sentences_per_second=rate)
    assert math.isnan(record.seconds_left)
    assert describe_step(record).endswith("KL 3.250  left unknown")
    assert "nan" not in describe_step(record)


def test_the_clock_counts_on_and_gives_the_rate_since_the_last_record(monkeypatch):
    now = 100.0
    monkeypatch.setattr("ppl_text.training.records.time.perf_counter", lambda: now)
    clock = Clock()
    clock.start(50.0, 10)
    now = 104.0
    assert clock.seconds == 54.0
    assert clock.rate(18) == 2.0
    now = 105.0
    assert clock.rate(28) == 10.0
    assert clock.seconds == 55.0
