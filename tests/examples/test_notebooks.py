"""The notebooks of the examples: stored with their outputs, and they still run."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))
assert NOTEBOOKS, "without one the tests below would be skipped"

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(notebook: Any) -> list[list[list[str]]]:
    """Return for each cell and output what it is: the media types of a result, else its kind."""
    return [
        [sorted(output.get("data", [output["output_type"]])) for output in cell["outputs"]]
        for cell in code_cells(notebook)
    ]


@each
def test_a_notebook_is_stored_with_the_outputs_of_one_run(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = list(chain.from_iterable(kinds(notebook)))
    assert ["error"] not in outputs
    assert ["text/html", "text/plain"] in outputs
    assert path.stat().st_size < 100_000


@each
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's packages
def test_a_notebook_runs_and_shows_what_is_stored(path: Path, tmp_path: Path) -> None:
    for library in ("ipykernel", "matplotlib", "pandas"):  # not imported: they change this process
        if find_spec(library) is None:
            pytest.skip(f"needs {library}")
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    stored = nbformat.read(path, 4)
    notebook = nbformat.read(shutil.copy(path, tmp_path), 4)
    for cell in code_cells(notebook):
        cell["outputs"] = []
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=folder).execute()
    assert kinds(notebook) == kinds(stored)
