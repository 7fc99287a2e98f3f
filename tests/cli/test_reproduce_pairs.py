"""``reproduce vattn-table2`` and what is trained as it, at the smoke budget on the built-in pairs."""

import json

import pytest

from ppl_text.tables.rows import Task
from ppl_text.tables.table import load_table, table_parts

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, one_thread, reproduce):
    """A row without latents and one with, and that one again in a scan: what was printed of the two, and the root."""
    root = tmp_path_factory.mktemp("pairs")
    told = []
    for table, rows in (("vattn-table2", "ded-attn,vattn-h"), ("vattn-figure5", "vattn-h")):
        out = root / f"{table}-pairs-smoke"
        told.append(reproduce(table, out, "--rows", rows))
    return told, root


def rows_of(folder):
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]}


def test_both_ways_to_write_have_their_columns(filled):
    (text, _), root = filled
    rows = rows_of(root / "vattn-table2-pairs-smoke")
    found = rows["vattn-h"]["measures"]
    assert {"bleu1_map", "bleu4_sampling", "sacrebleu_map", "ent", "dist1", "dist2", "dist2_paper"} <= found.keys()
    assert found["kl"] == pytest.approx(found["kl_z"] + found["kl_a"], rel=0.2), "the sites of the story, other draws"
    plain = rows["ded-attn"]["measures"]
    assert plain["ppl_posterior"] == pytest.approx(plain["ppl"]), "nothing is latent"
    assert "ent" not in plain
    for block in ("MAP: posterior means", "Sampling: draws of the latents"):
        assert f"*{block}*\n\n| row | B-1 | B-2 | B-3 | B-4 | sacreBLEU |" in text
    assert "not run: `python -m ppl_text reproduce vattn-table2 --rows ded --budget smoke`" in text
    shown = text.split("```text\n")[1].split("\n```")[0].splitlines()
    assert sum("MAP: " in line for line in shown) == 2
    assert sum(line.startswith("VED+VAttn-h̄ ") for line in shown) == 4, "at posterior means, and three draws"


def test_a_scan_over_the_weight_of_the_attention_copies_what_is_trained(filled):
    (_, text), root = filled
    assert text.count("trained already") == 1
    folder = root / "vattn-figure5-pairs-smoke"
    assert (folder / "figures" / "scan.png").stat().st_size > 1000
    assert "dashed: deterministic attention](figures/scan.png)" in (folder / "table.md").read_text(encoding="utf-8")


PUBLISHED = {
    "ded": ((29.31, 12.42, 6.55, 3.61), None, None),
    "ded-attn": ((30.24, 14.33, 8.26, 4.96), None, None),
    "ved-attn": ((31.02, 14.57, 8.49, 5.02), (30.87, 14.71, 8.61, 5.08), (2.214, 0.132, 0.176)),
    "ved-attn-2stage": ((28.88, 13.02, 7.33, 4.16), (29.25, 13.21, 7.45, 4.25), (2.241, 0.140, 0.188)),
    "vattn-0": ((29.70, 14.17, 8.21, 4.92), (30.22, 14.22, 8.28, 4.87), (2.320, 0.165, 0.231)),
    "vattn-h": ((30.23, 14.30, 8.28, 4.93), (30.47, 14.35, 8.39, 4.96), (2.316, 0.162, 0.228)),
}
"""Table 2 of the paper: BLEU-1 to 4 at posterior means and by sampling; Ent, Dist-1, Dist-2."""

TABLES = [f"vattn-{name}" for name in ("table1", "table2", "table3", "table4", "figure4", "figure5", "weights")]


def test_published_figures_are_the_papers_and_bear_out_its_claims():
    table = load_table("vattn-table2", "squad")
    rows = {row.name: row.published for row in table.rows}
    for name, (best, drawn, varied) in PUBLISHED.items():
        expected = {f"bleu{n}_map": value for n, value in enumerate(best, 1)}
        expected |= {f"bleu{n}_sampling": value for n, value in enumerate(drawn or (), 1)}
        expected |= dict(zip(("ent", "dist1", "dist2_paper"), varied or (), strict=False))
        assert rows[name] == expected, name
    keys = {column.key: column.published for column in table.columns}
    for claim in table.claims:
        better, worse = (rows[name].get(keys[claim.column]) for name in (claim.better, claim.worse))
        assert (None in (better, worse)) == ("not published" in claim.remark), claim.text
        assert None in (better, worse) or better > worse, claim.text


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_sound_configuration_for_every_part_and_budget(name, tmp_path):
    for part in table_parts(name):
        table = load_table(name, part)
        for budget in table.budgets:
            for row in table.rows:
                config = Task(table, row, budget, 2, tmp_path, "verse-pairs").config()
                assert (config.seed, config.model.family) == (2, "encoder_decoder")
