"""Trains recipes in each process that ``torchrun`` has started, on noise that does not depend on their number.

``python shared_script.py FOLDER RUNS.json``: the file has a list of [name, recipe, changes, whether it
is resumed]. The rows of every draw are those that one process would draw for the whole batch, shared out as the texts
are; so all trainings are the same one. Each process writes FOLDER/NAME/RANK.json: a sum over all that the programs hold
at the end, and how many bytes of the parameters it keeps for that; or the error of a training that diverges.
"""

import json
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_text.core.errors import NonFiniteLossError
from ppl_text.core.processes import own_place
from ppl_text.nn.codebook import CodeBook
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config
from ppl_text.training import trainer as training
from ppl_text.training.programs import own_random_numbers
from ppl_text.training.sharding import saved_state

ROWS = 38
"""Texts of a batch: no other size in the programs is this, nor half of it."""


class CommonNoise(TorchDispatchMode):
    """Draw for all rows of the batch, and keep those of this process."""

    def __init__(self, place):
        super().__init__()
        self.own, self.of = place.rank, place.size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if name in ("randn", "rand"):
            rows = [ROWS // self.of, -1] if len(args[0]) == 1 else args[0]  # texts by steps, in one row
            shape, axis = self.whole(torch.empty(args[0], device="meta").reshape(rows).shape)
            return self.part(func(shape, *args[1:], **kwargs), axis).reshape(args[0])
        if name in ("randn_like", "rand_like"):
            shape, axis = self.whole(args[0].shape)
            return self.part(func(args[0].new_empty(shape), *args[1:], **kwargs), axis)
        if name in ("normal_", "uniform_", "bernoulli_"):
            shape, axis = self.whole(args[0].shape)
            return args[0].copy_(self.part(func(args[0].new_empty(shape), *args[1:], **kwargs), axis))
        if name == "normal":
            shape, axis = self.whole(args[0].shape)
            return args[0] + args[1] * self.part(torch.randn(shape, dtype=args[0].dtype), axis)
        if name == "native_dropout":
            shape, axis = self.whole(args[0].shape)
            scaled, mask = func(args[0].new_ones(shape), *args[1:], **kwargs)
            return args[0] * self.part(scaled, axis), self.part(mask, axis)
        return func(*args, **kwargs)  # of the first process's monitor

    def whole(self, shape):
        """Return the shape that one process would have, and the axis of the rows; None where there is none."""
        axis = next((place for place, size in enumerate(shape) if size == ROWS // self.of), None)
        return [size * self.of if place == axis else size for place, size in enumerate(shape)], axis

    def part(self, values, axis):
        return values if axis is None else values.movedim(axis, 0)[self.own :: self.of].movedim(0, axis).contiguous()


def main(folder, runs):
    torch.set_num_threads(1)
    place = own_place()
    seed_all = training.seed_all
    training.seed_all = lambda seed: seed_all(seed - place.rank)  # one seed for all
    for name, recipe, changes, resumed in runs:
        config = load_config(recipe, {**changes, "data.batch_size": ROWS})
        fabric = build.build_fabric(config, place)
        if place.size > 1:
            fabric.launch()
        corpus = build.load_data(config)
        programs = build.build_programs(config, corpus.vocabulary)
        started = (part for part in programs.model.modules() if isinstance(part, CodeBook) and bool(part.started))
        for book in started:
            # Far apart, so that rounding sends no state to another code.
            book.codes.normal_(generator=torch.Generator().manual_seed(1))
            book.sums.copy_(book.codes)
        objective = build.build_objective(config)
        with own_random_numbers(fabric.device):
            trainer = build.build_trainer(config, corpus, programs, objective, folder / name, fabric, None)
            try:
                with CommonNoise(place):
                    trainer.fit(resume=resumed)
            except NonFiniteLossError as error:
                (folder / name / f"{place.rank}.json").write_text(json.dumps({"error": str(error)}))
                continue
        held = torch.nn.ModuleList(programs)
        total = sum(value.double().sum().item() for value in saved_state(held).values())
        kept = sum(getattr(value, "_local_tensor", value).nbytes for value in held.parameters())
        (folder / name / f"{place.rank}.json").write_text(json.dumps({"sum": total, "bytes": kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
