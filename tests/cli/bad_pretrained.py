"""Bad inputs: tokenizers of pretrained folders."""

from .bad_world import Case


def pretrained(*settings, **files):
    """``fit`` of texts with settings, beside files of the folder ``model`` ("__" in a name is a dot)."""
    changes = [part for setting in settings for part in ("--set", setting)]

    def arguments(world):
        for name, content in files.items():
            world.file(f"model/{name.replace('__', '.')}", content)
        texts = world.file("texts.txt", "".join(f"the {word} sea\n" for word in "abcdefghijklmnopqrstuvwxyz"))
        return ["fit", "verses-vae", "--data", texts, *changes]

    return arguments


FOLDER = ("data.tokenizer=pretrained", "data.pretrained=model")
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
}
