"""One process at a time in a place; what a killed one leaves is no lock."""

import os
import shutil
import subprocess
import sys

import pytest

from ppl_text.core.errors import RunFolderError
from ppl_text.core.locks import locked, refuse_locked


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


def test_the_second_is_refused_with_the_pid_of_the_first(path, tmp_path):
    with locked(path, tmp_path):
        for refused in (lambda: locked(path, tmp_path).__enter__(), lambda: refuse_locked(path, tmp_path)):
            with pytest.raises(RunFolderError, match=f"process {os.getpid()} is at work on {tmp_path}; wait for it"):
                refused()
    assert not path.exists()
    with locked(path, tmp_path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_that_a_killed_process_left_is_no_lock(path, tmp_path):
    text = "import os, pathlib, signal, sys\nfrom ppl_text.core.locks import locked\n"
    text += "with locked(pathlib.Path(sys.argv[1]), pathlib.Path('.')):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    assert subprocess.run([sys.executable, "-c", text, str(path)], check=False).returncode == -9
    assert path.exists()
    refuse_locked(path, tmp_path)
    with locked(path, tmp_path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_copy_of_a_lock_is_none(path, tmp_path):
    with locked(path, tmp_path):
        copy = shutil.copy(path, tmp_path / "copy")
        refuse_locked(tmp_path / "copy", tmp_path)
        with locked(tmp_path / "copy", tmp_path):
            assert os.path.exists(copy)


def test_looking_makes_no_file(path, tmp_path):
    refuse_locked(path, tmp_path)
    assert not path.exists()
    refuse_locked(tmp_path / ("n" * 300), tmp_path)


def test_a_link_is_not_followed(path, tmp_path):
    other = tmp_path / "notes.md"
    other.write_text("mine")
    path.symlink_to(other)
    with pytest.raises(OSError, match="symbolic"), locked(path, tmp_path):
        pass
    assert other.read_text() == "mine"
