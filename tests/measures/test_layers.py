"""Figures averaged over latents, in reports and rows: of several latents of a text, of one, and of none."""

import math

import pytest
import torch

from guides.language_model import ExactGuide
from guides.layerwise_transformer import LayerWiseGuide
from guides.sentence_vae import GaussianGuide
from ppl_text.data.corpus import Corpus, Side, Split
from ppl_text.data.tokenizers import bpe_tokenizer
from ppl_text.measures import load_measure
from ppl_text.measures.base import Evaluation, Subject
from ppl_text.measures.layers import active_means
from ppl_text.models.language_model import LanguageModel
from ppl_text.models.layerwise_transformer import LayerwiseTransformer
from ppl_text.models.sentence_vae import SentenceVAE

TEXTS = [f"the {who} {does} {what}" for who in ("dog", "cat") for does in ("sees", "hears") for what in ("bread", "me")]
SETTINGS = {"sentences": None, "particles": 6, "representation": None, "paper_particles": 400}
SMALL = {"layers": 3, "width": 8, "heads": 2, "positions": 64, "dropout": 0.0, "latent_dim": 2}


@pytest.fixture(scope="module")
def corpus():
    tokenizer = bpe_tokenizer(TEXTS, vocabulary=270)
    splits = {name: Split(Side(TEXTS, tokenizer)) for name in ("train", "test")}
    return Corpus("known", splits, (), "sentence", "token", weighted=False)


def layered(corpus):
    torch.manual_seed(0)
    model = LayerwiseTransformer(corpus.vocabulary, **SMALL)
    guide = LayerWiseGuide(model)
    with torch.no_grad():  # so that latents say something
        for parameter in guide.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model, guide


def of_one_latent(corpus):
    torch.manual_seed(0)
    model = SentenceVAE(corpus.vocabulary, latent_dim=2, embedding_dim=4, hidden_dim=4, init="wide")
    return model, GaussianGuide(model)


def of_none(corpus):
    torch.manual_seed(0)
    model = LanguageModel(corpus.vocabulary)
    return model, ExactGuide(model)


def row(make, corpus):
    subject = Subject(*make(corpus), corpus)
    return load_measure("layers").row(subject, SETTINGS, lambda what: None).numbers


def test_the_sum_over_layers_is_in_the_bound_and_the_mean_beside_it(corpus):
    found = row(layered, corpus)
    by_site = [found[f"kl_z_{layer}"] for layer in (1, 2, 3)]
    assert found["kl_mean_layers"] == pytest.approx(sum(by_site) / 3, rel=0.1)
    # By six draws, whose error is that of the ELBO for the most part.
    assert found["kl"] == pytest.approx(sum(by_site), abs=5 * found["elbo_se"])
    assert found["paper_elbo_negative"] < found["elbo_negative"]
    assert found["paper_particles"] == 400
    for key in ("active_units", "active_units_02"):
        assert found[f"{key}_mean"] == sum(found[f"{key}_z_{layer}"] for layer in (1, 2, 3)) / 3
        assert found[key] == 3 * found[f"{key}_mean"]
    so_far = [found[f"information_so_far_z_{layer}"] for layer in (1, 2, 3)]
    assert so_far[-1] == found["mutual_information"] <= found["mutual_information_cap"] == pytest.approx(math.log(8))
    assert found["n_bytes"] == sum(len(text) + 1 for text in TEXTS)
    assert found["bits_per_byte"] == pytest.approx(found["iw_negative"] * 8 / found["n_bytes"] / math.log(2))


def test_one_latent_is_its_own_mean(corpus):
    found = row(of_one_latent, corpus)
    assert found["kl_mean_layers"] == pytest.approx(found["kl"], rel=0.1, abs=0.05)
    assert found["active_units_mean"] == found["active_units"]
    assert "information_so_far_z" not in found


def test_without_latents_only_the_divisor_is_another(corpus):
    found = row(of_none, corpus)
    assert found["paper_ppl"] == pytest.approx(math.exp(found["iw_negative"] * 8 / (found["n_eos"] + 8)))
    assert found["paper_particles"] == 1
    assert not {"kl_mean_layers", "active_units_mean", "paper_elbo_negative"} & set(found)


def test_a_report_has_both_columns_where_there_are_several_latents(corpus):
    measure = load_measure("layers")
    for make in (of_one_latent, of_none):
        assert measure.sections(Subject(*make(corpus), corpus), None) == []
    subject = Subject(*layered(corpus), corpus)
    evaluation = Evaluation("test", subject.evaluate("test", 6))
    (section,) = measure.sections(subject, evaluation)
    assert section.title == "Summed and averaged over the latents of the test sentences"
    assert [r[0] for r in section.rows] == ["KL(q ‖ p), nats", "Rec + KL, nats", "PPL from importance samples"]
    assert section.rows[2][2].endswith("(K = 30)")
    assert "3 latents by 3" in section.lines[0]
    assert set(section.values) == {"kl_mean_layers", "paper_elbo_negative", "paper_ppl", "paper_particles"}


def test_active_units_that_are_not_known_have_no_mean():
    numbers = {"active_units_a": 3, "active_units_b": None, "active_units_02_a": 1, "active_units_02_b": 2}
    assert active_means(numbers, ["a", "b"]) == {"active_units_02_mean": 1.5}
    assert active_means({"active_units": 4}, ["z"]) == {"active_units_mean": 4.0}
    assert active_means({}, []) == {}


def test_notes_say_which_figures_are_no_bounds():
    measure = load_measure("layers")
    assert measure.notes({"rows": []}) == []
    rows = [{"title": "A", "seeds": [0], "measures": {"n_eos": 9.0, "n_sent": 3.0, "particles": 5.0}}]
    assert "no bounds" in measure.notes({"rows": rows, "settings": {}})[-1]
    written = {"metrics": ["bleu"], "written": 3, "strategies": {"best": "beam"}}
    assert measure.notes({"rows": rows, "settings": written})[-1].startswith("3 texts a row, written by best (Beam(")


def test_attention_on_a_memory_stands_by_layer_with_pictures(corpus, tmp_path):
    """Shares that are known: layer l has 1/(l + 1) of the attention of every step."""
    model, guide = of_one_latent(corpus)
    model.memory_attention = lambda batch, latents: (
        torch.tensor([0.5, 0.25]).view(1, 2, 1).expand(batch.size, 2, batch.steps),
        (torch.arange(batch.steps) + 2.0).reciprocal().expand(batch.size, -1),
    )
    subject = Subject(model, guide, corpus, folder=tmp_path)
    measure = load_measure("layers")
    (section,) = measure.sections(subject, Evaluation("test", None, samples=2))
    assert section.title == "Attention on the memory"
    assert section.rows == (("1", "50.0%"), ("2", "25.0%"))
    assert section.values["memory_attention"] == [0.5, 0.25]
    lengths = [len(ids) + 1 for ids in corpus.tokenizer.encode(TEXTS)]
    equal = sum(1 / (t + 2) for n in lengths for t in range(n)) / sum(lengths)
    assert section.values["memory_attention_if_equal"] == pytest.approx(equal)
    assert [picture.path for picture in section.pictures] == [f"figures/memory-{i}.png" for i in (1, 2, 3)]
    assert all((tmp_path / f"figures/memory-{i}.png").is_file() for i in (1, 2, 3))
    assert measure.sections(subject, Evaluation("test", None)) == []
    model.memory_attention = lambda batch, latents: None
    assert measure.sections(subject, Evaluation("test", None, samples=2)) == []
