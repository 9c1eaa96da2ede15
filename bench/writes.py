"""Compare writes, imports and exports on SQLite with equally durable hand-written code.

Labels are also written to LanceDB, with aiovec and with lancedb.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path

import aiosqlite
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import aiovec

from .data import COLUMNS, TABLE, Data, generate, row_id
from .measure import Options, Result, Way, interleaved, medians, output, ratios, shared, timed
from .stores import (
    INSERT_ROW,
    INSERT_VECTOR,
    JOIN,
    connect,
    create,
    exporting,
    fill,
    fill_by_hand,
    fill_lance,
    insert,
    lance,
)

_DIM = 768
_ROUNDS = 5
_SINGLE, _ALONE, _TASKS = 2_000, 300, 64
_BULK, _BATCH = 30_000, 1_000
_MOVED = _LABELLED = 100_000

_IMPORT_BY_HAND = """
import sys
import pyarrow.parquet as pq
from pathlib import Path
from bench.stores import connect, create, insert
file, dim, target = sys.argv[1:]
db, first = connect(Path(target)), 0
create(db, int(dim))
for batch in pq.ParquetFile(file).iter_batches(1000):
    insert(db, first, batch)
    first += batch.num_rows
"""


async def run(options: Options) -> list[Result]:
    return [await _single(options), await _bulk(options), await _labels(options),
            *await _moved(options)]  # fmt: skip


def in_folder(options: Options, way: Callable[[Path], Awaitable[float]]) -> Way:
    """Return a way that gives an empty folder to each run of ``way``."""

    async def measure() -> float:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            return await way(Path(folder))

    return measure


async def _single(options: Options) -> Result:
    data = generate(options.rows(_SINGLE), _DIM)
    rows = [data.row(number) for number in range(len(data))]
    alone = range(min(len(rows), max(50, options.rows(_ALONE))))

    def ours(numbers: range, tasks: int) -> Callable[[Path], Awaitable[float]]:
        async def measure(folder: Path) -> float:
            async with aiovec.connect(folder / "a.db") as store:
                await store.create_table(TABLE, data.schema())
                return await shared(lambda n: store.upsert(TABLE, [rows[n]]), numbers, tasks)

        return measure

    async def by_hand(folder: Path) -> float:
        with closing(connect(folder / "b.db")) as db:
            create(db, data.dim)

            async def write(number: int) -> None:
                db.execute("BEGIN IMMEDIATE")
                db.execute(INSERT_ROW, (number, *(rows[number][name] for name in COLUMNS)))
                db.execute(INSERT_VECTOR, (number, data.vectors[number].tobytes()))
                db.execute("COMMIT")

            return await shared(write, alone, 1)

    async def with_a_lock(folder: Path) -> float:
        """Write through one connection for all tasks, with a commit for each row, like an app."""
        lock = asyncio.Lock()
        db = connect(folder / "b.db")
        create(db, data.dim)
        db.close()
        async with aiosqlite.Connection(lambda: connect(folder / "b.db"), 64) as handle:

            async def write(number: int) -> None:
                async with lock:
                    await handle.execute("BEGIN IMMEDIATE")
                    values = (number, *(rows[number][name] for name in COLUMNS))
                    await handle.execute(INSERT_ROW, values)
                    await handle.execute(INSERT_VECTOR, (number, data.vectors[number].tobytes()))
                    await handle.commit()

            return await shared(write, range(len(rows)), _TASKS)

    many, single = f"aiovec, {_TASKS} tasks", "aiovec, one task"
    bare, locked = "SQLite by hand, blocking", f"aiosqlite by hand, {_TASKS} tasks and a lock"
    ways = {
        many: ours(range(len(rows)), _TASKS), single: ours(alone, 1), bare: by_hand,
        locked: with_a_lock,
    }  # fmt: skip
    flush = 1000 * _flush_seconds(options.folder)
    rates = await interleaved(
        {name: in_folder(options, way) for name, way in ways.items()}, options.rounds(_ROUNDS)
    )
    return Result(
        "writes, single rows",
        f"upserts of one row of {_DIM} dims, each durable when the call returns (median)",
        "rows/s", medians(rates), ratios(rates, many, bare, locked) | ratios(rates, single, bare),
        [f"a flush takes {flush:.2f} ms on this disk"],
    )  # fmt: skip


def _flush_seconds(folder: Path) -> float:
    """Return the median time of a flush. If it is short, shared commits gain little."""
    path, took = folder / "flushed", []
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    path.unlink()
    return float(np.median(took))


async def _bulk(options: Options) -> Result:
    data = generate(options.rows(_BULK), _DIM)
    batches = list(data.batches(_BATCH))
    numbers, each = range(len(batches)), len(data) / len(batches)

    async def ours(folder: Path) -> float:
        async with aiovec.connect(folder / "a.db") as store:
            await store.create_table(TABLE, data.schema())
            return each * await shared(lambda n: store.insert(TABLE, batches[n]), numbers, 1)

    async def by_hand(folder: Path) -> float:
        with closing(connect(folder / "b.db")) as db:
            create(db, data.dim)

            async def write(number: int) -> None:
                insert(db, number * _BATCH, batches[number])

            return each * await shared(write, numbers, 1)

    rates = await interleaved(
        {"aiovec": in_folder(options, ours), "SQLite by hand": in_folder(options, by_hand)},
        options.rounds(_ROUNDS),
    )
    return Result(
        "writes, bulk",
        f"{data}, batches of {_BATCH:,}, a durable commit each (median)",
        "rows/s", medians(rates), ratios(rates, "aiovec", "SQLite by hand"),
    )  # fmt: skip


async def _labels(options: Options) -> Result:
    """Measure writing a different number to each row, with aiovec and with lancedb."""
    data = generate(options.rows(_LABELLED), 384)
    numbers = range(len(data))
    labels = pa.table({"id": [*map(row_id, numbers)], "pick": np.array(numbers)})
    ways: dict[str, Way] = {}
    async with AsyncExitStack() as stack:
        for name, target in (("SQLite", "labels.db"), ("LanceDB", "lancedb://{}/lance")):
            target = target.format(options.folder) if "{}" in target else options.folder / target
            store = await stack.enter_async_context(aiovec.connect(target))
            await fill(store, data)
            ways[f"aiovec, {name}"] = timed(partial(store.update, TABLE, labels))
        connection = await stack.enter_async_context(lance(options.folder / "bare"))
        table = await fill_lance(connection, data)
        merge = table.merge_insert("id").when_matched_update_all()
        ways["lancedb, merge_insert"] = timed(partial(merge.execute, labels))
        seconds = await interleaved(ways, options.rounds(_ROUNDS))
    bare = "lancedb, merge_insert"
    return Result(
        "writes, labels",
        f"{data}: an id and a number for each row, written back in one call (median)",
        "ms", medians(seconds),
        ratios(seconds, "aiovec, SQLite", bare) | ratios(seconds, "aiovec, LanceDB", bare),
    )  # fmt: skip


async def _moved(options: Options) -> list[Result]:
    data = generate(options.rows(_MOVED), _DIM)
    file = options.folder / "rows.parquet"
    pq.write_table(pa.Table.from_batches(data.batches(_BATCH)), file)
    ours, script = "aiovec import", "a script with pyarrow and SQLite"

    def running(*arguments: str) -> Way:
        """Return a way that measures the rows/s of Python with these arguments and a new file."""

        async def imported(folder: Path) -> float:
            began = time.perf_counter()
            await output(sys.executable, *arguments, str(folder / "a.db"))
            return len(data) / (time.perf_counter() - began)

        return in_folder(options, imported)

    import_ = ("-m", "aiovec", "import", str(file), "--vector-column", "embedding", "--store")
    ways = {
        ours: running(*import_),
        script: running("-c", _IMPORT_BY_HAND, str(file), str(data.dim)),
    }
    rates = await interleaved(ways, max(1, options.rounds(_ROUNDS) // 2))
    imported = Result(
        "writes, import",
        f"a Parquet file of {data} into a new file, the process included (median)",
        "rows/s", medians(rates), ratios(rates, ours, script),
    )  # fmt: skip
    return [imported, await _export(options, data)]


async def _export(options: Options, data: Data) -> Result:
    path, hand = options.folder / "a.db", options.folder / "b.db"
    fill_by_hand(hand, data)
    async with aiovec.connect(path) as store:
        await fill(store, data)

        async def by_hand() -> float:
            began, count = time.perf_counter(), 0
            async with (
                aiosqlite.Connection(lambda: connect(hand), 1000) as db,
                db.execute(JOIN) as cursor,
            ):
                while rows := list(await cursor.fetchmany(1000)):
                    *columns, vectors = zip(*rows, strict=True)
                    flat = pa.array(np.frombuffer(b"".join(vectors), dtype=np.float32))
                    arrays = [pa.array(column) for column in columns]
                    arrays.append(pa.FixedSizeListArray.from_arrays(flat, data.dim))
                    names = [*COLUMNS, "embedding"]
                    count += pa.RecordBatch.from_arrays(arrays, names=names).num_rows
            assert count == len(data)
            return count / (time.perf_counter() - began)

        rates = await interleaved(
            {"aiovec export": exporting(store, data), "aiosqlite, a join by hand": by_hand},
            options.rounds(_ROUNDS),
        )
    return Result(
        "writes, export",
        f"{data} to Arrow batches of 1,000 (median)",
        "rows/s", medians(rates), ratios(rates, "aiovec export", "aiosqlite, a join by hand"),
    )  # fmt: skip
