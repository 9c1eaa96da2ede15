"""The server process: its socket, uvicorn's server, and shutdown."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import math
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aiovec.backend.server import ServerSettings
from aiovec.errors import AiovecError, ConfigError

from .observing import STOPPING

MAX_HEAD = 64 * 1024
"""Maximum size in bytes of a request's head, and of its trailers. A browser's cookies take a few
KiB."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)
_BACKLOG = 1024
_CANCELLING = 5.0  # seconds that cancelled calls get to release their resources

# Undocumented names of uvicorn that we use: methods, and attributes that its constructors set.
_OF_UVICORN = (
    (uvicorn.Server, ("on_tick", "server_state", "force_exit")),
    (ServerState, ("connections", "tasks", "total_requests")),
    (RequestResponseCycle, ("response_complete",)),
    (HttpToolsProtocol, ("connection_made", "data_received", "on_message_begin", "on_url",
                         "on_header", "on_headers_complete", "on_body", "send_400_response", "loop",
                         "transport", "headers", "cycle", "server_state")),
)  # fmt: skip
for _class, _names in _OF_UVICORN:
    if _lacking := {*_names} - {*dir(_class), *_class.__init__.__code__.co_names}:
        raise AiovecError(
            f"aiovec serve cannot use uvicorn {uvicorn.__version__}, whose {_class.__name__} has "
            f'no {", ".join(_lacking)}; pip install "aiovec[server]" brings one that it can use'
        )

# uvicorn logs a warning for each request that it cannot parse, so any client could fill the log.
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class Server(uvicorn.Server):
    """uvicorn's server, which also stops after ``idle_timeout`` seconds without a request.

    It calls ``ready`` once it accepts connections.
    """

    def __init__(
        self,
        app: Starlette,
        settings: ServerSettings,
        *,
        ready: Callable[[], None],
        idle_timeout: float | None = None,
        uds: str | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            uds=uds,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=math.ceil(settings.keep_alive),
            timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout),
        )
        super().__init__(config)
        self._app = app
        self._settings = settings
        self._ready = ready
        self._idle_timeout = idle_timeout
        self._used = 0.0
        self._answered = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._ready()
        _notify("READY=1")

    async def on_tick(self, counter: int) -> bool:
        state, now = self.server_state, asyncio.get_running_loop().time()
        if counter % 10 == 0:  # once a second
            for connection in list(state.connections):
                if isinstance(connection, Connection):
                    connection.check(now, self._settings)
        if not self._used or state.tasks or state.total_requests != self._answered:
            self._used, self._answered = now, state.total_requests
        if self._idle_timeout is not None and now - self._used >= self._idle_timeout:
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        _notify("STOPPING=1")
        setattr(self._app.state, STOPPING, True)
        await super().shutdown(sockets)
        if tasks := list(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=_CANCELLING)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop; on a second signal, do not wait for the calls in progress.

        uvicorn's own handler would raise the signal again at exit, so the exit code would not be 0.
        """
        if self.should_exit:
            self.force_exit = True
            self._loop.call_soon_threadsafe(self._cut_short)
        self.should_exit = True

    def _cut_short(self) -> None:
        """Cancel the calls in progress, which uvicorn would leave running."""
        for task in list(self.server_state.tasks):
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits on slow heads, stalled readers and bytes outside bodies.

    Trailers are ignored: a proxy that removes or sets a header may let it through as a trailer.
    """

    _too_large = False
    _problem = ""
    _target = b""
    _head_since: float | None = None
    _beside = _unsent = 0
    _taken = _served = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self._taken = self._served = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._too_large:
            return
        self._beside += len(data)
        super().data_received(data)
        if self._beside > MAX_HEAD:  # a head, trailers, or the extensions of a chunk
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_since, self._beside, self._target = self.loop.time(), 0, b""

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_since is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if (
            len(self._target) + sum(len(name) + len(value) for name, value in self.headers)
            > MAX_HEAD
        ):
            self._refuse_head()
            raise ValueError("the head is too large")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if b"#" in self._target:  # uvicorn would drop the rest, which may belong to an id
            self._problem = "the target contains #; write %23"
        elif codings not in ([], [b"chunked"]):
            self._problem = "Transfer-Encoding must be chunked, without another coding"
        if self._problem:
            raise ValueError(self._problem)
        self._head_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not a request; during a response, close the connection instead."""
        if self._is_answering():
            self.transport.abort()
        elif not self._too_large:
            super().send_400_response(self._problem or msg)

    def _refuse_head(self) -> None:
        """Refuse a head that is too large.

        If the head has already ended, or a response is in progress, close the connection instead.
        A refusal leaves the connection open, because a client that is still sending might otherwise
        never read the refusal.
        """
        if self._head_since is None or self._is_answering():
            self.transport.abort()
        elif not self._too_large:
            self._too_large = True
            self.transport.write(_TOO_LARGE)
            self.transport.write_eof()

    def check(self, now: float, settings: ServerSettings) -> None:
        """Close the connection if its client has stalled for too long."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._taken = unsent, now
        if self._is_answering():
            self._served = now
        head_since = now if self._head_since is None else self._head_since
        if (
            now - self._taken >= settings.send_timeout
            or now - head_since >= settings.receive_timeout
            # uvicorn's own timer stops at the first byte, even if no request begins with it.
            or now - self._served >= settings.keep_alive + settings.receive_timeout
        ):
            self.transport.abort()

    def _is_answering(self) -> bool:
        """Return whether a request is waiting for its response; ``cycle`` is the latest request."""
        return self.cycle is not None and not self.cycle.response_complete


# Where the server listens


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address of this machine; port 0 means any free port."""
    try:
        # Resolve names to IPv4, because localhost may also have an IPv6 address, but every client
        # tries IPv4.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        dual = host.strip("[]") == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(
            (host.strip("[]"), port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual
        )
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        if getattr(exc, "errno", None) == errno.EADDRINUSE:
            reason = f"port {port} is in use by another process"
        raise ConfigError(
            f"the server cannot listen at {url_of(host, port)}: {reason}; pass another --port, "
            "--port 0 for a free one, or another --host",
            key="retrieval.server.host",
        ) from exc


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only this machine can reach the socket."""
    address: str = listening.getsockname()[0]
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def url_of(host: str, port: int) -> str:
    """Return the URL of a server."""
    host = host.strip("[]")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _notify(state: str) -> None:
    """Report a state to systemd, for units with ``Type=notify``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return
    # The server keeps running if systemd is gone or its queue is full.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), address.replace("@", "\0", 1))
