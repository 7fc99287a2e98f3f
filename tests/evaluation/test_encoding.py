"""Latents of texts, and texts of latents."""

import pytest
import torch

import ppl_text as pt
from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.evaluation import encoding

WORDS = ["bade", "ma", "lite"]
SENTENCES = ["she sees bread", "the king loves a bird from the tree"]


@pytest.fixture(scope="module")
def vae(sentences, tmp_path_factory, one_thread):
    """A sentence VAE that has hardly been trained."""
    small = {"model.latent_dim": 3, "model.embedding_dim": 4, "model.hidden_dim": 6, "training.steps": 2}
    small |= {"data.min_count": 1, "report.particles": 2, "report.sentences": 10, "report.samples": 4}
    return pt.fit("verses-vae", data=sentences, set=small, out=tmp_path_factory.mktemp("vae") / "run")


def test_draws_are_those_of_a_reconstruction(trained, vae):
    for run, texts in ((trained, WORDS), (vae, SENTENCES)):
        for seed in (0, 3):
            assert run.decode(run.encode(texts, seed)) == run.reconstruct(texts, seed)
    assert not torch.equal(vae.encode(SENTENCES, 0)["z"], vae.encode(SENTENCES, 1)["z"])
    assert torch.equal(vae.encode(SENTENCES, 1)["z"], vae.encode(SENTENCES, 1)["z"])


def test_more_texts_than_are_encoded_at_once(trained, monkeypatch):
    """Chunks of other widths are put together, and each text keeps its length."""
    monkeypatch.setattr(encoding, "CHUNK", 2)
    texts = ["ma", "da", "bade", "ma", "lite"]
    latents = trained.encode(texts)
    assert latents["h"].shape == (5, 5, 2)
    assert [int(row.any(-1).sum()) for row in latents["h"]] == [3, 3, 5, 3, 5]  # EOS counted
    assert trained.decode(latents) == [trained.decode({"h": row[None]})[0] for row in latents["h"]]


def test_a_mean_is_known_exactly_or_taken_from_draws(trained, vae):
    mean = vae.encode(SENTENCES, latents="mean")["z"]
    torch.testing.assert_close(mean, vae.guide.posterior(vae.batch(SENTENCES)).mean)
    assert torch.equal(mean, vae.encode(SENTENCES, 7, latents="mean")["z"])
    path = trained.encode(WORDS, latents="mean")["h"]
    draws = torch.stack([trained.encode(WORDS, seed)["h"] for seed in range(200)])
    error = (path - draws.mean(0)).abs()
    assert bool((error <= 5 * draws.std(0) * (1 / 16 + 1 / 200) ** 0.5).all())
    assert len(trained.decode({"h": path})) == 3


def test_a_batch_is_what_programs_are_given(vae):
    batch = vae.batch(SENTENCES)
    assert isinstance(batch, Batch)
    assert batch.lengths.tolist() == [4, 9]
    assert batch.weights.tolist() == [1.0, 1.0]
    assert vae.form.tokenizer.decode(batch.tokens[0].tolist()) == SENTENCES[0]
    vae.guide(batch)
    vae.model(batch)


def test_latents_may_be_plain_numbers(vae):
    latents = vae.encode(SENTENCES)["z"]
    assert (
        vae.decode({"z": latents.tolist()}) == vae.decode({"z": latents.double().numpy()}) == vae.decode({"z": latents})
    )


def test_a_strategy_that_draws_goes_by_the_seed(vae):
    latents = vae.encode(SENTENCES * 5)
    first = vae.decode(latents, 1, "sample")
    assert first == vae.decode(latents, 1, "sample")
    assert first != vae.decode(latents, 2, "sample")


BAD_LATENTS = {
    "another site": ({"y": [[0.0, 0.0, 0.0]]}, "has the latents z; got y"),
    "none": ({}, "has the latents z; got none"),
    "no mapping": ([[0.0]], "expected latents by site, as encode returns them; got list"),
    "too narrow": ({"z": [[0.0, 0.0]]}, r"latent 'z' must be of shape \(N, 3\); got \(1, 2\)"),
    "one row without its axis": ({"z": [0.0, 0.0, 0.0]}, r"must be of shape \(N, 3\); got \(3,\)"),
    "no number": ({"z": [[0.0, float("nan"), 0.0]]}, "latent 'z' holds NaN; give numbers"),
    "words": ({"z": [["a", "b", "c"]]}, "latent 'z' cannot be read as numbers"),
}


@pytest.mark.parametrize(("latents", "says"), BAD_LATENTS.values(), ids=BAD_LATENTS)
def test_bad_latents_end_in_a_message(vae, latents, says):
    with pytest.raises(UserError, match=says):
        vae.decode(latents)


def test_bad_texts_end_in_a_message(trained, vae):
    with pytest.raises(UserError, match=r"expected a list of texts, e\.g\. \['ma'\]; got one text"):
        trained.encode("ma")
    with pytest.raises(UserError, match="expected a list of texts; got one of type int in it"):
        trained.encode([3])
    with pytest.raises(UserError, match="no text to encode"):
        trained.encode([])
    with pytest.raises(UserError, match="no text to make a batch of"):
        trained.batch([])
    with pytest.raises(UserError, match=r"this run takes 1 to 4"):
        trained.batch(["bade" * 3])
    with pytest.raises(UnknownNameError, match="unknown kind of latents 'maen'"):
        trained.encode(["ma"], latents="maen")
    with pytest.raises(UserError, match=r"reads no source; leave it out|have no sources; leave the source out"):
        vae.decode(vae.encode(SENTENCES), sources=["a", "b"])
    with pytest.raises(UserError, match="row 1 of the latents has no step"):
        trained.decode({"h": [[[1.0, 1.0]], [[0.0, 0.0]]]})
    assert trained.decode({"h": torch.zeros(0, 3, 2)}) == []


def test_nothing_latent_has_no_halves(sentences, tmp_path, one_thread):
    small = {"model.embedding_dim": 4, "model.hidden_dim": 6, "training.steps": 1, "data.min_count": 1}
    run = pt.fit("verses-lm", data=sentences, set={**small, "report.samples": 4}, out=tmp_path / "run")
    with pytest.raises(UserError, match="has no latent to encode in"):
        run.encode(SENTENCES)
    with pytest.raises(UserError, match="has no latent to decode from"):
        run.decode({})
