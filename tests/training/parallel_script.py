"""Trains the small problem in two processes: ``python parallel_script.py FOLDER``.

Eight updates at once, then four and four more in another folder; the same of three batches each. Each process prints
one line per run: run, rank, the sum of its parameters, the best bound; and how often gradients went to the others.
"""

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from small_world import Batches, Elbo, held_out, programs
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from ppl_text.training.options import TrainingOptions
from ppl_text.training.programs import EVERYTHING
from ppl_text.training.progress import PlainProgress
from ppl_text.training.state import Stage
from ppl_text.training.trainer import Trainer


def train(fabric, folder, steps, resume, *parts, accumulate=1):
    """Each process has other initial parameters and other batches; only the first writes. A stage for each of parts."""
    model, guide = programs(seed=5 + fabric.global_rank)
    options = TrainingOptions(steps=steps, log_every=2, validate_every=4, checkpoint_every=3, accumulate=accumulate)
    trainer = Trainer(
        model,
        guide,
        [Stage(Elbo(), options, train=part) for part in parts or [EVERYTHING]],
        torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-2, fused=True),
        Batches(seed=fabric.global_rank),
        held_out(2)[fabric.global_rank :: 2],
        folder,
        fabric=fabric,
        progress=PlainProgress(sys.stderr),
        identity={"recipe": "small"},
    )
    exchanged = []
    trainer._module._forward_module.register_comm_hook(exchanged, counted)
    bound = trainer.fit(resume=resume).best_bound
    digest = sum(p.double().sum().item() for p in [*model.parameters(), *guide.parameters()])
    print(f"{folder.name} {steps} rank {fabric.global_rank}: {digest!r} {bound!r}\n", end="", flush=True)
    print(f"{folder.name} {steps} exchanges {fabric.global_rank}: {len(exchanged)}\n", end="", flush=True)


def counted(exchanged, bucket):
    """Average gradients as ever, and count."""
    exchanged.append(bucket.index())
    return allreduce_hook(None, bucket)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    root = Path(sys.argv[1])
    for name, steps, resume in (("whole", 8, False), ("part", 4, False), ("part", 8, True)):
        train(fabric, root / name, steps, resume)
        train(fabric, root / f"gathered {name}", steps, resume, accumulate=3)
    train(fabric, root / "in turn", 2, False, ["guide"], ["model"])
