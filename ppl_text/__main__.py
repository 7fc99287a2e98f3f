"""``python -m ppl_text`` and the console script ``ppl-text``."""

from __future__ import annotations

from .cli import cli
from .cli.entry import run_command
from .core.registry import claim


def main() -> None:
    """Run the command line."""
    claim("guides")  # python -m puts the user's folder first on sys.path
    run_command(cli)


if __name__ == "__main__":
    main()
