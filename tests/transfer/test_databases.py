"""Tests of imports from SQLite databases that other programs still have open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.command import run
from tests.harness.vec0 import connect

from aiovec import Field, Schema, sync
from aiovec.compat import VectorStore as Collections

from .support import assert_rejects, bring, refused, rows_of, schema_of

VECTORS = np.random.default_rng(11).normal(size=(12, 4)).astype(np.float32)
BLOBS = ("--vector-column", "emb", "--dtype", "float32")


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "old.db"


@pytest.fixture
def db(path: Path) -> Iterator[Any]:
    """Yield the other program's connection."""
    with closing(connect(path)) as connection:
        yield connection


def table(path: Path, name: str) -> Path:
    """Return a source that names a table of a database."""
    return path.with_name(f"{path.name}#{name}")


def collection(db: Any, points: dict[str, str | None]) -> None:
    """Create the tables of the older layout, with the collection ``notes``."""
    db.executescript(
        """CREATE TABLE _collection_meta (name TEXT PRIMARY KEY, dim INT, model TEXT);
        INSERT INTO _collection_meta VALUES ('notes', 4, 'nomic');
        CREATE VIRTUAL TABLE vec_notes USING vec0(embedding float[4] distance_metric=cosine);
        CREATE TABLE payload_notes (rowid INTEGER PRIMARY KEY, orig_id TEXT, payload_json TEXT)"""
    )
    for rowid, (id, payload) in enumerate(points.items(), 1):
        vector = VECTORS[rowid].tobytes()
        db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (?, ?)", (rowid, vector))
        db.execute("INSERT INTO payload_notes VALUES (?, ?, ?)", (rowid, id, payload))


def test_an_older_collection_keeps_ids_payloads_and_model(db: Any, path: Path, store: Path) -> None:
    payload = {"text": "t", "n": 3, "id": "inner", "vector": "v", "_id": "u"}
    collection(db, {"a": json.dumps(payload), "b": None})
    assert bring(path, store)["rows"] == 2
    assert schema_of(store) == Schema(4, model="nomic", vector="vector")
    rows = rows_of(store)
    np.testing.assert_array_equal(rows["a"].vector, VECTORS[1])
    assert (rows["a"]["text"], rows["a"]["n"], rows.keys()) == ("t", 3, {"a", "b"})
    with Collections(store) as opened:
        opened.ensure_collection("notes", 4, model="nomic")
        (hit,) = opened.search("notes", VECTORS[1], limit=1, model="nomic")
    assert (hit["id"], hit["payload"]) == ("a", payload)


def test_named_keys_of_a_payload_become_fields(db: Any, path: Path, store: Path) -> None:
    """The options ``--text`` and ``--index`` name the keys, because collections have no columns."""
    points: list[dict[str, Any]] = [
        {"page": "the cat sat", "year": 2001, "mixed": "x"},
        {"page": "a dog", "year": None, "mixed": 1},
        {},
    ]
    collection(db, {f"p{n}": json.dumps(point) for n, point in enumerate(points)})
    assert bring(path, store, "--text", "page", "--index", "year")["rows"] == 3
    fields = {"page": Field(str, text=True), "year": Field(int, index="btree")}
    assert schema_of(store) == Schema(4, model="nomic", vector="vector", fields=fields)
    with sync.connect(store) as opened:
        assert [hit.id for hit in opened.search_text("notes", "cats OR cat")] == ["p0"]
        assert opened.count("notes", "year = 2001") == 1
    rows = rows_of(store)
    assert dict(rows["p1"].fields) == {"page": "a dog", "year": None, "mixed": 1}
    for key in ("mixed", "absent"):
        error = refused(path, store, "--index", key, table="new")
        assert f"--index {key}: " in error


LLM = """
CREATE TABLE "collections" ("id" INTEGER PRIMARY KEY, "name" TEXT, "model" TEXT);
CREATE TABLE "embeddings" (
    "collection_id" INTEGER REFERENCES "collections"("id"), "id" TEXT, "embedding" BLOB,
    "content" TEXT, "content_blob" BLOB, "content_hash" BLOB, "metadata" TEXT, "updated" INTEGER,
    PRIMARY KEY ("collection_id", "id")
);
CREATE TABLE "_llm_migrations" ("name" TEXT PRIMARY KEY, "applied_at" TEXT);
INSERT INTO collections VALUES (1, 'My notes', 'mini'), (2, 'other', 'large'), (3, 'none', 'mini')
"""


def test_each_collection_of_llm_becomes_a_table(db: Any, path: Path, store: Path) -> None:
    db.executescript(LLM)
    insert = "INSERT INTO embeddings VALUES (?, ?, ?, ?, ?, x'00', ?, 1)"
    metadata = {"n": 1, "content": "own", "id": "inner"}
    stored: list[tuple[Any, ...]] = [
        (1, "a", VECTORS[0].tobytes(), "the cat", None, json.dumps(metadata)),
        (1, "b", VECTORS[1].tobytes(), None, None, None),
        (1, "c", b"123", "cut", None, "[1]"),
        (2, "a", VECTORS[2, :2].tobytes(), "a dog", None, None),
    ]
    db.executemany(insert, stored)
    done = run("import", path, "-s", store, "--json")
    assert done.code == 1
    names = [(each["name"], each["rows"], each["rejected"]) for each in done.json["tables"]]
    assert names == [("my-notes", 2, 1), ("other", 1, 0)]
    content = {"content": Field(str, text=True)}
    assert schema_of(store, "my-notes") == Schema(4, model="mini", fields=content)
    assert schema_of(store, "other") == Schema(2, model="large", fields=content)
    rows = rows_of(store, "my-notes")
    np.testing.assert_array_equal(rows["a"].vector, VECTORS[0])
    assert rows["a"].fields == {"content": "the cat", "n": 1, "content_": "own", "id_": "inner"}
    assert rows["b"].fields == {"content": None}
    with sync.connect(store) as opened:
        assert opened.count("my-notes", "payload.n = 1") == 1
        assert [hit.id for hit in opened.search_text("my-notes", "cat")] == ["a"]
    # Name one collection; then import the table itself, like any column of BLOBs.
    assert bring(table(path, "other"), store)["rows"] == 1
    db.execute("UPDATE embeddings SET content_blob = x'01' WHERE collection_id = 2")
    facts = bring(table(path, "other"), store, "--upsert", code=1)
    assert facts["omitted"] == ["the column content_blob (1 BLOBs)"]
    given = ("--vector-column", "embedding", "--dtype", "float32", "--id-column", "id")
    assert bring(table(path, "embeddings"), store, *given, code=1, table="raw")["rows"] == 2


def test_an_incomplete_point_is_rejected_by_its_place(db: Any, path: Path, store: Path) -> None:
    collection(db, {"a": "{}", "b": "{broken", "c": "[1]", "": '{"x": 1}'})
    db.execute("INSERT INTO vec_notes (rowid, embedding) VALUES (7, ?)", (VECTORS[7].tobytes(),))
    db.execute("INSERT INTO payload_notes VALUES (8, 'lonely', '{}')")
    assert bring(path, store, code=1)["rejected"] == 5
    assert rows_of(store).keys() == {"a"}
    assert_rejects(path, {
        2: "its JSON cannot be read: ",
        3: ("c", "its JSON cannot be read: it is not an object"),
        4: "field 'id': an id must be text of 1 to 512 bytes",
        7: "field 'id': every row needs an id",
        8: "the vector is missing",
    })  # fmt: skip


def test_a_vec0_table_is_imported_without_bad_vectors(db: Any, path: Path, store: Path) -> None:
    db.execute(
        """CREATE VIRTUAL TABLE items USING vec0(
            item_id INTEGER PRIMARY KEY, embedding FLOAT[4] distance_metric=cosine,
            tenant TEXT PARTITION KEY, live BOOLEAN, score FLOAT, year INTEGER, +body TEXT,
            chunk_size=16
        )"""
    )
    bad = [np.zeros(4, "f4"), np.array([1, np.nan, 0, 0], "f4")]
    for i, vector in enumerate([*VECTORS[:5], *bad]):
        row = (i, vector.tobytes(), i % 2, i / 2, 2000 + i, f"b{i}")
        db.execute("INSERT INTO items VALUES (?, ?, 't', ?, ?, ?, ?)", row)
    assert bring(path, store, code=1)["rows"] == 5
    zero = ("5", "the vector is zero, so it has no cosine")
    assert_rejects(path, {5: zero, 6: "the vector has nan in it"})
    kinds: dict[str, Any] = {"live": bool, "score": float, "year": int, "body": str}
    fields = {"tenant": Field(str, partition=True), **kinds}
    assert schema_of(store) == Schema(4, fields=fields)
    rows = rows_of(store)
    assert sorted(rows) == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(rows["3"].vector, VECTORS[3])
    assert dict(rows["3"].fields) == {
        "tenant": "t", "live": True, "score": 1.5, "year": 2003, "body": "b3",
    }  # fmt: skip


def test_the_other_vectors_of_a_vec0_table_are_named(db: Any, path: Path, store: Path) -> None:
    """The first vectors that can be imported are imported."""
    db.execute("CREATE VIRTUAL TABLE small USING vec0(e int8[4], b bit[8], +vector TEXT)")
    row = (b"\x01\xff\x7f\x80", b"\x01", "v")
    db.execute("INSERT INTO small (e, b, vector) VALUES (vec_int8(?), vec_bit(?), ?)", row)
    done = bring(path, store, code=1)
    assert (done["metric"], done["omitted"]) == ("l2", ["the vectors b (bit[8])"])
    np.testing.assert_array_equal(rows_of(store)["1"].vector, [1, -1, 127, -128])
    assert rows_of(store)["1"]["vector"] == "v"
    db.execute("CREATE VIRTUAL TABLE pair USING vec0(one float[4], two float[4])")
    row = (VECTORS[0].tobytes(), VECTORS[1].tobytes())
    db.execute("INSERT INTO pair (one, two) VALUES (?, ?)", row)
    for options, vector, left in (((), "one", "two"), (("--vector-column", "two"), "two", "one")):
        done = bring(table(path, "pair"), store, *options, table=vector, code=1)
        assert done["omitted"] == [f"the vectors {left} (float32[4])"]
        assert schema_of(store, vector).vector == vector
    np.testing.assert_array_equal(rows_of(store, "two")["1"].vector, VECTORS[1])
    assert "pair (vec0 table), small (vec0 table)" in refused(path, store)


def docs_with(db: Any, dtype: str = "<f4") -> None:
    db.execute(
        "CREATE TABLE docs (id INTEGER PRIMARY KEY, uri TEXT, title TEXT, year INT, emb BLOB)"
    )
    for i, vector in enumerate(VECTORS[:8] * (30 if dtype == "i1" else 1)):
        row = (i, f"u{i}", f"t{i}", 2000 + i, vector.astype(dtype).tobytes())
        db.execute("INSERT INTO docs VALUES (?, ?, ?, ?, ?)", row)


def test_blobs_of_each_dtype_become_vectors(db: Any, path: Path, store: Path) -> None:
    types = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "int8": "i1"}
    for name, dtype in types.items():
        with case(name):
            docs_with(db, dtype)
            options = ("--vector-column", "emb", "--dtype", name, "--id-column", "uri")
            done = bring(table(path, "docs"), store, *options, table=name)
            assert (done["dim"], done["rows"]) == (4, 8)
            row = rows_of(store, name)["u3"]
            assert (row["title"], row["year"]) == ("t3", 2003)
            wanted = (VECTORS[3] * (30 if dtype == "i1" else 1)).astype(dtype).astype("f4")
            np.testing.assert_array_equal(row.vector, wanted)
            db.execute("DROP TABLE docs")


def test_columns_beside_blobs_become_fields_of_their_type(db: Any, path: Path, store: Path) -> None:
    db.execute(
        "CREATE TABLE docs (code TEXT PRIMARY KEY, id INT, live BOOL, meta JSON, raw BLOB, "
        "day DATE, emb BLOB) WITHOUT ROWID"
    )
    row = ("c", 7, 1, '{"a": [1]}', b"x", "[no JSON", VECTORS[0].tobytes())
    db.execute("INSERT INTO docs VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    done = bring(table(path, "docs"), store, *BLOBS, code=1)
    assert done["omitted"] == ["the column raw (1 BLOBs)"]
    assert schema_of(store).fields == {"live": Field(bool)}
    assert dict(rows_of(store)["c"].fields) == {
        "live": True, "id_": 7, "meta": {"a": [1]}, "day": "[no JSON",
    }  # fmt: skip
    db.execute("CREATE VIEW joined AS SELECT code || '!' AS id, emb FROM docs")
    bring(table(path, "joined"), store, *BLOBS, table="view")
    assert rows_of(store, "view").keys() == {"c!"}
    options = ("--id-column", "none", "--allow-rejects")
    assert bring(table(path, "docs"), store, *BLOBS, *options, table="new")["rows"] == 1
    (row,) = rows_of(store, "new").values()
    assert row["code"] == "c"


def test_the_metadata_of_langchains_sqlite_is_unfolded_and_its_text_searched(
    db: Any, path: Path, store: Path
) -> None:
    db.execute(
        "CREATE TABLE lc (rowid INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT, metadata BLOB, "
        "text_embedding BLOB)"
    )
    for row in (
        ("red wool", '{"pos": "noun", "n": 1, "text": "own"}'), ("to run", '{"pos": "verb"}'),
        ("bare", None), ("list", "[1]"),
    ):  # fmt: skip
        values = (*row, VECTORS[0].tobytes())
        db.execute("INSERT INTO lc (text, metadata, text_embedding) VALUES (?, ?, ?)", values)
    options = ("--vector-column", "text_embedding", "--dtype", "float32")
    assert bring(table(path, "lc"), store, *options)["rows"] == 4
    assert schema_of(store).fields == {"text": Field(str, text=True)}
    rows = rows_of(store)
    assert dict(rows["1"].fields) == {"text": "red wool", "pos": "noun", "n": 1, "text_": "own"}
    assert [dict(rows[id].fields) for id in "34"] == [
        {"text": "bare"}, {"text": "list", "metadata": [1]},
    ]  # fmt: skip
    with sync.connect(store) as opened:
        assert [row.id for row in opened.find("notes", "payload.pos = 'noun'")] == ["1"]
        assert [hit.id for hit in opened.search_text("notes", "wool")] == ["1"]


def test_langchains_sqlite_keeps_the_metric_of_the_table_that_it_searches(
    db: Any, path: Path, store: Path, folder: Path
) -> None:
    db.execute("CREATE TABLE lc (rowid INTEGER PRIMARY KEY, text TEXT, text_embedding BLOB)")
    db.execute("INSERT INTO lc VALUES (1, 'wool', ?)", (VECTORS[0].tobytes(),))
    options = ("--vector-column", "text_embedding", "--dtype", "float32")
    found = bring(table(path, "lc"), folder / "alone.db", *options)
    note = "nothing names the metric; the table gets cosine unless you pass --metric"
    assert (found["metric"], found["notes"]) == ("cosine", [note])
    db.execute("CREATE VIRTUAL TABLE lc_vec USING vec0(text_embedding float[4])")
    found = bring(table(path, "lc"), store, *options)
    assert (found["metric"], found["notes"]) == ("l2", [])


def test_a_dry_run_of_a_file_with_several_tables_shows_them(
    db: Any, path: Path, store: Path
) -> None:
    docs_with(db)
    for name in ("", "items"):  # at first, no table can be imported without options
        if name:
            db.execute(f"CREATE VIRTUAL TABLE {name} USING vec0(e float[4])")
        done = run("import", path, "--dry-run", "-s", store)
        assert (done.code, name in done.out) == (0, True), done.err
        assert "docs: cannot be imported: name the column of the vectors" in done.out + done.err
    assert not store.exists()


def test_an_import_asks_for_options_and_never_guesses(db: Any, path: Path, store: Path) -> None:
    db.execute("CREATE TABLE a (b)")
    assert "no vec0 table and no collections" in refused(path, store)
    assert "there is no table 'absent'" in refused(table(path, "absent"), store)
    assert not store.exists()
    db.execute("DROP TABLE a")
    db.execute("CREATE VIRTUAL TABLE items USING vec0(e float[4], live BOOLEAN, name TEXT)")
    db.execute("CREATE VIRTUAL TABLE words USING fts5(body)")
    db.execute("CREATE VIEW broken AS SELECT * FROM gone")
    assert bring(path, store)["rows"] == 0
    docs_with(db)
    db.execute("CREATE TABLE pairs (a INT, b INT, v BLOB, PRIMARY KEY (a, b))")
    db.execute("INSERT INTO pairs VALUES (1, 2, x'01')")
    db.execute("CREATE VIEW bare AS SELECT a, v FROM pairs")
    listed = "bare, broken, docs (BLOBs: emb), items (vec0 table), pairs (BLOBs: v), words"
    assert f"The tables are: {listed}" in refused(path, store)
    for (name, *options), said in (
        (("docs",), "with --vector-column (id, uri, title, year, emb)"),
        (("docs", "--vector-column", "absent", "--dtype", "int8"), "with --vector-column"),
        (("docs", "--vector-column", "emb"), "choose one of float16, float32, float64, int8"),
        (("docs", "--vector-column", "title", "--dtype", "int8"), "holds no vectors of int8"),
        (("bare", "--vector-column", "v", "--dtype", "int8"), "no primary key by which"),
        (("items", "--id-column", "absent"), "has no column 'absent'"),
        (("broken", "--vector-column", "v", "--dtype", "int8"), "gone"),
    ):
        with case((name, *options)):
            assert said in refused(table(path, name), store, *options)
    pairs = ("--vector-column", "v", "--dtype", "int8")
    assert bring(table(path, "pairs"), store, *pairs, table="pairs")["rows"] == 1
    assert dict(rows_of(store, "pairs")["1/2"].fields) == {"a": 1, "b": 2}


def test_a_bad_blob_is_rejected_by_its_place(db: Any, path: Path, store: Path) -> None:
    docs_with(db)
    for id, value in enumerate(("NULL", "x'0000803f'", "x'00'", "'text'"), 1):
        db.execute(f"UPDATE docs SET emb = {value} WHERE id = {id}")
    db.execute("UPDATE docs SET title = CAST(x'ff61' AS TEXT) WHERE id = 5")
    assert bring(table(path, "docs"), store, *BLOBS, code=1)["rows"] == 3
    hint = "in a table with vector_nullable=True, rows may have none"
    assert_rejects(path, {
        1: ("1", f"the vector is missing (key 'emb'); {hint}"),
        2: ("2", "the vector has 1 dimensions, not 4"),
        3: ("3", "the vector is not a BLOB of float32 but 1 bytes"),
        4: ("4", "the vector is not a BLOB of float32 but str"),
        5: ("5", "field 'title': the text is not valid Unicode (a lone surrogate)"),
    })  # fmt: skip


def test_a_database_in_use_elsewhere_is_not_written(db: Any, path: Path, store: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    docs_with(db)
    files = (path, path.with_name("old.db-wal"))
    before = [file.read_bytes() for file in files]
    assert bring(table(path, "docs"), store, *BLOBS)["rows"] == 8
    assert [file.read_bytes() for file in files] == before


def test_an_aiovec_store_or_a_damaged_database_is_refused(path: Path, store: Path) -> None:
    with sync.connect(path):
        pass
    assert "is already an aiovec store" in refused(path, store)
    path.write_bytes(path.read_bytes()[:60] + bytes(5000))
    assert "damaged" in refused(path, store)
    assert not store.exists()
