"""Bad inputs: YAML, JSON and files that are more, deeper or something else than they seem."""

import os

from .bad_world import Case, data, fit

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 25))
"""1 kB that stands for 50 million values."""


def recipe(text):
    """``fit`` of a recipe file."""
    return lambda world: ["fit", world.file("r.yaml", text)]


def of_run(text, *command):
    """A command on a run whose config.yaml holds this."""

    def arguments(world):
        (world.folder / world.run() / "config.yaml").write_text(text)
        return [part.replace("RUN", "run") for part in command]

    return arguments


def pipe(name, *command):
    """A command on a named pipe that nobody writes into."""

    def arguments(world):
        os.mkfifo(world.folder / name)
        return [*command[:1], *(world.tiny if command[0] == "fit" else ()), *command[1:]]

    return arguments


def folder_of_pipe(name, unit):
    """``fit`` on a folder whose training file is a named pipe."""

    def arguments(world):
        (world.folder / "corpus").mkdir()
        os.mkfifo(world.folder / "corpus" / name)
        return ["fit", *world.tiny, "--data", "corpus", "--set", f"data.unit={unit}"]

    return arguments


YAML = {
    "alias bomb in a recipe": Case(recipe(BOMB), ("recipe 'r.yaml', line 14", "more than 20,000 values")),
    "alias bomb in a run": Case(of_run(BOMB, "evaluate", "RUN"), ("config.yaml', line 14", "more than 20,000 values")),
    "alias bomb in a run resumed": Case(of_run(BOMB, "fit", "--resume", "RUN"), ("more than 20,000 values",)),
    "alias bomb in a run compared": Case(of_run(BOMB, "compare", "RUN"), ("more than 20,000 values",)),
    "alias bomb in a run swapped": Case(of_run(BOMB, "swap", "RUN", "--guide", "tril"), ("more than 20,000 values",)),
    "alias bomb of merges": Case(
        recipe("a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 25))),
        ("more than 20,000 values",),
    ),
    "alias bomb in a value": Case(
        fit(
            "--set",
            "training.betas=[&a [1,1,1,1,1,1,1,1], &b [*a,*a,*a,*a], &c [*b,*b,*b,*b], &d [*c,*c,*c,*c],"
            " &e [*d,*d,*d,*d], &f [*e,*e,*e,*e], &g [*f,*f,*f,*f]]",
        ),
        ("--set 'training.betas=[&a", "more than 20,000 values"),
    ),
    "many aliases": Case(recipe("a: &a x\nb: [" + "*a, " * 60 + "]"), ("more than 50 aliases; write out",)),
    "alias of itself": Case(recipe("model: &a [*a]"), ("line 1, column 12", "an alias stands within what it")),
    "3,000 brackets": Case(fit("--set", "model.hidden=" + "[" * 3000), ("nested deeper than 30",)),
    "3,000 braces": Case(fit("--set", "model.hidden=" + "{" * 3000), ("nested deeper than 30",)),
    "3,000 closed brackets": Case(fit("--set", "model.hidden=" + "[" * 3000 + "]" * 3000), ("nested deeper than 30",)),
    "3,000 dashes": Case(recipe("- " * 3000), ("nested deeper than 30",)),
    "a long recipe": Case(recipe("# " + "x" * 100_000), ("r.yaml' cannot be read: it is longer than 100,000 bytes",)),
    "a long value": Case(
        fit("--set", "training.betas=" + "1" * 100_001), ("has 100,001 characters of YAML; expected 100,000 at most",)
    ),
    "no int": Case(fit("--set", 'training.steps=!!int ""'), ("is not valid YAML: '' is no !!int",)),
    "no float": Case(fit("--set", "training.lr=!!float x"), ("is not valid YAML: 'x' is no !!float",)),
    "no truth": Case(fit("--set", "capture=!!bool q"), ("is not valid YAML: 'q' is no !!bool",)),
    "a tag of time": Case(
        fit("--set", "seed=!!timestamp x"), ("!!timestamp is no tag of a plain value; leave it out",)
    ),
    "a tag of bytes": Case(fit("--set", "device=!!binary YQ=="), ("!!binary is no tag of a plain value",)),
    "a tag of sets": Case(recipe("model: !!set {a}"), ("r.yaml', line 1, column 8", "!!set is no tag of a plain")),
    "a tag of one's own": Case(recipe("model: !mine x"), ("!mine is no tag of a plain value",)),
    "a tag of Python": Case(recipe("model: !!python/name:os.system"), ("!!python/name:os.system is no tag",)),
    "5,000 digits": Case(fit("--set", "seed=" + "1" * 5000), ("…' is no !!int",)),
    "two documents": Case(recipe("a: 1\n---\nb: 2"), ("line 2, column 1 is not valid YAML",)),
    "no such alias": Case(fit("--set", "seed=*a"), ("found undefined alias 'a'",)),
    "a date": Case(fit("--set", "seed=2020-13-45"), ("'seed': expected a valid integer; got '2020-13-45'",)),
}

RECIPE_NAMES = {
    name: Case(fit("--set", f"recipe={name}"), ("'recipe': expected a name that a folder can have; got",))
    for name in ("../x", "x/y", "/x", ".", "..", ".x", '""', '"a\\nb"', '"a\\eb"', '" x"', "a" * 200)
} | {
    "number": Case(fit("--set", "recipe=5"), ("'recipe': expected a valid string; got 5",)),
    "list": Case(fit("--set", "recipe=[x]"), ("'recipe': expected a valid string; got ['x']",)),
    "null": Case(fit("--set", "recipe=null"), ("'recipe': expected a valid string; got None",)),
}

PIPE = "it is a named pipe; a regular file is expected"

PIPES = {
    "recipe": Case(pipe("x.yaml", "fit", "x.yaml"), (f"recipe file 'x.yaml' cannot be read: {PIPE}",)),
    "data": Case(pipe("x.jsonl", "fit", "--data", "x.jsonl"), ("x.jsonl: neither a file nor a folder",)),
    "folder of words": Case(folder_of_pipe("train.tsv", "word-list"), ("train.tsv", PIPE)),
    "folder of sentences": Case(folder_of_pipe("train.jsonl", "sentences"), ("train.jsonl", PIPE)),
    "folder of parquet": Case(folder_of_pipe("train.parquet", "sentences"), ("train.parquet", PIPE)),
    "guide": Case(pipe("x.py", "fit", "--guide", "x.py:Mine"), ("guide file '", f"x.py' cannot be read: {PIPE}")),
    "model": Case(pipe("x.py", "fit", "--model", "x.py:Mine"), (PIPE,)),
    "objective": Case(pipe("x.py", "fit", "--objective", "x.py:Mine"), (PIPE,)),
    "texts": Case(
        lambda w: ["generate", w.run(), "--reconstruct", os.mkfifo(w.folder / "x") or "x"],
        ("x: the file cannot be read: " + PIPE,),
    ),
    "config.yaml of a run": Case(
        lambda w: ["evaluate", w.run_without("config.yaml"), os.mkfifo(w.folder / "run/config.yaml")][:2],
        ("run holds no run (no config.yaml)",),
    ),
    "device as a recipe": Case(
        lambda w: ["fit", (w.folder / "x.yaml").symlink_to("/dev/zero") or "x.yaml"],
        ("x.yaml' cannot be read: it is a device; a regular file is expected",),
    ),
}

DEEP = "[" * 100_000 + "]" * 100_000


def record(name, *command):
    """A command on a run whose record of that name is nested deep."""

    def arguments(world):
        (world.folder / world.run() / name).write_text('{"a": ' + DEEP + "}")
        return [*command[:1], "run", *command[1:]]

    return arguments


JSON = {
    **{
        f"nested record {name}": Case(
            record(name, *command), (f"{name} cannot be read (lists or objects are nested too deep)",)
        )
        for name, command in {
            "results.json": ("evaluate",),
            "data.json": ("generate",),
        }.items()
    },
    "nested lines": Case(
        data('{"word": "ab"}\n{"word": ' + DEEP + "}\n", "x.jsonl"),
        ("x.jsonl, line 2: not JSON: lists or objects are nested too deep; expected one object on each line",),
    ),
    "nested list": Case(
        data('[{"word": "ab"}, {"word": ' + DEEP + "}]", "x.json"),
        ("x.json: row 2: not JSON: lists or objects are nested too deep; expected a list of objects",),
    ),
    "5,000 digits in a line": Case(data('{"word": ' + "1" * 5000 + "}", "x.jsonl"), ("x.jsonl, line 1: not JSON: ",)),
    "5,000 digits in a list": Case(data('[{"word": ' + "1" * 5000 + "}]", "x.json"), ("x.json: row 1: not JSON: ",)),
}

OTHER_DIGITS = {"Arabic": "١٢", "full-width": "１２", "superscript": "²", "Devanagari": "१२", "mathematical": "𝟙𝟚"}

DIGITS = {
    f"{name} digits {where}": case
    for name, digits in OTHER_DIGITS.items()
    for where, case in {
        "in a value": Case(
            fit("--set", f"training.steps={digits}"), (f"'training.steps': expected a valid integer; got '{digits}'",)
        ),
        "in a value of a model": Case(
            fit("--set", f"model.state_dim={digits}"), (f"'model.state_dim': expected a valid integer; got '{digits}'",)
        ),
        "in a rate": Case(fit("--set", f"training.lr={digits}"), ("'training.lr'", f"got '{digits}'")),
        "in an option": Case(fit("--steps", digits), ("--steps", "write it with the digits 0 to 9")),
        "in a seed": Case(fit("--seed", digits), ("--seed", "write it with the digits 0 to 9")),
        "of texts": Case(lambda w, n=digits: ["generate", w.run(), "-n", n], ("write it with the digits 0 to 9",)),
        "of a temperature": Case(
            lambda w, n=digits: ["generate", w.run(), "--temperature", f"0.{n}"], ("write it with the digits 0 to 9",)
        ),
        "of particles": Case(
            lambda w, n=digits: ["evaluate", w.run(), "--particles", n], ("write it with the digits 0 to 9",)
        ),
        "of draws": Case(lambda w, n=digits: ["compare", w.run(), "--draws", n], ("write it with the digits 0 to 9",)),
        "in an objective": Case(fit("--objective", f"iwae:{digits}"), (f"objective 'iwae:{digits}' is malformed",)),
        "in a chunk": Case(fit("--objective", f"iwae:4/{digits}"), (f"objective 'iwae:4/{digits}' is malformed",)),
        "in an order": Case(fit("--objective", f"renyi:0.{digits}:4"), ("is malformed",)),
        "in a stock objective": Case(fit("--objective", f"pyro:Trace_ELBO:{digits}"), ("expected pyro:Trace_ELBO",)),
        "in a count": Case(
            data(f"ab\t3\ncd\t{digits}\n"), ("line 2: the count must be a whole number", f"got '{digits}'")
        ),
        "in a count of a table": Case(
            data(f"word,count\nab,3\ncd,{digits}\n", "x.csv"), ("line 3: the count must be a whole number",)
        ),
        "in seeds": Case(
            lambda _, n=digits: ["reproduce", "words", "--seeds", f"0,{n}"], ("expected whole numbers with one comma",)
        ),
        "in rows": Case(lambda _, n=digits: ["reproduce", "words", "--rows", n], ("unknown row of table words",)),
    }.items()
}
