"""Texts written from draws of q given a source: by every strategy, at posterior means, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from test_own_family import RECIPE, sentences, write_pairs

import ppl_text as pt
from ppl_text.core.errors import UserError
from ppl_text.evaluation.decoding import Beam
from ppl_text.evaluation.generation import encode_batch, repeated, sample_texts, seeded
from ppl_text.evaluation.likelihood import measuring

pytestmark = pytest.mark.usefixtures("one_thread")

FILE = Path(__file__).parent / "families" / "translation.py"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory):
    data = {"corpus": str(pairs), "unit": "sentences", "column": "target", "source": "source", "batch_size": 8}
    family = {"model": {**RECIPE["model"], "family": f"{FILE}:FromSource"}, "guide": {"name": f"{FILE}:Encoding"}}
    path = tmp_path_factory.mktemp("recipe") / "from-source.yaml"
    path.write_text(json.dumps({**RECIPE, **family, "data": data}), encoding="utf-8")
    return pt.fit(str(path), out=tmp_path_factory.mktemp("from-source") / "run")


SOURCE = "le petit roi voit"


def test_draws_differ_and_posterior_means_are_one_text(ppl, run):
    assert len(set(run.generate(40, source=SOURCE, strategy="greedy"))) > 1
    ended = ppl("generate", run.folder, "--source", SOURCE, "--latents", "mean", "--strategy", "greedy", "--trust")
    assert (ended.status, ended.out.splitlines()) == (0, run.generate(1, 5, "greedy", SOURCE, latents="mean"))
    assert ended.err.endswith("greedy leaves nothing to chance: there is one text for each source\n")
    sampled = run.generate(30, source=SOURCE, latents="mean")
    assert len(set(sampled)) > 1, "tokens are drawn all the same"


def test_greedy_tokens_at_means_are_those_of_the_model_given_the_means(run):
    """Written by hand: the likeliest token of p(w_t | w_{<t}, z, a_t, x) at the means of q, until EOS."""
    model, guide, tokenizer = run.model, run.guide, run.form.tokenizer
    source = encode_batch(run.form.source_tokenizer, [SOURCE])
    ids, words = model.vocabulary.ids, []
    with measuring(0, model, guide):
        read = model.read(source)
        z, word = guide.of_source(read), torch.tensor([[ids.bos]])
        while len(words) < 2 * run.form.max_steps:
            a = guide.of_step(torch.cat([model.embedding(word), z.unsqueeze(1)], -1))
            word = model.head(model.states(word, z, a, read)).argmax(-1) + ids.first_outcome
            words.append(int(word))
    assert run.generate(1, source=SOURCE, strategy="greedy", latents="mean") == [tokenizer.decode(words)]


def test_a_beam_finds_the_likeliest_text_at_the_means(run):
    """Among all of two words or less, scored one by one; the beam is as wide as there are texts."""
    model, guide, tokenizer = run.model, run.guide, run.form.tokenizer
    ids, source = model.vocabulary.ids, encode_batch(run.form.source_tokenizer, [SOURCE])
    words = tokenizer.symbols[3:]
    bodies = [*words, *(f"{one} {other}" for one in words for other in words)]
    batch = encode_batch(tokenizer, bodies)
    with measuring(0, model, guide):
        read = model.read(source).expand(batch.size, -1)
        z = guide.of_source(read)
        states = model.states(batch.decoder_inputs, z, guide.step_means(batch.decoder_inputs, z), read)
        log_p = model.head(states).log_softmax(-1)
        chosen = (batch.tokens - ids.first_outcome).clamp(min=0).unsqueeze(-1)
        scores = torch.where(batch.scored, log_p.gather(-1, chosen).squeeze(-1), 0.0).sum(-1)
        none = log_p[0, 0, ids.eos - ids.first_outcome]
    options = {"steps": 3, "seed": 0, "guide": guide, "source": source, "latents": "mean"}
    (best,) = sample_texts(model, tokenizer, 1, strategy=Beam(150), **options).texts
    score = scores[bodies.index(best)] if best else none
    assert score >= torch.cat([scores, none.view(1)]).max() - 1e-5


def test_a_beam_draws_latents_once_a_step_for_each_of_its_texts(run):
    """By the decoder alone: rows are repeated and reordered with their state, whatever is drawn in a step."""
    found = run.generate(3, 1, Beam(4), [SOURCE, "le chien chante"])
    assert len(found) == 6
    assert found == run.generate(3, 1, Beam(4), [SOURCE, "le chien chante"])


def test_several_sources_have_texts_of_their_own(ppl, run, tmp_path):
    sources = [SOURCE, "le chien chante", "le roi entend"]
    (tmp_path / "sources.txt").write_text("\n".join(sources) + "\n", encoding="utf-8")
    at_means = ["--latents", "mean", "--strategy", "greedy", "-n", "1", "--trust"]
    together = ppl("generate", run.folder, "--source", tmp_path / "sources.txt", *at_means)
    apart = [ppl("generate", run.folder, "--source", source, *at_means).out for source in sources]
    assert (together.status, together.err) == (0, "")
    assert together.out == "".join(apart)
    (beside,) = run.neighbours("the king sees", 1, source="le roi voit")
    assert beside.text in sentences()


def test_the_latents_of_means_are_the_mean_of_the_latents_drawn(run):
    source = encode_batch(run.form.source_tokenizer, [SOURCE])
    with seeded(0), torch.no_grad():
        drawn = run.guide.draw(4000, 3, repeated(source, 4000))["z"]
        error = drawn.std(0) / 4000**0.5
        assert bool(((drawn.mean(0) - run.guide.at_means().draw(1, 3, source)["z"][0]).abs() < 5 * error).all())


def test_an_evaluation_says_which_way_the_source_goes_and_how_near_texts_come(ppl, run, pairs, tmp_path):
    of_test = ppl("evaluate", run.folder, "--particles", "4", "--json", "--trust")
    found = json.loads(of_test.out)
    assert {"bleu4_map", "sacrebleu_sampling", "dist2_paper", "ppl_posterior", "lost_whole", "ways"} <= found.keys()
    (tmp_path / "other.jsonl").write_bytes((pairs / "test.jsonl").read_bytes())
    of_data = ppl("evaluate", run.folder, "--data", tmp_path / "other.jsonl", "--particles", "4", "--json", "--trust")
    other = json.loads(of_data.out)
    assert {name for name in found if found[name] != other[name]} <= {"data", "split", "ppl_posterior_se"}
    plain = ppl("evaluate", run.folder, "--data", tmp_path / "other.jsonl", "--particles", "4", "--trust")
    assert plain.status == 0, plain.err
    for said in ("verdict: ", "PPL(y given x)", "BLEU-4", "Dist-2"):
        assert said in plain.out


PAIR_FILES = {
    "no source column": ("jsonl", '{"target": "the king sees"}\n', "no column 'source'; its columns are target"),
    "no text column": ("jsonl", '{"source": "le roi", "text": "the king"}\n', "no column 'target'"),
    "a text alone": ("txt", "the king sees\n", "expected pairs"),
    "no file": ("jsonl", None, "does not exist"),
}


@pytest.mark.parametrize(("ending", "content", "said"), PAIR_FILES.values(), ids=PAIR_FILES)
def test_other_pairs_that_cannot_be_read_are_refused_in_one_message(ppl, run, tmp_path, ending, content, said):
    path = tmp_path / f"other.{ending}"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    ended = ppl("evaluate", run.folder, "--data", path, "--trust")
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


MISTAKES = {
    "no source": ([], "this model (translation) writes a text given a source"),
    "no source of means": (["--latents", "mean"], "this model (translation) writes a text given a source"),
    "an empty source": (["--source", ""], "source '' has 0 tokens; this run takes 1 to 7"),
    "a blank source": (["--source", "  "], "source '' has 0 tokens; this run takes 1 to 7"),
    "too long a source": (["--source", "le roi " * 5], "has 10 tokens; this run takes 1 to 7"),
    "unknown latents": (
        ["--source", SOURCE, "--latents", "maen"],
        "unknown kind of latents 'maen' (did you mean 'mean'?)",
    ),
    "means of a reconstruction": (
        ["--source", SOURCE, "--reconstruct", "the king sees", "--latents", "mean"],
        "--latents belongs to texts from the prior; leave it out with --reconstruct",
    ),
    "sources of a reconstruction": (["--reconstruct", "the king sees"], "this model (translation) writes a text given"),
    "neighbours without a source": (["--neighbours", "the king sees"], "this model (translation) writes a text given"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_does_not_go_together_ends_in_one_message(ppl, run, tmp_path, arguments, message):
    ended = ppl("generate", run.folder, *arguments, "--trust")
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_several_sources_where_one_is_wanted(ppl, run, tmp_path):
    (tmp_path / "two.txt").write_text("le roi voit\nle chien voit\n", encoding="utf-8")
    for mode in (["--neighbours", "the king sees"], ["--interpolate", "the king sees", "the dog sees"]):
        ended = ppl("generate", run.folder, *mode, "--source", tmp_path / "two.txt", "--trust")
        assert (ended.status, ended.out) == (2, "")
        assert ended.err == f"error: {mode[0]} takes one source; --source has 2\n"


def test_posterior_means_belong_to_stories_that_decode_from_their_guide(ppl, run, trained):
    ended = ppl("generate", trained.folder, "--latents", "mean")
    assert (ended.status, ended.out) == (2, "")
    assert "this model (deep_state_space) draws its latents from the prior; leave them out" in ended.err
    source = encode_batch(run.form.source_tokenizer, [SOURCE])
    options = {"steps": 4, "seed": 0, "source": source, "latents": "mean"}
    for guide, why in (
        (object(), r"guide \(object\) writes no text: it has no draw and no dec"),
        (Writing(), "none"),
    ):
        with pytest.raises(UserError, match=why):
            sample_texts(run.model, run.form.tokenizer, 1, guide=guide, **options)


class Writing:
    """A guide that writes, and knows no means."""

    def draw(self, n, steps, source):
        raise AssertionError("nothing is written")

    decoder = draw
