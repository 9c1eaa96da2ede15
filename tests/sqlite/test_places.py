"""Difficult names of files and fields, and SQLite's own limits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.harness.values import HOSTILE_TEXTS
from tests.harness.vec0 import needs_recent_sqlite
from tests.sqlite.support import sql

import aiovec
from aiovec import AiovecError, ConfigError, F, InvalidArgumentError, Schema

ROWS = [{"id": "a", "embedding": [1, 2, 3, 4]}]


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names there are Unicode")
async def test_a_path_that_is_no_utf_8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    os.mkdir(folder)
    for _ in range(2):
        async with aiovec.connect(folder / "a.db") as store:
            await store.create_table("notes", Schema(4), exist_ok=True)
            await store.upsert("notes", ROWS)
            assert [hit.id for hit in await store.search("notes", [1, 2, 3, 4])] == ["a"]
            assert [batch.num_rows async for batch in store.export("notes")] == [1]


async def test_names_that_sqlite_keeps_for_itself(tmp_path: Path) -> None:
    """A backup with one of these names would be removed when the store next to it is opened."""
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(4))
        for end in ("-wal", "-shm", "-journal"):
            with pytest.raises(ConfigError, match="SQLite uses for a part of the database"):
                await store.backup(tmp_path / f"a.db{end}x{end}")
            with pytest.raises(AiovecError):
                await store.backup(tmp_path / f"a.db{end}")
    for end in ("-wal", "-shm", "-journal"):
        with pytest.raises(ConfigError, match=f"does not end in {end}"):
            await aiovec.connect(tmp_path / f"a.db{end}")
    assert os.listdir(tmp_path) == ["a.db"]


async def test_places_where_nothing_can_lie(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    async with aiovec.connect(":memory:") as store:
        with pytest.raises(InvalidArgumentError, match="a folder that exists"):
            await store.backup(tmp_path / "absent" / "copy.db")
        (tmp_path / "link.db").symlink_to("absent.db")
        with pytest.raises(InvalidArgumentError, match="not exist yet"):
            await store.backup(tmp_path / "link.db")
    with pytest.raises(ConfigError, match="a part of the path is a file"):
        await aiovec.connect(tmp_path / "file" / "notes.db")
    with pytest.raises(ConfigError, match="a user that does not exist"):
        await aiovec.connect("~no-such-user/notes.db")


@needs_recent_sqlite
async def test_nothing_that_users_write_becomes_sql(tmp_path: Path) -> None:
    """Texts, payload keys and names of tables and fields may look like SQL."""
    path = tmp_path / "a.db"
    schema = Schema(4, fields={"order": str, "rowid": str, "vec0": str})
    async with aiovec.connect(path) as store:
        await store.create_table("select", schema)
        rows = [
            {"id": f"r{n}", "embedding": [1, n, 0, 0], "order": text, "rowid": text, f"k{text}": n}
            for n, text in enumerate(HOSTILE_TEXTS)
        ]
        await store.insert("select", rows)
        for n, text in enumerate(HOSTILE_TEXTS):
            records = await store.find("select", (F.order == text) & (F.rowid == text))
            assert [record.id for record in records] == [f"r{n}"], repr(text)
            records = await store.find("select", F.payload[f"k{text}"] == n)
            assert [record.id for record in records] == [f"r{n}"], repr(text)
            assert await store.update("select", {"vec0": text}, where=F.order == text) == 1
            assert await store.count("select", F.vec0.in_([text])) == 1
            assert len(await store.search("select", [1, 0, 0, 0], where=F.order.like(text))) > 0
        assert await store.delete("select", where=F.vec0 == "'; DROP TABLE notes; --") == 1
    with sql(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_as_many_fields_as_a_table_can_have() -> None:
    fields = {f"f{n}": int for n in range(1_996)}
    row = {"id": "a", "embedding": [1, 2], **dict.fromkeys(fields, 3)}
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", Schema(2, fields=fields))
        await store.insert("notes", [row])
        (record,) = await store.get("notes", "a")
        assert set(record.fields.values()) == {3}
        with pytest.raises(InvalidArgumentError, match="at most 1,996 fields are allowed"):
            await store.add_field("notes", "more", int)
