"""Bad inputs: folders of runs, and commands on finished runs."""

from pathlib import Path

from .bad_world import LIST, Case


def resume(change=lambda w: w.run(), *arguments):
    """``fit --resume`` of a run that ``change`` makes."""
    return lambda world: ["fit", "--resume", change(world), *arguments]


FOLDERS = {
    "out is not empty": Case(
        lambda w: ["fit", *w.tiny, "--out", Path(w.file("d/x", "")).parent],
        ("d is not empty; choose another folder with --out",),
    ),
    "out is a run": Case(
        lambda w: ["fit", *w.tiny, "--out", w.run()],
        ("run is not empty; go on with the run in it (python -m ppl_text fit --resume run)",),
    ),
    "out is a file": Case(
        lambda w: ["fit", *w.tiny, "--out", w.file("d", "")], ("d is a file; choose another folder with --out",)
    ),
    "out below a file": Case(
        lambda w: ["fit", *w.tiny, "--out", w.file("d", "") + "/e"],
        ("d/e cannot be", "Not a directory; choose another"),
    ),
    "resume of nothing": Case(resume(lambda w: "nothing"), ("nothing does not exist; give the folder of a run",)),
    "resume of no run": Case(resume(lambda w: "."), (". holds no run (no config.yaml); give the folder of a run",)),
    "resume without a checkpoint": Case(
        resume(lambda w: w.run_without("checkpoints")),
        ("run holds no checkpoint to resume from; start it anew: python -m ppl_text fit run/config.yaml",),
    ),
    "resume of another recipe": Case(
        lambda w: ["fit", "words-nvp", "--resume", w.run()], ("run holds a run of recipe 'words', not of 'words-nvp'",)
    ),
    "resume of an unknown recipe": Case(lambda w: ["fit", "word", "--resume", w.run()], ("unknown recipe 'word'",)),
    "resume with changes": Case(
        resume(lambda w: w.run(), "--seed", "5", "--objective", "elbo", "--guide", "diagonal", "--steps", "30"),
        ("run is resumed with the configuration it was started with; objective, seed cannot change.",),
    ),
    "resume in another precision": Case(
        lambda w: ["fit", "--resume", w.run(), "--precision", "bf16"], ("precision cannot change. Resume without it",)
    ),
    "resume into another folder": Case(
        resume(lambda w: w.run(), "--out", "new"), ("goes on in that folder; leave out --out new",)
    ),
    "resume on changed words": Case(
        resume(lambda w: w.run_on(LIST)),
        ("is not what run run was trained on (other texts, counts or vocabulary); restore the old files",),
    ),
    "resume of a damaged config": Case(
        resume(lambda w: (w.run(), w.file("run/config.yaml", "model: 3"))[0]),
        ("config.yaml' has errors", "'model': expected a section"),
    ),
    "resume with fewer steps": Case(
        resume(lambda w: w.run(), "--steps", "1"),
        ("run has been trained to step 20, and --steps 1 is fewer; give more to go on, leave it out, or train a new",),
    ),
    "resume with fewer steps by --set": Case(
        resume(lambda w: w.run(), "--set", "training.steps=19"), ("and --steps 19 is fewer; give more to go on",)
    ),
    "auto with an absolute recipe file": Case(
        lambda w: ["fit", str(w.folder / w.file("r.yaml", "seed: x")), "--resume", "auto"],
        ("r.yaml' has errors:", "'seed': expected a valid integer"),
    ),
}

FINISHED = {
    "evaluate nothing": Case(lambda w: ["evaluate", "nothing"], ("nothing does not exist; give the folder of a run",)),
    "evaluate no run": Case(lambda w: ["evaluate", "."], (". holds no run (no config.yaml)",)),
    "generate no run": Case(lambda w: ["generate", "."], (". holds no run (no config.yaml)",)),
    "evaluate without weights": Case(
        lambda w: ["evaluate", w.run_without("model.safetensors")],
        ("run run has no weights yet; train it: python -m ppl_text fit --resume run",),
    ),
    "generate without weights or checkpoint": Case(
        lambda w: ["generate", w.run_without("model.safetensors", "checkpoints")],
        ("run run has no weights yet; train it: python -m ppl_text fit run/config.yaml",),
    ),
    "evaluate on changed words": Case(lambda w: ["evaluate", w.run_on(LIST)], ("is not what run run was trained on",)),
    "neighbours in changed words": Case(
        lambda w: ["generate", w.run_on(LIST), "--neighbours", "ma"], ("is not what run run was trained on",)
    ),
    "evaluate on words that cannot be read": Case(
        lambda w: ["evaluate", w.run_on("")], ("changed.tsv: the file is empty",)
    ),
    "damaged record": Case(
        lambda w: ["evaluate", (w.run(), w.file("run/data.json", "{"))[0]],
        ("data.json cannot be read", "the run folder is incomplete"),
    ),
    "damaged weights": Case(
        lambda w: ["generate", (w.run(), w.file("run/model.safetensors", b"no"))[0]],
        ("model.safetensors cannot be read", "resume the run, which writes it again"),
        1,
    ),
    "unknown split": Case(
        lambda w: ["evaluate", w.run(), "--split", "tset"], ("unknown split 'tset'", "train, valid, test")
    ),
    "no particles": Case(lambda w: ["evaluate", w.run(), "--particles", "0"], ("--particles",)),
    "evaluate on cuda": Case(lambda w: ["evaluate", w.run(), "--device", "cuda"], ("no CUDA GPU is visible",)),
    "no texts": Case(lambda w: ["generate", w.run(), "-n", "0"], ("-n",)),
    "an empty text": Case(
        lambda w: ["generate", w.run(), "--reconstruct", ""], ("text '' has 0 tokens; this run takes 1 to",)
    ),
    "a file without text": Case(
        lambda w: ["generate", w.run(), "--reconstruct", w.file("t.txt", "\n \n")],
        ("t.txt: no text in the file; write one text a line",),
    ),
    "a file not UTF-8": Case(
        lambda w: ["generate", w.run(), "--reconstruct", w.file("t.txt", b"ba\n\xff\n")], ("t.txt, line 2: not UTF-8",)
    ),
    "a folder": Case(
        lambda w: ["generate", w.run(), "--reconstruct", "."], (".: a folder; give a file with one text a line",)
    ),
    "an unknown character": Case(
        lambda w: ["generate", w.run(), "--reconstruct", "ba?"],
        ("text 'ba?' has the character '?' (U+003F, QUESTION MARK)",),
    ),
    "too long a text": Case(
        lambda w: ["generate", w.run(), "--reconstruct", "ba" * 200], ("has 400 tokens; this run takes 1 to 4",)
    ),
    "reconstruct and interpolate": Case(
        lambda w: ["generate", w.run(), "--reconstruct", "ba", "--interpolate", "ba", "da"],
        ("exclude each other; give one of them",),
    ),
    "interpolate one point": Case(
        lambda w: ["generate", w.run(), "-n", "1", "--interpolate", "ba", "da"],
        ("an interpolation has at least 2 points; got 1",),
    ),
    "explain an unknown guide": Case(
        lambda w: ["explain", *w.tiny, "--guide", "nope"], ("unknown guide for deep_state_space 'nope'",)
    ),
    "list nothing": Case(lambda w: ["list", "models"], ("'recipes', 'guides', 'objectives', 'corpora'",)),
    "list runs of nothing": Case(
        lambda w: ["list", "runs", "nothing"], ("nothing does not exist; give a folder with runs, or train one",)
    ),
    "list runs without any": Case(lambda w: ["list", "runs"], ("runs does not exist; give a folder with runs",)),
    "list runs of a file": Case(lambda w: ["list", "runs", w.file("d", "")], ("d is a file; give a folder with runs",)),
    "list runs with a change": Case(
        lambda w: ["list", "runs", "--set", "seed=1"], ("only 'list options' takes a recipe; leave out --set",)
    ),
    "quiet and verbose": Case(lambda w: ["list", "recipes", "-q", "-v"], ("-q says less and -v says more",)),
}


def swap(*arguments):
    """``swap`` on a finished run."""
    return lambda world: ["swap", world.run(), *arguments]


SWAPS = {
    "of nothing": Case(lambda w: ["swap", "nothing"], ("nothing does not exist; give the folder of a run",)),
    "of no run": Case(lambda w: ["swap", ".", "--guide", "tril"], (". holds no run (no config.yaml)",)),
    "of an untrained run": Case(
        lambda w: ["swap", w.run_without("model.safetensors"), "--guide", "tril"],
        ("run run has no weights yet; train it: python -m ppl_text fit --resume run",),
    ),
    "in a session of an untrained run": Case(
        lambda w: ["swap", w.run_without("model.safetensors")], ("run run has no weights yet",)
    ),
    "damaged weights": Case(
        lambda w: ["swap", (w.run(), w.file("run/model.safetensors", b"no"))[0], "--guide", "tril"],
        ("model.safetensors cannot be read",),
        1,
    ),
    "unknown guide": Case(
        swap("--guide", "trill"), ("unknown guide for deep_state_space 'trill' (did you mean 'tril'?)", "FILE.py:CLASS")
    ),
    "guide file missing": Case(swap("--guide", "no.py:Mine"), ("no.py' does not exist; give an existing file as",)),
    "guide of other sites": Case(
        lambda w: [
            *("swap", w.run()),
            *w.guide(
                "def forward(self, batch):\n    with pyro.plate('sentences', batch.size, dim=-1):\n"
                "        pyro.sample('z', dist.Normal(torch.zeros(2), 1.0).to_event(1))"
            ),
        ],
        ("model and guide do not fit:", "site  model", "site 'h' is missing from the guide"),
    ),
    "no steps": Case(swap("--guide", "tril", "--steps", "0"), ("--steps",)),
    "frozen guide": Case(swap("--guide", "tril", "--freeze", "guide"), ("'guide' is not one of 'model', 'none'",)),
    "unknown objective": Case(swap("--guide", "tril", "--objective", "iwea:2"), ("did you mean 'iwae'?",)),
    "unknown option": Case(
        swap("--guide", "tril", "--set", "guide.gru=3"), ("unknown key 'guide.gru' (did you mean 'gru_dim'?)",)
    ),
    "another model": Case(
        swap("--guide", "tril", "--set", "model.layers=2", "--set", "data.corpus=x"),
        ("a swap keeps the parent's model and data: data.corpus, model.layers cannot change",),
    ),
    "out is taken": Case(swap("--guide", "tril", "--out", "run"), ("run is not empty; ",)),
    "JSON of a session": Case(swap("--json"), ("--json needs --guide; a session is a dialogue",)),
    "out in a session": Case(swap("--out", "new"), ("--out needs --guide; in a session 'save DIR' says where",)),
    "on changed words": Case(
        lambda w: ["swap", w.run_on(LIST), "--guide", "tril"], ("is not what run run was trained on",)
    ),
    "on cuda": Case(swap("--guide", "tril", "--device", "cuda"), ("no CUDA GPU is visible",)),
}


def without_training(world):
    """A run whose results do not say how training ended."""
    run = world.run()
    world.file("run/results.json", "{}")
    return run


def two(change):
    """``report`` of a run that ``change`` makes and of a good one."""
    return lambda world: ["report", change(world), world.trained]


REPORTS = {
    "report of nothing": Case(lambda w: ["report"], ("give at least one run to report: the folder of a trained run",)),
    "report of no folder": Case(lambda w: ["report", "nothing"], ("nothing does not exist; give the folder of a run",)),
    "report of no run": Case(lambda w: ["report", "."], (". holds no run (no config.yaml)",)),
    "report of a file": Case(lambda w: ["report", w.file("d", "")], ("d does not exist; give the folder of a run",)),
    "report of an unfinished run": Case(
        lambda w: ["report", w.run_without("results.json")],
        (
            "run run is not finished, so that there is nothing to report",
            "go on with it: python -m ppl_text fit --resume run",
        ),
    ),
    "report of a run without weights": Case(
        lambda w: ["report", w.run_without("model.safetensors")], ("run run has no weights yet; train it",)
    ),
    "report of a run that does not say how it ended": Case(
        lambda w: ["report", without_training(w)], ("run run is not finished",)
    ),
    "report on changed words": Case(lambda w: ["report", w.run_on(LIST)], ("is not what run run was trained on",)),
    "report of damaged results": Case(
        lambda w: ["report", (w.run(), w.file("run/results.json", "{"))[0]],
        ("run/results.json cannot be read", "the run folder is incomplete"),
    ),
    "report into a file": Case(
        lambda w: ["report", w.run(), "--out", "page.html"],
        ("--out is for the page of several runs; that of one run lies in its folder, so leave it out",),
    ),
    "report of several, one nothing": Case(two(lambda w: "nothing"), ("nothing does not exist; give the folder",)),
    "report of several, one no run": Case(two(lambda w: "."), (". holds no run (no config.yaml)",)),
    "report of several, one unfinished": Case(
        two(lambda w: w.run_without("results.json")), ("run run is not finished", "fit --resume run")
    ),
    "report of several, one that does not say how it ended": Case(two(without_training), ("run run is not finished",)),
    "report of several, damaged results": Case(
        two(lambda w: (w.run(), w.file("run/results.json", "[]"))[0]),
        ("results.json cannot be read (it holds no JSON object)",),
    ),
    "report of several, damaged metrics": Case(
        two(lambda w: (w.run(), w.file("run/metrics.jsonl", "{"))[0]), ("run/metrics.jsonl cannot be read",)
    ),
    "report of several, other metrics": Case(
        two(lambda w: (w.run(), w.file("run/metrics.jsonl", "{}\n3\n"))[0]),
        ("run/metrics.jsonl, line 1: expected a record of training; the run folder is damaged",),
    ),
    "report of several into another's file": Case(
        lambda w: ["report", w.run(), w.trained, "--out", w.file("notes.txt", "mine")],
        ("--out notes.txt is another file, which would be lost", "or add --force to replace it"),
    ),
    "report of several into a folder": Case(
        lambda w: ["report", w.run(), w.trained, "--out", "."], ("--out . is a folder; give the name of a new file",)
    ),
    "report of several below a file": Case(
        lambda w: ["report", w.run(), w.trained, "--out", w.file("d", "") + "/page.html"],
        ("--out d/page.html cannot be written", "/d is no folder; give the name of a new file"),
    ),
    "report of a damaged comparison": Case(
        lambda w: ["report", Path(w.file("c/comparison.json", "{")).parent],
        ("c/comparison.json holds no comparison that can be read", "make it again with: python -m ppl_text compare"),
    ),
    "report of a comparison without rows": Case(
        lambda w: ["report", Path(w.file("c/comparison.json", '{"rows": 3}')).parent],
        ("c/comparison.json holds no comparison that can be read",),
    ),
    "report of a comparison with other rows": Case(
        lambda w: ["report", Path(w.file("c/comparison.json", '{"rows": [{"bound": 1}]}')).parent],
        ("c/comparison.json holds no comparison that can be read",),
    ),
}
