"""Signals while validating, measuring and in aggressive training: obeyed between batches, resumed bit for bit."""

import io
import os
import signal
import time

import pytest

from ppl_text.core import printing
from ppl_text.core.errors import Interrupted
from ppl_text.core.signals import Stopped
from ppl_text.training.progress import PlainProgress, working_of
from ppl_text.training.stopping import StopSignals

from .conftest import equal, metrics
from .small_world import Elbo, held_out


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


class Validation:
    """Three batches; at the given batch, counted over all validations, a signal comes."""

    def __init__(self, moment=0):
        self.moment, self.given = moment, 0

    def __iter__(self):
        for batch in held_out(3):
            self.given += 1
            if self.given == self.moment:
                send(signal.SIGTERM)
            yield batch


@pytest.mark.parametrize("moment", [1, 2, 5, 9])
def test_a_validation_stops_between_batches_and_is_made_by_the_resumed_run(make, tmp_path, moment):
    whole = make(tmp_path / "whole", validation=Validation(), steps=12)
    whole.trainer.fit()
    data = Validation(moment)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step") as caught:
        make(tmp_path / "part", validation=data, steps=12).trainer.fit()
    assert caught.value.exit_code == 143
    assert data.given <= moment + 1  # it was not run to its end
    resumed = make(tmp_path / "part", validation=Validation(), steps=12)
    resumed.trainer.fit(resume=True)
    assert equal(resumed.parameters(), whole.parameters())
    assert metrics(tmp_path / "part") == metrics(tmp_path / "whole")
    names = ("model.safetensors", "checkpoints/best.pt")
    assert (tmp_path / "part" / names[0]).read_bytes() == (tmp_path / "whole" / names[0]).read_bytes()


class SlowMonitor:
    """A monitor that takes minutes, at its second call until a signal ends it."""

    def __init__(self, stops=True):
        self.calls, self.stops = 0, stops

    def __call__(self, model, guide):
        self.calls += 1
        if self.stops and self.calls == 2:
            send(signal.SIGINT)
            time.sleep(60)
        return {"calls": 1.0}


def test_a_monitor_that_takes_minutes_is_left_at_once(make, tmp_path):
    whole = make(tmp_path / "whole", monitor=SlowMonitor(stops=False))
    whole.trainer.fit()
    begun = time.monotonic()
    with pytest.raises(Interrupted, match="stopped by SIGINT after step 10 of 12; the state is saved in"):
        make(tmp_path / "part", monitor=SlowMonitor()).trainer.fit()
    assert time.monotonic() - begun < 50
    resumed = make(tmp_path / "part", monitor=SlowMonitor(stops=False))
    resumed.trainer.fit(resume=True)
    assert equal(resumed.parameters(), whole.parameters())
    assert metrics(tmp_path / "part") == metrics(tmp_path / "whole")


class Twice(Elbo):
    """Two signals come at the fifth update, which then would take minutes."""

    done = 0

    def __call__(self, model, guide, batch, beta=1.0):
        self.done += model.training
        if model.training and self.done == 5:
            send(signal.SIGINT, signal.SIGINT, *[signal.SIGINT] * 38)
            time.sleep(60)
        return super().__call__(model, guide, batch, beta)


def test_a_second_signal_ends_at_once(make, tmp_path):
    with pytest.raises(
        Interrupted, match="stopped at once by a second signal, SIGINT, after step 4; the last"
    ) as caught:
        make(tmp_path, objective=Twice()).trainer.fit()
    assert caught.value.exit_code == 130
    assert "step-00000003.pt" in str(caught.value)
    make(tmp_path).trainer.fit(resume=True)


def stopped_within():
    with StopSignals() as signals, signals.raising():
        send(signal.SIGTERM)
        time.sleep(5)


def test_the_handlers_before_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped):
        stopped_within()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_outside_of_a_raising_context_is_noted_only():
    with StopSignals() as signals:
        with signals.raising():
            pass
        send(signal.SIGTERM)
        time.sleep(0.01)
        assert signals.number == signal.SIGTERM
        with pytest.raises(Stopped):
            list(signals.polled([1, 2]))


def test_work_between_steps_shows_how_far_it_is(monkeypatch):
    stream = io.StringIO()
    progress = PlainProgress(stream)
    progress.working("validating", 1, 9)
    assert not stream.getvalue()  # done at once: no line
    monkeypatch.setattr(printing, "PAUSE", 0.0)
    progress.working("validating", 2, 9)
    progress.working("measuring", 0, 0)
    assert stream.getvalue() == "validating … 2/9\nmeasuring …\n"


def test_a_validation_and_a_monitor_show_how_far_they_are(make, tmp_path):
    made = make(tmp_path, steps=5, monitor=SlowMonitor(stops=False), validation=held_out(3))
    told = []
    made.trainer._working = lambda *far: told.append(far)
    made.trainer.fit()
    assert told == [*(("validating", n, 3) for n in (1, 2, 3)), ("measuring for the validation", 0, 0)]


def test_a_progress_of_ones_own_need_not_show_work():
    working_of(object())("validating", 1, 2)
