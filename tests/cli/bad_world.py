"""What the table of bad inputs is written with: a case, and the world in which it plays."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class World:
    """Where a case plays: an empty working folder, a finished run in ``run``, the arguments of a tiny recipe."""

    folder: Path
    tiny: list[str]
    trained: Path

    @property
    def tiny_but_guide(self) -> list[str]:
        """The same without the guide's options, which are not those of another guide."""
        values = [value for value in self.tiny[1::2] if not value.startswith("guide.")]
        return [part for value in values for part in ("--set", value)]

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def guide(self, body: str, *, base: str = "ChainGuide", name: str = "mine.py") -> list[str]:
        """``--guide`` of a class Mine with this body."""
        head = (
            "import pyro\nimport pyro.distributions as dist\nimport torch\n"
            "from pyro.distributions.testing.fakes import NonreparameterizedNormal\n"
            "from guides.deep_state_space import ChainGuide, DiagonalGuide\n"
        )
        indented = "\n".join(f"    {line}" for line in body.splitlines())
        self.file(name, f"{head}class Mine({base}):\n{indented}\n")
        return ["--guide", f"{name}:Mine"]

    def run(self) -> Path:
        """A copy of the finished run."""
        return Path(shutil.copytree(self.trained, self.folder / "run").relative_to(self.folder))

    def run_without(self, *names: str) -> Path:
        run = self.run()
        for name in names:
            path = self.folder / run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return run

    def run_on(self, changed_words: str) -> Path:
        """A run whose corpus file holds other words than it was trained on."""
        run = self.run()
        config = self.folder / run / "config.yaml"
        lines = config.read_text(encoding="utf-8").splitlines()
        name = str(self.folder / self.file("changed.tsv", changed_words))
        lines = [f"  corpus: {name}" if line.startswith("  corpus:") else line for line in lines]
        config.write_text("\n".join(lines), encoding="utf-8")
        return run


@dataclass
class Case:
    """``arguments(world)`` of a command, what its message must hold, and its status."""

    arguments: Callable[[World], list]
    says: tuple[str, ...]
    status: int = 2


def fit(*arguments):
    """``fit`` of the tiny recipe with further arguments."""
    return lambda world: ["fit", *world.tiny, *arguments]


def data(content, name="mine.tsv", *arguments):
    """``fit`` on a file of this content."""
    return lambda world: ["fit", *world.tiny, "--data", world.file(name, content), *arguments]


def guide(body, base="ChainGuide", *arguments):
    """``fit`` with a guide of this body."""
    return lambda world: ["fit", *world.tiny_but_guide, *world.guide(body, base=base), *arguments]


LIST = "".join(f"{a}{b}\t90\n" for a in "bdlm" for b in "aeiou")
