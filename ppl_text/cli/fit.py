"""``fit``: train a recipe."""

from __future__ import annotations

import click

from ..core.processes import own_place
from .command import Command
from .output import COUNT, SEED, TRUST, command_progress, print_report, report_values, result
from .together import end_together, end_with_parent, refuse_devices


@click.command(cls=Command, together=True)
@click.argument("recipe", required=False)
@click.option("--data", metavar="NAME|PATH", help="Corpus: a built-in name, a file, a folder, or hub:NAME.")
@click.option("--model", metavar="NAME|FILE.py:CLASS", help="Model family. FILE.py:CLASS runs the code of that file.")
@click.option(
    "--guide", metavar="NAME|FILE.py:CLASS", help="Variational family. FILE.py:CLASS runs the code of that file."
)
@click.option(
    "--objective", metavar="NAME[:K]|FILE.py:NAME", help="Bound to train on, e.g. elbo, iwae:16, pyro:Trace_ELBO."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipe.")
@click.option("--steps", type=COUNT, help="Number of updates.")
@click.option("--seed", type=SEED, help="Seed of parameters, batches and noise.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--precision", type=click.Choice(["32", "bf16"]), help="Of the networks; densities stay in float32.")
@click.option(
    "--capture/--no-capture",
    default=None,
    help="Record steps: as graphs on a GPU (default), compiled on a CPU (takes a minute).",
)
@click.option("--devices", type=COUNT, help="Processes that train together, a GPU or CPUs each; they share each batch.")
@click.option("--out", type=click.Path(), metavar="DIR", help="Folder of the run; default: the next runs/RECIPE-N.")
@click.option("--resume", metavar="auto|DIR", help="Go on with a run; auto: the newest unfinished one, or a new one.")
@TRUST
def fit(
    recipe: str | None, assignments: tuple[str, ...], devices: int | None, **options: str | int | bool | None
) -> None:
    """Train RECIPE (default: words) and report.

    Without arguments the deep state-space word model is trained on the built-in English words, in about
    a minute on two cores. `python -m ppl_text list recipes` names the others; a recipe file (.yaml), such
    as the config.yaml of a run, is accepted too. Ctrl-C saves and stops; --resume goes on. With --devices N, or
    started by torchrun, several processes train one model.
    """
    end_with_parent()
    if devices is not None:
        refuse_devices(devices)
        if devices > 1 and own_place().size == 1:
            end_together(devices)
    from ..fitting import fit as run_fit
    from ..recipes.tree import parse_assignments

    changes = parse_assignments(assignments)
    run = run_fit(recipe, set=changes, progress=command_progress(), **options)  # type: ignore[arg-type]
    result(lambda: report_values(run), lambda: print_report(run))
