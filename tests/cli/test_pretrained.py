"""Runs whose tokenizer comes from a pretrained folder: they need it once."""

import json
import shutil

import pytest
from families.pretrained_folders import FOLDERS, TEXTS

SMALL = {
    "model.latent_dim": 2,
    "model.embedding_dim": 6,
    "model.hidden_dim": 6,
    "data.tokenizer": "pretrained",
    "data.lower": False,
    "data.batch_size": 4,
    "training.steps": 2,
    "training.log_every": 1,
    "report.sentences": 3,
    "report.particles": 2,
    "report.samples": 2,
}

USES = {
    "evaluate": lambda run: ["evaluate", run],
    "generate": lambda run: ["generate", run, "-n", "2"],
    "reconstruct": lambda run: ["generate", run, "--reconstruct", "naïve 日本"],
    "neighbours": lambda run: ["generate", run, "--neighbours", "the sea"],
    "resume": lambda run: ["fit", "--resume", run, "--steps", "3"],
    "swap": lambda run: ["swap", run, "--guide", "pooled"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run whose pretrained folder, given by a relative path, has gone since."""
    import ppl_text as pt

    place = tmp_path_factory.mktemp("pretrained")
    for split in ("train", "valid", "test"):
        (place / f"{split}.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        FOLDERS["llama"](place / "model")
        changes = {**SMALL, "data.pretrained": "model"}
        run = pt.fit("verses-vae", data=place, set=changes, out=place / "run")
    shutil.rmtree(place / "model")
    return run.folder


def test_a_run_knows_its_pretrained_tokenizer_from_anywhere(trained):
    import yaml

    data = yaml.safe_load((trained / "config.yaml").read_text())["data"]
    assert data["pretrained"] == str(trained.parent / "model")
    symbols = json.loads((trained / "tokenizer.json").read_text())["model"]["vocab"]
    assert list(symbols)[:5] == ["<pad>", "<s>", "</s>", "<unk>", "<0x00>"]


@pytest.mark.parametrize("arguments", USES.values(), ids=USES)
def test_a_run_does_not_need_the_pretrained_folder_again(arguments, trained, tmp_path, ppl):
    copied = shutil.copytree(trained, tmp_path / "run")
    ended = ppl(*arguments(copied))
    assert ended.status == 0, ended.err
    assert "Traceback" not in ended.err
