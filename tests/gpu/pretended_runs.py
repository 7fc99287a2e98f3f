"""Training steps and whole commands on the pretended device; prints what became of each as JSON.

    python tests/gpu/pretended_runs.py steps
    python tests/gpu/pretended_runs.py refused
    python tests/gpu/pretended_runs.py commands FOLDER WORD_LIST SENTENCES

``{case: {"error": the error's text or None, "waits": what the host waited for}}``. With the steps come a few cases in
which something must be noticed.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import device_cases as cases
import pretended
import torch
from torch import nn

from ppl_text.core.batch import Batch
from ppl_text.recipes import build


def alike(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors agree bit by bit; what an objective does not know is no number in both."""
    unknown = first.isnan()
    return torch.equal(unknown, second.isnan()) and torch.equal(first[~unknown], second[~unknown])


def controls() -> dict[str, Callable[[], Any]]:
    """What a GPU waits for or refuses, and one thing that it does not mind."""
    there, here = torch.ones(3, device=pretended.DEVICE), torch.ones(3)
    layer = nn.GRU(3, 2, batch_first=True).to(pretended.DEVICE).eval()
    return {
        "nothing": lambda: (there.cumsum(0) * 2.0 + torch.ones(()) > 1).sum(),
        "a number": lambda: there.sum().item(),
        "a branch": lambda: bool(there.sum() > 0),
        "a list": there.tolist,
        "a copy from the host": lambda: here.to(pretended.DEVICE),
        "a number as a tensor": lambda: torch.tensor(1.0, device=pretended.DEVICE),
        "a mask as index": lambda: there[there > 0],
        "an index from the host": lambda: there[torch.arange(2)],
        "two devices": lambda: there + here,
        "a numpy array": there.numpy,
        "cuDNN's gradient in evaluation mode": lambda: layer(there.expand(1, 1, 3))[0].sum().backward(),
    }


class Asking(cases.Case):
    """A user's guide that asks the device for a number."""

    def programs(self) -> tuple[nn.Module, nn.Module]:
        model, guide = super().programs()

        class OwnGuide(type(guide)):  # type: ignore[misc]
            def forward(self, batch: Batch) -> Any:
                if batch.lengths.sum().item() > 0:
                    return super().forward(batch)
                return None

        guide.__class__ = OwnGuide
        return model, guide


class Branching(cases.Case):
    """A user's objective that goes one way or the other by what it finds."""

    def objective(self) -> Any:
        inner = super().objective()

        def own(*arguments: Any) -> Any:
            found = inner(*arguments)
            return found if found.loss > 0 else found._replace(loss=-found.loss)

        return own


REFUSED = {
    "a number that is asked for in forward": Asking("sentence_vae", "gaussian"),
    "a branch of own": Branching("sentence_vae", "gaussian"),
}
"""What no graph can hold; the last word is the function in which it happens."""


def take_steps(case: cases.Case) -> dict[str, Any]:
    """Make the same updates as they stand and recorded.

    Returns what the host waited for from the second update on, and of those that were recorded: how many shapes, what
    was said, and which numbers came out otherwise.
    """
    plain, graphs = cases.Steps(case, pretended.fabric()), pretended.PretendedGraphs(pretended.DEVICE)
    torch.manual_seed(1)
    plain.take(cases.FEW[:1])
    pretended.waits.clear()
    plain.take(cases.FEW[1:], start=1)
    waits = list(pretended.waits)
    recorded = cases.Steps(case, pretended.fabric(), graphs)
    torch.manual_seed(1)
    recorded.take(cases.FEW)
    expected, found = plain.numbers(), recorded.numbers()
    unlike = [name for name, value in found.items() if not alike(value.cpu(), expected[name].cpu())]
    return {"waits": waits, "shapes": recorded.shapes, "said": recorded.said, "unlike": unlike}


def evaluate(run: Path) -> dict[str, Any]:
    """Score sentences as they stand and recorded, all batches of one shape: say where the numbers differ."""
    import ppl_text as pt

    recorded = pt.load(run).evaluate(particles=6, limit=24)
    recorder = pretended.RECORDERS.pop(pretended.NAME)
    plain = pt.load(run).evaluate(particles=6, limit=24)
    pretended.RECORDERS[pretended.NAME] = recorder
    return {"error": None if recorded == plain else f"{recorded} is not {plain}"}


def commands(folder: Path, words: str, sentences: str) -> dict[str, Callable[[], Any]]:
    """Whole commands by name, each on what those before it have left."""
    import ppl_text as pt

    build.build_fabric = lambda config, _=None: pretended.fabric(
        {"32": "32-true", "bf16": "bf16-mixed"}[config.precision]
    )
    word_run, sentence_run = folder / "words", folder / "sentences"
    tiny = {**cases.TINY, "data.corpus": words}
    small = {**cases.SMALL, "data.corpus": sentences}
    settings = {"sentences": 12, "draws": 8, "repeats": 2}
    return {
        "fit words": lambda: pt.fit("words", set=tiny, out=word_run),
        "fit words in bf16": lambda: pt.fit("words", set={**tiny, "precision": "bf16"}, out=folder / "bf16"),
        "compare": lambda: pt.load(word_run).compare(objectives=["iwae:4", "dreg:4", "fivo:4"], **settings),
        "generate words": lambda: pt.load(word_run).generate(3),
        "fit sentences": lambda: pt.fit("ptb-bn", set=small, out=sentence_run),
        "evaluate": lambda: evaluate(sentence_run),
        "generate sentences": lambda: [pt.load(sentence_run).generate(2, strategy=s) for s in ("sample", "beam")],
        "swap": lambda: pt.load(sentence_run).swap_guide("gaussian", steps=4, out=folder / "swapped"),
    }


def attempt(work: Callable[[], Any]) -> dict[str, Any]:
    """Do something; return its error, what the host waited for, and what else was found."""
    pretended.waits.clear()
    pretended.refusals.clear()
    try:
        found = work()
    except Exception as error:  # noqa: BLE001 - the test says which case it was
        return {"error": f"{error}\n{''.join(traceback.format_tb(error.__traceback__)[-6:])}", "waits": []}
    more = found if isinstance(found, dict) else {}
    return {"error": "; ".join(pretended.refusals) or None, "waits": list(pretended.waits), **more}


def main() -> None:
    """Run what the arguments say."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with pretended.pretending():
        if sys.argv[1] == "refused":
            found: Any = {name: attempt(partial(take_steps, case)) for name, case in REFUSED.items()}
        elif sys.argv[1] == "steps":
            steps = {name: attempt(partial(take_steps, case)) for name, case in cases.STEPS.items()}
            found = {"controls": {name: attempt(work) for name, work in controls().items()}, "steps": steps}
        else:
            named = commands(Path(sys.argv[2]), *sys.argv[3:])
            found = {name: attempt(work) for name, work in named.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
