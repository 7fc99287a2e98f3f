"""How a command ends: with its result, or with one message and an exit status."""

from __future__ import annotations

import sys

import click

from ..core.errors import PplTextError


def run_command(command: click.Command) -> None:
    """Run a command with the process's arguments; errors meant for users are printed without a traceback.

    Exit status: 0 done, 2 a user's mistake, 1 the machine's fault, 130/143 interrupted by SIGINT/SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter gets a substitute for it.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    try:
        status = command.main(prog_name="python -m ppl_text", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted; what was saved before is untouched", 130)
    except PplTextError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        fail(f"the machine refused: {error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fail("the memory is used up; try a smaller data.batch_size, fewer particles, or another --device", 1)
    sys.exit(status if isinstance(status, int) else 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch could not get memory; torch says so in words only."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text


def fail(message: str, status: int) -> None:
    """Print one message on stderr and leave."""
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
