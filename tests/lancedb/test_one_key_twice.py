"""A client that repeats a write while the first one is under way, where no keys are kept."""

from __future__ import annotations

import asyncio
import time
from asyncio import ensure_future, sleep
from contextlib import suppress

from aiovec import Schema, VectorStore, connect
from aiovec.backend.conditions import Conditions, under
from aiovec.backend.keys import WriteKey


async def upsert(store: VectorStore, id: str) -> None:
    with under(Conditions(key=WriteKey("key", b"digest"))):
        await store.upsert("notes", [{"id": id, "embedding": [1, 2]}])


async def test_a_cancelled_write_has_settled_when_it_returns() -> None:
    async with connect("memory://") as store:
        await store.create_table("notes", Schema(2))
        amid = 0
        for n in range(300):
            began = time.monotonic()
            await asyncio.gather(upsert(store, "a"), upsert(store, "b"))
            took = time.monotonic() - began
            # Both calls are in one commit. The second is cancelled at one moment or another of it.
            first = ensure_future(upsert(store, f"first{n}"))
            again = ensure_future(upsert(store, f"again{n}"))
            await sleep(took * (n % 20) / 20)
            again.cancel()
            with suppress(asyncio.CancelledError):
                await again
            await answered(first)
            over = first.done()
            await first
            done = await store.count("notes", f"id = 'again{n}'") == 1
            assert over or not done, "the call returned before its commit was over"
            amid += done and again.cancelled()
            if amid == 5:
                return
    raise AssertionError("no call was cancelled amid its commit")


async def answered(task: asyncio.Task[None]) -> None:
    """Give a call whose commit is over the rounds of the loop in which it returns."""
    for _ in range(20):
        if not task.done():
            await sleep(0)
