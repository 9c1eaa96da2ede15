"""`aiovec import` of databases that other programs wrote, built as their users build them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import runpy
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.sqlite.support import sql

import aiovec
from aiovec import Field, Record, Schema
from aiovec.compat import VectorStore as Collections

VECTORS = np.random.default_rng(11).normal(size=(12, 4)).astype(np.float32)

Import = Callable[..., tuple[int, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "old.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection as the other program had it, still open while we read."""
    with sql(path) as connection:
        yield connection


@pytest.fixture
def bring(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Import:
    """Run the command; what it exits with, and what it says. An option may be ``#TABLE``."""

    def run(to: Path, *options: str) -> tuple[int, str]:
        table = "".join(option for option in options if option[0] == "#")
        others = [option for option in options if option[0] != "#"]
        command = ["aiovec", "import", f"{path}{table}", "-s", str(to), *others]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("aiovec", run_name="__main__")
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out + told.err

    return run


def rejects(path: Path) -> dict[Any, str]:
    lines = path.with_name(f"{path.name}.rejects.jsonl").read_text("utf-8").splitlines()
    return {line["rowid"]: line["reason"] for line in map(json.loads, lines)}


def stored(path: Path, table: str) -> tuple[Schema, list[Record]]:
    async def read() -> tuple[Schema, list[Record]]:
        async with aiovec.connect(path) as store:
            found = await store.find(table, limit=100, include_vector=True)
            return await store.schema(table), found

    return asyncio.run(read())


def collection(db: sqlite3.Connection, points: dict[str, str | None]) -> None:
    """The tables of the older face, with the collection ``notes``."""
    db.execute("CREATE TABLE _collection_meta (name TEXT PRIMARY KEY, dim INT, model TEXT)")
    db.execute("INSERT INTO _collection_meta VALUES ('notes', 4, 'nomic')")
    db.execute(
        "CREATE VIRTUAL TABLE vec_notes USING vec0(embedding float[4] distance_metric=cosine)"
    )
    db.execute(
        "CREATE TABLE payload_notes (rowid INTEGER PRIMARY KEY, orig_id TEXT, payload_json TEXT)"
    )
    for rowid, (id, payload) in enumerate(points.items(), 1):
        vector = VECTORS[rowid].tobytes()
        db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (?, ?)", (rowid, vector))
        db.execute("INSERT INTO payload_notes VALUES (?, ?, ?)", (rowid, id, payload))


def test_a_collection(db: sqlite3.Connection, tmp_path: Path, bring: Import) -> None:
    payload = {"text": "t", "n": 3, "id": "inner", "vector": "v", "_id": "u"}
    collection(db, {"a": json.dumps(payload), "b": None})
    assert bring(tmp_path / "new.db")[0] == 0
    schema, (first, second) = stored(tmp_path / "new.db", "notes")
    assert schema == Schema(4, model="nomic", vector="vector")
    assert first.vector.tobytes() == VECTORS[1].tobytes()
    assert (first["text"], first["n"], second.id) == ("t", 3, "b")
    with Collections(tmp_path / "new.db") as store:
        store.ensure_collection("notes", 4, model="nomic")
        (found,) = store.search("notes", VECTORS[1], limit=1, model="nomic")
    assert (found["id"], found["payload"]) == ("a", payload)


def test_points_that_are_not_whole(
    db: sqlite3.Connection, path: Path, tmp_path: Path, bring: Import
) -> None:
    collection(db, {"a": "{}", "b": "{broken", "c": "[1]", "": '{"x": 1}'})
    db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (7, ?)", (VECTORS[7].tobytes(),))
    db.execute("INSERT INTO payload_notes VALUES (8, 'lonely', '{}')")
    assert bring(tmp_path / "new.db")[0] != 0
    assert [record.id for record in stored(tmp_path / "new.db", "notes")[1]] == ["a"]
    told = rejects(path)
    assert told.keys() == {2, 3, 4, 7, 8}
    assert told[2].startswith("its JSON cannot be taken: ")
    assert told[7] == "field 'id': every row needs an id"
    assert told[8].startswith("the vector is missing")


def test_a_vec0_table(db: sqlite3.Connection, path: Path, tmp_path: Path, bring: Import) -> None:
    db.execute(
        """CREATE VIRTUAL TABLE items USING vec0(
            item_id INTEGER PRIMARY KEY, embedding FLOAT[4] distance_metric=cosine,
            tenant TEXT PARTITION KEY, live BOOLEAN, score FLOAT, year INTEGER, +body TEXT,
            chunk_size=16
        )"""
    )
    for i, vector in enumerate(
        [*VECTORS[:5], np.zeros(4, "f4"), np.array([1, np.nan, 0, 0], "f4")]
    ):
        db.execute(
            "INSERT INTO items VALUES (?, ?, 't', ?, ?, ?, ?)",
            (i, vector.tobytes(), i % 2, i / 2, 2000 + i, f"b{i}"),
        )
    assert bring(tmp_path / "new.db")[0] != 0
    told = rejects(path)
    assert told.keys() == {5, 6}
    assert told[5] == "the vector is zero, so it has no cosine"
    assert told[6].startswith("the vector has nan in it")
    schema, records = stored(tmp_path / "new.db", "items")
    assert schema == Schema(
        4,
        fields={
            "tenant": Field(str, partition=True), "live": bool, "score": float, "year": int,
            "body": str,
        },
    )  # fmt: skip
    assert [record.id for record in records] == ["0", "1", "2", "3", "4"]
    assert records[3].vector.tobytes() == VECTORS[3].tobytes()
    assert dict(records[3].fields) == {
        "tenant": "t", "live": True, "score": 1.5, "year": 2003, "body": "b3",
    }  # fmt: skip


def test_vec0_tables_with_several_vectors(
    db: sqlite3.Connection, tmp_path: Path, bring: Import
) -> None:
    db.execute("CREATE VIRTUAL TABLE small USING vec0(e int8[4], b bit[8], +vector TEXT)")
    row = (b"\x01\xff\x7f\x80", b"\x01", "v")
    db.execute("INSERT INTO small (e, b, vector) VALUES (vec_int8(?), vec_bit(?), ?)", row)
    code, told = bring(tmp_path / "new.db")
    assert (code, "small: not imported: the vectors b (bit[8])" in told) == (1, True)
    schema, (record,) = stored(tmp_path / "new.db", "small")
    assert (schema.metric, record.vector.tolist()) == ("l2", [1, -1, 127, -128])
    assert (record.id, record["vector"]) == ("1", "v")
    db.execute("CREATE VIRTUAL TABLE pair USING vec0(one float[4], two float[4])")
    row = (VECTORS[0].tobytes(), VECTORS[1].tobytes())
    db.execute("INSERT INTO pair (one, two) VALUES (?, ?)", row)
    code, told = bring(tmp_path / "new.db")
    assert code != 0
    assert "several tables with vectors" in told
    assert "pair (vec0 table), small (vec0 table)" in told
    code, told = bring(tmp_path / "new.db", "#pair", "--vector-column", "two")
    assert code != 0
    assert "not imported: the vectors one (float32[4])" in told
    schema, (record,) = stored(tmp_path / "new.db", "pair")
    assert (schema.vector, record.vector.tolist()) == ("two", VECTORS[1].tolist())


def docs_with(db: sqlite3.Connection, dtype: str = "<f4") -> None:
    db.execute(
        "CREATE TABLE docs (id INTEGER PRIMARY KEY, uri TEXT, title TEXT, year INT, emb BLOB)"
    )
    for i, vector in enumerate(VECTORS[:8] * (30 if dtype == "i1" else 1)):
        row = (i, f"u{i}", f"t{i}", 2000 + i, vector.astype(dtype).tobytes())
        db.execute("INSERT INTO docs VALUES (?, ?, ?, ?, ?)", row)


def test_blobs_that_the_user_names(tmp_path: Path, path: Path, bring: Import) -> None:
    types = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "int8": "i1"}
    for name, dtype in types.items():
        with case(name), sql(path) as db:
            docs_with(db, dtype)
            options = ("#docs", "--vector-column", "emb", "--dtype", name)
            code, told = bring(tmp_path / f"{name}.db", *options, "--id-column", "uri")
            assert code == 0, told
            schema, records = stored(tmp_path / f"{name}.db", "docs")
            assert (schema.dim, schema.vector, len(records)) == (4, "emb", 8)
            assert (records[3].id, records[3]["title"], records[3]["year"]) == ("u3", "t3", 2003)
            given = (VECTORS[3] * (30 if dtype == "i1" else 1)).astype(dtype).astype("f4")
            assert records[3].vector.tolist() == given.tolist()
            db.execute("DROP TABLE docs")


def test_the_columns_beside_blobs(db: sqlite3.Connection, tmp_path: Path, bring: Import) -> None:
    db.execute(
        "CREATE TABLE docs (code TEXT PRIMARY KEY, id INT, live BOOL, meta JSON, raw BLOB, "
        "day DATE, v BLOB) WITHOUT ROWID"
    )
    row = ("c", 7, 1, '{"a": [1]}', b"x", "[no JSON", VECTORS[0].tobytes())
    db.execute("INSERT INTO docs VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    named = ("#docs", "--vector-column", "v", "--dtype", "float32")
    code, told = bring(tmp_path / "new.db", *named)
    assert code != 0
    assert "not imported: the column raw (1 BLOBs)" in told
    schema, (record,) = stored(tmp_path / "new.db", "docs")
    assert schema.fields == {"live": Field(bool)}
    assert (record.id, record["live"], record["id_"]) == ("c", True, 7)
    assert (record["meta"], record["day"]) == ({"a": [1]}, "[no JSON")
    db.execute("CREATE VIEW joined AS SELECT code || '!' AS id, v FROM docs")
    assert bring(tmp_path / "new.db", "#joined", *named[1:])[0] == 0
    (record,) = stored(tmp_path / "new.db", "joined")[1]
    assert (record.id, record.vector.tolist()) == ("c!", VECTORS[0].tolist())


def test_nothing_is_guessed(db: sqlite3.Connection, tmp_path: Path, bring: Import) -> None:
    db.execute("CREATE VIRTUAL TABLE items USING vec0(e float[4], live BOOLEAN, name TEXT)")
    db.execute("CREATE VIRTUAL TABLE words USING fts5(body)")
    db.execute("CREATE VIEW broken AS SELECT * FROM gone")
    assert bring(tmp_path / "new.db")[0] == 0
    docs_with(db)
    db.execute("CREATE TABLE pairs (a INT, b INT, v BLOB, PRIMARY KEY (a, b))")
    db.execute("INSERT INTO pairs VALUES (1, 2, x'00')")
    code, told = bring(tmp_path / "new.db")
    assert code != 0
    listed = "broken, docs (BLOBs: emb), items (vec0 table), pairs (BLOBs: v), words"
    assert f"The tables are: {listed}" in told
    for options, said in (
        (("docs",), "with --vector-column (id, uri, title, year, emb)"),
        (("docs", "--vector-column", "absent", "--dtype", "int8"), "with --vector-column"),
        (("docs", "--vector-column", "emb"), "choose one of float16, float32, float64, int8"),
        (("docs", "--vector-column", "title", "--dtype", "int8"), "holds no vectors of int8"),
        (("pairs", "--vector-column", "v", "--dtype", "int8"), "no key of one column"),
        (("items", "--id-column", "absent"), "has no column 'absent'"),
        (("broken", "--vector-column", "v", "--dtype", "int8"), "gone"),
    ):
        code, told = bring(tmp_path / "new.db", f"#{options[0]}", *options[1:])
        assert code != 0
        assert said in told


def test_bad_rows_of_an_ordinary_table(
    db: sqlite3.Connection, path: Path, tmp_path: Path, bring: Import
) -> None:
    docs_with(db)
    db.execute("UPDATE docs SET emb = NULL WHERE id = 1")
    db.execute("UPDATE docs SET emb = x'0000803f' WHERE id = 2")
    db.execute("UPDATE docs SET emb = x'00' WHERE id = 3")
    db.execute("UPDATE docs SET emb = 'text' WHERE id = 4")
    db.execute("UPDATE docs SET title = CAST(x'ff61' AS TEXT) WHERE id = 5")
    options = ("#docs", "--vector-column", "emb", "--dtype", "float32")
    assert bring(tmp_path / "new.db", *options)[0] != 0
    assert len(stored(tmp_path / "new.db", "docs")[1]) == 3
    assert rejects(path) == {
        1: "the vector is missing (key 'emb')",
        2: "the vector has 1 dimensions, not 4",
        3: "the vector is no BLOB of float32 but 1 bytes",
        4: "the vector is no BLOB of float32 but str",
        5: "field 'title': the text is not valid Unicode (a lone surrogate)",
    }


def test_nothing_is_written_to_what_another_program_uses(
    db: sqlite3.Connection, path: Path, tmp_path: Path, bring: Import
) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    docs_with(db)
    files = (path, path.with_name("old.db-wal"))
    before = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    options = ("#docs", "--vector-column", "emb", "--dtype", "float32")
    assert bring(tmp_path / "new.db", *options)[0] == 0
    assert len(stored(tmp_path / "new.db", "docs")[1]) == 8
    assert [hashlib.sha256(file.read_bytes()).digest() for file in files] == before


def test_what_is_refused(path: Path, tmp_path: Path, bring: Import) -> None:
    async def make() -> None:
        async with aiovec.connect(path):
            pass

    asyncio.run(make())
    code, told = bring(tmp_path / "new.db")
    assert code != 0
    assert "is already an aiovec store" in told
    path.unlink()
    with sql(path) as db:
        db.execute("CREATE TABLE a (b)")
        code, told = bring(tmp_path / "new.db")
        assert code != 0
        assert "no vec0 table and no collections" in told
        code, told = bring(tmp_path / "new.db", "#absent")
        assert code != 0
        assert "'absent'" in told
    path.write_bytes(path.read_bytes()[:100] + bytes(5000))
    code, told = bring(tmp_path / "new.db")
    assert code != 0
    assert "damaged" in told
    assert not (tmp_path / "new.db").exists()
