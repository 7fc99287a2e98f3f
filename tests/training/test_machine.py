"""environment.json says on what a run was made."""

import json
import platform
import subprocess

import torch

import ppl_text
from ppl_text.training.machine import commit_of, describe_environment


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_it_holds_what_a_reader_needs():
    described = describe_environment()
    assert json.loads(json.dumps(described)) == described
    assert described["python"] == platform.python_version()
    assert described["ppl_text"] == ppl_text.__version__
    assert described["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert described["packages"]["pyro-ppl"]
    assert described["torch_threads"] == torch.get_num_threads()
    assert described["cpu_count"] >= 1
    assert described["device"] == "cpu"
    assert described["device_name"]
    assert "commit" in described


def test_the_commit_of_a_checkout(tmp_path):
    assert commit_of(tmp_path) is None
    git(tmp_path, "init")
    assert commit_of(tmp_path) is None
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("a")
    assert commit_of(tmp_path) == head
    (tmp_path / "file").write_text("b")
    assert commit_of(tmp_path) == head + "+changes"
    # A folder inside of a checkout, such as an environment's site-packages, is not that checkout.
    (tmp_path / "inner").mkdir()
    assert commit_of(tmp_path / "inner") is None


def test_no_git_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) is None
