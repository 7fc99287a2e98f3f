"""The sentence VAE against enumeration, its own steps, the language model, and hand-written sums."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pyro
import pytest
import torch
from pyro import infer, poutine
from scipy.stats import chisquare
from torch import Tensor, nn

from guides.sentence_vae import ExactGuide, GaussianGuide
from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.protocols import Model
from ppl_text.core.vocabulary import EOS_ID, PAD_ID, Vocabulary
from ppl_text.data.batches import collate
from ppl_text.evaluation.decoding import Greedy, Sample, search
from ppl_text.models import MODELS
from ppl_text.models.language_model import LanguageModel
from ppl_text.models.sentence_vae import SentenceVAE
from ppl_text.objectives import build

LETTERS = [3, 4, 5]
IDS = [[3, 4, 5], [], [5], [4, 4]]
D = 2
CASES = {
    "cell": {},
    "hidden": {"initial": "hidden"},
    "tied": {"tied": True, "embedding_dim": 4},
    "no latent": {"latent_dim": 0},
}
every_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
latent_cases = pytest.mark.parametrize("options", list(CASES.values())[:-1], ids=list(CASES)[:-1])


def model_of(scale: float = 0.6, **options: object) -> SentenceVAE:
    """A small model with weights of order one, in float64; nothing is dropped."""
    torch.manual_seed(0)
    small = {"latent_dim": D, "embedding_dim": 3, "hidden_dim": 4, "dropout_in": 0.0, "dropout_out": 0.0}
    model = SentenceVAE(Vocabulary(6), **{**small, **options})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=scale)
    return model.double()


def batch_of(ids: list[list[int]], steps: int) -> Batch:
    return collate(ids, torch.ones(len(ids), dtype=torch.float64), steps, len(ids))


def z_of(model: SentenceVAE, *shape: int) -> Tensor | None:
    torch.manual_seed(1)
    return torch.randn(*shape, D, dtype=torch.float64) if model.latents else None


def log_p(model: SentenceVAE, batch: Batch, z: Tensor | None) -> Tensor:
    """ln p(w | z) of the Pyro program, (…, B)."""
    trace = poutine.trace(poutine.condition(model, data={} if z is None else {"z": z})).get_trace(batch)
    trace.compute_log_prob()
    value: Tensor = trace.nodes["tokens"]["log_prob"]
    return value


def given(z: Tensor | None) -> dict[str, Tensor]:
    return {} if z is None else {"z": z}


def generate(model: SentenceVAE | LanguageModel, n: int, steps: int) -> Tensor:
    """Sentences from the prior, by ancestral sampling."""
    return search(Sample(), model.decoder(model.draw(n, steps)), n, steps)


def by_steps(model: SentenceVAE, word: list[int], z: Tensor | None) -> Tensor:
    """ln p(w EOS | z) by a loop over time."""
    decoder, token, total = model.decoder(given(z)), torch.tensor([1]), torch.zeros((), dtype=torch.float64)
    state = decoder.begin(1)
    for following in [*word, EOS_ID]:
        logits, state = decoder.step(state, token)
        total = total + logits[0, following - 2] - logits[0].exp().sum().log()
        token = torch.tensor([following])
    return total


@every_case
def test_likelihood_and_gradient_equal_a_loop_over_time(options: dict) -> None:
    model = model_of(**options)
    z = z_of(model, 4)
    found = log_p(model, batch_of(IDS, 6), z)
    expected = torch.stack([by_steps(model, w, None if z is None else z[b : b + 1]) for b, w in enumerate(IDS)])
    torch.testing.assert_close(found, expected)
    factors = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    pairs = (torch.autograd.grad(v @ factors, list(model.parameters())) for v in (found, expected))
    for (name, _), a, b in zip(model.named_parameters(), *pairs, strict=True):
        torch.testing.assert_close(a, b, msg=name)
        assert float(a.abs().max()) > 0


@every_case
def test_padding_changes_neither_values_nor_gradients(options: dict) -> None:
    model = model_of(**options)
    z = z_of(model, 4)
    wide, narrow = (log_p(model, batch_of(IDS, steps), z) for steps in (9, 4))
    torch.testing.assert_close(wide, narrow)
    pairs = (torch.autograd.grad(value.sum(), list(model.parameters())) for value in (wide, narrow))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b)


@latent_cases
def test_particles_equal_the_loop_over_particles(options: dict) -> None:
    model, batch = model_of(**options), batch_of(IDS, 5)
    z = z_of(model, 6, 4)
    with pyro.plate("particles", 6, dim=-2):
        found = log_p(model, batch, z)
        drawn = model(batch)
    torch.testing.assert_close(found, torch.stack([log_p(model, batch, one) for one in z]))
    assert drawn.shape == (6, 4, D)


@every_case
def test_words_up_to_a_length_and_what_goes_on_beyond_it_have_probability_one(options: dict) -> None:
    model, length = model_of(**options), 5
    finished = [list(w) for n in range(length) for w in itertools.product(LETTERS, repeat=n)]
    rows = torch.tensor(list(itertools.product(LETTERS, repeat=length)))
    inputs = torch.cat([torch.ones_like(rows[:, :1]), rows[:, :-1]], 1)
    beyond = Batch(rows, torch.full((len(rows),), length), torch.ones(len(rows)), inputs)
    z = z_of(model, 1)
    with torch.no_grad():
        ended = log_p(model, batch_of(finished, length), None if z is None else z.expand(len(finished), -1)).exp().sum()
        going_on = log_p(model, beyond, None if z is None else z.expand(len(rows), -1)).exp().sum()
    assert float(ended + going_on) == pytest.approx(1.0, abs=1e-12)
    assert 0.2 < float(ended) < 0.999


def test_latent_is_a_standard_gaussian() -> None:
    model, batch = model_of(), batch_of(IDS, 5)
    trace = poutine.trace(model).get_trace(batch)
    assert {n for n, s in trace.nodes.items() if s["type"] == "sample"} == {"sentences", "z", "tokens"}
    z = z_of(model, 4)
    expected = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    torch.testing.assert_close(model.prior(4).log_prob(z), expected)
    assert model.draw(7, 5)["z"].shape == (7, D)
    torch.manual_seed(2)
    draws = model.draw(20_000, 5)["z"]
    torch.testing.assert_close(draws.T.cov(), torch.eye(D).double(), atol=5 * math.sqrt(2 / 20_000), rtol=0)


def test_without_a_latent_it_is_the_language_model_with_an_lstm() -> None:
    vae, batch = model_of(latent_dim=0), batch_of(IDS, 5)
    other = LanguageModel(Vocabulary(6), hidden_dim=4, embedding_dim=3, cell="lstm").double()
    state = {"head.bias": torch.zeros(4)}
    for name, value in vae.state_dict().items():
        state[name.removeprefix("network.").replace("lstm.", "cell.")] = value
    other.load_state_dict(state)
    expected = other.likelihood(batch).log_prob(batch.tokens)
    estimate = build("elbo")(vae, ExactGuide(vae), batch)
    torch.testing.assert_close(estimate.bound, expected.detach())
    assert vae.latents == ()
    generated = []
    for model in (vae, other):
        torch.manual_seed(3)
        generated.append(generate(model, 50, 4))
    assert torch.equal(*generated)


@pytest.mark.parametrize("init", ["uniform", "torch"])
@pytest.mark.parametrize("spec", ["elbo", "iwae:4"])
def test_bounds_equal_stock_pyros_at_ordinary_sizes(spec: str, init: str) -> None:
    torch.manual_seed(0)
    model = SentenceVAE(
        Vocabulary(300), latent_dim=8, embedding_dim=16, hidden_dim=24, dropout_in=0.0, dropout_out=0.0, init=init
    )
    guide = GaussianGuide(model)
    batch = collate([torch.randint(3, 300, (n,)).tolist() for n in (3, 9, 5)], torch.ones(3), 10, 3)
    torch.manual_seed(1)
    estimate = build(spec)(model, guide, batch)
    torch.manual_seed(1)
    if spec == "elbo":
        expected = -infer.Trace_ELBO().differentiable_loss(model, guide, batch) / 3
    else:
        options = {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 1}
        expected = torch.tensor(-infer.RenyiELBO(alpha=0.0, **options).loss(model, guide, batch) / 3)
    torch.testing.assert_close(estimate.bound.mean(), expected.detach(), check_dtype=False)


def test_word_dropout_reaches_what_is_fed_back_and_not_what_is_scored() -> None:
    model, batch = model_of(), batch_of(IDS, 5)
    z = z_of(model, 4)
    inputs = batch.decoder_inputs.masked_fill(batch.decoder_inputs == 4, 3)
    dropped = Batch(batch.tokens, batch.lengths, batch.weights, inputs)
    assert not torch.allclose(log_p(model, dropped, z), log_p(model, batch, z))
    states = model.network(dropped.decoder_inputs, z)
    logits = (states @ model.network.output_weight.t()).log_softmax(-1)
    expected = [sum(logits[b, t, w - 2] for t, w in enumerate([*ids, EOS_ID])) for b, ids in enumerate(IDS)]
    torch.testing.assert_close(log_p(model, dropped, z), torch.stack(expected))


def test_bag_of_words_is_a_loss_beside_the_bound() -> None:
    model, batch = model_of(bag_of_words=0.3), batch_of(IDS, 6)
    guide = GaussianGuide(model).double()
    torch.manual_seed(4)
    estimate = build("elbo:2")(model, guide, batch)
    torch.manual_seed(4)
    z = guide.posterior(batch).expand((2, 4)).rsample()
    bag = torch.zeros((), dtype=torch.float64)
    for particle, b in itertools.product(range(2), range(4)):
        scores = model.bag(z[particle, b])
        for word in [*IDS[b], EOS_ID]:
            bag = bag - (scores[word - 2] - scores.exp().sum().log())
    torch.testing.assert_close(estimate.loss, -estimate.bound.mean() + 0.3 * bag / 8, check_dtype=False)
    plain = model_of()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("bag")})
    torch.manual_seed(4)
    torch.testing.assert_close(build("elbo:2")(plain, guide, batch).bound, estimate.bound)
    model.eval()
    torch.manual_seed(4)
    evaluated = build("elbo:2")(model, guide, batch)
    torch.testing.assert_close(evaluated.loss, -estimate.bound.mean())


def test_dropout_is_for_training_only() -> None:
    model, batch = model_of(dropout_in=0.5, dropout_out=0.5), batch_of(IDS, 5)
    z = z_of(model, 4)
    noisy = [log_p(model.train(), batch, z) for _ in range(2)]
    assert not torch.allclose(*noisy)
    quiet = [log_p(model.eval(), batch, z) for _ in range(2)]
    assert torch.equal(*quiet)
    torch.testing.assert_close(quiet[0], log_p(model_of().train(), batch, z))


def probabilities(model: SentenceVAE, z: Tensor | None, steps: int) -> dict[tuple[int, ...], float]:
    """p(· | z) of everything that a search of ``steps`` tokens can return, without padding."""
    found = {}
    for n in range(steps + 1):
        for word in itertools.product(LETTERS, repeat=n):
            ended = n < steps
            decoder, token, total = model.decoder(given(z)), torch.tensor([1]), 0.0
            state = decoder.begin(1)
            for following in [*word, *([EOS_ID] if ended else [])]:
                logits, state = decoder.step(state, token)
                total += float(logits.log_softmax(-1)[0, following - 2].detach())
                token = torch.tensor([following])
            found[(*word, *([EOS_ID] if ended else []))] = math.exp(total)
    return found


@every_case
def test_generated_sentences_are_as_frequent_as_they_are_probable(
    options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, n = model_of(**options), 20_000
    z = z_of(model, 1)
    if z is not None:
        monkeypatch.setattr(model, "draw", lambda count, steps: {"z": z.expand(count, -1)})
    expected = probabilities(model, z, 2)
    assert sum(expected.values()) == pytest.approx(1.0)
    torch.manual_seed(5)
    drawn = Counter(tuple(i for i in row if i != PAD_ID) for row in generate(model, n, 2).tolist())
    assert drawn.keys() <= expected.keys()
    assert min(expected.values()) * n > 5
    test = chisquare([drawn[w] for w in expected], [n * p for p in expected.values()])
    assert test.pvalue > 6e-7  # that of five sigmas


@latent_cases
def test_decoding_takes_the_most_probable_token_of_every_step(options: dict) -> None:
    model = model_of(scale=1.5, **options)
    z = 3.0 * z_of(model, 15)
    rows = search(Greedy(), model.decoder({"z": z}), 15, 4)
    assert rows.shape == (15, 4)
    assert len({tuple(row) for row in rows.tolist()}) > 2
    for one, row in zip(z, rows.tolist(), strict=True):
        decoder, token, expected = model.decoder({"z": one.unsqueeze(0)}), torch.tensor([1]), []
        state = decoder.begin(1)
        while len(expected) < 4 and (not expected or expected[-1] != EOS_ID):
            logits, state = decoder.step(state, token)
            token = logits.argmax(-1) + 2
            expected.append(int(token))
        assert row == expected + [PAD_ID] * (4 - len(expected))


def test_the_model_keeps_its_contract() -> None:
    model = SentenceVAE(Vocabulary(29))
    assert isinstance(model, Model)
    (spec,) = model.latents
    assert (spec.describe(), spec.event_shape(5)) == ("z: (D=32) real", (32,))
    assert MODELS[model.family].endswith(f":{type(model).__name__}")
    assert (model.vocab_size, model.latent_dim, model.embedding_dim, model.hidden_dim) == (29, 32, 256, 256)
    # 29·256 embeddings, the LSTM on 256 + 32, W_z without bias, 27 outcomes without bias.
    lstm = 4 * 256 * (256 + 32 + 256 + 2)
    assert sum(p.numel() for p in model.parameters()) == 29 * 256 + lstm + 32 * 256 + 27 * 256
    assert not any(key in ("zeros", "ones") for key in model.state_dict())
    largest = {n: float(p.detach().abs().max()) for n, p in model.named_parameters()}
    assert 0.05 < largest.pop("network.embedding.weight") <= 0.1
    assert all(0.005 < value <= 0.01 for value in largest.values())


REFUSED = {
    "tied": ({"tied": True, "embedding_dim": 3}, UserError, "embedding_dim = hidden_dim; got 3 and 256"),
    "initial": ({"initial": "cel"}, UnknownNameError, r"did you mean 'cell'\?"),
    "init": ({"init": "normal"}, UnknownNameError, "unknown init 'normal'"),
    "no z for words": ({"latent_dim": 0, "bag_of_words": 0.1}, UserError, "with latent_dim=0 there is no z"),
    "negative width": ({"latent_dim": -1}, UserError, "must be 0 or more; got -1"),
    "negative weight": ({"bag_of_words": -0.1}, UserError, r"must be 0 or more; got 32 and -0\.1"),
}


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(options: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        SentenceVAE(Vocabulary(10), **options)


def test_an_overfitted_model_tells_its_sentences_apart_by_z() -> None:
    torch.manual_seed(0)
    ids = [[3, 4], [5], [4, 3, 5], [5, 5]]
    model = SentenceVAE(
        Vocabulary(6), latent_dim=2, embedding_dim=8, hidden_dim=16, dropout_in=0.0, dropout_out=0.0, init="torch"
    )
    guide, batch = GaussianGuide(model), collate(ids, torch.ones(4), 4, 4)
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer, objective = torch.optim.Adam(parameters, lr=0.03), build("elbo-analytic")
    for _ in range(300):
        optimizer.zero_grad()
        objective(model, guide, batch, 0.1).loss.backward()
        optimizer.step()
    estimate = objective(model, guide, batch)
    assert float(estimate.log_likelihood.mean()) > -0.5
    assert float(estimate.kl.mean()) > math.log(4) - 0.2
    decoded = search(Greedy(), model.decoder({"z": guide.posterior(batch).mean}), 4, 4)
    assert torch.equal(decoded, batch.tokens)
