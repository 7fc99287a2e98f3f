"""``python -m ppl_text`` and the console script ``ppl-text``."""

from __future__ import annotations

import sys

from .core.signals import Stopped, arm, ignore


def main() -> None:
    """Run the command line."""
    from .cli import cli
    from .cli.entry import run_command
    from .core.registry import claim

    claim("guides")  # python -m puts the user's folder first on sys.path
    run_command(cli)


def start() -> None:
    """Run the command line as a process of its own, whose signals end it with a message."""
    arm()
    try:
        main()
    except Stopped as stop:  # while the command itself was loaded
        print(f"error: {stop} while loading; nothing was done", file=sys.stderr)
        sys.exit(128 + stop.number)
    finally:
        ignore()


if __name__ == "__main__":
    start()
