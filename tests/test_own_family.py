"""Every command runs on a family that no room of the package knows: two latent sites, one for each step, and a source.

The family is in ``families/translation.py``; it is named by its file, as a user of the package would.
"""

import itertools
import json
from pathlib import Path

import pytest

import ppl_text as pt
from ppl_text.core.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

FILE = Path(__file__).parent / "families" / "translation.py"

WORDS = {
    "the": "le",
    "small": "petit",
    "king": "roi",
    "dog": "chien",
    "sees": "voit",
    "hears": "entend",
    "sings": "chante",
}

RECIPE = {
    "description": "Toy translation",
    "model": {"family": f"{FILE}:Translation", "latent_dim": 2, "width": 6},
    "guide": {"name": f"{FILE}:Reading"},
    "objective": "elbo",
    "training": {"steps": 20, "lr": 0.05, "log_every": 5, "validate_every": 10, "checkpoint_every": 10},
    "report": {"sentences": 12, "particles": 3, "samples": 8},
}


def sentences():
    """Subject, verb, and an object or none."""
    subjects = [f"the {kind}{who}" for kind in ("", "small ") for who in ("king", "dog")]
    objects = ["", *(f" {subject}" for subject in subjects)]
    return [f"{s} {v}{o}" for s, v, o in itertools.product(subjects, ("sees", "hears", "sings"), objects)]


def write_pairs(folder):
    """Write English targets and French sources, word for word, into a folder; return it."""
    texts = sentences()
    for name, own in {"train": texts[::2], "valid": texts[1::4], "test": texts[3::4]}.items():
        rows = [{"source": " ".join(WORDS[word] for word in text.split()), "target": text} for text in own]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def recipe(pairs, tmp_path_factory):
    data = {"corpus": str(pairs), "unit": "sentences", "column": "target", "source": "source", "batch_size": 8}
    path = tmp_path_factory.mktemp("recipe") / "translation.yaml"
    path.write_text(json.dumps({**RECIPE, "data": data}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return pt.fit(str(recipe), out=tmp_path_factory.mktemp("translation") / "run")


def test_fit_and_its_report(ppl, recipe, tmp_path):
    """Named on the command line, where the recipe has a family of the package's."""
    own = json.loads(recipe.read_text(encoding="utf-8"))
    plain = {**own, "model": {"family": "language_model"}, "guide": {"name": "exact"}}
    (tmp_path / "plain.yaml").write_text(json.dumps(plain), encoding="utf-8")
    named = ["--model", f"{FILE}:Translation", "--guide", f"{FILE}:Reading"]
    ended = ppl("fit", tmp_path / "plain.yaml", *named, "--set", "model.width=6", "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    assert f"generate {tmp_path / 'run'} --source TEXT" in ended.out
    report = (tmp_path / "run/report.md").read_text(encoding="utf-8")
    for text in (f"{FILE}:Translation", f"{FILE}:Reading", "ELBO", "I(x; site)", "Samples from the prior"):
        assert text in report, text
    assert "no model can pass" not in report  # who reads the source can
    results = json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8"))
    assert results["trained"]["step"] == 20
    record = json.loads((tmp_path / "run/code.json").read_text(encoding="utf-8"))
    assert record.keys() == {f"{FILE}:Translation", f"{FILE}:Reading"}


def test_explain_tells_the_story_and_the_presets(ppl, recipe):
    ended = ppl("explain", recipe)
    assert ended.status == 0, ended.err
    for text in ("z ~ N(0, I);  a_t ~ N(0, I)", "q(z, a | w, x)", "a small paper had small networks"):
        assert text in ended.out, text


def test_its_options_are_listed(ppl, recipe, run):
    for arguments in ((recipe,), (run.folder / "config.yaml", "--trust")):
        ended = ppl("list", "options", *arguments)
        assert ended.status == 0, ended.err
        rows = {line.split()[0]: " ".join(line.split()[1:]) for line in ended.out.splitlines() if line.startswith("  ")}
        assert rows["model.width"] == "integer 6 6 of embeddings and of the hidden layer."
        assert " null source " in rows["data.source"], "default, and value"


def test_a_preset_of_the_family_is_applied(ppl, recipe):
    ended = ppl("explain", recipe, "--set", "preset=paper")
    assert ended.status == 0, ended.err
    assert "width: 4" in ended.out


def test_evaluate(ppl, run):
    refused = ppl("evaluate", run.folder)
    assert refused.status == 2
    assert str(run.folder / "code/translation.py") in refused.err
    ended = ppl("evaluate", run.folder, "--particles", "4", "--objective", "iwae:3", "--trust")
    assert ended.status == 0, ended.err
    assert "bound of iwae:3" in ended.out
    plain = ppl("evaluate", run.folder, "--particles", "4", "--json", "--trust")
    assert json.loads(plain.out)["n_sent"] == len(sentences()[3::4])


def test_what_latents_carry_is_told_site_by_site(run):
    figures = run.latents("test")
    assert set(figures.sites) == {"z", "a"}
    assert all(site.kl > 0 for site in figures.sites.values())
    told = figures.as_dict()
    assert told["mutual_information"] <= told["sites"]["z"]["kl"] + 0.2
    assert "mutual_information" not in told["sites"]["a"]


def test_generate_from_a_source(ppl, run, tmp_path):
    ended = ppl("generate", run.folder, "-n", "3", "--source", "le roi voit", "--trust")
    assert ended.status == 0, ended.err
    assert len(ended.out.splitlines()) == 3
    assert set(ended.out.split()) <= {*WORDS, "<unk>"}
    (tmp_path / "sources.txt").write_text("le roi voit\nle chien chante\n", encoding="utf-8")
    several = ppl("generate", run.folder, "-n", "2", "--source", tmp_path / "sources.txt", "--trust")
    assert len(several.out.splitlines()) == 4
    beside = ["--reconstruct", "the king sees", "--source", "le roi voit", "--trust"]
    assert ppl("generate", run.folder, *beside).out.startswith("the king sees\t")
    between = ppl("generate", run.folder, "--interpolate", "the king sees", "the dog sees", *beside[2:], "-n", "3")
    assert len(between.out.splitlines()) == 3
    lacking = ppl("generate", run.folder, "--trust")
    assert lacking.status == 2
    assert "given a source" in lacking.err


def test_sources_are_read_though_the_pairs_are_gone(run, pairs):
    def answers(of):
        beside = {"sources": ["le roi voit"]}
        codes = of.encode(["the king sees"], **beside)
        return of.generate(2, source="le roi voit"), of.reconstruct(["the king sees"], **beside), codes["z"].tolist()

    before, elsewhere = answers(run), pairs.with_name("elsewhere")
    pairs.rename(elsewhere)
    try:
        away = pt.load(run.folder, trust=True)
        assert answers(away) == before
        with pytest.raises(UserError, match="has 10 tokens; this run takes 1 to 7"):
            away.generate(1, source="le roi " * 5)
    finally:
        elsewhere.rename(pairs)


def test_other_texts_of_a_conditional_model_come_in_pairs(ppl, run, pairs, tmp_path):
    own = run.evaluate("valid", particles=4)
    assert run.evaluate(particles=4, data=pairs / "valid.jsonl") == own
    (tmp_path / "alone.txt").write_text("the king sees\n", encoding="utf-8")
    ended = ppl("evaluate", run.folder, "--data", tmp_path / "alone.txt", "--trust")
    assert ended.status == 2
    assert "a text file has no column 'source'; expected pairs" in ended.err


def test_a_run_without_sources_takes_none(ppl, trained):
    ended = ppl("generate", trained.folder, "--source", "ba")
    assert ended.status == 2
    assert "have no sources; leave the source out" in ended.err


def test_swap(ppl, run, tmp_path):
    ended = ppl("swap", run.folder, "--guide", f"{FILE}:Blind", "--steps", "4", "--out", tmp_path / "child", "--trust")
    assert ended.status == 0, ended.err
    stored = json.loads((tmp_path / "child/results.json").read_text(encoding="utf-8"))["swap"]
    assert [stored[when]["guide"] for when in ("before", "after")] == [f"{FILE}:{n}" for n in ("Reading", "Blind")]
    assert stored["after"]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert "before: translation.py:Reading | after: translation.py:Blind" in (tmp_path / "child/report.md").read_text()


def test_compare_two_guides_and_some_objectives(ppl, run, tmp_path):
    guides, objectives = f"{FILE}:Reading,{FILE}:Blind", "elbo,elbo-analytic,iwae:3,stl"
    sizes = ["--draws", "6", "--sentences", "8", "--repeats", "2", "--steps", "4", "--out", tmp_path / "compared"]
    ended = ppl("compare", run.folder, "--guides", guides, "--objectives", objectives, *sizes, "--trust")
    assert ended.status == 0, ended.err
    rows = json.loads((tmp_path / "compared/comparison.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["guide"], row["objective"]) for row in rows} == set(
        itertools.product(("translation.py:Reading", "translation.py:Blind"), objectives.split(","))
    )


def test_a_session_offers_the_guides_of_the_run(ppl, run, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("list\nquit\n"))
    ended = ppl("swap", run.folder, "--trust")
    assert ended.status == 0, ended.err
    assert "translation.py:Reading" in ended.out
