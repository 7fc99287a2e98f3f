"""The notebooks of ``examples/`` run as they stand, and show what comes out of them."""

from __future__ import annotations

import importlib.util
import re

import nbformat
import pytest
from doc_pages import LINK, ROOT
from nbclient.exceptions import CellExecutionError

ABSOLUTE = re.compile(r"(?<![\w.:/<])(?:/[\w.@+-]+){2,}|\b[A-Z]:\\")
"""A path from the root of a file system."""


def script():
    """The script that executes notebooks."""
    spec = importlib.util.spec_from_file_location("execute", ROOT / "examples" / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTEBOOKS = script().NOTEBOOKS

every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def notebook(name):
    """Return a notebook as it is committed."""
    found = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(found)
    return found


def code_cells(found):
    return [cell for cell in found.cells if cell.cell_type == "code"]


def kinds(found):
    """Return for each output of each code cell its type, and the stream or the kinds of data."""
    return [
        [(out.output_type, out.get("name"), sorted(out.get("data", ()))) for out in cell.outputs]
        for cell in code_cells(found)
    ]


def shown(found):
    """Return every text that a notebook shows: sources and outputs, images left out."""
    texts = [cell.source for cell in found.cells]
    for cell in code_cells(found):
        for out in cell.outputs:
            texts += [out.get("text", "")]
            texts += [data for kind, data in out.get("data", {}).items() if not kind.startswith("image/")]
    return texts


def test_there_are_notebooks_and_the_readme_leads_to_them():
    assert len(NOTEBOOKS) >= 3
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"examples/{path.name}" for path in NOTEBOOKS.values()} <= linked


@every_notebook
def test_notebook_runs_and_its_outputs_are_of_the_kind_that_is_committed(name):
    fresh, committed = script().executed(NOTEBOOKS[name]), notebook(name)
    assert kinds(fresh) == kinds(committed), "outputs are out of date: python examples/execute.py"
    assert "stderr" not in {out.get("name") for cell in code_cells(fresh) for out in cell.outputs}
    assert not [text for text in shown(fresh) if ABSOLUTE.search(text)]


@every_notebook
def test_committed_notebook_has_been_executed_in_one_go(name):
    committed = notebook(name)
    assert [cell.execution_count for cell in code_cells(committed)] == list(range(1, len(code_cells(committed)) + 1))
    assert any(cell.outputs for cell in code_cells(committed))
    assert not [text for text in shown(committed) if ABSOLUTE.search(text)]
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    assert NOTEBOOKS[name].stat().st_size < 200_000


@every_notebook
def test_links_of_notebooks_resolve(name):
    prose = [cell.source for cell in notebook(name).cells if cell.cell_type == "markdown"]
    targets = [target for text in prose for target in LINK.findall(text)]
    assert targets
    assert not [target for target in targets if not (NOTEBOOKS[name].parent / target.partition("#")[0]).is_file()]


def test_absolute_paths_are_recognised():
    assert ABSOLUTE.search("<Run /home/someone/runs/words-1>")
    assert ABSOLUTE.search("folder: /tmp/x")
    assert ABSOLUTE.search("C:\\Users")
    assert not ABSOLUTE.search("runs/words-1, -2.6 nats/token/s, https://a.org/b/c, ../docs/a/b.md, 3 / 4")


def test_a_warning_stops_a_notebook(tmp_path):
    cells = [nbformat.v4.new_code_cell("import warnings\n\nwarnings.warn('beware')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "bad.ipynb")
    with pytest.raises(CellExecutionError, match=r"UserWarning.*: beware"):
        script().executed(tmp_path / "bad.ipynb")
