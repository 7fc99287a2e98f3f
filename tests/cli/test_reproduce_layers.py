"""``reproduce della-…``: a latent of each layer, at the smoke budget; and what published tables say by themselves."""

import json
import math

import pytest
import yaml
from families.pretrained_folders import SIZES, gpt2_folder

from ppl_text.core.vocabulary import Vocabulary
from ppl_text.recipes import build
from ppl_text.tables import table_names
from ppl_text.tables.rows import Task
from ppl_text.tables.table import load_table, table_parts
from ppl_text.training.programs import count_parameters

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(600)]

TABLES = [name for name in table_names() if name.startswith("della-")]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, one_thread, reproduce):
    """Rows without a latent, with one and with several, of texts; two behind sources: what was said, and the root."""
    root = tmp_path_factory.mktemp("layers")
    told = {}
    for table, part, rows in (
        ("della-table1", "verses", "gpt2,memory,della"),
        ("della-conditional", "pairs", "della,memory-bart"),
    ):
        told[table] = reproduce(table, root / f"{table}-{part}-smoke", "--rows", rows)
    return told, root


def rows_of(folder):
    return {row["name"]: row for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]}


def test_bounds_have_the_sum_and_published_figures_the_mean(filled):
    told, root = filled
    rows = {name: row["measures"] for name, row in rows_of(root / "della-table1-verses-smoke").items()}
    several, one, none = (rows[name] for name in ("della", "memory", "gpt2"))
    by_layer = [several[f"kl_z_{layer}"] for layer in (1, 2, 3, 4)]
    assert several["kl"] == pytest.approx(sum(by_layer), abs=0.2), "other draws"
    assert several["kl_mean_layers"] == pytest.approx(several["kl"] / 4, abs=0.05)
    assert one["kl_mean_layers"] == pytest.approx(one["kl"], abs=0.2)
    assert several["elbo_negative"] == pytest.approx(several["rec"] + several["kl"], rel=1e-6)
    assert "kl" not in none
    nats = none["n_eos"] * math.log(none["ppl"])
    assert none["paper_ppl"] == pytest.approx(math.exp(nats / (none["n_eos"] + none["n_sent"])), rel=1e-4)
    text = told["della-table1"]
    for block in ("Bounds: KLs of all latents summed", "As published: means over the latents, no bounds"):
        assert f"*{block}*" in text
    assert "not run: `python -m ppl_text reproduce della-table1 --rows optimus --budget smoke`" in text


def test_texts_written_for_sources_have_their_columns(filled):
    told, root = filled
    rows = rows_of(root / "della-conditional-pairs-smoke")
    for name in ("della", "memory-bart"):
        found = rows[name]["measures"]
        for way in ("beam", "drawn"):
            assert {f"{key}_{way}" for key in ("bleu", "rouge1", "rouge_l", "self_bleu", "jaccard")} <= found.keys()
            assert 0 <= found[f"bleu_{way}"] <= 100
    assert "MAUVE and BERTScore are left out" in told["della-conditional"]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_sound_configuration_for_every_part_and_budget(name, tmp_path):
    for part in table_parts(name):
        table = load_table(name, part)
        data = "verse-pairs" if name == "della-conditional" else "verses"
        for budget in table.budgets:
            for row in table.rows:
                config = Task(table, row, budget, 2, tmp_path, data).config()
                assert (config.seed, config.model.family) == (2, "layerwise_transformer")
                if budget == "smoke":
                    vocabulary = Vocabulary(400, source=Vocabulary(400) if name == "della-conditional" else None)
                    assert count_parameters(*build.build_programs(config, vocabulary)).model < 200_000


PUBLISHED = {
    "yelp": {"embedding": (19.98, 327.28, 4.77, 4.14, 6), "della": (12.35, 239.83, 29.47, 10.78, 23)},
    "yahoo": {"embedding": (22.18, 286.85, 3.63, 3.03, 3), "della": (11.49, 201.34, 27.84, 12.31, 21)},
    "ptb": {"memory": (24.41, 90.25, 1.22, 1.17, 4), "della": (10.28, 58.43, 12.46, 12.35, 22)},
    "snli": {"softmax": (14.21, 33.18, 2.70, 2.65, 16), "della": (5.13, 10.23, 5.86, 16.58, 23)},
}
"""Table 1 of the paper, some rows: PPL, ELBO, KL, MI, AU."""
KEYS = ("paper_ppl", "paper_elbo_negative", "kl_mean_layers", "mutual_information", "active_units_02_mean")


@pytest.mark.parametrize("part", PUBLISHED)
def test_published_figures_are_the_papers(part):
    rows = {row.name: row.published for row in load_table("della-table1", part).rows}
    for name, figures in PUBLISHED[part].items():
        assert rows[name] == dict(zip(KEYS, figures, strict=True))


def test_published_figures_contradict_themselves_as_the_page_says():
    """Specification 2G.2, from the tables that stand here."""
    rows = {part: {row.name: row.published for row in load_table("della-table1", part).rows} for part in PUBLISHED}
    della = {part: found["della"] for part, found in rows.items()}
    above = [part for part, found in della.items() if found["mutual_information"] > found["kl_mean_layers"]]
    assert above == ["snli"], "I(x; z) is the KL at most"
    most = {part: math.log(3761 if part == "ptb" else 10_000) for part in della}
    assert all(found["mutual_information"] > most[part] for part, found in della.items())
    collapsed = {row.name: row.published for row in load_table("della-table5", "yelp").rows}["embedding-plain"]
    tokens = collapsed["paper_elbo_negative"] / math.log(collapsed["paper_ppl"])
    assert tokens == pytest.approx(109.4, abs=0.05)
    importance_weighted = tokens * math.log(della["yelp"]["paper_ppl"])
    assert importance_weighted == pytest.approx(274.9, abs=0.2)
    assert importance_weighted > della["yelp"]["paper_elbo_negative"], "against Jensen"


def test_all_rows_begin_with_pretrained_weights(tmp_path, reproduce):
    """The sizes that the budget gives to random ones give way to the folder's."""
    folder = gpt2_folder(tmp_path / "gpt2", positions=64)
    settings = {
        "model.backbone": folder,
        "data.tokenizer": "pretrained",
        "data.pretrained": folder,
        "training.lr": 1e-4,
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    text = reproduce("della-table1", tmp_path / "out", "--rows", "gpt2,della", *options)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in results["rows"] if row["seeds"]] == ["gpt2", "della"]
    assert f"Set by hand, in every row: model.backbone={folder}, data.tokenizer=pretrained" in text
    config = yaml.safe_load((tmp_path / "out" / "della-s0" / "config.yaml").read_text(encoding="utf-8"))
    sizes = {key: config["model"][key] for key in ("layers", "width", "heads", "positions")}
    assert sizes == {"layers": SIZES["layers"], "width": SIZES["width"], "heads": SIZES["heads"], "positions": 64}
