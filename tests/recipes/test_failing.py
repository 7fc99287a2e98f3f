"""Programs of users' that fail late: the message says where, as if they had failed at once."""

import pytest
import torch

import ppl_text as pt
from guides.deep_state_space import DiagonalGuide
from ppl_text.core.errors import NonFiniteLossError, UserError
from ppl_text.recipes.failing import place_in, users_programs

LATE = """
import sys
import torch
from guides.deep_state_space import DiagonalGuide


class Late(DiagonalGuide):
    calls, when = 0, {when}

    def forward(self, batch):
        Late.calls += 1
        if Late.calls >= Late.when:
            {what}
        super().forward(batch)
"""

FAILURES = {
    "an exception": ("raise KeyError('no luck')", "KeyError: 'no luck'"),
    "an error of a file": ("open('/no/such/file')", "FileNotFoundError: "),
    "an end": ("sys.exit(0)", "SystemExit: 0"),
    "another shape": ("torch.zeros(2) + torch.zeros(3)", "RuntimeError: The size of tensor a (2)"),
    "a check": ("assert False, 'never'", "AssertionError: never"),
}


@pytest.fixture
def late(tmp_path, monkeypatch):
    """``late(what, when)``: the reference of a guide that does this from that call on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)

    def write(what, when=14):
        (tmp_path / "mine.py").write_text(LATE.format(what=what, when=when))
        return "mine.py:Late"

    return write


@pytest.fixture
def plain(tiny):
    """Changes without the guide's options."""
    return {key: value for key, value in tiny.items() if not key.startswith("guide.")}


@pytest.mark.parametrize(("what", "said"), FAILURES.values(), ids=FAILURES)
def test_training(late, plain, what, said):
    with pytest.raises(UserError) as caught:
        pt.fit(guide=late(what), set=plain, out="run")
    assert "mine.py, line 13: " + said in str(caught.value)
    assert str(caught.value).endswith("; mend the program")


def test_the_command_line_ends_with_the_message(late, ppl, tiny_arguments):
    values = [v for v in tiny_arguments[1::2] if not v.startswith("guide.")]
    changes = [part for value in values for part in ("--set", value)]
    ended = ppl("fit", *changes, "--guide", late("sys.exit(0)"), "--out", "run")
    assert ended.status == 2
    assert "mine.py, line 13: SystemExit: 0; mend the program" in ended.err
    assert "Traceback" not in ended.err


def test_nan_at_a_late_step_names_the_site(late, plain):
    nan = "torch.nn.init.constant_(next(self.parameters()), float('nan'))"
    with pytest.raises(NonFiniteLossError, match="site 'h'"):
        pt.fit(guide=late(nan), set=plain, out="other")


def test_other_commands(late, plain):
    run = pt.fit(guide=late("raise KeyError('no luck')", when=10**6), set=plain, out="run")
    type(run.guide).when = 0
    for act in (
        lambda: run.evaluate(particles=2),
        lambda: run.bound("elbo", limit=4),
        lambda: run.reconstruct(["ba"]),
        lambda: run.compare(objectives=["elbo"], sentences=4, draws=4, repeats=2),
        lambda: run.swap_guide("mine.py:Late", steps=20),
    ):
        with pytest.raises(UserError, match=r"mine\.py, line 13: KeyError: 'no luck'; mend the program"):
            act()


class Passed(DiagonalGuide):
    """Passed in Python; fails late."""

    calls = 0

    def forward(self, batch):
        Passed.calls += 1
        if Passed.calls > 14:
            raise RuntimeError("no luck")
        super().forward(batch)


def test_a_class_that_python_passed(tmp_path, plain):
    with pytest.raises(UserError, match=r"test_failing\.py, line \d+: RuntimeError: no luck; mend the program"):
        pt.fit(guide=Passed, set=plain, out=tmp_path / "run")


def test_what_is_not_the_users_passes(tmp_path):
    for error in (KeyError("x"), SystemExit(3)):
        with pytest.raises(type(error)), users_programs({}):
            raise error
    with pytest.raises(KeyboardInterrupt), users_programs({"x": None}):
        raise KeyboardInterrupt
    with pytest.raises(MemoryError), users_programs({}):
        raise MemoryError
    assert not place_in(KeyError("x"))
    assert torch.is_grad_enabled()
