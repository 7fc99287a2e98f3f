"""What is recorded, when, and what happens where that cannot be; the recorder itself is a device's (``tests/gpu``)."""

import gc
import traceback
import warnings
from contextlib import contextmanager

import pyro
import pytest
import torch

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.data.batches import collate
from ppl_text.training import capture
from ppl_text.training.capture import Captured, innermost_line


def batch(texts=2, steps=4, source=False):
    made = collate([[3, 4]] * texts, torch.ones(texts), steps, texts)
    return Batch(made.tokens, made.lengths, made.weights, made.decoder_inputs, made if source else None)


class Tape:
    """Records a run by keeping it, and counts."""

    whole, takes = True, ""

    def __init__(self, waits=(), fails=False):
        self.waits, self.fails, self.recorded, self.replays = list(waits), fails, 0, 0

    def eagerly(self, run):
        return run()

    @contextmanager
    def watched(self):
        yield self.waits

    def record(self, run):
        if self.fails:
            raise RuntimeError("operation not permitted\nwhen a stream is captured")
        self.recorded += 1
        total = torch.zeros(())

        def replay():
            self.replays += 1
            return total.copy_(run())

        return replay


@pytest.fixture(autouse=True)
def _not_validated():
    with pyro.validation_enabled(False):
        yield


def total(given, factor=1.0):
    return factor * given.tokens.sum().float()


def made(graphs, function=total):
    said = []
    return Captured(function, graphs, said.append), said


def test_a_shape_is_recorded_at_its_second_call_and_reads_every_later_batch():
    tape = Tape()
    step, said = made(tape)
    for number in range(1, 5):
        given = batch()
        given.tokens.fill_(number)
        assert float(step(given)) == number * given.tokens.numel()
    assert (tape.recorded, tape.replays, said) == (1, 3, [])
    step(batch(steps=6))
    step(batch(steps=6))
    step(batch(), 2.0)
    step(batch(), 2.0)
    assert tape.recorded == 3
    assert len(step.recorded) == 3


def test_a_source_is_part_of_the_shape_and_is_read():
    step, _ = made(Tape(), lambda given: given.source.tokens.sum().float())
    for number in range(3):
        given = batch(source=True)
        given.source.tokens.fill_(number)
        assert float(step(given)) == number * given.source.tokens.numel()


def test_nothing_is_recorded_under_validation_or_without_a_recorder():
    tape = Tape()
    step, _ = made(tape)
    with pyro.validation_enabled(True):
        for _ in range(3):
            step(batch())
    assert tape.recorded == 0
    plain, _ = made(None)
    assert [float(plain(batch())) for _ in range(3)] == [float(total(batch()))] * 3


def test_what_was_recorded_is_forgotten_when_asked():
    tape = Tape()
    step, _ = made(tape)
    step(batch()), step(batch())
    step.forget()
    step(batch()), step(batch())
    assert tape.recorded == 2


@pytest.mark.parametrize(
    ("tape", "text"),
    [
        (
            Tape(waits=["the host waits for the device at FILE:1, in f"]),
            "the host waits for the device at FILE:1, in f",
        ),
        (Tape(fails=True), "operation not permitted (at "),
    ],
)
def test_what_cannot_be_recorded_is_said_once_and_runs_as_it_stands(tape, text):
    step, said = made(tape)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert [float(step(batch())) for _ in range(4)] == [float(total(batch()))] * 4
    assert len(said) == 1
    assert said[0].startswith(f"not captured as a graph, step by step instead: {text}")
    assert torch.equal(torch.get_rng_state(), before)


def test_only_a_wait_is_noted_as_one_and_torchs_notice_of_the_mode_itself_is_not(monkeypatch):
    def set_mode(mode):
        if mode == "warn":
            warnings.warn(
                "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing "
                "operations (Triggered internally at torch/csrc/cuda/Module.cpp:1)",
                stacklevel=2,
            )

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    graphs = object.__new__(capture.CudaGraphs)
    with graphs.watched() as waits:
        total(batch())
    assert waits == []
    with graphs.watched() as waits:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at f.cpp:1)", stacklevel=2)
    assert len(waits) == 1
    assert waits[0].startswith("the host waits for the device at ")


def test_recordings_share_a_pool_until_the_last_of_them_is_dropped(monkeypatch):
    class Graph:
        def replay(self):
            return None

    used, handles = [], iter(range(10))

    @contextmanager
    def recording(graph, pool, stream):
        used.append(pool)
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    graphs = capture.CudaGraphs(torch.device("cuda"))
    first, second = graphs.record(lambda: 1), graphs.record(lambda: 2)
    del first
    third = graphs.record(lambda: 3)
    del second, third
    gc.collect()
    graphs.record(lambda: 4)
    assert used == [0, 0, 0, 1]


def test_a_generator_that_a_failure_has_spoilt_ends_with_advice(monkeypatch):
    def refuse(*_shape, **_options):
        raise RuntimeError("offset increment outside of a graph")

    step, _ = made(Tape(fails=True))
    step(batch())
    monkeypatch.setattr(capture.torch, "rand", refuse)
    with pytest.raises(UserError, match="start again with --no-capture"):
        step(batch())


def test_the_line_to_change_is_a_users_where_a_user_wrote_the_program(tmp_path):
    def frame(path):
        return traceback.FrameSummary(str(path), 7, "forward", lookup_line=False, line="")

    script, theirs = frame(tmp_path / "script.py"), frame(tmp_path / "guide.py")
    ours, deeper = (
        frame(capture.__file__.replace("capture", "update")),
        frame(capture.__file__.replace("capture", "state")),
    )
    library = frame("/usr/lib/python3.11/site-packages/torch/tensor.py")

    def line(*frames):
        return innermost_line(traceback.StackSummary.from_list(list(frames)))

    assert line(script, ours, theirs, deeper, library) == f"{tmp_path / 'guide.py'}:7, in forward"
    assert line(script, ours, deeper, library).startswith(deeper.filename)
