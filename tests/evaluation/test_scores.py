"""Scores in bounded memory, and the file that keeps them, against models whose log p(x) is known."""

import json
import math
import os

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from guides.sentence_vae import GaussianGuide as LSTMGuide
from guides.sentence_vae import PointGuide
from ppl_text import objectives
from ppl_text.core.batch import Batch
from ppl_text.core.errors import UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.evaluation.likelihood import Likelihood, bounds_of, estimate_bounds, measuring, sentence_bounds, summarize
from ppl_text.evaluation.scores import (
    HELD,
    ON_DEVICE,
    ROOM,
    WIDE_ROOM,
    check_storable,
    draw,
    join_scores,
    load_scores,
    room_for,
    store_scores,
)
from ppl_text.evaluation.sentences import common_sentences
from ppl_text.models.language_model import LanguageModel
from ppl_text.models.sentence_vae import SentenceVAE

from .programs import Gaussian, GaussianGuide, Nothing, Unigram, batch_of, evaluation_set, log_evidence

LENGTHS = [3, 1, 9, 4, 4, 2]


class Path(nn.Module):
    """z_t ~ N(0, 1) for t ≤ length, x_t ~ N(z_t, 1) observed at the token: a latent with a T axis."""

    latents = (LatentSpec("z", axes=("T",), sizes={}),)

    def __init__(self):
        super().__init__()
        self.largest = 0

    def forward(self, batch):
        mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
        with pyro.plate("sentences", batch.size, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(batch.size, batch.steps), 1.0).mask(mask).to_event(1))
            self.largest = max(self.largest, z.numel())
            pyro.sample("tokens", dist.Normal(z, 1.0).mask(mask).to_event(1), obs=batch.tokens.float())


class PathGuide(nn.Module):
    def forward(self, batch):
        mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(0.4 * batch.tokens.float(), 0.8).mask(mask).to_event(1))


def sentences(lengths=LENGTHS, vocabulary=11, weights=None):
    torch.manual_seed(1)
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(3, vocabulary, (length,))
        tokens[row, length - 1] = 2
    inputs = torch.cat([torch.ones(len(lengths), 1, dtype=torch.long), tokens[:, :-1]], 1)
    weights = torch.ones(len(lengths), dtype=torch.float64) if weights is None else torch.tensor(weights).double()
    return Batch(tokens, torch.tensor(lengths), weights, inputs)


def lstm(guide=LSTMGuide):
    torch.manual_seed(0)
    model = SentenceVAE(Vocabulary(11), latent_dim=3, embedding_dim=5, hidden_dim=7, init="torch")
    return model, guide(model)


CASES = {
    "path": lambda: (Path(), PathGuide()),
    "sentence VAE": lstm,
    "one latent": lambda: (Gaussian(), GaussianGuide(0.3)),
}


@pytest.mark.parametrize("room", [1, 60, 200, 500])
@pytest.mark.parametrize("particles", [1, 7])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_the_room_changes_nothing_but_memory(make, particles, room):
    """The same draws, divided otherwise; filler rows of weight 0 are not looked at."""
    model, guide = make()
    batch = sentences(weights=[1, 2, 1, 0, 1, 1])
    kept = batch.weights > 0
    found, values = [], []
    for space in (10**9, room):
        with measuring(3, model, guide):
            drawn = draw(model, guide, batch, particles, space)
        found.append([drawn.log_likelihood, drawn.log_p["z"], drawn.log_q["z"], drawn.scores.log_weights])
        values.append(drawn.values["z"])
    for whole, parts in zip(*found, strict=True):
        assert whole.shape == parts.shape == (particles, batch.size)
        torch.testing.assert_close(parts[:, kept].double(), whole[:, kept].double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*values, rtol=0, atol=0)
    assert float(found[0][3][:, kept].std()) > 1e-3


def test_the_model_sees_no_more_than_there_is_room_for():
    model, guide = Path(), PathGuide()
    with measuring(0, model, guide):
        draw(model, guide, sentences(), 7, 7 * 9)
    assert model.largest == 7 * 9
    model.largest = 0
    with measuring(0, model, guide):
        draw(model, guide, sentences(), 7, 7 * 9 * 3)
    assert 7 * 9 < model.largest <= 7 * 9 * 3


def test_bounds_do_not_depend_on_the_room():
    data = evaluation_set(sentences(), sentences([2, 5, 5]))
    whole, parts = (sentence_bounds(*lstm(), data, particles=33, room=room) for room in (10**9, 40))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def scored(model, guide, *batches, particles=8):
    kept = []
    bounds = sentence_bounds(model, guide, evaluation_set(*batches), particles=particles, seed=2, keep=kept.append)
    return bounds, join_scores(kept)


def test_a_stored_file_says_what_the_run_said(tmp_path):
    """Bounds, errors and perplexities from the file equal those printed; by hand from the log-weights too."""
    batches = batch_of([1, 4, 6, 2], [3.0, 1.0, 0.0, 1.0]), batch_of([5, 5])
    bounds, scores = scored(Gaussian(), GaussianGuide(0.4, 1.2), *batches)
    printed = summarize(bounds, 8)
    store_scores(tmp_path / "scores.safetensors", scores, {"run": "runs/a", "split": "test", "seed": 2, "particles": 8})
    back, about = load_scores(tmp_path / "scores.safetensors")
    assert about == {"run": "runs/a", "split": "test", "seed": 2, "particles": 8}
    again = summarize(bounds_of(back), about["particles"], exact=back.exact)
    told = [{name: n for name, n in vars(found).items() if name != "tails"} for found in (again, printed)]
    assert told[0] == pytest.approx(told[1], rel=1e-12, nan_ok=True)
    assert back.log_weights.shape == (5, 8)
    assert back.weights.tolist() == [3, 1, 1, 1, 1]
    iw_sum = float(back.weights @ (back.log_weights.logsumexp(1) - math.log(8)))
    assert printed.iw_sum == pytest.approx(iw_sum, rel=1e-12)
    assert printed.perplexity == pytest.approx(math.exp(-iw_sum / printed.n_eos), rel=1e-12)
    total = float(back.weights @ (back.rec + back.kl))
    assert printed.elbo_perplexity == pytest.approx(math.exp(total / printed.n_eos), rel=1e-12)
    assert printed.perplexity < printed.elbo_perplexity
    assert total == pytest.approx(-float(back.weights @ back.log_weights.mean(1)), rel=1e-12)
    assert printed.n_eos == float(back.weights @ back.tokens) == 3 * 1 + 4 + 2 + 5 + 5


def test_the_exact_posterior_has_the_perplexity_of_the_evidence():
    bounds, _ = scored(Gaussian(), GaussianGuide(), batch_of([1, 4, 6]))
    found = summarize(bounds, 8)
    expected = math.exp(-log_evidence([1, 4, 6]).sum() / 11)
    assert (found.perplexity, found.elbo_perplexity) == pytest.approx((expected, expected), rel=1e-6)


def test_where_nothing_is_latent_one_exact_weight_is_kept(tmp_path):
    model = Unigram(torch.full((5,), 0.2, dtype=torch.float64).log())
    bounds, scores = scored(model, Nothing(), batch_of([1, 4]))
    assert scores.exact
    assert scores.log_weights[:, 0].tolist() == pytest.approx([-math.log(5), -4 * math.log(5)])
    store_scores(tmp_path / "x.safetensors", scores, {})
    back = load_scores(tmp_path / "x.safetensors").scores
    assert back.exact
    assert torch.equal(bounds_of(back).iw, bounds.iw)
    assert summarize(bounds, 8, exact=True).elbo_perplexity == pytest.approx(5)


class Steps(nn.Module):
    """z ~ N(0, 1) of the sentence, a_t ~ N(0, 1) of its steps."""

    latents = (LatentSpec("z", axes=(), sizes={}), LatentSpec("a", axes=("T",), sizes={}))

    def forward(self, batch):
        self.sample(batch, 0.0)
        with pyro.plate("tokens of sentences", batch.size, dim=-1):
            pyro.sample("tokens", dist.Normal(torch.zeros(batch.size), 1.0), obs=torch.zeros(batch.size))

    def sample(self, batch, mean):
        mask = torch.arange(batch.steps) < batch.lengths.unsqueeze(-1)
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("z", dist.Normal(torch.full((batch.size,), mean).double(), 1.0))
            of_steps = dist.Normal(torch.full((batch.size, batch.steps), mean).double(), 1.0)
            pyro.sample("a", of_steps.mask(mask).to_event(1))


class StepsGuide(nn.Module):
    def forward(self, batch):
        Steps().sample(batch, 2.0)


def test_the_kl_of_steps_stands_apart_and_is_kept(tmp_path):
    """Of means of 2: z costs 2 nats, each step 2; texts of 1, 4 and 6 steps, the first three times."""
    bounds, scores = scored(Steps(), StepsGuide(), batch_of([1, 4, 6, 2], [3.0, 1.0, 1.0, 0.0]), particles=4000)
    found = summarize(bounds, 4000)
    assert scores.steps.tolist() == [1, 4, 6]
    assert found.n_steps == found.n_eos == 13
    # The KL of one draw has the variance 4 for each latent; 13 + 5 of them by 4000 draws, weights at most 3.
    assert found.step_kl_sum == pytest.approx(2 * 13, abs=5 * math.sqrt(4 * 3 * 13 / 4000))
    assert found.kl_sum - found.step_kl_sum == pytest.approx(2 * 5, abs=5 * math.sqrt(4 * 3 * 5 / 4000))
    expected = found.rec_sum + (found.kl_sum - found.step_kl_sum) + 5 * found.step_kl_sum / 13
    assert found.paper_perplexity == pytest.approx(math.exp(expected / 13), rel=1e-12)
    assert found.paper_perplexity < found.elbo_perplexity
    store_scores(tmp_path / "x.safetensors", scores, {})
    again = summarize(bounds_of(load_scores(tmp_path / "x.safetensors").scores), 4000)
    assert again.paper_perplexity == pytest.approx(found.paper_perplexity, rel=1e-12)


def test_a_file_of_an_older_version_knows_no_steps(tmp_path):
    _, scores = scored(Gaussian(), GaussianGuide(), batch_of([1, 4]))
    old = {name: getattr(scores, name).contiguous() for name in ("weights", "tokens", "rec", "kl", "log_weights")}
    save_file(old, tmp_path / "old.safetensors", metadata={"ppl_text": json.dumps({"exact": False})})
    found = summarize(bounds_of(load_scores(tmp_path / "old.safetensors").scores), 8)
    assert (found.n_steps, found.step_kl_sum) == (0, 0)
    assert math.isnan(found.paper_perplexity)


PRINTED = {"PTB, 128 codes": (83.57, 2.23, 50.15), "PTB, 512 codes": (60.16, 3.12, 17.94)}
"""Rec, KL and PPL of Table II (specification 1F)."""


@pytest.mark.parametrize(("rec", "kl", "printed"), PRINTED.values(), ids=PRINTED)
def test_the_published_perplexity_is_that_of_an_averaged_kl(rec, kl, printed):
    """With 21.917 tokens a sentence of PTB, all figures within their last digit (specification 1G.1)."""
    sums = {"rec_sum": 1000 * rec, "kl_sum": 21917 * kl, "step_kl_sum": 21917 * kl}
    counts = {"n_sent": 1000, "n_eos": 21917, "n_words": 20917, "n_steps": 21917}
    mean = dict.fromkeys(("elbo_se", "iw", "iw_se", "sampling_se", "ess"), math.nan)
    found = Likelihood(particles=1, elbo=-rec - 21.917 * kl, kl=21.917 * kl, rec=rec, **mean, **sums, **counts)
    assert found.kl_per_step == pytest.approx(kl)
    assert found.paper_perplexity == pytest.approx(printed, abs=0.015)
    assert found.elbo_perplexity == pytest.approx(math.exp(rec / 21.917 + kl))


def test_a_point_mass_has_no_finite_bound_and_a_reconstruction():
    bounds, _ = scored(*lstm(PointGuide), sentences(), particles=4)
    found = summarize(bounds, 4)
    assert (found.elbo, found.iw, found.kl) == (-math.inf, -math.inf, math.inf)
    assert math.isfinite(found.rec)
    assert (found.elbo_perplexity, found.perplexity, found.finite) == (math.inf, math.inf, False)


def test_a_perplexity_beyond_floats_is_infinite():
    bounds, _ = scored(Gaussian(), GaussianGuide(), batch_of([100_000]))
    found = summarize(bounds, 8)
    assert found.iw_per_token < -10_000
    assert (found.perplexity, found.elbo_perplexity) == (math.inf, math.inf)


def test_files_that_hold_no_scores(tmp_path):
    with pytest.raises(UserError, match="does not exist; write it with"):
        load_scores(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no")
    with pytest.raises(UserError, match="holds no scores"):
        load_scores(tmp_path / "text")
    with pytest.raises(UserError, match="is a folder"):
        check_storable(tmp_path)
    with pytest.raises(UserError, match="does not exist; give the name of a new file"):
        check_storable(tmp_path / "none" / "x.safetensors")
    check_storable(tmp_path / "x.safetensors")


def test_the_metadata_is_plain_json(tmp_path):
    _, scores = scored(Gaussian(), GaussianGuide(), batch_of([1]))
    store_scores(tmp_path / "x.safetensors", scores, {"seed": 1})
    with safe_open(str(tmp_path / "x.safetensors"), framework="pt") as file:
        assert json.loads(file.metadata()["ppl_text"]) == {"seed": 1, "exact": False}
        assert file.get_tensor("log_weights").dtype == torch.float64


@pytest.mark.parametrize("spec", ["elbo", "iwae:7"])
def test_bounds_of_objectives_divide_the_sentences_too(monkeypatch, spec):
    """Means of many estimates are those of undivided batches within their errors; no more is seen than has room."""
    common = common_sentences(evaluation_set(sentences()))
    model, guide, objective = Path(), PathGuide(), objectives.build(spec)
    whole = estimate_bounds(objective, model, guide, common, draws=1400, seed=0)
    monkeypatch.setattr("ppl_text.evaluation.likelihood.room_for", lambda model: 7 * 9 * 2)
    model.largest = 0
    parts = estimate_bounds(objective, model, guide, common, draws=1400, seed=0)
    assert 0 < model.largest <= 7 * 9 * 2
    assert parts.by_sentence.shape == whole.by_sentence.shape
    error = (parts.variance + whole.variance).sqrt()
    assert float(((parts.by_sentence - whole.by_sentence) / error).abs().max()) < 5


def test_models_that_feed_tokens_back_or_have_many_symbols_are_wide():
    assert room_for(Path()) == ROOM
    assert room_for(lstm()[0]) == WIDE_ROOM
    assert room_for(LanguageModel(Vocabulary(11))) == ROOM
    many = Path()
    many.vocabulary = Vocabulary(10_000)
    assert room_for(many) == WIDE_ROOM


@pytest.mark.parametrize(("free", "times"), [(2**40, 1.0), (None, 1.0), (4 * HELD, 1.0), (HELD, 0.25), (0, 0.0)])
def test_what_is_scored_at_once_fits_into_a_fourth_of_the_free_memory(monkeypatch, free, times):
    monkeypatch.setattr("ppl_text.evaluation.scores.free_memory", lambda: free)
    assert room_for(LanguageModel(Vocabulary(11))) == max(1, int(times * ROOM))


def test_on_a_gpu_as_much_is_scored_at_once_as_is_free_there(monkeypatch):
    monkeypatch.setattr("ppl_text.evaluation.scores.device_of", lambda model: torch.device("cuda"))
    told = {"mem_get_info": (39 * HELD, 80 * HELD), "memory_reserved": 5 * HELD, "memory_allocated": 4 * HELD}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert room_for(LanguageModel(Vocabulary(11))) == 10 * ROOM
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000 * HELD, 10_000 * HELD))
    assert room_for(LanguageModel(Vocabulary(11))) == ON_DEVICE * ROOM


@pytest.fixture
def scores():
    return scored(Gaussian(), GaussianGuide(), batch_of([1]))[1]


def test_scores_replace_scores_and_other_files_by_force_only(scores, tmp_path):
    own, notes, link = tmp_path / "own", tmp_path / "notes.md", tmp_path / "link"
    store_scores(own, scores, {})
    check_storable(own)
    notes.write_text("mine")
    with pytest.raises(UserError, match="is another file, which would be lost"):
        check_storable(notes)
    check_storable(notes, force=True)
    link.symlink_to(own)
    check_storable(link)
    store_scores(link, scores, {"seed": 3})
    assert link.is_symlink()
    assert load_scores(own).about == {"seed": 3}


def test_a_name_may_be_as_long_as_the_file_system_takes(scores, tmp_path):
    path = tmp_path / ("n" * 255)
    check_storable(path)
    store_scores(path, scores, {})
    assert load_scores(path).about == {}
    assert os.listdir(tmp_path) == [path.name]
