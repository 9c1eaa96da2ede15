"""Reads with lost, late, slow or temporarily refused responses; exports; closed connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from tests.harness.proxy import Meddling, Proxy, Request
from tests.harness.values import ids_of
from tests.remote.answers import http, problem
from tests.remote.conftest import Opens

import aiovec
from aiovec import AiovecError, StoreBusyError, StoreMovedError, TableNotFoundError

BUSY = problem(503, "busy", error="StoreBusyError", headers="retry-after: 0\r\n")
FULL = problem(429, "too many calls", headers="retry-after: 0\r\n")
GATEWAY = http(b"<html>", status=502, kind="text/html")


async def test_a_read_is_retried_until_its_timeout(proxy: Proxy, opens: Opens) -> None:
    async with opens(reconnect_timeout=60.0, busy_timeout=60.0) as store:
        for cut in (0, 1, 40, 150):
            proxy.cut(cut)
            assert ids_of(await store.get("notes", ["r0001"])) == ["r0001"]
        proxy.answer(GATEWAY, BUSY, FULL)
        assert await store.count("notes") == 10
    async with opens() as store:
        proxy.cut(*[0] * 1000)
        with pytest.raises(AiovecError, match="did not answer"):
            await store.count("notes")


async def test_a_read_raises_the_error_that_the_server_names(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:
        for answer, error, words in (
            (problem(504, "took more than 1 s"), StoreBusyError, "more than 1 s"),
            (problem(500, "see the log"), AiovecError, "see the log"),
            (problem(503, "moved", error="StoreMovedError"), StoreMovedError, "moved"),
        ):
            proxy.answer(answer)
            with pytest.raises(error, match=words):
                await store.count("notes")
        with pytest.raises(TableNotFoundError) as caught:
            await store.count("none")
        assert caught.value.table == "none"


async def test_a_silent_server_is_asked_once_only(proxy: Proxy, opens: Opens) -> None:
    async with opens(idle_timeout=1.0, reconnect_timeout=60.0) as store:
        proxy.hold()
        first = len(proxy.requests)
        with pytest.raises(AiovecError, match="did not answer"):
            await store.count("notes")
        assert len(proxy.requests) == first + 1


async def test_an_answer_that_drips_ends_at_the_timeout(proxy: Proxy, opens: Opens) -> None:
    """This holds although each byte arrives within ``idle_timeout``."""
    whole = http(b'{"count": 10}' + b" " * 100_000)

    def dripping(begin: int) -> Meddling:
        async def drip(_: Request, ask: object, client: asyncio.StreamWriter) -> bool:
            client.write(whole[:begin])
            with suppress(OSError):  # the client leaves
                for n in range(begin, len(whole)):
                    client.write(whole[n : n + 1])
                    await client.drain()
                    await asyncio.sleep(0.05)
            await proxy.closed.wait()
            return False

        return drip

    async with opens(idle_timeout=1.0, reconnect_timeout=60.0) as store:
        for begin in (len(whole) - 100_000, 20):  # its body; its head
            proxy.arm(dripping(begin))
            with pytest.raises(AiovecError, match="too slowly"):
                await store.count("notes")
            await proxy.closed.wait()
            proxy.closed.clear()
        proxy.arm(dripping(20))
        with pytest.raises(aiovec.OutcomeUnknownError, match="too slowly"):
            await store.delete("notes", ["r0001"])
        proxy.answer(whole)
        assert await store.count("notes") == 10


async def test_a_cancelled_or_closed_read_closes_its_connection(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:
        came = proxy.hold()
        reading = asyncio.ensure_future(store.count("notes"))
        await came.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await proxy.closed.wait()
        proxy.closed.clear()
        came = proxy.hold()
        reading = asyncio.ensure_future(store.count("notes"))
        await came.wait()
    with pytest.raises(aiovec.StoreClosedError):
        await reading


async def test_export_continues_after_cut_but_not_after_many(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:

        async def exported(**options: Any) -> list[str]:
            batches = [batch async for batch in store.export("notes", batch_size=4, **options)]
            cursors.append(batches[0].schema.metadata[b"aiovec.cursor"])
            return [id for batch in batches for id in batch.column("id").to_pylist()]

        cursors: list[bytes] = []
        whole = await exported()
        assert whole == [f"r{n:04}" for n in range(10)]
        assert await exported(after=cursors[0]) == whole[4:]
        for cut in (0, 300):
            proxy.cut(cut)
            assert await exported() == whole
        proxy.cut(*[300] * 1000)
        with pytest.raises(AiovecError):
            await exported()
        proxy.disarm()
        export = store.export("notes", batch_size=4)
        assert (await anext(export)).num_rows == 4
        await export.aclose()
        assert await store.count("notes") == 10
