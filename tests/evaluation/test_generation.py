"""Texts out of a model: repeatable, counted, and through the guide and back."""

from types import SimpleNamespace

import pyro
import pytest
import torch
from pyro.distributions import Normal

from guides.language_model import ExactGuide
from ppl_text.core.errors import DataError, DivergedError, UnknownNameError, UserError
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.tokenizers import bpe_tokenizer, open_character_tokenizer, word_tokenizer
from ppl_text.evaluation import generation
from ppl_text.evaluation.decoding import Beam, Greedy, Sample
from ppl_text.evaluation.generation import interpolate_texts, points_between, reconstruct_texts, sample_texts, seeded
from ppl_text.evaluation.storytelling import check_texts
from ppl_text.models.language_model import LanguageModel

from .emitting import Classes
from .spelling import MAX_STEPS, TOKENIZER, Reader, Spelling, constant, means


@pytest.fixture
def programs(trained):
    return trained.model, trained.guide, trained.corpus.tokenizer


def test_samples_are_repeatable_and_leave_the_random_state_alone(programs):
    model, _, tokenizer = programs
    before = torch.get_rng_state()
    first = sample_texts(model, tokenizer, 50, steps=6, seed=1)
    assert first == sample_texts(model, tokenizer, 50, steps=6, seed=1)
    assert first != sample_texts(model, tokenizer, 50, steps=6, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(first.texts) == 50
    assert max(map(len, first.texts)) <= 6


def test_texts_without_an_end_are_counted(programs):
    """A text of as many letters as steps has no EOS; every shorter one has."""
    model, _, tokenizer = programs
    samples = sample_texts(model, tokenizer, 200, steps=3, seed=1)
    assert samples.unfinished == sum(len(text) == 3 for text in samples.texts)
    assert 0 < samples.unfinished < 200


def test_reconstruction_does_not_depend_on_how_many_are_encoded_at_once(programs, monkeypatch):
    """With a guide that has no spread, chunks of 2 give what one batch gives."""
    model, guide, tokenizer = programs
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.zeros(*shape, **options))
    texts = ["bade", "ma", "ro", "tolu", "sa"]
    whole = reconstruct_texts(model, guide, tokenizer, texts, max_steps=6, seed=0)
    monkeypatch.setattr(generation, "CHUNK", 2)
    assert reconstruct_texts(model, guide, tokenizer, texts, max_steps=6, seed=0) == whole
    assert len(whole) == 5


class Copying:
    """A model whose latent is the ids themselves: what is encoded is what is decoded."""

    def __init__(self, model):
        self._model, self.latents, self.vocabulary = model, model.latents, model.vocabulary

    def parameters(self):
        return self._model.parameters()

    def emit(self, latents):
        return SimpleNamespace(mode=latents["h"].long())

    def between(self, first, second, points, lengths):
        assert lengths == (5, 3)
        return {"h": torch.stack([(first if point < points - 1 else second)["h"] for point in range(points)])}


def test_reconstruction_pairs_each_text_with_its_own(programs, monkeypatch):
    model, guide, tokenizer = programs
    monkeypatch.setattr(generation, "encoded", lambda model, guide, batch: {"h": batch.tokens})
    monkeypatch.setattr(generation, "CHUNK", 2)
    texts = ["bade", "ma", "ro", "tolu", "sa"]
    assert reconstruct_texts(Copying(model), guide, tokenizer, texts, max_steps=6, seed=0) == texts


def test_interpolation_leads_from_one_text_to_the_other(programs, monkeypatch):
    model, guide, tokenizer = programs
    monkeypatch.setattr(generation, "encoded", lambda model, guide, batch: {"h": batch.tokens})
    found = interpolate_texts(Copying(model), guide, tokenizer, "bade", "ma", points=3, max_steps=6, seed=0)
    assert found == ["bade", "bade", "ma"]


def test_the_ends_of_an_interpolation_are_the_reconstructions(programs):
    model, guide, tokenizer = programs
    ends = reconstruct_texts(model, guide, tokenizer, ["bade", "mato"], max_steps=6, seed=4)
    found = interpolate_texts(model, guide, tokenizer, "bade", "mato", points=5, max_steps=6, seed=4)
    assert [found[0], found[-1]] == ends


BAD = {
    "empty": ([""], UserError, "text '' has 0 tokens; this run takes 1 to 5"),
    "too long": (["ma", "babababa"], UserError, "text 'babababa' has 8 tokens; this run takes 1 to 5"),
    "unknown": (["x"], DataError, "text 'x' has the character 'x'"),
}


@pytest.mark.parametrize(("texts", "kind", "message"), BAD.values(), ids=BAD)
def test_texts_that_do_not_fit_are_refused(programs, texts, kind, message):
    model, guide, tokenizer = programs
    with pytest.raises(kind, match=message):
        reconstruct_texts(model, guide, tokenizer, texts, max_steps=6, seed=0)


def test_a_model_without_latents_generates_and_does_no_more(programs):
    _, _, tokenizer = programs
    model = LanguageModel(Vocabulary(tokenizer.size))
    assert len(sample_texts(model, tokenizer, 5, steps=4, seed=0).texts) == 5
    arguments = model, ExactGuide(model), tokenizer
    with pytest.raises(UserError, match=r"this model \(language_model\) has no latent to reconstruct from"):
        reconstruct_texts(*arguments, ["ma"], max_steps=6, seed=0)
    with pytest.raises(UserError, match=r"this model \(language_model\) has no latent to interpolate between"):
        interpolate_texts(*arguments, "ma", "ro", points=3, max_steps=6, seed=0)


def test_an_interpolation_needs_two_points(programs):
    with pytest.raises(UserError, match="at least 2 points; got 1"):
        interpolate_texts(*programs, "ma", "ro", points=1, max_steps=6, seed=0)


def test_seeded_gives_the_random_state_back_after_a_fault():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="negative"), seeded(3):
        torch.rand(5, out=torch.rand(2).new_empty(-1))
    assert torch.equal(torch.get_rng_state(), before)


class Recorder:
    """The state-space model's corpus with a model that is fed back tokens and notes what its latents are asked for."""

    family, latents = "recorder", (LatentSpec("z", axes=("T", "D"), sizes={"D": 1}),)

    def __init__(self, tokenizer):
        self.vocabulary, self.asked = tokenizer.vocabulary, []

    def parameters(self):
        return iter([torch.zeros(1)])

    def draw(self, n, steps, source=None):
        self.asked.append(("draw", n, steps))
        return {"z": torch.zeros(n, steps, 1)}

    def decoder(self, latents, source=None):
        ids = self.vocabulary.outcomes
        logits = torch.linspace(3.0, 0.0, ids)  # EOS is likeliest
        return SimpleNamespace(begin=lambda rows: (latents["z"],), step=lambda s, t: (logits.expand(len(t), -1), s))


class Measuring(Recorder):
    """The same with lengths of its own."""

    def draw_given(self, lengths, source=None):
        self.asked.append(("draw_given", lengths.tolist()))
        return {"z": torch.zeros(len(lengths), int(lengths.max()), 1)}


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Beam(3)], ids=str)
@pytest.mark.parametrize("kind", [Recorder, Measuring])
def test_a_stated_length_is_that_of_every_text_and_of_its_latents(kind, strategy):
    model = kind(TOKENIZER)
    found = sample_texts(model, TOKENIZER, 3, steps=4, seed=0, strategy=strategy, length=6)
    assert [len(text) for text in found.texts] == [6, 6, 6]
    assert found.unfinished == 0
    assert model.asked == [("draw", 3, 7) if kind is Recorder else ("draw_given", [7, 7, 7])]


def test_a_model_whose_latents_end_the_text_is_held_to_no_length(programs):
    model, _, tokenizer = programs
    with pytest.raises(UserError, match=r"\(deep_state_space\) feeds no token back: a text ends where its latents say"):
        sample_texts(model, tokenizer, 3, steps=6, seed=0, length=4)


SPELLED = {"max_steps": MAX_STEPS, "seed": 0}
STRATEGIES = [Greedy(), Sample(temperature=0.1), Sample(top_k=1), Sample(top_p=0.5), Beam(3)]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_latent_for_the_whole_text_is_spelled_out_by_any_strategy(strategy, monkeypatch):
    monkeypatch.setattr(generation, "CHUNK", 7)
    model, texts = Spelling(), ["abcd", "h", "cafe", "gag", "bed", "dad", "ace", "fed", "ba"]
    assert reconstruct_texts(model, Reader(), TOKENIZER, texts, strategy=strategy, **SPELLED) == texts
    assert max(model.rows_at_once) <= 7


def test_latents_come_from_the_prior_one_for_each_text():
    """The most probable text of z ~ N(6, 2²) in each dimension, drawn with the same seed."""
    model = Spelling(sharpness=1000.0)
    with seeded(5):
        z = model.draw(30, 6)["z"]
    ids = z.round().clamp(2, TOKENIZER.size - 1).long().tolist()
    expected = [TOKENIZER.decode(row) for row in ids]
    for strategy in (Greedy(), Beam(2)):
        found = sample_texts(model, TOKENIZER, 30, steps=6, seed=5, strategy=strategy)
        assert found.texts == expected
    assert len(set(expected)) > 20
    cut = sample_texts(model, TOKENIZER, 30, steps=4, seed=5, strategy=Greedy())
    assert cut.unfinished == sum(len(text) == 4 for text in expected) > 0


def test_tokens_are_drawn_at_the_temperature_asked_for():
    """Of w ~ exp(-(w - z)² / 2τ) few are the nearest to z when τ is large."""
    texts = ["cccc"] * 500
    spread = []
    for temperature in (0.01, 1.0, 50.0):
        strategy = Sample(temperature=temperature)
        rows = reconstruct_texts(Spelling(0.5), Reader(), TOKENIZER, texts, strategy=strategy, **SPELLED)
        spread.append(sum(row[:1] != "c" for row in rows) / 500)
    assert spread[0] == 0
    assert 0.4 < spread[1] < 0.8 < spread[2]


def test_without_latents_there_is_one_most_probable_text():
    model = constant(Spelling())
    for strategy in (Greedy(), Beam(3)):
        assert sample_texts(model, TOKENIZER, 5, steps=6, seed=0, strategy=strategy).texts == ["abc"]
    assert sample_texts(model, TOKENIZER, 5, steps=6, seed=0, strategy=Sample(top_k=1)).texts == ["abc"] * 5


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_language_model_takes_every_strategy(programs, cell):
    """Its own text, scored by its own likelihood, is the best that a wide beam can find among all of two letters."""
    _, _, tokenizer = programs
    torch.manual_seed(0)
    model = LanguageModel(Vocabulary(tokenizer.size), cell=cell)
    bodies = [[], *([i] for i in range(3, tokenizer.size)), *([i, j] for i in range(3, 9) for j in range(3, 9))]
    bodies = [tokenizer.decode(body) for body in bodies]
    batch = generation.encode_batch(tokenizer, bodies)
    with torch.no_grad():
        scores = model.likelihood(batch).log_prob(batch.tokens)
    (best,) = sample_texts(model, tokenizer, 1, steps=3, seed=0, strategy=Beam(400)).texts
    found = generation.encode_batch(tokenizer, [best])
    with torch.no_grad():
        assert model.likelihood(found).log_prob(found.tokens) >= scores.max() - 1e-5
    assert len(sample_texts(model, tokenizer, 9, steps=4, seed=0, strategy=Sample(top_k=3)).texts) == 9


def test_a_model_without_token_feedback_says_which_strategies_it_knows(programs):
    model, guide, tokenizer = programs
    plain = sample_texts(model, tokenizer, 5, steps=6, seed=1)
    assert sample_texts(model, tokenizer, 5, steps=6, seed=1, strategy=Sample()) == plain
    knows = r"this model \(deep_state_space\) feeds no token back.*sample, without options.*greedy"
    for strategy in (Greedy(), Beam(), Sample(top_k=3)):
        with pytest.raises(UserError, match=knows):
            sample_texts(model, tokenizer, 5, steps=6, seed=1, strategy=strategy)
    for strategy in (Sample(), Beam()):
        with pytest.raises(UserError, match=knows):
            reconstruct_texts(model, guide, tokenizer, ["ma"], max_steps=6, seed=0, strategy=strategy)
        with pytest.raises(UserError, match=knows):
            interpolate_texts(model, guide, tokenizer, "ma", "ro", points=3, max_steps=6, seed=0, strategy=strategy)


def test_a_straight_path_leads_through_the_texts_between():
    arguments = Spelling(), Reader(), TOKENIZER
    found = interpolate_texts(*arguments, "aaga", "ccch", points=3, path="linear", **SPELLED)
    assert [found[0], found[1][:3], found[2]] == ["aaga", "bbe", "ccch"]
    for path in ("linear", "spherical"):
        ends = interpolate_texts(*arguments, "fab", "deaf", points=2, path=path, **SPELLED)
        assert ends == reconstruct_texts(*arguments, ["fab", "deaf"], **SPELLED) == ["fab", "deaf"]


class Halves(Spelling):
    """The text in two latents: its first two letters, and what follows."""

    def __init__(self):
        super().__init__()
        self.latents = tuple(LatentSpec(name, axes=("D",), sizes={"D": 2}) for name in ("left", "right"))

    def decoder(self, latents, source=None):
        return super().decoder({"z": torch.cat([latents["left"], latents["right"]], -1)})


class HalvesReader(Reader):
    def forward(self, batch):
        with pyro.plate("sentences", batch.size, dim=-1):
            for name, loc in zip(("left", "right"), means(batch).split(2, -1), strict=True):
                pyro.sample(name, Normal(loc, 0.01).to_event(1))


@pytest.mark.parametrize(
    ("sites", "between", "last"),
    [
        (None, "bbe", "ccch"),
        (["left", "right"], "bbe", "ccch"),
        (["left"], "bbga", "ccga"),
        (["right"], "aae", "aach"),
    ],
)
@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_the_latents_that_are_named_move_and_the_others_stay_at_the_first_text(sites, between, last, path):
    arguments = Halves(), HalvesReader(), TOKENIZER
    found = interpolate_texts(*arguments, "aaga", "ccch", points=3, path=path, sites=sites, **SPELLED)
    assert (found[0], found[2]) == ("aaga", last)
    if path == "linear":
        assert found[1][: len(between)] == between


def test_sites_that_are_unknown_or_do_not_apply_are_refused(programs):
    arguments = Halves(), HalvesReader(), TOKENIZER, "a", "b"
    with pytest.raises(
        UnknownNameError, match=r"unknown latent of this model \(spelling\) 'lfet' \(did you mean 'left'"
    ):
        interpolate_texts(*arguments, points=3, sites=["right", "lfet"], **SPELLED)
    with pytest.raises(UserError, match=r"no latent is named that would move; this model \(spelling\) has left, right"):
        interpolate_texts(*arguments, points=3, sites=[], **SPELLED)
    own = Halves()
    own.between = lambda first, second, points, lengths: {}
    with pytest.raises(UserError, match=r"a way of its own .* all its latents move; leave out the choice of left"):
        interpolate_texts(own, *arguments[1:], points=3, sites=["left"], **SPELLED)
    model, guide, tokenizer = programs
    whole = [
        interpolate_texts(model, guide, tokenizer, "ma", "ro", points=3, max_steps=6, seed=0, sites=s)
        for s in (None, ["h"])
    ]
    assert whole[0] == whole[1]


def test_the_texts_of_an_interpolation_follow_the_strategy():
    arguments = Spelling(0.5), Reader(), TOKENIZER, "cccc", "cccd"
    for strategy, most in ((Greedy(), 2), (Sample(temperature=0.01), 2), (Sample(temperature=50.0), 20)):
        found = interpolate_texts(*arguments, points=20, strategy=strategy, **SPELLED)
        assert 1 < len(set(found)) <= most
    assert len(set(found)) > 10


def test_paths_that_are_unknown_or_do_not_apply_are_refused(programs):
    with pytest.raises(UnknownNameError, match=r"unknown path 'linaer' \(did you mean 'linear'\?\)"):
        interpolate_texts(Spelling(), Reader(), TOKENIZER, "a", "b", points=3, path="linaer", **SPELLED)
    with pytest.raises(UserError, match=r"\(deep_state_space\) has a way of its own.*leave out the path 'linear'"):
        interpolate_texts(*programs, "ma", "ro", points=3, max_steps=6, seed=0, path="linear")


def test_the_spherical_path_turns_evenly_and_its_length_changes_evenly():
    torch.manual_seed(0)
    first, second = torch.randn(16), 1.7 * torch.randn(16)
    path = points_between(first, second, 9, "spherical")
    assert torch.equal(path[0], first)
    assert torch.equal(path[-1], second)
    turns = torch.nn.functional.cosine_similarity(path[1:], path[:-1], dim=-1).acos()
    whole = torch.nn.functional.cosine_similarity(first, second, dim=0).acos()
    assert turns.tolist() == pytest.approx([float(whole) / 8] * 8, abs=1e-3)
    lengths = torch.linspace(float(first.norm()), float(second.norm()), 9)
    assert path.norm(dim=-1).tolist() == pytest.approx(lengths.tolist(), rel=1e-5)


def test_draws_at_a_right_angle_are_mixed_by_cosine_and_sine():
    path = points_between(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), 5, "spherical")
    angle = torch.linspace(0, torch.pi / 2, 5)
    assert torch.allclose(path, 2 * torch.stack([angle.cos(), angle.sin()], -1), atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0, 2.0], [2.0, 4.0]), ([1.0, 2.0], [-1.0, -2.0]), ([1.0, 1.0], [1.0, 1.0]), ([3.0], [-1.0])],
)
def test_on_one_line_there_is_no_arc(first, second):
    first, second = torch.tensor(first), torch.tensor(second)
    straight = points_between(first, second, 6, "linear")
    assert torch.allclose(points_between(first, second, 6, "spherical"), straight, atol=1e-5)
    assert torch.allclose(straight[2], 0.6 * first + 0.4 * second)


def test_a_latent_of_nothing_is_left_without_a_fault():
    path = points_between(torch.zeros(3), torch.tensor([0.0, 3.0, 4.0]), 3, "spherical")
    assert path.isfinite().all()
    assert path[0].tolist() == [0.0] * 3
    assert path[2].tolist() == [0.0, 3.0, 4.0]


UNICODE = [
    "größe",
    "e\u0301",
    "日本 語",
    "🙂👩‍👩‍👧",
    "\u202eabc",
    "\ufeffa",
    "ﬁ\u00a0x",
    "\U0010ffff",
    "</s> <pad>",
]
OPEN = {
    "words": word_tokenizer(["a b c"]),
    "characters": open_character_tokenizer(["abc"]),
    "bytes": bpe_tokenizer(["abc"], vocabulary=260),
}


@pytest.mark.parametrize("tokenizer", OPEN.values(), ids=OPEN)
def test_unicode_of_any_form_is_taken_and_half_characters_are_refused(tokenizer):
    check_texts(tokenizer, UNICODE, 100)
    assert generation.encode_batch(tokenizer, UNICODE).size == len(UNICODE)
    for text, place in (("a \ud800", 3), ("\udcff", 1)):
        with pytest.raises(UserError, match=rf"text .* has '\\ud.*' at place {place}, half a character"):
            check_texts(tokenizer, ["a", text], 100)
    with pytest.raises(UserError, match="has a NUL character; remove it"):
        check_texts(tokenizer, ["a\u0000b"], 100)


@pytest.mark.parametrize("strategy", [generation.ANCESTRAL, generation.GREEDY])
def test_emitted_logits_that_are_no_numbers_end_in_a_message(strategy):
    latents = {"h": torch.zeros(2, 3, 1)}
    sound = Classes([[0.5, 0.25, 0.25]])
    assert generation.write(sound, sound, latents, 2, strategy, 3).shape == (2, 3)
    broken = Classes([[0.5, torch.nan, 0.5]])
    with pytest.raises(DivergedError, match="logits of tokens are NaN or infinite in 6 of 6 rows"):
        generation.write(broken, broken, latents, 2, strategy, 3)
