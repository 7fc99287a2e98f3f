"""How a command ends: with its result, or with one message and an exit status."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from ..core import signals
from ..core.atomic import LONGEST
from ..core.errors import Interrupted, NonFiniteLossError, PplTextError, ProcessLostError, UserError
from ..core.limits import out_of_memory, physical_memory
from ..core.printing import cut, screened_output
from ..core.processes import ALONE, Place, own_place

UNTOUCHED = "what was saved before is untouched"

MISTAKES = (UserError, click.ClickException)
"""Errors that all processes of a machine meet before they come together."""

IN_COMMON = (Interrupted, NonFiniteLossError, ProcessLostError)
"""Errors that all processes of a training meet together."""

COMPLETE = "_PPL_TEXT_COMPLETE"
"""Variable by which a shell asks for completions, however the program is called."""


def run_command(command: click.Command) -> None:
    """Run a command with the process's arguments; errors meant for users are printed without a traceback.

    Exit status: 0 done, 2 a user's mistake, 1 the machine's fault, 130/143 interrupted by SIGINT/SIGTERM.
    """
    limit_memory()
    if speaker().size > 1:
        # What torch's own code says to each process, of what is meant to be.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter gets a substitute for it.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    # A shell that asks for completions is answered in bytes, and shows them itself.
    with nullcontext() if COMPLETE in os.environ else screened_output():
        run_screened(command)


def run_screened(command: click.Command) -> None:
    """Run a command and leave with its status, with one message where it failed."""
    try:
        # color: click would take out of texts what a terminal obeys, which is to be seen.
        options: dict[str, Any] = {"standalone_mode": False, "color": True, "complete_var": COMPLETE}
        status = command.main(prog_name="python -m ppl_text", **options)
    except PplTextError as error:
        fail(str(error), error.exit_code) if is_heard(error) else sys.exit(error.exit_code)
    except click.ClickException as error:
        if not is_heard(error):
            sys.exit(error.exit_code)
        error.show(shown := io.StringIO())
        click.echo(cut(shown.getvalue().rstrip("\n")), err=True, color=True)
        sys.exit(error.exit_code)
    except click.Abort as error:
        interrupted(signals.number_of(error.__cause__))
    except KeyboardInterrupt as error:
        interrupted(signals.number_of(error))
    except Exception as error:  # noqa: BLE001 - most are raised again
        unexpected(error)
    sys.exit(status if isinstance(status, int) else 0)


def unexpected(error: Exception) -> None:
    """Leave with the message of what the machine refuses, or of a signal behind the error; raise any other again."""
    if advice := out_of_memory(error):
        fail(f"{advice}. {UNTOUCHED.capitalize()}", 1)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        fail(f"the name of a file or folder is too long, {LONGEST} bytes at most: {error.filename}", 2)
    if isinstance(error, OSError):
        fail(f"the machine refused: {error}", 1)
    if number := signals.received():  # a library has made something else of the interruption
        interrupted(number)
    raise error


def interrupted(number: int) -> None:
    """Leave after a signal; of several processes, all of which get it, the first says so."""
    if not speaker().is_first:
        sys.exit(128 + number)
    what = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    fail(f"{what}; {UNTOUCHED}", 128 + number)


def limit_memory() -> None:
    """Refuse this process more memory than there is, so that it ends with a message and not by the system's hand.

    Nothing changes where a lower limit is set already, where a GPU's driver maps memory of its own, and on systems that
    have no such limit.
    """
    try:
        import resource
    except ImportError:
        return
    (soft, hard), memory = resource.getrlimit(resource.RLIMIT_DATA), physical_memory()
    if memory is None or Path("/dev/nvidiactl").exists():
        return
    if all(limit == resource.RLIM_INFINITY or memory <= limit for limit in (soft, hard)):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))


def fail(message: str, status: int) -> None:
    """Print one message on stderr and leave."""
    click.echo(f"error: {spoken_by()}{cut(message)}", err=True, color=True)
    sys.exit(status)


def speaker() -> Place:
    """Return the place of this process, as if it were alone where the environment does not make sense."""
    try:
        return own_place()
    except UserError:
        return ALONE


def spoken_by() -> str:
    """Return who says something, where that is not clear: a process of several but the first."""
    place = speaker()
    return "" if place.is_first else f"{place.name}: "


def is_heard(error: Exception) -> bool:
    """Tell whether it is this process that has to speak of an error.

    Before the processes of a training meet, all on one machine find the same wrong, and the first of them says so;
    later what they have in common is said by the first of all, and what one alone has met by that one.
    """
    place = speaker()
    distributed = sys.modules.get("torch.distributed")
    met = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if place.is_first:
        return True
    return not isinstance(error, IN_COMMON) if met else place.is_first_here or not isinstance(error, MISTAKES)
