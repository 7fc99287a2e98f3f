"""Sections as valid Markdown, and what the latents carry as one."""

import math
import re
from dataclasses import replace

from ppl_text.evaluation.latents import LatentFigures, SiteFigures, StepFigures
from ppl_text.evaluation.report import Document, Picture, Section, latent_sections, table, values_of

FACTS = {"model": "m", "corpus": "data/a|b.tsv"}


def cells(line):
    """The cells of a Markdown row, split where a renderer splits."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text):
    """The tables of a Markdown text as lists of rows."""
    blocks = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    return [[cells(line) for line in block.splitlines()] for block in blocks]


def test_a_document_has_a_title_a_table_of_facts_and_its_sections():
    figures = Section(
        "Figures",
        ("quantity", "value"),
        (("p(w | h)", "1.0"),),
        ("first line.",),
        ("hidden",),
        quotes=("quoted", "two"),
    )
    last = Section("Last", lines=("the end",), items=("one", "two"), pictures=(Picture("a curve", "figures/a.png"),))
    text = Document("Run x: words", FACTS, (figures, last)).markdown()
    facts, rows = tables(text)
    assert facts == [["what", "value"], ["---", "---"], ["model", "m"], ["corpus", "data/a|b.tsv"]]
    assert rows == [["quantity", "value"], ["---", "---"], ["p(w | h)", "1.0"]]
    assert text.startswith("# Run x: words\n\n|")
    assert "\n\n## Figures\n\n|" in text
    assert text.endswith(
        "|\n\nFirst line.\n\n> quoted\n>\n> two\n\n## Last\n\nThe end\n\n- one\n- two\n\n![a curve](figures/a.png)\n"
    )
    assert "hidden" not in text


def test_a_line_break_in_a_cell_does_not_end_the_row():
    assert table(["a"], [["x\ny|z"]]).splitlines() == ["| a |", "| --- |", "| x y\\|z |"]


def test_values_of_all_sections_stand_together():
    sections = [Section("a", values={"x": 1, "y": 2}), Section("b"), Section("c", values={"z": [3]})]
    assert values_of(sections) == {"x": 1, "y": 2, "z": [3]}


Z = SiteFigures(1000, 3.0, 3.0, 2.5, 6.9, 3, 2, 4, (0.5, 2.0, 0.25, 0.25), 1000)


def test_nothing_latent_has_no_section():
    assert latent_sections(None) == []


def test_a_lone_latent_has_a_row_for_each_quantity():
    (section,) = latent_sections(LatentFigures({"code": Z}, Z), {"bn": "my-bn"})
    assert section.title == "What the latents carry"
    assert dict(section.rows) == {
        "KL(q(code given x) ‖ p(code))": "3.000 nats",
        "mutual information I(x; code)": "2.500 nats; cap 6.900, the entropy of the 1,000 sentences compared",
        "KL(q(code) ‖ p(code)) of their aggregate": "0.500 nats",
        "units active at 0.01": "3 of 4",
        "units active at 0.2": "2 of 4",
        "KL by dimension, largest first": "2.00 0.50 0.25 0.25",
    }
    assert section.lines == (section.values["latents"],)
    assert section.lines[0].startswith("latents in use (")
    assert section.values == {**Z.as_dict(), "latents": section.lines[0]}


def test_several_latents_have_a_row_each_and_say_what_is_not_known():
    unknown = SiteFigures(1000, 0.02, 0.02, math.nan, 6.9, 0, 0, 4, (), 1000)
    together = SiteFigures(1000, 3.02, 3.02, 2.6, 5.5, 3, 2, 8, (), 256)
    sites = {"z1": replace(Z, so_far=2.4), "z2": replace(unknown, so_far=2.6), "a": StepFigures(1000, 8.0, 4.0)}
    figures = LatentFigures(sites, together)
    (section,) = latent_sections(figures)
    rows = {row[0]: row[1:] for row in section.rows}
    assert rows["z1"] == ("3.000", "–", "2.500", "6.900", "2.400", "0.500", "3 of 4", "2 of 4")
    assert rows["z2"] == ("0.020", "–", "unknown", "6.900", "2.600", "unknown", "0 of 4", "0 of 4")
    assert rows["a"] == ("8.000", "2.000", "–", "–", "–", "–", "–", "–")
    assert rows["z1, z2 together"][2:5] == ("2.600", "5.500", "2.600")
    assert {len(row) for row in section.rows} == {len(section.header)}
    assert [line.split(" (")[0] for line in section.lines[:2]] == ["z1: latents in use", "z2: latents collapsed"]
    assert "among 256 sentences" in section.lines[2]
    assert set(section.values["sites"]) == {"z1", "z2", "a"}
    assert section.values["mutual_information"] == 2.6
