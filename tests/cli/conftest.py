"""Real processes."""

import subprocess
from types import SimpleNamespace

import pytest

from .bad_world import World


def run_process(line, environment, **options):
    """Run to the end: status, out, err."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(line, env=environment, text=True, timeout=240, check=False, **options)
    return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="session")
def reproduce():
    """``reproduce(table, out, …)``: fill a table at the smoke budget, in this process; what it printed."""
    from click.testing import CliRunner

    from ppl_text.cli import cli

    def run(table, out, *options):
        command = ["reproduce", table, "--budget", "smoke", "--jobs", "1", "--out", str(out), *options]
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
        return done.output

    return run


@pytest.fixture
def world(tmp_path, monkeypatch, tiny_arguments, trained):
    """Where a case of bad input plays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return World(tmp_path, tiny_arguments, trained.folder)
