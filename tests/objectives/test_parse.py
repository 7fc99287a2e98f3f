"""Every good and every malformed objective by name, with its message."""

from __future__ import annotations

import pytest
import torch
from pyro import infer

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.objectives import OBJECTIVES, build

from .programs import state_space, word_batch

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
    "renyi:-inf:4": 4,
    "renyi:inf:4": 4,
    "elbo:8/4": 8,
    "iwae:1024/64": 1024,
    "stl": 1,
    "stl:4": 4,
    "dreg:16": 16,
    "dreg:16/4": 16,
    "stepwise:1": 1,
    "stepwise:5": 5,
    "stepwise:5:score": 5,
    "fivo:16": 16,
    "fivo:16:systematic": 16,
    "fivo:16:multinomial:1": 16,
    "fivo:16:0.9": 16,
    "fivo:4:multinomial:0.5:score": 4,
    "fivo:4:score": 4,
    "free-bits:4": 1,
    "free-bits:0:batch": 1,
    "free-bits:8:dimension:3": 3,
    "vr-max:8": 8,
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


NEED_A_NUMBER = ("iwae", "dreg", "stepwise", "fivo", "free-bits")

ALIKE = {
    "trace_elbo": "elbo",
    "TRACE_ELBO": "elbo",
    "renyi_elbo:0.5:4": "renyi:0.5:4",
    "vr-max:4": "renyi:-inf:4",
    "fivo:4": "fivo:4:systematic:0.5",
    "fivo:4:score": "fivo:4:multinomial:1:score",
    "free-bits:2": "free-bits:2:sentence:1",
}


@pytest.mark.parametrize(("alias", "name"), ALIKE.items(), ids=ALIKE)
def test_aliases_and_defaults_build_what_they_stand_for(alias: str, name: str) -> None:
    model, guide = state_space()
    estimates = []
    for spec in (alias, name):
        torch.manual_seed(0)
        estimates.append(build(spec)(model, guide, word_batch()))
    torch.testing.assert_close(*(e.loss for e in estimates), rtol=0, atol=0)
    torch.testing.assert_close(*(e.bound for e in estimates), rtol=0, atol=0)


UNKNOWN = {
    "ebo": "unknown objective 'ebo' (did you mean 'elbo'?)",
    "iwe:4": "unknown objective 'iwe' (did you mean 'iwae'?)",
    "": "unknown objective ''",
    "something else": (
        "known: dreg, elbo, elbo-analytic, fivo, free-bits, iwae, per-token, pyro, rate, reconstruction, renyi, "
        "stepwise, stl"
    ),
}


@pytest.mark.parametrize(("spec", "message"), UNKNOWN.items(), ids=UNKNOWN)
def test_unknown_names_come_with_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build(spec)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


MALFORMED = {
    "iwae": "write iwae:K or iwae:K/CHUNK, e.g. iwae:16",
    "iwae:": "write iwae:K",
    "iwae:0": "K a whole number above 0",
    "iwae:-3": "K a whole number above 0",
    "iwae:2.5": "K a whole number above 0",
    "iwae:many": "objective 'iwae:many' is malformed",
    "iwae:4:5": "write iwae:K",
    "elbo:0": "write elbo, elbo:K or elbo:K/CHUNK",
    "elbo:x": "write elbo, elbo:K or elbo:K/CHUNK",
    "elbo:": "write elbo, elbo:K or elbo:K/CHUNK",
    "elbo-analytic:1:2": "write elbo-analytic, elbo-analytic:K",
    "renyi": "write renyi:ALPHA:K or renyi:ALPHA:K/CHUNK, e.g. renyi:0.5:16",
    "renyi:0.5": "write renyi:ALPHA:K",
    "renyi:half:4": "write renyi:ALPHA:K",
    "renyi:0.5:0": "write renyi:ALPHA:K",
    "renyi:nan:4": "write renyi:ALPHA:K",
    "iwae:8/0": "write iwae:K or iwae:K/CHUNK",
    "iwae:8/x": "write iwae:K or iwae:K/CHUNK",
    "iwae:/4": "write iwae:K or iwae:K/CHUNK",
    "vr-max": "write renyi:ALPHA:K",
    "stl:0": "write stl, stl:K or stl:K/CHUNK",
    "dreg": "write dreg:K or dreg:K/CHUNK, e.g. dreg:16",
    "stepwise": "write stepwise:K or stepwise:K:score, e.g. stepwise:5",
    "stepwise:5:ignore": "write stepwise:K or stepwise:K:score",
    "fivo": "write fivo:N[:systematic|multinomial]",
    "fivo:4:best": "write fivo:N[:systematic|multinomial]",
    "fivo:4:0": "0 < THRESHOLD ≤ 1",
    "fivo:4:1.5": "0 < THRESHOLD ≤ 1",
    "fivo:4:systematic:score": "score with multinomial",
    "free-bits": "write free-bits:LAMBDA[:sentence|dimension|batch][:K], e.g. free-bits:4",
    "free-bits:-1": "LAMBDA ≥ 0 in nats",
    "free-bits:inf": "LAMBDA ≥ 0 in nats",
    "free-bits:4:word": "write free-bits:LAMBDA[:sentence|dimension|batch]",
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
    with pytest.raises(
        UserError, match=r"is no objective: expected a name such as 'iwae:16', a pyro\.infer\.ELBO instance"
    ):
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
    examples = {
        "renyi": "renyi:0.5:2",
        "vimco": "vimco:2",
        "pyro": "pyro:Trace_ELBO",
        **{n: f"{n}:2" for n in NEED_A_NUMBER},
    }
    for name in OBJECTIVES:
        assert build(examples.get(name, name)).particles >= 1
