"""Every good and every malformed objective by name, with its message."""

from __future__ import annotations

import pytest
from pyro import infer

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.objectives import OBJECTIVES, build

GOOD = {
    "elbo": 1,
    "elbo:8": 8,
    "elbo-analytic": 1,
    "elbo-analytic:3": 3,
    "iwae:1": 1,
    "iwae:16": 16,
    "renyi:0.5:4": 4,
    "renyi:-2:4": 4,
    "renyi:0:4": 4,
    "renyi:2:1": 1,
    "trace_elbo": 1,
    "Trace_ELBO:5": 5,
    "renyi_elbo:0.5:6": 6,
    "pyro:Trace_ELBO": 1,
    "pyro:Trace_ELBO:7": 7,
    "pyro:RenyiELBO": 2,
    "pyro:RenyiELBO:9": 9,
    "pyro:RenyiELBO:0.5:9": 9,
    "pyro:TraceGraph_ELBO": 1,
}


@pytest.mark.parametrize(("spec", "particles"), GOOD.items(), ids=GOOD)
def test_good_specs_give_their_name_and_number_of_particles(spec: str, particles: int) -> None:
    objective = build(spec)
    assert (objective.name, objective.particles) == (spec, particles)


ALIKE = {"trace_elbo": "elbo", "TRACE_ELBO": "elbo", "renyi_elbo:0.5:4": "renyi:0.5:4"}


@pytest.mark.parametrize(("alias", "name"), ALIKE.items(), ids=ALIKE)
def test_aliases_build_what_they_stand_for(alias: str, name: str) -> None:
    assert build(alias).estimator.__qualname__ == build(name).estimator.__qualname__


UNKNOWN = {
    "ebo": "unknown objective 'ebo' (did you mean 'elbo'?)",
    "iwe:4": "unknown objective 'iwe' (did you mean 'iwae'?)",
    "": "unknown objective ''",
    "something else": "known: elbo, elbo-analytic, iwae, pyro, renyi",
}


@pytest.mark.parametrize(("spec", "message"), UNKNOWN.items(), ids=UNKNOWN)
def test_unknown_names_come_with_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build(spec)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


MALFORMED = {
    "iwae": "write iwae:K, e.g. iwae:16",
    "iwae:": "write iwae:K",
    "iwae:0": "K a whole number above 0",
    "iwae:-3": "K a whole number above 0",
    "iwae:2.5": "K a whole number above 0",
    "iwae:many": "objective 'iwae:many' is malformed",
    "iwae:4:5": "write iwae:K",
    "elbo:0": "write elbo or elbo:K",
    "elbo:x": "write elbo or elbo:K",
    "elbo:": "write elbo or elbo:K",
    "elbo-analytic:1:2": "write elbo-analytic or elbo-analytic:K",
    "renyi": "write renyi:ALPHA:K, e.g. renyi:0.5:16",
    "renyi:0.5": "write renyi:ALPHA:K",
    "renyi:half:4": "write renyi:ALPHA:K",
    "renyi:0.5:0": "write renyi:ALPHA:K",
    "renyi:nan:4": "write renyi:ALPHA:K",
    "renyi:-inf:4": "write renyi:ALPHA:K",
    "renyi:1:4": "order 1 is the ELBO in the limit; use --objective elbo",
    "renyi:1.0:4": "use --objective elbo",
    "pyro": "unknown Pyro objective ''",
    "pyro:Trace_ELB": "unknown Pyro objective 'Trace_ELB' (did you mean 'Trace_ELBO'?)",
    "pyro:Trace_ELBO:0": "expected pyro:Trace_ELBO[:K] with K a whole number above 0",
    "pyro:Trace_ELBO:x": "expected pyro:Trace_ELBO[:K]",
    "pyro:Trace_ELBO:2:3": "expected pyro:Trace_ELBO[:K]",
    "pyro:RenyiELBO:1:4": "expected pyro:RenyiELBO[:ALPHA]:K, ALPHA ≠ 1",
    "pyro:RenyiELBO:nan:4": "ALPHA ≠ 1",
    "pyro:RenyiELBO:1:2:3": "expected pyro:RenyiELBO",
    "pyro:ELBO": "is the base class and estimates nothing",
    "pyro:Trace_MMD": "needs a kernel and is no bound",
    "pyro:JitTrace_ELBO": "traces functions of tensors, and a program takes a Batch",
    "pyro:ReweightedWakeSleep": "has two losses",
    "pyro:TraceTailAdaptive_ELBO": "has gradients but no value",
}


@pytest.mark.parametrize(("spec", "message"), MALFORMED.items(), ids=MALFORMED)
def test_malformed_specs_say_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize("thing", [None, 3, infer.Trace_ELBO, object()], ids=["None", "3", "class", "object"])
def test_what_is_neither_name_nor_elbo_is_refused(thing: object) -> None:
    with pytest.raises(UserError, match=r"an objective is a name such as 'iwae:16' or a pyro\.infer\.ELBO instance"):
        build(thing)


def test_instances_are_named_after_their_class_and_kept_as_they_are() -> None:
    stock = infer.RenyiELBO(alpha=0.5, num_particles=4, vectorize_particles=True, max_plate_nesting=3)
    before = dict(vars(stock))
    objective = build(stock)
    assert objective.name == "pyro:RenyiELBO:0.5:4"
    assert vars(stock) == before
    with pytest.raises(UserError, match="has two losses"):
        build(infer.ReweightedWakeSleep())


def test_every_listed_name_can_be_built() -> None:
    examples = {"iwae": "iwae:2", "renyi": "renyi:0.5:2", "pyro": "pyro:Trace_ELBO"}
    for name in OBJECTIVES:
        assert build(examples.get(name, name)).particles >= 1
