"""Execute the notebooks of this folder and keep what comes out: ``python examples/execute.py [NOTEBOOK …]``.

Each notebook runs in an empty temporary folder, on one thread, with warnings as errors, and is written back with its
outputs. The test of the notebooks executes them in the same way and writes nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent

NOTEBOOKS = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
"""Every notebook by its name."""

SECONDS = 300
"""After which a cell is given up."""

STRICT = """
import warnings

warnings.simplefilter("error")
warnings.filterwarnings("ignore", module="ipykernel")
"""
"""Runs before the first cell: what the kernel says of itself is not the notebook's."""


def executed(path: Path) -> NotebookNode:
    """Return a notebook as it comes out of a new kernel in an empty folder; raises where a cell raises or warns."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    before = nbformat.v4.new_code_cell(STRICT)
    notebook.cells.insert(0, before)
    with tempfile.TemporaryDirectory() as folder:
        _run(notebook, Path(folder))
    notebook.cells.remove(before)
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        _renumber(cell, number)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def _run(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells where ``folder`` is the working directory; the package of this checkout is imported."""
    (folder / "work").mkdir()
    # Sockets in the folder: kernels that start side by side cannot take each other's ports.
    where = {"transport": "ipc", "ip": str(folder / "k"), "connection_file": str(folder / "kernel.json")}
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    changes = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder / "ipython")}
    options = {"timeout": SECONDS, "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, config=Config({"KernelManager": where}), **options)
    client.execute(cwd=str(folder / "work"), env={**os.environ, **changes})


def _renumber(cell: NotebookNode, number: int) -> None:
    """Count a cell as if nothing had run before the notebook."""
    cell.execution_count = number
    for output in cell.outputs:
        if output.output_type == "execute_result":
            output.execution_count = number


def main(names: list[str]) -> None:
    """Execute the notebooks with these names, or all, and write them back."""
    for name in names or NOTEBOOKS:
        path = NOTEBOOKS[Path(name).stem]
        nbformat.write(executed(path), path)
        print(f"{path.name}: executed")


if __name__ == "__main__":
    main(sys.argv[1:])
