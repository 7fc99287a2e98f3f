"""The one training loop: update, record, validate, save; stop and resume at any moment."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from ..core.batch import Batch
from ..core.errors import Interrupted, NonFiniteLossError, PplTextError, RunFolderError, UserError
from ..core.protocols import Objective
from ..objectives import sites
from .checkpoints import Checkpoints
from .clock import Clock
from .faults import explain_non_finite
from .guard import NonFinite, make_guard
from .options import Stop, TrainingOptions, TrainingResult
from .progress import Progress, Quiet
from .ranks import Ranks
from .records import MetricsFile, StepRecord
from .signals import StopSignals
from .state import Batches, Counters, TrainingState
from .update import Joint, Update, set_up, to_device
from .validation import Monitor, modes_kept, observe, own_random_numbers, validate
from .weights import save_weights


class Trainer:
    """Fits model and guide to an objective and keeps the run folder.

    ::

        FOLDER/checkpoints/step-XXXXXXXX.pt  best.pt   see Checkpoints
        FOLDER/model.safetensors                       weights with the best validation bound; before the
                                                       first validation those of the newest checkpoint
        FOLDER/metrics.jsonl                           see records

    ``optimizer`` holds the parameters to train (where it holds none, the programs are validated and saved as they
    are), ``batches`` is endless, ``validation`` can be iterated again
    and again (None: nothing is validated). ``identity`` is what makes a checkpoint this run's: a flat
    dictionary of plain values. ``fabric`` (default: one CPU process) is launched by the caller where it needs
    launching. ``monitor(model, guide)`` is asked for further numbers after each validation, in the first process only;
    they stand under ``monitor`` in its line of ``metrics.jsonl``, and the training is the same with and without it.

    The first update of each process runs with Pyro's validation on, after ``check_sites``; the later ones run
    without. A resumed run on a CPU equals an uninterrupted one bit for bit. Torch's global random state,
    Pyro's validation and the modes of the modules are as before when ``fit`` returns.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        batches: Batches,
        validation: Iterable[Batch] | None,
        options: TrainingOptions,
        folder: Path,
        fabric: Fabric | None = None,
        progress: Progress | None = None,
        identity: Mapping[str, Any] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self._fabric = fabric if fabric is not None else Fabric(accelerator="cpu", devices=1)
        self._ranks = Ranks(self._fabric)
        self._progress = progress if progress is not None and self._ranks.is_first else Quiet()
        self._options, self._validation, self._folder = options, validation, Path(folder)
        self._monitor = monitor
        self._checkpoints = Checkpoints(
            self._folder, identity or {}, keep=options.keep_checkpoints, report=self._progress.message
        )
        self._metrics = MetricsFile(self._folder / "metrics.jsonl")
        self._joint = Joint(model, guide, objective)
        module, wrapped = set_up(self._fabric, self._joint, optimizer)
        self._guard = make_guard(self._fabric, optimizer)
        self._update = Update(self._fabric, module, wrapped, options, self._guard)
        self._state = TrainingState(
            self._fabric, self._joint, optimizer, batches, self._update.meters, Counters(stage=options.stage)
        )
        self._trains = any(group["params"] for group in optimizer.param_groups)
        self._clock = Clock()

    def fit(self, resume: bool = False) -> TrainingResult:
        """Train to the end; with ``resume``, from the newest checkpoint of the folder.

        Raises :class:`RunFolderError` (nothing to resume, or something there that would be overwritten),
        :class:`GuideMismatchError`, :class:`NonFiniteLossError`, :class:`CheckpointError` (disk), and after
        SIGINT or SIGTERM, when the state is saved, :class:`Interrupted`.
        """
        with ExitStack() as stack:
            signals = stack.enter_context(StopSignals())
            stack.enter_context(closing(self._progress))
            stack.enter_context(closing(self._guard))
            stack.enter_context(own_random_numbers(self._fabric.device))
            stack.enter_context(modes_kept(self._joint))
            stack.enter_context(pyro.validation_enabled(False))
            self._joint.train()
            self._begin(resume)
            if self._stopped is None:
                self._check_programs(save=not resume)
                self._loop(signals)
            elif not self._trains and not resume:
                self._keep_untrained()
            else:
                self._progress.message(f"already trained to step {self._state.counters.step}: nothing is left to do")
            return self._result()

    def _begin(self, resume: bool) -> None:
        """Take up the stored state, or make sure that there is none and seed the random numbers."""
        if not resume and self._checkpoints.newest() is not None:
            raise RunFolderError(f"{self._folder} already holds checkpoints; resume that run or give an empty folder")
        if resume:
            with self._ranks.first_goes_first():
                path, stored = self._checkpoints.load()
            self._state.restore(stored, path)
            self._progress.message(f"resumed from {path} at step {self._state.counters.step}")
        else:
            torch.manual_seed(self._options.seed + self._ranks.index)
        if self._ranks.is_first:
            self._checkpoints.clean()
            self._metrics.cut_after(self._state.counters.step)
        self._progress.start(self._options.steps, self._state.counters.step)
        self._clock.start(self._state.counters.seconds, self._state.counters.step)

    def _check_programs(self, save: bool) -> None:
        """Check model and guide on the first batch, then be as if that batch had not been drawn.

        The state of step 0 is saved once they fit, so that a run killed before its first checkpoint resumes.
        """
        position = self._state.position()
        with own_random_numbers(self._fabric.device), self._fabric.autocast(), _validated():
            batch = to_device(next(self._state.batches), self._fabric.device)
            self._progress.message(sites.check_sites(self._joint.model, self._joint.guide, batch))
        self._state.batches.load_state_dict(position)
        if save:
            self._save()

    def _keep_untrained(self) -> None:
        """Validate and save programs without a parameter to train."""
        self._progress.message("no parameter to train (the model is frozen, the guide has none): 0 steps")
        self._check_programs(save=False)
        if self._validation is not None:
            self._validate(self._validation)
        if self._state.counters.best_bound is None:
            self._save_weights()
        self._save()

    def _loop(self, signals: StopSignals) -> None:
        options, first = self._options, True
        while self._stopped is None:
            self._advance(validated=first)
            first = False
            if self._due(options.log_every):
                self._log()
            if self._validation is not None and self._due(options.validate_every):
                self._validate(self._validation)
            number = self._stop_signal(signals)
            if number or self._stopped or self._due(options.checkpoint_every):
                path = self._save()
            if number:
                raise self._interrupted(number, path)

    def _advance(self, validated: bool) -> None:
        """Make one update, the first one under Pyro's validation."""
        counters = self._state.counters
        self._batch = to_device(next(self._state.batches), self._fabric.device)
        try:
            with _validated() if validated else nullcontext():
                self._update(self._batch, counters.step)
        except NonFinite as fault:
            raise self._non_finite(fault) from fault
        counters.step += 1

    def _log(self) -> None:
        """Record the means since the last record."""
        self._verify()
        counters, meters = self._state.counters, self._update.meters
        bound, kl, log_likelihood, weight, loss = self._ranks.total(meters.sums).tolist()
        rate = self._clock.rate(counters.step)
        per_sentence = 1.0 / weight if weight > 0 else math.nan
        record = StepRecord(
            step=counters.step,
            total=self._options.steps,
            bound=bound * per_sentence,
            kl=kl * per_sentence,
            log_likelihood=log_likelihood * per_sentence,
            loss=loss / (meters.updates * self._ranks.size),
            beta=self._update.beta.values,
            lr=self._update.lr,
            grad_norm=self._update.norm.item(),
            seconds=self._clock.seconds,
            steps_per_second=rate,
            sentences_per_second=rate * weight / meters.updates,
        )
        meters.reset()
        if self._ranks.is_first:
            self._metrics.append(record)
        self._progress.step(record)

    def _validate(self, data: Iterable[Batch]) -> None:
        """Validate; a better bound than all before becomes ``best.pt`` and ``model.safetensors``."""
        self._verify()
        counters = self._state.counters
        record = validate(self._joint, data, self._fabric, step=counters.step, seed=self._options.seed)
        best = math.isfinite(record.bound) and (counters.best_bound is None or record.bound > counters.best_bound)
        record = replace(record, best=best, seconds=self._clock.seconds)
        if self._ranks.is_first:
            if self._monitor is not None:
                seen = observe(self._joint, self._monitor, self._fabric, seed=self._options.seed)
                record = replace(record, monitor=seen)
            self._metrics.append(record)
        self._progress.validation(record)
        counters.stale = 0 if best else counters.stale + 1
        if best:
            counters.best_bound, counters.best_step = record.bound, counters.step
            self._write(self._checkpoints.save_best)
            self._save_weights()

    def _save(self) -> Path:
        """Save the state of this step and return the file's name."""
        self._verify()
        step = self._state.counters.step
        if self._state.counters.best_bound is None and step > 0:
            self._save_weights()
        self._write(lambda state: self._checkpoints.save(step, state))
        return self._checkpoints.folder / f"step-{step:08d}.pt"

    def _write(self, save: Callable[[dict[str, Any]], object]) -> None:
        """Let the first process write the state that all hold together, after what it relies on."""
        self._state.counters.seconds = self._clock.seconds
        state = self._state.capture()
        if self._ranks.is_first:
            self._metrics.sync()
            save(state)
        self._ranks.wait()

    def _save_weights(self) -> None:
        if self._ranks.is_first:
            counters = self._state.counters
            metadata = {"step": counters.step, "validation_bound": counters.best_bound}
            save_weights(self._folder / "model.safetensors", self._joint, metadata)

    def _verify(self) -> None:
        """Read the guard's flag before anything relies on the parameters."""
        try:
            self._guard.verify()
        except NonFinite as fault:
            raise self._non_finite(fault) from fault

    def _non_finite(self, fault: NonFinite) -> NonFiniteLossError:
        return explain_non_finite(fault, self._joint, self._batch, self._fabric, self._checkpoints.newest())

    def _interrupted(self, number: int, path: Path) -> Interrupted:
        name, step = signal.Signals(number).name, self._state.counters.step
        return Interrupted(
            f"stopped by {name} after step {step:,} of {self._options.steps:,}; the state is saved in {path}. "
            f"Go on with: python -m ppl_text fit --resume {self._folder}",
            exit_code=128 + number,
        )

    def _stop_signal(self, signals: StopSignals) -> int:
        """Return the signal to obey now, or 0; parallel processes agree on one, at the log interval."""
        if self._ranks.size == 1:
            return signals.number
        return self._ranks.largest(signals.number) if self._due(self._options.log_every) else 0

    def _due(self, every: int) -> bool:
        step = self._state.counters.step
        return step % every == 0 or step == self._options.steps

    @property
    def _stopped(self) -> Stop | None:
        if not self._trains:
            return "untrained"
        counters, patience = self._state.counters, self._options.patience
        if patience is not None and counters.stale >= patience:
            return "patience"
        return "steps" if counters.step >= self._options.steps else None

    def _result(self) -> TrainingResult:
        counters = self._state.counters
        return TrainingResult(counters.step, counters.best_step, counters.best_bound, self._stopped or "steps")


@contextmanager
def _validated() -> Iterator[None]:
    """Context with Pyro's validation on, in which what it objects to becomes a message for the user."""
    try:
        with pyro.validation_enabled(True):
            yield
    except PplTextError:
        raise
    except ValueError as error:
        # Pyro prints the whole tensor that it objects to.
        text = re.sub(r"tensor\(.*\)", "…", str(error), flags=re.DOTALL)
        raise UserError(f"model, guide or data do not pass Pyro's validation: {text}") from error
