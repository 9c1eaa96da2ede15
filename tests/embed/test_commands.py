"""The command line with the embedders of the TOML file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from tests.cli.conftest import Run, folder, run  # noqa: F401 - fixtures

from aiovec import Embed, Schema, sync

CONFIG = """
[retrieval]
sqlite_path = "notes.db"
[retrieval.embedders.small]
kind = "demo"
"""
TEXTS = ["opening a socket", "reading a zip file", "walking through a tree"]
WHERE = ("--config", "aiovec.toml")


@pytest.fixture(autouse=True)
def _config(folder: Path) -> None:  # noqa: F811
    (folder / "aiovec.toml").write_text(CONFIG)


def written(form: str) -> Path:
    """A file of rows without vectors, of which two have no text."""
    rows = pa.table({"id": [f"r{n}" for n in range(5)], "body": [*TEXTS, "", None]})
    path = Path(f"notes.{form}")
    if form == "parquet":
        pq.write_table(rows, path)
    elif form == "arrow":
        with pa.ipc.new_file(str(path), rows.schema) as writer:
            writer.write_table(rows)
    elif form == "csv":
        csv.write_csv(rows, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    return path


def test_import_makes_vectors_and_rejects_rows_without_a_text(run: Run) -> None:  # noqa: F811
    """By a schema that is given with the file, or else the one that the table has."""
    schema = Schema(256, fields={"body": str}, embed=Embed("body", "small"))
    Path("schema.json").write_text(json.dumps(schema.to_dict()))
    for form, options in (
        ("parquet", ("--schema", "schema.json")), ("arrow", ()), ("csv", ()), ("jsonl", ()),
    ):  # fmt: skip
        done = run("import", written(form), *options, *WHERE)
        assert "3 rows" in done.out + done.err, (form, done)
        assert "no text in 'body'" in "".join(p.read_text() for p in Path().glob("*reject*"))
        with sync.connect(config="aiovec.toml") as store:
            assert store.count("notes") == 3
            (hit,) = store.search("notes", "how do I open sockets?", limit=1)
            assert hit["body"] == TEXTS[0]
            store.delete("notes", where="TRUE")


def test_rows_that_need_no_vector(run: Run) -> None:  # noqa: F811
    """Every row is taken, also that without a text."""
    nullable = Schema(256, fields={"body": str}, vector_nullable=True)
    with sync.connect(config="aiovec.toml") as store:
        store.create_table("notes", nullable)
    assert run("import", written("jsonl"), *WHERE).code == 0
    with sync.connect(config="aiovec.toml") as store:
        assert store.count("notes") == 5
        assert store.get("notes", ["r0"])[0].vector is None


def test_rows_without_vectors_for_a_table_that_needs_them(run: Run) -> None:  # noqa: F811
    """They are refused as for a new one, and no store is made."""
    path = written("jsonl")
    assert "no vector was found" in run("import", path, *WHERE).err
    assert not Path("notes.db").exists()
    with sync.connect(config="aiovec.toml") as store:
        store.create_table("notes", Schema(256, fields={"body": str}))
    done = run("import", path, *WHERE)
    assert (done.code, "no vector was found" in done.err) == (1, True)
