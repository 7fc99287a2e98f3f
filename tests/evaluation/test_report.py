"""The report holds the numbers, as valid Markdown and strict JSON."""

import json
import math
import re
from dataclasses import replace

from ppl_text.evaluation.likelihood import Likelihood
from ppl_text.evaluation.report import bound_rows, results, run_report, sampling_line, table
from ppl_text.evaluation.words import WordReferences, WordSamples

LIKELIHOOD = Likelihood(
    particles=8,
    elbo=-12.3456,
    elbo_se=0.0123,
    iw=-11.9876,
    iw_se=0.0456,
    kl=3.3333,
    rec=9.0123,
    sampling_se=0.0,
    ess=3.2,
    rec_sum=901.23,
    kl_sum=333.33,
    n_sent=1234.0,
    n_eos=7404.0,
    n_words=6170.0,
)
REFERENCES = WordReferences(letters=14.5, entropy=6.8)
SAMPLES = WordSamples(drawn=200, in_list=0.125, unique=0.5, unfinished=3, words=("ab", "", "a|b"))
FACTS = {"run": "Run x: words", "model": "m", "corpus": "data/a|b.tsv"}


def cells(line):
    """The cells of a Markdown row, split where a renderer splits."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text):
    """The tables of a Markdown text as lists of rows."""
    blocks = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    return [[cells(line) for line in block.splitlines()] for block in blocks]


def report(likelihood=LIKELIHOOD, notes=("12 lines skipped",)):
    return run_report(FACTS, "test", likelihood, REFERENCES, SAMPLES, notes)


def test_tables_are_rectangular_though_cells_hold_bars():
    text = report()
    facts, bounds = tables(text)
    for rows in (facts, bounds):
        assert {len(row) for row in rows} == {len(rows[0])}
        assert set(rows[1]) == {"---"}
    assert ["corpus", "data/a|b.tsv"] in facts
    assert ["reconstruction E_q[ln p(w | h)]", "-9.012", ""] in bounds


def test_a_line_break_in_a_cell_does_not_end_the_row():
    assert table(["a"], [["x\ny|z"]]).splitlines() == ["| a |", "| --- |", "| x y\\|z |"]


def test_the_report_holds_every_number():
    _, bounds = tables(report())
    values = {row[0]: row[1:] for row in bounds}
    assert values["ELBO"] == ["-12.346", "0.012"]
    assert values["importance-weighted bound, K = 8"] == ["-11.988", "0.046"]
    assert values["KL(q ‖ p)"] == ["3.333", ""]
    assert values["i.i.d. letter model (letters and EOS)"] == ["-14.500", "exact"]
    assert values["entropy of the split: no model can pass"] == ["-6.800", "exact"]
    text = report()
    for part in (
        "(200 drawn)",
        "12.5%",
        "50.0%",
        "cut off without EOS: 3",
        "> ab ∅ a|b",
        "- 12 lines skipped",
        "# Run x: words",
    ):
        assert part in text
    assert "6.00 scored tokens a word" in text
    assert "## Notes" not in report(notes=())


def test_how_the_sentences_came_is_said():
    assert "every type of the split, weighted by its count (1,234 tokens)" in sampling_line(LIKELIHOOD)
    drawn = sampling_line(replace(LIKELIHOOD, sampling_se=0.25))
    assert "1,234 words drawn from the split ∝ counts (± 0.250 from the draw)" in drawn


def test_results_are_strict_json_whatever_the_numbers():
    odd = replace(LIKELIHOOD, particles=1, elbo_se=math.nan, iw_se=math.nan)
    values = results(odd, WordReferences(letters=math.inf, entropy=6.8), SAMPLES)
    back = json.loads(json.dumps(values, allow_nan=False))
    assert back["elbo_se"] is None
    assert back["iw_se"] is None
    assert back["letter_model"] is None
    assert back["elbo"] == -12.3456
    assert back["perplexity"] == math.exp(11.9876 * 1234 / 7404)
    assert back["samples"] == {"drawn": 200, "in_list": 0.125, "unique": 0.5, "unfinished": 3}
    assert "samples" not in results(LIKELIHOOD, REFERENCES)


def test_one_particle_has_no_standard_error_in_the_table():
    rows = bound_rows(replace(LIKELIHOOD, particles=1, elbo_se=math.nan, iw_se=math.nan), REFERENCES)
    assert [row[2] for row in rows[:2]] == ["unknown (K = 1)"] * 2
