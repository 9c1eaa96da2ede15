"""Limits of requests, and calls whose clients are gone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.harness.waiting import until
from tests.server.apps import Connection, Wrapped, serving

import aiovec
from aiovec.backend.context import call_context
from aiovec.backend.server import ServerSettings
from aiovec_server import create_app

SEARCH = "/tables/notes/search"
BODY = b'{"vector": [1, 0]}'
MIB = 2**20


class Held:
    """Searches that end when they are let."""

    def __init__(self, store: aiovec.VectorStore) -> None:
        self.store: Any = Wrapped(store, search=self._search)
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.cancelled = 0
        self._search_of = store.search

    async def _search(self, *args: Any, **options: Any) -> Any:
        self.begun.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self._search_of(*args, **options)

    def app(self, **settings: Any) -> Any:
        self.begun.clear()
        chosen = ServerSettings(**{"access_log": False, "max_body_mb": 1, **settings})
        return create_app(store=self.store, settings=chosen)


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2))
        yield Held(store)


async def test_a_length_that_is_no_number(held: Held) -> None:
    for length in ("abc", "1e3", "9" * 5000):
        connection = Connection(
            held.app(), "POST", SEARCH, [BODY], headers=[("content-length", length)]
        )
        assert await connection.status() == 400, length[:10]


@pytest.mark.slow
async def test_a_body_that_is_too_large(held: Held) -> None:
    """By the length that it says, or by the bytes that come, of which no more are read."""
    app = held.app()
    large = [b" " * (MIB // 4)] * 5
    for parts, length in (([], str(MIB + 1)), ([], str(10**30)), (large, None), (large, "100")):
        headers = [] if length is None else [("content-length", length)]
        connection = Connection(app, "POST", SEARCH, parts, ends=False, headers=headers)
        assert await connection.status() == 413, length
        assert json.loads(b"".join(connection.body))["status"] == 413
    assert not held.begun.is_set()


async def test_bodies_of_many_requests_have_a_bound_together(held: Held) -> None:
    app = held.app()
    large = [b" " * (MIB - 100)]
    waiting = [Connection(app, "POST", SEARCH, [*large, b""], ends=False) for _ in range(2)]
    await until(lambda: not any(one._parts for one in waiting))
    refused = Connection(app, "POST", SEARCH, large)
    assert await refused.status() == 503
    assert refused.headers["retry-after"] == "1"
    for one in waiting:
        one.gone.set()
        assert await one.status() == 0
    held.let.set()
    assert await Connection(app, "POST", SEARCH, [BODY + large[0]]).status() == 200


async def test_calls_at_once(held: Held) -> None:
    app = held.app(max_calls=1)
    first = Connection(app, "POST", SEARCH, [BODY])
    await held.begun.wait()
    refused = Connection(app, "POST", SEARCH, [BODY])
    assert await Connection(app, "GET", "/health").status() == 200  # it answers all the same
    assert await refused.status() == 429  # it had no turn in time
    assert refused.headers["retry-after"] == "1"
    held.let.set()
    assert await first.status() == 200
    assert await Connection(app, "POST", SEARCH, [BODY]).status() == 200


async def test_the_call_of_a_client_that_is_gone_is_cancelled_and_so_is_a_late_one(
    held: Held,
) -> None:
    app = held.app(max_calls=1)
    connection = Connection(app, "POST", SEARCH, [BODY])
    await held.begun.wait()
    connection.gone.set()
    assert await connection.status() == 0
    assert held.cancelled == 1
    late = Connection(held.app(timeout=0.1), "POST", SEARCH, [BODY])
    assert await late.status() == 504
    assert json.loads(b"".join(late.body))["status"] == 504
    assert held.cancelled == 2
    held.let.set()
    assert await Connection(app, "POST", SEARCH, [BODY]).status() == 200  # its turn is free


async def test_what_a_call_reads_after_its_client_has_gone_takes_no_room_of_later_answers(
    held: Held,
) -> None:
    """A read whose rows others wait for continues in its thread."""
    app = held.app()
    checks: list[Any] = []

    async def search(*_: Any, **__: Any) -> Any:
        checks.append(call_context().check_bytes)
        await held.let.wait()

    held.store.search = search
    for number in range(5):
        connection = Connection(app, "POST", SEARCH, [BODY])
        await until(lambda number=number: len(checks) > number)
        connection.gone.set()
        assert await connection.status() == 0
        await asyncio.to_thread(checks[number], MIB)  # without an error: others wait for rows, too


async def test_a_call_that_is_cancelled_from_outside(held: Held) -> None:
    """The app around this one has set the deadline, and answers."""
    connection = Connection(held.app(), "POST", SEARCH, [BODY])
    await held.begun.wait()
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task
    assert held.cancelled == 1
    assert not connection.sent


async def test_an_error_that_nobody_expected(caplog: pytest.LogCaptureFixture) -> None:
    async def search(*_: Any, **__: Any) -> Any:
        raise RuntimeError("/srv/secret")

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, search=search))  # type: ignore[arg-type]
        async with serving(app) as client:
            headers = {"x-request-id": "mine"}
            answer = await client.post(SEARCH, json={"vector": [1, 0]}, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (500, 500)
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "mine"
    (record,) = [r for r in caplog.records if r.name == "aiovec.server"]
    assert "mine" in record.getMessage()
    assert record.exc_info is not None


# The health, which anyone may ask for


async def test_the_store_is_reached_once_a_second_however_many_ask_for_the_health() -> None:
    pings, begun, let = [], asyncio.Event(), asyncio.Event()

    async def ping() -> None:
        pings.append(1)
        begun.set()
        await let.wait()

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, ping=ping))  # type: ignore[arg-type]
        async with serving(app) as client:
            first = asyncio.ensure_future(client.get("/health"))
            others = [asyncio.ensure_future(client.get("/health")) for _ in range(30)]
            await begun.wait()
            first.cancel()  # the others wait for the ping on
            let.set()
            assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}
            assert len(pings) == 1


async def test_a_store_that_hangs_is_not_reached_again_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pings, let, clock = 0, asyncio.Event(), time.monotonic

    async def ping() -> None:
        nonlocal pings
        pings += 1
        await let.wait()

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, ping=ping))  # type: ignore[arg-type]
        async with serving(app) as client:
            waiting = []
            for later in (0, 5, 10):
                monkeypatch.setattr(time, "monotonic", lambda later=later: clock() + later)
                waiting.append(asyncio.ensure_future(client.get("/health")))
                await asyncio.sleep(0.01)
            assert pings == 1
            let.set()
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
            await client.ok("GET", "/health")
            assert pings == 2


async def test_the_health_of_a_store_that_cannot_be_reached() -> None:
    async def ping() -> None:
        raise aiovec.StoreBusyError("disk", 1.0)

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, ping=ping))  # type: ignore[arg-type]
        async with serving(app) as client:
            await client.problem("GET", "/health", 503)
