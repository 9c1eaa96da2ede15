"""Keyword search in the file: other programs, building beside writers, kills, damage."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.command import run
from tests.harness.marks import begin_move, end_move
from tests.harness.processes import python, run_python
from tests.harness.vec0 import needs_recent_sqlite
from tests.sqlite.support import backend_on, sql

import aiovec
from aiovec import Field, Schema, VectorStore
from aiovec.errors import CorruptStoreError, UnsupportedError

DIM = 4
SCHEMA = Schema(DIM, fields={"body": Field(str, text=True), "n": int})
LATER = Schema(DIM, fields={"body": str, "n": int})


def rows(texts: dict[str, str | None]) -> list[dict[str, Any]]:
    return [
        {"id": id, "embedding": [1.0, 2.0, 3.0, n], "body": text, "n": n}
        for n, (id, text) in enumerate(texts.items())
    ]


def columns(count: int, first: int = 0) -> dict[str, Any]:
    numbers = range(first, first + count)
    return {
        "id": [f"r{n:06}" for n in numbers],
        "embedding": np.ones((count, DIM), dtype=np.float32),
        "body": [f"wool word{n % 50} only{n}" for n in numbers],
        "n": list(numbers),
    }


async def matching(store: VectorStore, query: str, table: str = "notes", **more: Any) -> list[str]:
    hits = await store.search_text(table, query, limit=100_000, select=[], **more)
    return sorted(hit.id for hit in hits)


async def filled(path: Path, count: int, schema: Schema = SCHEMA) -> None:
    async with aiovec.connect(path) as store:
        await store.create_table("notes", schema)
        await store.insert("notes", columns(count))


def check_index(path: Path, table: str = "notes") -> int:
    """FTS5's own check of its index against the rows; how many rows have text."""
    with sql(path) as db:
        ((fts, done),) = db.execute(
            "SELECT fts, done FROM aiovec_text WHERE name = ?", (table,)
        ).fetchall()
        assert done is None
        db.execute(f'INSERT INTO "{fts}" ("{fts}", rank) VALUES (\'integrity-check\', 1)')
        (count,) = db.execute(f'SELECT count(*) FROM "{fts}_docsize"').fetchone()
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return int(count)


# Writes, texts and queries


PROGRAM = """
    UPDATE "notes.rows" SET body = 'linen' WHERE id = 'a';
    UPDATE "notes.rows" SET body = 'cotton wool' WHERE id = 'c';
    UPDATE "notes.rows" SET n = 77;
    INSERT INTO "notes.rows" (id, body, _seq) VALUES ('d', 'hemp', 900);
    DELETE FROM "notes.rows" WHERE id = 'd';
    UPDATE "notes.rows" SET body = NULL WHERE id = 'b';
"""


_OTHER_PROGRAM = """
import sqlite3, sys, unicodedata
db = sqlite3.connect(sys.argv[1])
def letters(analyzer, text):
    return None if text is None else unicodedata.normalize("NFKC", text.decode())
db.create_function("aiovec_letters", 2, letters, deterministic=True)
db.executescript(sys.stdin.read())
"""


async def test_other_programs_keep_the_index(tmp_path: Path) -> None:
    """They do not need sqlite-vec, but a function for the letters of the texts."""
    for analyzer in ("plain", "english"):
        path = tmp_path / f"{analyzer}.db"
        async with aiovec.connect(path) as store:
            await store.create_table("notes", Schema(DIM, fields=SCHEMA.fields, analyzer=analyzer))
            await store.insert("notes", rows({"a": "wool", "b": "silk", "c": None}))
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", _OTHER_PROGRAM, str(path)],
            input=PROGRAM, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert check_index(path) == 2
        async with aiovec.connect(path) as store:
            assert await matching(store, "linen") == ["a"]
            assert await matching(store, "wool") == ["c"]
            assert await matching(store, "silk hemp", match="any") == []


@needs_recent_sqlite
async def test_letters_that_are_not_folded(tmp_path: Path) -> None:
    """Each of these is a difference to LanceDB that ``docs/internals/lancedb.md`` names."""
    texts: dict[str, str | None] = {
        "signs": "x² nª Ⓐ ﬁx \uff21\uff22 ß ø", "cases": "İstanbul ΟΔΟΣ", "plain": "other",
        "young": "თბილ", "parts": "ọ\u0301jọ",
    }  # fmt: skip
    async with aiovec.connect(tmp_path / "s.db") as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", rows(texts))
        for query in ("a", "ss", "o", "ᲗᲑᲘᲚ"):
            assert await matching(store, query) == [], query
        for query in ("x²", "x2", "na", "fix", "ab", "\uff41\uff42", "ß"):
            assert await matching(store, query) == ["signs"], query
        for query in ("istanbul", "İSTANBUL", "οδος", "οδοσ"):
            assert await matching(store, query) == ["cases"], query
        assert await matching(store, "თბილ") == ["young"]
        assert await matching(store, "ojo") == ["parts"]
        await store.create_table("more", Schema(DIM, fields=SCHEMA.fields, analyzer="ngram"))
        texts = {"nul": "foo\0bar", "long": "\u017fize 5\u00b5m", "parts": "ọ\u0301jọ"}
        await store.insert("more", rows(texts))
        for query, id in (("foobar", "nul"), ("size", "long"), ("5μm", "long"), ("ojo", "parts")):
            assert await matching(store, query, "more") == [id], query


# Building


@pytest.mark.slow
async def test_an_index_is_built_beside_writers(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await filled(path, 6_000, LATER)
    async with aiovec.connect(path) as store, aiovec.connect(path) as other:
        building = asyncio.ensure_future(store.create_field_index("notes", "body", "text"))
        turn = 0
        while not building.done() or turn < 3:
            turn += 1
            writer = (store, other)[turn % 2]
            at = (turn * 37) % 5_900
            await writer.upsert("notes", columns(3, 6_000 + turn * 3))
            await writer.update("notes", {"body": f"wool turn{turn}"}, ids=f"r{at:06}")
            await writer.delete("notes", f"r{at + 1:06}")
        await building
        rows_there = await store.find("notes", limit=100_000, select=["body"])
        expected = {row.id: row["body"] for row in rows_there}
        assert await matching(store, "wool") == sorted(expected)
        for n in (1, turn // 2, turn):
            wanted = sorted(id for id, body in expected.items() if f"turn{n}" in body.split())
            assert await matching(store, f"turn{n}") == wanted
    assert check_index(path) == len(expected)


async def test_text_is_turned_on_and_off_beside_readers(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await filled(path, 600, LATER)
    async with aiovec.connect(path) as store, aiovec.connect(path) as other:

        async def turn() -> None:
            for _ in range(3):
                await other.create_field_index("notes", "body", "text")
                assert len(await matching(other, "wool")) == 600
                await other.drop_field_index("notes", "body")

        turning = asyncio.ensure_future(turn())
        while not turning.done():
            assert len(await store.find("notes", limit=5_000, select=["body"])) == 600
            exported = [batch.num_rows async for batch in store.export("notes", batch_size=100)]
            assert sum(exported) == 600
        await turning
        with pytest.raises(UnsupportedError):
            await store.search_text("notes", "wool")
        # A second field is added while the first one is searched.
        await store.create_field_index("notes", "body", "text")
        adding = asyncio.ensure_future(store.add_field("notes", "title", Field(str, text=True)))
        while not adding.done():
            assert len(await matching(store, "wool")) == 600
        await adding
        await store.update("notes", {"title": "Headline"}, where="n < 100")
        assert len(await matching(store, "title:headline wool", match="all")) == 100
        await store.drop_field_index("notes", "body", "text")
        assert await matching(store, "wool") == []
        assert len(await matching(store, "headline")) == 100
        await store.drop_field_index("notes", "title")
    with sql(path) as db:
        left = db.execute("SELECT name FROM sqlite_master WHERE name LIKE '%.text%'").fetchall()
        assert left == []


BUILD = """
import asyncio, sys
import aiovec
async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        await store.create_field_index("notes", "body", "text")
asyncio.run(main())
"""


_TITLES = Schema(DIM, fields={**SCHEMA.fields, "title": str})
# Stops after the first of two steps.
_HALF_BUILT = f"""
import time
from aiovec_sqlite import text_index
step, steps = text_index._index_some, []
def stopping(*args):
    if steps:
        print("half", flush=True)
        time.sleep(3600)
    steps.append(1)
    return step(*args)
text_index._index_some = stopping
{BUILD.replace('"body"', '"title"')}"""


async def titled(path: Path, count: int) -> None:
    async with aiovec.connect(path) as store:
        await store.create_table("notes", _TITLES)
        await store.insert("notes", {**columns(count), "title": ["linen"] * count})


async def check_found(store: VectorStore, count: int) -> bool:
    """Check that a search finds all titles; return False if it is refused."""
    with contextlib.suppress(UnsupportedError):
        assert len(await matching(store, "linen")) == count
        return True
    return False


async def check_completed(store: VectorStore, count: int) -> None:
    async with asyncio.timeout(120):
        while True:
            if await check_found(store, count):
                return
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_cancelled_build_hides_no_row_and_goes_on_by_itself(tmp_path: Path) -> None:
    path, count = tmp_path / "s.db", 20_000
    await titled(path, count)
    async with aiovec.connect(path) as store, aiovec.connect(path) as other:
        cut = 0
        for milliseconds in (200, 100, 50, 25, 12, 6, 3):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(milliseconds / 1000):
                    await store.create_field_index("notes", "title", "text")
            if not (await store.schema("notes")).fields["title"].text:
                continue
            cut += not await check_found(store, count)
            await store.insert("notes", [{**rows({f"x{count}": None})[0], "title": "linen"}])
            count += 1
            assert len(await matching(store, "body:wool")) == 20_000
            await check_completed(other, count)
            await store.drop_field_index("notes", "title")
        assert cut
    check_index(path)


async def test_killed_build_hides_no_row_and_goes_on_when_store_is_opened(tmp_path: Path) -> None:
    path, count = tmp_path / "s.db", 4_000
    await titled(path, count)
    process = python("-c", _HALF_BUILT, str(path), stdout=subprocess.PIPE)

    def kill_in_the_middle() -> None:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
        process.communicate()

    await asyncio.to_thread(kill_in_the_middle)
    told = await asyncio.to_thread(run, "doctor", "-s", path)
    assert told.code == 1
    assert "being built" in told.out
    assert "aiovec optimize notes" in told.out
    async with aiovec.connect(path, read_only=True) as store:
        assert not await check_found(store, count)
        assert "being built" in str((await store.stats("notes")).details["text_index"])
    async with aiovec.connect(path) as store:
        await store.insert("notes", [{**rows({"later": None})[0], "title": "linen"}])
        await check_completed(store, count + 1)
        await store.rename_table("notes", "more")
        assert len(await matching(store, "linen", "more")) == count + 1
    check_index(path, "more")


async def test_a_build_follows_a_renamed_table(tmp_path: Path) -> None:
    path, count = tmp_path / "s.db", 8_000
    await titled(path, count)
    async with aiovec.connect(path) as store:
        building = asyncio.ensure_future(store.create_field_index("notes", "title", "text"))
        while not (await store.schema("notes")).fields["title"].text:
            assert not building.done()
        await store.rename_table("notes", "more")
        assert len(await matching(store, "linen", "more")) == count
        await building
    check_index(path, "more")


async def test_a_migration_begins_while_an_index_is_built(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await filled(path, 3_000, LATER)
    async with aiovec.connect(path) as store, backend_on(path) as mover:
        building = asyncio.ensure_future(store.create_field_index("notes", "body", "text"))
        while not (await store.schema("notes")).fields["body"].text:
            assert not building.done()
        await begin_move(mover, "r1")
        await building
        assert len(await matching(store, "wool")) == 3_000
        with pytest.raises(aiovec.MigrationError):
            await store.drop_field_index("notes", "body")
        await store.insert("notes", columns(5, 3_000))
        await store.optimize("notes")
        assert len(await matching(store, "wool")) == 3_005
        await end_move(mover, "r1")
        await store.drop_field_index("notes", "body")


# Damage


DAMAGE = {
    "data is gone": 'DELETE FROM "{fts}_data" WHERE id > 10',
    "data is garbled": "UPDATE \"{fts}_data\" SET block = x'00ff00ff00ff' WHERE id > 10",
    "the index is gone": 'DROP TABLE "{fts}"',
    "rows are gone": 'DROP TRIGGER "{fts}.delete"; DELETE FROM "notes.rows" WHERE n < 150',
    "the entry is garbled": "UPDATE aiovec_text SET fields = 'no JSON'",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_text_index_is_reported_and_can_be_rebuilt(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "s.db"
    await filled(path, 200)
    with sql(path) as db:
        (fts,) = db.execute("SELECT fts FROM aiovec_text").fetchone()
        db.execute("PRAGMA writable_schema = ON")
        db.executescript(DAMAGE[damage].format(fts=fts))
    async with aiovec.connect(path) as store:
        with pytest.raises(CorruptStoreError, match="drop_field_index"):
            await store.search_text("notes", "wool")
        if damage == "the index is gone":
            before = await store.count("notes")
            with pytest.raises(CorruptStoreError, match="drop_field_index"):
                await store.delete("notes", where="TRUE")
            assert await store.count("notes") == before
            assert await store.update("notes", {"n": 7}, ids="r000003") == 1  # no text in it
        await store.backup(tmp_path / "copy.db")
    await aiovec.restore(tmp_path / "copy.db", tmp_path / "back.db")
    async with aiovec.connect(tmp_path / "back.db") as store:
        with pytest.raises(CorruptStoreError, match="create_field_index"):
            await store.search_text("notes", "wool")
        await store.drop_field_index("notes", "body")
        await store.create_field_index("notes", "body", "text")
        assert len(await matching(store, "wool")) == await store.count("notes")
        await store.insert("notes", columns(5, 900))
        assert len(await matching(store, "wool")) == await store.count("notes")
    check_index(tmp_path / "back.db")


async def test_invalid_text_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await filled(path, 2)
    with sql(path) as db:
        db.execute("UPDATE \"notes.rows\" SET body = CAST(x'776f6f6cff20e28061' AS TEXT)")
    async with aiovec.connect(path) as store:
        with pytest.raises(CorruptStoreError):
            await store.search_text("notes", "wool*")
        assert await matching(store, "silk") == []


_WITHOUT_STEMMER = """
import asyncio, sys
sys.modules["Stemmer"] = None
import aiovec
from aiovec import Field, Schema
from aiovec.errors import UnsupportedError

async def main(path):
    async with aiovec.connect(path) as store:
        (row,) = await store.get("notes", ["a"])
        assert row["body"] == "Katzen"
        assert [hit.id for hit in await store.search("notes", [1.0] * 4)] == ["a"]
        await store.set_vectors("notes", ["a"], [[1.0, 2.0, 3.0, 4.0]])
        await store.update("notes", {"n": 5}, ids=["a"])
        new = {"id": "b", "embedding": [1.0] * 4, "body": "Hund"}
        schema = Schema(4, fields={"body": Field(str, text=True)}, analyzer="german")
        for call in (
            lambda: store.search_text("notes", "katze"),
            lambda: store.insert("notes", [new]),
            lambda: store.upsert("notes", [{**new, "id": "a"}]),
            lambda: store.update("notes", {"body": "Hund"}, ids=["a"]),
            lambda: store.delete("notes", ids=["a"]),
            lambda: store.create_table("more", schema),
        ):
            try:
                await call()
            except UnsupportedError as error:
                assert 'pip install "aiovec[languages]"' in str(error), error
            else:
                raise AssertionError
        assert await store.count("notes") == 1
        await store.create_table("other", Schema(4))

asyncio.run(main(sys.argv[1]))
"""


async def test_a_language_without_its_package(tmp_path: Path) -> None:
    """Vectors and other fields work; a call that needs stems says which package to install."""
    pytest.importorskip("Stemmer")
    path = tmp_path / "store.db"
    schema = Schema(DIM, fields={"body": Field(str, text=True), "n": int}, analyzer="german")
    async with aiovec.connect(path) as store:
        await store.create_table("notes", schema)
        await store.insert("notes", rows({"a": "Katzen"}))
    ended = run_python("-c", _WITHOUT_STEMMER, path)
    assert (ended.returncode, ended.stderr) == (0, "")
    async with aiovec.connect(path) as store:
        assert await matching(store, "katze") == ["a"]
        await store.backup(tmp_path / "copy.db")
    async with aiovec.connect(tmp_path / "copy.db") as store:
        assert await matching(store, "katze") == ["a"]
