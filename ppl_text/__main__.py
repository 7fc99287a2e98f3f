"""``python -m ppl_text`` and the console script ``ppl-text``."""

from __future__ import annotations

from .cli import cli
from .cli.entry import run_command


def main() -> None:
    """Run the command line."""
    run_command(cli)


if __name__ == "__main__":
    main()
