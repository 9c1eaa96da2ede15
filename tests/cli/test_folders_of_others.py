"""``aiovec import`` of a LanceDB folder that another program made: the error says the way."""

from __future__ import annotations

import shlex
from pathlib import Path

import lancedb
import pytest

from .conftest import Run


@pytest.mark.parametrize("named", ["others db", "others db/my.docs.lance"])
def test_the_commands_in_the_error_bring_the_rows_in(run: Run, folder: Path, named: str) -> None:
    rows = [{"id": "a", "vector": [1.0, 0.0], "title": "x"}, {"id": "b", "vector": [0.0, 1.0]}]
    lancedb.connect(folder / "others db").create_table("my.docs", rows)
    refused = run("import", named, "-s", "new.db")
    assert refused.code == 1
    assert "a folder of LanceDB" in refused.err
    export, load = refused.err.partition("import that: ")[2].split(" && ")
    python, option, program = shlex.split(export)
    assert (python, option) == ("python", "-c")
    exec(program, {})
    done = run(*load.replace("STORE", "new.db").split()[1:])
    assert done.code == 0, done.err
    assert run("tables", "-s", "new.db").lines[1][:3] == ["my-docs", "2", "2"]


def test_a_folder_that_is_none_of_lancedb(run: Run, folder: Path) -> None:
    (folder / "files").mkdir()
    refused = run("import", "files", "-s", "new.db")
    assert refused.err == "error: files is a folder; import takes a file\n"
