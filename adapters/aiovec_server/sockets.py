"""Where the server listens."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Sequence

from aiovec.errors import ConfigError

Address = tuple[socket.AddressFamily, str]


def resolve(host: str) -> list[Address]:
    """Return the addresses of a host of this machine, each with its family. Asks the resolver."""
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(
            f"the server cannot listen at {host!r}: {reason}; pass an address of this machine, "
            "such as 127.0.0.1",
            key="host",
            accepted="an address of this machine",
        ) from exc
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def is_loopback(addresses: Sequence[Address]) -> bool:
    """Return whether no other machine can reach any of the addresses."""
    return all(ipaddress.ip_address(text.partition("%")[0]).is_loopback for _, text in addresses)


def bind(host: str, addresses: Sequence[Address], port: int) -> list[socket.socket]:
    """Return a socket for each address, all with one port. 0 takes a free port.

    ConfigError if the port is taken or this machine has none of the addresses.
    """
    for _ in range(_TRIES if port == 0 and len(addresses) > 1 else 1):
        try:
            return _bound_to_all(host, addresses, port)
        except ConfigError as exc:  # a port that is free at one address may be taken at another
            fault = exc
    raise fault


_TRIES = 20


def _bound_to_all(host: str, addresses: Sequence[Address], port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                bound.append(_bound(family, address, port))
            except OSError as exc:
                # A name such as localhost may stand for an address that this machine lacks.
                if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = exc
            else:
                port = bound[0].getsockname()[1]
        if not bound:
            raise missing or OSError(errno.EADDRNOTAVAIL, "no address")
    except OSError as exc:
        for one in bound:
            one.close()
        raise refusal(host, port, exc) from exc
    return bound


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # where SO_REUSEADDR lets two servers share a port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address != "::":
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        # Not only when the store is open: of two servers, the second is to find the port taken.
        one.listen(BACKLOG)
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one


BACKLOG = 1024
"""Connections that wait until the server accepts them."""


def refusal(host: str, port: int, exc: OSError) -> ConfigError:
    """Return the error of an address at which the server cannot listen."""
    if exc.errno == errno.EADDRINUSE:
        reason = f"port {port} is in use by another process"
        cure = "pass another --port, or --port 0 for a free one"
    elif exc.errno in (errno.EACCES, errno.EPERM):
        reason = f"this user may not listen at port {port}"
        cure = "pass a --port of 1024 or above"
    else:
        reason = exc.strerror or str(exc)
        cure = "pass an address of this machine, such as 127.0.0.1"
    return ConfigError(
        f"the server cannot listen at {url_of(host, port)}: {reason}; {cure}", key="port"
    )


def url_of(host: str, port: int) -> str:
    """Return the URL of a server."""
    host = host.strip("[]")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
