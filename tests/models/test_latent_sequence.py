"""The story of latent sequences: padding changes nothing, what is written is scored so, and the length is paid for."""

import math

import pyro
import pytest
import torch

from guides.latent_sequence import GaussianGuide, PriorGuide, QuantisedGuide
from ppl_text import objectives
from ppl_text.core.errors import UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models.latent_sequence import LatentSequence
from ppl_text.nn.statistics import commit

TEXTS = [[4, 5, 6], [7], [], [5, 5, 4, 6]]
SMALL = {"latent_dim": 3, "embedding_dim": 4, "hidden_dim": 5, "codes": 6, "prior_width": 4, "prior_layers": 2}
KINDS = {"normal": GaussianGuide, "autoregressive": GaussianGuide, "codes": QuantisedGuide}


def programs(prior, **options):
    torch.manual_seed(0)
    model = LatentSequence(Vocabulary(9), prior=prior, init="torch", **{**SMALL, **options}).double()
    guide = KINDS[prior](model).double()
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
        if model.book is not None:
            model.book.codes.normal_()
            model.book.started.fill_(True)
            model.book._started = True
    return model.eval(), guide.eval()


def batch(steps=6, rows=5):
    return collate(TEXTS, torch.ones(len(TEXTS), dtype=torch.float64), steps, rows)


def bounds(model, guide, given, spec="elbo:3"):
    torch.manual_seed(1)
    with pyro.validation_enabled(True), torch.no_grad():
        return objectives.build(spec)(model, guide, given).bound


@pytest.mark.parametrize("prior", KINDS)
def test_padding_changes_no_bound(prior):
    model, guide = programs(prior)
    q = guide.posterior(batch(5))
    wide = guide.posterior(batch(9))
    z = q.rsample()
    padded = torch.cat([z, torch.full((5, 4, 3), 7.0, dtype=torch.float64)], 1)
    torch.testing.assert_close(wide.log_prob(wide.kept(padded)), q.log_prob(z))
    torch.testing.assert_close(
        model.law(batch(9).lengths, 9).log_prob(padded), model.law(batch(5).lengths, 5).log_prob(z)
    )


@pytest.mark.parametrize("prior", KINDS)
def test_what_the_decoder_writes_is_what_is_scored(prior):
    model, guide = programs(prior)
    given = batch()
    z = guide.posterior(given).rsample().detach()
    decoder = model.decoder({"z": z})
    state, tokens, total = decoder.begin(5), given.decoder_inputs, torch.zeros(5, dtype=torch.float64)
    for t in range(given.steps):
        logits, state = decoder.step(state, tokens[:, t])
        scores = logits.log_softmax(-1).gather(1, (given.tokens[:, t : t + 1] - 2).clamp(min=0)).squeeze(1)
        total = total + torch.where(t < given.lengths, scores, 0.0)
    counted = torch.arange(given.steps) < given.lengths.unsqueeze(-1)
    trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": z})).get_trace(given)
    torch.testing.assert_close(trace.nodes["tokens"]["fn"].log_prob(given.tokens), total)
    assert torch.equal((z != 0).any(-1), counted)


def test_the_length_is_a_site_of_the_bound_and_given_lengths_are_free():
    paid, guide = programs("normal")
    free, other = programs("normal", latent_length="given")
    free.load_state_dict(paid.state_dict(), strict=False)
    other.load_state_dict(guide.state_dict())
    given = batch()
    paid.train()
    paid.lengths(given.lengths, given.weights)
    commit([paid.lengths])
    paid.eval()
    cost = paid.lengths(given.lengths, given.weights)
    torch.testing.assert_close(bounds(paid, guide, given) - bounds(free, other, given), cost.detach())
    counts = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]).double()  # one text each of 1, 2, 4 and 5 tokens, EOS counted
    expected = ((counts[given.lengths - 1] + 1) / (4 + 128)).log()
    torch.testing.assert_close(cost, expected)


def test_length_probabilities_sum_to_one():
    model, _ = programs("normal")
    model.lengths.counts.copy_(torch.rand(128).double() * 9)
    lengths = torch.arange(1, 400)
    total = model.lengths(lengths, torch.ones(399)).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("prior", KINDS)
def test_draws_end_at_a_length_and_are_written(prior):
    model, _ = programs(prior)
    torch.manual_seed(2)
    model.lengths.counts[2] = 1e9
    z = model.draw(4, 6)["z"]
    assert z.shape == (4, 6, 3)
    assert torch.equal((z != 0).any(-1).sum(-1), torch.full((4,), 3))
    if model.book is not None:
        distances = torch.cdist(z[:, :3].flatten(0, 1), model.book.codes)
        assert distances.amin(-1).max() == 0.0


@pytest.mark.parametrize("prior", KINDS)
def test_draws_of_stated_lengths_are_steps_of_the_prior_and_nothing_behind_them(prior):
    model, _ = programs(prior)
    lengths = torch.tensor([2, 5, 1])
    z = model.draw_given(lengths)["z"]
    assert z.shape == (3, 5, 3)
    assert torch.equal((z != 0).any(-1).sum(-1), lengths)
    assert model.law(lengths, 5).log_prob(z).isfinite().all()


@pytest.mark.parametrize("prior", KINDS)
def test_between_two_texts_lie_sequences_of_lengths_between(prior):
    model, guide = programs(prior)
    given = batch()
    z = guide.posterior(given).rsample().detach()
    found = model.between({"z": z[1]}, {"z": z[3]}, 4, (2, 5))["z"]
    assert (found != 0).any(-1).sum(-1).tolist() == [2, 3, 4, 5]
    torch.testing.assert_close(found[0], z[1])
    torch.testing.assert_close(found[-1], z[3])


def test_under_codes_every_bound_is_the_elbo_and_the_kl_is_their_cost():
    model, guide = programs("codes")
    given = batch()
    for spec in ("elbo", "iwae:4", "renyi:0.5:3"):
        torch.testing.assert_close(bounds(model, guide, given, spec), bounds(model, guide, given))
    estimate = objectives.build("elbo")(model, guide, given)
    q = guide.posterior(given)
    torch.testing.assert_close(estimate.kl, -model.law(given.lengths, given.steps).log_prob(q.rsample()).detach())


def test_codes_get_no_gradient_and_move_once_for_an_update():
    model, guide = programs("codes", revive=0.0)
    model.train(), guide.train()
    given = batch()
    before = model.book.codes.clone()
    estimate = objectives.build("iwae:4/1")(model, guide, given)
    estimate.loss.backward()
    assert guide.projection.weight.grad.abs().sum() > 0
    assert model.book.codes.grad is None
    assert torch.equal(model.book.codes, before)
    counts = model.book.counts.clone()
    commit([model.book])
    assert not torch.equal(model.book.codes, before)
    seen = given.lengths[given.weights > 0].sum()
    torch.testing.assert_close(model.book.counts.sum(), 0.99 * counts.sum() + 0.01 * seen)


def test_the_commitment_is_a_side_loss_of_training():
    model, guide = programs("codes")
    given = batch()
    quiet = objectives.build("elbo")(model, guide, given).loss
    model.train(), guide.train()
    model.network.dropout_in.p = model.network.dropout_out.p = 0.0
    loud = objectives.build("elbo")(model, guide, given).loss
    q = guide.posterior(given)
    apart = q.total((q.states - q.codes[q.indices]).square().sum(-1))
    torch.testing.assert_close(loud - quiet, 0.25 * (apart * given.weights).sum() / given.weights.sum())


def test_the_prior_as_a_guide_pays_nothing():
    model, _ = programs("autoregressive")
    given = batch()
    torch.manual_seed(3)
    with torch.no_grad():
        estimate = objectives.build("elbo")(model, PriorGuide(model), given)
    torch.testing.assert_close(estimate.kl, torch.zeros(5, dtype=torch.float64))


def test_wrong_options_are_refused_in_words():
    with pytest.raises(UserError, match="prior of the latents"):
        programs_with(prior="codez")
    with pytest.raises(UserError, match="2 codes or more"):
        programs_with(prior="codes", codes=1)
    with pytest.raises(UserError, match="prior: codes"):
        QuantisedGuide(LatentSequence(Vocabulary(9), **SMALL))
    with pytest.raises(UserError, match="guide quantised"):
        GaussianGuide(LatentSequence(Vocabulary(9), prior="codes", **SMALL))
    assert math.isfinite(bounds(*programs("normal"), batch()).sum())


def programs_with(**options):
    return LatentSequence(Vocabulary(9), **{**SMALL, **options})
