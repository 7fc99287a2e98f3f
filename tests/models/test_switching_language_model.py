"""The switching language model: exact under its exact guide, as sums over codes say; written as it is scored."""

import itertools

import pyro
import pytest
import torch

from guides.switching_language_model import ExactGuide, MeanFieldGuide, PriorGuide
from ppl_text import objectives
from ppl_text.core.errors import UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models.switching_language_model import SWITCHING, SwitchingLanguageModel

TEXTS = [[4, 5], [7], [], [5, 4]]
EXACT = ("elbo", "elbo:3", "iwae:4", "renyi:0.5:3", "vimco:3", "stl:2")


def programs(switching, guide=ExactGuide, **options):
    torch.manual_seed(0)
    sizes = {"embedding_dim": 4, "hidden_dim": 5, "codes": 3, **options}
    model = SwitchingLanguageModel(Vocabulary(9), switching=switching, **sizes).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model, guide(model).double()


def batch(steps=4, rows=5):
    return collate(TEXTS, torch.ones(len(TEXTS), dtype=torch.float64), steps, rows)


def log_joint(model, given, z):
    """ln p(z, w) of the model's program for codes (B, T) or (B,)."""
    trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": z})).get_trace(given)
    trace.compute_log_prob()
    return trace.nodes["z"]["log_prob"] + trace.nodes["tokens"]["log_prob"]


def enumerated(model, given):
    """All codes of each row with their ln p(z, w): [(z (N, B, …), (N,)) …]; codes behind the end of a text are 0."""
    rows = []
    for row, length in enumerate(given.lengths.tolist()):
        steps = 1 if model.onward is None else length
        paths, scores = [], []
        for path in itertools.product(range(model.codes), repeat=steps):
            z = torch.zeros(given.size, given.steps, dtype=torch.int64)
            z[:, :steps] = torch.tensor(path)
            paths.append(z[:, 0] if model.onward is None else z)
            scores.append(log_joint(model, given, paths[-1])[row])
        rows.append((torch.stack(paths), torch.stack(scores)))
    return rows


def log_evidence(model, given):
    """ln Σ_z p(z, w), row by row."""
    return torch.stack([scores.logsumexp(0) for _, scores in enumerated(model, given)])


def estimate(model, guide, given, spec):
    torch.manual_seed(1)
    with pyro.validation_enabled(True):
        return objectives.build(spec)(model, guide, given)


@pytest.mark.parametrize("switching", SWITCHING)
def test_under_the_exact_guide_every_bound_is_the_likelihood_without_noise(switching):
    model, guide = programs(switching)
    model.eval(), guide.eval()
    expected = log_evidence(model, batch()).detach()
    for spec in EXACT:
        torch.testing.assert_close(estimate(model, guide, batch(), spec).bound, expected)


@pytest.mark.parametrize("switching", SWITCHING)
def test_its_gradient_is_that_of_the_likelihood_for_every_draw(switching):
    model, guide = programs(switching)
    model.eval(), guide.eval()
    given = batch()
    exact = torch.autograd.grad(-log_evidence(model, given)[:4].sum() / 4, list(model.parameters()), allow_unused=True)
    for spec in ("elbo", "iwae:3", "vimco:2"):
        model.zero_grad()
        estimate(model, guide, given, spec).loss.backward()
        for (name, parameter), wanted in zip(model.named_parameters(), exact, strict=True):
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found, torch.zeros_like(parameter) if wanted is None else wanted, msg=name)


@pytest.mark.parametrize("switching", SWITCHING)
def test_in_training_both_programs_see_the_same_units_dropped(switching):
    model, guide = programs(switching)
    found = [estimate(model, guide, batch(), spec).bound for spec in ("elbo", "iwae:4")]
    torch.testing.assert_close(*found)
    model.eval()
    assert not torch.allclose(estimate(model, guide, batch(), "elbo").bound, found[0])


@pytest.mark.parametrize("switching", SWITCHING)
@pytest.mark.parametrize("guide", [PriorGuide, MeanFieldGuide])
def test_other_guides_have_the_elbo_that_a_sum_over_codes_says(switching, guide):
    model, other = programs(switching, guide)
    model.eval(), other.eval()
    given = batch()
    with torch.no_grad():
        q = other.posterior(given)
        drawn = estimate(model, other, given, "elbo:4000").bound
        for row, (paths, log_p) in enumerate(enumerated(model, given)):
            log_q = torch.stack([q.log_prob(z)[row] for z in paths])
            torch.testing.assert_close(log_q.exp().sum(), torch.ones((), dtype=torch.float64))
            expected = (log_q.exp() * (log_p - log_q)).sum()
            assert expected < log_p.logsumexp(0)
            spread = (log_q.exp() * (log_p - log_q - expected).square()).sum().sqrt()
            assert abs(drawn[row] - expected) < 5 * spread / 4000**0.5 + 1e-9


@pytest.mark.parametrize("switching", SWITCHING)
@pytest.mark.parametrize("guide", [ExactGuide, PriorGuide, MeanFieldGuide])
def test_padding_and_filler_rows_change_nothing(switching, guide):
    model, other = programs(switching, guide)
    model.eval(), other.eval()
    densities = []
    for steps in (4, 7):
        given = batch(steps)
        q = other.posterior(given)
        z = torch.ones(5, dtype=torch.int64)
        if q.event_shape:
            z = torch.where(given.scored, 1, 0)
        densities.append(q.log_prob(z))
        densities.append(log_joint(model, given, z))
    torch.testing.assert_close(densities[0], densities[2])
    torch.testing.assert_close(densities[1], densities[3])


def test_two_books_are_a_product_of_codes_and_their_maps_add_up():
    model, guide = programs("contextual", codes=2, books=2)
    model.eval(), guide.eval()
    assert model.codes == 4
    state = torch.randn(5, dtype=torch.float64)
    first, second = (torch.stack([torch.zeros(4, dtype=torch.float64), shift(state)]) for shift in model.shifts)
    expected = torch.stack([(model.map(state) + first[i] + second[j]).tanh() for i in range(2) for j in range(2)])
    torch.testing.assert_close(model.features(state), expected)
    torch.testing.assert_close(estimate(model, guide, batch(), "elbo").bound, log_evidence(model, batch()).detach())


def scored_by_steps(model, given, latents):
    """ln p(w | latents) of what a decoder writes token by token, its logits normalised."""
    decoder = model.decoder(latents)
    state, total = decoder.begin(given.size), torch.zeros(given.size, dtype=torch.float64)
    for t in range(given.steps):
        logits, state = decoder.step(state, given.decoder_inputs[:, t])
        scores = logits.log_softmax(-1).gather(1, (given.tokens[:, t : t + 1] - 2).clamp(min=0)).squeeze(1)
        total = total + torch.where(t < given.lengths, scores, 0.0)
    return total


@pytest.mark.parametrize("switching", ["contextual", "markov"])
def test_written_with_codes_summed_out_a_text_has_its_likelihood(switching):
    model, _ = programs(switching)
    model.eval()
    torch.testing.assert_close(scored_by_steps(model, batch(), {}), log_evidence(model, batch()))


@pytest.mark.parametrize("switching", SWITCHING)
def test_written_given_codes_a_text_has_its_density_given_them(switching):
    model, guide = programs(switching)
    model.eval(), guide.eval()
    given = batch()
    z = guide.posterior(given).rsample()
    trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": z})).get_trace(given)
    expected = trace.nodes["tokens"]["fn"].log_prob(given.tokens)
    torch.testing.assert_close(scored_by_steps(model, given, {"z": z}), expected)


@pytest.mark.parametrize("switching", SWITCHING)
def test_with_one_code_it_is_a_language_model(switching):
    model, guide = programs(switching, codes=1)
    model.eval(), guide.eval()
    given = batch()
    logits = model.head(model.map(model.states(given.decoder_inputs)).tanh())
    scores = logits.log_softmax(-1).gather(-1, (given.tokens - 2).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = torch.where(given.scored, scores, 0.0).sum(-1)
    found = estimate(model, guide, given, "elbo")
    torch.testing.assert_close(found.bound, expected)
    torch.testing.assert_close(found.kl, torch.zeros_like(expected))


def test_what_is_no_switching_and_no_code_is_refused():
    with pytest.raises(UserError, match="contextual"):
        SwitchingLanguageModel(Vocabulary(9), switching="contextul")
    with pytest.raises(UserError, match="1 or more"):
        SwitchingLanguageModel(Vocabulary(9), codes=0)
