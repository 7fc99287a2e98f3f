"""What the pages show is true: links and figures exist, commands parse, examples run, tables are up to date."""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from pathlib import Path

import pytest
import yaml
from doc_pages import (
    LINK,
    PAGES,
    ROOT,
    anchors,
    blocks,
    commands,
    marked,
    prose,
    read,
)
from numbers_in_text import assert_same_text

from benchmarks import growth, objectives, race, sentence_vae, streaming, table
from benchmarks.families import FAMILIES
from guides import GUIDES
from ppl_text.cli import cli
from ppl_text.objectives import OBJECTIVES
from ppl_text.plots.inference_data import _arviz
from ppl_text.recipes import compositions, recipe_names
from ppl_text.recipes.config import load_config
from ppl_text.recipes.tree import parse_assignments

LONGEST_README = 250

every_page = pytest.mark.parametrize("page", PAGES)


def test_readme_is_short_and_keeps_its_order():
    text = read("README.md")
    assert len(text.splitlines()) <= LONGEST_README
    order = [
        "<!-- command: main -->",
        "<!-- command: tests -->",
        "## A session",
        "## Models, guides, objectives",
        "<!-- python session -->",
        "<!-- guide example -->",
        "<!-- table: ",
        "## Limits",
        "## Pages",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for mark in ("command: main", "command: tests"):
        (command,) = marked(text, mark, "sh")
        assert "pip install -c constraints.txt" in command
        assert len(command.splitlines()) == 1


def test_readme_leads_to_every_page():
    linked = {target.partition("#")[0] for target in LINK.findall(read("README.md"))}
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


@every_page
def test_links_of_pages_resolve(page):
    text = read(page)
    for target in LINK.findall(prose(text)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (PAGES[page].parent / file).resolve() if file else PAGES[page]
        assert path.exists(), f"{page} links to {target}, which does not exist"
        assert path.is_relative_to(ROOT), f"{page} links to {target}, outside the repository"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page}: {target} names no heading"


@every_page
def test_figures_of_pages_are_images(page):
    for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", read(page)):
        assert (PAGES[page].parent / target).read_bytes().startswith(b"\x89PNG\r\n"), target


def test_every_file_beside_the_pages_is_used_by_one():
    used = set()
    for path in PAGES.values():
        text = path.read_text(encoding="utf-8")
        named = [*LINK.findall(text), *re.findall(r"<!-- table: (\S+)", text)]
        used |= {(path.parent / name).resolve() for name in named}
    beside = {path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".json")}
    assert len(beside) >= 8
    assert beside <= used


@every_page
def test_commands_of_pages_parse(page):
    for arguments in commands(read(page), "ppl_text"):
        if len(arguments) < 2:
            assert not arguments or arguments[0] in cli.commands
            continue
        name, *rest = arguments
        context = cli.commands[name].make_context(name, list(rest), resilient_parsing=False)
        if name in ("fit", "explain") and context.params["recipe"] != "RECIPE":
            changes = parse_assignments(context.params["assignments"])
            guide = context.params["guide"]
            load_config(context.params["recipe"] or "words", {**changes, **({"guide.name": guide} if guide else {})})


@every_page
def test_benchmark_commands_of_pages_parse(page):
    for module in (race, objectives, sentence_vae, table, growth, streaming):
        for arguments in commands(read(page), module.__name__):
            module.parse(arguments)


def test_pages_show_commands():
    """The parser of pages finds what is there."""
    found = [arguments for page in PAGES for arguments in commands(read(page), "ppl_text")]
    assert {arguments[0] for arguments in found if arguments} >= set(cli.commands) - {"worker"}
    assert ["list", "objectives"] in found
    page = "`python -m ppl_text fit\nwords` and\n```sh\n$ python -m ppl_text a \\\n b  # c\n```\n"
    assert list(commands(page, "ppl_text")) == [["a", "b"], ["fit", "words"]]


@every_page
def test_code_of_pages_is_well_formed(page):
    for body in blocks(read(page), "python"):
        compile(body, page, "exec")
    for body in blocks(read(page), "yaml"):
        assert yaml.safe_load(body)


EXAMPLES = [
    pytest.param(source, shown, id=f"{page}-{number}")
    for page in PAGES
    for number, (source, shown) in enumerate(
        zip(
            marked(read(page), "guide example", "python"),
            marked(read(page), "guide example", "sh"),
            strict=True,
        )
    )
]
"""Each guide that a page shows, with or without a model, and the commands that train and use it."""

SMALL_SENTENCES = {
    "model.latent_dim": 3,
    "model.embedding_dim": 8,
    "model.hidden_dim": 12,
    "data.batch_size": 16,
    "report.sentences": 12,
    "report.particles": 3,
    "report.samples": 4,
}


@every_page
def test_no_formula_of_a_page_begins_a_quotation(page):
    assert not re.findall(r"^> .*", prose(read(page)), re.MULTILINE)


@pytest.mark.parametrize(("source", "shown"), EXAMPLES)
def test_guide_examples_train(source, shown, ppl, tiny, sentences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, name = re.match(r"# (\w+\.py)\n", source)[1], re.findall(r"^class (\w+)", source, re.MULTILINE)[-1]
    Path(file).write_text(source, encoding="utf-8")
    (command, *arguments), *later = commands(f"```sh\n{shown}```\n", "ppl_text")
    assert f"{file}:{name}" in arguments
    words = "verses-vae" not in arguments
    other = ("guide.", "model.") if "--model" in arguments else ("guide.",)
    sizes = {key: value for key, value in tiny.items() if not key.startswith(other)} if words else SMALL_SENTENCES
    data = [] if words else ["--data", sentences]
    small = [part for key, value in {**sizes, "guide.units": 8}.items() for part in ("--set", f"{key}={value}")]
    done = ppl(command, *arguments, *data, *small, "--steps", "3")
    assert done.status == 0, done.err
    (kept,) = Path("runs").glob("*/config.yaml")
    assert name in kept.read_text(encoding="utf-8")
    for arguments in later:
        done = ppl(*arguments)
        assert done.status == 0, done.err
        assert done.out


def test_a_model_is_shown_in_full():
    assert any("--model" in example.values[1] for example in EXAMPLES)


@pytest.mark.usefixtures("one_thread")
def test_python_session_of_the_readme_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = marked(read("README.md"), "python session", "python")
    sizes = {**tiny, "data.corpus": "words", "data.limit": 400, "training.steps": 3, "report.sentences": 50}
    changes = [
        ('"training.steps": 2000', ", ".join(f"{key!r}: {value!r}" for key, value in sizes.items())),
        ("limit=5000", "limit=50"),
        ('swap_guide("tril", steps=500)', 'swap_guide("tril", steps=3)'),
        ("steps=500)", "steps=3, draws=30, sentences=20, repeats=2)"),
    ]
    for shown, small in changes:
        assert text.count(shown) == 1, shown
        text = text.replace(shown, small)
    names: dict[str, object] = {}
    exec(text, names)  # noqa: S102 - our own README
    assert Path("runs/words-1/report.md").is_file()


def test_the_session_of_the_page_on_runs_runs(trained):
    (text,) = marked(read("docs/runs.md"), "runs session", "python")
    changes = {'"runs/words-1"': repr(str(trained.folder)), '["water", "people"]': '["bade", "ma"]'}
    for shown, own in changes.items():
        assert shown in text
        text = text.replace(shown, own)
    names: dict[str, object] = {}
    exec(text, names)  # noqa: S102 - our own page
    assert names["latents"]["h"].shape == (2, 5, 2)  # the shape in the comment is of the README's run
    assert len(names["middle"]["h"]) == 1


@pytest.mark.skipif(not hasattr(_arviz(), "plot_posterior"), reason="the page shows the names of ArviZ 0.x")
def test_the_session_in_arviz_runs(trained, tmp_path, monkeypatch):
    """On a small comparison; warnings of ArviZ about so few draws and of matplotlib about ArviZ are not ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    (text,) = marked(read("docs/compare-and-swap.md"), "arviz session", "python")
    trained.compare(objectives=["elbo"], draws=30, sentences=20, repeats=2, out="runs/arviz")
    word = _arviz().from_netcdf("runs/arviz/inference.nc")["posterior"]["text"].values[0]
    assert text.count('"pony"') == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names: dict[str, object] = {}
        exec(text.replace('"pony"', repr(str(word))), names)  # noqa: S102 - our own page
        names["plt"].close("all")
    shown = re.findall(r"\]\((arviz-\w+\.png)\)", read("docs/compare-and-swap.md"))
    assert sorted(path.name for path in Path().glob("*.png")) == sorted(shown)
    assert len(shown) == 4


@pytest.mark.parametrize("page", ["README.md", "docs/models-and-guides.md"])
def test_every_guide_is_named(page):
    for name in {guide for family in GUIDES.values() for guide in family}:
        assert f"`{name}`" in read(page), name
    for family in GUIDES:
        assert f"`{family}`" in read(page), family


@pytest.mark.parametrize("page", ["README.md", "docs/objectives.md"])
def test_every_objective_is_named(page):
    for name in OBJECTIVES:
        assert f"`{name}" in read(page), name


def test_every_recipe_is_named():
    text = read("docs/models-and-guides.md") + read("docs/collapse.md")
    for name in recipe_names():
        if name in compositions():
            whole = compositions()[name]
            assert f"`{whole.corpus.removeprefix('on-')}-…`" in text, name
            alike = [f"`{other}`" for other, parts in compositions().items() if parts.procedure == whole.procedure]
            assert any(other in text for other in alike), name
        else:
            assert f"`{name}`" in text, name


def fill():
    """The script that writes the tables."""
    spec = importlib.util.spec_from_file_location("fill", ROOT / "docs" / "fill.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@every_page
def test_tables_are_those_of_their_result_files(page):
    script = fill()
    assert_same_text(script.filled(read(page), PAGES[page].parent), read(page))  # where it fails: python docs/fill.py


def test_the_speed_page_shows_every_family_and_how_cost_grows():
    shown = {found["file"]: found[0] for found in fill().BLOCK.finditer(read("docs/speed.md"))}
    for family, kinds in FAMILIES.items():
        assert all(f"| **`{family}`, {kind}**: " in shown["speed/small.json"] for kind in kinds), family
    assert shown["speed/small.json"].count("not run: `python -m benchmarks.table ") == sum(map(len, FAMILIES.values()))
    for axis in growth.AXES.values():
        assert f"| {axis.label}, {axis.values[0]:,} to {axis.values[-1]:,} |" in shown["speed/growth.json"]


def test_pages_have_tables():
    script = fill()
    assert sum(len(script.BLOCK.findall(read(page))) for page in PAGES) >= 5
    assert {str(path.relative_to(ROOT)) for path in script.pages()} <= set(PAGES)
    with pytest.raises(ValueError, match="no group 'x' among a"):
        script.of_group({"groups": {"a": ""}, "rows": []}, "x")
