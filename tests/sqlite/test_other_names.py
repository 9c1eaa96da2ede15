"""Names of files that SQLite loses rows by: a second one of a store, or one of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

import aiovec
from aiovec import AiovecError, ConfigError, InvalidArgumentError, Schema
from aiovec_sqlite.plugin import BESIDE

ROWS = [{"id": "a", "embedding": [1, 2, 3, 4]}]


async def test_a_store_with_a_hard_link_is_refused(tmp_path: Path) -> None:
    """Two processes that used one name each lost what one of them had written."""
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(4))
        await store.insert("notes", ROWS)
    (tmp_path / "b.db").hardlink_to(tmp_path / "a.db")
    for name, other in (("a.db", "b.db"), ("b.db", "a.db")):
        with pytest.raises(AiovecError, match=rf"{name} has a second name \({other}\)"):
            await aiovec.connect(tmp_path / name)
    (tmp_path / "b.db").unlink()
    async with aiovec.connect(tmp_path / "a.db") as store:
        assert await store.count("notes") == 1


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names there are Unicode")
async def test_a_path_that_is_no_utf_8(tmp_path: Path) -> None:
    """It was told as a damaged file."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    await asyncio.to_thread(folder.mkdir)
    for _ in range(2):
        async with aiovec.connect(folder / "a.db") as store:
            await store.create_table("notes", Schema(4), exist_ok=True)
            await store.upsert("notes", ROWS)
            assert [hit.id for hit in await store.search("notes", [1, 2, 3, 4])] == ["a"]
            assert [batch.num_rows async for batch in store.export("notes")] == [1]


@pytest.mark.parametrize("end", BESIDE)
async def test_names_that_sqlite_keeps_for_itself(tmp_path: Path, end: str) -> None:
    """A backup of such a name was removed when the store beside it was opened."""
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(4))
        with pytest.raises(ConfigError, match="SQLite uses for a part of the database"):
            await store.backup(tmp_path / f"a.db{end}x{end}")
        with pytest.raises(AiovecError):
            await store.backup(tmp_path / f"a.db{end}")
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
