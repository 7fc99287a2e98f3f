"""Comparing guides and objectives on trained runs: rows, theory, common sentences, children, the folder."""

import json

import pytest
import torch

import ppl_text as pt
from ppl_text.comparing.candidates import OBJECTIVES, Settings
from ppl_text.core.errors import UserError
from ppl_text.plots.inference_data import _arviz
from ppl_text.recipes.compare import compare_runs
from ppl_text.training.progress import Quiet

SMALL = Settings(draws=32, sentences=20, repeats=3)
TWO = ["elbo", "iwae:4"]
REFIT = 40
"""Updates of the refits; any guide will do for an order that theory knows."""


class Remembering(Quiet):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


@pytest.fixture(scope="module")
def watched():
    """What was told while the default comparison was made."""
    return []


@pytest.fixture(scope="module")
def default(place, watched):
    """The run's own guide under the default objectives."""
    return compare_runs([place], settings=SMALL, watch=lambda *told: watched.append(told))


@pytest.fixture(scope="module")
def guides(place):
    """Three guides, two of them refitted, from enough draws for an order to show."""
    settings = Settings(draws=256, sentences=20, repeats=3)
    names = ["diagonal", "mean-field", "prior"]
    return compare_runs([place], names, ["elbo", "iwae:4", "iwae:16"], settings=settings, steps=REFIT)


def by_name(found, guide=None):
    return {row.objective: row for row in found.rows if guide in (None, row.guide)}


def test_every_default_objective_has_a_row(default):
    assert [row.objective for row in default.rows] == list(OBJECTIVES)
    assert {row.guide for row in default.rows} == {"diagonal"}
    assert default.notes == []
    for row in default.rows:
        values = row.as_dict()
        nothing = {name for name, value in values.items() if value is None}
        assert nothing <= {"khat_median"}
        assert row.seconds_per_step > 0
        assert row.peak_bytes > 0
        assert row.equal_k == 16
        assert row.by_sentence @ row.weights / row.weights.sum() == pytest.approx(row.bound_equal_k)
        assert row.draws > SMALL.draws - row.particles


def test_the_folder_holds_all_of_it(default, place):
    assert default.folder == place.folder / "compare-1"
    names = {str(path.relative_to(default.folder)) for path in default.folder.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.png" for name in ("bounds", "khat", "snr")}
    assert names == {"comparison.html", "comparison.json", "comparison.md", "inference.nc", *figures}
    stored = json.loads((default.folder / "comparison.json").read_text(encoding="utf-8"))
    assert stored == default.as_json()
    assert stored["settings"]["seed"] == 0
    text = (default.folder / "comparison.md").read_text(encoding="utf-8")
    assert all(line in text for line in default.verdict)
    assert text.count("| fivo:16 |") == 2


def test_the_draws_are_kept_for_arviz(default):
    tree = _arviz().from_netcdf(default.folder / "inference.nc")
    weights = tree["guide_draws"]["log_weight"]
    assert dict(weights.sizes)["draw"] == default.settings["khat_draws"]
    assert dict(weights.sizes)["sentence"] == default.settings["distinct_sentences"]
    kl = (tree["guide_draws"]["log_q"] - tree["guide_draws"]["log_p"]).mean("draw").squeeze()
    share = tree["constant_data"]["weight"] / tree["constant_data"]["weight"].sum()
    assert float((kl * share).sum()) == pytest.approx(default.rows[0].kl)
    sizes = dict(tree["posterior"]["h"].sizes)
    assert (sizes["draw"], sizes["sentence"], sizes["h_D"]) == (32, 8, tree["posterior"]["h_D"].size)
    lengths = [len(text) + 1 for text in tree["posterior"]["text"].values]
    assert sizes["h_T"] == min(lengths)
    observed, predicted = tree["observed_data"]["length"], tree["posterior_predictive"]["length"]
    assert list(observed.values) == [len(text) + 1 for text in observed["text"].values]
    assert bool((predicted >= 1).all())
    assert bool((predicted <= observed).all())  # a step of h for each letter
    assert (tree.attrs["guide"], tree.attrs["run"]) == ("diagonal", default.rows[0].run)


def test_progress_is_told_row_by_row(default, watched):
    assert ("draws of guide 'diagonal'", 0, 1) in watched
    assert ("bounds: iwae:16, guide 'diagonal'", 3, 7) in watched
    assert watched[-2:] == [("gradients, all rows in turns", 28, 28), ("draws of the posterior, for ArviZ", 1, 1)]


def test_equal_seeds_give_equal_rows_whatever_stands_beside_them(default, place, tmp_path, unseen):
    again = compare_runs([place], None, ["fivo:16", "elbo"], settings=SMALL, out=tmp_path / "again")
    for name, row in by_name(again).items():
        other = by_name(default)[name]
        timed = ("seconds_per_step",)
        assert {k: v for k, v in row.as_dict().items() if k not in timed} == {
            k: v for k, v in other.as_dict().items() if k not in timed
        }
    changed = compare_runs([place], None, ["elbo"], settings=Settings(32, 20, 3, seed=1), out=tmp_path / "changed")
    assert changed.rows[0].bound != by_name(default)["elbo"].bound
    assert changed.rows[0].seed != by_name(default)["elbo"].seed


def test_the_bound_is_that_of_the_evaluator(place, tmp_path, unseen):
    """The same sentences through ``Run.evaluate``."""
    found = compare_runs([place], None, ["elbo"], settings=Settings(1000, 20, 2), out=tmp_path / "c")
    expected = place.evaluate("valid", particles=1000, limit=20, seed=0)
    (row,) = found.rows
    assert row.bound == pytest.approx(expected.elbo, abs=5 * (row.bound_se + expected.elbo_se))
    assert row.kl == pytest.approx(expected.kl, abs=0.05)
    assert row.bound_per_token * expected.n_eos / expected.n_sent == pytest.approx(row.bound)


def test_orderings_agree_with_theory(guides):
    for guide in ("mean-field", "prior"):
        rows = by_name(guides, guide)
        bounds = [rows[name].bound for name in ("elbo", "iwae:4", "iwae:16")]
        assert bounds == sorted(bounds)
        assert rows["elbo"].bound_equal_k == pytest.approx(bounds[0], abs=5 * rows["elbo"].bound_equal_k_se + 0.05)
        assert rows["iwae:4"].bound_equal_k == pytest.approx(bounds[2], abs=5 * rows["iwae:4"].bound_equal_k_se + 0.05)
    blind = by_name(guides, "prior")["elbo"]
    assert blind.kl == pytest.approx(0.0, abs=1e-4)
    assert blind.active_units == 0
    assert blind.mutual_information == pytest.approx(0.0, abs=1e-5)
    assert blind.snr_guide is None
    assert blind.gradient_variance_guide is None
    assert blind.snr_model is not None
    assert any("WARNING 'prior'" in line for line in guides.verdict)


def test_equal_draws_scale_the_ratio(default):
    for row in default.rows:
        factor = (SMALL.draws / row.particles) ** 0.5
        assert row.snr_model_equal_draws == pytest.approx(factor * row.snr_model)


def test_guides_are_refitted_once_and_then_taken_again(guides, place, tmp_path, unseen):
    folders = {row.guide: row.folder for row in guides.rows}
    assert folders["diagonal"] == str(place.folder)
    assert folders["mean-field"].startswith(str(place.folder / "swaps"))
    assert {row.run for row in guides.rows} == {str(place.folder)}
    (place.folder / "swaps" / "a-folder-of-something-else").mkdir()
    before = sorted((place.folder / "swaps").iterdir())
    told, options = Remembering(), {"settings": SMALL}
    again = compare_runs([place], ["mean-field"], TWO, steps=REFIT, out=tmp_path / "a", progress=told, **options)
    assert again.rows[0].folder == folders["mean-field"]
    assert f"guide 'mean-field': taking {folders['mean-field']}, refitted before" in told.messages[0]
    assert sorted((place.folder / "swaps").iterdir()) == before
    other = compare_runs([place], ["mean-field"], TWO, steps=3, out=tmp_path / "b", progress=told, **options)
    assert other.rows[0].folder != folders["mean-field"]
    assert pt.load(other.rows[0].folder).config.training.steps == 3


def test_a_child_compares_with_its_parent_as_a_run(guides, place, tmp_path):
    child = pt.load({row.guide: row.folder for row in guides.rows}["mean-field"])
    found = compare_runs([place, child], None, TWO, settings=SMALL, out=tmp_path / "c")
    assert [row.run for row in found.rows] == [str(place.folder)] * 2 + [str(child.folder)] * 2
    assert [row.guide for row in found.rows] == ["diagonal"] * 2 + ["mean-field"] * 2
    assert str(place.folder)[-20:] in found.text
    files = ["inference.nc", *(path.name for path in (tmp_path / "c").glob("inference-mean-field-*.nc"))]
    opened = [_arviz().from_netcdf(tmp_path / "c" / name).attrs for name in files]
    assert [(of["guide"], of["run"]) for of in opened] == [
        ("diagonal", str(place.folder)),
        ("mean-field", str(child.folder)),
    ]


def test_the_run_is_left_as_it_was(place, tmp_path, unseen):
    before = {name: value.clone() for name, value in place.model.state_dict().items()}
    state = torch.get_rng_state()
    place.compare(None, TWO, draws=4, sentences=5, repeats=2, out=tmp_path / "c")
    assert torch.get_rng_state().equal(state)
    assert all(torch.equal(value, before[name]) for name, value in place.model.state_dict().items())
    assert not place.model.training
    assert all(p.grad is None for p in place.model.parameters())


def test_an_interruption_leaves_nothing_behind(place, tmp_path, unseen, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ppl_text.recipes.compare.snr_figure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare_runs([place], None, ["elbo"], settings=SMALL, out=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


STEPLESS = """
import pyro
from guides.deep_state_space import DiagonalGuide

class Whole(DiagonalGuide):
    \"\"\"q(h | w) without steps.\"\"\"
    smc_init = smc_step = None
"""


def test_an_objective_that_does_not_run_is_left_out_with_a_note_or_refused(place, tmp_path, unseen):
    (tmp_path / "whole.py").write_text(STEPLESS, encoding="utf-8")
    guide = [f"{tmp_path / 'whole.py'}:Whole"]
    options = {"settings": SMALL, "steps": 2}
    told = Remembering()
    found = compare_runs([place], guide, out=tmp_path / "c", progress=told, **options)
    assert [row.objective for row in found.rows] == [o for o in OBJECTIVES if o[:4] not in ("fivo", "step")]
    assert found.rows[0].guide == "whole.py:Whole"
    assert len(found.notes) == 2
    assert "the guide Whole lacks smc_init()" in found.notes[0]
    assert set(found.notes) <= set(told.messages)
    assert all(f"- {note}" in found.markdown() for note in found.notes)
    with pytest.raises(UserError, match=r"objective 'fivo:4' draws the latents step by step: the guide Whole lacks"):
        compare_runs([place], guide, ["fivo:4"], out=tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


MINE = "from guides.deep_state_space import PriorGuide\nclass Mine(PriorGuide):\n    'q(h)'\n"


def test_guides_of_one_name_and_a_run_given_twice(place, tmp_path, unseen):
    """Two files with a class of one name are told apart; the same folder twice is one run."""
    paths = [tmp_path / name / "mine.py" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(MINE, encoding="utf-8")
    twice = [place, pt.load(place.folder)]
    names = [f"{path}:Mine" for path in paths]
    found = compare_runs(twice, names, ["elbo"], settings=SMALL, steps=2, out=tmp_path / "c")
    assert [row.guide for row in found.rows] == names


def test_what_an_objective_lacks_is_said_before_any_refit(guides, place, tmp_path):
    (tmp_path / "whole.py").write_text(STEPLESS.replace("Whole", "Other"), encoding="utf-8")
    before = sorted((place.folder / "swaps").iterdir())
    with pytest.raises(UserError, match="the guide Other lacks"):
        compare_runs([place], ["tril", f"{tmp_path / 'whole.py'}:Other"], ["fivo:4"], settings=SMALL, steps=2)
    assert sorted((place.folder / "swaps").iterdir()) == before


def test_a_stock_objective_has_a_row_too(place, tmp_path, unseen):
    found = compare_runs([place], None, ["pyro:Trace_ELBO", "iwae:4"], settings=SMALL, out=tmp_path / "c")
    stock = by_name(found)["pyro:Trace_ELBO"]
    assert stock.bound_equal_k is None
    assert stock.ess is not None
    assert stock.snr_model is not None


@pytest.mark.parametrize("change", [{"draws": 1}, {"sentences": 1}, {"repeats": 1}, {"seed": -1}])
def test_too_few_for_a_spread(place, change):
    ((name, value),) = change.items()
    with pytest.raises(UserError, match=f"{name} must be [02] or more.* got {value}"):
        compare_runs([place], settings=Settings(**change))


def test_no_run_no_comparison():
    with pytest.raises(UserError, match="give at least one run"):
        compare_runs([])
