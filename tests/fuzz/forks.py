"""A process that has everything imported and forks for each command: bounded in time and memory, and told how it ends.

A line of JSON on stdin is a command (its arguments, folder and stdin), a line of
JSON on stdout how it ended.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

PATIENCE, GRACE = (20, 90), (30, 180)
"""Seconds of a processor, or of the clock on a busy machine, after which a command is told to stop by SIGTERM, and
after which it should have stopped."""

MEMORY = 3 * 2**30
"""Bytes of data that a command may have beyond what is imported."""

FILE_SIZE = 200 * 2**20
"""Bytes of the largest file that it may write."""


def serve():
    """Answer commands until stdin ends."""
    import ppl_text.fitting
    import ppl_text.run
    from ppl_text.__main__ import main

    ppl_text.run.load  # noqa: B018 - the imports are what is wanted
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(main, **asked)), file=answers, flush=True)


def run(main, arguments, folder, stdin):
    """Run one command in a fork; return its status (negative: of a signal), its output, and whether it was stopped."""
    with tempfile.TemporaryDirectory() as place:
        paths = {name: Path(place) / name for name in ("stdin", "stdout", "stderr")}
        paths["stdin"].write_text(stdin, encoding="utf-8")
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(main, arguments, folder, paths)
        status, stopped = _wait(child, begun)
        texts = {name: paths[name].read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr")}
    return {"status": status, **texts, "seconds": time.monotonic() - begun, "stopped": stopped}


def _become(main, arguments, folder, paths):
    """Be the command: never returns."""
    status = 99
    try:
        os.setsid()
        os.chdir(folder)
        for number, name in enumerate(paths):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            os.dup2(os.open(paths[name], flags), number)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        data = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY, data + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file too large is an error of the write, as a full disk is
        sys.argv = ["ppl-text", *arguments]
        try:
            main()
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 98
        except BaseException:  # noqa: BLE001 - what nobody caught is what is looked for
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _wait(child, begun):
    """Wait for the end, ask for it by SIGTERM when it is late, and force it when that does not help."""
    sent = None
    while True:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(code), sent is not None
        used = _seconds(child), time.monotonic() - begun
        if sent is None and _late(used, PATIENCE):
            os.kill(child, signal.SIGTERM)
            sent = signal.SIGTERM
        elif sent == signal.SIGTERM and _late(used, GRACE):
            os.killpg(child, signal.SIGKILL)
            sent = signal.SIGKILL
        time.sleep(0.01)


def _late(used, allowed):
    return any(one > most for one, most in zip(used, allowed, strict=True))


def _seconds(child):
    """Return the time of a processor that a process has had."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    serve()
