"""``evaluate``: bounds of a trained run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .output import SEED, counter, print_json, print_table

if TYPE_CHECKING:
    from ..evaluation.latents import LatentFigures


@click.command()
@click.argument("run", type=click.Path())
@click.option("--split", default="test", show_default=True, help="train, valid or test.")
@click.option("--particles", type=click.IntRange(min=1), default=64, show_default=True, help="K draws per sentence.")
@click.option("--objective", metavar="NAME[:K]", help="Also the bound of this objective, e.g. fivo:64 or stepwise:16.")
@click.option("--limit", type=click.IntRange(min=1), help="Draw that many sentences instead of scoring all.")
@click.option("--store", type=click.Path(), metavar="FILE", help="Keep every sentence's log-weights (.safetensors).")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the draws.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the run's own.")
@click.option("--json", "as_json", is_flag=True, help="Print plain values as JSON.")
def evaluate(
    run: str,
    split: str,
    particles: int,
    objective: str | None,
    limit: int | None,
    store: str | None,
    seed: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Evaluate RUN (a folder): ELBO, importance-weighted bound, KL, each with its standard error.

    For sentences also the perplexities that follow, and what the latents carry: mutual information, active units.
    """
    from ..evaluation.report import bound_rows, perplexity_lines, results, sampling_line
    from ..run import load

    opened = load(run, device)
    other = None if objective is None else opened.bound(objective, split, limit, seed, progress=counter(objective))
    likelihood = opened.evaluate(split, particles, limit, seed, progress=counter("evaluating"), store=store)
    references, latents = opened.references(split), opened.latents(split, limit, seed)
    recipe = opened.config.cures
    if as_json:
        values = {
            "run": str(opened.folder),
            "split": split,
            "seed": seed,
            **results(likelihood, references, None, latents, recipe),
        }
        if other is not None:
            values |= {"objective": objective, "objective_bound": other[0], "objective_bound_se": other[1]}
        print_json(values)
        return
    rows = bound_rows(likelihood, references)
    if other is not None:
        rows.insert(1 if likelihood.exact else 2, (f"bound of {objective}", f"{other[0]:z.3f}", f"{other[1]:.3f}"))
    print_table(["quantity", f"nats per {references.unit}", "s.e."], rows, f"{opened.folder}, {split} split")
    click.echo(sampling_line(likelihood, references.unit))
    if references.unit == "sentence":
        click.echo("\n".join(perplexity_lines(likelihood)))
    else:
        token = f"{likelihood.iw_per_token:z.4f} nats, perplexity {likelihood.perplexity:z.3f}"
        click.echo(f"Per scored token: {token} (EOS counted)")
    if latents is not None:
        print_latents(latents, recipe)
    if store is not None:
        click.echo(f"What every sentence scored is in {store} (read it with ppl_text.evaluation.scores.load_scores)")


def print_latents(figures: LatentFigures, recipe: str) -> None:
    """What the latents carry, and what to try next."""
    from ..evaluation.collapse import verdict_of
    from ..evaluation.report import latent_rows

    print_table(["quantity", "value"], latent_rows(figures), "What the latents carry")
    click.echo(verdict_of(figures, recipe))
