"""An engine's load keeps other writers out. In these tests, LanceDB itself acts as the workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from tests.harness.marks import begin_move, end_move
from tests.harness.values import SMALL, small_rows

from aiovec import AiovecError, Field, MigrationError, StoreBusyError, VectorStore

from .support import backend_on, opened

ROWS = small_rows(20)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Any]:
    async with backend_on(tmp_path / "s") as backend:
        await backend.create_table("notes", SMALL)
        yield backend


@pytest.fixture
async def other(tmp_path: Path, backend: Any) -> AsyncIterator[VectorStore]:
    async with opened(tmp_path / "s", busy_timeout=0.5) as store:
        yield store


async def adding(folder: Path) -> Callable[[], Awaitable[None]]:
    """Return a commit of the rows."""
    connection = await lancedb.connect_async(folder)
    table = await connection.open_table("notes")

    async def commit() -> None:
        await table.checkout_latest()
        await table.add(pa.Table.from_pylist(ROWS, SMALL.to_arrow()))

    return commit


async def nothing() -> None: ...


async def failing() -> None:
    raise OSError("the disk failed")


async def test_nobody_else_writes_until_the_commit(
    backend: Any, other: VectorStore, tmp_path: Path
) -> None:
    handle = await backend.open_table("notes")
    async with backend.filling(handle, "run", nothing) as load:
        assert load.rows is None
        writes = [
            other.insert("notes", small_rows(1)),
            other.upsert("notes", small_rows(1)),
            other.add_field("notes", "extra", Field(int)),
        ]
        for write in writes:
            with pytest.raises(StoreBusyError, match="run the same command again"):
                await write
        assert await other.count("notes") == 0
        assert await load.commit(await adding(tmp_path / "s")) == 20
    assert await other.insert("notes", small_rows(1, start=50)) == 1
    async with backend.filling(handle, "run", nothing) as again:
        assert again.rows == 21
    assert len((await backend.changes(handle, 0)).upserted) == 21


async def test_a_second_load_starts_is_killed_and_continues_as_the_first(
    backend: Any, other: VectorStore, tmp_path: Path
) -> None:
    """Into a table with rows, it starts, is killed and continues like the first load."""
    handle = await backend.open_table("notes")
    await other.insert("notes", small_rows(5, start=100))
    since = await backend.change_number(handle)
    async with backend.filling(handle, "second", nothing):
        pass  # killed before its commit
    with pytest.raises(StoreBusyError, match="run the same command again"):
        await other.insert("notes", small_rows(1))
    add = await adding(tmp_path / "s")

    async def lost() -> None:
        await add()
        raise OSError("the answer was lost")

    async with backend.filling(handle, "second", nothing) as load:
        assert (load.rows, load.before) == (None, 5)
        with pytest.raises(AiovecError):
            await load.commit(failing)
        assert await load.commit(lost) == 20
    changed = await backend.changes(handle, since)
    assert sorted(changed.upserted.column("id").to_pylist()) == sorted(r["id"] for r in ROWS)
    async with backend.filling(handle, "second", nothing) as again:
        assert again.rows == 25
    async with backend.filling(handle, "third", nothing) as third:
        await add()
        # Killed after its commit: the rows are stored, and the same run reports it.
    async with backend.filling(handle, "third", nothing) as again:
        assert again.rows == 45
    async with backend.filling(handle, "fourth", nothing) as fourth:
        await fourth.abandon()
        assert third.before == 25
    assert await other.insert("notes", small_rows(1, start=50)) == 1
    assert await other.count("notes") == 46


async def test_a_killed_load_continues_or_is_dropped(
    backend: Any, other: VectorStore, tmp_path: Path
) -> None:
    handle = await backend.open_table("notes")
    async with backend.filling(handle, "run", nothing) as earlier:
        pass  # killed
    with pytest.raises(StoreBusyError):
        await other.insert("notes", ROWS)
    with pytest.raises(StoreBusyError, match="another load"):
        async with backend.filling(handle, "another run", nothing):
            raise AssertionError
    with pytest.raises(StoreBusyError):
        await other.optimize("notes")
    async with backend.filling(handle, "run", nothing) as load:
        with pytest.raises(AiovecError, match="taken over the load run of the table 'notes'"):
            await earlier.commit(await adding(tmp_path / "s"))
        with pytest.raises(AiovecError, match="taken over the load run of the table 'notes'"):
            await earlier.abandon()
        assert await load.commit(await adding(tmp_path / "s")) == 20
    assert await other.count("notes") == 20
    await other.drop_table("notes")


async def test_revert_gives_up_a_load(backend: Any, other: VectorStore, tmp_path: Path) -> None:
    """After a revert to the version before the load, its workers can no longer commit."""
    handle = await backend.open_table("notes")
    await other.insert("notes", small_rows(3, start=100))
    [*_, before] = await other.versions("notes")
    async with backend.filling(handle, "run", nothing) as load:
        with pytest.raises(StoreBusyError, match=r"revert\(\) to the version before"):
            await other.insert("notes", small_rows(1))
    await other.revert("notes", before["version"])
    assert await other.insert("notes", small_rows(1)) == 1
    with pytest.raises(AiovecError, match="taken over the load run of the table 'notes'"):
        await load.commit(await adding(tmp_path / "s"))
    assert await other.count("notes") == 4


async def test_revert_to_a_version_of_a_load_restores_that_version(
    backend: Any, other: VectorStore, tmp_path: Path
) -> None:
    handle = await backend.open_table("notes")
    async with backend.filling(handle, "run", nothing) as load:
        await load.commit(await adding(tmp_path / "s"))
    for version, rows in ((load.version, 0), (load.version + 1, 20)):
        await other.revert("notes", version)
        assert await other.count("notes") == rows
        assert await other.insert("notes", small_rows(1, start=50)) == 1


async def test_no_load_beside_a_migration(backend: Any, tmp_path: Path) -> None:
    handle = await backend.open_table("notes")
    async with backend_on(tmp_path / "s") as mover:
        await begin_move(mover, "move")
        with pytest.raises(MigrationError):
            async with backend.filling(handle, "run", nothing):
                raise AssertionError
        await end_move(mover, "move")
        async with backend.filling(handle, "run", nothing) as load:
            await begin_move(mover, "move")
            with pytest.raises(MigrationError):
                await load.commit(nothing)
            await end_move(mover, "move")
            await load.abandon()
