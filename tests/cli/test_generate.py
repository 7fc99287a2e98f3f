"""``generate`` on a sentence VAE: strategies, paths and neighbours, and what does not go together."""

import itertools
import math
import random

import pytest
import torch

import ppl_text as pt
from ppl_text.evaluation.decoding import Beam, Greedy, Sample
from ppl_text.evaluation.generation import encode_batch

CONFIG = """
threads: 1
model: {{family: sentence_vae, latent_dim: {latent_dim}, embedding_dim: 8, hidden_dim: 16, init: torch}}
guide: {{name: {guide}}}
objective: elbo
data: {{corpus: {folder}, unit: sentences, batch_size: 16, buckets: 2, validation_sentences: 10}}
training: {{steps: 30, lr: 0.02, log_every: 10, validate_every: 30, checkpoint_every: 30}}
report: {{sentences: 10, particles: 2, samples: 4}}
"""
WORDS = (("the dog", "the cat", "an old king"), ("sees", "hears", "fears"), ("the sea", "bread", "no one else"))
SENTENCES = [" ".join(parts) for parts in itertools.product(*WORDS)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, one_thread):
    """``fitted(guide, latent_dim)``: a finished run of 30 steps; read it, do not write to its folder."""
    folder = tmp_path_factory.mktemp("sentences")
    lines = random.Random(0).sample(SENTENCES, len(SENTENCES))
    for name, part in (("train", lines + lines[:4]), ("valid", lines[:10]), ("test", lines[10:20])):
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    runs = {}

    def run(guide="gaussian", latent_dim=3):
        if guide not in runs:
            config = folder / f"{guide}.yaml"
            config.write_text(CONFIG.format(guide=guide, latent_dim=latent_dim, folder=folder), encoding="utf-8")
            runs[guide] = pt.fit(str(config), out=folder / guide)
        return runs[guide]

    return run


@pytest.fixture
def run(fitted):
    return fitted()


STRATEGIES = {
    "sample": (["--strategy", "sample"], Sample()),
    "cool": (["--temperature", "0.5"], Sample(temperature=0.5)),
    "filtered": (
        ["--strategy", "sample", "--temperature", "0.8", "--top-k", "5", "--top-p", "0.9"],
        Sample(temperature=0.8, top_k=5, top_p=0.9),
    ),
    "greedy": (["--strategy", "greedy"], Greedy()),
    "beam": (["--strategy", "beam"], Beam()),
    "wide beam": (["--strategy", "beam", "--beam", "3", "--length-penalty", "1"], Beam(3, 1.0)),
    "beam that repeats less": (
        ["--strategy", "beam", "--beam", "4", "--repetition-penalty", "1.5", "--min-length", "5"],
        Beam(4, repetition_penalty=1.5, min_length=5),
    ),
}


@pytest.mark.parametrize(("arguments", "strategy"), STRATEGIES.values(), ids=STRATEGIES)
def test_texts_from_the_prior_by_every_strategy(ppl, run, arguments, strategy):
    ended = ppl("generate", run.folder, "-n", "6", "--seed", "2", *arguments)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines() == run.generate(6, 2, strategy)
    assert len(ended.out.splitlines()) == 6


@pytest.mark.parametrize("arguments", [[], ["--strategy", "greedy"], ["--strategy", "beam", "--beam", "3"]], ids=str)
def test_texts_of_a_stated_length(ppl, run, arguments):
    ended = ppl("generate", run.folder, "-n", "4", "--length", "9", *arguments)
    assert (ended.status, ended.err) == (0, "")
    assert [len(line.split()) for line in ended.out.splitlines()] == [9] * 4


def test_strategies_give_different_texts_and_plain_sampling_is_the_default(run):
    found = {name: tuple(run.generate(40, 0, strategy)) for name, (_, strategy) in STRATEGIES.items()}
    assert found["sample"] == tuple(run.generate(40))
    assert len(set(found.values())) == len(found)
    assert tuple(run.generate(40, strategy="beam")) == found["beam"]


def score(run, z, texts):
    """ln p(text | z) of each text."""
    batch = encode_batch(run.corpus.tokenizer, texts)
    with torch.no_grad():
        return run.model.likelihood(z.expand(len(texts), -1), batch).log_prob(batch.tokens)


def test_a_beam_beats_greedy_by_the_models_own_likelihood(run):
    """The same z for both: of a reconstruction, drawn with the same seed."""
    torch.manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        z = run.guide(encode_batch(run.corpus.tokenizer, SENTENCES[:8]))
    greedy, beam = (run.reconstruct(SENTENCES[:8], 7, strategy) for strategy in (Greedy(), Beam(10)))
    scores = [torch.cat([score(run, z[i], [text]) for i, text in enumerate(texts)]) for texts in (greedy, beam)]
    assert bool((scores[1] >= scores[0] - 1e-5).all())
    assert float(scores[1].sum()) > float(scores[0].sum()) + 0.1


def test_reconstructions_are_greedy_unless_another_strategy_is_asked_for(ppl, run):
    text = SENTENCES[0]
    for arguments, strategy in (([], Greedy()), *STRATEGIES.values()):
        if arguments[:1] == ["--temperature"]:
            arguments = ["--strategy", "sample", *arguments]
        ended = ppl("generate", run.folder, "--reconstruct", text, *arguments)
        assert (ended.status, ended.out) == (0, f"{text}\t{run.reconstruct([text], 0, strategy)[0]}\n")
    assert run.reconstruct([text]) == run.reconstruct([text], 0, "greedy")


def test_interpolation_by_both_paths(ppl, run):
    ends = ["the dog sees bread", "an old king hears no one else"]
    ways = [["--path", "linear"], ["--path", "spherical"], []]
    found = [ppl("generate", run.folder, "--interpolate", *ends, "-n", "9", *way).out.splitlines() for way in ways]
    assert found[0] == run.interpolate(*ends, points=9, path="linear")
    assert found[1] == found[2] == run.interpolate(*ends, points=9)
    assert found[0][0] == found[1][0] == run.reconstruct(ends)[0]
    beam = ppl("generate", run.folder, "--interpolate", *ends, "--strategy", "beam", "--beam", "2").out.splitlines()
    assert beam == run.interpolate(*ends, strategy=Beam(2))
    asked = ["--interpolate", *ends, "-n", "9", "--site"]
    assert ppl("generate", run.folder, *asked, "z").out.splitlines() == found[1]
    assert ppl("generate", run.folder, *asked, "each").out.splitlines() == [f"z\t{text}" for text in found[1]]


def posterior_mean(run, text):
    with torch.no_grad():
        return run.guide.posterior(encode_batch(run.corpus.tokenizer, [text])).mean[0].tolist()


@pytest.mark.parametrize("guide", ["gaussian", "batch-norm"])
def test_neighbours_are_the_nearest_training_texts(ppl, fitted, guide):
    run = fitted(guide)
    text = "the cat hears bread"
    by_hand = sorted((math.dist(posterior_mean(run, text), posterior_mean(run, other)), other) for other in SENTENCES)
    found = run.neighbours(text, 4)
    assert found[0].text == text
    assert [distance for _, distance in found] == pytest.approx([d for d, _ in by_hand[:4]], abs=1e-5)
    ended = ppl("generate", run.folder, "--neighbours", text)
    lines = [line.split("\t") for line in ended.out.splitlines()]
    assert ended.status == 0
    assert lines == [[f"{distance:.4f}", other] for other, distance in run.neighbours(text)]
    assert len(lines) == 5
    assert len(ppl("generate", run.folder, "--neighbours", text, "-n", "2").out.splitlines()) == 2


def test_neighbours_under_a_flow(fitted):
    """Means of draws: the nearest distance is noise, the order no longer sure."""
    run = fitted("iaf")
    found = run.neighbours(SENTENCES[3], 27)
    assert sorted(text for text, _ in found) == sorted(SENTENCES)
    assert [d for _, d in found] == sorted(d for _, d in found)
    assert found == run.neighbours(SENTENCES[3], 27)


def test_without_latents_a_deterministic_strategy_prints_its_one_text_once(ppl, fitted):
    run = fitted("exact", 0)
    assert len(ppl("generate", run.folder, "-n", "5").out.splitlines()) == 5
    for name in ("greedy", "beam"):
        ended = ppl("generate", run.folder, "-n", "5", "--strategy", name)
        assert (ended.status, ended.out.splitlines()) == (0, run.generate(strategy=name))
        assert len(run.generate(strategy=name)) == 1
        assert ended.err == f"nothing is latent and {name} leaves nothing to chance: there is one text only\n"
    refused = ppl("generate", run.folder, "--neighbours", SENTENCES[0])
    assert (refused.status, refused.out) == (2, "")
    assert "this model (sentence_vae) has no latent to compare texts by" in refused.err
    refused = ppl("generate", run.folder, "--interpolate", *SENTENCES[:2], "--site", "each")
    assert (refused.status, refused.out) == (2, "")
    assert "this model (sentence_vae) has no latent to interpolate between" in refused.err


TEXT = "the dog sees bread"
MISTAKES = {
    "beam with sample": (
        ["--strategy", "sample", "--beam", "5"],
        "--beam belongs to --strategy beam; the strategy here is sample, which takes --repetition-penalty, "
        "--min-length, --temperature, --top-k, --top-p",
    ),
    "temperature with greedy": (
        ["--strategy", "greedy", "--temperature", "0.5"],
        "--temperature belongs to --strategy sample; the strategy here is greedy, which takes "
        "--repetition-penalty, --min-length",
    ),
    "beam by itself": (["--beam", "5"], "--beam belongs to --strategy beam; the strategy here is sample"),
    "top-p of a reconstruction": (
        ["--reconstruct", TEXT, "--top-p", "0.5"],
        "--top-p belongs to --strategy sample; the strategy here is greedy",
    ),
    "unknown strategy": (["--strategy", "bean"], "unknown strategy 'bean' (did you mean 'beam'?)"),
    "temperature 0": (["--temperature", "0"], "temperature must be a finite number of 1e-06 or more; got 0.0"),
    "top-p 2": (["--top-p", "2"], "must be in (0, 1]; got 2.0"),
    "beam 0": (["--strategy", "beam", "--beam", "0"], "the width of a beam must be 1 or more; got 0"),
    "repetition penalty 0.5": (["--repetition-penalty", "0.5"], "repetition_penalty must be a number from 1 (none)"),
    "min-length -1": (["--min-length", "-1"], "min_length, the fewest tokens of a text, must be 0 or more; got -1"),
    "min-length beyond the length": (
        ["--length", "2", "--min-length", "3"],
        "texts of exactly 2 tokens cannot have 3 or more; leave out one of the length and the min_length",
    ),
    "length of a reconstruction": (
        ["--reconstruct", TEXT, "--length", "4"],
        "--length belongs to texts from the prior; leave it out with --reconstruct",
    ),
    "length 0": (["--length", "0"], "the length of texts, in tokens without EOS, must be 1 or more; got 0"),
    "path of nothing": (["--path", "linear"], "--path belongs to --interpolate A B"),
    "unknown path": (["--interpolate", TEXT, TEXT, "--path", "line"], "unknown path 'line' (did you mean 'linear'?)"),
    "site of nothing": (["--site", "z"], "--site belongs to --interpolate A B"),
    "unknown site": (["--interpolate", TEXT, TEXT, "--site", "y"], "unknown latent of this model (sentence_vae) 'y'"),
    "strategy of neighbours": (
        ["--neighbours", TEXT, "--strategy", "beam", "--beam", "3"],
        "--strategy and --beam: --neighbours decodes nothing; leave them out",
    ),
    "neighbours and reconstruct": (
        ["--neighbours", TEXT, "--reconstruct", TEXT],
        "--reconstruct and --neighbours exclude each other; give one of them",
    ),
    "a number of reconstructions": (["--reconstruct", TEXT, "-n", "3"], "-n does not belong to --reconstruct"),
    "an empty text": (["--neighbours", ""], "text '' has 0 tokens; this run takes 1 to 7"),
    "too long a text": (["--neighbours", "bread " * 8], "has 8 tokens; this run takes 1 to 7"),
    "half a character": (["--neighbours", "bread \udcff"], "has '\\udcff' at place 7, half a character or a byte"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_does_not_go_together_ends_in_one_message(ppl, run, arguments, message):
    ended = ppl("generate", run.folder, *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "beam"], "feeds no token back"),
        (["--top-k", "3"], "feeds no token back"),
        (["--reconstruct", "ba", "--strategy", "sample"], "feeds no token back"),
        (["--interpolate", "ba", "ma", "--path", "linear"], "has a way of its own"),
        (["--neighbours", "ba"], "has a latent for each token"),
    ],
    ids=str,
)
def test_words_without_feedback_say_what_applies(ppl, trained, arguments, message):
    ended = ppl("generate", trained.folder, *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert "this model (deep_state_space)" in ended.err
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_words_take_by_name_what_they_do_by_default(ppl, trained):
    assert ppl("generate", trained.folder, "--strategy", "sample").out.splitlines() == trained.generate(20)
    greedy = ppl("generate", trained.folder, "--reconstruct", "bade", "--strategy", "greedy").out
    assert greedy == ppl("generate", trained.folder, "--reconstruct", "bade").out


def test_any_unicode_has_neighbours(ppl, run):
    for text in ("größe e\u0301", "日本 🙂", "\u202e \U0010ffff", "\ufeffthe dog"):
        assert len(ppl("generate", run.folder, "--neighbours", text, "-n", "3").out.splitlines()) == 3


def test_another_vocabulary_than_the_runs_is_refused(ppl, run, tmp_path):
    """The same files read with a cut-off give ids that mean other words."""
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("data.json", "tokenizer.json", "model.safetensors"):
        (copy / name).write_bytes((run.folder / name).read_bytes())
    text = (run.folder / "config.yaml").read_text(encoding="utf-8")
    (copy / "config.yaml").write_text(text.replace("  min_count: 2\n", "  min_count: 12\n"), encoding="utf-8")
    ended = ppl("generate", copy, "--neighbours", TEXT)
    assert (ended.status, ended.out) == (2, "")
    assert "is not what run" in ended.err
