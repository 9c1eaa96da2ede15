"""A folder, a store in it, a TOML file that names the store, and files to import."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.harness import command
from tests.harness.command import Finished
from tests.harness.vec0 import connect

from aiovec import Field, Schema, sync

Run = Callable[..., Finished]

SCHEMA = Schema(
    3, model="test-model", fields={"lang": Field(str, index="bitmap"), "year": int, "body": str}
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "embedding": [1, 0, 0], "lang": "en", "year": 2020, "body": "first"},
    {"id": "b", "embedding": [0.9, 0.1, 0], "lang": "de", "year": 2021, "body": "zweite\nZeile"},
    {"id": "c", "embedding": [0, 1, 0], "lang": "en", "year": 2022, "body": "third \x1b[31mred"},
    {"id": "d", "embedding": [0, 0, 1], "lang": None, "year": None, "body": "x" * 1000},
]


@pytest.fixture
def run() -> Run:
    return command.run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Path:
    """Return a store with the table ``notes``."""
    path = folder / "notes.db"
    with sync.connect(path) as vectors:
        vectors.create_table("notes", SCHEMA)
        vectors.insert("notes", ROWS)
    return path


@pytest.fixture
def config(folder: Path, store: Path) -> Path:
    """Return a TOML file in another folder, whose sqlite store is ``store``."""
    path = folder / "elsewhere" / "my.toml"
    path.parent.mkdir()
    path.write_text('[retrieval]\nbackend = "sqlite"\nsqlite_path = "../notes.db"\n', "utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def old(folder: Path) -> Path:
    """Return another program's database, with a vec0 table and BLOBs."""
    path = folder / "old.db"
    db = connect(path)
    db.execute(
        "CREATE VIRTUAL TABLE items USING vec0(id INTEGER PRIMARY KEY, embedding FLOAT[2] "
        "distance_metric=cosine, +body TEXT)"
    )
    db.execute("CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT, vec BLOB)")
    for i in range(1, 5):
        vector = struct.pack("<2f", 1, i)
        db.execute("INSERT INTO items VALUES (?, ?, ?)", (i, vector, f"b{i}"))
        db.execute("INSERT INTO docs VALUES (?, ?, ?)", (i, f"t{i}", vector))
    db.close()
    return path


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def numbered(start: int, count: int, **others: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n:03}", "embedding": [1.0, n, 2.0], "year": n, **others}
        for n in range(start, start + count)
    ]


@pytest.fixture
def parts(folder: Path) -> Path:
    """Return a folder with three files in three formats, with ten rows each."""
    path = folder / "parts"
    path.mkdir()
    table = pa.Table.from_pylist(numbered(0, 10))
    pq.write_table(table, path / "a.parquet")
    with pa.OSFile(str(path / "b.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(pa.Table.from_pylist(numbered(10, 10)))
    written(path / "c.jsonl", *numbered(20, 10, note="x"))
    return path
