"""The sections that every text has hold the numbers, and their values are strict JSON."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ppl_text.core.atomic import finite_or_none
from ppl_text.core.latents import LatentSpec
from ppl_text.data.corpus import Long, Repeat, Side, Split
from ppl_text.data.tokenizers import character_tokenizer, word_tokenizer
from ppl_text.evaluation.likelihood import Likelihood
from ppl_text.evaluation.report import values_of
from ppl_text.measures.base import Evaluation, ObjectiveBound, Subject, TextSamples
from ppl_text.measures.sentences import SentenceMeasure
from ppl_text.measures.texts import References
from ppl_text.measures.words import WordMeasure

LIKELIHOOD = Likelihood(
    particles=8,
    elbo=-12.3456,
    elbo_se=0.0123,
    iw=-11.9876,
    iw_se=0.0456,
    kl=3.3333,
    rec=9.0123,
    sampling_se=0.0,
    ess=3.2,
    rec_sum=901.23,
    kl_sum=333.33,
    n_sent=1234.0,
    n_eos=7404.0,
    n_words=6170.0,
    khat_good=0.9,
    khat_ok=0.08,
    khat_bad=0.02,
    khat_median=0.3,
)
SAMPLES = TextSamples(drawn=200, in_list=0.125, unique=0.5, unfinished=3, texts=("ab", "", "a|b"))
MODEL = SimpleNamespace(latents=(LatentSpec("h", axes=("T", "D"), sizes={"D": 2}),))


def corpus_of(split, **names):
    return SimpleNamespace(splits={"test": split}, repeats=(), **names)


WORDS = corpus_of(Split(Side(["ab"], character_tokenizer("ab"))), noun="word", symbol="letter", weighted=True)
HALF_KNOWN = Split(Side(["a b a c"], word_tokenizer(["a a"])), long=Long(truncated=1, dropped=3))
"""One sentence of the four that were read, two of whose tokens are known."""
SENTENCES = corpus_of(HALF_KNOWN, noun="sentence", symbol="token", weighted=False)


class Words(WordMeasure):
    def references(self, corpus, split, *, conditional):
        return References(letters=14.5, entropy=6.8)


def test_sentences_of_parts_of_words_have_figures_that_other_tokenizers_share(monkeypatch):
    monkeypatch.setattr(Subject, "latents", lambda *_: None)
    of_parts = replace(LIKELIHOOD, n_spaced=5000.0, n_bytes=24000.0)
    bounds = shown(Sentences(), of_parts, SENTENCES, samples=0)[0]
    line = "Per word between white space PPL 19.270, 0.889 bits per byte (the end of a text counts as a word"
    assert bounds.lines[2].startswith(line)
    assert (bounds.values["n_spaced"], bounds.values["n_bytes"]) == (5000.0, 24000.0)
    assert bounds.values["ppl_word"] == pytest.approx(math.exp(11.9876 * 1234 / 5000))
    assert bounds.values["bits_per_byte"] == pytest.approx(11.9876 * 1234 / 24000 / math.log(2))
    exact = replace(of_parts, exact=True, elbo_se=0.0, iw_se=0.0)
    assert shown(Sentences(), exact, SENTENCES, samples=0)[0].lines[2].startswith(line)
    words = replace(of_parts, n_spaced=7404.0)
    assert not any("between white space" in row for row in shown(Sentences(), words, SENTENCES, samples=0)[0].lines)
    assert not {"ppl_word", "n_bytes"} & set(shown(Sentences(), corpus=SENTENCES, samples=0)[0].values)


class Sentences(SentenceMeasure):
    def references(self, corpus, split, *, conditional):
        return References(letters=14.5, entropy=6.8, telling=False)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Nothing is written by these models: tests/test_pages.py has some that write."""
    monkeypatch.setattr(Subject, "samples", lambda self, n, seed: SAMPLES)
    monkeypatch.setattr("ppl_text.measures.texts.reconstruction_sections", lambda *_: [])


def shown(measure=None, likelihood=LIKELIHOOD, corpus=WORDS, samples=200, model=MODEL, other=None):
    subject = Subject(model, None, corpus)
    return (measure or Words()).sections(subject, Evaluation("test", likelihood, samples=samples, other=other))


def test_words_have_bounds_beside_references_and_samples():
    bounds, samples = shown()
    assert bounds.title == "Bounds on the test words"
    assert bounds.header == ("quantity", "nats per word", "Monte-Carlo s.e.", "k̂ > 0.7")
    assert bounds.rows == (
        ("ELBO", "-12.346", "0.012", ""),
        ("importance-weighted bound, K = 8", "-11.988", "0.046", "2%"),
        ("KL(q ‖ p)", "3.333", "", ""),
        ("reconstruction E_q[ln p(w | h)]", "-9.012", "", ""),
        ("i.i.d. letter model (letters and EOS)", "-14.500", "exact", ""),
        ("most on the whole split: minus its entropy", "-6.800", "exact", ""),
    )
    assert bounds.lines == (
        "Nats per word, EOS scored, over every type of the split, weighted by its count (1,234 tokens); 6.00 scored "
        "tokens a word. Standard errors are of the draws of h, around the expectation of each figure.",
    )
    assert bounds.terminal == ("Per scored token: -1.9979 nats, perplexity 7.374 ± 0.056 (EOS counted)",)
    assert samples.title == "Samples from the prior (200 drawn)"
    assert samples.lines == ("words of the training list: 12.5% · distinct: 50.0% · cut off without EOS: 3",)
    assert samples.quotes == ("ab ∅ a|b",)


def test_sentences_have_perplexities_and_stand_a_line_each(monkeypatch):
    two = (LatentSpec("z", ("D",), {"D": 2}), LatentSpec("a", ("T", "D"), {"D": 2}))
    monkeypatch.setattr(Subject, "latents", lambda *_: None)
    bounds, samples = shown(Sentences(), corpus=SENTENCES, model=SimpleNamespace(latents=two))
    assert bounds.title == "Bounds on the test sentences"
    assert ("reconstruction E_q[ln p(w | z, a)]", "-9.012", "", "") in bounds.rows
    assert bounds.lines[0] == (
        "Nats per sentence, EOS scored, over all 1,234 sentences; 6.00 scored tokens a sentence. Standard errors are "
        "of the draws of z, a, around the expectation of each figure."
    )
    assert bounds.lines[1] == (
        "PPL 1.181 ± 0.002 from the ELBO, 7.374 ± 0.056 from K = 8 importance samples (k̂ > 0.7: 2%); over 7,404 "
        "scored tokens (EOS counted, BOS not) in 1,234 sentences."
    )
    assert bounds.lines[2] == (
        "Of the split 50.00% of the tokens are <unk>; too long were 25.00% of the sentences, which were truncated, and "
        "75.00%, which were dropped."
    )
    assert [bounds.values[f"{name}_share"] for name in ("unknown", "truncated", "dropped")] == [0.5, 0.25, 0.75]
    assert len(bounds.rows) == 5, "all sentences differ, and nothing is said of their entropy"
    assert samples.quotes == ("ab", "∅", "a|b")


def test_both_perplexities_stand_where_a_latent_has_steps():
    stepwise = replace(LIKELIHOOD, kl_sum=7000.0, step_kl_sum=6170.0, n_steps=6170.0)
    bounds = shown(Sentences(), stepwise, SENTENCES, samples=0, model=SimpleNamespace(latents=()))[0]
    assert bounds.lines[1].startswith("PPL 2.907 ± 0.006 from the ELBO")
    value = math.exp((901.23 + 830 + 1234 * 1.0) / 7404)
    assert bounds.lines[2] == (
        f"paper_ppl {value:.3f}, which is no bound: it charges a sentence for one average latent step (1.000 nats) "
        "where it has 5.00, as some papers print it."
    )
    assert (bounds.values["kl_per_step"], bounds.values["paper_ppl"]) == (1.0, pytest.approx(value))
    without = shown(Sentences(), corpus=SENTENCES, samples=0, model=SimpleNamespace(latents=()))[0]
    assert "paper_ppl" not in without.values
    assert not any("paper_ppl" in line for line in without.lines)


def test_texts_that_stand_in_other_splits_are_named():
    repeats = (Repeat("valid", "train", 7), Repeat("test", "train", 2), Repeat("test", "valid", 1))
    corpus = SimpleNamespace(**{**vars(SENTENCES), "repeats": repeats})
    told = "Of its 1 sentences 2 stand in train too and 1 stand in valid too, as they are scored."
    assert told in shown(Sentences(), corpus=corpus, samples=0)[0].lines
    assert not any("stand in" in line for line in shown(Sentences(), corpus=SENTENCES, samples=0)[0].lines)


def test_how_the_texts_came_is_said():
    some = replace(LIKELIHOOD, sampling_se=0.25, token_sampling_se=0.02)
    words, sentences = shown(likelihood=some)[0], shown(Sentences(), some, SENTENCES)[0]
    assert "over 1,234 words drawn from the split ∝ counts (± 0.250 from the draw);" in words.lines[0]
    assert "over 1,234 sentences drawn from the split (± 0.250 from the draw);" in sentences.lines[0]
    assert sentences.lines[1].endswith("in 1,234 sentences (± 0.147 from the draw of these).")


def test_an_error_that_hangs_on_a_few_draws_claims_nothing():
    poor = replace(LIKELIHOOD, khat_bad=0.83, khat_median=1.01)
    words, sentences = shown(likelihood=poor)[0], shown(Sentences(), poor, SENTENCES)[0]
    assert words.rows[0] == ("ELBO", "-12.346", "0.012", ""), "an ELBO is a plain mean"
    assert words.rows[1][2:] == sentences.rows[1][2:] == ("0.046", "83%, unreliable")
    assert "7.374 ± 0.056 from K = 8 importance samples (k̂ > 0.7: 83%, unreliable)" in sentences.lines[1]
    assert "k̂ > 0.7 on 83% of the words (median 1.01): a few draws carry the weight there" in words.lines[1]
    assert "its error claims no coverage" in words.lines[1]
    assert words.values["unreliable"] is True
    few = shown(likelihood=replace(LIKELIHOOD, khat_bad=math.nan))[0]
    assert few.rows[1][2:] == ("0.046", "unknown")
    assert not any("claims no coverage" in line for line in few.lines)


def test_where_nothing_is_latent_there_is_one_exact_row():
    exact = replace(LIKELIHOOD, particles=1, exact=True)
    bounds, samples = shown(Sentences(), exact, SENTENCES, model=SimpleNamespace(latents=()))
    assert bounds.title == "Log-likelihood of the test sentences"
    assert bounds.rows[0] == ("log-likelihood ln p(w): nothing is latent", "-11.988", "exact")
    assert len(bounds.rows) == 2
    assert "Standard errors" not in bounds.lines[0]
    assert bounds.lines[1].startswith("PPL 7.374, exact; over 7,404 scored tokens")
    assert samples.title == "Samples from the model (200 drawn)"


def test_a_point_mass_says_why_its_bounds_are_infinite():
    infinite = {"elbo": -math.inf, "iw": -math.inf, "kl": math.inf, "kl_sum": math.inf}
    unknown = {"elbo_se": math.nan, "iw_se": math.nan, "khat_bad": math.nan}
    point = replace(LIKELIHOOD, **infinite, **unknown)
    lines = shown(Sentences(), point, SENTENCES)[0].lines
    assert lines[1].startswith("PPL inf from the ELBO, inf from K = 8")
    assert lines[2].startswith("KL = ∞: the guide puts all its mass on one point")


def test_another_objective_stands_beside_the_bounds():
    (bounds,) = shown(samples=0, other=ObjectiveBound("fivo:8", -11.5, 0.02))
    assert [row[0] for row in bounds.rows[:4]] == [
        "ELBO",
        "importance-weighted bound, K = 8",
        "bound of fivo:8",
        "KL(q ‖ p)",
    ]
    assert bounds.rows[2][1:3] == ("-11.500", "0.020")
    assert (bounds.values["objective"], bounds.values["objective_bound"]) == ("fivo:8", -11.5)


def test_a_reference_that_gives_no_probability_is_left_out_and_said_so(monkeypatch):
    monkeypatch.setattr(Sentences, "references", lambda *_, **__: References(letters=math.inf, entropy=6.8))
    (bounds,) = shown(Sentences(), corpus=SENTENCES, samples=0)
    assert not [row for row in bounds.rows if "i.i.d." in row[0] or "inf" in row[1]]
    assert bounds.lines[-1] == (
        "The i.i.d. token model is left out: these texts have a token that train never has, so that it gives them no "
        "probability."
    )


def test_values_are_strict_json_whatever_the_numbers(monkeypatch):
    monkeypatch.setattr(Words, "references", lambda *_, **__: References(letters=math.inf, entropy=6.8))
    odd = replace(LIKELIHOOD, particles=1, elbo_se=math.nan, iw_se=math.nan)
    back = json.loads(json.dumps(finite_or_none(values_of(shown(likelihood=odd))), allow_nan=False))
    assert back["elbo_se"] is None
    assert back["iw_se"] is None
    assert back["letter_model"] is None
    assert back["elbo"] == -12.3456
    assert back["perplexity"] == math.exp(11.9876 * 1234 / 7404)
    assert back["samples"] == {"drawn": 200, "in_list": 0.125, "unique": 0.5, "unfinished": 3}
    assert "samples" not in values_of(shown(samples=0))


def test_one_particle_has_no_standard_error_in_the_table():
    (bounds,) = shown(likelihood=replace(LIKELIHOOD, particles=1, elbo_se=math.nan, iw_se=math.nan), samples=0)
    assert [row[2] for row in bounds.rows[:2]] == ["unknown (K = 1)"] * 2
