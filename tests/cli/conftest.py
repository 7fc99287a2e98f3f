"""Real processes."""

import subprocess
from types import SimpleNamespace


def run_process(line, environment, **options):
    """Run to the end: status, out, err."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(line, env=environment, text=True, timeout=240, check=False, **options)
    return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr)
