"""Bad inputs: names, keys and values."""

from .bad_world import LIST, Case, fit

NAMES = {
    "unknown command": Case(lambda w: ["fti"], ("No such command 'fti'", "fit")),
    "unknown recipe": Case(
        lambda w: ["fit", "wrods"], ("unknown recipe 'wrods' (did you mean 'words'?)", "; known: ", ", words, ")
    ),
    "recipe file missing": Case(
        lambda w: ["fit", "no.yaml"], ("recipe file 'no.yaml' does not exist; give a file or one of",)
    ),
    "recipe file no YAML": Case(
        lambda w: ["fit", w.file("r.yaml", "model: [1\nguide: x")], ("recipe 'r.yaml', line", "is not valid YAML")
    ),
    "recipe file no mapping": Case(
        lambda w: ["fit", w.file("r.yaml", "- 1")], ("must be a mapping with model, guide",)
    ),
    "recipe file empty": Case(lambda w: ["fit", w.file("r.yaml", "")], ("must be a mapping with model, guide",)),
    "recipe file not UTF-8": Case(lambda w: ["fit", w.file("r.yaml", b"a: \xff")], ("r.yaml' is not UTF-8 (",)),
    "recipe file a folder": Case(
        lambda w: ["fit", w.file("r.yaml/x", "")[:6]], ("r.yaml' cannot be read: Is a directory",)
    ),
    "recipe named as a path": Case(
        lambda w: ["fit", w.file("r.yaml", "recipe: ../x"), *w.tiny],
        ("'recipe': expected a name that a folder can have",),
    ),
    "unknown guide": Case(
        lambda w: ["fit", "--data", w.file("l.tsv", LIST), "--guide", "digonal"],
        ("unknown guide for deep_state_space 'digonal' (did you mean 'diagonal'?)", "FILE.py:CLASS"),
    ),
    "unknown objective": Case(fit("--objective", "iwea:4"), ("unknown objective 'iwea' (did you mean 'iwae'?)",)),
    "malformed objective": Case(
        fit("--objective", "iwae"), ("objective 'iwae' is malformed: write iwae:K or iwae:K/CHUNK, e.g. iwae:16",)
    ),
    "objective with K = 0": Case(fit("--objective", "iwae:0"), ("objective 'iwae:0' is malformed",)),
    "Rényi of order 1": Case(fit("--objective", "renyi:1:4"), ("use --objective elbo",)),
    "unknown Pyro objective": Case(fit("--objective", "pyro:Trace_ELB"), ("did you mean 'Trace_ELBO'?",)),
    "data of a recipe that a user brings": Case(
        lambda _: ["fit", "ptb-vae"],
        ("the data of 'ptb' (Penn Treebank) do not come with the package", "with --data DIR"),
    ),
    "unknown corpus": Case(fit("--data", "word"), ("unknown corpus 'word' (did you mean 'words'?)", "does not exist")),
    "unknown model family": Case(fit("--set", "model.family=hmm"), ("unknown model family 'hmm'", "deep_state_space")),
    "unknown transition": Case(fit("--set", "model.transition=trill"), ("trill", "tril")),
    "device cuda": Case(
        fit("--device", "cuda"), ("--device cuda: no CUDA GPU is visible to torch; use --device cpu or auto",)
    ),
}

KEYS = {
    "a column that is no text": Case(fit("--set", "data.column={a: 1}"), ("'data.column': expected a valid string",)),
    "unknown section": Case(fit("--set", "modle.state_dim=2"), ("unknown key 'modle' (did you mean 'model'?)",)),
    "unknown key": Case(fit("--set", "training.stpes=2"), ("unknown key 'training.stpes' (did you mean 'steps'?)",)),
    "key without its section": Case(fit("--set", "steps=3"), ("unknown key 'steps' (did you mean 'training.steps'?)",)),
    "key that starts like a type": Case(fit("--set", "floaty=3"), ("unknown key 'floaty'", "known here: recipe, ")),
    "unknown model option": Case(
        fit("--set", "model.statedim=2"), ("unknown key 'model.statedim' (did you mean 'state_dim'?)",)
    ),
    "unknown guide option": Case(fit("--set", "guide.gru=2"), ("unknown key 'guide.gru' (did you mean 'gru_dim'?)",)),
    "unknown data option": Case(
        fit("--set", "data.batchsize=2"), ("unknown key 'data.batchsize' (did you mean 'batch_size'?)",)
    ),
    "data option like an argument": Case(fit("--set", "data.name=x"), ("unknown key 'data.name'",)),
    "no KEY=VALUE": Case(fit("--set", "training.steps"), ("--set 'training.steps': expected KEY=VALUE, for example",)),
    "no key": Case(fit("--set", "=3"), ("expected KEY=VALUE",)),
    "key within a value": Case(
        fit("--set", "training.steps.a=3"), ("--set training.steps.a: 'steps' is a value (20), it has no keys",)
    ),
    "value no YAML": Case(fit("--set", "training.betas=[1"), ("--set 'training.betas=[1'", "is not valid YAML")),
    "text for a number": Case(
        fit("--set", "training.steps=many"), ("'training.steps': expected a valid integer; got 'many'",)
    ),
    "truth for a number": Case(
        fit("--set", "training.steps=true"), ("'training.steps': expected a valid integer; got True",)
    ),
    "fraction of a step": Case(
        fit("--set", "training.steps=1.5"), ("'training.steps': expected a valid integer; got 1.5",)
    ),
    "no steps": Case(fit("--set", "training.steps=0"), ("'training.steps': expected greater than 0; got 0",)),
    "value for a section": Case(
        fit("--set", "training=5"), ("'training': expected a section with keys of its own; got 5",)
    ),
    "text for an option": Case(
        fit("--set", "guide.gru_dim=wide"), ("'guide.gru_dim': expected a valid integer; got 'wide'",)
    ),
    "truth for an option": Case(
        fit("--set", "guide.gru_dim=true"), ("'guide.gru_dim': expected a valid integer; got True",)
    ),
    "text within an option": Case(
        fit("--set", "model.hidden=[8,x]"), ("'model.hidden.1': expected a valid integer; got 'x'",)
    ),
    "size that torch refuses": Case(
        fit("--set", "guide.gru_dim=0"),
        ("guide 'diagonal' could not be built as DiagonalGuide(model, ", "gru_dim=0", "greater than zero"),
    ),
    "negative rate": Case(fit("--set", "training.lr=-0.1"), ("lr must be 0 or more at every step; it reaches -0.1",)),
    "rate in words": Case(fit("--set", "training.lr=fast"), ("'training.lr'", "must be a finite number; got 'fast'")),
    "unknown schedule": Case(
        fit("--set", "training.beta={name: linaer}"), ("unknown schedule 'linaer' (did you mean 'linear'?)",)
    ),
    "momentum of 1": Case(
        fit("--set", "training.betas=[0.9, 1]"), ("'training.betas.1': expected less than 1; got 1",)
    ),
    "averages of plain descent": Case(
        fit("--set", "training.optimizer=sgd", "--set", "training.betas=[0.9, 0.9]"),
        ("betas are the decay rates of adam, adamw and soap; leave them out for optimizer: sgd",),
    ),
    "unknown optimizer": Case(
        fit("--set", "training.optimizer=adagrad"), ("'training.optimizer': expected 'adam', 'adamw', 'soap' or 'sgd'",)
    ),
    "no clipping by 0": Case(
        fit("--set", "training.clip_norm=0"), ("'training.clip_norm': expected greater than 0; got 0",)
    ),
    "precision": Case(fit("--set", "precision=16"), ("'precision': expected '32' or 'bf16'; got '16'",)),
    "device": Case(fit("--set", "device=tpu"), ("'device': expected 'auto', 'cpu' or 'cuda'; got 'tpu'",)),
    "seed too large": Case(fit("--seed", str(2**64)), ("--seed",)),
    "particles without end": Case(fit("--objective", "iwae:100000000"), ("K is at most 1,000,000; got 100000000",)),
    "samples without end": Case(
        fit("--set", "report.samples=10000000000000"),
        ("'report.samples': expected less than or equal to 10000000; got 10000000000000",),
    ),
    "more particles than 64 bits": Case(
        fit("--set", "report.particles=100000000000000000000"), ("'report.particles': expected less than or equal to",)
    ),
    "threads without end": Case(
        fit("--set", "threads=1000000"), ("'threads': expected less than or equal to 1024; got 1000000",)
    ),
    "a vocabulary without end": Case(
        fit("--set", "data.unit=sentences", "--set", "data.vocabulary=10000000000"),
        ("'data.vocabulary': expected less than or equal to 10000000; got 10000000000",),
    ),
    "an interval without end": Case(
        fit("--set", "training.log_every=100000000000000000000"), ("expected a number of steps from 1 to 1000000000",)
    ),
    "a number of many digits": Case(
        fit("--set", "training.steps=" + "9" * 5000), ("--set 'training.steps=99", "is no !!int")
    ),
    "layers without end": Case(
        fit("--set", "model.layers=1000000000"), ("'model.layers': expected at most 1,000,000; got 1000000000",)
    ),
    "share of the words": Case(
        fit("--set", "data.test_share=2"), ("'data.test_share': expected less than 1; got 2 (share that goes to test)",)
    ),
    "stock objective with β": Case(
        fit("--objective", "pyro:Trace_ELBO", "--set", "training.beta=0.5"),
        ("a stock Pyro objective knows no β", "use 'elbo'"),
    ),
    "several faults at once": Case(
        fit(
            *("--set", "training.stpes=2", "--set", "seed=-1", "--set", "model.statedim=2"),
            *("--objective", "iwea:2", "--guide", "nope", "--data", "nowhere", "--device", "cuda", "--out", "."),
            *("--set", "precision=32"),
        ),
        (
            "unknown key 'training.stpes'",
            "'seed': expected greater than or equal to 0; got -1",
            "unknown key 'model.statedim'",
            "unknown objective 'iwea'",
            "unknown guide for deep_state_space 'nope'",
            "unknown corpus 'nowhere'",
            "recipe 'words' has errors:\n- ",
        ),
    ),
}


def codes(*settings):
    """``fit`` of small codes on forty texts of five tokens."""
    text = "\n".join(f"see the {word} {other} ." for word in "abcdefgh" for other in "vwxyz")
    sizes = ("model.hidden_dim=4", "model.embedding_dim=4", "model.prior_width=4", "data.min_count=1")
    changes = [part for setting in (*sizes, *settings) for part in ("--set", setting)]
    return lambda world: ["fit", "verses-davam", "--data", world.file("texts.txt", text), *changes]


LATENT_SEQUENCES = {
    "an attending decoder without units": Case(
        lambda _: ["explain", "pairs-vattn-h", "--set", "model.hidden_dim=0"], ("hidden_dim must be 1 or more; got 0",)
    ),
    "an attending decoder of less than none": Case(
        lambda _: ["explain", "verses-vae-attn", "--set", "model.hidden_dim=-1"],
        ("hidden_dim=-1", "change its options or its constructor"),
    ),
    "more codes than positions": Case(
        codes("model.codes=600"), ("latents in all, and the code book 600 codes", "set model.codes to")
    ),
    "a code book of one": Case(codes("model.codes=1"), ("a code book needs 2 codes or more", "got 1,")),
    "a stride longer than any text": Case(
        codes("model.codes=4", "model.stride=7"),
        ("no training text is longer than 6 tokens, EOS counted, and a stride of 7", "model.positions=last"),
    ),
    "one latent with a stride": Case(
        codes("model.codes=4", "model.positions=last", "model.stride=2"), ("leave stride at 1", "got stride 2")
    ),
    "a stop without codes": Case(
        codes("model.prior=normal", "guide.name=gaussian", "model.latent_length=eos_code"),
        ("it needs prior: codes and positions: tokens; got normal and tokens",),
    ),
}
