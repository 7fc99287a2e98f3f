"""The encoder-decoder: its likelihood by its own decoder, by quadrature and by enumeration; bounds; bad input."""

from dataclasses import replace

import pyro
import pytest
import torch
from torch.testing import assert_close

from guides.encoder_decoder import DirichletGuide, ExactGuide, GaussianGuide, PriorGuide, VectorGuide, WeibullGuide
from ppl_text import objectives
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.evaluation.generation import sample_texts
from ppl_text.models.encoder_decoder import EncoderDecoder
from ppl_text.objectives.bounds import closed_form_scores
from ppl_text.objectives.sites import check_sites
from ppl_text.objectives.terms import trace_terms

from .pair_cases import EXACT, LATENT, SIZES, VOCABULARY, exact, pairs, programs

every_latent = pytest.mark.parametrize("name", LATENT)


def told(decoder, batch):
    """ln p of a batch's tokens by a decoder that is driven token by token."""
    state, total = decoder.begin(batch.size), torch.zeros(batch.size, dtype=torch.float64)
    for step in range(batch.steps):
        logits, state = decoder.step(state, batch.decoder_inputs[:, step])
        outcome = (batch.tokens[:, step] - 2).clamp(min=0)
        scored = logits.log_softmax(-1).gather(1, outcome.unsqueeze(1)).squeeze(1)
        total = total + torch.where(batch.scored[:, step], scored, 0.0)
    return total


@pytest.mark.parametrize("name", EXACT)
def test_without_latents_every_bound_is_what_the_decoder_says(name):
    model, guide = exact(EXACT[name])
    batch = pairs()
    wanted = told(model.decoder({}, batch.source), batch)
    for spec in ("elbo", "iwae:3"):
        assert_close(objectives.build(spec)(model, guide, batch).bound, wanted)
    assert model.generation == "prior"


@every_latent
def test_given_its_latents_a_text_is_scored_as_its_decoder_writes_it(name):
    model, guide = programs(*LATENT[name])
    batch = pairs()
    torch.manual_seed(1)
    terms = trace_terms(model, guide, batch)
    latents = {site: found.value for site, found in terms.latents.items()}
    assert_close(terms.log_likelihood.squeeze(0), told(model.decoder(latents, batch.source), batch))


@every_latent
def test_sites_fit_and_padding_changes_nothing(name):
    model, guide = programs(*LATENT[name])
    assert check_sites(model, guide, pairs())
    wide, narrow = pairs(6, 7), pairs()
    torch.manual_seed(1)
    found = trace_terms(model, guide, wide, 2)
    padded = {site: terms.value for site, terms in found.latents.items()}
    values = {"z": padded.get("z"), "a": padded.get("a", padded.get("alignment"))}
    if values["a"] is not None:
        site = "a" if "a" in padded else "alignment"
        padded[site] = values["a"][..., :4, :5] if site == "alignment" else values["a"][..., :4, :]
    conditioned = [pyro.poutine.condition(program, data=padded) for program in (guide, model)]
    with pyro.plate("particles", 2, dim=-2):
        for program, part in zip(conditioned, ("q", "p"), strict=True):
            trace = pyro.poutine.trace(program).get_trace(narrow)
            trace.compute_log_prob()
            for site, terms in found.latents.items():
                wanted = terms.log_q if part == "q" else terms.log_p
                assert_close(trace.nodes[site]["log_prob"].expand(2, 3), wanted)
            if part == "p":
                assert_close(trace.nodes["tokens"]["log_prob"], found.log_likelihood)


@every_latent
def test_what_is_handed_on_is_what_one_pass_over_the_path_says(name):
    model, guide = programs(*LATENT[name])
    batch = pairs()
    torch.manual_seed(1)
    handed = trace_terms(model, guide, batch, 3)
    kl = {site: closed_form_scores(handed).kl[site] for site in handed.latents}
    for terms in handed.latents.values():
        if hasattr(terms.q, "_drawn"):
            value, law = terms.q._drawn
            anew = terms.q._law(value)
            assert_close(anew.log_prob(value), law.log_prob(value))
    again = pyro.poutine.replay(model, trace=pyro.poutine.trace(guide).get_trace(batch))
    data = {site: terms.value for site, terms in handed.latents.items()}
    with pyro.plate("particles", 3, dim=-2):
        trace = pyro.poutine.trace(pyro.poutine.condition(model, data=data)).get_trace(batch)
    assert_close(trace.nodes["tokens"]["fn"].log_prob(batch.tokens), handed.log_likelihood)
    assert again is not None
    assert all(value.shape == (3, 3) and value.isfinite().all() for value in kl.values())


def test_the_evidence_by_quadrature_lies_above_every_bound():
    """With one latent number, ln p(y | x) = ln ∫ N(z; 0, 1) p(y | x, z) dz on a grid."""
    model, guide = programs({"latent_dim": 1}, GaussianGuide)
    batch = pairs()
    grid = torch.linspace(-8.0, 8.0, 2001, dtype=torch.float64)
    z = grid.view(-1, 1, 1).expand(-1, batch.size, 1)
    with pyro.plate("particles", len(grid), dim=-2), torch.no_grad():
        trace = pyro.poutine.trace(pyro.poutine.condition(model, data={"z": z})).get_trace(batch)
        trace.compute_log_prob()
    joint = trace.nodes["tokens"]["log_prob"] + trace.nodes["z"]["log_prob"]
    evidence = torch.trapezoid(joint.exp(), grid, dim=0).log()
    torch.manual_seed(0)
    with torch.no_grad():
        elbo = objectives.build("elbo:2000")(model, guide, batch).bound
        weights = trace_terms(model, PriorGuide(model), batch, 4000).log_weights
    assert (elbo < evidence).all()
    relative = (weights - evidence).exp()
    error = relative.std(0) / len(weights) ** 0.5
    assert ((relative.mean(0) - 1.0).abs() < 5.0 * error).all()
    assert (error < 0.1).all()


def test_vectors_have_the_published_kl():
    """Specification 3C: ½ Σ_j Σ_d ((a^det - h̄)² + σ² - 1 - ln σ²), over the steps of each text."""
    model, guide = programs({"attention": "vectors"}, VectorGuide)
    batch = pairs()
    torch.manual_seed(1)
    terms = trace_terms(model, guide, batch)
    law = terms.latents["a"].q._drawn[1]
    mean = model.reading.take(batch).memory.mean.unsqueeze(1)
    steps = 0.5 * ((law.mean_ - mean).square() + law.scale.square() - 1.0 - 2.0 * law.scale.log()).sum(-1)
    wanted = torch.where(batch.scored, steps, 0.0).sum(1)
    assert_close(closed_form_scores(terms).kl["a"].squeeze(0), wanted)


def test_a_dirichlet_that_has_read_nothing_is_its_prior():
    model, guide = programs({"attention": "weights", "latent_dim": 0}, DirichletGuide)
    with torch.no_grad():
        guide.width.weight.zero_()
        guide.width.bias.fill_(-60.0)
        kl = closed_form_scores(trace_terms(model, guide, pairs())).kl["alignment"]
    assert_close(kl, torch.zeros_like(kl), atol=1e-9, rtol=0.0)


def test_the_public_codes_loss_averages_tokens_and_pays_for_one_step():
    """Specification 3C and 3G: Rec / n + β_z KL_z + β_a KL_a / n, and with its bug KL of the batch's last step / n."""
    model, guide = programs({"attention": "vectors"}, lambda model: VectorGuide(model, attn_kl="last_step_bug"))
    batch, n = pairs(), pairs().lengths
    torch.manual_seed(1)
    terms = trace_terms(model, guide, batch)
    kl = {site: value.squeeze(0) for site, value in closed_form_scores(terms).kl.items()}
    law = terms.latents["a"].q._drawn[1]
    mean = model.reading.take(batch).memory.mean
    last = 0.5 * ((law.mean_[:, -1] - mean).square() + law.scale[:, -1].square() - 1.0).sum(-1)
    last = last - law.scale[:, -1].log().sum(-1)
    assert_close(terms.side["last_step_kl"], last / n)
    rec = -terms.log_likelihood.squeeze(0)
    for beta_a in (0.0, 0.5):
        beta = {"z": 0.3, "a": beta_a, "last_step_kl": 0.1}
        torch.manual_seed(1)
        found = objectives.build("per-token")(model, guide, batch, beta)
        wanted = rec / n + 0.3 * kl["z"] + beta_a * kl["a"] / n + 0.1 * last / n
        assert_close(found.loss, wanted.mean())
        assert_close(found.bound, -rec - kl["z"] - kl["a"])
    with pytest.raises(UnknownNameError, match="KL of the attention"):
        VectorGuide(model, attn_kl="last")


def test_texts_are_written_from_the_guide_or_from_the_prior():
    class Ids:
        def decode(self, row):
            return " ".join(map(str, row))

    batch = pairs()
    source = replace(batch.source, weights=batch.source.weights.float())
    for name in ("vectors", "dirichlet", "z"):
        options, kind = LATENT[name]
        for generation in ("posterior", "prior"):
            model, guide = programs({**options, "generation": generation}, kind)
            found = sample_texts(model, Ids(), 2, steps=5, seed=0, guide=guide, source=source)
            assert len(found.texts) == 6
    means = guide.at_means()
    latents = means.draw(3, 5, source)
    assert_close(latents["z"], guide.of_text(model.memory(source)[0]).mean)
    one, other = (told(means.decoder(latents, source), batch) for _ in range(2))
    assert torch.equal(one, other)


def test_a_blind_guide_leaves_attention_that_is_not_latent_to_the_decoder():
    model, guide = programs({}, PriorGuide)
    batch = pairs()
    latents = {"z": torch.randn(3, 2, dtype=torch.float64)}
    wanted = told(model.decoder(latents, batch.source), batch)
    for teller in (guide, guide.at_means()):
        assert_close(told(teller.decoder(latents, batch.source), batch), wanted)


def test_attention_that_starts_at_zero_says_nothing_at_first():
    model, _ = programs({"attention": "deterministic"}, GaussianGuide)
    fresh = EncoderDecoder(VOCABULARY, **SIZES, attention="deterministic", attention_start="zero")
    assert model.network.from_memory.weight.any()
    assert not fresh.network.from_memory.weight.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "hard"}, "unknown attention 'hard'"),
        ({"attention_prior": "normal"}, "no attention is latent"),
        ({"attention": "weights", "attention_prior": "mean"}, "unknown prior of latent weights 'mean'"),
        ({"attention": "none", "latent_dim": 0}, "nothing of the source would reach the text"),
        ({"latent_dim": -1}, "latent_dim must be 0 or more"),
        ({"shared_embedding": True}, "shared_embedding needs one vocabulary"),
    ],
)
def test_options_that_make_no_model_are_refused(options, message):
    with pytest.raises((UserError, UnknownNameError), match=message):
        EncoderDecoder(VOCABULARY, **{**SIZES, **options})


def test_data_without_sources_and_guides_of_other_models_are_refused():
    with pytest.raises(UserError, match="reads a source beside each text"):
        EncoderDecoder(Vocabulary(10))
    model, guide = programs({}, GaussianGuide)
    with pytest.raises(UserError, match="reads a source beside each text"):
        guide(replace(pairs(), source=None))
    for kind, fault in ((VectorGuide, "take the guide gaussian"), (ExactGuide, "its likelihood is not exact")):
        with pytest.raises(UserError, match=fault):
            kind(model)
    weights, _ = programs({"attention": "weights"}, DirichletGuide)
    with pytest.raises(UserError, match="gamma with weibull"):
        WeibullGuide(weights)
    nothing, _ = exact(EXACT["deterministic"])
    with pytest.raises(UserError, match="its guide is 'exact'"):
        GaussianGuide(nothing)
    with pytest.raises(UserError, match="above 0"):
        DirichletGuide(weights, most=0.0)


@pytest.mark.parametrize("name", ["deterministic", "summed over", "summed over, before", "z", "z, before"])
def test_attention_that_is_not_latent_is_what_the_decoder_reads_step_by_step(name):
    model, guide = exact(EXACT[name]) if name in EXACT else programs(*LATENT[name])
    batch, read = pairs(), []
    memory, start = model.memory(batch.source)

    def attend(scores, memory):
        masked = scores.masked_fill(~batch.source.scored.unsqueeze(1), -torch.inf)
        read.append(masked.exp() / masked.exp().sum(-1, keepdim=True))
        return read[-1] @ memory.states

    of_text = guide.of_text(memory) if name in LATENT else None
    decoder = model.telling({} if of_text is None else {"z": of_text.mean}, memory, start, attend)
    state = decoder.begin(batch.size)
    for tokens in batch.decoder_inputs.unbind(1):
        _, state = decoder.step(state, tokens)
    found = guide.attention(batch)
    assert found.spread is None
    assert_close(found.weights, torch.cat(read, 1))


@pytest.mark.parametrize("name", ["z alone", "blind"])
def test_no_attention_is_shown_where_the_text_tells_of_none(name):
    assert programs(*LATENT[name])[1].attention(pairs()) is None
