"""``python -m ppl_text`` and the console script ``ppl-text``."""

from __future__ import annotations

import os
import sys

import click

from .cli import cli
from .core.errors import PplTextError


def main() -> None:
    """Run the command line; errors meant for users are printed without a traceback.

    Exit status: 0 done, 2 a user's mistake, 1 the machine's fault, 130/143 interrupted by SIGINT/SIGTERM.
    """
    try:
        status = cli.main(prog_name="python -m ppl_text", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted before anything was saved", 130)
    except PplTextError as error:
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) is gone. Python flushes stdout at exit: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        fail(f"the machine refused: {error}", 1)


def fail(message: str, status: int) -> None:
    """Print one message on stderr and leave."""
    click.echo(f"error: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
