"""One stage in a process of its own, so that its memory is its own: ``stage.py <what> <JSON>``."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import psutil
import pyarrow as pa

import aiovec
import aiovec_migrate
from aiovec.backend.contract import Backend, Columns
from aiovec.backend.origin import Origin
from aiovec_migrate import Event, Options

from ..lance.memory import Peak
from .rows import TABLE, Fingerprint, batches, schema

# What the migrator reads at a time by default, and about what it writes at a time.
_READ = 1_000
_WRITTEN = {"lancedb": 10_000, "sqlite": 4_000}


def main() -> None:
    # Memory is compared between processes, so all of them have loaded the same.
    for module in (
        "aiovec._store.store",
        "aiovec._input.rows",
        "pyarrow.compute",
        "lancedb",
        "aiovec_lancedb",
    ):
        importlib.import_module(module)
    stage: Callable[..., Any] = {
        "make": make, "opened": opened, "read": read, "fill": fill, "migrate": migrate,
        "loop": loop, "fingerprints": fingerprints, "index": index,
    }[sys.argv[1]]  # fmt: skip
    print(json.dumps(asyncio.run(stage(**json.loads(sys.argv[2])))))


async def make(target: str, rows: int, dim: int) -> dict[str, Any]:
    """The table that is moved."""
    told = Fingerprint()
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, schema(dim))
        for batch in batches(rows, dim):
            await store.insert(TABLE, batch)
            told.add(batch)
        await store.optimize(TABLE)
        size = (await store.stats(TABLE)).bytes
    return {"fingerprint": str(told), "bytes": size}


async def fingerprint(target: str) -> dict[str, Any]:
    """All of the table that must not change on the way."""
    told = Fingerprint()
    layouts = set()
    async with aiovec.connect(target) as store:
        async for batch in store.export(TABLE):
            told.add(batch)
            # All but the cursor.
            metadata = dict(batch.schema.metadata)
            del metadata[b"aiovec.cursor"]
            layouts.add(f"{batch.schema.remove_metadata()} {sorted(metadata.items())}")
        kept = (await store.schema(TABLE)).to_json()
        size = await asyncio.to_thread(_bytes, store.target)
    return {"fingerprint": str(told), "schema": kept, "layouts": sorted(layouts), "bytes": size}


async def fingerprints(targets: list[str]) -> dict[str, dict[str, Any]]:
    return {target: await fingerprint(target) for target in targets}


async def opened(source: str, target: str) -> dict[str, Any]:
    """Measure two open stores that do nothing."""
    async with _backend(source) as one, _backend(target) as other:
        await one.tables()
        await other.tables()
        return {"memory": _memory()}


async def read(source: str) -> dict[str, Any]:
    """Measure the reading of a store, above what it takes when it is open."""
    async with _backend(source) as backend:
        handle = await backend.open_table(TABLE)
        columns = Columns(tuple(handle.schema.fields), payload=True, vector=True)
        with Peak() as peak:
            walk = backend.export(handle, where=None, columns=columns, after=None, batch_size=_READ)
            async for _ in walk:
                pass
    return {"memory": peak.mib * 2**20}


async def fill(target: str, rows: int, dim: int) -> dict[str, Any]:
    """Measure the filling of a store, above what it takes when it is open."""
    async with _backend(target) as backend:
        await backend.create_table(TABLE, schema(dim))
        handle = await backend.open_table(TABLE)
        load = backend.bulk_load(handle) if backend.supports("bulk-load") else None
        waiting: list[pa.RecordBatch] = []
        held = 0
        with Peak() as peak:
            for batch in batches(rows, dim):
                waiting.append(batch)
                held += batch.num_rows
                if held >= _WRITTEN[backend.name]:
                    table = pa.Table.from_batches(waiting)
                    await (backend.insert(handle, table) if load is None else load.add(table))
                    waiting, held = [], 0
    return {"memory": peak.mib * 2**20}


async def migrate(source: str, target: str, journal: str) -> dict[str, Any]:
    """The whole run with its verification; the index is left to ``index``."""
    phases = [("planning", time.perf_counter(), time.process_time())]

    def heard(event: Event) -> None:
        if event.kind == "phase":
            phases.append((event.phase, time.perf_counter(), time.process_time()))

    before = _memory()
    with Peak() as peak:
        outcome = await aiovec_migrate.run(
            source, target, journal=journal, options=Options(index=False), listener=heard
        )
    phases.append(("closed", time.perf_counter(), time.process_time()))
    took = dict.fromkeys((phase for phase, *_ in phases[:-1]), (0.0, 0.0))
    for (phase, since, worked), (_, until, then) in pairwise(phases):
        seconds, processor = took[phase]
        took[phase] = seconds + until - since, processor + then - worked
    verified = all(table.verified for table in outcome.state.tables.values())
    return {
        "seconds": {phase: seconds for phase, (seconds, _) in took.items()},
        "processor": {phase: processor for phase, (_, processor) in took.items()},
        "memory": before + peak.mib * 2**20,
        "equal": verified and (outcome.report is None or outcome.report.equal),
    }


async def loop(source: str, target: str) -> dict[str, Any]:
    """Copy as one would by hand: read all, add it in batches of 1,000."""
    async with aiovec.connect(source) as one, aiovec.connect(target) as other:
        before = _memory()
        with Peak() as peak:
            began = time.perf_counter()
            await other.create_table(TABLE, await one.schema(TABLE))
            rows = [batch async for batch in one.export(TABLE, batch_size=_READ)]
            for batch in rows:
                await other.insert(TABLE, batch)
            seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory": before + peak.mib * 2**20}


async def index(target: str) -> dict[str, Any]:
    """Measure the building of the target's own index."""
    async with aiovec.connect(target) as store:
        before = await asyncio.to_thread(_bytes, store.target)
        with Peak() as peak:
            began = time.perf_counter()
            await store.create_index(TABLE)
            seconds = time.perf_counter() - began
        after = await asyncio.to_thread(_bytes, store.target)
    return {"seconds": seconds, "bytes": after - before, "memory": peak.mib * 2**20}


@asynccontextmanager
async def _backend(target: str) -> AsyncIterator[Backend]:
    backend = Origin(target, None).resolve().backend
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


def _memory() -> int:
    return int(psutil.Process().memory_info().rss)


def _bytes(target: str) -> int:
    """Return the bytes of a store on the disk."""
    if os.path.isfile(target):
        return os.path.getsize(target)
    found = ((folder, name) for folder, _, names in os.walk(target) for name in names)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, name in found)


if __name__ == "__main__":
    main()
