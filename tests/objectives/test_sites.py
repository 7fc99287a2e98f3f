"""check_sites names every mismatch with its fix; locate_non_finite names the site."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import GuideMismatchError
from ppl_text.objectives.sites import check_sites, locate_non_finite
from ppl_text.objectives.terms import trace_terms

from .programs import Discrete, Program, plain_batch, state_space, word_batch

BATCH = plain_batch(3)


def model(batch: Batch) -> None:
    """z in R², s > 0, x observed."""
    with pyro.plate("sentences", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(torch.zeros(3), 1.0))
        pyro.sample("tokens", dist.Normal(z.sum(-1), s), obs=torch.zeros(3))


def sample_z(name: str = "z", width: int = 2) -> None:
    pyro.sample(name, dist.Normal(torch.zeros(3, width), 1.0).to_event(1))


def sample_s() -> None:
    pyro.sample("s", dist.LogNormal(torch.zeros(3), 1.0))


def inside(*parts, plate: str = "sentences", dim: int = -1):
    def guide(batch: Batch) -> None:
        with pyro.plate(plate, 3, dim=dim):
            for part in parts:
                part()

    return guide


def outside_plate(batch: Batch) -> None:
    pyro.sample("z", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    inside(sample_s)(batch)


def transposed_plate(batch: Batch) -> None:
    with pyro.plate("sentences", 3, dim=-2):
        pyro.sample("z", dist.Normal(torch.zeros(3, 1, 2), 1.0).to_event(1))
    with pyro.plate("sentences ", 3, dim=-1):
        sample_s()


Z_ROW = "event (2,) real in plate 'sentences' at -1 of size 3"

MISMATCHES = {
    "missing": (
        inside(sample_s),
        [
            "site 'z' is missing from the guide (its other sites: none)",
            'add pyro.sample("z", ...) with event shape (2,)',
        ],
    ),
    "misspelt": (
        inside(lambda: sample_z("zz"), sample_s),
        [
            "site 'z' is missing from the guide (its other sites: 'zz')",
            "site 'zz' is in the guide only; remove it, or rename it to a site of the model",
        ],
    ),
    "extra": (
        inside(sample_z, sample_s, lambda: sample_z("more")),
        ["site 'more' is in the guide only; remove it"],
    ),
    "event shape": (
        inside(lambda: sample_z(width=4), sample_s),
        ["site 'z': the model has event (2,), the guide (4,); make them equal"],
    ),
    "support": (
        inside(sample_z, lambda: pyro.sample("s", dist.Normal(torch.zeros(3), 1.0))),
        ["site 's': the model has support", "greaterthan(lower_bound=0.0)", "the guide real; make them equal"],
    ),
    "no plate": (
        outside_plate,
        ["site 'z': the model has plates 'sentences' at -1 of size 3, the guide none; make them equal"],
    ),
    "another plate": (
        inside(sample_z, sample_s, plate="rows"),
        ["site 'z': the model has plates 'sentences' at -1 of size 3, the guide 'rows' at -1 of size 3"],
    ),
    "plate at another dim": (
        transposed_plate,
        ["the guide 'sentences' at -2 of size 3", "site 's': the model has plates"],
    ),
}


@pytest.mark.parametrize(("guide", "messages"), MISMATCHES.values(), ids=MISMATCHES)
def test_every_mismatch_gives_the_table_and_the_fix(guide, messages: list[str]) -> None:
    with pytest.raises(GuideMismatchError) as caught:
        check_sites(model, guide, BATCH)
    text = str(caught.value)
    lines = text.splitlines()
    assert lines[0] == "model and guide do not fit:"
    assert lines[1].split() == ["site", "model", "guide"]
    assert any(line.startswith("z ") and Z_ROW in line for line in lines)
    for message in messages:
        assert message in text
    assert all(line.startswith("- ") for line in lines[lines.index(next(x for x in lines if x[:2] == "- ")) :])
    assert caught.value.exit_code == 2


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(GuideMismatchError) as caught:
        check_sites(model, inside(lambda: sample_z(width=4), lambda: sample_z("more")), BATCH)
    assert sum(line.startswith("- ") for line in str(caught.value).splitlines()) == 3


def test_fitting_programs_give_the_table_and_touch_neither_noise_nor_settings() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    table = check_sites(model, inside(sample_z, sample_s), BATCH)
    assert torch.equal(torch.rand(3), expected)
    header, *rows = table.splitlines()
    assert header.split() == ["site", "model", "guide"]
    assert [row.split()[0] for row in rows] == ["z", "s"]
    assert rows[0].count(Z_ROW) == 2


def test_validation_is_on_during_the_check() -> None:
    def sloppy(batch: Batch) -> None:
        with pyro.plate("sentences", 3, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(3, 2), torch.tensor(-1.0)).to_event(1))

    with pyro.validation_enabled(False), pytest.raises(ValueError, match="scale"):
        check_sites(model, sloppy, BATCH)


def test_terms_refuse_what_the_check_would_refuse() -> None:
    with pytest.raises(GuideMismatchError, match="the model's site 'z' is not sampled by the guide"):
        trace_terms(model, inside(sample_s), BATCH)
    with pytest.raises(GuideMismatchError, match="the guide samples site 'more', which the model does not have"):
        trace_terms(model, inside(sample_z, sample_s, lambda: sample_z("more")), BATCH)


def test_discrete_sites_are_compared_too() -> None:
    toy = Discrete(torch.tensor([0, 1, 2]))
    assert "integerinterval" in check_sites(toy.model(), toy.guide(toy.posterior), BATCH)
    with pytest.raises(GuideMismatchError, match="support"):
        check_sites(toy.model(), toy.guide(torch.full((3, 4), 0.25)), BATCH)


def poisoned(parameter: str, value: float) -> tuple[nn.Module, nn.Module]:
    q_and_p = state_space()
    for program in q_and_p:
        for name, p in program.named_parameters():
            if name == parameter:
                with torch.no_grad():
                    p.fill_(value)
                return q_and_p
    raise AssertionError(f"no parameter {parameter}")


NON_FINITE = {
    "guide network": ("kernel.conditioner.bias", float("nan"), "guide site 'h': value has 40 non-finite entries of 40"),
    "emission": ("emission.bias", float("nan"), "model site 'tokens': log-density has 4 non-finite entries of 4"),
    "transition": (
        "transition.conditioner.bias",
        float("nan"),
        "model site 'h': log-density has 4 non-finite entries of 4",
    ),
}


@pytest.mark.parametrize(("parameter", "value", "message"), NON_FINITE.values(), ids=NON_FINITE)
def test_the_site_of_the_first_bad_number_is_named(parameter: str, value: float, message: str) -> None:
    model, guide = poisoned(parameter, value)
    assert locate_non_finite(model, guide, word_batch()) == message


def test_a_sound_pair_is_said_to_be_sound() -> None:
    assert locate_non_finite(*state_space(), word_batch()).startswith(
        "no site: all values and log-densities are finite"
    )


def test_an_infinite_value_is_found_before_its_density() -> None:
    guide = Program(lambda batch, values: pyro.sample("z", dist.Delta(values["z"], event_dim=1)), z=torch.zeros(3, 2))
    with torch.no_grad():
        guide.values["z"][1, 0] = float("inf")

    def model(batch: Batch) -> None:
        with pyro.plate("sentences", 3, dim=-1):
            sample_z()

    assert locate_non_finite(model, guide, BATCH) == "guide site 'z': value has 1 non-finite entries of 6"
