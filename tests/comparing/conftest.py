"""A finished run to compare guides and objectives on, and comparisons whose files nobody reads."""

import shutil

import pytest

import ppl_text as pt


@pytest.fixture(scope="session")
def place(trained, tmp_path_factory):
    """A copy of the finished run for this room: comparisons and children are written into its folder."""
    return pt.load(shutil.copytree(trained.folder, tmp_path_factory.mktemp("compared") / "run"))


@pytest.fixture
def unseen(monkeypatch):
    """Leave out the figures and ``inference.nc``, which take most of the time of a small comparison."""
    for name in ("bounds_figure", "khat_figure", "snr_figure", "inference_of", "save_inference"):
        monkeypatch.setattr(f"ppl_text.recipes.compare.{name}", lambda *arguments: None)
