"""The pipeline between reading and writing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import aiovec
import aiovec_migrate
from aiovec._input.rows import to_table
from aiovec.backend import Origin
from aiovec_migrate.copy import Buffer, TableFill
from aiovec_migrate.ends import OpenTable
from aiovec_migrate.host import RealHost
from aiovec_migrate.limits import Limits
from aiovec_sqlite import SqliteBackend


def batch(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"a": pa.array(range(rows), pa.int64())})


async def test_the_reader_waits_for_the_writer() -> None:
    buffer = Buffer(most_bytes=1000)
    read = 0

    async def reader() -> None:
        nonlocal read
        for n in range(50):
            await buffer.put((batch(50), str(n).encode()))  # 400 bytes each
            read += 1
        buffer.end()

    reading = asyncio.ensure_future(reader())
    await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert read == 3  # no more than one beyond the bound
    cursors = []
    while taken := await buffer.take(800, 10_000):
        assert sum(rows.nbytes for rows, _ in taken) <= 800
        cursors += [cursor for _, cursor in taken]
        assert read - len(cursors) <= 3
    await reading
    assert cursors == [str(n).encode() for n in range(50)]


async def test_large_rows_are_read_and_caught_up_with_a_few_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(insert_bytes=2**20, page_bytes=2**20, least_page=10)
    rows = [{"id": f"r{n:03}", "embedding": [1.0, 2.0], "text": "x" * 50_000} for n in range(60)]
    pages: list[int | None] = []
    sizes: list[int] = []
    export = SqliteBackend.export

    async def exported(*values: Any, batch_size: int, **more: Any) -> AsyncIterator[Any]:
        sizes.append(batch_size)
        async for found in export(*values, batch_size=batch_size, **more):
            yield found

    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", aiovec.Schema(2))
        await store.insert("notes", rows)

        async def step(name: str) -> None:
            if name == "phase:copying":
                monkeypatch.setattr(SqliteBackend, "export", exported)
            elif name == "phase:catching-up":
                monkeypatch.setattr(SqliteBackend, "export", export)
                await store.upsert("notes", rows)
            elif name == "catch-up:journalled":
                state = await aiovec_migrate.status(journal=tmp_path / "j")
                assert state is not None
                pages.append(state.lag)

        await aiovec_migrate.run(
            tmp_path / "a.db",
            tmp_path / "b.db",
            journal=tmp_path / "j",
            host=RealHost(limits),
            step=step,
        )
    assert len(sizes) == 1
    assert 1 <= sizes[0] <= 20
    assert sum(page or 0 for page in pages) >= 60
    assert max(page or 0 for page in pages) <= 20


async def test_batches_are_merged_and_none_is_too_large_to_pass() -> None:
    buffer = Buffer(most_bytes=100)

    async def reader() -> None:
        for n in (1, 2, 3, 1000, 4):
            await buffer.put((batch(n), b""))
        buffer.end()

    reading = asyncio.ensure_future(reader())
    sizes = []
    async with asyncio.timeout(10):
        while taken := await buffer.take(50, 3):
            sizes.append([rows.num_rows for rows, _ in taken])
    await reading
    assert sizes == [[1, 2], [3], [1000], [4]]


@asynccontextmanager
async def filler(target: str, *, again: bool) -> AsyncIterator[tuple[TableFill, Any, OpenTable]]:
    resolved = await asyncio.to_thread(Origin(target, None).resolve_first)
    backend = resolved.backend
    await backend.open()
    try:
        schema = aiovec.Schema(2, fields={"n": int})
        await backend.create_table("notes", schema)
        table = await OpenTable.open(backend, "notes")

        def rows(*numbers: int) -> pa.Table:
            return to_table(
                [{"id": f"{n % 100}", "embedding": [n, 1.0], "n": n} for n in numbers], schema
            )

        yield TableFill(table, Limits(), again=again), rows, table
    finally:
        await backend.close()


@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
async def test_rows_that_come_again_replace_those_that_are_there(tmp_path: Path, kind: str) -> None:
    target = str(tmp_path / "a.db") if kind == "sqlite" else f"lancedb://{tmp_path}/a"
    async with filler(target, again=False) as (writing, rows, table):
        await writing.write(rows(1, 2))
        await writing.write(rows(102, 3))  # 2 again, with another value
        await writing.write(rows(4))
        await writing.write(rows(103))
        assert await table.count() == 4
        found = await table.backend.get(
            table.handle, ["1", "2", "3", "4"], aiovec.backend.Columns(("n",))
        )
        assert dict(zip(found.ids, found.fields["n"], strict=True)) == {
            "1": 1, "2": 102, "3": 103, "4": 4,
        }  # fmt: skip
