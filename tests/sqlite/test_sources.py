"""Databases that other programs wrote: built as their users build them, then imported."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiovec
from aiovec import ConfigError, CorruptStoreError, Field, Schema
from aiovec._transfer import Load, Loaded, Loading, RejectsFile, load, open_input
from aiovec._transfer.sources import source_for
from aiovec.backend import Hints, Skipped, check_table_name, legal_table_name
from aiovec.sync import VectorStore as Collections
from aiovec_sqlite.driver import connect, load_driver
from aiovec_sqlite.sources import SqliteSource
from aiovec_sqlite.sources.blobs import readings
from aiovec_sqlite.sources.catalog import vec0_of
from aiovec_sqlite.sources.database import open_read_only

VECTORS = np.random.default_rng(11).normal(size=(12, 4)).astype(np.float32)


def as_json(vector: np.ndarray[Any, Any]) -> str:
    return json.dumps(vector.tolist())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "old.db"


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection as the other program had it, still open while we read."""
    connection = connect(str(path), timeout=5)
    yield connection
    connection.close()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def bring(
    path: Path, to: Path, hints: Hints | None = None, **how: Any
) -> tuple[dict[str, Loaded], list[dict[str, Any]]]:
    """Import a database; what came of each table, and the rejects."""
    source = await asyncio.to_thread(open_input, path, hints=hints)
    rejects = RejectsFile(to.with_name("rejects.jsonl"))
    try:
        tables = await asyncio.to_thread(source.tables)
        async with aiovec.connect(to) as store:
            loads = [Load(table, table.name) for table in tables]
            done = await load(store, source, loads, rejects, Loading(**how))
    finally:
        await asyncio.to_thread(source.close)
    listed = rejects.path.read_text("utf-8").splitlines() if rejects.path.exists() else []
    return {one.table: one for one in done}, [json.loads(line) for line in listed]


def collection(db: sqlite3.Connection, name: str, model: str | None = "nomic") -> None:
    db.execute(
        "CREATE TABLE IF NOT EXISTS _collection_meta (name TEXT PRIMARY KEY, dim INT, model TEXT)"
    )
    db.execute("INSERT INTO _collection_meta VALUES (?, 4, ?)", (name, model))
    db.execute(
        f'CREATE VIRTUAL TABLE "vec_{name}" USING vec0(embedding float[4] distance_metric=cosine)'
    )
    db.execute(
        f'CREATE TABLE "payload_{name}" (rowid INTEGER PRIMARY KEY, orig_id TEXT, '
        "payload_json TEXT)"
    )


def point(db: sqlite3.Connection, name: str, rowid: int, id: str, payload: str | None) -> None:
    vector = VECTORS[rowid].tobytes()
    db.execute(f'INSERT INTO "vec_{name}" (rowid, embedding) VALUES (?, ?)', (rowid, vector))
    db.execute(f'INSERT INTO "payload_{name}" VALUES (?, ?, ?)', (rowid, id, payload))


# Collections


async def test_a_collection(db: sqlite3.Connection, path: Path, tmp_path: Path) -> None:
    collection(db, "notes")
    for i in range(5):
        point(db, "notes", i, f"n{i}", json.dumps({"text": f"t{i}", "n": i, "id": "inner"}))
    point(db, "notes", 5, "n5", None)
    done, rejects = await bring(path, tmp_path / "new.db")
    assert rejects == []
    assert done["notes"].rows == 6
    async with aiovec.connect(tmp_path / "new.db") as store:
        assert await store.schema("notes") == Schema(4, model="nomic", vector="vector")
        (record,) = await store.get("notes", "n3")
        assert record.vector.tobytes() == VECTORS[3].tobytes()
        assert record.fields == {"text": "t3", "n": 3, "_id": "inner"}
        assert [hit.id for hit in await store.search("notes", VECTORS[2], limit=1)] == ["n2"]


async def test_a_collection_is_one_for_the_older_face(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    collection(db, "notes")
    payload = {"id": "inner", "vector": "v", "_id": "u", "text": "t"}
    point(db, "notes", 1, "a", json.dumps(payload))
    await bring(path, tmp_path / "new.db")

    def search() -> list[dict[str, Any]]:
        with Collections(tmp_path / "new.db") as store:
            store.ensure_collection("notes", 4, model="nomic")
            return store.search("notes", VECTORS[1], model="nomic")

    (found,) = await asyncio.to_thread(search)
    assert (found["id"], found["payload"]) == ("a", payload)


async def test_halves_of_points_and_bad_payloads_are_rejects(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    collection(db, "notes")
    point(db, "notes", 1, "a", "{}")
    point(db, "notes", 2, "b", "{broken")
    point(db, "notes", 3, "c", "[1]")
    point(db, "notes", 4, "a", "{}")
    point(db, "notes", 5, "", '{"x": 1}')
    point(db, "notes", 6, "f", '{"x": NaN}')
    db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (7, ?)", (VECTORS[7].tobytes(),))
    db.execute("INSERT INTO payload_notes VALUES (8, 'lonely', '{}')")
    done, rejects = await bring(path, tmp_path / "new.db")
    assert (done["notes"].rows, done["notes"].rejected) == (1, 7)
    reasons = {r["rowid"]: (r["id"], r["reason"]) for r in rejects}
    assert {r["table"] for r in rejects} == {"notes"}
    assert reasons.keys() == {2, 3, 4, 5, 6, 7, 8}
    assert reasons[2][1].startswith("the payload is not JSON: ")
    assert reasons[3] == ("c", "the payload is not a JSON object")
    assert reasons[4] == ("a", "the id came before in the same source")
    assert reasons[5][1] == "field 'id': an id is text of 1 to 512 bytes without NUL"
    assert reasons[6] == ("f", "field 'x': NaN and infinity are not JSON")
    assert reasons[7] == (None, "it has no row in payload_notes")
    assert reasons[8] == ("lonely", "the vector is missing")


# Bare vec0 tables


async def test_a_vec0_table_of_several_models(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute(
        """CREATE VIRTUAL TABLE items USING vec0(
            item_id INTEGER PRIMARY KEY, embedding FLOAT[4] distance_metric=cosine,
            embedding_model TEXT, tenant TEXT PARTITION KEY, live BOOLEAN, score FLOAT,
            year INTEGER, +body TEXT, +image BLOB, chunk_size=16
        )"""
    )
    models = ["nomic-embed-text:v1.5", "BAAI/bge-m3"]
    for i in range(10):
        db.execute(
            "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (i, VECTORS[i].tobytes(), models[i % 2], "t", i % 2, i / 2, 2000 + i, f"b{i}", b"x"),
        )
    done, rejects = await bring(path, tmp_path / "new.db")
    assert rejects == []
    assert done.keys() == {"items-nomic-embed-text-v1-5", "items-baai-bge-m3"}
    assert {one.omitted for one in done.values()} == {("the column image (10 BLOBs)",)}
    async with aiovec.connect(tmp_path / "new.db") as store:
        schema = await store.schema("items-baai-bge-m3")
        assert schema == Schema(
            4,
            model="BAAI/bge-m3",
            fields={
                "tenant": Field(str, partition=True),
                "live": bool,
                "score": float,
                "year": int,
                "body": str,
            },
        )
        records = await store.find("items-baai-bge-m3")
        assert [record.id for record in records] == ["1", "3", "5", "7", "9"]
        (record,) = await store.get("items-baai-bge-m3", "3")
        assert record.fields == {
            "tenant": "t", "live": True, "score": 1.5, "year": 2003, "body": "b3",
        }  # fmt: skip
        assert record.vector.tobytes() == VECTORS[3].tobytes()
        with pytest.raises(aiovec.ModelMismatchError):
            await store.search("items-baai-bge-m3", VECTORS[0], model="nomic-embed-text:v1.5")


async def test_a_vec0_table_of_one_model_keeps_its_name(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("CREATE VIRTUAL TABLE v USING vec0(embedding float[4], embedding_model TEXT)")
    db.execute(
        "INSERT INTO v (embedding, embedding_model) VALUES (?, 'm')", (VECTORS[0].tobytes(),)
    )
    done, _ = await bring(path, tmp_path / "new.db")
    assert done["v"].schema == Schema(4, metric="l2", model="m")


async def test_no_row_is_lost_between_the_models(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, made_by, v BLOB)")
    for i, model in enumerate(["a", "A", 5, "5", None, "", 2.5, "a/b", "a:b"]):
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (i, model, VECTORS[i].tobytes()))
    done, _ = await bring(path, tmp_path / "new.db", Hints(model_column="made_by"))
    assert {(name, one.schema.model, one.rows) for name, one in done.items()} == {
        ("t", None, 2), ("t-2-5", "2.5", 1), ("t-5", "5", 2), ("t-a", "A", 1), ("t-a-2", "a", 1),
        ("t-a-b", "a/b", 1), ("t-a-b-2", "a:b", 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("notes", "notes"),
        ("My Notes!", "my-notes"),
        ("nomic-embed-text:v1.5", "nomic-embed-text-v1-5"),
        ("_x_", "x"),
        ("2024", "t-2024"),
        ("…", "t"),
        ("é", "t"),
        ("x" * 80, "x" * 63),
    ],
)
def test_legal_names(text: str, name: str) -> None:
    assert legal_table_name(text) == name
    again = legal_table_name(text, [name])
    assert again != name
    for made in (name, again):
        assert check_table_name(made) == made


async def test_nan_zero_and_missing_values_of_a_vec0_table(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute(
        "CREATE VIRTUAL TABLE v USING vec0(code TEXT PRIMARY KEY, "
        "e float[4] distance_metric=cosine, +note TEXT)"
    )
    zero, nan = np.zeros(4, "f4"), np.array([1, np.nan, 0, 0], "f4")
    for code, vector in (("a", VECTORS[0]), ("zero", zero), ("nan", nan), ("b", VECTORS[1])):
        db.execute("INSERT INTO v VALUES (?, ?, NULL)", (code, vector.tobytes()))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert done["v"].rows == 2
    assert {r["rowid"]: r["reason"] for r in rejects} == {
        "zero": "the vector is zero, so it has no cosine",
        "nan": "the vector has nan in it",
    }


async def test_int8_vectors_are_taken_as_numbers_and_bits_are_not(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("CREATE VIRTUAL TABLE small USING vec0(e int8[4])")
    db.execute("INSERT INTO small (rowid, e) VALUES (1, vec_int8(?))", (b"\x01\xff\x7f\x80",))
    await bring(path, tmp_path / "new.db")
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("small", "1")
        assert record.vector.tolist() == [1, -1, 127, -128]
    db.execute("DROP TABLE small")
    db.execute("CREATE VIRTUAL TABLE bits USING vec0(e bit[8])")
    with pytest.raises(ConfigError, match="bit vectors cannot be imported"):
        await bring(path, tmp_path / "other.db")


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("e float[3]", ("e", "float32", 3, "l2", "rowid")),
        ("ID integer PRIMARY KEY,\n E FLOAT[ 3 ]", ("E", "float32", 3, "l2", "ID")),
        ("e f32[2] distance_metric=COSINE", ("e", "float32", 2, "cosine", "rowid")),
        ("chunk_size=8, e int8[9] distance_metric = l1", ("e", "int8", 9, "l1", "rowid")),
        ("e float[3] -- of the text\n, +x text", ("e", "float32", 3, "l2", "rowid")),
    ],
)
def test_what_a_vec0_table_declares(declared: str, expected: tuple[Any, ...]) -> None:
    found = vec0_of(f'CREATE VIRTUAL TABLE IF NOT EXISTS "a b" USING vec0({declared})')
    assert found is not None
    (vector,) = found.vectors
    assert (vector.name, vector.element, vector.dim, vector.metric, found.key) == expected


# Ordinary tables


def docs_with(db: sqlite3.Connection, dtype: str = "<f4") -> None:
    db.execute(
        "CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT, year INT, live BOOLEAN, "
        "seen DATETIME, emb BLOB, thumb BLOB)"
    )
    for i in range(8):
        blob = VECTORS[i].astype(dtype).tobytes()
        db.execute(
            "INSERT INTO docs VALUES (?, ?, ?, ?, ?, ?, ?)",
            (i, f"t{i}", 2000 + i, i % 2, "2024-01-01 00:00:00", blob, b"\x00\xff" * 5),
        )


@pytest.mark.parametrize(
    ("dtype", "told"), [("<f4", None), ("<f8", None), ("<f2", "float16"), ("<f4", "float32")]
)
async def test_blobs_of_an_ordinary_table(
    dtype: str, told: str | None, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    docs_with(db, dtype)
    hints = None if told is None else Hints(table="docs", vector_column="emb", dtype=told)
    done, rejects = await bring(path, tmp_path / "new.db", hints)
    assert rejects == []
    assert done["docs"].omitted == ("the column thumb (8 BLOBs)",)
    async with aiovec.connect(tmp_path / "new.db") as store:
        assert await store.schema("docs") == Schema(
            4, vector="emb", fields={"title": str, "year": int, "live": bool}
        )
        (record,) = await store.get("docs", "3")
        assert record.fields == {
            "title": "t3", "year": 2003, "live": True, "seen": "2024-01-01 00:00:00",
        }  # fmt: skip
        assert record.vector.tolist() == VECTORS[3].astype(dtype).astype("f4").tolist()


@pytest.mark.parametrize("type", ["FLOAT32(4)", "float[4]", "POINT", "BOOL", "F32_BLOB(4)"])
async def test_vectors_are_found_whatever_their_column_is_declared_as(
    type: str, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """SQLite keeps BLOBs and JSON text in a column of any type."""
    db.execute(f"CREATE TABLE a (id TEXT, year INT, none INT, embedding {type}, second {type})")
    db.execute(f"CREATE TABLE b (id TEXT, embedding {type})")
    for i in range(3):
        blob = VECTORS[i].tobytes()
        db.execute("INSERT INTO a VALUES (?, ?, NULL, ?, ?)", (i, i, blob, blob))
        db.execute("INSERT INTO b VALUES (?, ?)", (i, as_json(VECTORS[i])))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert ({name: one.rows for name, one in done.items()}, rejects) == ({"a": 3, "b": 3}, [])
    assert done["a"].omitted == ("the column second (3 BLOBs)",)
    assert done["a"].schema.fields == {"year": Field(int), "none": Field(int)}


async def test_bad_rows_of_an_ordinary_table(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    docs_with(db)
    db.execute("UPDATE docs SET emb = NULL WHERE id = 1")
    db.execute("UPDATE docs SET emb = x'0000803f' WHERE id = 2")
    db.execute("UPDATE docs SET emb = x'00' WHERE id = 3")
    db.execute("UPDATE docs SET emb = 'text' WHERE id = 4")
    db.execute("UPDATE docs SET year = 'unknown' WHERE id = 5")
    db.execute("UPDATE docs SET title = CAST(x'ff61' AS TEXT) WHERE id = 6")
    done, rejects = await bring(path, tmp_path / "new.db")
    assert done["docs"].rows == 2
    reasons = {r["rowid"]: r["reason"] for r in rejects}
    assert reasons == {
        1: "the vector is missing",
        2: "the vector has 1 dimensions, not 4",
        3: "the vector has 1 bytes, no multiple of 4",
        4: "the vector is text, not a BLOB",
        5: "field 'year': must be a whole number, not 'unknown' (str)",
        6: "field 'title': the text is not valid Unicode (a lone surrogate)",
    }
    assert {r["id"] for r in rejects} == set("123456")


async def test_vectors_as_json_text_and_ids_of_another_column(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("CREATE TABLE chunks (uri TEXT, body TEXT, vec TEXT)")
    for i in range(3):
        db.execute("INSERT INTO chunks VALUES (?, 'b', ?)", (f"u{i}", as_json(VECTORS[i])))
    db.execute("INSERT INTO chunks VALUES ('u3', 'b', '[1, 2]')")
    db.execute("INSERT INTO chunks VALUES ('u4', 'b', 'none')")
    done, rejects = await bring(path, tmp_path / "new.db", Hints(id_column="uri"))
    assert done["chunks"].rows == 3
    assert {r["id"] for r in rejects} == {"u3", "u4"}
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("chunks", "u1")
        assert record.vector.tobytes() == VECTORS[1].tobytes()
        assert record.fields == {"body": "b"}


async def test_a_view_that_joins_texts_with_a_vec0_table(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("CREATE TABLE texts (id INTEGER PRIMARY KEY, body TEXT)")
    db.execute("CREATE VIRTUAL TABLE vectors USING vec0(embedding float[4])")
    for i in range(3):
        db.execute("INSERT INTO texts VALUES (?, ?)", (i, f"b{i}"))
        db.execute(
            "INSERT INTO vectors (rowid, embedding) VALUES (?, ?)", (i, VECTORS[i].tobytes())
        )
    db.execute(
        "CREATE VIEW joined AS SELECT t.id, t.body, v.embedding FROM texts t "
        "JOIN vectors v ON v.rowid = t.id"
    )
    done, _ = await bring(path, tmp_path / "new.db", Hints(table="joined"))
    assert done.keys() == {"joined"}
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("joined", "2")
        assert record.fields == {"body": "b2"}


async def test_a_table_without_rowid_and_names_that_no_field_has(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute(
        'CREATE TABLE "Odd Table" (code TEXT PRIMARY KEY, "a b" TEXT, payload TEXT, id INT, '
        "v BLOB) WITHOUT ROWID"
    )
    db.execute("INSERT INTO \"Odd Table\" VALUES ('k', 'x', 'p', 7, ?)", (VECTORS[0].tobytes(),))
    done, _ = await bring(path, tmp_path / "new.db")
    assert done.keys() == {"odd-table"}
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("odd-table", "k")
        assert record.fields == {"a b": "x", "_payload": "p", "_id": 7}


async def test_each_column_has_a_name_of_its_own_in_any_table(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """A column named as the table's vector or id came in its place, or in that of another."""
    db.execute(
        "CREATE TABLE notes (uuid TEXT PRIMARY KEY, id INTEGER, _id TEXT, embedding JSON, "
        "_embedding INTEGER, v2 BLOB)"
    )
    for i in range(3):
        row = (f"n{i}", i, f"own{i}", as_json(VECTORS[i]), 7, VECTORS[i + 5].tobytes())
        db.execute("INSERT INTO notes VALUES (?, ?, ?, ?, ?, ?)", row)
    async with aiovec.connect(tmp_path / "new.db") as store:
        await store.create_table("notes", Schema(4, vector="embedding"))
    hints = Hints(table="notes", vector_column="v2", dtype="float32")
    done, rejects = await bring(path, tmp_path / "new.db", hints)
    assert (done["notes"].rows, rejects) == (3, [])
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("notes", "n1")
        assert record.vector.tobytes() == VECTORS[6].tobytes()
        assert record.fields == {
            "__id": 1, "_id": "own1", "__embedding": VECTORS[1].tolist(), "_embedding": 7,
        }  # fmt: skip


async def test_a_vector_without_a_legal_name_takes_that_of_no_other_column(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute('CREATE TABLE t (id TEXT, Embedding JSON, vector TEXT, "my vec" BLOB)')
    for i in range(3):
        row = (i, f"[{i}]", "x", VECTORS[i].tobytes())
        db.execute("INSERT INTO t VALUES (?, ?, ?, ?)", row)
    hints = Hints(table="t", vector_column="my vec", dtype="float32")
    done, _ = await bring(path, tmp_path / "new.db", hints)
    assert done["t"].schema == Schema(4, vector="vector0", fields={"vector": str})
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("t", "2")
        assert record.vector.tobytes() == VECTORS[2].tobytes()
        assert record.fields == {"vector": "x", "Embedding": [2]}


async def test_keys_of_metadata_stay_apart_from_each_other(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("CREATE TABLE t (id TEXT, x TEXT, _x TEXT, metadata TEXT, v BLOB)")
    row = ("a", "1", "2", json.dumps({"x": "3", "_x": "4"}), VECTORS[0].tobytes())
    db.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", row)
    await bring(path, tmp_path / "new.db")
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("t", "a")
        assert record.fields == {"x": "1", "_x": "2", "__x": "3", "___x": "4"}


async def test_a_collection_into_a_table_whose_vector_is_called_as_a_key(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    collection(db, "notes")
    point(db, "notes", 1, "a", '{"embedding": "old", "_embedding": 5, "vector": 6}')
    async with aiovec.connect(tmp_path / "new.db") as store:
        await store.create_table("notes", Schema(4, vector="embedding", model="nomic"))
    await bring(path, tmp_path / "new.db")
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("notes", "a")
        assert record.vector.tobytes() == VECTORS[1].tobytes()
        assert record.fields == {"_embedding": "old", "__embedding": 5, "_vector": 6}


# What other programs wrote


def langchain(db: sqlite3.Connection, table: str, *, trigger: bool = True) -> None:
    """The tables of LangChain's SQLiteVec, with a trigger that keeps the vec0 table."""
    db.execute(
        f"CREATE TABLE {table} (rowid INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT, metadata BLOB, "
        "text_embedding BLOB)"
    )
    db.execute(
        f"CREATE VIRTUAL TABLE {table}_vec USING vec0(rowid INTEGER PRIMARY KEY, "
        "text_embedding float[4])"
    )
    if trigger:
        db.execute(
            f"CREATE TRIGGER embed_text AFTER INSERT ON {table} BEGIN INSERT INTO {table}_vec"
            "(rowid, text_embedding) VALUES (new.rowid, new.text_embedding); END"
        )
    for i in range(6):
        metadata = {"source": f"s{i}", "page": i, "text": "inner", "_text": "two", "id": "own"}
        db.execute(
            f"INSERT INTO {table} (text, metadata, text_embedding) VALUES (?, ?, ?)",
            (f"t{i}", json.dumps(metadata if i else {}), VECTORS[i].tobytes()),
        )


@pytest.mark.parametrize("trigger", [True, False])
async def test_langchains_sqlitevec_comes_whole_and_once(
    trigger: bool, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """B20: its metadata stand as JSON text in a BLOB column; its vectors stand in two tables."""
    langchain(db, "notes", trigger=trigger)
    done, rejects = await bring(path, tmp_path / "new.db")
    assert (done.keys(), rejects) == ({"notes"}, [])
    assert done["notes"].whole
    assert done["notes"].schema == Schema(
        4, metric="l2", vector="text_embedding", fields={"text": str}
    )
    async with aiovec.connect(tmp_path / "new.db") as store:
        assert await store.tables() == ["notes"]
        found = {record.id: dict(record.fields) for record in await store.find("notes")}
        assert found["1"] == {"text": "t0"}
        assert found["4"] == {
            "text": "t3", "source": "s3", "page": 3, "__text": "inner", "_text": "two",
            "_id": "own",
        }  # fmt: skip
        (hit,) = await store.search("notes", VECTORS[2], where="payload.source = 's2'")
        assert (hit.id, hit.distance) == ("3", 0)


async def test_rows_that_only_the_index_has_are_rejects(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """B20: LangChain has no trigger that deletes from the vec0 table."""
    langchain(db, "notes")
    db.execute("DELETE FROM notes WHERE rowid = 2")
    done, rejects = await bring(path, tmp_path / "new.db")
    assert (done["notes"].rows, done["notes"].rejected) == (5, 1)
    assert rejects[0]["reason"] == "it is only in notes_vec; notes has no row for it"


@pytest.mark.parametrize("trigger", [True, False])
async def test_a_vec0_table_with_other_vectors_is_no_index(
    trigger: bool, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """It was left out for its name, or a trigger, and its dimensions."""
    db.execute("CREATE TABLE docs (id INTEGER PRIMARY KEY, embedding BLOB)")
    name = "titles" if trigger else "vec_docs"
    db.execute(f"CREATE VIRTUAL TABLE {name} USING vec0(embedding float[4])")
    if trigger:
        db.execute(
            f"CREATE TRIGGER t AFTER DELETE ON docs BEGIN INSERT INTO {name}(rowid, embedding) "
            "VALUES (old.id, old.embedding); END"
        )
    for i in range(5):
        db.execute("INSERT INTO docs VALUES (?, ?)", (i, VECTORS[i].tobytes()))
        db.execute(f"INSERT INTO {name} (rowid, embedding) VALUES (?, ?)", (i, VECTORS[i + 1].data))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert ({one.table: one.rows for one in done.values()}, rejects) == (
        {"docs": 5, legal_table_name(name): 5},
        [],
    )


@pytest.mark.parametrize(
    ("declared", "made_by", "column"),
    [
        ("float[4]", "?", "BLOB"),
        ("float[4]", "?", "JSON"),
        ("float[4] distance_metric=cosine", "vec_normalize(?)", "BLOB"),
        ("int8[4] distance_metric=cosine", "vec_quantize_int8(vec_normalize(?), 'unit')", "BLOB"),
    ],
)
async def test_a_vec0_table_with_the_same_vectors_is_an_index(
    declared: str, made_by: str, column: str, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute(f"CREATE TABLE docs (id INTEGER PRIMARY KEY, owner TEXT, v {column})")
    db.execute(f"CREATE VIRTUAL TABLE vec_docs USING vec0(v {declared}, owner TEXT, +body TEXT)")
    for i in range(5):
        vector = as_json(VECTORS[i]) if column == "JSON" else VECTORS[i].tobytes()
        db.execute("INSERT INTO docs VALUES (?, 'o', ?)", (i, vector))
        db.execute(
            f"INSERT INTO vec_docs (rowid, v, owner, body) VALUES (?, {made_by}, 'o', 'b')",
            (i, VECTORS[i].data),
        )
    db.execute("INSERT INTO docs VALUES (5, 'o', NULL), (6, 'o', NULL)")
    db.execute(f"INSERT INTO vec_docs SELECT 5, {made_by}, 'o', 'b'", (VECTORS[5].data,))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert (done.keys(), done["docs"].rows) == ({"docs"}, 5)
    assert [reject["reason"] for reject in rejects] == ["the vector is missing"] * 2
    assert done["docs"].schema.metric == ("cosine" if "cosine" in declared else "l2")
    assert done["docs"].notes == ("left out, because it indexes the same vectors: vec_docs",)
    assert done["docs"].omitted == ("the column body of vec_docs",)


@pytest.mark.parametrize(
    ("table", "key", "column"),
    [
        ("id TEXT PRIMARY KEY, embedding BLOB", "", "rowid"),
        ("id TEXT PRIMARY KEY, embedding BLOB", "id INTEGER PRIMARY KEY", "rowid"),
        ("id TEXT PRIMARY KEY, embedding BLOB", "id TEXT PRIMARY KEY", "id"),
        ("id TEXT PRIMARY KEY, embedding BLOB", "doc TEXT PRIMARY KEY", "id"),
        ("id TEXT PRIMARY KEY, code INT, embedding BLOB", "code INTEGER PRIMARY KEY", "code"),
        ("id TEXT PRIMARY KEY, embedding BLOB, rowid INTEGER", "", "rowid"),
    ],
)
async def test_rows_of_an_index_are_found_by_its_own_key(
    table: str, key: str, column: str, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """Rows were told as missing, or not at all, or the database was refused."""
    db.execute(f"CREATE TABLE docs ({table})")
    of_vec0 = key.split(" ")[0] or "rowid"
    for name in ("vec_docs", "docs_vec"):
        db.execute(
            f"CREATE VIRTUAL TABLE {name} USING vec0({f'{key}, ' * bool(key)}embedding float[4])"
        )
    for i in range(5):
        value = 10 + i if column in ("rowid", "code") else f"k{i}"
        named = {"id": f"k{i}", column: value, "embedding": VECTORS[i].tobytes()}
        marks = ", ".join("?" * len(named))
        db.execute(f"INSERT INTO docs ({', '.join(named)}) VALUES ({marks})", tuple(named.values()))
        for name in ("vec_docs", "docs_vec"):
            db.execute(
                f"INSERT INTO {name} ({of_vec0}, embedding) VALUES (?, ?)",
                (value, VECTORS[i].data),
            )
    db.execute("INSERT INTO docs (embedding) VALUES (?)", (VECTORS[5].tobytes(),))  # no id
    lonely = 99 if isinstance(value, int) else "lonely"
    db.execute(f"INSERT INTO vec_docs ({of_vec0}, embedding) VALUES (?, ?)", (lonely, VECTORS[6]))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert done.keys() == {"docs"}
    told = [(r["rowid"], r["reason"]) for r in rejects if "vec_docs" in r["reason"]]
    assert told == [(lonely, "it is only in vec_docs; docs has no row for it")]
    assert [r["reason"] for r in rejects if "docs_vec" in r["reason"]] == []
    assert done["docs"].rows == 5


def chroma(db: sqlite3.Connection) -> None:
    """The tables of Chroma that matter here; its write-ahead log holds vectors."""
    db.execute("CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT, dimension INTEGER)")
    db.execute("CREATE TABLE segments (id TEXT PRIMARY KEY, type TEXT, collection TEXT)")
    db.execute("CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, seq_id BLOB)")
    db.execute(
        "CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation INTEGER, "
        "topic TEXT, id TEXT, vector BLOB, encoding TEXT, metadata TEXT)"
    )
    db.execute(
        "INSERT INTO embeddings_queue VALUES (1, 0, 't', 'a', ?, 'FLOAT32', '{}')",
        (VECTORS[0].tobytes(),),
    )


def qdrant(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)")
    db.execute("INSERT INTO points VALUES ('gARLAS4=', ?)", (pickle.dumps({"vector": [1.0, 2.0]}),))


def llm(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE collections (id INTEGER PRIMARY KEY, name TEXT, model TEXT)")
    db.execute(
        "CREATE TABLE embeddings (collection_id INTEGER, id TEXT, embedding BLOB, content TEXT, "
        "PRIMARY KEY (collection_id, id))"
    )
    for i in range(6):
        db.execute(
            "INSERT INTO embeddings VALUES (?, ?, ?, 'c')", (i % 2, f"i{i // 2}", VECTORS[i].data)
        )


@pytest.mark.parametrize(
    ("make", "name", "cure", "rows"),
    [
        (chroma, "Chroma", "collection.get", 0),
        (qdrant, "Qdrant", "scroll", 1),
        (llm, "llm", "view", 6),
    ],
)
def test_programs_that_are_not_read_yet_are_refused_with_what_to_do(
    make: Any, name: str, cure: str, rows: int, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """B20: Chroma's log was taken for its data, and llm's ids for unique ones."""
    make(db)
    hints = [Hints(), *(Hints(table=t) for t in ("embeddings_queue", "points", "embeddings"))]
    refused = 0
    for one in hints:
        source = SqliteSource(path, one)
        with pytest.raises(ConfigError) as caught:
            source.tables()
        source.close()
        refused += f"a database of {name}" in str(caught.value) and cure in str(caught.value)
    assert refused >= 2
    # Tables of the user's own in the same file come, and the program's are named.
    docs_with(db)
    source = SqliteSource(path, Hints())
    assert [table.name for table in source.tables()] == ["docs"]
    (skipped,) = source.skipped()
    source.close()
    assert skipped.origin.startswith(name)
    assert skipped.rows == rows
    # So does a view, made in a copy, of what the program keeps.
    db.execute("CREATE VIEW mine AS SELECT id, emb FROM docs")
    done, _ = asyncio.run(bring(path, tmp_path / "new.db", Hints(table="mine")))
    assert done["mine"].rows == 8


@pytest.mark.parametrize(
    ("file", "name"),
    [("chroma.sqlite3", "Chroma"), ("collection/notes/storage.sqlite", "Qdrant")],
)
def test_folders_of_known_programs(file: str, name: str, tmp_path: Path) -> None:
    """B20."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(ConfigError, match=f"is a folder; this is a database of {name}"):
        open_input(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is a folder; import takes a file"):
        open_input(tmp_path / "empty")


@pytest.mark.parametrize("options", ["", " WITHOUT ROWID"])
async def test_ids_of_a_compound_key_are_made_of_all_its_columns(
    options: str, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """B20: an id that is unique within a part of the key lost the rows of the other parts."""
    db.execute(f"CREATE TABLE t (space TEXT, id TEXT, v BLOB, PRIMARY KEY (space, id)){options}")
    keys = [("a", "1"), ("a", "2"), ("b", "1"), ("a/1", "x"), ("a", "1/x"), ("a%2F1", "x")]
    for i, (space, id) in enumerate(keys):
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (space, id, VECTORS[i].tobytes()))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert (done["t"].rows, rejects) == (6, [])
    assert done["t"].notes == ("ids are made from the columns of the key, such as space/id",)
    async with aiovec.connect(tmp_path / "new.db") as store:
        found = await store.find("t")
        assert {r.id for r in found} == {
            "a/1", "a/2", "b/1", "a%2F1/x", "a/1%2Fx", "a%252F1/x",
        }  # fmt: skip
        assert {(r.fields["space"], r.fields["_id"]) for r in found} == set(keys)
    done, rejects = await bring(path, tmp_path / "other.db", Hints(id_column="id"))
    assert (done["t"].rows, len(rejects)) == (4, 2)


async def test_json_objects_in_text_are_values_of_the_payload(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """B20: they came as one text each."""
    db.execute("CREATE TABLE t (id TEXT, about TEXT, mixed TEXT, meta TEXT, raw JSON, v BLOB)")
    rows: list[tuple[Any, ...]] = [
        ("a", '{"x": [1]}', "{}", '{"year": 1, "v": 2, "about": 3}', "[1, 2]"),
        ("b", '{"x": null}', "text", "no json", "5"),
        ("c", None, None, None, None),
        ("d", "", "[1]", "[1]", "broken"),
    ]
    for i, row in enumerate(rows):
        db.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", (*row, VECTORS[i].tobytes()))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert rejects == []
    assert done["t"].schema.fields == {"mixed": Field(str)}
    async with aiovec.connect(tmp_path / "new.db") as store:
        found = {record.id: dict(record.fields) for record in await store.find("t")}
        assert [r.id for r in await store.find("t", "payload.year = 1")] == ["a"]
    assert found == {
        "a": {"mixed": "{}", "about": {"x": [1]}, "year": 1, "_v": 2, "_about": 3, "raw": [1, 2]},
        "b": {"mixed": "text", "about": {"x": None}, "meta": "no json", "raw": 5},
        "c": {"mixed": None, "about": None, "raw": None},
        "d": {"mixed": "[1]", "about": "", "meta": "[1]", "raw": "broken"},
    }


async def test_a_column_of_blobs_and_texts_loses_no_value_in_silence(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """B20: a column was dropped for its declared type, whatever stood in it."""
    db.execute("CREATE TABLE t (id TEXT, note BLOB, some BLOB, none BLOB, v BLOB)")
    for i, (note, some) in enumerate([("x", b"1"), ("y", "text"), (None, None)]):
        db.execute("INSERT INTO t VALUES (?, ?, ?, NULL, ?)", (i, note, some, VECTORS[i].tobytes()))
    done, rejects = await bring(path, tmp_path / "new.db")
    assert done["t"].omitted == ()
    assert [(r["id"], "bytes" in r["reason"]) for r in rejects] == [("0", True)]
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("t", "1")
        assert record.fields == {"note": "y", "some": "text"}


async def test_models_of_several_dimensions_get_tables_of_their_own(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """C15: each took the dimensions of the whole table, and one got no row."""
    db.execute("CREATE TABLE t (id TEXT PRIMARY KEY, embedding_model TEXT, v BLOB)")
    wide = np.random.default_rng(3).normal(size=(12, 8))
    for i in range(12):
        vector = (
            VECTORS[i].tobytes() if i % 3 else wide[i].astype("<f4" if i % 2 else "<f8").tobytes()
        )
        model = ("small", "big", "double")[0 if i % 3 else 1 if i % 2 else 2]
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (f"i{i}", model, vector))
    db.execute("INSERT INTO t VALUES ('bad', 'small', x'0000803f')")
    done, rejects = await bring(path, tmp_path / "new.db")
    assert {(n, one.schema.model, one.schema.dim, one.rows) for n, one in done.items()} == {
        ("t-small", "small", 4, 8), ("t-big", "big", 8, 2), ("t-double", "double", 8, 2),
    }  # fmt: skip
    assert [(r["id"], r["reason"]) for r in rejects] == [
        ("bad", "the vector has 1 dimensions, not 4")
    ]
    async with aiovec.connect(tmp_path / "new.db") as store:
        (record,) = await store.get("t-double", "i0")
        assert record.vector.tolist() == wide[0].astype("f4").tolist()


@pytest.mark.parametrize("as_text", [False, True])
async def test_vectors_of_two_lengths_without_a_model(
    as_text: bool, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """C15: rows of a second length are a table of their own, or each is listed."""
    db.execute(f"CREATE TABLE t (id TEXT PRIMARY KEY, v {'TEXT' if as_text else 'BLOB'})")
    for i in range(12):
        vector = VECTORS[i] if i % 4 else np.concatenate([VECTORS[i], VECTORS[i]])
        db.execute(
            "INSERT INTO t VALUES (?, ?)", (i, as_json(vector) if as_text else vector.tobytes())
        )
    done, rejects = await bring(path, tmp_path / "new.db")
    counts = {name: (one.schema.dim, one.rows, one.rejected) for name, one in done.items()}
    if as_text:
        assert counts == {"t": (4, 9, 3)}
        assert {r["reason"] for r in rejects} == {"the vector has 8 dimensions, not 4"}
    else:
        assert counts == {"t": (4, 9, 0), "t-8d": (8, 3, 0)}


def _skipped(path: Path) -> dict[str, Skipped]:
    source = SqliteSource(path, Hints())
    try:
        source.tables()
        return {one.origin: one for one in source.skipped()}
    finally:
        source.close()


async def test_no_table_with_vectors_is_left_out_in_silence(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """Its first rows are zeros, its numbers are large or small, or of a type that may be any."""
    wide = np.random.default_rng(3).normal(size=(20, 40)).astype(np.float32)
    kinds = {
        "good": wide, "late": np.concatenate([np.zeros((300, 40), np.float32), wide]),
        "large": wide * 1e6, "bytes": (wide * 30).astype(np.int8),
    }  # fmt: skip
    for name, vectors in kinds.items():
        db.execute(f"CREATE TABLE {name} (id TEXT, v BLOB, text TEXT)")
        rows = [(f"{n}", vector.tobytes(), "t") for n, vector in enumerate(vectors)]
        db.executemany(f"INSERT INTO {name} VALUES (?, ?, ?)", rows)
    db.execute("CREATE TABLE named (id TEXT, embedding BLOB)")
    db.executemany("INSERT INTO named VALUES (?, ?)", [(id, bytes(range(1, 8))) for id in "ab"])
    # None of these hold vectors: digests, keys, pictures.
    db.execute("CREATE TABLE files (id TEXT, sha256 BLOB, picture BLOB)")
    db.executemany(
        "INSERT INTO files VALUES (?, ?, ?)",
        [(f"{n}", hashlib.sha256(b"%d" % n).digest(), b"\x89PNG" * (50 + n)) for n in range(20)],
    )
    db.commit()
    done, rejects = await bring(path, tmp_path / "new.db")
    assert {name: (one.rows, one.rejected) for name, one in done.items()} == {
        "good": (20, 0), "late": (20, 300),
    }  # fmt: skip
    assert len(rejects) == 300
    skipped = await asyncio.to_thread(_skipped, path)
    assert {name: one.rows for name, one in skipped.items()} == {
        "large": 20, "bytes": 20, "named": 2,
    }  # fmt: skip
    assert "--table bytes --vector-column v --dtype (float32, " in skipped["bytes"].reason
    hints = Hints(table="bytes", vector_column="v", dtype="int8")
    done, _ = await bring(path, tmp_path / "newer.db", hints)
    assert done["bytes"].rows == 20


async def test_generated_columns_are_imported(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute(
        "CREATE TABLE notes (id TEXT PRIMARY KEY, v BLOB, s TEXT, "
        "up TEXT GENERATED ALWAYS AS (upper(s)) VIRTUAL, "
        "low TEXT GENERATED ALWAYS AS (lower(s)) STORED)"
    )
    db.execute("INSERT INTO notes (id, v, s) VALUES ('a', ?, 'Text')", (VECTORS[0].tobytes(),))
    db.commit()
    done, _ = await bring(path, tmp_path / "new.db")
    assert done["notes"].rows == 1
    async with aiovec.connect(tmp_path / "new.db") as store:
        (row,) = await store.find("notes")
        assert (row["s"], row["up"], row["low"]) == ("Text", "TEXT", "text")


def test_a_table_of_bits_does_not_keep_the_others_from_coming(
    db: sqlite3.Connection, path: Path
) -> None:
    """Minor: one bit table blocked the import of a whole database."""
    docs_with(db)
    db.execute("CREATE VIRTUAL TABLE bits USING vec0(e bit[8])")
    db.execute("INSERT INTO bits (rowid, e) VALUES (1, vec_bit(x'01'))")
    db.execute("CREATE VIRTUAL TABLE two USING vec0(a float[2], b float[3])")
    db.execute("CREATE VIRTUAL TABLE both USING vec0(a float[4], b bit[8], c bit[4])")
    db.execute("CREATE VIEW lost AS SELECT * FROM nowhere")
    source = SqliteSource(path, Hints())
    assert {table.name: table.omitted for table in source.tables()} == {
        "both": ("the vectors b (bit[8])",), "docs": ("the column thumb (8 BLOBs)",),
    }  # fmt: skip
    skipped = {one.origin: (one.rows, one.reason) for one in source.skipped()}
    source.close()
    assert skipped.keys() == {"bits", "two"}
    assert skipped["bits"][0] == 1
    assert "bit vectors cannot be imported" in skipped["bits"][1]
    assert "--vector-column" in skipped["two"][1]


@pytest.mark.parametrize("dim", [4, 6, 16, 384])
async def test_halves_are_not_taken_for_floats(
    dim: int, db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """Minor: short float16 BLOBs came as float32 garbage of half the length."""
    halves = np.random.default_rng(5).normal(size=(10, dim)).astype("<f2")
    db.execute("CREATE TABLE halves (id INTEGER PRIMARY KEY, v BLOB)")
    for i in range(10):
        db.execute("INSERT INTO halves VALUES (?, ?)", (i, halves[i].tobytes()))
    with pytest.raises(ConfigError, match="--dtype"):
        await bring(path, tmp_path / "new.db")
    done, _ = await bring(path, tmp_path / "new.db", Hints(dtype="float16"))
    assert (done["halves"].schema.dim, done["halves"].rows) == (dim, 10)


def test_wide_numbers_are_not_taken_for_narrow_ones() -> None:
    """Minor: 1.0 as float64 looks like 0.0, 1.875 as float32."""
    rng = np.random.default_rng(6)
    for dim in (2, 4, 16, 384):
        for rows in (2, 10, 200):
            values = rng.normal(size=(rows, dim))
            unit = values / np.linalg.norm(values, axis=1, keepdims=True)
            for matrix in (values, unit, unit * 1e-3):
                for dtype, name in (("<f4", "float32"), ("<f8", "float64")):
                    assert readings([v.astype(dtype).tobytes() for v in matrix])[0] == name
                found = readings([v.astype("<f2").tobytes() for v in matrix])
                assert found != ("float32",), (dim, rows)
    whole = [np.array([1, i, 0, 2], "<f8").tobytes() for i in range(5)]
    assert set(readings(whole)) >= {"float64"}
    assert readings([np.array([1, i], "<f4").tobytes() for i in range(5)]) == ("float32",)


async def test_an_unfamiliar_layout_is_not_called_damaged(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    """Minor: a table of a known name with other columns was told as damage of the file."""
    collection(db, "notes")
    db.execute("DROP TABLE payload_notes")
    db.execute("CREATE TABLE payload_notes (rowid INTEGER PRIMARY KEY, body TEXT)")
    db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (1, ?)", (VECTORS[1].tobytes(),))
    done, _ = await bring(path, tmp_path / "new.db")
    assert done["vec_notes"].rows == 1
    db.execute("CREATE VIEW broken AS SELECT id, emb FROM nowhere")
    with pytest.raises(ConfigError, match=r"a layout that aiovec does not know.*--table"):
        await bring(path, tmp_path / "other.db", Hints(table="broken"))


# The file as a whole


def test_several_layouts_in_one_file(db: sqlite3.Connection, path: Path, tmp_path: Path) -> None:
    collection(db, "My Notes", model=None)
    point(db, "My Notes", 1, "a", "{}")
    docs_with(db)
    db.execute("CREATE VIRTUAL TABLE v USING vec0(embedding float[4])")
    db.execute("INSERT INTO v (rowid, embedding) VALUES (1, ?)", (VECTORS[1].tobytes(),))
    db.execute("CREATE TABLE unrelated (a, b BLOB)")
    db.execute("INSERT INTO unrelated VALUES (1, ?)", (os.urandom(64),))
    db.execute("CREATE VIRTUAL TABLE words USING fts5(body)")
    source = SqliteSource(path, Hints())
    found = [(table.name, table.layout, table.rows) for table in source.tables()]
    source.close()
    assert found == [
        ("my-notes", "collection", 1),
        ("v", "vec0 table", 1),
        ("docs", "column of float32 BLOBs", 8),
    ]
    for told, name in (("My Notes", "my-notes"), ("vec_My Notes", "my-notes"), ("v", "v")):
        done, _ = asyncio.run(bring(path, tmp_path / f"{name}-{len(told)}.db", Hints(table=told)))
        assert done.keys() == {name}
    with pytest.raises(ConfigError, match="there is no table 'absent'"):
        asyncio.run(bring(path, tmp_path / "new.db", Hints(table="absent")))
    with pytest.raises(ConfigError, match="no column of the table 'unrelated'"):
        asyncio.run(bring(path, tmp_path / "new.db", Hints(table="unrelated")))


def test_a_wal_beside_the_file_is_read_and_nothing_is_written(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    docs_with(db)
    wal = path.with_name("old.db-wal")
    before = digest(path), digest(wal)
    assert wal.stat().st_size > 0
    done, _ = asyncio.run(bring(path, tmp_path / "new.db"))
    assert done["docs"].rows == 8
    assert (digest(path), digest(wal)) == before
    # The other program goes on: its file is neither locked nor changed.
    db.execute("UPDATE docs SET title = 'new'")
    reader = open_read_only(path)
    with pytest.raises(load_driver().OperationalError, match="readonly"):
        reader.execute("DELETE FROM docs")
    reader.close()


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="root may write everywhere, and Windows knows no such folder",
)
async def test_a_medium_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "medium"
    folder.mkdir()
    db = connect(str(folder / "old.db"))
    db.execute("PRAGMA journal_mode = WAL")
    docs_with(db)
    db.close()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        done, _ = await bring(folder / "old.db", tmp_path / "new.db")
    finally:
        folder.chmod(stat.S_IRWXU)
    assert done["docs"].rows == 8


def test_one_state_of_a_file_that_others_write(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    docs_with(db)
    source = SqliteSource(path, Hints())
    (table,) = source.tables()
    db.execute("DELETE FROM docs")
    rows = sum(len(chunk.places) for chunk in source.read(table, table.schema, 3))
    source.close()
    assert rows == 8


def test_a_store_of_our_own_is_told(tmp_path: Path) -> None:
    async def make() -> None:
        async with aiovec.connect(tmp_path / "own.db"):
            pass

    asyncio.run(make())
    assert source_for(tmp_path / "own.db") is SqliteSource
    with pytest.raises(ConfigError, match="is already an aiovec store"):
        open_input(tmp_path / "own.db")


def test_a_damaged_file_and_one_without_vectors(
    db: sqlite3.Connection, path: Path, tmp_path: Path
) -> None:
    db.execute("CREATE TABLE a (b)")
    source = open_input(path)
    with pytest.raises(ConfigError, match=r"no vectors were recognised .* the tables are: a"):
        source.tables()
    source.close()
    bad = tmp_path / "bad.db"
    bad.write_bytes(path.read_bytes()[:100] + bytes(5000))
    with pytest.raises(CorruptStoreError):
        open_input(bad).tables()


def test_sqlite_vss_is_told_what_to_do(db: sqlite3.Connection, path: Path) -> None:
    # The extension itself is not needed to see that a file was made with it.
    db.execute("CREATE TABLE articles (rowid INTEGER PRIMARY KEY, title TEXT, embedding TEXT)")
    db.execute("CREATE TABLE vss_articles_index (rowid INTEGER PRIMARY KEY, idx BLOB)")
    db.execute("PRAGMA writable_schema = ON")
    db.execute(
        "INSERT INTO sqlite_master VALUES ('table', 'vss_articles', 'vss_articles', 0, "
        "'CREATE VIRTUAL TABLE vss_articles USING vss0(embedding(4))')"
    )
    db.execute("PRAGMA writable_schema = RESET")
    for hints in (Hints(), Hints(table="vss_articles")):
        source = SqliteSource(path, hints)
        with pytest.raises(ConfigError, match=r"only sqlite-vss reads.*vector_to_json"):
            source.tables()
        source.close()
    # Its users keep the vectors in the table beside it, mostly as JSON.
    db.execute("INSERT INTO articles VALUES (1, 't', ?)", (as_json(VECTORS[0]),))
    source = SqliteSource(path, Hints())
    (table,) = source.tables()
    source.close()
    assert (table.name, table.layout) == ("articles", "column of JSON text")


def test_a_backup_is_a_whole_copy(db: sqlite3.Connection, path: Path, tmp_path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    docs_with(db)
    source = SqliteSource(path, Hints())
    source.backup(tmp_path / "copy.db")
    with pytest.raises(ConfigError, match="already exists"):
        source.backup(tmp_path / "copy.db")
    source.close()
    copy = SqliteSource(tmp_path / "copy.db", Hints())
    assert [table.rows for table in copy.tables()] == [8]
    copy.close()


def test_bytes_that_are_signalling_nans_are_no_vectors() -> None:
    """Which NumPy warns of where it changes their type."""
    assert readings([b"\x01\x00\x80\x7f" * 8]) == ()
    assert readings([VECTORS[1].tobytes()]) == ("float32",)
