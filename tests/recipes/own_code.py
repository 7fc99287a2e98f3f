"""Code of a user's for tests: a guide, a model and an objective in one file, and what tells that it has run."""

from __future__ import annotations

from pathlib import Path

TEXT = '''from pathlib import Path

from guides.deep_state_space import MeanFieldGuide
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.objectives import build

Path({ran!r}).touch()


class Mine(MeanFieldGuide):
    """q of mine."""


class Other(MeanFieldGuide):
    """Another q of mine."""


class Story(DeepStateSpace):
    """p of mine."""


class Bound:
    """The ELBO, by another name."""

    name, particles = "own-bound", 1

    def __call__(self, model, guide, batch, beta=1.0):
        return build("elbo")(model, guide, batch, beta)


bound = Bound()
not_one = 3
'''
"""``ran``: a file that is made whenever the code runs."""


def write_code(folder: Path, name: str = "mine.py") -> tuple[Path, Path]:
    """Return the file of a user's code, and the file that will be there once it has run."""
    folder.mkdir(parents=True, exist_ok=True)
    path, ran = folder / name, folder / f"{name}-has-run"
    path.write_text(TEXT.format(ran=str(ran)), encoding="utf-8")
    return path, ran
