"""Names to objects: the built-in table, installed packages, a user's own file."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppl_text.core.errors import UnknownNameError, UserError
from ppl_text.core.registry import Registry, is_file_reference, read_source

GROUP = "ppl_text.tests.guides"


def registry(**options: object) -> Registry:
    table = {"decoder": "json:JSONDecoder", "encoder": "json:JSONEncoder"}
    return Registry("guide", table, **{"hint": "Or give FILE.py:CLASS.", **options})


def from_file(reference: str, **options: object) -> object:
    return read_source(reference, "guide").load(reference.partition(":")[2], "guide", **options)


def test_names_load_what_they_stand_for() -> None:
    import json

    assert registry().names() == ["decoder", "encoder"]
    assert registry().load("decoder") is json.JSONDecoder
    assert registry().target("encoder") == "json:JSONEncoder"


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys; from ppl_text.core.registry import Registry;"
        "r = Registry('x', {'a': 'colorsys:rgb_to_hsv'}); r.names(); r.target('a');"
        "before = 'colorsys' in sys.modules; r.load('a'); print(before, 'colorsys' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_an_unknown_name_comes_with_the_nearest_and_the_hint() -> None:
    with pytest.raises(UnknownNameError) as caught:
        registry().load("decodr")
    expected = "unknown guide 'decodr' (did you mean 'decoder'?); known: decoder, encoder. Or give FILE.py:CLASS."
    assert str(caught.value) == expected


FILE_NAMES = {"a.py:C": True, "dir/a.py": True, "~/a.py:C": True, "tril": False, "a.pyx:C": False, "a:b.py": False}


@pytest.mark.parametrize(("name", "expected"), FILE_NAMES.items(), ids=FILE_NAMES)
def test_what_counts_as_a_file(name: str, expected: bool) -> None:
    assert is_file_reference(name) is expected


GOOD_FILE = "import json\nfrom json import JSONDecoder\n\n\nclass Mine(JSONDecoder):\n    pass\n\n\nlimit = 3\n"


def test_a_class_from_a_file_may_use_its_own_module(tmp_path: Path) -> None:
    path = tmp_path / "my_guides.py"
    path.write_text("from dataclasses import dataclass\n\n\n@dataclass\nclass Mine:\n    size: 'int' = 3\n")
    found = from_file(f"{path}:Mine")
    assert found().size == 3
    assert sys.modules[found.__module__].Mine is found


def test_two_files_of_one_name_do_not_collide(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"class Mine:\n    folder = '{folder}'\n")
    assert [from_file(f"{tmp_path}/{f}/same.py:Mine").folder for f in ("a", "b")] == ["a", "b"]


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(GOOD_FILE)
    assert from_file("~/mine.py:Mine").__name__ == "Mine"


BAD_FILES = {
    "raises": ("x = 1\n\nx.missing\n", "Mine", "guide file raised AttributeError at {path}, line 3: 'int' object"),
    "raises further down": (
        "def f():\n    raise OSError('no disk')\n\n\nf()\n",
        "Mine",
        "OSError at {path}, line 2: no disk",
    ),
    "raises inside a library": ("import json\njson.loads('{')\n", "Mine", "JSONDecodeError at {path}, line 2:"),
    "imports what is not there": ("import no_such_module\n", "Mine", "ModuleNotFoundError at {path}, line 1:"),
    "syntax": (
        "class Mine:\n    def f(self)\n        pass\n",
        "Mine",
        "guide file raised SyntaxError at {path}, line 2:",
    ),
    "not text": ("x = '\udcff'\n", "Mine", "guide file raised SyntaxError at {path}"),
    "exits": ("import sys\nsys.exit(0)\n", "Mine", "guide file raised SystemExit at {path}, line 2"),
    "lacks the class": (GOOD_FILE, "Mien", "{path} has no class 'Mien' (did you mean 'Mine'?); its classes: Mine"),
    "no classes at all": ("x = 1\n", "Mine", "{path} has no class 'Mine'; its classes: none"),
    "names no class": (GOOD_FILE, "limit", "{path} has no class 'limit'"),
    "no class given": (GOOD_FILE, "", "names a file but no class; write {path}:CLASS (its classes: Mine)"),
}


@pytest.mark.parametrize("style", ["absolute", "relative"])
@pytest.mark.parametrize(("source", "name", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_says_what_is_wrong_and_where(
    source: str, name: str, message: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_bytes(os.fsencode(source))
    path = tmp_path / "mine.py" if style == "absolute" else Path("mine.py")
    loaded = set(sys.modules)
    with pytest.raises(UserError) as caught:
        from_file(f"{path}:{name}" if name else str(path))
    assert message.format(path=path) in str(caught.value)
    if "raised" in message:
        assert not any(m.startswith("ppl_text_user_") for m in set(sys.modules) - loaded)


def test_a_syntax_error_in_an_import_is_blamed_on_the_line_that_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_neighbour.py").write_text("a = 1\nb = 2\nc = = 3\n")
    (tmp_path / "mine.py").write_text("import broken_neighbour\n")
    with pytest.raises(UserError, match=r"SyntaxError at .*mine\.py, line 1: .*broken_neighbour\.py, line 3"):
        from_file(f"{tmp_path}/mine.py:Mine")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"guide file '.*none\.py' does not exist; give an existing file as FILE\.py:CLASS"
    ):
        from_file(f"{tmp_path}/none.py:Mine")
    with pytest.raises(UserError, match="does not exist"):
        from_file(f"{tmp_path}:Mine.py".replace(":Mine.py", "/folder.py:Mine"))


def test_a_registry_runs_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD_FILE)
    with pytest.raises(UnknownNameError):
        registry().load(f"{tmp_path}/mine.py:Mine")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on sys.path that declares entry points, as pip would leave it."""
    (tmp_path / "theirs.py").write_text("class Flow:\n    pass\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = "flow = theirs:Flow\ndecoder = theirs:Flow\ngone = no_such_module:Flow\nlacking = theirs:Missing\n"
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("theirs", None)


def test_entry_points_add_names_and_never_replace_built_in_ones(installed: Path) -> None:
    import json

    full = registry(group=GROUP)
    assert full.names() == ["decoder", "encoder", "flow", "gone", "lacking"]
    assert full.load("flow").__module__ == "theirs"
    assert full.load("decoder") is json.JSONDecoder
    assert "flow" not in registry(group="ppl_text.tests.other").names()


@pytest.mark.parametrize("name", ["gone", "lacking"])
def test_a_broken_entry_point_is_the_users_to_mend(installed: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"guide '{name}' of an installed package cannot be loaded"):
        registry(group=GROUP).load(name)
