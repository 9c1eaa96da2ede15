"""Answers that are lost, late or refused for now: what is asked for again, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.contract.remote_server import Server
from tests.harness.cases import case
from tests.harness.proxy import Meddling, Proxy, Request
from tests.harness.values import DIM, SMALL, ids_of, small_rows
from tests.remote.answers import http, problem
from tests.remote.conftest import Opens

import aiovec
from aiovec import VectorStore
from aiovec.errors import (
    AiovecError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreMovedError,
    TableNotFoundError,
)

Call = Callable[[VectorStore], Awaitable[Any]]
VECTOR = [1.0] * DIM

# Writes that, done a second time, would fail, or give or change something else.
WRITES: dict[str, tuple[Call, Any]] = {
    "insert": (lambda s: s.insert("notes", small_rows(3, start=20)), 3),
    "skip": (lambda s: s.insert("notes", small_rows(3, start=21), on_conflict="skip"), 1),
    "upsert": (lambda s: s.upsert("notes", small_rows(3, start=8)), 3),
    "update": (lambda s: s.update("notes", {"name": "new"}, where="year < 4"), 4),
    "set_vectors": (lambda s: s.set_vectors("notes", ["r0001", "r0099"], [VECTOR] * 2), 1),
    "delete": (lambda s: s.delete("notes", ["r0001", "r0099"]), 1),
    "delete_where": (lambda s: s.delete("notes", where="year < 4"), 3),
    "create_table": (lambda s: s.create_table("more", SMALL), SMALL),
    "rename_table": (lambda s: s.rename_table("more", "most"), None),
    "drop_table": (lambda s: s.drop_table("most"), None),
    "add_field": (lambda s: s.add_field("notes", "lang", str), None),
    "rename_field": (lambda s: s.rename_field("notes", "lang", "tongue"), None),
    "drop_field": (lambda s: s.drop_field("notes", "tongue"), None),
    "create_field_index": (lambda s: s.create_field_index("notes", "year", "btree"), None),
    "drop_field_index": (lambda s: s.drop_field_index("notes", "year"), None),
}
BUSY = problem(503, "busy", error="StoreBusyError", headers="retry-after: 0\r\n")
FULL = problem(429, "too many calls", headers="retry-after: 0\r\n")
GATEWAY = http(b"<html>", status=502, kind="text/html")


async def test_a_write_whose_answer_is_lost_is_done_once_under_its_key(
    proxy: Proxy, opens: Opens
) -> None:
    async with opens(reconnect_timeout=60.0) as store:
        for name, (call, outcome) in WRITES.items():
            with case(name):
                proxy.cut(0)
                first = len(proxy.requests)
                assert await call(store) == outcome
                keys = [one.headers.get("idempotency-key") for one in proxy.requests[first:]]
                assert len(keys) >= 2
                assert len(set(filter(None, keys))) == 1
        for cut in (1, 30, 100):  # some of it came
            with case(cut):
                proxy.cut(cut)
                assert await store.insert("notes", small_rows(1, start=100 + cut)) == 1
        assert await store.tables() == ["notes"]
        assert await store.count("notes") == 10 + 3 + 1 + 1 - 1 - 3 + 3


async def test_an_outcome_that_nobody_tells_is_unknown(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:
        lost = [0] * 1000
        proxy.cut(*lost)
        with pytest.raises(OutcomeUnknownError) as caught:
            await store.delete("notes", ["r0001"])
        assert caught.value.target == proxy.url
        proxy.disarm()
        assert await store.count("notes") == 9
        proxy.cut(0)
        proxy.answer(*[BUSY] * 1000)
        with pytest.raises(OutcomeUnknownError):
            await store.delete("notes", ["r0002"])
        proxy.disarm()
        assert await store.count("notes") == 8


async def test_a_lost_answer_of_a_store_without_keys(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    async with Proxy(server.url("lancedb", tmp_path)) as proxy, aiovec.connect(proxy.url) as store:
        await store.create_table("notes", SMALL)
        assert await store.count("notes") == 0  # so that the next request is the insert
        proxy.cut(0)
        with pytest.raises(OutcomeUnknownError, match="requested before") as caught:
            await store.insert("notes", small_rows(2))
        assert caught.value.target == proxy.url
        assert await store.count("notes") == 2
    server.forget()


async def test_a_read_is_asked_for_again(proxy: Proxy, opens: Opens) -> None:
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


async def test_limits_of_the_server_are_waited_for_until_busy_timeout(
    proxy: Proxy, opens: Opens
) -> None:
    async with opens(busy_timeout=60.0) as store:
        proxy.answer(FULL, BUSY)
        assert await store.delete("notes", ["r0001"]) == 1
    later = problem(429, "too many", headers="retry-after: 99\r\n")
    async with aiovec.connect(proxy.url) as store:
        await store.insert("notes", small_rows(1, start=1))
    async with opens() as store:
        for answer in (BUSY, later):
            proxy.answer(*[answer] * 1000)
            with pytest.raises(StoreBusyError):
                await store.delete("notes", ["r0001"])
            proxy.disarm()
        assert await store.count("notes") == 10  # nothing was done


async def test_a_server_that_fails_or_is_late_leaves_the_outcome_of_writes_unknown(
    proxy: Proxy, opens: Opens
) -> None:
    late = problem(504, "took more than 1 s")
    async with opens() as store:
        proxy.answer(late)
        with pytest.raises(OutcomeUnknownError, match="more than 1 s"):
            await store.delete("notes", ["r0001"])
        proxy.answer(late)
        with pytest.raises(StoreBusyError, match="more than 1 s"):
            await store.count("notes")
        proxy.answer(problem(500, "see the log"))
        with pytest.raises(AiovecError, match="see the log"):
            await store.count("notes")
        assert await store.count("notes") == 10


async def test_errors_are_those_of_the_server(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:
        with pytest.raises(TableNotFoundError) as caught:
            await store.count("none")
        assert caught.value.table == "none"
        proxy.answer(problem(503, "moved", error="StoreMovedError"))
        with pytest.raises(StoreMovedError):
            await store.count("notes")


async def test_a_silent_server_is_not_waited_for_again(proxy: Proxy, opens: Opens) -> None:
    async with opens(idle_timeout=1.0, reconnect_timeout=60.0) as store:
        proxy.hold()
        first = len(proxy.requests)
        with pytest.raises(AiovecError, match="did not answer"):
            await store.count("notes")
        assert len(proxy.requests) == first + 1


async def test_an_answer_that_drips_ends_in_time(proxy: Proxy, opens: Opens) -> None:
    """Each byte comes long before idle_timeout."""
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
        with pytest.raises(OutcomeUnknownError, match="too slowly"):
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
    with pytest.raises(StoreClosedError):
        await reading


async def test_when_a_cancelled_write_returns_it_has_ended(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:
        for number, done in ((50, True), (60, False)):
            came = proxy.hold(ask=done)
            writing = asyncio.ensure_future(store.insert("notes", small_rows(1, start=number)))
            await came.wait()
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert await store.exists("notes", [f"r{number:04}"]) == (
                {f"r{number:04}"} if done else set()
            )
        assert await store.insert("notes", small_rows(1, start=60)) == 1


async def test_an_export_goes_on_behind_a_cut_and_fails_in_the_end(
    proxy: Proxy, opens: Opens
) -> None:
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
