"""Transformers with latents: densities against their equations and stock GPT-2, sizes, padding, writing."""

import copy
import math

import pytest
import torch
import transformers
from pyro import poutine
from torch.distributions import Normal

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.evaluation.decoding import Beam, Sample, search
from ppl_text.evaluation.generation import write
from ppl_text.models.layerwise_transformer import LayerwiseTransformer
from ppl_text.objectives.terms import trace_terms

from .transformer_cases import MODELS, SIZES, SYMBOLS, TEXTS, as_batch, batch, guided, made

ROUNDING = {"rtol": 1e-9, "atol": 1e-9}
"""Of float64 sums of some hundred products."""

everyone = pytest.mark.parametrize("name", [*MODELS, "none"])
paired_or_not = pytest.mark.parametrize("paired", [False, True], ids=["texts", "pairs"])


def draws(model, rows, particles=None):
    shape = (rows, model.latent_dim) if particles is None else (particles, rows, model.latent_dim)
    return {name: torch.randn(shape, dtype=torch.float64) for name in model.sites}


def log_terms(model, given, values):
    """ln p of each site at given latents, by a trace of the program."""
    data = {name: value.clone() for name, value in values.items()}
    trace = poutine.trace(poutine.condition(model, data=data)).get_trace(given)
    return {name: trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in (*model.sites, "tokens")}


def stock(model):
    """GPT-2 of transformers with the same weights, with nothing of ours in it."""
    plain = transformers.AutoModel.from_config(copy.deepcopy(model.backbone.network.config), attn_implementation="sdpa")
    plain = plain.double().eval()
    plain.load_state_dict(model.backbone.network.state_dict())
    return plain


def scored(states, weight, given, first):
    """Σ_t ln softmax(W s_t)[w_t] row by row, token by token."""
    found = []
    for row, text in enumerate(given.tokens):
        logs = (states[row] @ weight[first:].T).log_softmax(-1)
        found.append(sum(logs[t, text[t] - first] for t in range(int(given.lengths[row]))))
    return torch.stack(found)


def test_the_published_size_on_the_meta_device():
    """193,353,984 with preset=paper and V = 50,259 (specification 2A), guide and model together."""
    from guides.layerwise_transformer import LayerWiseGuide

    own = [choice for choice in LayerwiseTransformer.presets if choice.key.startswith("model.")]
    choices = {choice.key.removeprefix("model."): choice.paper for choice in own}
    with torch.device("meta"):
        model = LayerwiseTransformer(Vocabulary(50_259), **choices)
        guide = LayerWiseGuide(model)
    assert sum(p.numel() for p in [*model.parameters(), *guide.parameters()]) == 193_353_984
    assert not {id(p) for p in model.parameters()} & {id(p) for p in guide.parameters()}


def test_without_a_latent_it_is_gpt2():
    model, given = made("none"), batch()
    states = stock(model)(given.decoder_inputs).last_hidden_state
    wanted = scored(states, model.backbone.embedding.weight, given, 2)
    torch.testing.assert_close(log_terms(model, given, {})["tokens"], wanted, **ROUNDING)


@pytest.mark.parametrize("fusion", ["lmf", "sum_prod", "sum"])
def test_at_first_the_latents_of_values_change_nothing(fusion):
    """The identity start: a pretrained GPT-2 is untouched, to the last bit."""
    model = LayerwiseTransformer(Vocabulary(SYMBOLS), **SIZES, fusion=fusion).eval()
    values = {name: 9.0 * torch.randn(3, 3) for name in model.sites}
    plain = stock(model).float()(batch().decoder_inputs).last_hidden_state
    torch.testing.assert_close(model.states(batch(), list(values.values())), plain, rtol=1e-5, atol=1e-5)


def test_latents_of_embeddings_and_of_the_softmax_against_gpt2():
    given = batch()
    for name in ("embedding", "softmax"):
        model = made(name)
        z = draws(model, 3)
        plain, table = stock(model), model.backbone.embedding.weight
        linear = model.injection.embedding if name == "embedding" else model.injection.output
        shift = (z["z"] @ linear.weight.T).unsqueeze(1)
        embedded = table[given.decoder_inputs]
        states = plain(inputs_embeds=embedded + shift if name == "embedding" else embedded).last_hidden_state
        wanted = scored(states if name == "embedding" else states + shift, table, given, 2)
        found = log_terms(model, given, z)
        torch.testing.assert_close(found["tokens"], wanted, **ROUNDING)
        torch.testing.assert_close(found["z"], Normal(0.0, 1.0).log_prob(z["z"]).sum(-1), **ROUNDING)


def test_fused_values_against_gpt2_with_fused_weights():
    """With one row, fusing values with z is another value projection: Σ_j diag(C_j(z)) A_j on top of it."""
    model, given = made("value"), batch(rows=slice(1))
    z = draws(model, 1)
    plain = stock(model)
    for place, block in enumerate(plain.h):
        fusion = model.injection.fusion[str(place)]
        latent = torch.cat([z[model.sites[place]][0], torch.ones(1, dtype=torch.float64)])
        gates = (fusion.of_latent.weight @ latent + fusion.of_latent.bias).view(4, 16)
        maps = fusion.of_value.weight.view(4, 16, 17)
        weight = sum(gates[j, :, None] * maps[j, :, :-1] for j in range(4))
        bias = sum(gates[j] * (maps[j, :, -1] + fusion.of_value.bias.view(4, 16)[j]) for j in range(4))
        with torch.no_grad():
            block.attn.c_attn.bias[32:] = weight @ block.attn.c_attn.bias[32:] + bias
            block.attn.c_attn.weight[:, 32:] = block.attn.c_attn.weight[:, 32:] @ weight.T
    states = plain(given.decoder_inputs).last_hidden_state
    wanted = scored(states, model.backbone.embedding.weight, given, 2)
    torch.testing.assert_close(log_terms(model, given, z)["tokens"], wanted, **ROUNDING)


@pytest.mark.parametrize("learned", [False, True], ids=["standard", "learned"])
def test_the_chain_is_its_equations(learned):
    model = made("value", prior1="learned" if learned else "standard")
    z, chain = draws(model, 3), model.chain
    found = log_terms(model, batch(), z)
    r = before = torch.zeros(3, 3, dtype=torch.float64)
    for place, name in enumerate(model.sites):
        key = str(place)
        if place or learned:
            weights = [chain.of_history[key], chain.of_latent[key]]
            r = torch.tanh(sum(x @ w.weight.T + w.bias for x, w in zip((r, before), weights, strict=True)))
            gaussian = r @ chain.to_gaussian[key].weight.T + chain.to_gaussian[key].bias
            mean, scale = gaussian[:, :3], (gaussian[:, 3:] / 2).exp()
        else:
            mean, scale = torch.zeros(3, 3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64)
        torch.testing.assert_close(found[name], Normal(mean, scale).log_prob(z[name]).sum(-1), **ROUNDING)
        before = z[name]


def test_separate_latents_are_standard():
    model = made("separate")
    z = draws(model, 3)
    found = log_terms(model, batch(), z)
    for name in model.sites:
        torch.testing.assert_close(found[name], Normal(0.0, 1.0).log_prob(z[name]).sum(-1), **ROUNDING)


@everyone
@paired_or_not
def test_padding_changes_no_number(name, paired):
    model = made(name, paired=paired)
    z = draws(model, 3)
    narrow, wide = batch(paired=paired), batch(paired=paired, width=9, source_width=8)
    for site, value in log_terms(model, narrow, z).items():
        torch.testing.assert_close(log_terms(model, wide, z)[site], value, **ROUNDING)
    for row in range(3):
        alone = batch(paired=paired, rows=slice(row, row + 1))
        found = log_terms(model, alone, {site: value[row : row + 1] for site, value in z.items()})
        for site, value in log_terms(model, narrow, z).items():
            torch.testing.assert_close(found[site][0], value.expand(3)[row], **ROUNDING)


@pytest.mark.parametrize("name", MODELS)
@paired_or_not
def test_particles_are_texts_with_other_latents(name, paired):
    model, given = made(name, paired=paired), batch(paired=paired)
    z = draws(model, 3, particles=4)
    whole = log_terms(model, given, z)
    for k in range(4):
        found = log_terms(model, given, {site: value[k] for site, value in z.items()})
        for site, value in found.items():
            torch.testing.assert_close(whole[site][k], value, **ROUNDING)


@pytest.mark.parametrize("name", MODELS)
@paired_or_not
def test_each_latent_matters_to_the_text(name, paired):
    model, given = made(name, paired=paired), batch(paired=paired)
    z = draws(model, 3)
    whole = log_terms(model, given, z)["tokens"]
    for site in model.sites:
        other = log_terms(model, given, {**z, site: z[site] + 1.0})["tokens"]
        assert ((other - whole).abs() > 1e-6).all(), site


def test_the_source_matters_to_text_and_prior():
    model = made("value", paired=True)
    given = batch(paired=True)
    other = type(given)(*[getattr(given, f) for f in ("tokens", "lengths", "weights", "decoder_inputs")])
    swapped = as_batch(([3, 3, 2], [6, 2], [7, 8, 2]))
    z = draws(model, 3)
    found = log_terms(model, given, z)
    changed = log_terms(model, type(given)(*other.tensors(), source=swapped), z)
    assert all((found[site] != changed[site]).all() for site in found)
    with pytest.raises(UserError, match="made for texts with sources"):
        log_terms(model, batch(), z)


@everyone
@paired_or_not
def test_writing_step_by_step_has_the_logits_of_reading_all(name, paired):
    model, given = made(name, paired=paired), batch(paired=paired)
    z = draws(model, 3)
    states = model.states(given, [z[site] for site in model.sites], model.told_by(given.source).source)
    wanted = states @ model.output_weight.T
    decoder = model.decoder(z, given.source)
    state = decoder.begin(3)
    for t in range(given.steps):
        logits, state = decoder.step(state, given.decoder_inputs[:, t])
        torch.testing.assert_close(logits, wanted[:, t], **ROUNDING)


@pytest.mark.parametrize("name", ["value", "memory", "optimus"])
def test_a_beam_finds_the_best_of_all_texts(name):
    """Texts of up to two tokens and EOS, all of them scored by the model itself."""
    model = made(name)
    z = draws(model, 1)
    texts = [[a, 2] for a in range(3, SYMBOLS)] + [[a, b, 2] for a in range(3, SYMBOLS) for b in range(3, SYMBOLS)]
    texts = [[2], *texts]
    many = {site: value.expand(len(texts), -1) for site, value in z.items()}
    scores = log_terms(model, as_batch(texts), many)["tokens"]
    found = search(Beam(width=len(texts), length_penalty=0.0), model.decoder(z), rows=1, steps=3)[0].tolist()
    best = texts[int(scores.argmax())]
    assert found[: len(best)] == best


@pytest.mark.parametrize("name", ["value", "one latent", "separate"])
def test_draws_are_of_the_prior(name):
    model = made(name)
    drawn = model.draw(20_000, 5)
    assert list(drawn) == list(model.sites)
    first = drawn[model.sites[0]]
    assert first.mean().abs() < 5 / math.sqrt(first.numel())
    if name == "value":  # E z_2 = E μ(r(z_1))
        again = model.chain.gaussian(1, model.chain.history(1, None, first), None)[0]
        noise = (drawn["z_2"] - again).std(0) / math.sqrt(20_000)
        assert ((drawn["z_2"] - again).mean(0).abs() < 5 * noise).all()


def test_the_bag_of_words_is_its_formula():
    model = made("value", bag_of_words=0.2).train()
    given = batch()
    guide = guided(model)
    terms = trace_terms(model, guide, given)
    z = terms.latents["z_3"].value
    logits = (z @ model.bag.weight.T + model.bag.bias) @ model.backbone.embedding.weight[2:].T
    wanted = [sum(logits[row].log_softmax(-1)[token - 2] for token in text) for row, text in enumerate(TEXTS)]
    torch.testing.assert_close(terms.side["bag_of_words"], -0.2 * torch.stack(wanted), **ROUNDING)
    assert trace_terms(model.eval(), guide, given).side["bag_of_words"] == 0


def test_attention_on_the_memory_layer_by_layer():
    model, given = made("memory"), batch()
    shares, _ = model.memory_attention(given, draws(model, 3))
    assert shares.shape == (3, 3, given.steps)
    assert ((shares > 0) & (shares < 1)).all()
    assert made("value").memory_attention(given, draws(made("value"), 3)) is None


def test_attention_on_the_memory_behind_a_source():
    """BOS and the source's tokens, its EOS among them, are read in front of the text's own BOS."""
    model, given = made("memory", paired=True), batch(paired=True)
    shares, equal = model.memory_attention(given, draws(model, 3))
    assert shares.shape == (3, 3, given.steps)
    read = given.source.lengths[:, None] + 1 + 2 + torch.arange(given.steps)
    torch.testing.assert_close(equal, 1 / read)


def test_texts_that_are_too_long_are_counted():
    model = made("value")
    model.check_lengths(torch.tensor([3, 23]))
    with pytest.raises(UserError, match=r"2 of 3 texts .* 24 positions .* longest 41: .* data\.long=truncate"):
        model.check_lengths(torch.tensor([3, 24, 40]))
    paired = made("value", paired=True)
    paired.check_lengths(torch.tensor([10]), torch.tensor([12]))
    with pytest.raises(UserError, match=r"texts with their sources .* longest 25"):
        paired.check_lengths(torch.tensor([10]), torch.tensor([13]))
    encoding = made("bart", paired=True)
    encoding.check_lengths(torch.tensor([10]), torch.tensor([13]))
    with pytest.raises(UserError, match=r"1 of 1 texts or their sources .* longest 25"):
        encoding.check_lengths(torch.tensor([10]), torch.tensor([24]))


@pytest.mark.parametrize(("paired", "room"), [(False, 24), (True, 24 - 6)])
def test_texts_are_cut_off_where_the_positions_end(paired, room):
    """A source of 5 tokens, EOS counted, and its BOS stand in front."""
    model, endless = made("value", paired=paired), Sample(min_length=100)
    source = as_batch([[5, 6, 7, 8, 2]] * 2) if paired else None
    latents = model.draw(2, 0, source)
    decoder = model.decoder(latents, source)
    assert decoder.longest == room
    tokens = write(model, model, latents, 2, endless, 100, source)
    assert tokens.shape == (2, room)
    assert write(model, model, latents, 2, endless, 7, source).shape == (2, 7)
    with pytest.raises(UserError, match=r"the model has 24 positions, and a text of 2[5-9] came"):
        write(model, model, latents, 2, endless, 100, source, length=room)


def test_what_it_cannot_be():
    vocabulary = Vocabulary(SYMBOLS)
    for options, kind, message in (
        ({"paradigm": "values"}, UnknownNameError, "unknown paradigm 'values' .did you mean 'value'"),
        ({"prior": "standard"}, UnknownNameError, "unknown prior 'standard'"),
        ({"prior1": "none"}, UnknownNameError, "unknown prior1 'none'"),
        ({"head": "none"}, UnknownNameError, "unknown head 'none'"),
        ({"pooling": "last"}, UnknownNameError, "unknown pooling 'last'"),
        ({"latent_dim": 0}, UserError, "latent_dim must be 1 or more; got 0"),
        ({"first_layer": 3, "last_layer": 2}, UserError, r"1 … 3; got first_layer=3, last_layer=2"),
        ({"last_layer": 4}, UserError, r"1 … 3; got first_layer=1, last_layer=4"),
        ({"paradigm": "none", "bag_of_words": 0.2}, UserError, "asks a latent for the words; got 0.2"),
        ({"bag_of_words": -1.0}, UserError, "0 or more, and asks"),
    ):
        wanted = {**SIZES, **options}
        paired = Vocabulary(SYMBOLS, source=vocabulary) if options == {"pooling": "last"} else vocabulary
        with pytest.raises(kind, match=message):
            LayerwiseTransformer(paired, **wanted)
    with pytest.raises(UserError, match=r"7 and 11 symbols: set data\.shared_vocabulary=true"):
        LayerwiseTransformer(Vocabulary(SYMBOLS, source=Vocabulary(7)), **SIZES)
