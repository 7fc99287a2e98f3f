"""The one training loop: update, record, validate, save; stop and resume at any moment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyro
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from ..core.batch import Batch
from ..core.errors import NonFiniteLossError, RunFolderError
from ..core.signals import GRACE, Stopped
from ..objectives import sites
from .capture import Captured, Graphs, of_whole_steps
from .checkpoints import RunFiles
from .machine import Ranks, is_lost
from .optimizers import InTurn, make_capturable
from .options import TrainingResult
from .programs import EVERYTHING, Batches, Joint, modes_kept, own_random_numbers, set_up, to_device
from .progress import Progress, Quiet, working_of
from .random_numbers import seed_all, seed_of
from .records import Clock, StepRecord, ValidationRecord
from .state import Counters, Stage, TrainingState, check_trained
from .stopping import (
    Agreement,
    Guard,
    NonFinite,
    StopSignals,
    ended_at_once,
    explain_non_finite,
    interrupted,
    make_guard,
    process_lost,
    pyro_validated,
)
from .structure import fitting
from .tensorboard import TensorBoard
from .update import Setting, Update
from .validation import Monitor, estimate_at_one, judged, observe, validate


class Trainer:
    """Fit model and guide to an objective, or to several stage by stage, and keep the run folder.

    ::

        FOLDER/checkpoints/step-XXXXXXXX.pt  best.pt   see Checkpoints
        FOLDER/model.safetensors                       weights of the stage's best validation, or of its last
                                                       (``keep``); before the first those of the newest checkpoint
        FOLDER/metrics.jsonl                           see records

    Args:
        optimizer: of the first stage; holds the parameters that any stage trains. Where it holds none, the programs are
            validated and saved as they are.
        batches: endless.
        validation: can be iterated again and again; None: nothing is validated.
        fabric: launched by the caller where it needs launching; default: one CPU process.
        identity: what makes a checkpoint this run's, a flat dictionary of plain values.
        monitor: ``monitor(model, guide)`` is asked for further numbers after each validation, in the first process
            only (in all where they share out the parameters); they stand under ``monitor`` in its line of
            ``metrics.jsonl``, and but for an update rule that goes by them the training is the same without it.
        statistics: batches of training texts, the same ones every time. Running statistics (batch normalisation) are
            estimated anew on them for all that is validated or saved as weights, since those that training goes on with
            lag behind. Where there is no batch the latter are taken.
        seed: of the training's random numbers (process r of a parallel run: ``seed + r``).
        keep_checkpoints: how many of the newest checkpoints stay, beside the best one.
        graphs: records updates of one process, and validations where it records whole steps; None: they run as they
            stand.
        curves: is given every record beside ``metrics.jsonl``; None: nothing is.

    Stages follow each other in one folder and one count of steps, with one stream of batches, and with one optimizer
    until one has its own. A stage goes on from the best parameters of the one before (from the last where nothing was
    validated), with fresh ones of the programs that it names; its schedules, best validation, patience and decays begin
    anew.

    The first update of each process runs with Pyro's validation on, after ``check_sites``; the later ones run
    without. A resumed run on a CPU equals an uninterrupted one bit for bit. Torch's global random state,
    Pyro's validation and the modes of the modules are as before when ``fit`` returns.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        stages: Sequence[Stage],
        optimizer: Optimizer,
        batches: Batches,
        validation: Iterable[Batch] | None,
        folder: Path,
        fabric: Fabric | None = None,
        progress: Progress | None = None,
        identity: Mapping[str, Any] | None = None,
        monitor: Monitor | None = None,
        *,
        statistics: Iterable[Batch] = (),
        seed: int = 0,
        keep_checkpoints: int = 2,
        graphs: Graphs | None = None,
        curves: TensorBoard | None = None,
    ) -> None:
        self._fabric = fabric if fabric is not None else Fabric(accelerator="cpu", devices=1)
        self._ranks = Ranks(self._fabric)
        self._progress = progress if progress is not None and self._ranks.is_first else Quiet()
        self._validation, self._statistics = validation, statistics
        self._signals = StopSignals(GRACE if self._ranks.size > 1 else 0.0)
        self._agreement, self._working = Agreement(self._ranks), working_of(self._progress)
        self._monitor, self._remark, self._seed = monitor, "", seed
        told = self._progress.message
        self._files = RunFiles(
            Path(folder), identity or {}, self._ranks, keep=keep_checkpoints, report=told, curves=curves
        )
        self._joint = Joint(model, guide, stages[0].objective)
        self._joint.choose(stages[0].train)
        self._module, self._optimizer = set_up(self._fabric, self._joint, optimizer)
        self._exchanged = self._joint.trained(stages[0].train)
        self._graphs = self._usable(graphs)
        self._optimizers = InTurn(optimizer, [stage.optimizer for stage in stages])
        self._guard = self._guarded(optimizer)
        counters = Counters(stage=stages[0].name)
        # All of them, so that what a later stage cannot do is said before the first begins.
        rules = [self._rule_of(stage, counters) for stage in stages]
        check_trained(stages, [self._trained_in(stage) for stage in stages])
        self._state = TrainingState(self._fabric, self._joint, optimizer, batches, stages, rules[0], counters)
        self._clock = Clock()

    def fit(self, resume: bool = False) -> TrainingResult:
        """Train to the end; with ``resume``, from the newest checkpoint of the folder.

        Raises :class:`RunFolderError` (nothing to resume, or something there that would be overwritten),
        :class:`GuideMismatchError`, :class:`NonFiniteLossError`, :class:`CheckpointError` (disk), and after
        SIGINT or SIGTERM, when the state is saved, :class:`Interrupted`; in a parallel training that has lost a
        process, :class:`ProcessLostError`.
        """
        try:
            return self._fit(resume)
        except Stopped as stop:
            newest = self._files.checkpoints.newest()
            raise ended_at_once(stop, self._state.counters.step, newest) from None
        except RuntimeError as error:
            if self._ranks.size == 1 or not is_lost(error):
                raise
            raise process_lost(self._state.counters.step, self._files.checkpoints.newest()) from error

    def _fit(self, resume: bool) -> TrainingResult:
        with ExitStack() as stack:
            stack.enter_context(self._signals)
            stack.enter_context(closing(self._progress))
            stack.enter_context(closing(self._files))
            stack.callback(lambda: self._guard.close())
            stack.enter_context(own_random_numbers(self._fabric.device))
            stack.enter_context(modes_kept(self._joint))
            stack.enter_context(pyro.validation_enabled(False))
            stack.callback(self._joint.choose, EVERYTHING)
            self._take_on(self._state.counters)
            self._begin(resume)
            if self._state.ended is None:
                self._check_programs(save=not resume)
                self._loop()
            elif not self._state.trains and not resume:
                self._keep_untrained()
            else:
                self._progress.message(f"already trained to step {self._state.counters.step}: nothing is left to do")
            return self._result()

    def _begin(self, resume: bool) -> None:
        """Take up the stored state, or make sure that there is none and seed the random numbers."""
        if not resume and self._files.checkpoints.newest() is not None:
            raise RunFolderError(
                f"{self._files.folder} already holds checkpoints; resume that run or give an empty folder"
            )
        if resume:
            self._restore()
        else:
            seed_all(self._seed + self._ranks.index)
        self._files.begin(self._state.counters.step)
        self._progress.start(self._state.total, self._state.counters.step)
        self._clock.start(self._state.counters.seconds, self._state.counters.step)
        self._introduce()
        if self._state.ended is not None and self._state.trains and not self._state.is_last:
            self._next_stage()

    def _restore(self) -> None:
        """Go to the newest checkpoint, in the stage that it is of."""
        path, stored = self._files.load()
        with fitting(path):
            counters = Counters.stored(stored["counters"])
        if counters.number >= len(self._state.stages):
            raise RunFolderError(
                f"{path} is of stage {counters.number + 1} ('{counters.stage}') of a training that has only "
                f"{len(self._state.stages)} now; resume it with the stages that it was trained with"
            )
        self._take_on(counters)
        before = self._state.restore(stored, path)
        self._progress.message(f"resumed from {path} at step {self._state.counters.step}")
        if before != self._ranks.size:
            seed_all(seed_of(self._seed, self._state.counters.step, self._ranks.index))
            self._progress.message(
                f"{_processes(before)} trained before, {_processes(self._ranks.size)} from here: noise is drawn anew"
            )

    def _take_on(self, counters: Counters) -> None:
        """Be in the stage of these counters, its update rule new."""
        stage = self._state.stages[counters.number]
        self._use_optimizer_of(counters.number)
        self._joint.objective = stage.objective
        estimate = partial(estimate_at_one, self._joint, self._fabric)
        self._estimate = Captured(estimate, of_whole_steps(self._graphs), self._progress.message)
        self._joint.choose(stage.train)
        self._joint.train()
        self._exchange(self._joint.trained(stage.train))
        self._state.counters, self._state.best = counters, None
        self._state.update = self._rule_of(stage, counters)

    def _exchange(self, trained: list[nn.Parameter]) -> None:
        """Let parallel processes average the gradients of these parameters, and wait for those of no others.

        Parameters that are shared out know by themselves.
        """
        if self._ranks.size > 1 and not self._ranks.sharded and set(trained) != set(self._exchanged):
            self._module, self._exchanged = self._fabric.setup_module(self._joint), trained

    def _use_optimizer_of(self, number: int) -> None:
        """Update by the optimizer of the stage of this number; what the one before has gathered is dropped."""
        before, optimizer = self._state.optimizer, self._optimizers.of(number)
        if optimizer is before:
            return
        before.state.clear()
        self._guard.close()
        self._guard, self._state.optimizer = self._guarded(optimizer), optimizer
        self._optimizer = self._fabric.setup_optimizers(optimizer)

    def _guarded(self, optimizer: Optimizer) -> Guard:
        """Make the guard of an optimizer, which from here on may be part of a recorded step."""
        if of_whole_steps(self._graphs) is not None:
            make_capturable(optimizer, self._fabric.device)
        return make_guard(self._fabric, optimizer)

    def _rule_of(self, stage: Stage, counters: Counters) -> Update:
        held = self._trained_in(stage)
        parts = (self._fabric, self._module, self._optimizer, self._guard)
        recorded = (self._graphs, self._progress.message)
        signals = (lambda: self._signals.number, self._signals.raising)
        return stage.update(Setting(*parts, stage.options, held, counters.began, *recorded, *signals))

    def _usable(self, graphs: Graphs | None) -> Graphs | None:
        """Return what records, where the processes of this training can be recorded."""
        if graphs is not None and self._ranks.size > 1:
            self._progress.message("not captured as a graph, step by step instead: several processes train together")
            return None
        return graphs

    def _trained_in(self, stage: Stage) -> list[nn.Parameter]:
        """Return the parameters that a stage trains, of those that the optimizer holds."""
        held = {p for group in self._optimizer.param_groups for p in group["params"]}
        return [p for p in self._joint.trained(stage.train) if p in held]

    def _next_stage(self) -> None:
        """Begin the stage after the present one, which has ended."""
        number = self._state.counters.number + 1
        stage = self._state.stages[number]
        if self._state.counters.best_step != self._state.counters.step:
            self._state.take_up_best()
        self._state.renew(stage.fresh())
        self._take_on(self._state.counters.next_stage(number, stage.name))
        self._introduce()

    def _introduce(self) -> None:
        """Say which stage it is, where there are several."""
        counters, count = self._state.counters, len(self._state.stages)
        if count > 1:
            steps, name = self._state.stage.options.steps, self._state.stage.objective.name
            self._progress.message(
                f"stage {counters.number + 1} of {count}: {counters.stage}, {steps:,} steps from step "
                f"{counters.began:,}, objective {name}"
            )

    def _check_programs(self, save: bool) -> None:
        """Check model and guide on the first batch, then be as if that batch had not been drawn.

        The state of step 0 is saved once they fit, so that a run killed before its first checkpoint resumes.
        """
        position = self._state.position()
        with own_random_numbers(self._fabric.device), self._fabric.autocast(), pyro_validated():
            batch = to_device(next(self._state.batches), self._fabric.device)
            self._progress.message(self._joint.do(lambda model, guide, _: sites.check_sites(model, guide, batch)))
        self._state.batches.load_state_dict(position)
        if save:
            self._save()

    def _keep_untrained(self) -> None:
        """Validate and save programs without a parameter to train."""
        trained = ", ".join(self._state.stage.train)
        self._progress.message(f"no parameter to train (train: {trained}): 0 steps")
        self._check_programs(save=False)
        if self._validation is not None:
            self._validate(self._validation)
        if self._state.counters.best_score is None:
            self._files.save_weights(self._state)
        self._save()

    def _loop(self) -> None:
        self._train_stage()
        while not self._state.is_last:
            self._next_stage()
            self._train_stage()

    def _train_stage(self) -> None:
        """Train to the end of the stage; after a signal, save and raise.

        A validation, or an update of many, that a signal has stopped is gone on with, or made again, by the run that
        is resumed.
        """
        options, counters = self._state.stage.options, self._state.counters
        self._state.update.begin(monitored=self._validation is not None and self._monitor is not None)
        first = True
        while self._state.ended is None:
            try:
                if not counters.unvalidated:
                    self._advance(validated=first)
                    first = False
                    if self._state.due(options.log_every):
                        self._log()
                    counters.unvalidated = self._validation is not None and self._state.due(options.validate_every)
                if counters.unvalidated and self._validation is not None:
                    self._validate(self._validation)
            except Stopped:
                if self._signals.at_once:
                    raise
            number = self._stop_signal()
            if number or self._state.ended or self._state.due(options.checkpoint_every):
                path = self._save()
            if number:
                raise interrupted(number, self._state.counters.step, self._state.total, path)

    def _advance(self, validated: bool) -> None:
        """Make one update, the first one under Pyro's validation."""
        counters, device = self._state.counters, self._fabric.device
        number = self._state.stage.options.accumulate
        position = self._state.position() if self._state.update.pauses else None
        batches = [to_device(next(self._state.batches), device) for _ in range(number)]
        try:
            with pyro_validated() if validated else nullcontext():
                self._state.update(batches, counters.step, self._state.rate)
        except NonFinite as error:
            raise self._non_finite(error) from error
        except Stopped:
            if position is not None:
                self._state.batches.load_state_dict(position)
            raise
        counters.step += 1

    def _log(self) -> None:
        """Record the means since the last record."""
        self._verify()
        counters, update = self._state.counters, self._state.update
        meters = update.meters
        bound, kl, log_likelihood, weight, loss = self._ranks.total(meters.sums).tolist()
        rate = self._clock.rate(counters.step)
        per_sentence = 1.0 / weight if weight > 0 else math.nan
        record = StepRecord(
            step=counters.step,
            total=self._state.total,
            bound=bound * per_sentence,
            kl=kl * per_sentence,
            log_likelihood=log_likelihood * per_sentence,
            loss=loss / (meters.updates * self._ranks.size),
            beta=update.beta.values,
            lr=update.lr,
            grad_norm=update.norm.item(),
            seconds=self._clock.seconds,
            steps_per_second=rate,
            sentences_per_second=rate * weight / meters.updates,
            stage=self._state.label,
            counted=update.counted(),
        )
        meters.reset()
        self._files.record(record)
        self._progress.step(record)

    def _validate(self, data: Iterable[Batch]) -> None:
        """Validate; what is better than all before in this stage becomes ``best.pt`` and ``model.safetensors``."""
        self._verify()
        with self._judged(self._shown(self._statistics, "statistics")):
            record, score = self._measure(data)
        self._heed(record, score)

    def _shown(self, batches: Iterable[Batch], what: str) -> Iterator[Batch]:
        """Give batches of work that a signal may stop between any two, and show how far it is."""
        total = len(batches) if isinstance(batches, Sized) else 0
        alone = self._ranks.size == 1  # parallel processes wait for each other
        for done, batch in enumerate(self._signals.polled(batches) if alone else batches, 1):
            yield batch
            self._working(what, done, total)

    def _observe(self, model: nn.Module, guide: nn.Module) -> Mapping[str, Any]:
        """Ask the monitor, which a signal may stop."""
        self._working("measuring for the validation", 0, 0)
        with self._signals.raising() if self._ranks.size == 1 else nullcontext():
            found: Mapping[str, Any] = self._monitor(model, guide) if self._monitor is not None else {}
        return found

    def _measure(self, data: Iterable[Batch]) -> tuple[ValidationRecord, float]:
        """Measure the present weights and keep them where they are the best; return the score that decided."""
        counters = self._state.counters
        shown = self._shown(data, "validating")
        options: dict[str, Any] = {"step": counters.step, "seed": self._seed, "estimate": self._estimate}
        record = validate(self._joint, shown, self._fabric, **options)
        score = float(getattr(record, self._state.stage.criterion))
        last = self._state.stage.options.keep == "last"
        best = math.isfinite(score) and (last or counters.best_score is None or score > counters.best_score)
        record = replace(record, best=best, seconds=self._clock.seconds, stage=self._state.label)
        if self._monitor is not None and (self._ranks.is_first or self._ranks.sharded):
            record = replace(record, monitor=observe(self._joint, self._observe, self._fabric, seed=self._seed))
        counters.unvalidated = False
        self._files.record(record)
        self._progress.validation(record)
        counters.stale = 0 if best else counters.stale + 1
        if best:
            counters.best_score, counters.best_bound, counters.best_step = score, record.bound, counters.step
            if self._state.stage.options.decay is not None or not self._state.is_last:
                self._state.keep_best()
            counters.seconds = self._clock.seconds
            self._files.save_best(self._state)
        return record, score

    @contextmanager
    def _judged(self, batches: Iterable[Batch]) -> Iterator[None]:
        """Context in which running statistics are those of the present weights, estimated on ``batches``."""
        try:
            with judged(self._joint, batches, self._fabric, seed=self._seed) as running:
                self._state.running = running
                yield
        finally:
            self._state.running = {}

    def _heed(self, record: ValidationRecord, score: float) -> None:
        """Let a validation have its consequences: words, the end of an update rule's mode, a lower rate."""
        if record.monitor:
            remark = str(getattr(self._monitor, "remark", _nothing)(record.monitor))
            if remark and remark != self._remark:
                self._progress.message(remark)
            self._remark = remark
        told = self._state.update.observed(record.monitor) if self._monitor is not None else ""
        if told:
            self._progress.message(told)
        counters, rule = self._state.counters, self._state.stage.options.decay
        if rule is None or not counters.plateau.see(rule, score, counters.step - counters.began):
            return
        self._state.take_up_best()
        self._progress.message(
            f"learning rate x {self._state.rate:g} and the parameters of step {counters.best_step:,} again: "
            f"decay {counters.plateau.decays} of {rule.limit}"
        )

    def _save(self) -> Path:
        """Save the state of this step and return the file's name."""
        self._verify()
        counters = self._state.counters
        counters.seconds = self._clock.seconds
        if counters.best_score is None and counters.step > 0:
            with self._judged(self._statistics):
                self._files.save_weights(self._state)
        return self._files.save(self._state)

    def _verify(self) -> None:
        """Read the guard's flag before anything relies on the parameters."""
        try:
            self._guard.verify()
        except NonFinite as error:
            raise self._non_finite(error) from error

    def _non_finite(self, error: NonFinite) -> NonFiniteLossError:
        batch, last = self._state.update.batch, self._files.checkpoints.newest()
        return explain_non_finite(error, self._joint, batch, self._fabric, last)

    def _stop_signal(self) -> int:
        """Return the signal to obey now, or 0; parallel processes agree on one."""
        number = self._signals.number
        return number if self._ranks.size == 1 else self._agreement(self._state.counters.step, number)

    def _result(self) -> TrainingResult:
        counters = self._state.counters
        return TrainingResult(counters.step, counters.best_step, counters.best_bound, self._state.ended or "steps")


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _nothing(_values: Mapping[str, Any]) -> str:
    return ""
