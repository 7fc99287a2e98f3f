"""L5: the commands that users type, one file each. Heavy imports stand inside the commands."""

from __future__ import annotations

import click

from .. import __version__
from .compare import compare
from .completion import completion
from .evaluate import evaluate
from .explain import explain
from .fit import fit
from .generate import generate
from .list import list_
from .numbers import with_plain_numbers
from .report import report
from .reproduce import reproduce
from .swap import swap


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ppl_text")
def cli() -> None:
    """Variational models of text as Pyro programs: model x guide x objective -> one trained run.

    Start with:  python -m ppl_text fit
    """


for command in (fit, evaluate, generate, list_, explain, swap, compare, report, reproduce, completion):
    cli.add_command(with_plain_numbers(command))
