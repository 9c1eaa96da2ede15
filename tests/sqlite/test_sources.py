"""Databases that other programs wrote: built as their users build them, then imported."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiovec
from aiovec import ConfigError, CorruptStoreError, Field, Schema
from aiovec.schema import check_table_name
from aiovec.sources import Hints, legal_table_name, source_for
from aiovec.sync import VectorStore as Collections
from aiovec.transfer import Load, Loaded, Loading, RejectsFile, load, open_input
from aiovec_sqlite.driver import connect, load_driver
from aiovec_sqlite.sources import SqliteSource
from aiovec_sqlite.sources.blobs import looks_like
from aiovec_sqlite.sources.database import open_read_only
from aiovec_sqlite.sources.declared import vec0_of

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
    assert reasons[2][1].startswith("the payload is no JSON: ")
    assert reasons[3] == ("c", "the payload is no JSON object")
    assert reasons[4] == ("a", "the id came before in the same source")
    assert reasons[5][1] == "field 'id': an id is text of 1 to 512 bytes without NUL"
    assert reasons[6] == ("f", "field 'x': NaN and infinity are not JSON")
    assert reasons[7] == (None, "there is no row of it in payload_notes")
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
    assert {one.notes for one in done.values()} == {("not taken, being a BLOB: image",)}
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
    with pytest.raises(ConfigError, match="bits are no vectors"):
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
    assert done["docs"].notes == ("not taken, being a BLOB: thumb",)
    async with aiovec.connect(tmp_path / "new.db") as store:
        assert await store.schema("docs") == Schema(
            4, vector="emb", fields={"title": str, "year": int, "live": bool}
        )
        (record,) = await store.get("docs", "3")
        assert record.fields == {
            "title": "t3", "year": 2003, "live": True, "seen": "2024-01-01 00:00:00",
        }  # fmt: skip
        assert record.vector.tolist() == VECTORS[3].astype(dtype).astype("f4").tolist()


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
    with pytest.raises(ConfigError, match="is a store of aiovec already"):
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
    with pytest.raises(ConfigError, match="there already"):
        source.backup(tmp_path / "copy.db")
    source.close()
    copy = SqliteSource(tmp_path / "copy.db", Hints())
    assert [table.rows for table in copy.tables()] == [8]
    copy.close()


def test_bytes_that_are_signalling_nans_are_no_vectors() -> None:
    """Which NumPy warns of where it changes their type."""
    assert looks_like([b"\x01\x00\x80\x7f" * 8]) is None
    assert looks_like([VECTORS[1].tobytes()]) == "float32"
