"""One store for plain and for asynchronous code."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aiovec import Schema, StoreClosedError, TableNotFoundError, sync

SCHEMA = Schema(2, fields={"n": int})


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": str(n), "embedding": [1.0, n], "n": n} for n in numbers]


@pytest.fixture
def store() -> Any:
    with sync.connect(":memory:") as opened:
        opened.create_table("notes", SCHEMA)
        yield opened


def test_a_store_in_memory_is_awaited_and_called(store: sync.Store) -> None:
    store.insert("notes", rows(1))

    async def use(n: int) -> int:
        await sync.aio(store, lambda s: s.insert("notes", rows(n)))
        hits = await sync.aio(store, lambda s: s.search("notes", [1.0, n], limit=1))
        assert [hit.id for hit in hits] == [str(n)]
        with pytest.raises(TableNotFoundError):
            await sync.aio(store, lambda s: s.count("absent"))
        return await sync.aio(store, lambda s: s.count("notes"))

    assert asyncio.run(use(2)) == 2
    assert asyncio.run(use(3)) == 3  # on another loop
    assert store.count("notes") == 3


def test_several_loops_at_once(store: sync.Store) -> None:
    async def use(first: int) -> None:
        calls = (
            sync.aio(store, lambda s, n=n: s.insert("notes", rows(n)))
            for n in range(first, first + 20)
        )  # type: ignore[misc]
        assert await asyncio.gather(*calls) == [1] * 20

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(asyncio.run, use(100 * n)) for n in range(4)]:
            done.result()
        assert store.count("notes") == 80


def test_the_loop_of_the_caller_goes_on(store: sync.Store) -> None:
    async def use() -> None:
        gate = threading.Event()

        async def held(s: Any) -> int:
            await asyncio.to_thread(gate.wait, 20)
            return int(await s.count("notes"))

        call = asyncio.ensure_future(sync.aio(store, held))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not call.done()
        gate.set()
        assert await call == 0

    asyncio.run(use())


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_call_has_ended(store: sync.Store, times: int) -> None:
    async def use() -> None:
        events: list[str] = []
        began = threading.Event()

        async def slow(_: Any) -> None:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                events.append("over")

        call = asyncio.ensure_future(sync.aio(store, slow))
        await asyncio.to_thread(began.wait)
        for _ in range(times):
            call.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert events == ["over"] or times > 1

        number = 1_000
        for turns in range(30):
            number += 1
            call = asyncio.ensure_future(
                sync.aio(store, lambda s, n=number: s.insert("notes", rows(n)))  # type: ignore[misc]
            )
            for _ in range(turns % 5):
                await asyncio.sleep(0.0003)
            call.cancel()
            done = not (await asyncio.gather(call, return_exceptions=True))[0] or call.cancelled()
            there = await sync.aio(store, lambda s, n=number: s.exists("notes", n))  # type: ignore[misc]
            await asyncio.sleep(0.002)
            assert await sync.aio(store, lambda s, n=number: s.exists("notes", n)) == there  # type: ignore[misc]
            assert there or done

    asyncio.run(use())
    assert store.count("notes") <= 30


def test_a_closed_store_says_so(store: sync.Store) -> None:
    async def use() -> None:
        store.close()
        with pytest.raises(StoreClosedError):
            await sync.aio(store, lambda s: s.count("notes"))

    asyncio.run(use())


def test_a_call_within_a_call(store: sync.Store) -> None:
    async def inner(s: Any) -> int:
        return await sync.aio(store, lambda again: again.count("notes"))

    assert asyncio.run(sync.aio(store, inner)) == 0
