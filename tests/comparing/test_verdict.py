"""Tables and verdict of hand-made rows."""

import math

import numpy as np
import pytest

from ppl_text.comparing.draws import SiteUse
from ppl_text.comparing.rows import Comparison, Measurement, tables
from ppl_text.comparing.verdict import paired_difference, verdict
from ppl_text.training.programs import Sizes

N = 50
BASE = np.linspace(-12.0, -8.0, N)


def row(guide="rich", objective="iwae:16", level=0.0, spread=0.0, run="runs/a", **changes):
    """A row whose sentences have BASE + level, apart by ± ``spread`` in turns."""
    values = BASE + level + spread * np.where(np.arange(N) % 2, 1.0, -1.0)
    family, _, particles = objective.partition(":")
    columns = {
        "run": run,
        "folder": run,
        "guide": guide,
        "objective": objective,
        "family": family,
        "particles": int(particles or 1),
        "draws": 128,
        "seed": 7,
        "bound": values.mean(),
        "bound_se": 0.01,
        "bound_per_token": values.mean() / 5,
        "bound_per_token_se": 0.002,
        "equal_k": 16,
        "bound_equal_k": values.mean(),
        "bound_equal_k_se": 0.01,
        "gradient_variance_model": 2.0,
        "gradient_variance_guide": 3.0,
        "snr_model": 1.0,
        "snr_guide": 1.0,
        "snr_model_equal_draws": 2.0,
        "snr_guide_equal_draws": 2.0,
        "ess": 0.5,
        "khat_good": 0.9,
        "khat_ok": 0.08,
        "khat_bad": 0.02,
        "khat_median": 0.2,
        "seconds_per_step": 0.0123,
        "peak_bytes": 3 * 2**20,
        "kl": 4.0,
        "active_units": 8,
        "units": 8,
        "mutual_information": 2.0,
        "mutual_information_cap": 3.0,
        "by_sentence": values,
        "weights": np.ones(N),
        "sizes": Sizes(7847, 29616),
    }
    return Measurement(**{**columns, **changes})


def said(*rows):
    return "\n".join(verdict(rows))


def test_the_difference_is_paired():
    """Sentences spread over 4 nats, their differences over 0.2: only the latter counts."""
    first, second = row(level=0.5, spread=0.1), row()
    mean, error = paired_difference(first, second)
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx(0.1 * math.sqrt(N / (N - 1) / N))


def test_the_difference_is_weighted():
    weights = np.r_[np.full(N // 2, 3.0), np.full(N // 2, 1.0)]
    level = np.r_[np.full(N // 2, 1.0), np.full(N // 2, -1.0)]
    mean, error = paired_difference(row(by_sentence=level, weights=weights), row(by_sentence=0 * level))
    assert mean == pytest.approx(0.5)
    share = weights / weights.sum()
    assert error == pytest.approx(math.sqrt(N / (N - 1) * (share**2 @ (level - 0.5) ** 2)))


def test_a_clear_winner_is_named_with_the_difference():
    text = said(row("poor", level=-1.0), row("rich", spread=0.1))
    assert "'rich' has the highest bound: -10.000" in text
    assert "1.000 ± 0.014 above 'poor'" in text
    assert "a real difference" in text


def test_what_is_within_two_standard_errors_is_too_close_to_call():
    text = said(row("poor", level=-0.01), row("rich", spread=0.1))
    assert "'rich' has the highest bound" in text
    assert "too close to call" in text
    assert "real difference" not in text


def test_two_standard_errors_are_the_line():
    error = 0.1 * math.sqrt(N / (N - 1) / N)
    assert "too close" in said(row("poor", level=-1.9 * error), row("rich", spread=0.1))
    assert "real difference" in said(row("poor", level=-2.1 * error), row("rich", spread=0.1))


def test_the_best_bound_at_the_common_k_decides_and_not_the_own_k():
    low = row("rich", "elbo", level=0.3, bound=-99.0)
    assert "'rich' has the highest bound: -9.700" in said(low, row("poor"))
    assert "elbo at K = 16" in said(low, row("poor"))


def test_one_guide_has_no_rival():
    assert "it is the only guide here" in said(row())


def test_the_least_noisy_estimators_are_named_for_each_guide():
    rows = [
        row("rich", "elbo", snr_model_equal_draws=3.0, snr_guide_equal_draws=0.1),
        row("rich", "dreg:16", snr_model_equal_draws=1.0, snr_guide_equal_draws=0.9),
        row("poor", "elbo", snr_model_equal_draws=9.0, snr_guide_equal_draws=None),
        row("poor", "dreg:16", snr_model_equal_draws=0.0, snr_guide_equal_draws=None),
    ]
    text = said(*rows)
    assert (
        "'rich': least noisy gradient at equal draws of the model's parameters by elbo (SNR 3), of the guide's "
        "parameters by dreg:16 (SNR 0.9)." in text
    )
    assert "'poor': least noisy gradient at equal draws of the model's parameters by elbo (SNR 9)." in text


def test_gradients_that_drown_in_noise_are_not_ranked():
    quiet = {"snr_model_equal_draws": 0.0, "snr_guide_equal_draws": 0.0}
    assert "of the model's parameters: none above its noise, try more --repeats" in said(
        row(objective="elbo", **quiet), row(**quiet)
    )


def test_a_gain_of_a_richer_objective_is_told_from_none():
    assert "iwae:16 is 0.200 ± 0.000 nats a sentence above elbo" in said(row(objective="elbo", level=-0.2), row())
    assert "nothing to speak of; elbo will do" in said(row(objective="elbo", level=-0.005), row())
    assert "nothing to speak of" in said(row(objective="elbo", level=-0.05), row(spread=0.5))
    assert "no objective is above elbo" in said(row(objective="elbo", level=0.1), row())


def test_khat_says_whether_importance_weights_can_be_trusted():
    assert "k̂ > 0.7 on 2% of the sentences (median 0.20): importance-weighted bounds can be trusted" in said(row())
    bad = said(row(khat_bad=0.2, khat_good=0.5, khat_ok=0.3))
    assert "k̂ > 0.7 on 20% of the sentences: a few draws carry the weight there; " in bad
    assert "bounds are loose on these." in bad
    assert "can be trusted" not in bad
    worse = said(row(khat_bad=0.6, khat_good=0.3, khat_ok=0.1))
    assert "bounds are loose and their errors claim no coverage." in worse


@pytest.mark.parametrize("poor", ["first", "second"])
def test_no_difference_is_real_where_an_error_claims_no_coverage(poor):
    bad = {"khat_bad": 0.6}
    first = row("rich", spread=0.1, **(bad if poor == "first" else {}))
    second = row("poor", level=-1.0, **(bad if poor == "second" else {}))
    text = said(first, second)
    assert "1.000 ± 0.014 above 'poor'" in text
    assert "a real difference" not in text
    assert f"the bound of '{(first if poor == 'first' else second).guide}' hangs on a few draws" in text


def test_plain_means_are_believed_whatever_khat_is():
    """An ELBO at any K weighs its draws alike, and so does every bound at K = 1."""
    bad = {"khat_bad": 0.6}
    elbo = row("rich", "elbo", spread=0.1, **bad), row("poor", "elbo", level=-1.0, **bad)
    assert "a real difference" in said(*elbo)
    one = {"equal_k": 1, "khat_bad": 0.6}
    assert "a real difference" in said(
        row("rich", "iwae:1", spread=0.1, **one), row("poor", "iwae:1", level=-1.0, **one)
    )


def test_a_gain_by_unreliable_weights_says_so():
    text = said(row(objective="elbo", level=-0.2, khat_bad=0.6), row(khat_bad=0.6))
    assert "iwae:16 is 0.200 ± 0.000 nats a sentence above elbo (an error that claims no coverage, by k̂)" in text


def test_errors_that_claim_no_coverage_are_marked_in_the_table():
    bad = {"khat_bad": 0.6}
    (title, header, cells), *_ = tables([row(**bad), row(objective="elbo", **bad), row("fine")], "word")
    bounds = [dict(zip(header, line, strict=True)) for line in cells]
    assert [line["bound ± s.e."].endswith("†") for line in bounds] == [True, False, False]
    assert [line["at K = 16"].endswith("†") for line in bounds] == [True, False, False]
    assert [line["k̂ > 0.7"] for line in bounds] == ["60%", "60%", "2%"]
    assert title.startswith("Bounds, nats per word († unreliable: k̂ > 0.7 on more than a third of the words")
    assert tables([row()], "word")[0][0] == "Bounds, nats per word"


def test_texts_are_called_what_the_corpus_calls_them():
    text = "\n".join(verdict([row(), row("poor", level=-1.0), row("flat", level=-2.0, kl=0.0)], "word"))
    assert "nats per word" in text
    assert "on the same words" in text
    assert "k̂ > 0.7 on 2% of the words" in text
    assert "tells nothing of the word" in text
    assert "sentence" not in text


def test_a_ratio_that_is_not_told_from_zero_is_quoted_as_less_than_the_floor():
    seen = {"snr_model": 0.1, "snr_guide": 0.3, "snr_floor": 0.2}
    equal = {"snr_model_equal_draws": 1.1, "snr_guide_equal_draws": 3.4, "snr_floor_equal_draws": 2.26}
    one = row(**seen, **equal)
    _, (_, header, (cells,)), _ = tables([one])
    found = dict(zip(header, cells, strict=True))
    assert [found[name] for name in ("SNR model", "SNR guide", "model, equal", "guide, equal")] == [
        *("< 0.2", "0.3", "< 2.3", "3.4")
    ]
    other = {**equal, "snr_guide_equal_draws": 1.0}
    text = said(one, row(objective="elbo", **seen, **other))
    assert "of the model's parameters: none above its noise, try more --repeats" in text
    assert "of the guide's parameters by iwae:16 (SNR 3.4)" in text


def test_no_number_is_printed_as_minus_zero():
    tiny = dict.fromkeys(("bound", "bound_se", "bound_per_token", "bound_equal_k", "kl", "mutual_information"), -1e-9)
    one = row(
        **tiny, by_sentence=np.full(N, -1e-9), khat_median=-1e-9, snr_model=-1e-30, sites={"z": SiteUse(-1e-9, 0, 1)}
    )
    shown = Comparison([one, row("other", level=-1e-9)], {}, [], verdict([one]))
    assert "-0.0" not in shown.text + shown.markdown()


@pytest.mark.parametrize(
    "changes", [{"kl": 0.01}, {"active_units": 0}, {"kl": 0.0, "active_units": None, "units": None}]
)
def test_a_collapsed_guide_with_perfect_ess_is_not_taken_for_a_good_one(changes):
    text = said(row("flat", ess=0.999, **changes))
    assert "WARNING 'flat'" in text
    assert "collapsed" in text
    assert "Its ESS is perfect because there is nothing to infer" in text


def test_a_guide_at_work_is_not_warned_of():
    assert "WARNING" not in said(row(ess=0.999))
    assert "perfect" not in said(row("flat", kl=0.0, ess=0.1))


def test_guides_of_several_runs_are_told_apart():
    text = said(row(run="runs/a"), row(run="runs/b", level=-1))
    assert "'rich' of runs/a has the highest bound" in text
    assert "above 'rich' of runs/b" in text


def test_guides_without_a_finite_bound_are_named_and_not_compared():
    point = row(guide="point", bound=-math.inf, bound_equal_k=-math.inf, kl=math.inf, active_units=0)
    text = said(row(), point)
    assert "it is the only guide here. No finite bound: 'point'." in text
    assert "inf ±" not in text
    assert "WARNING 'point'" not in text
    assert said(point).startswith("No guide has a finite bound; a point mass has none.")


def test_no_rows_no_words():
    assert verdict([]) == []


GUIDES = ["diagonal", "tril", "bidirectional", "mean-field"]
OBJECTIVES = ["elbo", "elbo-analytic", "stl", "iwae:16", "dreg:16", "stepwise:5", "fivo:16"]


def test_the_tables_fit_into_a_terminal_and_lack_no_row():
    rows = [row(guide, objective) for guide in GUIDES for objective in OBJECTIVES]
    bounds, gradients, guides = tables(rows)
    assert len(bounds[2]) == len(gradients[2]) == 28
    assert [line[0] for line in guides[2]] == GUIDES
    text = Comparison(rows, {}, [], ["the end"]).text
    measured = text.split("Verdict")[0].splitlines()
    assert max(map(len, measured)) <= 120
    assert text.endswith("Verdict\n- the end")


def test_cells_say_what_was_measured():
    one = row(equal_k=None, bound_equal_k=None, bound_equal_k_se=None, snr_guide=None, khat_median=-math.inf)
    bounds, gradients, guides = tables([one])
    cells = dict(zip(bounds[1], bounds[2][0], strict=True))
    assert cells["bound ± s.e."] == "-10.000 ± 0.010"
    assert cells["at K = –"] == "–"
    assert cells["ms/step"] == "12.3"
    assert cells["peak MiB"] == "3.0"
    assert dict(zip(gradients[1], gradients[2][0], strict=True))["SNR guide"] == "–"
    assert "2.000 of 3.000" in guides[2][0]
    assert dict(zip(guides[1], guides[2][0], strict=True))["parameters (model + guide)"] == "7,847 + 29,616"
    assert "-inf" in guides[2][0]


def test_plain_values_are_finite_and_complete():
    values = row(khat_median=math.inf).as_dict()
    assert values["khat_median"] is None
    assert values["bound"] == pytest.approx(-10.0)
    assert not {"by_sentence", "weights"} & set(values)
    assert (values["model_parameters"], values["guide_parameters"]) == (7847, 29616)
    assert {"run", "guide", "objective", "snr_model", "peak_bytes", "mutual_information"} <= set(values)


def several(z=(0.001, 0, 4), a=(5.0, None, None)):
    """A row of two latents with these KL, active units and units."""
    z, a = SiteUse(*z), SiteUse(*a)
    return row("joint", kl=z.kl + a.kl, active_units=z.active_units, units=4, sites={"z": z, "a": a})


def test_one_of_several_latents_that_has_collapsed_is_named():
    found = several(z=(0.001, 1, 4))
    assert verdict([found])[-1] == (
        "WARNING 'joint', latent 'z': KL 0.001 nats, 1 of 4 units active: it has collapsed on its prior."
    )
    assert "WARNING" not in said(several(z=(2.0, 3, 4)))
    assert "'z'" not in said(several(a=(0.0, None, None))), "all have collapsed"


def test_several_latents_have_columns_of_their_own_and_one_has_none():
    (*_, (_, header, (cells, others))) = tables([several(), row("other", sites={"z": SiteUse(1.0, 2, 4)})])
    assert dict(zip(header, cells, strict=True))["KL, units of z"] == "0.001, 0/4"
    assert dict(zip(header, cells, strict=True))["KL, units of a"] == "5.000"
    assert dict(zip(header, others, strict=True))["KL, units of a"] == "–"
    assert several().as_dict()["sites"]["a"] == {"kl": 5.0, "active_units": None, "units": None}
    assert "sites" not in row(sites={"z": SiteUse(1.0, 2, 4)}).as_dict()


def test_information_that_cannot_be_known_is_no_number():
    found = row(mutual_information=math.nan, informed=("h",))
    (*_, (_, header, (cells,))) = tables([found])
    assert dict(zip(header, cells, strict=True))["I(x; h)"] == "–"
    assert found.as_dict()["mutual_information"] is None


def test_latents_are_called_what_their_models_call_them():
    """Of two models in one table, one with several latents of the whole text; and of one without any."""
    both = [row(informed=("h",)), row("other", informed=("z", "a")), row("more", informed=("h",))]
    for rows, heading in ((both, "I(x; h/z, a)"), ([row()], "I(x; latents)")):
        (*_, (_, header, _)) = tables(rows)
        assert heading in header


def test_where_nothing_is_latent_every_bound_is_exact():
    nothing = {"kl": 0.0, "active_units": None, "khat_bad": None, "khat_median": None, "ess": None, "exact": True}
    lines = verdict([row("exact", **nothing)])
    assert lines[0].startswith("'exact' has the highest bound: -10.000 nats per sentence (exact)")
    assert lines[-1] == "'exact': nothing is latent, so every bound is ln p(x) itself, without error."
