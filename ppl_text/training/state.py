"""The stages that a training goes through, and its state in them: what is saved is exactly what is resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.errors import RunFolderError, UserError
from ..core.protocols import Objective
from .machine import Ranks
from .optimizers import MakeOptimizer, forget, load_state
from .options import Plateau, Stop, TrainingOptions
from .programs import EVERYTHING, Batches
from .random_numbers import random_states, set_random_states
from .sharding import as_saved, parts_of, saved_state
from .structure import check_optimizer, check_structure, check_tensors, fitting
from .update import Update
from .weights import under_present_names


def nothing() -> Mapping[str, nn.Module]:
    """Make no program anew."""
    return {}


@dataclass(frozen=True)
class Stage:
    """Say what is trained, how, and from where.

    ``update`` makes the update rule: :class:`~ppl_text.training.update.Update`, or another with the same argument.
    ``fresh`` is called when the stage begins after another one, and returns programs by name (``model``, ``guide``)
    whose parameters and buffers replace those of the run. ``train`` names the submodules that are trained
    (:func:`~ppl_text.training.programs.find_submodules`); nothing else gets a gradient, and what the optimizer has
    gathered of it stays as it is. ``optimizer`` makes, of parameter groups, the optimizer that the stage begins with;
    None: it goes on with the one before it.
    """

    objective: Objective
    options: TrainingOptions
    name: str = "joint"
    update: Callable[..., Update] = Update
    fresh: Callable[[], Mapping[str, nn.Module]] = nothing
    train: Sequence[str] = EVERYTHING
    optimizer: MakeOptimizer | None = None

    @property
    def criterion(self) -> str:
        """Return the name of what validations are compared by, larger is better: ``bound``, or the objective's own."""
        return str(getattr(self.objective, "criterion", "bound"))


def check_trained(stages: Sequence[Stage], trained: Sequence[Sequence[nn.Parameter]]) -> None:
    """Raise :class:`UserError` for stages that train nothing; ``trained``: the parameters that each of them trains."""
    empty = [stage.name for stage, parameters in zip(stages, trained, strict=True) if not parameters]
    if len(stages) > 1 and empty:
        raise UserError(f"stage '{empty[0]}' has no parameter to train; name other submodules under its 'train'")


@dataclass
class Counters:
    """Say where a run stands.

    ``step`` updates were made in ``seconds`` of training, those since ``began`` in stage ``stage`` (its ``number``
    counts from 0). Of this stage: the best validation had ``best_score`` (what validations are compared by, larger is
    better; None before the first) and ``best_bound`` (nats per sentence) at ``best_step``, and ``stale`` validations
    after it were no better; ``plateau`` is what the decay of the learning rate goes by. ``unvalidated``: a
    validation of the present weights is due and was not made yet.
    """

    stage: str = "joint"
    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_bound: float | None = None
    stale: int = 0
    number: int = 0
    began: int = 0
    best_score: float | None = None
    plateau: Plateau = field(default_factory=Plateau)
    unvalidated: bool = False

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Counters:
        """Take up what ``asdict`` made, also of a run from before there were stages, when bounds were compared.

        Raises ``ValueError`` for values of other types.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"'counters': expected named values; got {str(values)[:80]}")
        values = {"best_score": values["best_bound"], **values}
        ours = asdict(cls(best_bound=0.0, best_score=0.0, plateau=Plateau(reference=0.0)))
        check_structure(_known(values), _known(ours), "counters", optional=ours)
        plateau = values.get("plateau", {})
        check_structure(_known(plateau), ours["plateau"], "counters.plateau", optional=ours["plateau"])
        for name, value in values.items():
            if isinstance(value, int) and value < 0:
                raise ValueError(f"'counters.{name}': expected 0 or more; got {value}")
        return cls(**{**values, "plateau": Plateau(**plateau)})

    def next_stage(self, number: int, name: str) -> Counters:
        """Return the counters with which a stage begins after another one."""
        return Counters(stage=name, step=self.step, seconds=self.seconds, number=number, began=self.step)


@dataclass
class TrainingState:
    """Bind together the parts of a run that change: ``capture()`` and ``restore(stored, path)``.

    What each process of a parallel run has of its own (random states, sampler position, running sums, what the update
    rule keeps) is stored once for each. ``best`` are the parameters of the stage's best validation, where they will be
    wanted again, else None. ``running`` are, by name, the running statistics with which training goes on while the
    programs hold others (:func:`~ppl_text.training.validation.judged`). The stage that the run is in is one of
    ``stages``, by the counters.
    """

    fabric: Fabric
    joint: nn.Module
    optimizer: Optimizer
    batches: Batches
    stages: Sequence[Stage]
    update: Update
    counters: Counters
    best: dict[str, Tensor] | None = None
    running: dict[str, Tensor] = field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        """Return the present stage."""
        return self.stages[self.counters.number]

    @property
    def is_last(self) -> bool:
        """Return whether no stage comes after the present one."""
        return self.counters.number == len(self.stages) - 1

    @property
    def label(self) -> str:
        """Return the stage's name for records; nothing where there is only one."""
        return self.stage.name if len(self.stages) > 1 else ""

    @property
    def total(self) -> int:
        """Return the updates in all, if the present stage and those to come make all of theirs."""
        return self.counters.began + sum(stage.options.steps for stage in self.stages[self.counters.number :])

    @property
    def trains(self) -> bool:
        """Return whether there is a parameter to train in the present stage."""
        return any(p.requires_grad for group in self.optimizer.param_groups for p in group["params"])

    @property
    def rate(self) -> float:
        """Return what the learning rate of the schedule is multiplied by, as often as it has decayed in this stage."""
        rule = self.stage.options.decay
        return 1.0 if rule is None else rule.factor**self.counters.plateau.decays

    @property
    def ended(self) -> Stop | None:
        """Return why the present stage is over, or None while it is not."""
        if not self.trains:
            return "untrained"
        if self.counters.unvalidated:
            return None
        counters, options = self.counters, self.stage.options
        if options.decay is not None and counters.plateau.decays >= options.decay.limit:
            return "decays"
        if options.patience is not None and counters.stale >= options.patience:
            return "patience"
        return "steps" if counters.step - counters.began >= options.steps else None

    def due(self, every: int) -> bool:
        """Return whether an interval of the stage is over, of which the last is over with the stage."""
        done = self.counters.step - self.counters.began
        return done % every == 0 or done == self.stage.options.steps

    def capture(self) -> dict[str, Any]:
        """Return the state as tensors and plain values, fit for ``torch.load(weights_only=True)``.

        Where parameters are shared out, the first process alone has them.
        """
        own = {
            "random": random_states(),
            "batches": self.position(),
            "meters": self.update.meters.state_dict(),
            "update": self.update.state_dict(),
        }
        ranks = Ranks(self.fabric)
        return {
            "counters": asdict(self.counters),
            "parameters": saved_state(self.joint, kept=ranks.is_first),
            "optimizer": as_saved(self.optimizer.state_dict(), kept=ranks.is_first),
            "rule": type(self.optimizer).__name__,
            "precision": self.fabric.strategy.precision.state_dict(),
            "processes": ranks.gather(own),
            **({} if self.best is None else {"best": as_saved(self.best, kept=ranks.is_first)}),
            **({"running": self.running} if self.running else {}),
        }

    def restore(self, stored: dict[str, Any], path: Path) -> int:
        """Put a stored state in the place of the present one, and return how many processes wrote it.

        Where these were other than now, the random states are left as they are, since nothing stored can be gone on
        with. Raises :class:`RunFolderError` if it does not fit.
        """
        with fitting(path):
            self._restore(stored, path)
        return len(stored["processes"])

    def _restore(self, stored: dict[str, Any], path: Path) -> None:
        self._check(stored)
        own = self._own_of(stored["processes"], path)
        rule = type(self.optimizer).__name__
        if stored.get("rule", rule) != rule:
            raise RunFolderError(
                f"{path} was written while {stored['rule']} made the updates, and now {rule} would; resume it with the "
                "optimizer that it was trained with, or give another one to a stage of its own"
            )
        parameters = {**stored["parameters"], **stored.get("running", {})}
        self.joint.load_state_dict(parts_of(self.joint, under_present_names(self.joint, parameters)))
        load_state(self.optimizer, stored["optimizer"])
        self.fabric.strategy.precision.load_state_dict(stored["precision"])
        self.counters, self.best = Counters.stored(stored["counters"]), stored.get("best")
        if self.best is not None:
            self.best = parts_of(self.joint, under_present_names(self.joint, self.best))
        self.update.meters.load_state_dict(own["meters"])
        if own.get("update"):
            self.update.load_state_dict(own["update"])
        self.batches.load_state_dict(own["batches"])
        if "random" in own:
            set_random_states(own["random"])

    def _own_of(self, processes: Sequence[dict[str, Any]], path: Path) -> dict[str, Any]:
        """Return what this process goes on with of what each of those before it had."""
        ranks, first = Ranks(self.fabric), processes[0]
        if len(processes) == ranks.size:
            return processes[ranks.index]
        if not all(_same(process["batches"], first["batches"]) for process in processes):
            raise RunFolderError(
                f"{path} was written by {len(processes)} processes, each at a place of its own among the training "
                f"batches, and this run has {ranks.size}; resume it with as many as it was trained with"
            )
        sums = torch.stack([process["meters"]["sums"] for process in processes]).sum(0)
        # Of the loss each process adds up its share, of which the record is the mean.
        sums[-1] *= ranks.size / len(processes)
        meters = {**first["meters"], "sums": sums if ranks.is_first else torch.zeros_like(sums)}
        return {"batches": first["batches"], "meters": meters}

    def _check(self, stored: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for a state that is not built like this one, before any of it is taken over."""
        own: dict[str, Any] = {"random": random_states(), "batches": self.position()}
        own |= {"meters": self.update.meters.state_dict(), "update": self.update.state_dict()}
        processes = stored.get("processes")
        if not isinstance(processes, list) or not all(isinstance(process, dict) for process in processes):
            raise ValueError(f"'processes': expected a list of named values; got {str(processes)[:80]}")
        for place, process in enumerate(processes):
            check_structure(process, own, f"processes.{place}", optional=("numpy", "update"))
        for name in ("parameters", "running", "best"):
            if stored.get(name) is not None:
                check_tensors(stored[name], name)
        check_optimizer(stored.get("optimizer"), self.optimizer)

    def keep_best(self) -> None:
        """Keep a copy of the present parameters as the best."""
        self.best = {name: tensor.detach().clone() for name, tensor in self.joint.state_dict().items()}

    def take_up_best(self) -> None:
        """Put the best parameters in the place of the present ones; moments that belonged to those are dropped."""
        if self.best is not None:
            self.joint.load_state_dict(self.best)
            forget(self.optimizer, self.joint.parameters())
            self.update.forget_recordings()

    def renew(self, programs: Mapping[str, nn.Module]) -> None:
        """Give ``programs``' parameters and buffers to the run's own of the same name, as if never trained."""
        for name, program in programs.items():
            own = self.joint.get_submodule(name)
            own.load_state_dict(parts_of(own, program.state_dict()))
            forget(self.optimizer, own.parameters())

    def position(self) -> dict[str, Any]:
        """Return a copy of the sampler's position; raises ``TypeError`` if it could not be read back."""
        position = copy.deepcopy(self.batches.state_dict())
        _check_plain(position, "batches.state_dict()")
        return position


def _same(one: Any, other: Any) -> bool:
    """Tell whether two positions are equal: plain values, and tensors by their entries."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _known(values: Any) -> Any:
    """Return named values without those that nobody knows yet."""
    return {k: v for k, v in values.items() if v is not None and k != "plateau"} if isinstance(values, dict) else values


def _check_plain(value: Any, where: str) -> None:
    """Refuse, when it is saved and not when it is missed, what ``torch.load`` would not read back."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif value is not None and type(value) not in (bool, int, float, str, bytes, Tensor):
        raise TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; checkpoints hold tensors and plain "
            "Python values only, so convert it (e.g. with torch.as_tensor or .tolist())"
        )
