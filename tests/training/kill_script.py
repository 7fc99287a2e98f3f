"""Trains the small problem in forked processes and does to each what a plan says.

Started by ``test_kill_and_resume.py`` as ``python kill_script.py PLAN.json RESULTS.json``. The program imports
torch once and forks a real process for each attempt. An attempt is a dictionary:

``folder``   run folder; the run is resumed where it has a checkpoint
``die``      ``[name, n]``: SIGKILL itself at the n-th call of ``os.fsync``, ``os.replace`` or ``os.write``
``signals``  ``[[delay, number], …]`` sent by the parent, delays in seconds after training began
``fsize``    limit on the size of a file in bytes (RLIMIT_FSIZE)
``pause``    seconds to sleep in each fsync, to make writing long
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from small_world import Batches, Elbo, held_out, programs

from ppl_text.core import atomic
from ppl_text.core.errors import PplTextError
from ppl_text.training.options import TrainingOptions
from ppl_text.training.progress import PlainProgress
from ppl_text.training.state import Stage
from ppl_text.training.trainer import Trainer

OPTIONS = {"steps": 40, "log_every": 4, "validate_every": 6, "checkpoint_every": 2}

announce = os.write  # kept, because a plan may replace the one in os


class Announcing(PlainProgress):
    """Tells the parent that training began."""

    def __init__(self, stream, ready):
        super().__init__(stream)
        self._ready = ready

    def start(self, total, done):
        super().start(total, done)
        announce(self._ready, b"!")


def prepare(attempt):
    """Arm the process against itself."""
    if "fsize" in attempt:
        resource.setrlimit(resource.RLIMIT_FSIZE, (attempt["fsize"], resource.RLIM_INFINITY))
    fsync = os.fsync
    atomic.os.fsync = lambda descriptor: (time.sleep(attempt.get("pause", 0)), fsync(descriptor))[1]
    if "die" in attempt:
        name, count = attempt["die"]
        real = getattr(atomic.os, name)

        def deadly(*args):
            nonlocal count
            count -= 1
            if not count:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        setattr(atomic.os, name, deadly)


def train(attempt, ready):
    """One attempt in the child; returns the exit status as the command line does."""
    prepare(attempt)
    folder = Path(attempt["folder"])
    model, guide = programs()
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-2, fused=True)
    trainer = Trainer(
        model,
        guide,
        [Stage(Elbo(), TrainingOptions(**OPTIONS))],
        optimizer,
        Batches(),
        held_out(),
        folder,
        progress=Announcing(sys.stderr, ready),
        identity={"recipe": "small"},
        seed=3,
    )
    try:
        trainer.fit(resume=any(folder.glob("checkpoints/step-*.pt")))
    except PplTextError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def run(attempt):
    """Fork, let the child train, send what the plan says; return its exit status and what it left."""
    Path(attempt["folder"]).mkdir(parents=True, exist_ok=True)
    log, (began, ready) = Path(attempt["folder"] + ".log"), os.pipe()
    child = os.fork()
    if not child:
        os.close(began)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 2)
        os._exit(train(attempt, ready))
    os.close(ready)
    os.read(began, 1)
    os.close(began)
    for delay, number in attempt.get("signals", []):
        time.sleep(delay)
        os.kill(child, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    partial = [str(p) for p in Path(attempt["folder"]).rglob("*.partial")]
    return {"status": status, "partial": partial, "log": log.read_text(encoding="utf-8")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps([run(attempt) for attempt in plan]), encoding="utf-8")
