"""Limits of requests, and calls whose clients have left."""

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
    """Searches that wait until the test lets them end."""

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


LARGE = [b" " * (MIB // 4)] * 5
LENGTHS: list[tuple[list[bytes], str | None, int]] = [
    # The parts of a body, the length that it states, and the status.
    ([BODY], "abc", 400), ([BODY], "1e3", 400), ([BODY], "9" * 5000, 400),
    ([], str(MIB + 1), 413), ([], str(10**30), 413), (LARGE, None, 413), (LARGE, "100", 413),
]  # fmt: skip


async def test_a_body_that_is_too_long_is_refused_at_once(held: Held) -> None:
    app = held.app()
    for parts, length, status in LENGTHS:
        headers = [] if length is None else [("content-length", length)]
        connection = Connection(app, "POST", SEARCH, parts, ends=False, headers=headers)
        assert await connection.status() == status, length
        assert json.loads(b"".join(connection.body))["status"] == status
    assert not held.begun.is_set()


async def test_a_body_that_does_not_go_on_is_cut_off(held: Held) -> None:
    app = held.app(receive_timeout=0.1)
    stalled = Connection(app, "POST", SEARCH, [BODY[:5]], ends=False)
    async with asyncio.timeout(30):
        assert await stalled.status() == 408
    assert "16 KiB a second" in json.loads(b"".join(stalled.body))["detail"]
    assert not held.begun.is_set()


async def test_unfinished_bodies_together_are_bounded(held: Held) -> None:
    app = held.app()
    large = [b" " * (MIB - 100)]
    waiting = [Connection(app, "POST", SEARCH, [*large, b""], ends=False) for _ in range(2)]
    await until(lambda: not any(connection._parts for connection in waiting))
    refused = Connection(app, "POST", SEARCH, large)
    assert await refused.status() == 503
    assert refused.headers["retry-after"] == "1"
    for connection in waiting:
        connection.gone.set()
        assert await connection.status() == 0
    held.let.set()
    assert await Connection(app, "POST", SEARCH, [BODY + large[0]]).status() == 200


async def test_a_call_above_max_calls_gets_429(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiovec_server.limits._QUEUE_SECONDS", 0.2)
    app = held.app(max_calls=1)
    first = Connection(app, "POST", SEARCH, [BODY])
    await held.begun.wait()
    refused = Connection(app, "POST", SEARCH, [BODY])
    assert await Connection(app, "GET", "/health").status() == 200  # it needs no turn
    assert (await refused.status(), refused.headers["retry-after"]) == (429, "1")  # no turn in time
    held.let.set()
    assert await first.status() == 200
    assert await Connection(app, "POST", SEARCH, [BODY]).status() == 200


async def test_a_call_is_cancelled_when_its_client_leaves_or_its_time_is_up(held: Held) -> None:
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


async def test_a_read_that_outlives_its_client_takes_no_room_of_later_answers(held: Held) -> None:
    """A read that other calls share continues in its thread."""
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
        await asyncio.to_thread(checks[number], MIB)  # no error, as other calls may share the read


async def test_a_call_cancelled_by_the_app_around_it_is_not_answered(held: Held) -> None:
    """The app around this one has set the deadline, and answers."""
    connection = Connection(held.app(), "POST", SEARCH, [BODY])
    await held.begun.wait()
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task
    assert held.cancelled == 1
    assert not connection.sent


async def test_unexpected_error_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
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


async def test_concurrent_health_checks_share_one_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    pings, let, clock = 0, asyncio.Event(), time.monotonic
    failure: BaseException | None = None

    async def ping() -> None:
        nonlocal pings
        pings += 1
        await let.wait()
        if failure:
            raise failure

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, ping=ping))  # type: ignore[arg-type]
        async with serving(app) as client:
            waiting = []
            for later in (0, 5, 10):
                monkeypatch.setattr(time, "monotonic", lambda later=later: clock() + later)
                waiting += [asyncio.ensure_future(client.get("/health")) for _ in range(10)]
                await asyncio.sleep(0.01)
            waiting.pop(0).cancel()  # the others still wait for the ping
            assert pings == 1
            let.set()
            assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
            failure = aiovec.StoreBusyError("disk", 1.0)
            await client.problem("GET", "/health", 503)
            assert pings == 2


class Trickling(Connection):
    """A client whose body comes byte by byte, and never ends."""

    async def _receive(self) -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}


async def test_a_body_that_trickles_in_is_refused(held: Held) -> None:
    trickling = Trickling(held.app(receive_timeout=1), "POST", SEARCH, [b""], ends=False)
    async with asyncio.timeout(60):
        assert await trickling.status() == 408
