"""The story of latent sequences: padding changes nothing, what is written is scored so, and the length is paid for."""

import itertools
import math

import pyro
import pytest
import torch

from guides.latent_sequence import CategoricalGuide, GaussianGuide, PriorGuide, QuantisedGuide, SoftGuide
from guides.sentence_vae import GaussianGuide as SentenceGaussian
from ppl_text import objectives
from ppl_text.core.errors import UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.evaluation.scores import draw
from ppl_text.models.latent_sequence import LatentSequence
from ppl_text.models.sentence_vae import SentenceVAE
from ppl_text.nn.statistics import commit
from ppl_text.objectives.bounds import log_mean_exp, site_kl
from ppl_text.objectives.terms import trace_terms

TEXTS = [[4, 5, 6], [7], [], [5, 5, 4, 6]]
SMALL = {"latent_dim": 3, "embedding_dim": 4, "hidden_dim": 5, "codes": 6, "prior_width": 4, "prior_layers": 2}
KINDS = {
    "normal": {"prior": "normal"},
    "autoregressive": {"prior": "autoregressive"},
    "codes": {"prior": "codes"},
    "normal, stride 2": {"prior": "normal", "stride": 2},
    "autoregressive, stride 3": {"prior": "autoregressive", "stride": 3},
    "codes, stride 2": {"prior": "codes", "stride": 2},
    "normal, last": {"prior": "normal", "positions": "last"},
    "codes, last": {"prior": "codes", "positions": "last"},
    "codes, stop": {"prior": "codes", "latent_length": "eos_code"},
    "codes, stop, stride 2": {"prior": "codes", "latent_length": "eos_code", "stride": 2},
    "soft": {"prior": "codes"},
    "soft, stride 2": {"prior": "codes", "stride": 2},
    "soft, last": {"prior": "codes", "positions": "last"},
    "soft, stop": {"prior": "codes", "latent_length": "eos_code"},
    "categorical, stride 2": {"prior": "codes", "stride": 2},
}
GUIDES = {
    "normal": GaussianGuide,
    "autoregressive": GaussianGuide,
    "codes": QuantisedGuide,
    "soft": SoftGuide,
    "categorical": CategoricalGuide,
}
"""By the first word of a kind."""


def programs(kind, **options):
    torch.manual_seed(0)
    model = LatentSequence(Vocabulary(9), init="torch", **{**SMALL, **KINDS[kind], **options}).double()
    guide = GUIDES[kind.split(",")[0]](model).double()
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


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_term(kind):
    model, guide = programs(kind)
    z = drawn(guide, batch(5))
    room = model.places.room(9)
    padding = room - z.shape[1] if model.places.axes else 0
    padded = torch.cat([z, torch.full((5, padding, 3), 7.0, dtype=torch.float64)], 1) if padding else z
    terms = []
    for given, value in ((batch(5), z), (batch(9), padded)):
        if padding:
            q = guide.sequence(given)
            value = q.kept(value)
        q_trace = pyro.poutine.trace(pyro.poutine.condition(guide, data={"z": value})).get_trace(given)
        p_trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": value})).get_trace(given)
        sites = [trace.nodes[name] for trace, name in ((q_trace, "z"), (p_trace, "z"), (p_trace, "tokens"))]
        terms.append(torch.stack([site["fn"].log_prob(site["value"]) for site in sites]))
    torch.testing.assert_close(terms[1], terms[0])
    if padding and not model.stopped:
        numbers = model.places.number(batch().lengths)
        torch.testing.assert_close(model.law(numbers, room).log_prob(padded), terms[0][1])


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_one_latent_for_so_many_tokens(kind):
    model, guide = programs(kind)
    given, stride = batch(7), KINDS[kind].get("stride", 1)
    z = drawn(guide, given)
    (spec,) = model.latents
    assert z.shape[1:] == spec.event_shape(given.steps)
    numbers = model.places.number(given.lengths)
    if KINDS[kind].get("positions") == "last":
        assert spec.step_axis is None
        assert numbers.tolist() == [1] * given.size
        return
    assert numbers.tolist() == [math.ceil(length / stride) for length in given.lengths.tolist()]
    assert torch.equal((z != 0).any(-1).sum(-1), numbers)
    assert spec.step_axis == ("T" if stride == 1 else "S")
    assert torch.equal(spec.own_steps(given.lengths), numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_is_read_from_the_last_state_of_its_tokens(kind):
    _, guide = programs(kind)
    given = batch(7)
    states, all_states = guide.states(given), guide.reader(given.tokens)
    stride = 7 if KINDS[kind].get("positions") == "last" else KINDS[kind].get("stride", 1)
    for row, length in enumerate(given.lengths.tolist()):
        for step in range(math.ceil(length / stride)):
            assert torch.equal(states[row, step], all_states[row, min((step + 1) * stride, length)])


def test_one_gaussian_for_the_text_is_the_sentence_vae():
    model, guide = programs("normal, last")
    other = SentenceVAE(Vocabulary(9), latent_dim=3, embedding_dim=4, hidden_dim=5, init="torch").double().eval()
    reader = SentenceGaussian(other).double().eval()
    other.network.load_state_dict(model.network.state_dict())
    reader.reader.load_state_dict(guide.reader.state_dict())
    with torch.no_grad():
        guide.projection.bias.zero_()
        reader.projection.weight.copy_(guide.projection.weight)
    torch.testing.assert_close(bounds(model, guide, batch()), bounds(other, reader, batch()))


def test_codes_of_whole_texts_have_the_bound_of_an_enumeration():
    model, guide = programs("codes, last")
    given = batch()
    every = model.book.codes[torch.arange(6)].unsqueeze(1).expand(6, given.size, 3)
    with pyro.plate("particles", 6, dim=-2):
        trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": every})).get_trace(given)
    joint = trace.nodes["tokens"]["fn"].log_prob(given.tokens) + model.prior.bias.log_softmax(0).unsqueeze(1)
    chosen = guide.sequence(given).indices.squeeze(-1)
    torch.testing.assert_close(bounds(model, guide, given), joint.gather(0, chosen.unsqueeze(0)).squeeze(0).detach())
    assert (joint.logsumexp(0) > bounds(model, guide, given)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_scored_part_by_part_score_the_same(kind):
    model, guide = programs(kind)
    given = batch(7)
    with torch.no_grad():
        torch.manual_seed(5)
        parts = draw(model, guide, given, 3, room=6)
        torch.manual_seed(5)
        whole = draw(model, guide, given, 3, room=10**6)
    kept = given.weights > 0
    torch.testing.assert_close(parts.scores.log_weights[:, kept], whole.scores.log_weights[:, kept])


def drawn(guide, given):
    torch.manual_seed(1)
    return guide(given).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_decoder_writes_is_what_is_scored(kind):
    model, guide = programs(kind)
    given = batch()
    z = drawn(guide, given)
    decoder = model.decoder({"z": z})
    state, tokens, total = decoder.begin(5), given.decoder_inputs, torch.zeros(5, dtype=torch.float64)
    for t in range(given.steps):
        logits, state = decoder.step(state, tokens[:, t])
        scores = logits.log_softmax(-1).gather(1, (given.tokens[:, t : t + 1] - 2).clamp(min=0)).squeeze(1)
        total = total + torch.where(t < given.lengths, scores, 0.0)
    trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": z})).get_trace(given)
    torch.testing.assert_close(trace.nodes["tokens"]["fn"].log_prob(given.tokens), total)


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


@pytest.mark.parametrize("kind", KINDS)
def test_draws_end_at_a_length_and_are_written(kind):
    model, _ = programs(kind)
    torch.manual_seed(2)
    if model.lengths is not None:
        model.lengths.counts[1] = 1e9
    z = model.draw(4, 6)["z"]
    assert z.shape == (4, *model.latents[0].event_shape(6))
    if model.lengths is not None:
        assert torch.equal((z != 0).any(-1).sum(-1), torch.full((4,), 2))
    if model.book is not None:
        assert torch.cdist(z[(z != 0).any(-1)], model.book.codes).amin(-1).max() == 0.0
    assert (z.view(4, -1, 3)[:, 0] != 0).all()  # none is without a latent


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_stated_lengths_are_steps_of_the_prior_and_nothing_behind_them(kind):
    model, _ = programs(kind)
    lengths = torch.tensor([2, 5, 1])
    z = model.draw_given(lengths)["z"]
    assert z.shape == (3, *model.latents[0].event_shape(5))
    if model.places.axes:
        numbers = model.places.number(lengths)
        assert torch.equal((z != 0).any(-1).sum(-1), numbers)
        assert model.law(numbers, z.shape[1]).log_prob(z).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_between_two_texts_lie_sequences_of_lengths_between(kind):
    model, guide = programs(kind)
    given = batch()
    z = drawn(guide, given)
    found = model.between({"z": z[1]}, {"z": z[3]}, 4, (2, 5))["z"]
    if model.places.axes:
        ends = model.places.number(torch.tensor([2, 5])).tolist()
        expected = torch.linspace(*ends, 4).round().long().tolist()
        assert (found != 0).any(-1).sum(-1).tolist() == expected
    torch.testing.assert_close(found[0], z[1])
    torch.testing.assert_close(found[-1], z[3])


def test_under_codes_every_bound_is_the_elbo_and_the_kl_is_their_cost():
    model, guide = programs("codes")
    given = batch()
    for spec in ("elbo", "iwae:4", "renyi:0.5:3"):
        torch.testing.assert_close(bounds(model, guide, given, spec), bounds(model, guide, given))
    estimate = objectives.build("elbo")(model, guide, given)
    q = guide.sequence(given)
    torch.testing.assert_close(estimate.kl, -model.law(given.lengths, given.steps).log_prob(q.rsample()).detach())


@pytest.mark.parametrize("kind", ["soft", "soft, last", "soft, stop", "categorical, stride 2"])
def test_the_closed_form_of_the_kl_is_its_mean_over_draws(kind):
    model, guide = programs(kind)
    given = batch()
    with torch.no_grad():
        torch.manual_seed(7)
        along = objectives.build("elbo-analytic:400")(model, guide, given)
        torch.manual_seed(7)
        terms = trace_terms(model, guide, given, 400)
    sampled = terms.latents["z"].log_q - terms.latents["z"].log_p
    closed = site_kl(terms.latents["z"])
    apart = (closed - sampled).expand(400, -1)
    assert (apart.mean(0).abs() <= 5 * apart.std(0) / 20 + 1e-12).all()
    torch.testing.assert_close(along.kl, closed.expand(400, -1).mean(0))


def test_a_soft_posterior_bounds_the_evidence_above_a_point_mass_and_below_the_truth():
    """All of it by enumeration: texts of two tokens, three codes, nine paths."""
    model, guide = programs("soft", codes=3, latent_length="given")
    guide.log_temperature.data.fill_(math.log(20.0))  # every path is drawn now and then
    point = QuantisedGuide(model).double().eval()
    point.load_state_dict({name: value for name, value in guide.state_dict().items() if name != "log_temperature"})
    given = collate([[4], [5], [7]], torch.ones(3, dtype=torch.float64), 2, 3)
    every = torch.tensor(list(itertools.product(range(3), repeat=2)))
    paths = model.book.codes[every].unsqueeze(1).expand(9, 3, 2, 3)
    with pyro.plate("particles", 9, dim=-2), torch.no_grad():
        p_trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": paths})).get_trace(given)
        log_joint = p_trace.nodes["tokens"]["fn"].log_prob(given.tokens) + p_trace.nodes["z"]["fn"].log_prob(paths)
        log_q = guide.sequence(given).log_prob(paths)
    evidence = log_joint.logsumexp(0)
    torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(3, dtype=torch.float64))
    elbo = (log_q.exp() * (log_joint - log_q)).sum(0)
    hard = bounds(model, point, given, "elbo")
    assert (hard < evidence).all()
    assert (elbo < evidence).all()
    with torch.no_grad():
        weights = trace_terms(model, guide, given, 20_000).log_weights
    error = weights.exp().std(0) / weights.exp().mean(0) / 20_000**0.5
    assert ((weights.logsumexp(0) - math.log(20_000) - evidence).abs() < 5 * error).all()
    few = log_mean_exp(weights.view(50, 400, 3))
    assert (few.mean(0) > elbo).all()
    assert (few.mean(0) > hard).all()


def test_a_temperature_near_zero_is_the_point_mass():
    model, guide = programs("soft")
    point = QuantisedGuide(model).double().eval()
    point.load_state_dict({name: value for name, value in guide.state_dict().items() if name != "log_temperature"})
    guide.log_temperature.data.fill_(math.log(1e-6))
    assert torch.equal(drawn(guide, batch()), drawn(point, batch()))
    torch.testing.assert_close(bounds(model, guide, batch(), "iwae:3"), bounds(model, point, batch()))


@pytest.mark.parametrize("kind", ["soft", "soft, stop", "categorical, stride 2"])
def test_the_score_functions_gradient_reaches_reader_prior_and_temperature_and_no_code(kind):
    model, guide = programs(kind, revive=0.0)
    model.train(), guide.train()
    given = batch()
    codes = model.book.codes.clone()
    objectives.build("vimco:3")(model, guide, given).loss.backward()
    for parameter in [*guide.reader.parameters(), *model.network.parameters(), *model.prior.parameters()]:
        assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in guide.parameters())
    assert torch.equal(model.book.codes, codes)
    commit([model.book])
    assert torch.equal(model.book.codes, codes) == (kind == "categorical, stride 2")


def test_codes_follow_the_states_that_drew_them():
    model, guide = programs("soft", revive=0.0, code_decay=0.5)
    model.train(), guide.train()
    given, particles = batch(), 3
    with pyro.plate("particles", particles, dim=-2):
        z = guide(given).detach()
    states, counted = guide.sequence(given).states.detach(), given.scored & (given.weights > 0).unsqueeze(-1)
    counts, sums = model.book.counts.clone(), model.book.sums.clone()
    for k, code in enumerate(model.book.codes.clone()):
        share = ((z == code).all(-1) & counted).double().mean(0)
        counts[k] = 0.5 * counts[k] + 0.5 * share.sum()
        sums[k] = 0.5 * sums[k] + 0.5 * (share.unsqueeze(-1) * states).sum((0, 1))
    commit([model.book])
    torch.testing.assert_close(model.book.counts, counts)
    torch.testing.assert_close(model.book.sums, sums)


OBJECTIVES = (
    "elbo",
    "elbo:4",
    "elbo-analytic:2",
    "stl:2",
    "iwae:4",
    "iwae:4/1",
    "dreg:4/2",
    "reconstruction",
    "vimco:3",
)


@pytest.mark.parametrize("spec", OBJECTIVES)
def test_codes_get_no_gradient_and_statistics_move_once_for_an_update(spec):
    model, guide = programs("codes", revive=0.0)
    model.train(), guide.train()
    given, (before, counts) = batch(), (model.book.codes.clone(), model.book.counts.clone())
    chosen = torch.bincount(
        guide.sequence(given).indices[given.scored & (given.weights > 0).unsqueeze(-1)], minlength=6
    )
    objectives.build(spec)(model, guide, given).loss.backward()
    # Under vimco nothing passes what is drawn, and the point mass has no score: the commitment alone is left.
    assert guide.projection.weight.grad.abs().sum() > 0
    assert not model.book.codes.requires_grad
    assert torch.equal(model.book.codes, before)
    commit([model.book])
    assert not torch.equal(model.book.codes, before)
    torch.testing.assert_close(model.book.counts, 0.99 * counts + 0.01 * chosen)
    moved = model.book.codes.clone()
    commit([model.book])  # nothing has been noted since
    assert torch.equal(model.book.codes, moved)


def test_the_commitment_is_a_side_loss_of_training():
    model, guide = programs("codes")
    given = batch()
    quiet = objectives.build("elbo")(model, guide, given).loss
    model.train(), guide.train()
    model.network.dropout_in.p = model.network.dropout_out.p = 0.0
    loud = objectives.build("elbo")(model, guide, given).loss
    q = guide.sequence(given)
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
    with pytest.raises(UserError, match="guides quantised and soft"):
        GaussianGuide(LatentSequence(Vocabulary(9), prior="codes", **SMALL))
    with pytest.raises(UserError, match="positions of the latents"):
        programs_with(positions="first")
    with pytest.raises(UserError, match="stride must be 1 or more; got 0"):
        programs_with(stride=0)
    with pytest.raises(UserError, match="a text has one latent, and none before it"):
        programs_with(positions="last", stride=2)
    with pytest.raises(UserError, match="got stride 1 and prior: autoregressive"):
        programs_with(positions="last", prior="autoregressive")
    assert math.isfinite(bounds(*programs("normal"), batch()).sum())


def test_texts_that_do_not_suit_are_refused_or_remarked_on():
    lengths = torch.tensor([3, 9, 5])
    with pytest.raises(
        UserError, match=r"17 latents in all, and the code book 18 codes.* set model.codes to 17 at most"
    ):
        programs_with(prior="codes", codes=18).remarks(lengths)
    with pytest.raises(UserError, match="3 latents in all, and the code book 6 codes"):
        programs_with(prior="codes", positions="last").remarks(lengths)
    with pytest.raises(UserError, match=r"no training text is longer than 9 tokens.* a stride of 10 .*positions=last"):
        programs_with(stride=10).remarks(lengths)
    assert programs_with(stride=9).remarks(lengths) == []
    short = {"prior_layers": 1, "prior_kernel": 3}  # sees three
    for prior in ("autoregressive", "codes"):
        (line,) = programs_with(prior=prior, **short).remarks(lengths)
        assert "sees 3 before it" in line
        assert "has 9:" in line
        assert programs_with(prior=prior, stride=3, **short).remarks(lengths) == []
        assert programs_with(prior=prior, prior_layers=4).remarks(lengths) == []
    assert programs_with(positions="last").remarks(lengths) == []


def programs_with(**options):
    return LatentSequence(Vocabulary(9), **{**SMALL, **options})
