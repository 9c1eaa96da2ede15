"""Calls that are cancelled at any await are done completely or not at all."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.harness.cancel import STOPS, run_and_stop, stopped_at
from tests.harness.scripts import KINDS, SCHEMA, TABLE, campaign, row, scripts_of, target_in
from tests.sqlite.support import LockHolder

import aiovec


async def stop_at_every_await(
    folder: Path,
    kind: str,
    stops: Sequence[str],
    delays: Sequence[float],
    names: Sequence[str] = (),
) -> None:
    target, ways = target_in(folder, kind), [*itertools.product(stops, delays)]
    await campaign(target, names or scripts_of(kind), ways, range(1, 300), run_and_stop)


async def test_a_call_stopped_at_any_await_is_done_or_not_on_sqlite(tmp_path: Path) -> None:
    await stop_at_every_await(tmp_path, "sqlite", ["again and again"], [0.0, 0.001])


async def test_a_call_stopped_at_any_await_is_done_or_not_on_lancedb(tmp_path: Path) -> None:
    names = ["insert", "many at once"]
    await stop_at_every_await(tmp_path, "lancedb", ["again and again"], [0.003], names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_stopped_in_every_way_is_done_or_not(tmp_path: Path, kind: str) -> None:
    stops = ["once", "by a scope"] if kind == "sqlite" else ["by a scope"]
    delays = [0.0, 0.001, 0.004] if kind == "sqlite" else [0.004]
    await stop_at_every_await(tmp_path, kind, stops, delays)


@pytest.mark.soak(minutes=10)
@pytest.mark.parametrize("kind", KINDS)
async def test_stopped_calls_leave_no_thread_file_or_memory_behind(
    tmp_path: Path, kind: str
) -> None:
    """They leave nothing behind. Small differences are allowed for Lance's own threads."""
    delays = [0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016]
    process, held = psutil.Process(), []
    for how in (*STOPS, *STOPS):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        await stop_at_every_await(folder, kind, [how], delays)
        gc.collect()
        held.append((threading.active_count(), process.num_fds(), process.memory_info().rss >> 20))
    first, last = held[len(STOPS) - 1], held[-1]
    assert last[0] <= first[0] + 4, held
    assert last[1] <= first[1] + 4, held
    assert last[2] <= first[2] + 64, held


async def test_an_alteration_cancelled_as_its_wait_ends_is_not_done(tmp_path: Path) -> None:
    """The alteration waits for a call that an alteration by another store has overtaken."""
    begun, going_on = asyncio.Semaphore(0), asyncio.Semaphore(0)

    class Gated:
        model, dim = "gated", 2

        async def __call__(self, texts: list[str], *, kind: str = "document") -> list[list[float]]:
            begun.release()
            await going_on.acquire()
            return [[0.0, 0.0] for _ in texts]  # not cached, so the next attempt comes here too

    path = tmp_path / "notes.db"
    fields = {"body": str}
    schema = aiovec.Schema(2, metric="l2", fields=fields, embed=aiovec.Embed("body"))
    async with aiovec.connect(path) as first, aiovec.connect(path, embedder=Gated()) as second:
        await first.create_table(TABLE, schema)
        searching = asyncio.ensure_future(second.search(TABLE, "a text"))
        await begun.acquire()
        await first.add_field(TABLE, "added", aiovec.Field(str))
        going_on.release()
        await begun.acquire()  # the second attempt
        altering = asyncio.ensure_future(second.drop_field(TABLE, "added"))
        await asyncio.sleep(0.01)
        searching.add_done_callback(lambda _: altering.cancel())
        going_on.release()
        with pytest.raises(asyncio.CancelledError):
            await altering
        assert "added" in (await first.schema(TABLE)).fields


@pytest.mark.slow
async def test_large_calls_that_wait_take_little_memory(tmp_path: Path) -> None:
    """Rows are converted when it is the call's turn; all 100 calls would need 200 MiB."""
    path, config = tmp_path / "notes.db", tmp_path / "aiovec.toml"
    config.write_text("[retrieval.sqlite]\nwrite_queue = 2\nbusy_timeout = 600\n")
    values = np.random.default_rng(1).standard_normal((1024, 512))  # not of the type that is kept
    process = psutil.Process()
    async with aiovec.connect(path, config=config) as store:
        await store.create_table(TABLE, aiovec.Schema(512))
        calls = [
            {"id": [f"{n}-{i}" for i in range(len(values))], "embedding": values}
            for n in range(100)
        ]
        await store.insert(TABLE, calls[0])
        async with LockHolder(path):
            before = process.memory_info().rss
            tasks = [asyncio.ensure_future(store.insert(TABLE, rows)) for rows in calls[1:]]
            done, _ = await asyncio.wait(tasks, timeout=3, return_when=asyncio.FIRST_COMPLETED)
            assert not done
            assert process.memory_info().rss - before < 64 << 20
            for task in tasks[2:]:
                task.cancel()
        await asyncio.wait(tasks)
        assert await store.count(TABLE) == 3 * 1024


# Opening and closing


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_opening_or_close_leaves_nothing_open(tmp_path: Path, kind: str) -> None:
    target = target_in(tmp_path, kind)
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA)
        await store.backup(tmp_path / "copy")
    for at in range(1, 40):
        opening = aiovec.connect(target)
        far, _ = await stopped_at(opening.__aenter__(), at, STOPS["once"])
        if not far:
            await opening.__aexit__(None)
            break
    for at in (1, 2, 3):
        store = await aiovec.connect(target)
        await store.insert(TABLE, [row(f"{at}", at)])
        await stopped_at(store.close(), at, STOPS["once"])
        await store.close()
    # A restore could not replace a store that is still open.
    await aiovec.restore(tmp_path / "copy", target, overwrite=True)
