"""The connections to a server: one session of aiohttp for each event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import aiohttp

from .refusals import LostError
from .settings import RemoteSettings

# Servers close a connection that is idle, uvicorn after 5 s. A request that meets the closing is
# lost, and nobody can tell whether it was read before.
_KEEP_ALIVE = 4.0
# Seconds of silence after which the system asks whether the other machine is still there, between
# further questions, and the number of those without an answer that end a connection.
_PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))

# Bytes of an answer that wait to be read before the connection pauses. With the 64 KiB of aiohttp's
# default, each batch of an export takes dozens of turns of the loop.
_BUFFER = 512 * 1024


_of_parents: list[Connections] = []
_live: weakref.WeakSet[Connections] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """In a forked child, before the collector meets a session: it would tell that it is open."""
    for connections in list(_live):
        connections.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class Connections:
    """The session of one event loop. It is closed with the loop, if that is ended properly.

    ``is_server`` tells whether a port is the server's. It is asked behind each connecting, as
    another process may get the port of a server that ends.
    """

    def __init__(
        self, settings: RemoteSettings, is_server: Callable[[int | None], bool] | None = None
    ) -> None:
        self.session = aiohttp.ClientSession(
            connector=_Connector(
                is_server,
                limit=0,  # the client bounds its calls itself
                keepalive_timeout=_KEEP_ALIVE,
                socket_factory=_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BUFFER,
            skip_auto_headers=("Accept-Encoding",),
        )
        self._process = os.getpid()
        self._keeper = self._kept()
        self._begun = False
        _live.add(self)

    async def begin(self) -> aiohttp.ClientSession:
        """Return the session, which from now on is closed when its loop is ended."""
        if not self._begun:
            self._begun = True
            # In a task of its own: within an export the loop does not learn of a generator. And no
            # cancelled call keeps it from being begun.
            await asyncio.shield(asyncio.ensure_future(self._begin_keeper()))
        return self.session

    async def _begin_keeper(self) -> None:
        await anext(self._keeper)

    async def _kept(self) -> AsyncGenerator[None, None]:
        # A loop that ends closes the generators that were begun in it, and waits for them.
        try:
            yield
        finally:
            await self.session.close()

    async def close(self) -> None:
        """Close all connections; requests that are under way fail."""
        await self.session.close()
        await self._keeper.aclose()

    def abandon(self) -> None:
        """Let go of the connections of a loop that was closed with them, or will be no more."""
        connector: Any = self.session.connector
        if connector is None or self.session.closed:
            return
        if os.getpid() != self._process:
            # They are those of the parent, which goes on with them: a process that was forked has
            # its sockets, and with epoll even its selector. To close one here would end it there.
            connector._closed = True
            _of_parents.append(self)
            return
        idle = [protocol for kept in list(connector._conns.values()) for protocol, _ in kept]
        protocol = transport = None
        with _without_warnings():
            for protocol in {*idle, *connector._acquired}:
                transport = protocol.transport
                if transport is not None:
                    with contextlib.suppress(Exception):
                        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
                    with contextlib.suppress(Exception):
                        transport.abort()
                protocol.transport = None
            del idle, protocol, transport
            with contextlib.suppress(Exception):
                connector._close()
            self.session._connector = None


class _Connector(aiohttp.TCPConnector):
    """Says nothing to whoever got the port of a server that died: neither rows nor a key."""

    def __init__(self, is_server: Callable[[int | None], bool] | None, **options: Any) -> None:
        super().__init__(**options)
        self._is_server = is_server
        self._process = os.getpid()

    def __del__(self, *_: Any) -> None:
        # In a forked child it may be collected before ``abandon`` is called: to close what is the
        # parent's would take it out of the epoll that both share.
        if os.getpid() == self._process:
            super().__del__()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        connection = await super().connect(req, traces, timeout)
        if self._is_server is not None and not self._is_server(req.url.port):
            connection.close()
            raise LostError("the server has ended", sent=False)
        return connection


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Nobody could have closed them: what asyncio and aiohttp warn of is no fault of a user."""
    if sys.is_finalizing():  # the process ends, and the module of warnings is gone already
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def _socket(address: Any) -> socket.socket:
    """A socket that notices when the other machine is gone, also while a call takes long."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES:
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        made.close()
        raise
    return made
