"""Connections, signals and the end of a server, with an app that does what a test needs."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.server.process import START, environment
from tests.waiting import until

from aiovec import ConfigError
from aiovec.backend import ServerSettings
from aiovec_server.connection import MAX_HEAD
from aiovec_server.running import HttpServer, unless
from aiovec_server.sockets import bind, is_loopback, resolve, url_of

CHUNK = b"x" * 65_536


class App:
    """Answers by path. ``ended`` says how the calls ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.go_on = asyncio.Event()
        self.entered = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.entered.set()
        try:
            if path == "/body":
                while (message := await receive())["type"] == "http.request":
                    if not message["more_body"]:
                        break
                self.ended.append(message["type"])
            elif path == "/leave":
                while (message := await receive())["type"] == "http.request":
                    pass
                self.ended.append(message["type"])
            elif path == "/wait":
                await self.go_on.wait()
                self.ended.append("answered")
            headers = [(b"Content-Length", b"2")] if path == "/length" else []
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for part in (b"one, ", b"", b"two, ") if path == "/parts" else ():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            while path == "/stream":
                await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"ok"})
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise


class Running:
    def __init__(self, port: int, app: App, stop: asyncio.Event, task: asyncio.Task[None]) -> None:
        self.port, self.app, self.stop, self.task = port, app, stop, task

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)

    async def ask(self, path: str = "/", *, raw: bytes | None = None) -> bytes:
        """Return the answer to a request on a connection of its own, up to its end."""
        reader, writer = await self.connect()
        try:
            writer.write(raw or _request(path, close=True))
            return await asyncio.wait_for(reader.read(), START)
        except ConnectionResetError:
            return b"reset"
        finally:
            writer.close()


def _request(path: str, *, close: bool = False) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n{'connection: close' * close}\r\n\r\n".replace(
        "\r\n\r\n\r\n", "\r\n\r\n"
    ).encode()


@asynccontextmanager
async def running(
    *, idle_timeout: float | None = None, clients: Any = None, **settings: Any
) -> AsyncIterator[Running]:
    app, stop, ready = App(), asyncio.Event(), asyncio.Event()
    chosen = ServerSettings(**{"receive_timeout": 30.0, "shutdown_timeout": 5.0, **settings})
    sockets = bind("127.0.0.1", resolve("127.0.0.1"), 0)
    port = sockets[0].getsockname()[1]
    server = HttpServer(app, chosen, idle_timeout=idle_timeout, clients=clients)
    task = asyncio.ensure_future(server.serve(sockets, stop, ready.set))
    await ready.wait()
    try:
        yield Running(port, app, stop, task)
    finally:
        stop.set()
        await asyncio.wait_for(task, START)


async def test_a_call_in_progress_is_answered_before_the_end() -> None:
    async with running() as server:
        call = asyncio.ensure_future(server.ask("/wait"))
        await server.app.entered.wait()
        server.stop.set()
        await asyncio.sleep(0.1)
        assert not server.task.done()
        with pytest.raises(OSError):  # noqa: PT011 - refused, or reset
            await server.connect()
        server.app.go_on.set()
        assert (await call).endswith(b"\r\nok\r\n0\r\n\r\n")
        await asyncio.wait_for(server.task, START)
    assert server.app.ended == ["answered"]


@pytest.mark.parametrize("version", ["1.0", "0.9"])
@pytest.mark.parametrize(("path", "length"), [("/", False), ("/parts", False), ("/length", True)])
async def test_a_client_of_an_old_http_gets_no_chunks(
    path: str, length: bool, version: str
) -> None:
    """What has no length ends with the connection."""
    async with running() as server:
        answer = await server.ask(raw=f"GET {path} HTTP/{version}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == (b"one, two, ok" if path == "/parts" else b"ok")
    assert b"chunked" not in head
    assert b"\r\nconnection: close" in head
    assert (b"content-length" in head) == length


async def test_a_call_that_takes_too_long_is_cancelled_and_told() -> None:
    async with running(shutdown_timeout=0.1) as server:
        call = asyncio.ensure_future(server.ask("/wait"))
        await server.app.entered.wait()
        server.stop.set()
        answer = await call
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"the server is stopping" in answer
    assert b'"begun": true' in answer  # a write may have been done
    assert server.app.ended == ["cancelled"]


async def test_a_stream_ends_at_the_timeout_without_looking_whole() -> None:
    async with running(shutdown_timeout=0.1) as server:
        reader, writer = await server.connect()
        writer.write(_request("/stream"))
        await reader.read(10_000)
        server.stop.set()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"\r\n0\r\n\r\n") if await _drained(reader) else None
        writer.close()
    assert server.app.ended == ["cancelled"]


async def _drained(reader: asyncio.StreamReader) -> bool:
    """Read to the end; ConnectionError if the end is a cut."""
    tail = b""
    while part := await reader.read(2**20):
        tail = (tail + part)[-16:]
    if not tail.endswith(b"0\r\n\r\n"):
        raise ConnectionError("the stream is cut off")
    return True


async def test_idle_connections_hold_nothing() -> None:
    async with running(shutdown_timeout=START) as server:
        held = [await server.connect() for _ in range(50)]
        for _, writer in held[:25]:
            writer.write(_request("/"))
        for reader, _ in held[:25]:
            await reader.readuntil(b"0\r\n\r\n")
        server.stop.set()
        await asyncio.wait_for(asyncio.shield(server.task), START / 2)
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-",
        b"\r\n\r\n",
        _request("/") + b"GET / HT",
        b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345",
        b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345",  # answered before its end
    ],
)
async def test_a_client_that_stalls_is_cut_off(start: bytes) -> None:
    async with running(receive_timeout=0.2) as server:
        before = time.monotonic()
        reader, writer = await server.connect()
        writer.write(start)
        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), START)
        assert time.monotonic() - before > 0.1
        writer.close()
        while b"ok" not in await server.ask():  # which a loaded machine may cut off as well
            assert time.monotonic() - before < START
    assert server.app.ended in ([], ["http.disconnect"])


async def test_a_client_that_drips_is_cut_off() -> None:
    async with running(receive_timeout=0.3) as server:
        reader, writer = await server.connect()
        writer.write(b"GET / HTTP/1.1\r\nx: ")

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), START)
        dripping.cancel()
        writer.close()


async def test_a_slow_body_that_goes_on_is_read() -> None:
    longest = 0.4
    while longest > 0.3:  # the machine held one up for too long
        async with running(receive_timeout=0.4) as server:
            moments = [time.monotonic()]
            reader, writer = await server.connect()
            writer.write(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
            for _ in range(10):
                await asyncio.sleep(0.1)
                writer.write(b"x")
                moments.append(time.monotonic())
            answer = b""
            with suppress(ConnectionResetError, asyncio.IncompleteReadError):
                answer = await reader.readuntil(b"0\r\n\r\n")
            writer.close()
        longest = max(later - one for one, later in pairwise(moments))
    assert answer
    assert server.app.ended == ["http.request"]


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    async with running(send_timeout=0.3, shutdown_timeout=0.1) as server:
        _, writer = await server.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(_request("/stream"))
        await server.app.entered.wait()
        await until(lambda: not _connections(server))
        writer.close()


def _connections(server: Running) -> int:
    coroutine: Any = server.task.get_coro()
    return len(coroutine.cr_frame.f_locals["self"]._state.connections)


async def test_a_slow_reader_that_goes_on_is_not_cut_off() -> None:
    # The system tells of more room in steps of up to a third of its buffer, which grows to MiB.
    async with running(receive_timeout=2, send_timeout=3, shutdown_timeout=0.1) as server:
        reader, writer = await server.connect()
        writer.write(_request("/stream"))
        read = 0
        for _ in range(40):
            await asyncio.sleep(0.1)
            read += len(await reader.read(2**20))
        assert _connections(server) == 1
        assert read > 0
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * (MAX_HEAD + 1),
        b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * (MAX_HEAD + 1) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * (MAX_HEAD // 2) + b"\r\n",
        b"GET /" + b"x" * (MAX_HEAD + 1),
        b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_head_that_is_too_large(head: bytes) -> None:
    async with running() as server:
        answer = await server.ask(raw=head)
        assert answer.startswith(b"HTTP/1.1 431 ") or answer == b"reset"
        assert b"ok" in await server.ask()


async def test_a_head_that_is_large() -> None:
    async with running() as server:
        head = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nbig: " + b"x" * (MAX_HEAD - 100)
        assert b"ok" in await server.ask(raw=head + b"\r\n\r\n")


@pytest.mark.parametrize(
    "endless",
    [
        b"POST /body HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\ntrailer: ",
        b"POST /body HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;extension=",
        _request("/wait") + b"GET / HTTP/1.1\r\nbig: ",
    ],
    ids=["trailer", "extension", "pipelined"],
)
async def test_what_never_ends_is_not_kept(endless: bytes) -> None:
    async with running(shutdown_timeout=0.1) as server:
        reader, writer = await server.connect()
        writer.write(endless)

        async def pour() -> None:
            while True:
                writer.write(b"x" * 1024)
                await writer.drain()
                await asyncio.sleep(0)

        pouring = asyncio.ensure_future(pour())
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 20)
        pouring.cancel()
        await asyncio.gather(pouring, return_exceptions=True)
        writer.close()
        assert b"ok" in await server.ask()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"CONNECT nowhere HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_a_problem(nonsense: bytes) -> None:
    async with running() as server:
        answer = await server.ask(raw=nonsense)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in answer
        assert server.app.ended == []


async def test_nonsense_behind_a_request_does_not_get_into_its_answer() -> None:
    async with running() as server:
        reader, writer = await server.connect()
        writer.write(_request("/wait") + b"nonsense\r\n\r\n")
        await asyncio.sleep(0.1)
        server.app.go_on.set()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running() as server:
        reader, writer = await server.connect()
        count = 3 * MAX_HEAD // len(_request("/"))  # more than the head of one may have
        writer.write(_request("/") * count)
        for _ in range(count):
            assert b"200 OK" in await reader.readuntil(b"0\r\n\r\n")
        body = b"x" * (3 * MAX_HEAD)
        post = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(post + body + b"GET / HTTP/1.1\r\nx: ")
        assert b"200 OK" in await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"y\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"0\r\n\r\n")
        writer.close()


async def test_a_client_that_leaves_with_requests_in_the_pipeline() -> None:
    async with running() as server:
        _, writer = await server.connect()
        writer.write(_request("/leave") + _request("/wait"))
        await server.app.entered.wait()
        await asyncio.sleep(0.1)
        writer.close()
        await until(lambda: server.app.ended == ["http.disconnect"])


async def test_more_connections_than_may_be() -> None:
    async with running(max_connections=3) as server:
        idle = [await server.connect() for _ in range(3)]
        await asyncio.sleep(0.05)
        assert b"ok" in await server.ask()  # the connection that idled the longest made room
        assert await idle[0][0].read() == b""
        calls = [asyncio.ensure_future(server.ask("/wait")) for _ in range(3)]
        await until(lambda: _busy(server) == 3)
        answer = await server.ask()  # every one is in use
        assert answer.startswith(b"HTTP/1.1 503 ") or answer == b"reset"
        server.app.go_on.set()
        for call in calls:
            assert b"ok" in await call
        for _, writer in idle:
            writer.close()


def _busy(server: Running) -> int:
    coroutine: Any = server.task.get_coro()
    return len(coroutine.cr_frame.f_locals["self"]._state.tasks)


class Processes:
    def __init__(self) -> None:
        self.live, self.asked, self.outdated, self.told = True, 0, False, False

    def stopping(self) -> None:
        self.told = True

    def is_outdated(self) -> bool:
        return self.outdated

    def any(self) -> bool:
        return self.live

    def retire(self) -> bool:
        self.asked += 1
        return self.asked > 1


async def test_an_outdated_server_ends_with_clients_that_use_it() -> None:
    clients = Processes()
    async with running(idle_timeout=60, clients=clients, receive_timeout=0.2) as server:
        clients.outdated = True
        await asyncio.wait_for(server.task, START)


async def test_a_server_that_is_not_needed_ends() -> None:
    clients = Processes()
    async with running(idle_timeout=0.2, clients=clients) as server:
        await asyncio.sleep(0.5)
        assert not server.task.done()
        clients.live = False
        await asyncio.wait_for(server.task, START)
    assert clients.asked == 2  # at the first, a client came
    assert clients.told


async def test_a_long_call_is_use() -> None:
    clients = Processes()
    async with running(idle_timeout=0.1, clients=clients) as server:
        call = asyncio.ensure_future(server.ask("/wait"))
        await server.app.entered.wait()
        clients.live = False
        await asyncio.sleep(0.5)
        assert not server.task.done()
        server.app.go_on.set()
        assert b"ok" in await call
        await asyncio.wait_for(server.task, START)


async def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(START)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with running():
            assert await asyncio.to_thread(manager.recv, 100) == b"READY=1"
        assert await asyncio.to_thread(manager.recv, 100) == b"STOPPING=1"
    async with running() as server:  # the manager is gone
        assert b"ok" in await server.ask()


async def test_work_that_is_not_wanted_any_more_is_cancelled() -> None:
    stop, ended = asyncio.Event(), []

    async def work() -> int:
        try:
            await asyncio.sleep(START)
        finally:
            ended.append(True)
        return 1

    waiting = asyncio.ensure_future(unless(stop, work()))
    await asyncio.sleep(0.01)
    stop.set()
    assert await waiting is None
    assert ended == [True]


_HANGS = """
import asyncio, sys, time
from aiovec_server.running import run

async def main(stop):
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    if sys.argv[1] == "busy":
        time.sleep(600)
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["busy", "waits"])
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(how: str, kind: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _HANGS, how], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(kind)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(kind)
        assert process.wait(START) == 128 + kind
    finally:
        process.kill()
        process.communicate()


def test_addresses() -> None:
    assert is_loopback(resolve("127.0.0.1"))
    assert is_loopback(resolve("127.8.9.10"))
    assert is_loopback(resolve("localhost"))
    assert not is_loopback(resolve("0.0.0.0"))
    assert not is_loopback(resolve("::"))
    assert url_of("::1", 80) == "http://[::1]:80"
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("192.0.2.1", resolve("192.0.2.1"), 0)
