"""Limits of requests, and calls whose clients disconnect: apps that do what a test needs."""

from __future__ import annotations

import ast
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

import aiovec
import aiovec_remote
from aiovec.backend import ServerSettings
from aiovec_server import create_app
from aiovec_server import limits as limits_module
from aiovec_server.access import LONG_CALLS
from aiovec_server.limits import Limits, Turns

App = Callable[[Any, Any, Any], Awaitable[None]]
MIB = 1024 * 1024
SECONDS = 20


class Connection:
    """One request, as a server gives it to the app."""

    def __init__(
        self,
        app: App,
        method: str = "POST",
        path: str = "/tables/notes/search",
        headers: dict[str, str] | None = None,
        *,
        length: int | None = None,
        chunked: bool = False,
    ) -> None:
        named = {"host": "localhost", **(headers or {})}
        if length is not None:
            named["content-length"] = str(length)
        if chunked:
            named["transfer-encoding"] = "chunked"
        self.scope: dict[str, Any] = {
            "type": "http", "http_version": "1.1", "method": method, "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "asgi": {"version": "3.0"},
            "headers": [(n.encode(), v.encode()) for n, v in named.items()],
        }  # fmt: skip
        self.sent: list[dict[str, Any]] = []
        self.began = asyncio.Event()
        self.gone = asyncio.Event()
        self.taken = 0
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if length is None and not chunked:
            self.feed(b"", more=False)
        self.task = asyncio.ensure_future(app(self.scope, self._receive, self._send))

    def feed(self, body: bytes, *, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def disconnect(self) -> None:
        self.gone.set()

    async def _receive(self) -> dict[str, Any]:
        getting = asyncio.ensure_future(self._messages.get())
        leaving = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait({getting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                self.taken += 1
                return getting.result()
            return {"type": "http.disconnect"}
        finally:
            getting.cancel()
            leaving.cancel()

    async def _send(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)
        self.began.set()

    async def answered(self) -> int:
        await asyncio.wait_for(self.task, SECONDS)
        return self.status

    @property
    def status(self) -> int:
        starts = [m for m in self.sent if m["type"] == "http.response.start"]
        assert len(starts) <= 1
        return int(starts[0]["status"]) if starts else 0

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def whole(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", False)


def limited(app: App, **settings: Any) -> Limits:
    return Limits(app, ServerSettings(**{"max_body_mb": 1, **settings}))


class Calls:
    """An app: reads the body, waits until it may go on, answers."""

    def __init__(self, *, read: bool = True) -> None:
        self.go_on = asyncio.Event()
        self.running = self.most = 0
        self.ended: list[str] = []
        self._read = read

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        size = 0
        try:
            while self._read:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.ended.append("disconnect")
                    return
                size += len(message["body"])
                if not message["more_body"]:
                    break
            await self.go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": str(size).encode()})
            self.ended.append("answered")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        finally:
            self.running -= 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "_LINGER_SECONDS", 0.05)
    monkeypatch.setattr(limits_module, "_QUEUE_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
async def test_the_length_tells_that_a_body_is_too_large() -> None:
    calls = Calls()
    for length in (MIB + 1, 10**30):
        connection = Connection(limited(calls), length=length)
        assert await connection.answered() == 413
        assert connection.headers[b"connection"] == b"close"
        assert json.loads(connection.body)["status"] == 413
        assert connection.whole
    assert calls.most == 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("length", [None, 100])
async def test_a_body_that_grows_too_large(length: int | None) -> None:
    """Also where its length was told too small, which a server's parser refuses before."""
    calls = Calls()
    connection = Connection(limited(calls), length=length, chunked=length is None)
    for _ in range(5):
        connection.feed(b"x" * (MIB // 4))
    assert await connection.answered() == 413
    assert calls.ended == []


async def test_the_largest_body() -> None:
    calls = Calls()
    calls.go_on.set()
    connection = Connection(limited(calls), chunked=True)
    connection.feed(b"x" * MIB)
    connection.feed(b"", more=False)
    assert await connection.answered() == 200
    assert connection.body == str(MIB).encode()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": "-1"}, {"content-length": "+5"}, {"content-length": "5, 5"},
        {"content-length": "0x5"}, {"content-length": "5_0"}, {"content-length": ""},
        {"content-length": "5", "transfer-encoding": "chunked"},
        {"transfer-encoding": "identity, chunked"}, {"transfer-encoding": "gzip"},
    ],
)  # fmt: skip
async def test_a_length_that_can_be_read_in_two_ways(headers: dict[str, str]) -> None:
    calls = Calls()
    assert await Connection(limited(calls), headers=headers).answered() == 400
    twice = Connection(limited(calls), length=5)
    twice.scope["headers"].append((b"content-length", b"5"))
    assert await twice.answered() == 400
    assert calls.most == 0


@pytest.mark.usefixtures("quick")
async def test_a_body_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    connection = Connection(limited(calls, receive_timeout=0.1), chunked=True)
    for _ in range(50):
        connection.feed(b"x")
        await asyncio.sleep(0.01)
        if connection.task.done():
            break
    assert await connection.answered() == 408
    assert connection.headers[b"connection"] == b"close"


@pytest.mark.usefixtures("quick")
async def test_bodies_of_many_requests_have_a_bound_together() -> None:
    calls = Calls()
    app = limited(calls)
    connections = [Connection(app, length=MIB) for _ in range(3)]
    for connection in connections:
        connection.feed(b"x" * MIB, more=False)
    assert await connections[2].answered() == 503
    assert connections[2].headers[b"retry-after"] == b"1"
    calls.go_on.set()
    assert [await one.answered() for one in connections[:2]] == [200, 200]
    again = Connection(app, length=MIB)
    again.feed(b"x" * MIB, more=False)
    assert await again.answered() == 200  # there is room again


@pytest.mark.usefixtures("quick")
async def test_calls_at_once() -> None:
    calls = Calls()
    app = limited(calls, max_calls=2)
    connections = [Connection(app, "GET") for _ in range(80)]
    refused = connections[2 + limits_module._QUEUE :]
    assert {await one.answered() for one in refused} == {429}
    assert {one.headers[b"retry-after"] for one in refused} == {b"1"}
    assert calls.running == 2
    health = Connection(app, "GET", "/health")
    await asyncio.sleep(0.01)
    assert calls.running == 3  # it answers all the same
    waiting = connections[2 : 2 + limits_module._QUEUE]
    assert {await one.answered() for one in waiting} == {429}  # no turn came in time
    calls.go_on.set()
    assert [await one.answered() for one in [*connections[:2], health]] == [200] * 3
    assert await Connection(app, "GET").answered() == 200
    assert calls.most == 3


async def test_calls_wait_for_their_turn_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "_QUEUE_SECONDS", SECONDS)
    calls = Calls()
    app = limited(calls, max_calls=1)
    connections = [Connection(app, "GET") for _ in range(20)]
    await asyncio.sleep(0.01)
    calls.go_on.set()
    assert {await one.answered() for one in connections} == {200}
    assert calls.most == 1


async def test_a_turn_is_given_back_whatever_happens() -> None:
    turns = Turns(1, 2)
    assert await turns.take()
    waiting = [asyncio.ensure_future(turns.take()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not await turns.take()  # no room to wait
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    turns.give()
    assert await waiting[1]
    again = asyncio.ensure_future(turns.take())
    await asyncio.sleep(0)
    turns.give()
    again.cancel()  # it has its turn, and has not seen it
    await asyncio.wait([again])
    assert await turns.take()


async def test_a_call_that_takes_too_long() -> None:
    calls = Calls()
    app = limited(calls, timeout=0.1, max_calls=1)
    connection = Connection(app, length=2)
    connection.feed(b"{}", more=False)
    assert await connection.answered() == 504
    assert calls.ended == ["cancelled"]
    assert json.loads(connection.body)["status"] == 504
    calls.go_on.set()
    assert await Connection(app, "GET").answered() == 200
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def test_a_long_call_of_a_remote_backend_is_not_late() -> None:
    calls = Calls(read=False)
    app = limited(calls, timeout=0.05)
    late = Connection(app, path="/backend/search")
    build = Connection(app, path="/backend/create_index")
    assert await late.answered() == 504
    answered = asyncio.ensure_future(build.answered())
    await asyncio.sleep(0.2)
    calls.go_on.set()
    assert await answered == 200


def test_the_long_calls_are_those_that_a_remote_backend_waits_for() -> None:
    text = (Path(aiovec_remote.__file__).parent / "backend.py").read_text(encoding="utf-8")
    calls = [
        argument.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and any(one.arg == "long" for one in node.keywords)
        for argument in node.args
        if isinstance(argument, ast.Constant)
    ]
    assert set(calls) == LONG_CALLS


async def test_a_call_that_reads_no_body_is_late_too() -> None:
    calls = Calls(read=False)
    connection = Connection(limited(calls, timeout=0.1), length=2)
    assert await connection.answered() == 504


async def test_a_call_that_ends_its_work_before_it_ends() -> None:
    """As one that must not leave a thread behind."""

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(SECONDS)
        finally:
            await asyncio.sleep(0.1)

    assert await Connection(limited(stubborn, timeout=0.1), "GET").answered() == 504


async def test_an_answer_in_parts_may_take_longer() -> None:
    pauses: list[float] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        async def parts() -> Any:
            for _ in range(10):
                before = time.monotonic()
                try:
                    yield b"x"
                    await asyncio.sleep(0.05)
                finally:
                    pauses.append(time.monotonic() - before)

        await StreamingResponse(parts())(scope, receive, send)

    for _ in range(20):
        pauses.clear()
        connection = Connection(limited(stream, timeout=0.2), "GET")
        status = await connection.answered()
        if max(pauses, default=0.2) < 0.2:  # the machine let each part come in time
            break
    assert (status, connection.body, connection.whole) == (200, b"x" * 10, True)


async def test_an_answer_in_parts_that_stops_is_broken_off() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(SECONDS)

    connection = Connection(limited(stream, timeout=0.1), "GET")
    assert await connection.answered() == 200
    assert not connection.whole


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("length", [None, 2])
async def test_a_client_that_disconnects_cancels_its_call(early: bool, length: int | None) -> None:
    calls = Calls()
    app = limited(calls, max_calls=1)
    connection = Connection(app, length=length)
    if length:
        connection.feed(b"{}", more=False)
    await asyncio.sleep(0.001 if early else 0.1)
    connection.disconnect()
    assert await connection.answered() == 0
    assert calls.ended == ["cancelled"]
    calls.go_on.set()
    assert await Connection(app, "GET").answered() == 200


async def test_a_client_that_disconnects_while_it_sends() -> None:
    calls = Calls()
    connection = Connection(limited(calls), length=10)
    connection.feed(b"x")
    await asyncio.sleep(0.01)
    connection.disconnect()
    assert await connection.answered() == 0
    assert calls.ended == ["disconnect"]


async def test_a_client_that_disconnects_while_it_waits_for_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "_QUEUE_SECONDS", SECONDS)
    calls = Calls()
    app = limited(calls, max_calls=1)
    first, second = Connection(app, "GET"), Connection(app, "GET")
    await asyncio.sleep(0.1)
    second.disconnect()
    assert await second.answered() == 0
    calls.go_on.set()
    assert await first.answered() == 200


async def test_a_client_that_disconnects_ends_a_stream() -> None:
    ended = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        async def parts() -> Any:
            try:
                while True:
                    yield b"x"
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        await StreamingResponse(parts())(scope, receive, send)

    connection = Connection(limited(stream), "GET")
    await connection.began.wait()
    await asyncio.sleep(0.1)
    connection.disconnect()
    await connection.answered()
    await asyncio.wait_for(ended.wait(), SECONDS)


async def test_a_server_that_stops_cancels_as_ever() -> None:
    calls = Calls()
    for wait in (0.0, 0.1):
        connection = Connection(limited(calls), "GET")
        await asyncio.sleep(wait)
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task
        assert connection.status == 0


async def test_both_at_once() -> None:
    """A server that stops as the client goes: the server's cancellation is not lost."""
    calls = Calls()
    connection = Connection(limited(calls), "GET")
    await asyncio.sleep(0.1)
    connection.disconnect()
    for _ in range(4):
        await asyncio.sleep(0)
    connection.task.cancel()
    done, _ = await asyncio.wait([connection.task], timeout=SECONDS)
    assert done


async def test_whoever_catches_the_refusal_does_not_answer_for_it() -> None:
    async def catching(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Request(scope, receive).body()
        except Exception:  # noqa: BLE001 - as frameworks do that tell of a body they cannot read
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"cannot read"})

    connection = Connection(limited(catching), chunked=True)
    connection.feed(b"x" * (MIB + 1), more=False)
    assert await connection.answered() == 413
    assert b"cannot read" not in connection.body


async def test_a_body_without_its_length_in_http_2() -> None:
    calls = Calls()
    calls.go_on.set()
    connection = Connection(limited(calls), chunked=True)
    connection.scope["http_version"] = "2"
    connection.scope["headers"] = [(b"host", b"localhost")]
    connection.feed(b"12345", more=False)
    assert await connection.answered() == 200
    assert connection.body == b"5"


async def test_the_stores_call_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole app: the search of a client that has gone, and one that takes too long."""
    ended: list[str] = []
    began = asyncio.Event()

    async def search(*_: Any, **__: Any) -> Any:
        began.set()
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2))
        monkeypatch.setattr(store, "search", search)
        body = b'{"vector": [1, 0]}'
        for gone in (True, False):
            settings = ServerSettings(access_log=False, timeout=SECONDS if gone else 1.0)
            app = create_app(store=store, settings=settings)
            began.clear()
            headers = {"content-type": "application/json"}
            connection = Connection(app, headers=headers, length=len(body))
            connection.feed(body, more=False)
            await asyncio.wait_for(began.wait(), SECONDS)
            if gone:
                connection.disconnect()
            assert await connection.answered() == (0 if gone else 504)
        assert ended == ["cancelled"] * 2
        assert await store.count("notes") == 0


async def test_an_error_that_nobody_expected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def search(*_: Any, **__: Any) -> Any:
        raise RuntimeError("/srv/secret")

    async with aiovec.connect(":memory:") as store:
        monkeypatch.setattr(store, "search", search)
        app = create_app(store=store, settings=ServerSettings(access_log=False))
        body = b'{"vector": [1, 0]}'
        headers = {"content-type": "application/json", "x-request-id": "mine"}
        connection = Connection(app, headers=headers, length=len(body))
        connection.feed(body, more=False)
        assert await connection.answered() == 500
    assert b"secret" not in connection.body
    assert json.loads(connection.body)["status"] == 500
    assert connection.headers[b"x-request-id"] == b"mine"
    (record,) = [r for r in caplog.records if r.name == "aiovec.server"]
    assert "mine" in record.getMessage()
    assert record.exc_info is not None
