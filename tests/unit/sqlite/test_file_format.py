"""docs/internals/file-format.md: its SQL blocks, by a plain client, on a store of aiovec."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.processes import ROOT
from tests.sqlite.support import backend_on, rows_of, sql

import aiovec
from aiovec import Field, Schema

PAGE = (ROOT / "docs/internals/file-format.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"^<!-- (\w+) -->\n```sql\n(.*?)^```$", PAGE, re.M | re.S))
START = datetime(2024, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)
SCHEMA = Schema(
    8,
    model="a-model",
    quantized="bit",
    fields={
        "tenant": Field(str, partition=True), "title": Field(str, nullable=False, text=True),
        "year": Field(int, index="btree"), "score": float, "live": bool, "seen": datetime,
        "tags": list[str],
    },
)  # fmt: skip
QUERY = np.random.default_rng(5).standard_normal(8, dtype=np.float32)


def rows() -> list[dict[str, Any]]:
    chance = np.random.default_rng(4)
    return [
        {
            "id": f"n{n:02}", "embedding": chance.standard_normal(8, dtype=np.float32),
            "tenant": (None, "acme", "=odd")[n % 3], "title": f"note {n}", "year": 2015 + n % 10,
            "score": n / 4, "live": n % 4 == 0, "seen": START + timedelta(days=n),
            "tags": ["even" if n % 2 == 0 else "odd", f"t{n}"],
            **({"kind": "memo"} if n % 5 == 0 else {}),
        }
        for n in range(40)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("format") / "notes.db"

    async def make() -> None:
        async with aiovec.connect(made) as store:
            await store.create_table("notes", SCHEMA)
            await store.insert("notes", rows())
            await store.delete("notes", ["n07", "n08"])
            await store.update("notes", {"score": 9.5}, ids="n01")
            await store.create_table("other", Schema(4, metric="dot"))

    asyncio.run(make())
    return made


def run(path: Path, block: str, **values: Any) -> list[tuple[Any, ...]]:
    with sql(path) as db:
        return db.execute(BLOCKS[block], values).fetchall()


def ask(path: Path, question: Callable[[Any], Any]) -> Any:
    """Return aiovec's own answer."""

    async def go() -> Any:
        async with aiovec.connect(path) as store:
            return await question(store)

    return asyncio.run(go())


def test_every_block_of_the_page_has_a_test() -> None:
    assert len(BLOCKS) == PAGE.count("```sql")
    source = Path(__file__).read_text(encoding="utf-8")
    for block in BLOCKS:
        assert f'path, "{block}"' in source or f'BLOCKS["{block}"]' in source, block


def test_the_page_reads_the_file_header(path: Path) -> None:
    assert run(path, "file") == [(int.from_bytes(b"aiov"), 1)]
    with sql(path) as db:
        pragmas = {
            name: db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "auto_vacuum", "journal_mode", "encoding")
        }
    assert pragmas == {
        "page_size": 8192, "auto_vacuum": 2, "journal_mode": "wal", "encoding": "UTF-8"
    }  # fmt: skip


def test_the_page_lists_the_tables(path: Path) -> None:
    assert run(path, "tables") == [("notes", 8, "cosine", "a-model"), ("other", 4, "dot", None)]
    with sql(path) as db:
        texts = dict(db.execute("SELECT name, schema FROM aiovec_tables").fetchall())
    assert Schema.from_json(texts["notes"]) == SCHEMA


def test_the_page_searches_the_text_index(path: Path) -> None:
    ((fts, *rest),) = run(path, "text")
    assert rest == ['["title"]', "plain unified", 1]
    with sql(path) as db:
        matches = db.execute(
            BLOCKS["keywords"].format(fts=fts), {"words": '"13" OR "17"'}
        ).fetchall()
    assert [id for (id,) in matches] == ["n13", "n17"]


def test_columns_and_stored_values_are_as_on_the_page(path: Path) -> None:
    with sql(path) as db:
        columns = db.execute(
            "SELECT name, type, \"notnull\" FROM pragma_table_info('notes.rows')"
        ).fetchall()
        vectors = [row[0] for row in db.execute("SELECT name FROM pragma_table_info('notes.vec')")]
        indexes = {row[1] for row in db.execute('PRAGMA index_list("notes.rows")')}
        stored = db.execute(
            "SELECT seen, tags, live, payload FROM \"notes.rows\" WHERE id = 'n05'"
        ).fetchone()
        keys = dict(
            db.execute('SELECT rowid, p1 FROM "notes.vec" ORDER BY rowid LIMIT 3').fetchall()
        )
    assert columns == [
        ("_rowid", "INTEGER", 0), ("id", "TEXT", 1), ("tenant", "TEXT", 0), ("title", "TEXT", 1),
        ("year", "INTEGER", 0), ("score", "REAL", 0), ("live", "INTEGER", 0),
        ("seen", "INTEGER", 0), ("tags", "TEXT", 0), ("payload", "TEXT", 0),
        ("_seq", "INTEGER", 1),
    ]  # fmt: skip
    assert {"vector", "vector_bit", "p1"} <= set(vectors)
    assert {"notes.seq", "notes.rows.tenant", "notes.rows.year"} <= indexes
    seen, tags, live, payload = stored
    assert datetime.fromtimestamp(seen / 1e6, UTC) == START + timedelta(days=5)
    assert (json.loads(tags), live, json.loads(payload)) == (["odd", "t5"], 0, {"kind": "memo"})
    assert list(keys.values()) == ["", "=acme", "==odd"]


def test_the_page_reads_rows(path: Path) -> None:
    records = ask(path, lambda store: store.find("notes", limit=100))
    assert run(path, "rows") == [
        (
            r.id, r["title"], r["year"],
            r["seen"].isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            r.fields.get("kind"),
        )
        for r in records
    ]  # fmt: skip


def test_the_page_filters_lists_datetimes_and_payloads(path: Path) -> None:
    # Read as BLOCKS["lists"], BLOCKS["datetimes"] and BLOCKS["payload"].
    for block, where in {
        "lists": "tags CONTAINS 'even'",
        "datetimes": "seen >= TIMESTAMP '2024-01-05T00:00:00Z'",
        "payload": "payload.kind = 'memo'",
    }.items():
        with case(block):
            matches = ask(path, lambda store, where=where: store.find("notes", where, limit=100))
            assert 0 < len(matches) < 38
            assert run(path, block) == [(record.id,) for record in matches]


def test_the_page_reads_a_vector(path: Path) -> None:
    [(id, text)] = run(path, "vector")
    [record] = ask(path, lambda store: store.get("notes", id))
    assert np.allclose(json.loads(text), record.vector, atol=1e-5)
    with sql(path) as db:
        (blob,) = db.execute(
            'SELECT v.vector FROM "notes.rows" r JOIN "notes.vec" v ON v.rowid = r._rowid '
            "WHERE r.id = ?",
            (id,),
        ).fetchone()
    assert blob == record.vector.astype("<f4").tobytes()


def test_the_page_finds_the_nearest(path: Path) -> None:
    # Read as BLOCKS["knn"], BLOCKS["filtered"] and BLOCKS["partition"].
    for block, where in {
        "knn": None,
        "filtered": "year >= 2022 AND title LIKE 'note%'",
        "partition": "tenant = 'acme'",
    }.items():
        with case(block):
            hits = ask(path, lambda s, where=where: s.search("notes", QUERY, limit=5, where=where))
            for query in (QUERY.astype("<f4").tobytes(), json.dumps(QUERY.tolist())):
                matches = run(path, block, query=query)
                assert [row[0] for row in matches] == [hit.id for hit in hits]
                assert len(matches) == 5
                distances = [hit.distance for hit in hits]
                assert np.allclose([row[1] for row in matches], distances, atol=1e-5)


def feed(path: Path, since: int) -> Any:
    """The change feed of aiovec: the rows, what was deleted, and the newest number."""

    async def go() -> Any:
        async with backend_on(path) as backend:
            page = await backend.changes(await backend.open_table("notes"), since, limit=100)
            assert page.complete
            return await rows_of([page.upserted]), page.deleted, page.number

    return asyncio.run(go())


def test_the_page_follows_changes(path: Path) -> None:
    ids: set[str] = set()
    for _, change, id in run(path, "changes", since=0):
        (ids.add if change == "upserted" else ids.discard)(id)
    rows_there, _, number = feed(path, 0)
    newest, floor = divmod(number, 2**62)
    assert ids == rows_there.keys() == {row["id"] for row in rows()} - {"n07", "n08"}
    assert run(path, "changes", since=0)[-1] == (newest, "upserted", "n01")
    assert run(path, "changes", since=newest) == []
    assert [row[1:] for row in run(path, "changes", since=newest - 3)] == [
        ("deleted", "n07"), ("deleted", "n08"), ("upserted", "n01")
    ]  # fmt: skip
    assert run(path, "floor") == [(floor,)]


def test_a_row_deleted_by_sql_is_a_change_and_can_come_back(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path))
    _, _, newest = feed(copy, 0)
    with sql(copy) as db:
        db.executescript(BLOCKS["delete"])
    assert feed(copy, newest)[:2] == ({}, ["n04"])

    async def insert_again(store: Any) -> Any:
        await store.insert("notes", [{**rows()[4], "title": "again"}])
        return (await store.search("notes", rows()[4]["embedding"], limit=1))[0]["title"]

    assert ask(copy, insert_again) == "again"
