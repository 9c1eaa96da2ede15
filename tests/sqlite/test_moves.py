"""The mark of a migration in the file: it holds schemas, lets writers wait, and sends users on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import aiovec
from aiovec import MigrationError, Schema, StoreMovedError, VectorStore
from aiovec.backend import Moves, TableHandle
from aiovec.settings import RetrievalSettings
from aiovec_sqlite import create

SCHEMA = Schema(4, fields={"n": int})


def row(id: str, n: int = 0) -> dict[str, Any]:
    return {"id": id, "embedding": np.full(4, n + 1, dtype=np.float32), "n": n}


@asynccontextmanager
async def mover(path: Path) -> AsyncIterator[Any]:
    """The backend as a migrator uses it."""
    backend = create(str(path), RetrievalSettings())
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[VectorStore]:
    async with aiovec.connect(tmp_path / "a.db") as opened:
        await opened.create_table("notes", SCHEMA)
        await opened.insert("notes", [row("a")])
        yield opened


@pytest.fixture
async def moves(store: VectorStore, tmp_path: Path) -> AsyncIterator[Any]:
    async with mover(tmp_path / "a.db") as backend:
        assert isinstance(backend, Moves)
        yield backend


async def test_the_mark_is_there_from_begin_to_end(moves: Any) -> None:
    assert await moves.move_mark() is None
    await moves.begin_move("r1")
    await moves.begin_move("r1")
    mark = await moves.move_mark()
    assert (mark.run, mark.state) == ("r1", "open")
    await moves.end_move("r1")
    assert await moves.move_mark() is None
    await moves.end_move("r1")


async def test_another_run_is_refused_by_name(moves: Any, tmp_path: Path) -> None:
    await moves.begin_move("r1")
    async with mover(tmp_path / "a.db") as other:
        for act in (other.begin_move("r2"), other.end_move("r2"), other.pause_writers("r2", 1.0)):
            with pytest.raises(MigrationError, match="r1"):
                await act
        assert (await other.move_mark()).run == "r1"
    await moves.end_move("r1")
    with pytest.raises(MigrationError, match="r1"):
        await moves.pause_writers("r1", 1.0)


async def test_while_it_is_open_schemas_stay_and_rows_change(
    store: VectorStore, moves: Any
) -> None:
    await moves.begin_move("r1")
    changes: list[Awaitable[None]] = [
        store.create_table("more", SCHEMA),
        store.add_field("notes", "x", int),
        store.drop_table("notes"),
    ]
    for change in changes:
        with pytest.raises(MigrationError, match="r1"):
            await change
    assert await store.tables() == ["notes"]
    await store.upsert("notes", [row("b", 3)])
    assert await store.delete("notes", "a") == 1
    await moves.end_move("r1")
    await store.create_table("more", SCHEMA)


async def test_while_it_is_open_no_deletion_is_forgotten(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "a.db"\n[retrieval.sqlite]\nkeep_deletes = 10\n')
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [row("first")])
        async with mover(tmp_path / "a.db") as moves:
            handle = await moves.open_table("notes")
            await moves.begin_move("r1")
            start = await moves.change_number(handle)
            await store.insert("notes", [row(f"{n}") for n in range(50)])
            await store.delete_where("notes", "TRUE")
            await store.optimize("notes")
            assert len((await moves.changes(handle, start)).deleted) == 51
            await moves.end_move("r1")
            await store.optimize("notes")
            with pytest.raises(aiovec.backend.ChangesPrunedError):
                await moves.changes(handle, start)


async def test_writers_wait_for_the_end_of_a_pause(tmp_path: Path, moves: Any) -> None:
    """The pause is no part of the time in which a write must find its turn."""
    config = tmp_path / "aiovec.toml"
    config.write_text(
        '[retrieval]\nsqlite_path = "a.db"\n'
        "[retrieval.sqlite]\nbusy_timeout = 0.2\nwrite_queue = 2\n"
    )
    async with aiovec.connect(config=config) as store:
        await moves.begin_move("r1")
        await moves.pause_writers("r1", 60.0)
        writes = [asyncio.ensure_future(store.upsert("notes", [row(f"w{n}", n)])) for n in range(6)]
        await asyncio.sleep(1.0)
        assert not any(write.done() for write in writes)
        assert await store.count("notes") == 1  # readers go on
        assert await moves.resume_writers("r1")
        assert await asyncio.gather(*writes) == [1] * 6
        assert await store.count("notes") == 7
        assert not await moves.resume_writers("r1")


async def test_the_run_itself_writes_in_its_pause(moves: Any) -> None:
    await moves.begin_move("r1")
    await moves.pause_writers("r1", 60.0)
    handle = await moves.open_table("notes")
    await moves.upsert(handle, table_of(handle, ["z"]))
    assert await moves.count(handle, None) == 2


def table_of(handle: TableHandle, ids: list[str]) -> pa.Table:
    schema = handle.schema.to_arrow()
    vector = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 4 * len(ids), pa.float32()), 4)
    columns = {"id": pa.array(ids), "embedding": vector, "n": pa.array([0] * len(ids))}
    payload = pa.nulls(len(ids), pa.utf8()).cast(schema.field("payload").type)
    return pa.table([*columns.values(), payload], schema=schema)


async def test_a_pause_that_lasts_too_long_is_ended_by_who_waits(
    store: VectorStore, moves: Any
) -> None:
    await moves.begin_move("r1")
    await moves.pause_writers("r1", 0.3)
    began = time.monotonic()
    assert await store.upsert("notes", [row("b")]) == 1
    assert time.monotonic() - began >= 0.3
    # Somebody has written, so the run must not move the store any more.
    assert not await moves.set_moved("r1", "lancedb:///x")
    assert not await moves.resume_writers("r1")
    assert (await moves.move_mark()).state == "open"


async def test_a_write_that_is_cancelled_in_a_pause_is_not_done(
    store: VectorStore, moves: Any
) -> None:
    await moves.begin_move("r1")
    await moves.pause_writers("r1", 60.0)
    waiting = asyncio.ensure_future(store.upsert("notes", [row("b")]))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await moves.resume_writers("r1")
    await store.upsert("notes", [row("c")])
    assert [found.id for found in await store.find("notes")] == ["a", "c"]


async def test_after_the_move_every_call_tells_the_new_place(
    store: VectorStore, moves: Any, tmp_path: Path
) -> None:
    async with asyncio.timeout(60):  # so that the table is searched in memory
        while not (await store.stats("notes")).scan_memory:
            await store.search("notes", [1, 1, 1, 1])
    await moves.begin_move("r1")
    await moves.pause_writers("r1", 60.0)
    waiting = asyncio.ensure_future(store.upsert("notes", [row("b")]))
    await asyncio.sleep(0.1)
    assert await moves.set_moved("r1", "lancedb:///x", backend="lancedb", config="/c.toml")
    assert await moves.set_moved("r1", "lancedb:///x", backend="lancedb", config="/c.toml")
    calls: list[Awaitable[Any]] = [
        waiting,
        store.ping(),
        store.tables(),
        store.schema("notes"),
        store.search("notes", [1, 1, 1, 1]),
        store.get("notes", "a"),
        store.find("notes"),
        store.count("notes"),
        store.stats("notes"),
        store.insert("notes", [row("c")]),
        store.update("notes", {"n": 1}),
        store.delete("notes", "a"),
        store.optimize("notes"),
        store.create_table("more", SCHEMA),
        store.drop_table("notes"),
        anext(store.export("notes")),
    ]
    for call in calls:
        with pytest.raises(StoreMovedError, match="lancedb:///x") as caught:
            await call
        assert (caught.value.backend, caught.value.config) == ("lancedb", "/c.toml")
    async with aiovec.connect(tmp_path / "a.db") as later:
        with pytest.raises(StoreMovedError):
            await later.count("notes")
    # The run itself goes on, and can bring rows back.
    handle = await moves.open_table("notes")
    await moves.upsert(handle, table_of(handle, ["z"]))
    await moves.end_move("r1")
    assert [found.id for found in await store.find("notes")] == ["a", "z"]
    assert len(await store.search("notes", [1, 1, 1, 1])) == 2


async def test_a_new_process_can_act_for_the_run(moves: Any, tmp_path: Path) -> None:
    await moves.begin_move("r1")
    await moves.pause_writers("r1", 60.0)
    async with mover(tmp_path / "a.db") as resumed:
        await resumed.begin_move("r1")
        assert (await resumed.move_mark()).state == "paused"
        assert await resumed.set_moved("r1", "lancedb:///x")
        await resumed.begin_move("r1")
        assert await resumed.tables() == ["notes"]
        with pytest.raises(MigrationError, match="r1"):
            await resumed.pause_writers("r1", 1.0)
