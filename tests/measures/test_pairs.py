"""Texts given sources: figures of a model whose every text is known, and verdicts on ways that are known."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import nn

from ppl_text.core.latents import LatentSpec
from ppl_text.data.corpus import Corpus, Side, Split
from ppl_text.data.tokenizers import word_tokenizer
from ppl_text.distributions.tokens import DecodedTokens
from ppl_text.evaluation.sources import Lost, Ways
from ppl_text.measures import load_measure, measures_of
from ppl_text.measures.base import Evaluation, Subject
from ppl_text.measures.pairs import verdict
from ppl_text.metrics.bleu import bleu

WORDS = [f"w{i}" for i in range(9)]
TOKENIZER = word_tokenizer([" ".join(WORDS)] * 2)
FIRST = TOKENIZER.encode(["w0"])[0][0]
SOURCES = ["w0 w2 w4", "w1 w3 w5 w1", "w4", "w6 w0"]
TEXTS = ["w1 w3 w5", "w2 w4 w6 w2", "w5", "w7 w1"]


def corpus(texts=TEXTS, sources=SOURCES):
    split = Split(Side(texts, TOKENIZER), source=Side(sources, TOKENIZER))
    return Corpus("moved", {"train": split, "test": split}, (), "text", "word", weighted=False)


class Moving(nn.Module):
    """y_t = x_t moved on by z words, to the source's EOS; z ~ N(0, 1)."""

    family, generation, conditional = "moving", "posterior", True
    measures = ("sentences", "pairs")

    def __init__(self, latent=True):
        super().__init__()
        self.vocabulary = replace(TOKENIZER.vocabulary, source=TOKENIZER.vocabulary)
        self.latents = (LatentSpec("z", axes=("D",), sizes={"D": 1}),) if latent else ()
        self.anywhere = nn.Parameter(torch.zeros(1))

    def logits(self, letters, z):
        wanted = torch.where(letters >= FIRST, letters + z, letters)
        return -50.0 * (torch.arange(self.vocabulary.ids.first_outcome, TOKENIZER.size) - wanted.unsqueeze(-1)).square()

    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", Normal(torch.zeros(batch.size, 1), 1.0).to_event(1)) if self.latents else torch.ones(1)
            states = self.logits(batch.source.tokens[:, : batch.steps], z)
            eye = torch.eye(states.shape[-1])
            tokens = DecodedTokens(states, eye, torch.zeros(len(eye)), batch.lengths, self.vocabulary.ids)
            pyro.sample("tokens", tokens, obs=batch.tokens)

    def draw(self, n, steps, source=None):
        return {}

    def decoder(self, latents, source=None):
        return Mover(self, latents.get("z", torch.ones(source.size, 1)), source.tokens)


class Mover:
    def __init__(self, model, z, source):
        self.model, self.z, self.source = model, z, source

    def begin(self, rows):
        return self.z, self.source, torch.zeros(rows, dtype=torch.long)

    def step(self, state, tokens):
        z, source, place = state
        letter = source.gather(-1, place.clamp(max=source.shape[1] - 1).unsqueeze(-1)).squeeze(-1)
        return self.model.logits(letter, z.squeeze(-1)), (z, source, place + 1)


class Plain(nn.Module):
    """q(z | x) = N(1, 1e-3²); what it draws for texts is 1, 2, 1, 2, …"""

    family = "moving"

    def __init__(self, model):
        super().__init__()
        self._model = (model,)

    def forward(self, batch):
        if self._model[0].latents:
            with pyro.plate("sentences", batch.size, dim=-1):
                pyro.sample("z", Normal(torch.ones(batch.size, 1), 1e-3).to_event(1))

    def draw(self, n, steps, source=None):
        return {"z": 1.0 + torch.arange(n).remainder(2).float().unsqueeze(-1)}

    def decoder(self, latents, source=None):
        return self._model[0].decoder(latents, source)

    def at_means(self):
        return Means(self)


class Guide(Plain):
    """The same, which publishes its attention."""

    def attention(self, batch):
        """Each step reads its own place, as sure as the place is early."""
        steps, places = batch.steps, batch.source.steps
        return torch.eye(steps, places).expand(batch.size, -1, -1), torch.arange(steps).expand(batch.size, -1) / 10


class Means:
    def __init__(self, guide):
        self._guide = guide

    def draw(self, n, steps, source=None):
        return {"z": torch.ones(n, 1)}

    def decoder(self, latents, source=None):
        return self._guide.decoder(latents, source)


SETTINGS = {"sentences": None, "particles": 4, "draws": 10, "shown": 2}


@pytest.fixture(scope="module")
def measured():
    model = Moving()
    return load_measure("pairs").row(Subject(model, Guide(model), corpus()), SETTINGS, lambda what: None)


def test_texts_at_means_are_the_references_and_half_of_the_draws_are(measured):
    found = measured.numbers
    assert [found[f"bleu{n}_map"] for n in (1, 2)] == pytest.approx([100.0, bleu(TEXTS, TEXTS).bleu2])
    beyond = ["w2 w4 w6", "w3 w5 w7 w3", "w6", "w8 w2"]
    halves = [(of + past) / 2 for of, past in zip(bleu(TEXTS, TEXTS), bleu(beyond, TEXTS), strict=True)]
    names = ("bleu1", "bleu2", "bleu3", "bleu4", "sacrebleu")
    assert [found[f"{name}_sampling"] for name in names] == pytest.approx(halves)
    assert found["bleu1_sampling"] < 60
    assert found["unfinished"] == 0


def test_diversity_is_of_the_draws_of_a_source(measured):
    """By hand: five times the reference and five times the words after it, with borders between the two."""
    found = measured.numbers
    # Different words of the two texts together: 6, 6 (w2 w4 w6 w2, w3 w5 w7 w3), 2, 4.
    second = 4 / 8 * math.log(8) + 2 * 2 / 8 * math.log(4)
    entropies = [math.log(6), second, math.log(2), math.log(4)]
    assert found["ent"] == pytest.approx(sum(entropies) / 4)
    assert found["dist1"] == pytest.approx((6 / 30 + 6 / 40 + 2 / 10 + 4 / 20) / 4)
    assert found["dist2"] == pytest.approx((4 / 20 + 6 / 30 + 0 + 2 / 10) / 4)
    assert found["dist2_paper"] == pytest.approx((6 / 30 + 8 / 40 + 2 / 10 + 4 / 20) / 4)


def test_likelihoods_stand_apart_from_the_kl(measured):
    """The text is certain given z = 1; KL(N(1, s²) ‖ N(0, 1)) = ½ (1 + s² - 1 - ln s²), which the story alone pays."""
    found = measured.numbers
    kl = 0.5 * (1.0 + 1e-6 - 1.0 - math.log(1e-6))
    assert found["kl_z"] == pytest.approx(kl, rel=1e-4)
    assert found["ppl_posterior"] == pytest.approx(1.0, abs=1e-3)
    assert found["ppl_elbo"] == pytest.approx(math.exp(kl * 4 / 14), rel=0.05)
    assert found["lost_z"] == pytest.approx(0.0, abs=1e-3), "the z of another source is the same"
    assert found["lost_around"] == pytest.approx(found["lost_whole"], rel=1e-2)
    assert found["lost_whole"] > 10
    assert found["lost_z_prior"] > 1


def test_rows_show_the_first_sources_with_their_texts(measured):
    assert len(measured.texts) == SETTINGS["shown"]
    assert set(measured.texts) < {f"{x} → {y}" for x, y in zip(SOURCES, TEXTS, strict=True)}
    for heading, (best, *drawn) in measured.texts.items():
        reference = heading.split(" → ")[1]
        assert best == f"MAP: {reference}"
        assert drawn[0] == drawn[2] == reference != drawn[1]


def test_without_latents_there_is_one_text_and_one_likelihood():
    model = Moving(latent=False)
    found = load_measure("pairs").row(Subject(model, Guide(model), corpus()), SETTINGS, lambda what: None).numbers
    assert found["bleu1_map"] == pytest.approx(100.0)
    assert "bleu1_sampling" not in found
    assert "ent" not in found
    assert found["ppl_posterior"] == found["ppl"] == pytest.approx(1.0)


def test_a_story_that_draws_from_its_prior_writes_by_its_own_likelihood():
    model = Moving()
    model.generation = "prior"
    model.draw = lambda n, steps, source: {"z": torch.ones(n, 1)}
    found = load_measure("pairs").row(Subject(model, Guide(model), corpus()), SETTINGS, lambda what: None).numbers
    assert found["ppl_posterior"] == found["ppl"]
    assert "bleu1_map" not in found
    assert found["bleu1_sampling"] == pytest.approx(100.0)


def sections(subject, samples):
    evaluation = Evaluation("test", subject.evaluate(particles=4), samples=samples)
    return {section.title: section for section in load_measure("pairs").sections(subject, evaluation)}


def test_a_report_shows_texts_side_by_side_and_pictures_of_attention(tmp_path):
    model = Moving()
    found = sections(Subject(model, Guide(model), corpus(), folder=tmp_path), 4)
    shown = found["Sources, references and texts"]
    assert shown.header == ("source", "reference", "MAP", "draws")
    assert {row[:3] for row in shown.rows} == {(x, y, y) for x, y in zip(SOURCES, TEXTS, strict=True)}
    assert len(shown.pictures) == 3
    for picture in shown.pictures:
        assert (tmp_path / picture.path).read_bytes().startswith(b"\x89PNG")
    ways = found["What texts take from their sources"]
    assert ways.lines[0] == f"verdict: {ways.values['ways']}"
    assert [row[0] for row in ways.rows] == [
        "another source in all",
        "z of another source",
        "z drawn from its prior",
        "another source, the latents held",
    ]
    assert found["Texts given their sources"].values["bleu1_map"] == pytest.approx(100.0)


def test_an_evaluation_draws_no_picture(tmp_path):
    model = Moving()
    found = sections(Subject(model, Guide(model), corpus(), folder=tmp_path), 0)
    assert "Sources, references and texts" not in found
    assert not list(tmp_path.iterdir())


def test_a_network_of_that_name_is_no_attention(tmp_path):
    model = Moving()
    guide = Plain(model)
    guide.attention = nn.Linear(2, 2)
    assert sections(Subject(model, guide, corpus(), folder=tmp_path), 4)["Sources, references and texts"].pictures == ()


def test_it_stands_beside_the_bounds_where_there_are_sources():
    assert [measure.name for measure in measures_of(Moving(), corpus())] == ["sentences", "pairs"]
    alone = Corpus("alone", {"test": Split(Side(TEXTS, TOKENIZER))}, (), "text", "word", weighted=False)
    assert [measure.name for measure in measures_of(Moving(), alone)] == ["sentences"]


def test_notes_say_what_figures_are_of(measured):
    rows = [{"seeds": [0], "measures": measured.numbers, "title": "moved"}]
    found = load_measure("pairs").notes({"rows": rows, "settings": SETTINGS})
    assert any("each of 10 draws of the latents" in note for note in found)
    assert any("tok:13a" in note for note in found)
    assert load_measure("pairs").notes({"rows": [], "settings": SETTINGS}) == []


def lost(nats, error=0.1):
    return Lost(nats, error)


VERDICTS = {
    "through one": (
        Ways(100, lost(20.0), lost(0.05), {"z": lost(0.02), "a": lost(19.0)}, {"z": lost(0.0), "a": lost(25.0)}),
        "the source goes through a, z bypassed: of the 20.00 ± 0.10 nats a sentence that another source costs, 19.00 ± "
        "0.10 nats (95%) flow through a; nothing flows through z (0.02 ± 0.10 nats); nothing goes around the latents "
        "(0.05 ± 0.10 nats).",
    ),
    "by all ways": (
        Ways(100, lost(10.0), lost(4.0), {"z": lost(2.0), "a": lost(5.0)}, {"z": lost(1.0), "a": lost(1.0)}),
        "the source goes through z and a and around the latents: of the 10.00 ± 0.10 nats a sentence that another "
        "source costs, 2.00 ± 0.10 nats (20%) flow through z, 5.00 ± 0.10 nats (50%) flow through a and 4.00 ± 0.10 "
        "nats (40%) go around the latents.",
    ),
    "around": (
        Ways(100, lost(10.0), lost(9.0), {"z": lost(0.3, 0.4)}, {"z": lost(0.0)}),
        "z is bypassed: of the 10.00 ± 0.10 nats a sentence that another source costs, 9.00 ± 0.10 nats (90%) go "
        "around the latents; nothing flows through z (0.30 ± 0.40 nats).",
    ),
    "by neither alone": (
        Ways(100, lost(10.0), lost(0.0), {"z": lost(0.0)}, {"z": lost(0.0)}),
        "each way makes up for another: another source costs 10.00 ± 0.10 nats a sentence, and no way alone costs any "
        "of it; nothing flows through z (0.00 ± 0.10 nats); nothing goes around the latents (0.00 ± 0.10 nats).",
    ),
    "not at all": (
        Ways(100, lost(0.05), lost(0.0), {"z": lost(0.0)}, {"z": lost(0.0)}),
        "texts take nothing from their sources: another one costs 0.05 ± 0.10 nats a sentence.",
    ),
    "nothing latent": (
        Ways(100, lost(5.0), lost(5.0), {}, {}),
        "nothing is latent: what a text takes from its source goes directly (another source costs 5.00 ± 0.10 nats a "
        "sentence).",
    ),
    "q reads the text": (
        Ways(100, None, lost(3.0), {}, {"z": lost(2.0)}),
        "q reads the text as well as its source. A draw of the prior for z costs 2.00 ± 0.10 nats a sentence; another "
        "source, the latents held, costs 3.00 ± 0.10 nats.",
    ),
}


@pytest.mark.parametrize(("ways", "said"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_says_which_way_the_source_goes(ways, said):
    assert verdict(ways) == said
