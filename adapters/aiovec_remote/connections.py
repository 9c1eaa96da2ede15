"""The connections to a server: a session of aiohttp."""

from __future__ import annotations

import os
import socket
import weakref
from typing import Any

import aiohttp

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

_live: weakref.WeakSet[aiohttp.ClientSession] = weakref.WeakSet()
_of_parents: list[aiohttp.ClientSession] = []


def _leave_to_the_parent() -> None:
    """In a forked child: to close a session there would take it out of the parent's epoll."""
    for session in list(_live):
        connector: Any = session.connector
        if connector is not None:
            connector._closed = True
            _of_parents.append(session)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


def new_session(settings: RemoteSettings, path: str | None = None) -> aiohttp.ClientSession:
    """Return a session, whose connections go to a Unix socket if a path is given."""
    # Without a limit: the client bounds its calls itself.
    connector: aiohttp.BaseConnector
    if path is not None:
        connector = aiohttp.UnixConnector(path, limit=0, keepalive_timeout=_KEEP_ALIVE)
    else:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_KEEP_ALIVE, socket_factory=_socket
        )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_BUFFER,
        skip_auto_headers=("Accept-Encoding",),
    )
    _live.add(session)
    return session


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
