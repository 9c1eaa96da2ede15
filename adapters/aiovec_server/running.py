"""A server runs: uvicorn's protocol on sockets, signals and an end of our own.

At SIGTERM or SIGINT the server accepts nothing more, waits for the calls in progress, cancels those
that take too long, and returns; then the store is closed. A second signal ends the process at once:
what was acknowledged is in the store already.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate
from socket import socket
from typing import Any, Protocol, TypeVar

from uvicorn.config import Config
from uvicorn.server import ServerState

from aiovec._http.problems import Problem
from aiovec.backend.server import ServerSettings

from .connection import Bounds, Connection
from .sockets import BACKLOG
from .systemd import notify

_T = TypeVar("_T")

App = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]

_CLEANING = 5.0
"""Seconds for calls that were cancelled at the end. They only have to let go of what they hold."""

_FILES = 256
"""Open files for all but connections: the store's, those of modules, pipes."""

_FEWEST = 16
"""Connections where the system allows hardly any open files."""


class Clients(Protocol):
    """The processes that use a server without a call in progress."""

    def any(self) -> bool:
        """Return whether there are any."""

    def retire(self) -> bool:
        """Let no new ones come, unless there are any. Return whether the server may stop."""

    def stopping(self) -> None:
        """Tell them that the server is about to give its port back."""

    def is_outdated(self) -> bool:
        """Return whether they need a server with other settings, which one of them will start."""


class HttpServer:
    """Serves an app on sockets until it is told to stop, or nobody needs it."""

    def __init__(
        self,
        app: App,
        settings: ServerSettings,
        *,
        idle_timeout: float | None = None,
        clients: Clients | None = None,
    ) -> None:
        self._config = Config(
            _until_cancelled(app),
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # A float does as well: it goes to call_later().
            timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]
        )
        self._config.load()
        self._state = ServerState()
        self._bounds = Bounds(
            settings.max_connections, settings.receive_timeout, settings.send_timeout
        )
        self._shutdown_timeout = settings.shutdown_timeout
        self._idle_timeout = idle_timeout
        self._clients = clients
        self._used = 0.0
        self._answered = 0

    async def serve(
        self, sockets: Sequence[socket], stop: asyncio.Event, ready: Callable[[], None]
    ) -> None:
        """Accept connections until ``stop`` is set; return when the calls in progress have ended.

        ``ready`` is called as soon as connections are accepted.
        """
        loop = asyncio.get_running_loop()
        self._used = loop.time()
        timeouts = (self._bounds.receive, self._bounds.send, self._idle_timeout or math.inf)
        interval = min(1.0, min(timeouts) / 4)
        self._tick()
        servers = [
            await loop.create_server(self._connection, sock=one, backlog=BACKLOG) for one in sockets
        ]
        try:
            ready()
            notify("READY=1")
            while not stop.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval):
                        await stop.wait()
                self._tick()
                if self._is_over():
                    break
        finally:
            notify("STOPPING=1")
            if self._clients is not None:
                self._clients.stopping()
            for server in servers:
                server.close()
            await self._end()

    def _connection(self) -> Connection:
        return Connection(self._config, self._state, self._bounds, self._is_crowded)

    def _connections(self) -> list[Connection]:
        return [one for one in self._state.connections if isinstance(one, Connection)]

    def _is_crowded(self, newest: Connection) -> bool:
        """Return whether there is no room for another connection. Closes one that idles first."""
        if len(self._state.connections) <= self._bounds.connections:
            return False
        idle = [
            one
            for one in self._connections()
            if one is not newest and one.is_idle and not one.transport.is_closing()
        ]
        if not idle:
            return True
        min(idle, key=lambda one: one.heard).transport.abort()
        return False

    def _tick(self) -> None:
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        now = asyncio.get_running_loop().time()
        for connection in self._connections():
            connection.check(now)

    def _is_over(self) -> bool:
        """Return whether the server was not used for so long that it stops, or is outdated."""
        if self._clients is not None and self._clients.is_outdated():
            return True
        if self._idle_timeout is None:
            return False
        now = asyncio.get_running_loop().time()
        answered, self._answered = self._answered, self._state.total_requests
        used = self._state.tasks or answered != self._answered
        if used or (self._clients is not None and self._clients.any()):
            self._used = now
        if now - self._used < self._idle_timeout:
            return False
        return self._clients is None or self._clients.retire()

    async def _end(self) -> None:
        """Let the calls in progress end, and cancel those that take too long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._shutdown_timeout
        while (self._state.tasks or self._state.connections) and loop.time() < deadline:
            for connection in self._connections():
                connection.shutdown()  # at once if it idles, else after its answer
            self._tick()
            await asyncio.sleep(0.02)
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEANING)
        for connection in self._connections():
            connection.transport.abort()


def _until_cancelled(app: App) -> App:
    """Return the app with an answer to calls that are cancelled as the server stops."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        started = False

        async def watched(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, watched)
        except asyncio.CancelledError:
            if not started:
                await _say_stopping(send)

    return run


async def _say_stopping(send: Any) -> None:
    detail = "the server is stopping; try again, but a write may have been done"
    problem = replace(Problem.plain(503, detail, retry_after=1), begun=True)
    headers = {**problem.headers(), "connection": "close"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": problem.body()})


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine function on a new event loop; the first signal sets its event."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        loop = runner.get_loop()
        stop = asyncio.Event()
        with _signals(lambda: loop.call_soon_threadsafe(stop.set)):
            return runner.run(main(stop))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform != "win32":
        with suppress(ModuleNotFoundError):
            import uvloop

            return uvloop.new_event_loop
    return None


@contextmanager
def _signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` at the first signal to end, and end the process at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can have handlers
        return
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            # Also where the event loop hangs, or a thread that the interpreter would wait for.
            os._exit(128 + number)
        stop()

    kinds = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        kinds.append(signal.SIGBREAK)  # closing the window, and what other programs can send
    # Not loop.add_signal_handler(): a handler of this kind works while the loop is busy, too.
    before = {kind: signal.signal(kind, handle) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Return the result of ``work``, or None if ``stop`` is set first; then it is cancelled."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    return None if task.cancelled() else task.result()


def room_for_connections(wanted: int) -> int:
    """Return how many connections may be open, after raising the soft limit on open files."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + _FILES
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < files:  # often 1024
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            soft = files
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(_FEWEST, soft - _FILES))
