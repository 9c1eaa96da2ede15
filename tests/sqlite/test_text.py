"""Keyword search in the file: triggers, building in steps, kills, other programs, damage."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.support import backend_of, opened, python, sql

import aiovec
from aiovec import Field, Schema
from aiovec.backend import Columns, StaleTableError, TextClause, TextQuery
from aiovec.errors import (
    CorruptStoreError,
    MigrationError,
    StoreClosedError,
    TableNotFoundError,
    UnsupportedError,
)
from aiovec_sqlite import SqliteBackend
from aiovec_sqlite.doctor import findings
from aiovec_sqlite.driver import has_fts5, load_driver
from aiovec_sqlite.settings import SqliteSettings
from aiovec_sqlite.text import index as text_index

DIM = 4
SCHEMA = Schema(DIM, fields={"body": Field(str, text=True), "n": int})
LATER = Schema(DIM, fields={"body": str, "n": int})


def rows(texts: dict[str, str | None] | list[str], **fields: Any) -> list[dict[str, Any]]:
    pairs = texts.items() if isinstance(texts, dict) else enumerate(texts)
    return [
        {"id": f"{id}", "embedding": [1.0, 2.0, 3.0, float(n)], "body": text, "n": n, **fields}
        for n, (id, text) in enumerate(pairs)
    ]


def columns(count: int, first: int = 0) -> dict[str, Any]:
    numbers = range(first, first + count)
    return {
        "id": [f"r{n:06}" for n in numbers],
        "embedding": np.ones((count, DIM), dtype=np.float32),
        "body": [f"wool word{n % 50} only{n}" for n in numbers],
        "n": list(numbers),
    }


async def found(store: aiovec.VectorStore, query: str, table: str = "notes", **more: Any) -> Any:
    hits = await store.search_text(table, query, **{"limit": 100_000, "select": [], **more})
    return sorted(hit.id for hit in hits)


def check_index(path: Path, table: str = "notes") -> int:
    """FTS5's own check of its index against the rows; how many rows have text."""
    with sql(path) as db:
        (fts, done), *more = db.execute(
            "SELECT fts, done FROM aiovec_text WHERE name = ?", (table,)
        ).fetchall()
        assert not more
        assert done is None
        db.execute(f'INSERT INTO "{fts}" ("{fts}", rank) VALUES (\'integrity-check\', 1)')
        (count,) = db.execute(f'SELECT count(*) FROM "{fts}_docsize"').fetchone()
        assert db.execute(f'SELECT count(*) FROM "{fts}.rows"').fetchone() == (count,)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return int(count)


# Names, and whatever stands in the texts


async def test_fields_and_tables_with_the_names_of_sql(tmp_path: Path) -> None:
    names = [
        "rank",
        "rowid",
        "text",
        "match",
        "select",
        "order",
        "c1",
        "c2",
        "notes",
        "oid",
    ]
    path = tmp_path / "s.db"
    async with opened(path) as store:
        tables = ["match", "text", "sqlite_x", "notes-text1", "aiovec_text", "rows"]
        for table in tables:
            schema = Schema(DIM, fields={name: Field(str, text=True) for name in names})
            await store.create_table(table, schema)
            await store.insert(
                table,
                [
                    {"id": name, "embedding": [1.0] * DIM, name: f"common {table} in {name}"}
                    for name in names
                ],
            )
            for name in names:
                assert await found(store, f"{name}:common", table) == [name]
            assert await found(store, "common", table) == sorted(names)
            await store.update(table, {"rank": "other"}, ids=names)
            assert await found(store, "rank:other", table) == sorted(names)
            assert await found(store, "rank:common", table) == []
        for table in tables[::2]:
            await store.drop_table(table)
        for table in tables[1::2]:
            assert await found(store, "rowid:common", table) == ["rowid"]
    for table in tables[1::2]:
        check_index(path, table)
    with sql(path) as db:
        left = db.execute("SELECT name FROM sqlite_master WHERE name LIKE '%.text%'").fetchall()
        assert not [name for (name,) in left if name.split(".")[0] in ("match", "_sqlite_x")]


async def test_queries_of_any_size_reach_the_backend(tmp_path: Path) -> None:
    backend = SqliteBackend(str(tmp_path / "s.db"), SqliteSettings())
    await backend.open()
    try:
        for analyzer in ("plain", "english", "ngram"):
            schema = Schema(DIM, fields={"body": Field(str, text=True)}, analyzer=analyzer)
            await backend.create_table(analyzer, schema)
            table = await backend.open_table(analyzer)

            async def ask(*clauses: TextClause, table: Any = table, **more: Any) -> int:
                query = TextQuery(clauses, 10, None, Columns(()), **more)
                return len((await backend.search_text(table, query)).rows.ids)

            assert await ask(TextClause("x" * 1_000_000)) == 0
            assert await ask(TextClause("x y " * 250_000)) == 0
            many = [TextClause(f"word{n}") for n in range(3_000)]
            assert await ask(*many) == 0
            assert await ask(*many, any=True) == 0
            hostile = ["\0", '"', '""', "a\0b", "\ud800", "*", '" OR "', "NEAR(a b)", "a*", "{c1}:"]
            assert await ask(*map(TextClause, hostile), any=True, highlight=("[", "]")) == 0
            assert await ask(TextClause("x", excluded=True)) == 0
    finally:
        await backend.close()


async def test_strange_texts(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    texts = {
        "nul": "before\0after", "long": "word " * 400_000 + "needle", "joined": "x" * 3_000_000,
        "marks": "\u0301\u0301", "empty": "", "none": None, "quote": "it's \"quoted\" -- ; DROP",
    }  # fmt: skip
    for analyzer in ("plain", "ngram"):
        schema = Schema(DIM, fields={"body": Field(str, text=True), "n": int}, analyzer=analyzer)
        async with opened(path) as store:
            await store.create_table(analyzer, schema)
            await store.insert(analyzer, rows(texts))
            assert await found(store, "needle", analyzer) == ["long"]
            assert await found(store, "before", analyzer) == ["nul"]
            assert await found(store, "after", analyzer) == ["nul"]
            assert await found(store, "quoted drop", analyzer) == ["quote"]
            (hit,) = await store.search_text(analyzer, "needle", highlight=True)
            assert "<mark>needle</mark>" in hit.highlights["body"]
            assert len(hit.highlights["body"]) < 500
            await store.upsert(analyzer, rows(texts))  # the same
            await store.delete(analyzer, "long")
            assert await found(store, "needle", analyzer) == []
        check_index(path, analyzer)


async def test_invalid_text_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", rows(["wool", "silk"]))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE \"notes.rows\" SET body = CAST(x'776f6f6cff20e28061' AS TEXT)")
    check_index(path)
    async with opened(path) as store:
        with pytest.raises(CorruptStoreError):
            await store.search_text("notes", "wool*")
        assert await found(store, "silk") == []


# Writes


async def test_every_kind_of_write_keeps_the_index(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", columns(2_500))
        await store.upsert("notes", columns(2_000, 1_000))
        assert len(await found(store, "wool")) == 3_000
        same = columns(700)
        same["body"] = [None if n % 3 == 0 else f"silk {n}" for n in range(700)]
        await store.upsert("notes", same)
        assert len(await found(store, "silk")) == 466
        assert len(await found(store, "wool")) == 2_300
        await store.update("notes", {"n": 5}, where="n < 900")
        await store.update("notes", {"body": "linen"}, where="n = 5")
        assert len(await found(store, "linen")) == 900
        await store.delete_where("notes", "id < 'r000450'")
        assert len(await found(store, "linen")) == 450
    assert check_index(path) == 2_550
    async with opened(path) as store:
        await store.delete_where("notes", "TRUE")
        assert await found(store, "linen OR wool", any=True) == []
    assert check_index(path) == 0


@pytest.mark.parametrize("program", ["sqlite3 of Debian", "sqlite3 of Python"])
@pytest.mark.parametrize("analyzer", ["plain", "english"])
async def test_other_programs_keep_the_index(tmp_path: Path, program: str, analyzer: str) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        schema = Schema(DIM, fields={"body": Field(str, text=True), "n": int}, analyzer=analyzer)
        await store.create_table("notes", schema)
        await store.insert("notes", rows({"a": "wool", "b": "silk", "c": None}))
    script = """
        UPDATE "notes.rows" SET body = 'linen' WHERE id = 'a';
        UPDATE "notes.rows" SET body = 'cotton wool' WHERE id = 'c';
        UPDATE "notes.rows" SET n = 77;
        INSERT INTO "notes.rows" (id, body, _seq) VALUES ('d', 'hemp', 900);
        DELETE FROM "notes.rows" WHERE id = 'd';
        UPDATE "notes.rows" SET body = NULL WHERE id = 'b';
    """
    if program == "sqlite3 of Python":
        with closing(sqlite3.connect(path)) as db:
            db.executescript(script)
    elif (shell := shutil.which("sqlite3")) is not None:
        done = await asyncio.to_thread(
            subprocess.run, [shell, str(path)], input=script, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    else:
        pytest.skip("there is no sqlite3 command")
    assert check_index(path) == 2
    async with opened(path) as store:
        assert await found(store, "linen") == ["a"]
        assert await found(store, "wool") == ["c"]
        assert await found(store, "silk hemp", any=True) == []


# Building


def without_index(path: Path) -> None:
    """Make the file one of an older version, whose text fields have no index."""
    with sql(path) as db:
        for (fts,) in db.execute("SELECT fts FROM aiovec_text").fetchall():
            for name in ("insert", "delete", "update"):
                db.execute(f'DROP TRIGGER "{fts}.{name}"')
            db.execute(f'DROP TABLE "{fts}"')
            db.execute(f'DROP VIEW "{fts}.rows"')
        db.execute("DROP TABLE aiovec_text")


@pytest.mark.parametrize("way", ["optimize", "create_field_index"])
async def test_files_of_older_versions_get_an_index(tmp_path: Path, way: str) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", columns(300))
    without_index(path)
    async with opened(path) as store:
        await store.insert("notes", columns(10, 300))
        await store.delete("notes", "r000000")
        with pytest.raises(UnsupportedError, match=r"optimize\('notes'\) or create_field_index"):
            await store.search_text("notes", "wool")
        assert (await store.stats("notes")).details["text_index"].startswith("missing")
        if way == "optimize":
            await store.optimize("notes")
        else:
            await store.create_field_index("notes", "body", "text")
        assert len(await found(store, "wool")) == 309
        stats = await store.stats("notes")
        assert stats.details["text_index"] == "ready"
        assert stats.bytes > stats.details["text_index_bytes"] > 0
    assert check_index(path) == 309


async def test_an_index_is_built_beside_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "_MOST_ROWS", 20)
    path = tmp_path / "s.db"
    async with opened(path) as store, opened(path) as other:
        await store.create_table("notes", LATER)
        await store.insert("notes", columns(4_000))
        refused = 0
        building = asyncio.ensure_future(store.create_field_index("notes", "body", "text"))
        turn = 0
        while not building.done():
            turn += 1
            writer = (store, other)[turn % 2]
            at = (turn * 37) % 3_900
            await writer.upsert("notes", columns(3, 4_000 + turn * 3))
            await writer.update("notes", {"body": f"wool turn{turn}"}, ids=f"r{at:06}")
            await writer.delete("notes", f"r{at + 1:06}")
            try:
                await writer.search_text("notes", "wool")
            except UnsupportedError as exc:
                refused += "being built" in str(exc)
        await building
        assert turn > 2
        assert refused > 0
        rows_there = await store.find("notes", limit=100_000, select=["body"])
        expected = {row.id: row["body"] for row in rows_there}
        assert await found(store, "wool") == sorted(expected)
        for n in (1, turn // 2, turn):
            wanted = sorted(id for id, body in expected.items() if f"turn{n}" in body.split())
            assert await found(store, f"turn{n}") == wanted
    assert check_index(path) == len(expected)


KILLED = """
import asyncio, sys
import aiovec
from aiovec_sqlite.text import index
index._MOST_ROWS = 20
async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        print("begin", flush=True)
        await store.create_field_index("notes", "body", "text")
        print("done", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["create_field_index", "optimize"])
async def test_a_killed_build_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", LATER)
        await store.insert("notes", columns(6_000))
    process = python("-c", KILLED, str(path), stdout=subprocess.PIPE)

    def state() -> tuple[int, int] | None:
        with sql(path) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name='aiovec_text'").fetchone():
                return None
            return db.execute("SELECT done, upto FROM aiovec_text").fetchone()

    def kill_in_the_middle() -> None:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        while (now := state()) is None or (now[0] is not None and now[0] < 500):
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)

    await asyncio.to_thread(kill_in_the_middle)
    left = state()
    assert left is not None
    assert left[0] is not None, "it was ready before it was killed"
    async with opened(path) as store:
        with pytest.raises(UnsupportedError, match=r"being built \(\d+% done\)") as caught:
            await store.search_text("notes", "wool")
        assert "optimize('notes')" in str(caught.value)
        # Rows on both sides of where it stopped.
        await store.update("notes", {"body": "silk"}, where="n < 10 OR n >= 5990")
        await store.delete_where("notes", "n = 20 OR n = 5980")
        await store.insert("notes", columns(5, 6_000))
        if way == "optimize":
            await store.optimize("notes")
        else:
            await store.create_field_index("notes", "body", "text")
        assert len(await found(store, "silk")) == 20
        assert len(await found(store, "wool")) == 6_000 - 22 + 5
    assert check_index(path) == 6_003


async def test_two_processes_turn_text_on_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", LATER)
        await store.insert("notes", columns(1_000))
    both = [python("-c", KILLED, str(path), stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
        assert "done" in output
    async with opened(path) as store:
        assert len(await found(store, "wool")) == 1_000
    assert check_index(path) == 1_000


async def test_a_table_goes_while_its_index_is_built(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text_index, "_MOST_ROWS", 20)
    path = tmp_path / "s.db"
    for anew in (False, True):
        async with opened(path) as store, opened(path) as other:
            await store.create_table("notes", LATER)
            await store.insert("notes", columns(1_000))
            building = asyncio.ensure_future(store.create_field_index("notes", "body", "text"))
            for _ in range(30):
                if (await store.schema("notes")).fields["body"].text:
                    break
            await other.drop_table("notes")
            if anew:
                await other.create_table("notes", SCHEMA)
                await other.insert("notes", columns(30))
            result = (await asyncio.gather(building, return_exceptions=True))[0]
            assert result is None or isinstance(result, TableNotFoundError)
            if anew:
                assert len(await found(store, "wool")) == 30
                await store.drop_table("notes")
    with sql(path) as db:
        assert db.execute("SELECT count(*) FROM aiovec_text").fetchone() == (0,)
        left = "SELECT name FROM sqlite_master WHERE name LIKE 'notes.%'"
        assert db.execute(left).fetchall() == []


async def number_of(table: str, backend: SqliteBackend) -> int:
    """The number of its newest change, though the table's description is changed meanwhile."""
    while True:
        try:
            return await backend.change_number(await backend.open_table(table))
        except StaleTableError:
            continue


async def test_a_migration_begins_while_an_index_is_built(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text_index, "_MOST_ROWS", 20)
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", LATER)
        await store.insert("notes", columns(1_000))
        building = asyncio.ensure_future(store.create_field_index("notes", "body", "text"))
        while not (await store.schema("notes")).fields["body"].text:
            assert not building.done()
        mover = SqliteBackend(str(path), SqliteSettings())
        await mover.open()
        try:
            before = await number_of("notes", mover)
            await mover.begin_move("r1")
            await building
            assert await number_of("notes", mover) == before  # an index changes no row
            assert len(await found(store, "wool")) == 1_000
            with pytest.raises(MigrationError):
                await store.drop_field_index("notes", "body")
            await store.insert("notes", columns(5, 1_000))
            await store.optimize("notes")
            assert len(await found(store, "wool")) == 1_005
            await mover.end_move("r1")
        finally:
            await mover.close()
        await store.drop_field_index("notes", "body")
        with pytest.raises(UnsupportedError):
            await store.search_text("notes", "wool")


async def test_reads_go_on_while_text_is_turned_on_and_off(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store, opened(path) as other:
        await store.create_table("notes", LATER)
        await store.insert("notes", columns(2_000))

        async def turn() -> None:
            while rounds < 3:
                await other.create_field_index("notes", "body", "text")
                await other.drop_field_index("notes", "body")

        rounds = 0
        turning = asyncio.ensure_future(turn())
        while not turning.done():
            rounds += 1
            assert len(await store.find("notes", limit=5_000, select=["body"])) == 2_000
            exported = [batch.num_rows async for batch in store.export("notes", batch_size=100)]
            assert sum(exported) == 2_000
        await turning


async def test_a_cancelled_search_stops(tmp_path: Path) -> None:
    schema = Schema(DIM, fields={"body": Field(str, text=True)}, analyzer="ngram")
    async with opened(tmp_path / "s.db") as store:
        await store.create_table("notes", schema)
        texts = [" ".join(f"{n}{m} lorem ipsum dolor" for m in range(200)) for n in range(1_500)]
        await store.insert("notes", rows(texts))
        for query in ("or", "lor ore rem ips psu sum dol olo"):  # a scan, and the index
            search = asyncio.ensure_future(store.search_text("notes", f"{query} -zz", any=True))
            await asyncio.sleep(0.05)
            assert not search.done()
            search.cancel()
            with pytest.raises(asyncio.CancelledError):
                await search
            await asyncio.sleep(0.2)
            began = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - began < 0.15


async def test_a_second_field_and_off_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text_index, "_MOST_ROWS", 30)
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", columns(500))
        adding = asyncio.ensure_future(store.add_field("notes", "title", Field(str, text=True)))
        while not adding.done():  # the old index serves meanwhile
            assert len(await found(store, "wool")) == 500
        await adding
        await store.update("notes", {"title": "Headline"}, where="n < 100")
        assert len(await found(store, "headline wool")) == 100
        assert len(await found(store, "title:headline")) == 100
        await store.drop_field_index("notes", "body", "text")
        assert await found(store, "wool") == []
        assert len(await found(store, "headline")) == 100
        await store.drop_field_index("notes", "title")
        with pytest.raises(UnsupportedError):
            await store.search_text("notes", "headline")
        with sql(path) as db:
            assert not db.execute(
                "SELECT name FROM sqlite_master WHERE name LIKE '%.text%'"
            ).fetchall()
        await store.create_field_index("notes", "body", "text")
        assert len(await found(store, "wool")) == 500
    check_index(path)


async def test_a_closed_store_leaves_a_build_that_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(text_index, "_MOST_ROWS", 10)
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", LATER)
        await store.insert("notes", columns(2_000))
        building = asyncio.ensure_future(store.create_field_index("notes", "body", "text"))
        await asyncio.sleep(0.05)
    with pytest.raises(StoreClosedError):
        await building
    async with opened(path) as store:
        await store.optimize("notes")
        assert len(await found(store, "wool")) == 2_000
    check_index(path)


# Copies, damage, kills


async def test_backup_vacuum_read_only(tmp_path: Path) -> None:
    path, copy = tmp_path / "s.db", tmp_path / "copy.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", columns(300))
        await store.delete_where("notes", "n < 100")
        await store.backup(copy)
    with sql(path) as db:
        db.execute("VACUUM")
    await aiovec.restore(copy, tmp_path / "back.db")
    for file in (path, copy, tmp_path / "back.db"):
        assert check_index(file) == 200
        async with aiovec.connect(file, read_only=True) as store:
            assert len(await found(store, "wool")) == 200
            (hit,) = await store.search_text("notes", "only150", highlight=True)
            assert hit.highlights == {"body": "wool word0 <mark>only150</mark>"}
            with pytest.raises(UnsupportedError):
                await store.create_field_index("notes", "body", "text")
        assert all(finding.ok for finding in await asyncio.to_thread(findings, file))


async def test_optimize_merges(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
        for n in range(40):
            await store.insert("notes", columns(20, n * 20))
        await store.optimize("notes")
        await store.optimize("notes")
        assert len(await found(store, "wool")) == 800
    assert check_index(path) == 800


DAMAGE = {
    "data is gone": 'DELETE FROM "{fts}_data" WHERE id > 10',
    "data is garbled": "UPDATE \"{fts}_data\" SET block = x'00ff00ff00ff' WHERE id > 10",
    "structure is garbled": (
        "UPDATE \"{fts}_data\" SET block = x'00000000ffffffffffffffff' WHERE id = 10"
    ),
    "configuration is gone": 'DROP TABLE "{fts}_config"',
    "the index is gone": 'DROP TABLE "{fts}"',
    "rows are gone": 'DROP TRIGGER "{fts}.delete"; DELETE FROM "notes.rows" WHERE n < 300',
    "the entry is garbled": "UPDATE aiovec_text SET fields = 'no JSON'",
}


async def damaged(path: Path, damage: str) -> None:
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", columns(300))
        await store.optimize("notes")
    with closing(load_driver().connect(str(path))) as db:
        (fts,) = db.execute("SELECT fts FROM aiovec_text").fetchone()
        db.execute("PRAGMA writable_schema = ON")
        db.executescript(DAMAGE[damage].format(fts=fts))


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_told_and_mended(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.db"
    await damaged(path, damage)
    bad = [f for f in await asyncio.to_thread(findings, path) if not f.ok]
    assert bad, "the doctor finds nothing"
    assert any("drop_field_index" in (finding.cure or "") for finding in bad), bad
    async with opened(path) as store:
        with pytest.raises(CorruptStoreError, match="drop_field_index"):
            await store.search_text("notes", "wool")
        await store.drop_field_index("notes", "body")
        await store.create_field_index("notes", "body", "text")
        assert await found(store, "wool") == sorted(
            r.id for r in await store.find("notes", limit=999)
        )
        await store.insert("notes", columns(5, 900))
        assert len(await found(store, "wool")) == await store.count("notes")


@pytest.mark.parametrize("damage", list(DAMAGE)[:4])
async def test_a_backup_with_a_damaged_index_is_restored_without_it(
    tmp_path: Path, damage: str
) -> None:
    path, copy, back = (tmp_path / name for name in ("s.db", "copy.db", "back.db"))
    await damaged(path, damage)
    async with opened(path) as store:
        await store.backup(copy)
        rows_there = await store.find("notes", limit=999, include_vector=True)
    before = copy.read_bytes()
    await aiovec.restore(copy, back)
    assert copy.read_bytes() == before
    async with opened(back) as store:
        assert await store.find("notes", limit=999, include_vector=True) == rows_there
        with pytest.raises(UnsupportedError, match="optimize"):
            await store.search_text("notes", "wool")
        await store.optimize("notes")
        assert len(await found(store, "wool")) == 300
    assert check_index(back) == 300
    assert all(finding.ok for finding in await asyncio.to_thread(findings, back))


@pytest.mark.parametrize("damage", list(DAMAGE)[2:5])
async def test_writes_that_meet_a_damaged_index_say_how_to_mend_it(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "s.db"
    await damaged(path, damage)
    async with opened(path) as store:
        for write in (
            lambda: store.insert("notes", columns(5, 500)),
            lambda: store.update("notes", {"body": "silk"}, ids="r000001"),
            lambda: store.delete("notes", "r000002"),
            lambda: store.delete_where("notes", "TRUE"),
        ):
            with pytest.raises(CorruptStoreError, match="drop_field_index"):
                await write()
        assert await store.count("notes") == 300
        assert await store.update("notes", {"n": 7}, ids="r000003") == 1  # no text in it
        await store.drop_field_index("notes", "body")
        await store.create_field_index("notes", "body", "text")
        await store.upsert("notes", columns(5, 500))
        assert len(await found(store, "wool")) == 305
    assert check_index(path) == 305


WRITING = """
import asyncio, sys
import aiovec
async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        for turn in range(10_000):
            rows = [
                {"id": f"r{n % 900}", "embedding": [1.0] * 4, "body": f"wool turn{turn}"}
                for n in range(turn * 7, turn * 7 + 60)
            ]
            await store.upsert("notes", rows)
            await store.delete("notes", [f"r{(turn * 11 + n) % 900}" for n in range(20)])
            print(turn, flush=True)
asyncio.run(main())
"""


async def test_killed_writers(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMA)
    for turns in (1, 7, 20):
        process = python("-c", WRITING, str(path), stdout=subprocess.PIPE)

        def kill_after(turns: int = turns, process: Any = process) -> None:
            for _ in range(turns):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)

        await asyncio.to_thread(kill_after)
        async with opened(path) as store:
            there = sorted(row.id for row in await store.find("notes", limit=10_000))
            assert await found(store, "wool") == there
        assert check_index(path) == len(there)


async def test_letters_that_are_not_folded(tmp_path: Path) -> None:
    """Each of these is a difference to LanceDB that ``docs/BACKENDS.md`` names."""
    texts = {
        "signs": "x² nª Ⓐ ﬁx \uff21\uff22 ß ø", "cases": "İstanbul ΟΔΟΣ", "plain": "other",
        "young": "თბილ", "parts": "ọ\u0301jọ",
    }  # fmt: skip
    async with opened(tmp_path / "s.db") as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", rows(dict(texts)))
        for query in ("x2", "na", "a", "fix", "ab", "ss", "o"):
            assert await found(store, query) == [], query
        for query in ("x²", "nª", "ﬁx", "\uff41\uff42", "ß"):
            assert await found(store, query) == ["signs"], query
        for query in ("istanbul", "İSTANBUL", "οδος", "οδοσ"):
            assert await found(store, query) == ["cases"], query
        assert await found(store, "თბილ") == ["young"]
        assert await found(store, "ᲗᲑᲘᲚ") == []
        assert await found(store, "ojo") == ["parts"]
        more = Schema(DIM, fields=SCHEMA.fields, analyzer="ngram")
        await store.create_table("more", more)
        await store.insert(
            "more", rows({"nul": "foo\0bar", "long": "\u017fize 5\u00b5m", "parts": "ọ\u0301jọ"})
        )
        for query, id in (("foobar", "nul"), ("size", "long"), ("5μm", "long"), ("ojo", "parts")):
            assert [hit.id for hit in await store.search_text("more", query)] == [id], query


# Without FTS5


async def test_without_fts5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("aiovec_sqlite.store", "aiovec_sqlite.text.index"):
        monkeypatch.setattr(f"{module}.has_fts5", lambda: False)
    async with opened(tmp_path / "s.db") as store:
        assert not store.supports("text")
        assert not store.supports("text-prefix")
        assert store.supports("quantized")
        with pytest.raises(UnsupportedError, match="without FTS5"):
            await store.create_table("notes", SCHEMA)
        assert await store.tables() == []
        await store.create_table("notes", LATER)
        with pytest.raises(UnsupportedError, match="without FTS5"):
            await store.add_field("notes", "title", Field(str, text=True))
        with pytest.raises(UnsupportedError):
            await store.search_text("notes", "wool")
    assert has_fts5()


async def test_in_memory() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", LATER)
        await store.insert("notes", columns(100))
        await store.create_field_index("notes", "body", "text")
        await store.optimize("notes")
        assert len(await found(store, "wool")) == 100
        backend = backend_of(store)
        assert backend.supports("text-prefix")
        assert await found(store, "only9*") == ["r000009", *(f"r00009{n}" for n in range(10))]
