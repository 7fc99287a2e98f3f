"""What becomes of each kind of fault: exit status and message."""

import click
import pytest

from ppl_text.cli import list as list_command
from ppl_text.core.errors import CheckpointError, Interrupted, UserError

FAULTS = {
    "a user's mistake": (UserError("mend it"), 2, "error: mend it\n"),
    "the machine's": (CheckpointError("no room"), 1, "error: no room\n"),
    "stopped by a signal": (Interrupted("saved", exit_code=143), 143, "error: saved\n"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "error: interrupted; what was saved before is untouched\n"),
    "a question not answered": (click.Abort(), 130, "error: interrupted; what was saved before is untouched\n"),
    "a bad option": (click.UsageError("no such thing"), 2, "Error: no such thing\n"),
    "the disk": (OSError(28, "No space left on device"), 1, "error: the machine refused: [Errno 28] No space left"),
    "no memory": (MemoryError(), 1, "error: the memory is used up; try a smaller data.batch_size"),
    "no memory on the GPU": (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "error: the memory is used up"),
    "no memory for torch": (RuntimeError("DefaultCPUAllocator: not enough memory"), 1, "error: the memory is used up"),
}


@pytest.mark.parametrize(("fault", "status", "message"), FAULTS.values(), ids=FAULTS)
def test_each_fault_has_its_status_and_a_line(ppl, monkeypatch, fault, status, message):
    def fail():
        raise fault

    monkeypatch.setattr(list_command, "list_corpora", fail)
    ended = ppl("list", "corpora")
    assert ended.status == status
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_a_bug_keeps_its_traceback(ppl, monkeypatch):
    """Whoever mends it needs it."""
    monkeypatch.setattr(list_command, "list_corpora", lambda: [][1])
    with pytest.raises(IndexError):
        ppl("list", "corpora")
