"""Figures of a table's rows hold the rows' numbers."""

import json

import pytest

from ppl_text.plots.scans import curves_figure, draw_curves, draw_scan, scan_figure
from ppl_text.tables.table import PANELS

PANELS = [panel.model_dump() for panel in PANELS]


def row(at, rec, *, ppl=2.0, spread=None, seeds=(0,)):
    measures = {"rec": rec, "kl": 10 * rec, "ppl_elbo": ppl, "paper_ppl": ppl / 2} if seeds else {}
    return {"at": at, "seeds": list(seeds), "measures": measures, "spread": spread or {}}


def lines_of(axes):
    """By label, the points of each line with markers."""
    return {c.get_label(): c[0].get_xydata().tolist() for c in axes.containers}


def test_a_scan_shows_each_measured_row_where_it_stands():
    rows = [row(512, 3.0), row(128, 5.0), row(256, 4.0, spread={"rec": 0.5}, seeds=(0, 1)), row(1024, 0.0, seeds=())]
    figure = draw_scan(rows, "codes M", PANELS)
    rec, kl, perplexity = figure.axes
    assert lines_of(rec) == {"Rec": [[128, 5], [256, 4], [512, 3]]}
    assert lines_of(kl) == {"KL": [[128, 50], [256, 40], [512, 30]]}
    assert set(lines_of(perplexity)) == {"from the ELBO", "paper_ppl, no bound"}
    assert [label.get_text() for label in rec.get_xticklabels()] == ["128", "256", "512"]
    assert (figure.get_supxlabel(), rec.get_xlabel()) == ("codes M", "")  # once for all, since it may be long
    bars = rec.containers[0][2][0].get_segments()
    assert bars[1].tolist() == [[256, 3.5], [256, 4.5]]


def test_a_scan_has_the_panels_that_are_asked_for_and_a_level_line_of_the_row_beside():
    panels = [{"label": "nats", "lines": {"rec": "Rec", "kl": "KL"}}]
    beside = {"title": "all", "measures": {"rec": 7.0, "kl": None}}
    (axes,) = draw_scan([row(1, 3.0), row(2, 4.0)], "x", panels, beside).axes
    assert lines_of(axes) == {"Rec": [[1, 3], [2, 4]], "KL": [[1, 30], [2, 40]]}
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [(line.get_color(), set(line.get_ydata())) for line in dashed] == [("C0", {7.0}), ("grey", set())]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["all", "Rec", "KL"]


@pytest.fixture
def metrics(tmp_path):
    """Two validations in one stage, and three in two."""

    def write(name, records):
        path = tmp_path / name
        lines = [{"split": "train", "step": 1}, *({"split": "valid", **record} for record in records)]
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        return path

    one = [{"step": s, "log_likelihood": -s, "kl": 2 * s} for s in (10, 20)]
    two = [{"step": s, "log_likelihood": -2, "kl": 7, "stage": "a" if s < 30 else "b"} for s in (10, 20, 30)]
    return {"GAVAM": write("one", one), "DAVAM": write("two", two)}


def test_curves_are_those_of_the_validations_and_stages_are_marked(metrics):
    rec, kl = draw_curves(metrics, "word").axes
    assert (rec.get_ylabel(), kl.get_ylabel()) == ("Rec (nats per word)", "KL (nats per word)")
    assert [line.get_xydata().tolist() for line in rec.lines[:2]] == [[[10, 10], [20, 20]], [[10, 2], [20, 2], [30, 2]]]
    assert [line.get_xydata().tolist() for line in kl.lines[:1]] == [[[10, 20], [20, 40]]]
    assert [list(line.get_xdata()) for line in rec.lines[2:]] == [[20, 20]], "one stage begins after step 20"
    assert [text.get_text() for text in rec.get_legend().get_texts()] == ["GAVAM", "DAVAM"]


def test_figures_are_png_files(metrics, tmp_path):
    scan_figure([row(1, 1.0)], "x", PANELS, tmp_path / "figures" / "scan.png")
    curves_figure(metrics, tmp_path / "figures" / "curves.png")
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_first_validations_do_not_set_the_scale_of_curves(tmp_path):
    records = [{"step": s, "split": "valid", "log_likelihood": -20.0 - 500 * (s == 1), "kl": s} for s in range(1, 40)]
    records[-1]["log_likelihood"] = -19.0
    (tmp_path / "one").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    rec, kl = draw_curves({"GAVAM": tmp_path / "one"}).axes
    low, high = rec.get_ylim()
    assert 18 < low < 19 < 20 < high < 21
    assert rec.get_title("right") == "beyond the edge: 520 at step 1"
    assert (kl.get_title("right"), kl.get_ylim()[1] > 39) == ("", True)


def test_curves_of_runs_that_were_not_validated_are_left_out(metrics, tmp_path):
    (tmp_path / "short").write_text(json.dumps({"split": "train", "step": 1}), encoding="utf-8")
    short = {"short": tmp_path / "short"}
    curves_figure(short, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
    curves_figure(short | metrics, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_a_scan_has_no_empty_panel(tmp_path):
    panels = [*PANELS, {"label": "nats", "lines": {"codes": "codes"}}]
    assert len(draw_scan([row(1, 3.0)], "x", panels).axes) == len(PANELS)
    scan_figure([row(1, 3.0)], "x", panels[-1:], tmp_path / "scan.png")
    assert not (tmp_path / "scan.png").exists()
