"""How runs and comparisons show themselves: in one line, in a notebook, as a table of pandas."""

import html
import json

import pandas as pd
import pytest

import ppl_text as pt


@pytest.fixture(scope="module")
def compared(trained, tmp_path_factory):
    """The trained run by two objectives."""
    options = {"draws": 30, "sentences": 20, "repeats": 2, "out": tmp_path_factory.mktemp("compared") / "<i>here</i>"}
    return trained.compare(objectives=["elbo", "iwae:2"], **options)


def test_a_comparison_has_a_short_repr(compared):
    best = max(compared.rows, key=lambda row: row.bound)
    assert repr(compared) == (
        f"<Comparison of 2 rows (1 guide, 2 objectives), highest bound {best.bound:.3f} of 'diagonal' by "
        f"{best.objective}, in {compared.folder}>"
    )


def test_a_comparison_is_a_table_in_a_notebook(compared):
    shown = compared._repr_html_()
    assert shown.count("<table>") == 3
    assert "<th>objective</th>" in shown
    assert "<td>iwae:2</td>" in shown
    assert html.escape(compared.verdict[0]) in shown


def test_a_comparison_is_a_data_frame(compared):
    frame = compared.to_dataframe()
    assert isinstance(frame, pd.DataFrame)
    assert frame["objective"].tolist() == ["elbo", "iwae:2"]
    assert frame["bound"].tolist() == [row.bound for row in compared.rows]
    assert set(frame.columns) >= {"bound_se", "kl", "khat_bad", "model_parameters"}


def test_a_run_tells_what_it_is_in_a_notebook(trained, copied):
    shown = pt.load(copied)._repr_html_()
    results = json.loads((trained.folder / "results.json").read_text(encoding="utf-8"))
    assert "<tr><td>guide</td><td>diagonal</td></tr>" in shown
    assert "<td>finished</td>" in shown
    assert f"ELBO {results['elbo']:.3f} ± {results['elbo_se']:.3f}" in shown
    (copied / "results.json").write_text("{", encoding="utf-8")
    assert "<td>damaged: " in pt.load(copied)._repr_html_()


def test_what_a_notebook_is_given_is_escaped(copied, tmp_path):
    place = copied.rename(tmp_path / "<script>alert(1)<")
    shown = pt.load(place)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)&lt;" in shown


def test_a_run_is_a_data_frame_of_its_training(trained):
    lines = (trained.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    frame = trained.to_dataframe()
    assert len(frame) == len(records)
    valid = frame[frame["split"] == "valid"]
    assert valid["bound"].tolist() == [record["bound"] for record in records if record["split"] == "valid"]
    assert "monitor.entropy_gap" in frame.columns


def test_pandas_is_imported_for_a_table_alone(command, environment):
    import subprocess
    import sys

    check = "import sys, ppl_text.run, ppl_text.comparing.rows; sys.exit('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], env=environment, check=False, timeout=240)
    assert done.returncode == 0
