"""Bad inputs: tokenizers and models of pretrained folders, and Transformers that cannot be."""

from families.pretrained_folders import gpt2_folder

from .bad_world import Case


def pretrained(*settings, recipe="verses-vae", **files):
    """``fit`` of texts with settings, beside files of the folder ``model`` ("__" in a name is a dot)."""
    changes = [part for setting in settings for part in ("--set", setting)]

    def arguments(world):
        for name, content in files.items():
            world.file(f"model/{name.replace('__', '.')}", content)
        texts = world.file("texts.txt", "".join(f"the {word} sea\n" for word in "abcdefghijklmnopqrstuvwxyz"))
        return ["fit", recipe, "--data", texts, *changes]

    return arguments


def transformer(*settings, **files):
    """The same for a Transformer."""
    return pretrained(*settings, recipe="verses-della", **files)


FOLDER = ("data.tokenizer=pretrained", "data.pretrained=model")


def another_tokenizer(world):
    """A whole folder of GPT-2, whose tokenizer the texts are not read by."""
    gpt2_folder(world.folder / "model")
    return transformer("model.backbone=model", "data.tokenizer=bpe")(world)


WHOLE = '{"model_type": "gpt2", "vocab_size": 9, "n_layer": 1, "n_embd": 4, "n_head": 1, "n_positions": 8}'
GPT2 = '{"model_type": "gpt2"}'

PRETRAINED = {
    "no folder named": Case(
        pretrained("data.tokenizer=pretrained"),
        ("'data.pretrained': expected a folder of a pretrained model, or its name, for data.tokenizer=pretrained",),
    ),
    "a folder for another tokenizer": Case(
        pretrained("data.tokenizer=bpe", "data.pretrained=gpt2"),
        ("'data.pretrained': expected data.tokenizer=pretrained beside it; got bpe",),
    ),
    "no such folder": Case(
        pretrained("data.tokenizer=pretrained", "data.pretrained=no/such/folder"),
        (
            "pretrained model 'no/such/folder': no such folder, and no name that the hub could have",
            "hf download no/such/folder --local-dir DIR",
            "start from random weights: leave model.backbone out, with data.tokenizer=bpe",
        ),
    ),
    "a folder without a model": Case(
        pretrained(*FOLDER, notes__txt=""), ("model' holds no config.json; get the files",)
    ),
    "a folder without a tokenizer": Case(
        pretrained(*FOLDER, config__json=GPT2),
        ("model': it holds no tokenizer; expected tokenizer.json and tokenizer_config.json",),
    ),
    "a damaged tokenizer": Case(
        pretrained(*FOLDER, config__json=GPT2, tokenizer__json='{"model": '),
        ("model': its tokenizer cannot be read (", "expected tokenizer.json and tokenizer_config.json"),
    ),
    "a file": Case(
        pretrained("data.tokenizer=pretrained", "data.pretrained=model/a.bin", a__bin=b"x"),
        ("expected a folder with config.json or a file NAME.gguf; got a file",),
    ),
    "a tokenizer.json that is no run's": Case(
        pretrained("data.tokenizer=pretrained", "data.pretrained=model/t.json", t__json="{"),
        ("t.json' is damaged: ", "restore it from a copy"),
    ),
    "no such backbone": Case(
        transformer("model.backbone=no/such/folder"),
        ("pretrained model 'no/such/folder': no such folder", "start from random weights: leave model.backbone out"),
    ),
    "a backbone of another architecture": Case(
        transformer("model.backbone=model", config__json='{"model_type": "bert"}'),
        ("is of the architecture 'bert'; supported: gpt2, llama, mistral, qwen2, qwen3, bart",),
    ),
    "a backbone without weights": Case(
        transformer("model.backbone=model", config__json=WHOLE),
        ("model' holds no weights; expected model.safetensors", "start from random weights: leave model.backbone out"),
    ),
    "a backbone of another tokenizer": Case(
        another_tokenizer,
        (
            "the tokenizer of the data is not that of the pretrained model in",
            "set data.tokenizer=pretrained and data.pretrained=",
        ),
    ),
    "an architecture that is not known": Case(
        transformer("model.architecture=bert"), ("unknown architecture 'bert' (did you mean 'bart'?)",)
    ),
    "texts beyond the positions": Case(
        transformer("model.positions=4"),
        (
            "texts have more tokens than the 4 positions of the model",
            "with data.long=truncate, drop or refuse",
        ),
    ),
    "heads that do not divide the width": Case(
        transformer("model.heads=3"), ("width must be a multiple of heads; got 128 and 3",)
    ),
    "a guide for nothing latent": Case(
        transformer("model.paradigm=none"),
        ("with paradigm: none nothing is latent; the guide of that model is 'exact'",),
    ),
}
