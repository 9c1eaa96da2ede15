"""Exports that are open at once: each holds a snapshot and some rows, so there is a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import aiovec
from aiovec import Schema, StoreBusyError, StoreClosedError, VectorStore
from aiovec._core.connect import Opening

TARGETS = {"sqlite": "{}/notes.db", "lancedb": "lancedb://{}/notes"}

pytestmark = pytest.mark.parametrize("backend", TARGETS)


def opened(folder: Path, backend: str, busy_timeout: float) -> Opening:
    config = folder / "aiovec.toml"
    config.write_text(f"[retrieval.{backend}]\nbusy_timeout = {busy_timeout}\n")
    return aiovec.connect(TARGETS[backend].format(folder), config=config)


async def nine_exports(store: VectorStore) -> list[AsyncGenerator[pa.RecordBatch, None]]:
    """Of which eight are read."""
    await store.create_table("t", Schema(8))
    ids = [str(n) for n in range(200)]
    await store.insert("t", {"id": ids, "embedding": np.ones((200, 8))})
    exports = [store.export("t", batch_size=10) for _ in range(9)]
    for export in exports[:8]:
        assert (await anext(export)).num_rows == 10
    return exports


async def test_a_ninth_waits_for_its_turn(tmp_path: Path, backend: str) -> None:
    async with opened(tmp_path, backend, 60) as store:
        exports = await nine_exports(store)
        ninth = asyncio.ensure_future(anext(exports[8]))
        done, _ = await asyncio.wait({ninth}, timeout=0.3)
        assert not done
        assert await store.count("t") == 200
        await exports[0].aclose()
        assert (await ninth).num_rows == 10


async def test_who_waits_and_is_cancelled_twice_keeps_nobody_waiting(
    tmp_path: Path, backend: str
) -> None:
    async with opened(tmp_path, backend, 60) as store:
        exports = await nine_exports(store)
        left = [asyncio.ensure_future(anext(store.export("t"))) for _ in range(4)]
        last = asyncio.ensure_future(anext(exports[8]))
        await asyncio.wait({last}, timeout=0.1)
        for task in left:
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait(left)
        assert all(task.cancelled() for task in left)
        await exports[0].aclose()
        assert (await asyncio.wait_for(last, 20)).num_rows == 10


async def test_a_ninth_is_told_what_it_waited_for(tmp_path: Path, backend: str) -> None:
    async with opened(tmp_path, backend, 0.2) as store:
        exports = await nine_exports(store)
        with pytest.raises(StoreBusyError, match="8 exports are open"):
            await anext(exports[8])
        assert len([batch async for batch in exports[0]]) == 19


async def test_a_ninth_ends_with_the_store(tmp_path: Path, backend: str) -> None:
    async with opened(tmp_path, backend, 60) as store:
        exports = await nine_exports(store)
        ninth = asyncio.ensure_future(anext(exports[8]))
        await asyncio.wait({ninth}, timeout=0.1)
        await store.close()
        with pytest.raises(StoreClosedError):
            await asyncio.wait_for(ninth, 20)
