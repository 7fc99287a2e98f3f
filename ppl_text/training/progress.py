"""What the user sees of a training run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichBar

from ..core.printing import Pause, printable, screened, unscreened
from .records import StepRecord, ValidationRecord

LINE = 120
"""Characters of a line at which it takes up nothing more."""


class Progress(Protocol):
    """Show what is worth showing of a training. All calls come from the thread that trains, between two steps."""

    def start(self, total: int, done: int) -> None:
        """Begin; ``done`` of ``total`` updates were made before (resumed run)."""

    def step(self, record: StepRecord) -> None:
        """Show what a log interval came to."""

    def validation(self, record: ValidationRecord) -> None:
        """Show what a validation came to."""

    def message(self, text: str) -> None:
        """Say something in words, perhaps in several lines."""

    def detail(self, text: str) -> None:
        """Say what was decided and why, to those who have asked for it."""

    def close(self) -> None:
        """End, for whatever reason; called once."""


Working = Callable[[str, int, int], None]
"""``working(what, done, total)``: told how far some work is; total 0 where nobody knows it."""


def working_of(progress: Progress) -> Working:
    """Return what shows work between the steps: ``working(what, done, total)``, total 0 where nobody knows it.

    A progress may have it as a method; one that was written without shows nothing.
    """
    return getattr(progress, "working", lambda what, done, total: None)


class Quiet:
    """Show nothing: for library use and for all processes but the first."""

    def start(self, total: int, done: int) -> None:
        """Show nothing."""

    def step(self, record: StepRecord) -> None:
        """Show nothing."""

    def validation(self, record: ValidationRecord) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""

    def detail(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class PlainProgress:
    """Print a line per record, each flushed: for log files and pipes. ``verbose``: details, too."""

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self._stream, self._due = stream if stream is not None else sys.stderr, Pause()
        self._verbose = verbose

    def start(self, total: int, done: int) -> None:
        """Say how much is to do."""
        self.message(f"training: {total:,} steps" + (f", {done:,} of them done before" if done else ""))

    def step(self, record: StepRecord) -> None:
        """Print step, bound, KL, rate, time left."""
        self.message(f"step {record.step:,}/{record.total:,}  {describe_step(record)}")

    def validation(self, record: ValidationRecord) -> None:
        """Print the bound on the validation data."""
        self.message(describe_validation(record))

    def working(self, what: str, done: int, total: int) -> None:
        """Print how far it is where it takes long."""
        if self._due():
            self.message(f"{what} … {_share(done, total)}".rstrip())

    def message(self, text: str) -> None:
        """Print the text."""
        print(printable(text), file=self._stream, flush=True)

    def detail(self, text: str) -> None:
        """Print the text where details are wanted."""
        if self._verbose:
            self.message(text)

    def close(self) -> None:
        """Leave the stream open: it is the caller's."""


class BarProgress:
    """Draw a live bar with bound (nats per sentence), KL, rate and time left, within 80 columns.

    It is drawn when a record comes and not by a thread of its own, which would take time from the training.
    ``verbose``: details, too.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console, self._verbose, self._due = console, verbose, Pause()
        self._bar = RichBar(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", start=False)

    def start(self, total: int, done: int) -> None:
        """Draw the bar at what was done before."""
        self._bar.update(self._task, total=total, completed=done, description="first step …")
        self._bar.start_task(self._task)
        self._bar.start()
        for name in ("stdout", "stderr"):  # what others print passes above the bar, by a stream of rich's
            stream = getattr(sys, name)
            setattr(sys, name, screened(stream) if isinstance(stream, FileProxy) else stream)
        self._bar.refresh()

    def step(self, record: StepRecord) -> None:
        """Move the bar; beside it bound, KL, rate, time left."""
        self._bar.update(self._task, total=record.total, completed=record.step, description=_brief(record))
        self._bar.refresh()

    def validation(self, record: ValidationRecord) -> None:
        """Print a line above the bar."""
        self.message(describe_validation(record))

    def working(self, what: str, done: int, total: int) -> None:
        """Show beside the bar what is done; once the bar is closed, in lines where it takes long."""
        text = f"{what} … {_share(done, total)}".rstrip()
        if self._bar.live.is_started:
            self._bar.update(self._task, description=text)
            self._bar.refresh()
        elif self._due():
            self.message(text)

    def message(self, text: str) -> None:
        """Print the text above the bar."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        self._bar.refresh()

    def detail(self, text: str) -> None:
        """Print the text where details are wanted."""
        if self._verbose:
            self.message(text)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


def make_progress(stream: TextIO | None = None, *, verbose: bool = False) -> Progress:
    """Return the live bar if ``stream`` (default: stderr) is a terminal, plain lines otherwise."""
    stream = stream if stream is not None else sys.stderr
    console = Console(file=unscreened(stream))
    if console.is_interactive and not console.is_jupyter:
        return BarProgress(console, verbose=verbose)
    return PlainProgress(stream, verbose=verbose)


def _share(done: int, total: int) -> str:
    return f"{done:,}/{total:,}" if total else ""


def describe_step(record: StepRecord) -> str:
    """Return bound, KL, rate and time left in one line."""
    rates = f"{record.steps_per_second:z.1f} steps/s  {record.sentences_per_second:z,.0f} sentences/s  "
    known = rates if math.isfinite(record.steps_per_second) else ""
    return f"{_figures(record, 'nats/sentence')}  {known}left {duration(record.seconds_left)}"


def _brief(record: StepRecord) -> str:
    """Return the same for a bar that shares 80 columns with it."""
    left = duration(record.seconds_left)
    rate = f"{record.steps_per_second:z.0f} steps/s  " if math.isfinite(record.steps_per_second) else ""
    return f"{_figures(record, 'nats', 2)}  {rate}left {left}"


def describe_validation(record: ValidationRecord) -> str:
    """Return the bound on the validation data in one line, and of what was monitored as much as the line holds."""
    unit = f"nats/sentence ({record.bound_per_token:z.3f} nats/token)"
    line = f"validation at step {record.step:,}: {_figures(record, unit)}"
    best = "  (best)" if record.best else ""
    for name, value in record.monitor.items():
        if isinstance(value, list):
            continue
        part = f"  {name.replace('_', ' ')} {value:z.3f}"
        line += part if len(line + part + best) <= LINE else ""
    return line + best


def _figures(record: StepRecord | ValidationRecord, unit: str, digits: int = 3) -> str:
    """Return bound and KL, as far as they are known; where the bound is not finite, what the training goes by."""
    found = [] if math.isnan(record.bound) else [f"bound {record.bound:z.{0 if math.isinf(record.bound) else 3}f}"]
    if not math.isfinite(record.bound) and not math.isnan(record.log_likelihood):
        found.append(f"log-likelihood {record.log_likelihood:z.3f}")
    kl = [] if math.isnan(record.kl) else [f"KL {record.kl:z.{digits}f}"]
    return "  ".join([*([f"{', '.join(found)} {unit}"] if found else []), *kl])


def duration(seconds: float) -> str:
    """Return a time as ``m:ss`` or ``h:mm:ss``; one that nobody knows in a word.

    Example::

        >>> duration(75), duration(3725.4), duration(math.nan)
        ('1:15', '1:02:05', 'unknown')
    """
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
