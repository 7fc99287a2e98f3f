"""What ArviZ reads of a guide; needs no torch and runs on ArviZ 0.23 and 1.x alike."""

import math
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from ppl_text.core.errors import CheckpointError
from ppl_text.plots import inference_data
from ppl_text.plots.inference_data import (
    Inference,
    Posterior,
    Predicted,
    evidence_draws,
    pareto_k,
    save_inference,
)

NAN, INF = math.nan, math.inf


# The file

TEXTS = ["thé", "日本語 🙂", "", "on"]
WEIGHTS = np.array([1.0, 2.5, 0.0, 3.0])
KHAT = np.array([-INF, 0.2, 0.9, 0.3])
ATTRIBUTES = {
    "seed": 7,
    "rate": 0.5,
    "split": "välid",
    "exact": True,
    "seeds": [1, 2],
    "of": {"ü": "2"},
    "no": None,
}
PICKS, DRAWS = 40, 30


class Terms:
    """Log-terms of draws as arrays: the file needs no torch."""

    def __init__(self, log_likelihood, log_p, log_q):
        self.log_likelihood, self.log_p, self.log_q = log_likelihood, log_p, log_q
        weights = log_likelihood + sum(log_p[site] - log_q[site] for site in log_q)
        self.scores = SimpleNamespace(log_weights=weights)


def content(seed=0, **changes):
    """A latent h with three steps of two units, and one z of a whole text; h is known of the texts 1 and 3."""

    def term(*shape):
        return rng.normal(size=shape).astype(np.float32)

    rng = np.random.default_rng(seed)
    terms = Terms(term(DRAWS, 4), *({site: term(DRAWS, 4) for site in ("h", "z")} for _ in range(2)))
    rows = np.array([1, 3])
    values = {"h": term(PICKS, 2, 3, 2), "z": term(PICKS, 2)}
    predicted = Predicted(np.arange(4), np.array([4, 5, 1, 3]), rng.integers(1, 9, size=(16, 4)))
    whole = Inference(
        terms,
        KHAT,
        TEXTS,
        WEIGHTS,
        evidence_draws(terms.scores.log_weights, seed),
        Posterior(rows, {"h": ("T", "D"), "z": ()}, values, 160),
        predicted,
    )
    return whole._replace(**changes)


CONTENT = content()


def save(folder, found=CONTENT, attributes=ATTRIBUTES):
    save_inference(folder / "inference.nc", found, attributes)
    return folder / "inference.nc"


def from_netcdf(path):
    return inference_data._arviz().from_netcdf(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of all that; read it, do not write to it."""
    return save(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def opened(saved):
    data = from_netcdf(saved)
    yield data
    data.close()


def test_draws_of_the_posterior_come_back_by_name_and_place(opened):
    posterior = opened["posterior"]
    assert posterior["h"].dims == ("chain", "draw", "sentence", "h_T", "h_D")
    assert posterior["z"].dims == ("chain", "draw", "sentence")
    assert np.array_equal(posterior["h"].values[0], CONTENT.posterior.values["h"])
    third = posterior["z"].sel(sentence=3, chain=0)
    assert np.array_equal(third.values, CONTENT.posterior.values["z"][:, 1])
    assert third["text"].item() == "on"
    assert list(posterior["h_T"].values) == [1, 2, 3]
    assert list(posterior["h_D"].values) == [0, 1]
    assert posterior.attrs["picked_from"] == 160


def test_the_guides_own_draws_and_what_is_known_of_each_text_come_back(opened):
    own, terms = opened["guide_draws"], CONTENT.terms
    for name, values in (("log_weight", terms.scores.log_weights), ("log_likelihood", terms.log_likelihood)):
        assert own[name].dims == ("draw", "sentence")
        assert own[name].dtype == np.float32
        assert np.array_equal(own[name].values, values)
    for name in ("log_p", "log_q"):
        assert own[name].dims == ("draw", "sentence", "site")
        for site, values in getattr(terms, name).items():
            assert np.array_equal(own[name].sel(site=site).values, values)
    known = opened["constant_data"]
    assert list(known["text"].values) == TEXTS
    assert np.array_equal(known["khat"].values, KHAT)
    assert np.array_equal(known["weight"].values, WEIGHTS)


def test_every_group_says_what_it_holds_and_missing_ones_why(opened, tmp_path):
    groups = ("posterior", "log_likelihood", "posterior_predictive", "observed_data", "constant_data", "guide_draws")
    for group in groups:
        assert len(opened[group].attrs["description"]) > 40
    assert opened.attrs["left_out"] == "{}"
    assert opened.attrs["khat_above_0.7"] == 0.0  # the one above counts for nothing
    bare = CONTENT._replace(log_evidence=None, posterior=None, predicted=None, left_out={"posterior": "nothing latent"})
    data = from_netcdf(save(tmp_path, bare))
    present = data.groups() if callable(data.groups) else data.groups
    assert {name.strip("/") for name in present} - {""} == set(groups[4:])
    assert data.attrs["left_out"] == '{"posterior": "nothing latent"}'


def test_attributes_are_plain_or_json_and_no_time_is_among_them(opened):
    expected = {"seed": 7, "rate": 0.5, "split": "välid", "exact": "true", "seeds": "[1, 2]", "of": '{"ü": "2"}'}
    assert dict(opened.attrs) == {**expected, "no": "null", "khat_above_0.7": 0.0, "left_out": "{}"}
    assert isinstance(opened.attrs["split"], str)


def test_the_same_content_is_the_same_file_and_another_seed_is_not(saved, tmp_path):
    again = save(tmp_path)
    assert again.read_bytes() == saved.read_bytes()
    save(tmp_path, content(seed=1))
    assert again.read_bytes() != saved.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["inference.nc"]


def test_a_language_model_has_no_latent_and_no_terms_by_site(tmp_path):
    terms = Terms(CONTENT.terms.log_likelihood, {}, {})
    data = from_netcdf(save(tmp_path, CONTENT._replace(terms=terms)))
    assert set(data["guide_draws"].data_vars) == {"log_weight", "log_likelihood"}


def test_texts_that_hdf5_cannot_hold_lose_the_fault_and_not_the_file(tmp_path):
    data = from_netcdf(save(tmp_path, content(texts=["a\0b", "c\ud800d", "e", "f"])))
    assert list(data["constant_data"]["text"].values) == ["a\ufffdb", "c?d", "e", "f"]


def test_a_disk_that_refuses_leaves_the_old_file(saved, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    copy = shutil.copy(saved, tmp_path / "inference.nc")
    monkeypatch.setattr("ppl_text.core.atomic.os.replace", refuse)
    with pytest.raises(CheckpointError, match=r"cannot write .*inference\.nc: the disk is full"):
        save(tmp_path, content(seed=1))
    assert copy.read_bytes() == saved.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["inference.nc"]


MISFITS = {
    "other sentences": (
        {"texts": ["a"]},
        r"\(S, N\) = \(30, 1\), .* log_likelihood \(30, 4\), .*, log_evidence \(4,\)$",
    ),
    "other weights": ({"weights": np.ones(1)}, r"but got weights \(1,\)$"),
    "other evidence": ({"log_evidence": np.zeros((30, 5))}, r"but got log_evidence \(5,\)$"),
    "several": (
        {"terms": Terms(np.zeros((30, 4)), {"h": np.zeros((30, 4))}, {"h": np.zeros((1, 4))}), "khat": np.zeros(1)},
        r"but got log_q\[h\] \(1, 4\), k̂ \(1,\)$",
    ),
}


@pytest.mark.parametrize(("changes", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_belong_together_is_refused_all_at_once_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path, content(**changes))
    assert list(tmp_path.iterdir()) == []


# What ArviZ makes of it

NOISE, N, S = 0.5, 60, 400


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    """z ~ N(0, 1), x | z ~ N(z, s²), a guide that is too wide and beside the posterior; the truth, and the file."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=N) * math.sqrt(1 + NOISE**2)
    mean, scale = x / (1 + NOISE**2), NOISE / math.sqrt(1 + NOISE**2)

    def normal(value, loc, scale):
        return -0.5 * ((value - loc) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))

    z = rng.normal(mean + 0.1, 1.3 * scale, size=(S, N))
    terms = Terms(normal(x, z, NOISE), {"z": normal(z, 0, 1)}, {"z": normal(z, mean + 0.1, 1.3 * scale)})
    weights = terms.scores.log_weights
    rows = np.arange(3)
    found = Inference(
        terms,
        pareto_k(weights.T),
        [f"text {n}" for n in range(N)],
        np.ones(N),
        evidence_draws(weights, 1),
        Posterior(rows, {"z": ()}, {"z": rng.normal(mean, scale, size=(S, N))[:, rows]}, S),
        Predicted(np.arange(N), rng.poisson(5, N), rng.poisson(5, (16, N))),
    )
    path = save(tmp_path_factory.mktemp("gaussian"), found)
    relative = np.exp(weights - weights.max(0))
    errors = relative.std(0) / relative.mean(0) / math.sqrt(S)
    posterior_draws = rng.normal(mean, scale, size=(S, N))
    return SimpleNamespace(
        data=from_netcdf(path),
        truth=normal(x, 0, math.sqrt(1 + NOISE**2)),
        error=math.sqrt((errors**2).sum()),
        conditional=normal(x, posterior_draws, NOISE),
    )


def loo(data, **options):
    return inference_data._arviz().loo(data, pointwise=True, **options)


def elpd(found):
    """ArviZ 1.x calls it ``elpd``."""
    return float(found.elpd if hasattr(found, "elpd") else found.elpd_loo)


def test_loo_is_the_log_likelihood_of_texts_whose_latents_are_their_own(gaussian):
    """Parameters are fixed, so that the other texts tell nothing of one: Σ ln p(x | others) = Σ ln p(x)."""
    found = loo(gaussian.data)
    assert elpd(found) == pytest.approx(gaussian.truth.sum(), abs=5 * gaussian.error)
    assert np.all(np.asarray(found.pareto_k) < 0.5)


def test_loo_of_the_likelihood_given_the_latents_is_what_it_must_not_be(gaussian, tmp_path):
    """The harmonic mean of p(x | z) over the *exact* posterior misses Σ ln p(x) by far more than its error says."""
    import xarray as xr

    dims = ("chain", "draw", "sentence")
    parts = {
        "posterior": xr.Dataset({"z": (dims, np.zeros((1, S, N)))}),
        "log_likelihood": xr.Dataset({"x": (dims, gaussian.conditional[None])}),
    }
    (tmp_path / "wrong.nc").write_bytes(xr.DataTree.from_dict(parts).to_netcdf(engine="h5netcdf"))
    with pytest.warns(UserWarning, match="Pareto"):
        found = loo(from_netcdf(tmp_path / "wrong.nc"))
    assert elpd(found) > gaussian.truth.sum() + 5 * gaussian.error
    assert np.mean(np.asarray(found.pareto_k) > 0.7) > 0.5


def test_the_weights_in_the_file_have_the_k_that_stands_beside_them(gaussian):
    """By ArviZ itself, whatever its version calls it."""
    arviz, weights = inference_data._arviz(), gaussian.data["guide_draws"]["log_weight"]
    if hasattr(arviz, "psislw"):
        found = np.asarray(arviz.psislw(weights.values.T.copy())[1])
    else:
        found = (-weights).azstats.psislw(dim="draw")[1].values
    assert found == pytest.approx(gaussian.data["constant_data"]["khat"].values, abs=1e-12)


def test_the_bootstrap_knows_the_error_of_the_mean_weight():
    """Σ_s g_s w_s with g uniform on the simplex: its mean is that of w, its variance Var(w)/(S + 1)."""
    weights = np.exp(np.random.default_rng(0).normal(size=(500, 3)))
    draws = np.exp(evidence_draws(np.log(weights) + 800, seed=1) - 800)
    scale = np.sqrt(weights.var(0) / 501)
    assert draws.shape == (500, 3)
    assert draws.mean(0) == pytest.approx(weights.mean(0), abs=5 * float(scale.max()) / math.sqrt(500))
    # The variance of 500 draws that are nearly normal has a relative error of √(2/500); of heavy ones, some more.
    assert draws.var(0) == pytest.approx(scale**2, rel=10 * math.sqrt(2 / 500))


@pytest.fixture
def pyplot(monkeypatch):
    """Figures in memory, closed afterwards."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        # ArviZ 0.23 on matplotlib 3.11; 1.x on counts drawn as densities.
        warnings.simplefilter("ignore")
        yield plt
    plt.close("all")


def called(name, newer, *arguments, **options):
    """Call a plot of ArviZ by its name before version 1 or since; return the axes that hold something."""
    arviz = inference_data._arviz()
    made = getattr(arviz, name if hasattr(arviz, name) else newer)(*arguments, **options)
    import matplotlib.pyplot as plt

    assert made is not None
    return [axes for axes in plt.gcf().axes if axes.lines or axes.collections or axes.patches]


def test_k_of_loo_is_drawn_for_every_text(gaussian, pyplot):
    found = loo(gaussian.data)
    (axes, *_) = called("plot_khat", "plot_khat", found)
    points = [np.asarray(of.get_offsets()) for of in axes.collections]
    drawn = next(of[:, 1] for of in points if len(of) == N)
    assert drawn == pytest.approx(np.asarray(found.pareto_k))


def test_the_posterior_of_chosen_texts_is_drawn(opened, pyplot):
    assert len(called("plot_posterior", "plot_dist", opened, var_names=["z"])) == 2
    pyplot.close("all")
    chosen = {"sentence": 3, "h_T": [1, 2]}
    assert len(called("plot_posterior", "plot_dist", opened, var_names=["h"], coords=chosen)) == 4


def test_a_forest_has_a_line_for_each_entry(opened, pyplot):
    axes = called("plot_forest", "plot_forest", opened, combined=True)
    assert max(len(shown.lines) for shown in axes) >= 2 * 3 * 2 + 2


def test_predicted_lengths_are_drawn_beside_those_of_the_texts(gaussian, pyplot):
    assert called("plot_ppc", "plot_ppc_dist", gaussian.data)
    assert gaussian.data["posterior_predictive"]["length"].dims == ("chain", "draw", "sentence")
    assert gaussian.data["observed_data"]["length"].dims == ("sentence",)
