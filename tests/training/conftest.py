"""Makes trainers of the small problem."""

import json
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch

from ppl_text.training.options import TrainingOptions
from ppl_text.training.records import TIME_FIELDS
from ppl_text.training.state import Stage
from ppl_text.training.trainer import Trainer
from ppl_text.training.update import Update

from .small_world import Batches, Elbo, held_out, programs

FUSED_ADAM = partial(torch.optim.Adam, fused=True)


@dataclass
class Recorder:
    """A progress that remembers all it was told."""

    started: tuple = ()
    steps: list = field(default_factory=list)
    validations: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    closed: int = 0

    def start(self, total, done):
        self.started = (total, done)

    def step(self, record):
        self.steps.append(record)

    def validation(self, record):
        self.validations.append(record)

    def message(self, text):
        self.messages.append(text)

    def close(self):
        self.closed += 1


@dataclass
class Made:
    """A trainer with the parts that a test looks at."""

    trainer: Trainer
    model: torch.nn.Module
    guide: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    progress: Recorder

    def parameters(self):
        return {**self.model.state_dict(prefix="model."), **self.guide.state_dict(prefix="guide.")}


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tensors this small only lose by a second thread, and most when other programs are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """``finished(name, train)``: the folder that ``train(folder)`` fills, trained once for all tests; only read it."""
    folders = {}

    def once(name, train):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("finished")
            train(folders[name])
        return folders[name]

    return once


@pytest.fixture(scope="session")
def make():
    """``make(folder, steps=…, objective=…, stages=…, validation=…, identity=…, **options)``.

    ``stages`` are several; else there is one of ``objective``, ``update`` and ``options``. ``world()`` makes the
    programs, ``batches()`` the stream.
    """

    def build(
        folder,
        *,
        objective=None,
        validation="held out",
        identity=None,
        optimizer=FUSED_ADAM,
        lr=1e-2,
        fabric=None,
        monitor=None,
        stages=None,
        update=Update,
        seed=3,
        keep_checkpoints=2,
        world=programs,
        statistics=(),
        batches=Batches,
        graphs=None,
        **options,
    ):
        model, guide = world()
        optimizer = optimizer([{"params": [*model.parameters(), *guide.parameters()]}], lr=lr)
        options = {"steps": 12, "log_every": 4, "validate_every": 5, "checkpoint_every": 3} | options
        batches, progress = batches(), Recorder()
        if stages is None:
            stages = [Stage(objective or Elbo(), TrainingOptions(**options), update=update)]
        trainer = Trainer(
            model,
            guide,
            stages,
            optimizer,
            batches,
            held_out() if validation == "held out" else validation,
            folder,
            fabric=fabric,
            progress=progress,
            identity={"recipe": "small"} if identity is None else identity,
            monitor=monitor,
            statistics=statistics,
            seed=seed,
            keep_checkpoints=keep_checkpoints,
            graphs=graphs,
        )
        return Made(trainer, model, guide, optimizer, batches, progress)

    return build


def metrics(folder):
    """The lines of ``metrics.jsonl`` without times, read strictly."""

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    return [{k: v for k, v in record.items() if k not in TIME_FIELDS} for record in records]


def equal(a, b):
    """Bit-for-bit equality of nested states."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def stored_state(path):
    """A checkpoint's state without the time trained."""
    state = torch.load(path, weights_only=True)["state"]
    state["counters"].pop("seconds")
    for process in state["processes"]:
        process["random"].pop("python")  # nothing here draws from it, and the test session does
    return state


def leftovers(folder):
    """Temporary files below a folder."""
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".partial")]
