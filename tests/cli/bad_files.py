"""Bad inputs: data, and guides in files."""

from pathlib import Path

from .bad_world import LIST, Case, data, fit, guide

DATA = {
    "missing": Case(fit("--data", "no/such.tsv"), ("unknown corpus 'no/such.tsv'", "'no/such.tsv' does not exist")),
    "unknown user": Case(fit("--data", "~nobody-here/x.tsv"), ("does not exist",)),
    "hub": Case(fit("--data", "hub:x"), ("hub:NAME is not supported for word lists yet",)),
    "empty file": Case(data(""), ("mine.tsv: the file is empty; expected one 'word<TAB>count' on each line",)),
    "directory without train": Case(
        lambda w: ["fit", *w.tiny, "--data", str(Path(w.file("d/notes.md", "x")).parent)],
        ("no training file in the folder: expected train.txt (or .tsv, ", "found notes.md"),
    ),
    "not UTF-8": Case(data(b"ab\t3\n" + b"caf\xe9\t2\n"), ("mine.tsv, line 2: not UTF-8 text: byte 0xE9", "iconv")),
    "malformed count": Case(
        data("ab\t3\ncd\tmany\n"), ("mine.tsv, line 2: the count must be a whole number", "'many'")
    ),
    "three columns": Case(
        data("ab\t3\nc\t4\t5\n"), ("mine.tsv, line 2: expected two columns, 'word<TAB>count'; got 3",)
    ),
    "no word left": Case(data("a\t3\nb\t3\n"), ("no word is left after filtering", "widen min_length")),
    "no word left after counting": Case(
        data(LIST, "mine.tsv", "--set", "data.min_count=1000"),
        ("no word is left after filtering", "with a count below 1000"),
    ),
    "too few words": Case(data("ab\t1\n"), ("too few words to divide",)),
}


def streamed(name, content, *arguments, recipe="text-lm"):
    """``fit`` on a file that is to be streamed."""

    def made(world):
        place = name if content is None else world.file(name, content)
        return ["fit", recipe, "--data", place, "--set", "data.stream=true", *arguments]

    return made


SENTENCES = "".join(f"a b c{i % 20}\n" for i in range(40))

STREAMS = {
    "a table": Case(
        streamed("a.csv", "text\n" + SENTENCES),
        ("a.csv: data.stream reads text files with a sentence on each line", "write its texts into a .txt, or leave"),
    ),
    "JSON": Case(streamed("a.jsonl", '{"text": "a b"}\n' * 9), ("a.jsonl: data.stream reads text files",)),
    "a folder with a table": Case(
        lambda w: (
            streamed(str(Path(w.file("d/train.txt", SENTENCES)).parent), None)(w)
            if w.file("d/valid.csv", "text\n" + SENTENCES)
            else []
        ),
        ("valid.csv: data.stream reads text files",),
    ),
    "built in": Case(streamed("verses", None), ("data.stream reads text files", "built in")),
    "no truth": Case(
        streamed("a.txt", SENTENCES, "--set", "data.stream=perhaps"),
        ("'data.stream': expected a valid boolean; got 'perhaps' (keep the token ids of text files on disk",),
    ),
    "texts in memory, too": Case(
        streamed("a.txt", SENTENCES, "--set", "data.train_limit=5", "--set", "data.extra=b.txt"),
        ("'data.stream': expected none of train_limit, extra beside it, which need the training texts in memory",),
    ),
    "its own source": Case(
        streamed("a.txt", SENTENCES, "--set", "data.sources=text"),
        ("'data.stream': expected none of sources beside it",),
    ),
    "a list of words": Case(
        fit("--set", "data.stream=true"),
        ("unknown key 'data.stream'", "stream: for sentences, data.unit=sentences"),
    ),
    "not UTF-8": Case(
        streamed("a.txt", SENTENCES.encode() + b"caf\xe9\n"), ("a.txt, line 41: not UTF-8 text: byte 0xE9", "iconv")
    ),
    "too few": Case(streamed("a.txt", "a b\n"), ("too few sentences to divide: 1 leave none for",)),
    "without text": Case(streamed("a.txt", "\n\n"), ("a.txt: there is no sentence in it",)),
    "a long one": Case(
        streamed("a.txt", SENTENCES, "--set", "data.max_tokens=2", "--set", "data.long=refuse"),
        ("a.txt, line 2: 3 tokens, more than max_tokens=2",),
    ),
}

GUIDES = {
    "file missing": Case(
        fit("--guide", "no.py:Mine"), ("no.py' does not exist; give an existing file as FILE.py:CLASS",)
    ),
    "file without class": Case(
        lambda w: ["fit", *w.tiny, "--guide", w.file("g.py", "x = 1")], ("names a file but no class",)
    ),
    "file raises": Case(
        lambda w: ["fit", *w.tiny, "--guide", w.file("g.py", "a = 1\nraise OSError('no luck')") + ":Mine"],
        ("guide file raised OSError at", "g.py, line 2: no luck"),
    ),
    "file leaves": Case(
        lambda w: ["fit", *w.tiny, "--guide", w.file("g.py", "raise SystemExit(0)") + ":Mine"],
        ("raised SystemExit at",),
    ),
    "syntax error": Case(
        lambda w: ["fit", *w.tiny, "--guide", w.file("g.py", "a = 1\ndef f(:\n") + ":Mine"],
        ("raised SyntaxError at", "g.py, line 2"),
    ),
    "lacks the class": Case(
        lambda w: ["fit", *w.tiny, *w.guide("pass")[:1], "mine.py:Mien"],
        ("has no class 'Mien' (did you mean 'Mine'?)",),
    ),
    "no module": Case(guide("pass", "object"), ("is no torch.nn.Module class; inherit from the family's base class",)),
    "another family": Case(
        guide("family = 'sentence_vae'"), ("is made for sentence_vae, the model is a deep_state_space", "list guides")
    ),
    "constructor fails": Case(
        guide("def __init__(self, model):\n    super().__init__(model)\n    self.a = model.nothing"),
        ("could not be built as Mine(model", "mine.py, line 9: ", "nothing"),
    ),
    "no kernel": Case(guide("pass"), ("a first batch of 16 sentences", "'Mine' object has no attribute 'kernel'")),
    "forward fails": Case(
        guide("def forward(self, batch):\n    return torch.zeros(2) + torch.zeros(3)"),
        ("does not pass through model and guide: ", "mine.py, line 8: RuntimeError: The size of tensor a"),
    ),
    "another site": Case(
        guide(
            "def forward(self, batch):\n    with pyro.plate('sentences', batch.size, dim=-1):\n"
            "        pyro.sample('z', dist.Normal(torch.zeros(2), 1.0).to_event(1))"
        ),
        (
            "model and guide do not fit:",
            "site  model",
            "z     -",
            "FlowChain event (3, 2) real",
            "site 'h' is missing from the guide (its other sites: 'z'); add pyro.sample(\"h\", ...)",
            "site 'z' is in the guide only; remove it, or rename it",
        ),
    ),
    "another shape": Case(
        guide(
            "def forward(self, batch):\n    with pyro.plate('sentences', batch.size, dim=-1):\n"
            "        pyro.sample('h', dist.Normal(torch.zeros(3), 1.0).to_event(1))"
        ),
        ("site 'h': the model has event (3, 2), the guide (3,); make them equal",),
    ),
    "another plate": Case(
        guide(
            "def forward(self, batch):\n    zeros = torch.zeros(batch.size, batch.steps, 2)\n"
            "    pyro.sample('h', dist.Normal(zeros, 1.0).to_event(3))"
        ),
        ("site 'h': the model has event (3, 2), the guide (16, 3, 2)", "'sentences' at -1 of size 16, the guide none"),
    ),
    "not reparametrised": Case(
        guide(
            "def forward(self, batch):\n    with pyro.plate('sentences', batch.size, dim=-1):\n"
            "        zeros = torch.zeros(batch.steps, 2)\n"
            "        pyro.sample('h', NonreparameterizedNormal(zeros, zeros + 1).to_event(2))"
        ),
        ("guide site 'h'", "has no reparametrised sampler", "use --objective vimco:K or pyro:Trace_ELBO"),
    ),
    "its options": Case(
        guide(
            "def __init__(self, model, *, units: int, depth: float = 1.0):\n    super().__init__(model)",
            "ChainGuide",
            "--set",
            "guide.depth=deep",
            "--set",
            "guide.unit=3",
        ),
        (
            "unknown key 'guide.unit' (did you mean 'units'?)",
            "'guide.depth': expected a valid number; got 'deep'",
            "'guide.units' is missing",
        ),
    ),
}
