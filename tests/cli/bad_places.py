"""Bad inputs: files and folders to write that are taken, are no files, or cannot be there."""

import os
from pathlib import Path

from .bad_world import Case

LONG = "n" * 300

LOST = "is another file, which would be lost; give the name of a new file in an existing folder, or add --force"


def store(place, *arguments):
    """``evaluate --store`` where ``place(world)`` leads."""
    return lambda world: ["evaluate", world.run(), "--limit", "4", "--store", place(world), *arguments]


def pipe(world, name="pipe"):
    """Something that is no regular file, as a device is."""
    os.mkfifo(world.folder / name)
    return name


def linked(world, target, name="link"):
    (world.folder / name).symlink_to(target)
    return name


STORES = {
    "a run's weights": Case(store(lambda w: "run/model.safetensors"), (f"--store run/model.safetensors {LOST}",)),
    "a run's checkpoint": Case(store(lambda w: "run/checkpoints/best.pt"), (LOST,)),
    "a run's configuration": Case(store(lambda w: "run/config.yaml"), (LOST,)),
    "a run's results": Case(store(lambda w: "run/results.json"), (LOST,)),
    "a user's file": Case(store(lambda w: w.file("notes.md", "mine")), (f"--store notes.md {LOST}",)),
    "an empty file": Case(store(lambda w: w.file("s.safetensors", "")), (LOST,)),
    "a damaged file": Case(store(lambda w: w.file("s.safetensors", b"\xff" * 64)), (LOST,)),
    "a link to a user's file": Case(store(lambda w: linked(w, w.file("notes.md", "mine"))), (LOST,)),
    "a folder": Case(store(lambda w: "run", "--force"), ("--store run is a folder; give the name of a new file",)),
    "no regular file": Case(store(pipe, "--force"), ("--store pipe is no regular file; give the name of a new",)),
    "a link to no regular file": Case(store(lambda w: linked(w, pipe(w)), "--force"), ("is no regular file",)),
    "in no folder": Case(store(lambda w: "no/s.safetensors"), ("cannot be written: folder ", "/no does not exist")),
    "below a file": Case(store(lambda w: w.file("f", "") + "/s"), ("f/s cannot be written: ", "/f is no folder")),
    "a link to no folder": Case(store(lambda w: linked(w, "no/s.safetensors")), ("/no does not exist",)),
    "too long a name": Case(store(lambda w: LONG), (f"--store {LONG} cannot be written: File name too long",)),
    "force without a file": Case(
        lambda w: ["evaluate", w.run(), "--force"], ("--force belongs to --store; leave it out, or name the file",)
    ),
    "before the run is opened": Case(
        lambda w: ["evaluate", "nothing", "--store", w.file("notes.md", "mine")], (f"--store notes.md {LOST}",)
    ),
}

OUTS = {
    "fit": lambda w: ["fit", *w.tiny],
    "swap": lambda w: ["swap", w.run(), "--guide", "prior", "--steps", "2"],
    "compare": lambda w: ["compare", w.run(), "--objectives", "elbo"],
    "reproduce": lambda w: ["reproduce", "words", "--rows", "1", "--budget", "smoke", "--jobs", "1"],
}

PLACES = {
    "a file": (lambda w: w.file("notes.md", "mine"), "notes.md is a file; choose another folder with --out"),
    "no regular file": (pipe, "pipe is a file; choose another folder with --out"),
    "a link to nothing": (lambda w: linked(w, "no"), "link is a file; choose another folder with --out"),
    "too long a name": (lambda w: LONG, f"the folder {LONG} cannot be used: File name too long; choose another"),
    "below too long a name": (lambda w: f"{LONG}/run", "cannot be used: File name too long; choose another"),
}


def out(command, place):
    return lambda world: [*command(world), "--out", place(world)]


TAKEN = {
    f"{name} to {what}": Case(out(command, place), (says,))
    for name, command in OUTS.items()
    for what, (place, says) in PLACES.items()
} | {
    f"{name} to a folder with something in it": Case(
        out(OUTS[name], lambda w: Path(w.file("d/notes.md", "mine")).parent), ("d is not empty; choose another folder",)
    )
    for name in ("fit", "swap", "compare")
}


def reproduction(name, content):
    return out(OUTS["reproduce"], lambda w: Path(w.file(f"d/{name}", content)).parts[0])


OTHERS = {
    f"over {what}": Case(
        reproduction(name, content),
        (f"d holds {name.partition('/')[0]} of something else than table words with budget",),
    )
    for what, (name, content) in {
        "results of a user's": ("results.json", '{"mine": 1}'),
        "results that are no JSON": ("results.json", "mine"),
        "results of another table": ("results.json", '{"table": "davam-table2", "part": "verses", "budget": "smoke"}'),
        "results by another budget": ("results.json", '{"table": "words", "part": null, "budget": "full"}'),
        "a page of a user's": ("table.md", "mine"),
        "figures of a user's": ("figures/mine.png", "mine"),
    }.items()
}

NAMED = {
    "evaluate": lambda w: ["evaluate", LONG],
    "generate": lambda w: ["generate", LONG],
    "swap": lambda w: ["swap", LONG],
    "compare": lambda w: ["compare", w.run(), LONG],
    "fit --resume": lambda w: ["fit", "--resume", LONG],
    "explain": lambda w: ["explain", f"{LONG}.yaml"],
    "a recipe in a folder": lambda w: ["fit", f"{LONG}/config.yaml"],
    "a guide": lambda w: ["fit", *w.tiny_but_guide, "--guide", f"{LONG}.py:Mine"],
    "a model": lambda w: ["fit", *w.tiny, "--model", f"{LONG}.py:Mine"],
    "an objective": lambda w: ["fit", *w.tiny, "--objective", f"{LONG}.py:mine"],
    "a swapped guide": lambda w: ["swap", w.run(), "--guide", f"{LONG}.py:Mine"],
    "a compared guide": lambda w: ["compare", w.run(), "--guides", f"{LONG}.py:Mine"],
    "a bound": lambda w: ["evaluate", w.run(), "--objective", f"{LONG}.py:mine"],
    "a corpus": lambda w: ["fit", *w.tiny, "--data", LONG],
    "texts": lambda w: ["evaluate", w.run(), "--data", LONG],
    "a parent": lambda w: ["fit", *w.tiny, "--set", f"parent={LONG}"],
}

LONG_NAMES = {name: Case(arguments, (LONG,)) for name, arguments in NAMED.items()}
"""More bytes than the name of a file may have."""
