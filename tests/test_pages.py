"""Pages of real runs, one of each kind of model: whole, alone, and the same as ``report.md``."""

import json
import math
import shutil

import pytest
from pages import Page, numbers, shown_in_markdown

import ppl_text as pt
from ppl_text.core.errors import RunFolderError
from ppl_text.evaluation.page import GENERATOR

SHORT = {
    "data.buckets": 4,
    "data.batch_size": 16,
    "training.steps": 3,
    "training.log_every": 1,
    "report.particles": 32,
    "report.sentences": 12,
    "report.samples": 4,
}
WIDTHS = {"model.embedding_dim": 6, "model.hidden_dim": 8}
ENCODER = {**WIDTHS, "model.encoder_dim": 3, "model.output_dim": 5}
TRANSFORMER = {"model.layers": 2, "model.width": 8, "model.heads": 2, "model.positions": 64, "data.vocabulary": 300}
SEQUENCE = {**WIDTHS, "model.latent_dim": 3, "model.prior_width": 4, "model.prior_layers": 2}
STAGES = [
    {"name": "quantiser", "steps": 2, "objective": "reconstruction"},
    {"name": "prior", "steps": 2, "train": ["model.prior"], "objective": "rate"},
]
EVIL = "<script>alert(1)</script>"

RECIPES = {
    "words": ("words", {}),
    "sentences": ("verses-vae", {**WIDTHS, "model.latent_dim": 3}),
    "no latent": ("verses-lm", WIDTHS),
    "a latent a step": ("verses-vae-attn", SEQUENCE),
    "codes": ("verses-davam", {**SEQUENCE, "model.codes": 8, "training.steps": 4, "training.stages": STAGES}),
    "switching": ("verses-codes-contextual", {**WIDTHS, "model.codes": 3, "model.output_dim": 5}),
    "pairs": ("squad-vattn-h", ENCODER),
    "pairs, nothing latent": ("squad-ded-attn", ENCODER),
    "transformer": ("verses-della", TRANSFORMER),
    "transformer of pairs": ("pairs-della", TRANSFORMER),
}
"""By what is special of it: the recipe and its small sizes."""

NOUNS = {"words": "word"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Sentences and pairs in which every third text holds HTML, in a folder whose name does."""
    folder = tmp_path_factory.mktemp("data") / "a<b>&c"
    folder.mkdir()
    words = ["see", "the", "small", "dog", "run", "up", EVIL, "down", "a", "hill"]
    lines = [" ".join(words[i % 7 : i % 7 + 2 + i % 4]) + f" . {words[i % 9]}" for i in range(120)]
    (folder / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    table = [f"{line}\t{' '.join(reversed(line.split()[: 2 + i % 3]))}" for i, line in enumerate(lines)]
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "\n".join(table) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(texts, word_list, tiny, tmp_path_factory, one_thread):
    """``runs(kind)``: a small run of that kind, trained once."""
    place, made = tmp_path_factory.mktemp("runs"), {}

    def run(kind):
        if kind not in made:
            recipe, own = RECIPES[kind]
            changes = {**tiny, "report.particles": 32} if kind == "words" else {**SHORT, **own, "data.min_count": 1}
            data = word_list if kind == "words" else texts / ("pairs.tsv" if "pairs" in kind else "texts.txt")
            made[kind] = pt.fit(recipe, data=data, set=changes, out=place / kind.replace(" ", "-"))
        return made[kind]

    return run


def page_of(run):
    return Page((run.folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", RECIPES)
def test_a_run_s_page_holds_its_report_and_needs_nothing_else(kind, runs):
    run = runs(kind)
    found = page_of(run)
    markdown = shown_in_markdown((run.folder / "report.md").read_text(encoding="utf-8"))
    assert numbers(markdown) <= numbers(found.text)
    titles = [line.removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")]
    assert [title for title in titles if title not in found.pieces] == []
    cells = sum(line.count("|") - 1 for line in markdown.splitlines() if line.startswith("|") and "--- |" not in line)
    if EVIL not in markdown:  # a | in a cell is told from a border elsewhere
        assert cells == sum(len(row) for table in found.tables for row in table) or "| " in found.text
    assert found.loads == []
    assert found.tags.count("script") == 1
    assert found.tags.count("img") == len(found.sources) > 0


@pytest.mark.parametrize("kind", RECIPES)
def test_the_report_has_what_there_is_to_see(kind, runs):
    run = runs(kind)
    found = page_of(run)
    latents = bool(run.model.latents)
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    figures = {path.stem for path in (run.folder / "figures").iterdir()}
    assert "training" in figures
    assert ("khat" in figures) == (latents and results.get("khat_good") is not None)
    assert ("latents" in figures) == bool(found.circles) == (latents and kind != "switching")
    assert any(title.startswith("Samples from the ") for title in found.pieces)
    reconstructions = [title for title in found.pieces if title.startswith("Reconstructions of test ")]
    assert len(reconstructions) == (latents and "pairs" not in kind)
    assert results["noun"] == run.corpus.noun


@pytest.mark.parametrize("kind", ["sentences", "transformer", "pairs"])
def test_texts_are_shown_as_they_are(kind, runs):
    found = page_of(runs(kind))
    assert EVIL in found.text.replace(" ", ""), "as the tokenizer reads it"
    assert "a<b>&c" in found.text
    texts = {text for text, _, _ in found.circles}
    corpus = set(runs(kind).corpus.splits["test"].texts)
    assert texts <= corpus
    assert any("script" in text for text in texts)


@pytest.mark.parametrize("kind", ["words", "sentences", "a latent a step", "transformer"])
def test_points_are_the_texts_of_the_evaluation_on_their_principal_axes(kind, runs):
    run = runs(kind)
    places = {(x, y) for _, x, y in page_of(run).circles}
    assert len(places) > 5, "texts lie apart"
    assert all(0 < x < 640 and 0 < y < 400 for x, y in places)
    shares = [float(piece.split("(")[1].split("%")[0]) for piece in page_of(run).pieces if piece.startswith("axis ")]
    assert len(shares) == 2
    assert 100.5 >= sum(shares) >= shares[0] >= shares[1] >= 0


def test_a_report_made_anew_says_the_same(runs):
    run = runs("sentences")
    names = ("report.md", "report.html", "results.json")
    before = {name: (run.folder / name).read_bytes() for name in names}
    again = pt.load(run.folder)
    assert again.report() == run.folder / "report.html"
    assert {name: (run.folder / name).read_bytes() for name in names} == before


def test_an_unfinished_run_has_no_report(runs, tmp_path):
    folder = shutil.copytree(runs("sentences").folder, tmp_path / "run")
    (folder / "results.json").unlink()
    with pytest.raises(RunFolderError, match=r"is not finished, .*go on with it: python -m ppl_text fit --resume"):
        pt.load(folder).report()
    assert not (folder / "results.json").exists()


def test_an_axis_is_called_what_a_text_is(runs, monkeypatch, tmp_path):
    nouns, made = [], [runs(kind) for kind in ("words", "sentences")]
    monkeypatch.setattr("ppl_text.run.training_figure", lambda metrics, target, noun: nouns.append(noun))
    for number, run in enumerate(made):
        pt.load(shutil.copytree(run.folder, tmp_path / str(number))).report()
    assert nouns == ["word", "sentence"]


def test_a_run_too_short_for_a_line_of_metrics_has_no_figure_of_training(texts, tmp_path):
    changes = {**SHORT, **WIDTHS, "model.latent_dim": 3, "data.min_count": 1}
    run = pt.fit("verses-vae", data=texts / "texts.txt", set={**changes, "training.steps": 1}, out=tmp_path / "run")
    (run.folder / "metrics.jsonl").write_text("", encoding="utf-8")
    run.report()
    assert "## Training" not in (run.folder / "report.md").read_text(encoding="utf-8")
    assert "Training" not in page_of(run).pieces


def test_the_command_writes_the_page_and_opens_it(runs, ppl, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    folder = runs("words").folder
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    ended = ppl("report", folder, "--open")
    assert (ended.status, ended.out) == (0, f"The report is in {folder / 'report.html'}\n")
    assert opened == [(folder / "report.html").as_uri()]
    assert (folder / "report.html").read_bytes() == before


def test_where_there_is_no_browser_the_page_is_named(runs, ppl, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    ended = ppl("report", runs("words").folder, "--open")
    assert ended.status == 0
    assert "no browser could be opened; open " in ended.err


def test_several_runs_are_compared_on_one_page(runs, ppl, tmp_path):
    first, second = runs("sentences"), runs("a latent a step")
    target = tmp_path / "page.html"
    ended = ppl("report", first.folder, second.folder, first.folder, "--out", target)
    assert (ended.status, ended.out) == (0, f"The report is in {target}\n")
    found = Page(target.read_text(encoding="utf-8"))
    assert found.title == "2 runs"
    assert found.loads == []
    stored = [json.loads((run.folder / "results.json").read_text(encoding="utf-8")) for run in (first, second)]
    figures = {row[0]: row[1:] for row in found.tables[-1]}
    for key in ("elbo", "iw_se", "kl", "khat_bad"):
        assert [float(cell) for cell in figures[key]] == pytest.approx([r[key] for r in stored], rel=1e-5)
    assert figures["figure"] == ["sentences", "a-latent-a-step"]
    differences = {row[0]: row[1:] for table in found.tables for row in table if row[0] == "model.family"}
    assert differences == {"model.family": ["sentence_vae", "latent_sequence"]}
    header, *rows = found.tables[0]
    assert [row[:3] for row in rows] == [
        ["sentences", "sentence_vae", "gaussian"],
        ["a-latent-a-step", "latent_sequence", "gaussian"],
    ]
    assert rows[0][header.index("ELBO ± s.e.")] == f"{stored[0]['elbo']:.3f}\xa0±\xa0{stored[0]['elbo_se']:.3f}"


def test_runs_of_other_corpora_stand_in_tables_of_their_own(runs, ppl, tmp_path):
    target = tmp_path / "page.html"
    assert ppl("report", runs("words").folder, runs("no latent").folder, "--out", target).status == 0
    found = Page(target.read_text(encoding="utf-8"))
    assert "The runs were trained on 2 corpora; bounds of different texts do not compare." in found.text
    assert [[row[0] for row in table[1:]] for table in found.tables[:2]] == [["words"], ["no-latent"]]


def test_the_page_of_several_runs_lies_beside_the_first_and_replaces_itself_alone(runs, ppl, tmp_path):
    folders = [shutil.copytree(runs(kind).folder, tmp_path / name / "run") for kind, name in
               (("sentences", "one"), ("a latent a step", "two"))]  # fmt: skip
    page = tmp_path / "one" / "report.html"
    for _ in range(2):
        assert ppl("report", *folders).out == f"The report is in {page}\n"
    text = page.read_text(encoding="utf-8")
    assert GENERATOR in text
    assert {str(folder) for folder in folders} <= set(Page(text).pieces), "names that are equal are told apart"
    page.write_text("my own notes", encoding="utf-8")
    ended = ppl("report", *folders)
    assert ended.status == 2
    assert f"{page} is another file, which would be lost" in ended.err
    assert page.read_text(encoding="utf-8") == "my own notes"
    assert ppl("report", *folders, "--out", page, "--force").status == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_comparison_has_a_page_with_its_tables_and_figures(runs, ppl, tmp_path):
    place = tmp_path / "comparison"
    small = ("--draws", 32, "--sentences", 12, "--repeats", 3, "--objectives", "elbo,iwae:4")
    assert ppl("compare", runs("sentences").folder, *small, "--out", place).status == 0
    text, markdown = ((place / f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    found = Page(text)
    assert numbers(shown_in_markdown(markdown)) <= numbers(found.text)
    assert len(found.sources) == markdown.count("](figures/") == 3
    assert found.loads == []
    assert {"Verdict", "Bounds, nats per sentence", "Guides", "How it was measured"} <= set(found.pieces)
    (place / "comparison.html").unlink()
    ended = ppl("report", place)
    assert ended.out == f"The report is in {place / 'comparison.html'}\n"
    assert (place / "comparison.html").read_text(encoding="utf-8") == text
    assert (place / "comparison.md").read_text(encoding="utf-8") == markdown


def test_figures_that_are_no_numbers_are_left_to_words(runs, tmp_path, ppl):
    """As of a run whose weights have diverged: bounds are null in ``results.json``."""
    folders = [shutil.copytree(runs("sentences").folder, tmp_path / name) for name in ("a", "b")]
    path = folders[0] / "results.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    empty = {key: None if isinstance(value, float) else value for key, value in values.items()}
    path.write_text(json.dumps(empty), encoding="utf-8")
    assert ppl("report", *folders, "--out", tmp_path / "x.html").status == 0
    found = Page((tmp_path / "x.html").read_text(encoding="utf-8"))
    (row,) = [row for row in found.tables[0] if row[0] == "a"]
    assert row[found.tables[0][0].index("ELBO ± s.e.")] == "–"
    assert not math.isnan(values["elbo"])
