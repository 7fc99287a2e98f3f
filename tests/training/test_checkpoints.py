"""Files on disk: atomic, verified, refused when foreign, and what happens when the disk is full."""

import errno
import os
import random
import subprocess
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ppl_text.core import atomic
from ppl_text.core.atomic import write_atomically
from ppl_text.core.errors import CheckpointError, RunFolderError
from ppl_text.training.checkpoints import Checkpoints
from ppl_text.training.weights import load_weights, save_weights

from .conftest import equal, leftovers, metrics, stored_state

STATE = {"weights": torch.arange(1000.0), "seed": 2**127 + 5, "tuple": (1, None, "x"), "rate": 0.1}


def store(folder, identity=None, keep=2, reports=None):
    checkpoints = Checkpoints(
        folder,
        {"recipe": "words", "fingerprint": "ab12"} if identity is None else identity,
        keep=keep,
        report=(reports if reports is not None else []).append,
    )
    checkpoints.clean()
    return checkpoints


def filled(folder, steps=(10, 20, 30), **kwargs):
    checkpoints = store(folder, **kwargs)
    for step in steps:
        checkpoints.save(step, STATE | {"step": step})
    return checkpoints


def names(folder):
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit_in_a_tensor(path):
    data = bytearray(path.read_bytes())
    at = data.index(torch.arange(100.0, 110.0).numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)


def replace_by_text(path):
    path.write_text("not a checkpoint")


def empty(path):
    path.write_bytes(b"")


def other_pickle(path):
    torch.save([1, 2, 3], path)


DAMAGE = {
    "truncated": truncate,
    "bit flipped": flip_a_bit_in_a_tensor,
    "text": replace_by_text,
    "empty": empty,
    "foreign": other_pickle,
}


def test_the_newest_are_kept_and_come_back(tmp_path):
    checkpoints = filled(tmp_path)
    assert names(tmp_path) == ["step-00000020.pt", "step-00000030.pt"]
    path, state = checkpoints.load()
    assert path.name == "step-00000030.pt"
    assert equal(state, STATE | {"step": 30})


def test_how_many_are_kept_can_be_chosen_and_the_best_stays(tmp_path):
    checkpoints = store(tmp_path, keep=1)
    checkpoints.save_best(STATE)
    for step in (1, 100_000_000, 999_999_999):
        checkpoints.save(step, STATE)
    assert names(tmp_path) == ["best.pt", "step-999999999.pt"]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    reports = []
    checkpoints = filled(tmp_path, reports=reports)
    damage(tmp_path / "checkpoints" / "step-00000030.pt")
    path, state = checkpoints.load()
    assert path.name == "step-00000020.pt"
    assert state["step"] == 20
    assert len(reports) == 1
    assert reports[0].startswith("checkpoint step-00000030.pt cannot be read (")
    assert "fell back to step-00000020.pt" in reports[0]
    assert "\n" not in reports[0]
    assert names(tmp_path) == ["step-00000020.pt", "step-00000030.pt.damaged"]


def test_the_best_is_the_last_to_fall_back_to(tmp_path):
    checkpoints = filled(tmp_path)
    checkpoints.save_best(STATE | {"step": 15})
    for name in ("step-00000020.pt", "step-00000030.pt"):
        truncate(tmp_path / "checkpoints" / name)
    assert checkpoints.load()[1]["step"] == 15


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_all_damaged_is_the_users_to_mend(tmp_path, damage):
    checkpoints = filled(tmp_path)
    for name in names(tmp_path):
        damage(tmp_path / "checkpoints" / name)
    with pytest.raises(RunFolderError) as caught:
        checkpoints.load()
    assert caught.value.exit_code == 2
    for part in ("holds no usable checkpoint", "step-00000030.pt cannot be read", "step-00000020.pt", "empty folder"):
        assert part in str(caught.value)
    assert names(tmp_path) == ["step-00000020.pt", "step-00000030.pt"]


def test_no_damage_escapes(tmp_path):
    """Whatever bytes go wrong: the good state, or an error of ours, and never another state."""
    checkpoints = filled(tmp_path, steps=(1,))
    path = tmp_path / "checkpoints" / "step-00000001.pt"
    good, rng = path.read_bytes(), random.Random(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(good[: rng.randrange(len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.randint(1, 3)):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            _, state = checkpoints.load()
        except RunFolderError:
            outcomes.add("refused")
        else:
            assert equal(state, STATE | {"step": 1})
            outcomes.add("harmless")
    assert "refused" in outcomes


def test_an_empty_folder_cannot_be_resumed(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no checkpoint to resume from; .*without --resume") as caught:
        store(tmp_path).load()
    assert caught.value.exit_code == 2


def test_another_identity_is_refused_with_one_message(tmp_path):
    filled(tmp_path)
    other = store(tmp_path, {"recipe": "words-nvp", "fingerprint": "ab12", "tokens": 27})
    with pytest.raises(RunFolderError) as caught:
        other.load()
    text = str(caught.value)
    assert "belongs to another run (recipe: 'words' in the checkpoint, 'words-nvp' now; tokens: 'not set'" in text
    assert "fingerprint" not in text
    assert names(tmp_path) == ["step-00000020.pt", "step-00000030.pt"]


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_text.training.checkpoints.FORMAT", 7)
    filled(tmp_path)
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="has checkpoint format 7, this version of ppl_text reads format 1"):
        store(tmp_path).load()


def test_half_written_files_are_removed_at_the_start(tmp_path):
    filled(tmp_path)
    (tmp_path / "checkpoints" / ".step-00000040.pt.partial").write_bytes(b"half")
    (tmp_path / ".model.safetensors.partial").write_bytes(b"half")
    store(tmp_path)
    assert not leftovers(tmp_path)
    assert names(tmp_path) == ["step-00000020.pt", "step-00000030.pt"]


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write .*checkpoints: File exists"):
        store(tmp_path)


@contextmanager
def refusing_disk(monkeypatch, number, after):
    """``os.write`` takes ``after`` bytes, the last of them in part, then fails as a full disk does."""
    left, write = after, os.write

    def limited(descriptor, data):
        nonlocal left
        if left <= 0:
            raise OSError(number, os.strerror(number))
        done = write(descriptor, data[:left])
        left -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "write", limited)
        yield


REASONS = {errno.ENOSPC: "disk is full", errno.EDQUOT: "quota", errno.EFBIG: "limit on the size", errno.EIO: "error"}


@pytest.mark.parametrize(("number", "reason"), REASONS.items())
@pytest.mark.parametrize("after", [0, 1, 100, 4000, 5100])
def test_a_refusing_disk_leaves_the_old_file(tmp_path, monkeypatch, number, reason, after):
    """torch.save hides the errno behind a RuntimeError of its zip writer; it must be seen all the same."""
    checkpoints = filled(tmp_path, steps=(1,))
    before = (tmp_path / "checkpoints" / "step-00000001.pt").read_bytes()
    assert len(before) > 5100
    with refusing_disk(monkeypatch, number, after), pytest.raises(CheckpointError) as caught:
        checkpoints.save(1, STATE | {"step": 2})
    assert caught.value.exit_code == 1
    assert reason in str(caught.value)
    assert "step-00000001.pt" in str(caught.value)
    if number != errno.EIO:
        assert "MiB free" in str(caught.value)
        assert "make room" in str(caught.value)
    assert names(tmp_path) == ["step-00000001.pt"]
    assert (tmp_path / "checkpoints" / "step-00000001.pt").read_bytes() == before


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    """The name is given after the data are on the disk, and made durable itself."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(atomic.os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    path = tmp_path / "file"
    write_atomically(path, lambda file: [file.write(b"ab"), calls.append(path.exists()), file.write(b"cd")])
    assert path.read_bytes() == b"abcd"
    assert calls == [False, "fsync", "replace", "fsync"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", interrupted)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.name != "posix", reason="mounts a file system")
def test_a_full_disk_stops_the_training_and_keeps_what_was_saved(make, tiny_disk, tmp_path):
    folder = tiny_disk / "run"
    folder.mkdir()
    make(folder, steps=6).trainer.fit()
    kept = {p.name: p.read_bytes() for p in (folder / "checkpoints").iterdir()}
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "filler").write_bytes(b"x" * 2**20)
    with pytest.raises(CheckpointError, match=r"the disk is full \(0.0 MiB free\)") as caught:
        make(folder).trainer.fit(resume=True)
    assert caught.value.exit_code == 1
    assert {p.name: p.read_bytes() for p in (folder / "checkpoints").iterdir()} == kept
    assert not leftovers(folder)
    (tiny_disk / "filler").unlink()
    resumed, whole = make(folder), make(tmp_path / "whole")
    resumed.trainer.fit(resume=True)
    whole.trainer.fit()
    assert equal(resumed.parameters(), whole.parameters())
    # The first run ended an interval of the log at its own last step.
    assert [r for r in metrics(folder) if r["step"] > 8] == [r for r in metrics(tmp_path / "whole") if r["step"] > 8]


def test_a_run_whose_newest_checkpoint_is_truncated_goes_on_from_the_one_before(make, tmp_path):
    folder = tmp_path / "part"
    make(folder, steps=9).trainer.fit()
    truncate(folder / "checkpoints" / "step-00000009.pt")
    resumed, whole = make(folder), make(tmp_path / "whole")
    result = resumed.trainer.fit(resume=True)
    assert resumed.progress.started == (12, 6)
    assert any("fell back to step-00000006.pt" in m for m in resumed.progress.messages)
    assert result == whole.trainer.fit()
    last = "checkpoints/step-00000012.pt"
    assert equal(stored_state(folder / last), stored_state(tmp_path / "whole" / last))
    assert metrics(folder) == metrics(tmp_path / "whole")


class Tied(nn.Module):
    """Tied weights, a transposed and a scalar tensor."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.turned = nn.Parameter(torch.randn(2, 3).T)
        flat = torch.randn(8)
        self.register_buffer("first", flat[:4])
        self.register_buffer("second", flat[4:])
        self.scale = nn.Parameter(torch.tensor(2.0))


def test_weights_with_shared_tensors_come_back(tmp_path):
    module = nn.ModuleDict({"model": Tied(), "guide": nn.Linear(2, 2)})
    save_weights(tmp_path / "model.safetensors", module.state_dict(), {"step": 3})
    stored = load_file(tmp_path / "model.safetensors")
    assert ("model.embedding.weight" in stored) != ("model.head.weight" in stored)
    model, guide = Tied(), nn.Linear(2, 2)
    assert load_weights(tmp_path / "model.safetensors", model, guide) == {"step": 3}
    assert equal(model.state_dict(), module["model"].state_dict())
    assert equal(guide.state_dict(), module["guide"].state_dict())
    assert model.head.weight is model.embedding.weight


BAD_WEIGHTS = {
    "another guide": (nn.Linear(2, 3), "'guide.weight' has shape (2, 2), here (3, 2)"),
    "no bias": (nn.Linear(2, 2, bias=False), "'guide.bias' is unknown here"),
    "more": (nn.Sequential(nn.Linear(2, 2)), "'guide.0.weight' is missing from the file"),
}


@pytest.mark.parametrize(("guide", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_of_another_program_are_refused(tmp_path, guide, message):
    module = nn.ModuleDict({"model": nn.Linear(1, 1), "guide": nn.Linear(2, 2)})
    save_weights(tmp_path / "model.safetensors", module.state_dict())
    with pytest.raises(RunFolderError) as caught:
        load_weights(tmp_path / "model.safetensors", nn.Linear(1, 1), guide)
    assert message in str(caught.value)


def test_missing_and_damaged_weights(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(RunFolderError, match="does not exist"):
        load_weights(path, nn.Linear(1, 1), nn.Linear(1, 1))
    save_weights(path, nn.ModuleDict({"model": nn.Linear(1, 1), "guide": nn.Linear(1, 1)}).state_dict())
    truncate(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(path, nn.Linear(1, 1), nn.Linear(1, 1))
