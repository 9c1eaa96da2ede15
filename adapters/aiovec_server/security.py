"""Checks of who asks: a request's Host, Origin and API key, and CORS for chosen pages."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from aiovec._http.problems import Problem, problem_of
from aiovec.backend.server import ServerSettings
from aiovec.errors import UnsupportedError

from .access import Access, access_of
from .asgi import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    encoded_slash_problem,
    header_values,
    path_of,
    raw_headers,
    refuse_socket,
    send_problem,
    state_of_request,
)
from .keys import Keys

_LOOPBACK = frozenset({"localhost", "localhost.localdomain"})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PREFLIGHT_SECONDS = "600"
_EXPOSED = "X-Request-Id, Retry-After, ETag"
# What a page may send: its key, its body's type, the names of a request and of a write.
_SENT = (
    "Authorization, X-API-Key, Content-Type, Accept, X-Request-Id, Idempotency-Key, "
    "Idempotency-Retry, If-Match"
)


class Security:
    """Lets a request through that names this server, comes from no foreign page, and may do it."""

    def __init__(self, app: App, settings: ServerSettings, keys: Keys) -> None:
        self._app = app
        self._keys = keys
        self._read_only = settings.read_only
        self._hosts = {_host(name) for name in [settings.host, *settings.allowed_hosts]}
        self._any_host = "*" in settings.allowed_hosts
        # Who listens at all addresses is reached by each, and no name can be rebound to look like
        # an address.
        self._any_address = settings.host.strip("[]") in _WILDCARDS
        self._origins = {origin.rstrip("/").lower() for origin in settings.cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await refuse_socket(receive, send)
            return
        problem = self._host_problem(scope)
        headers: dict[str, str] = {}
        if problem is None:
            origins = header_values(scope, b"origin")
            if origins:
                problem, headers = self._origin_problem(scope, origins)
            elif _is_foreign(scope):
                problem = Problem.plain(403, _FOREIGN)
        if problem is None and headers and _is_preflight(scope):
            await _answer_preflight(send, headers)
            return
        if headers:
            send = _with_headers(send, headers)
        if problem is None:
            problem, more = self._access_problem(scope)
            if problem is not None:
                await send_problem(scope, send, problem, more)
                return
            problem = encoded_slash_problem(scope)
        if problem is not None:
            await send_problem(scope, send, problem)
            return
        await self._app(scope, receive, send)

    def _host_problem(self, scope: Scope) -> Problem | None:
        """Refuse names of other hosts: a page whose name was rebound to this machine sends that."""
        given = header_values(scope, b"host")
        if len(given) != 1 or not given[0]:
            if not given and scope.get("http_version") == "1.0":
                return None  # no browser speaks it
            return Problem.plain(400, "a request needs one Host header")
        host = _host(given[0])
        if self._any_host or host in self._hosts or host in _LOOPBACK:
            return None
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            if self._any_address or address.is_loopback:
                return None
        return Problem.plain(
            421,
            "this server does not answer to the name in the Host header; add the name to "
            "allowed_hosts in [retrieval.server]",
        )

    def _origin_problem(
        self, scope: Scope, origins: list[str]
    ) -> tuple[Problem | None, dict[str, str]]:
        """Refuse pages of other origins. Return the headers that let a chosen page read."""
        origin = origins[0].lower()
        if len(origins) == 1:
            if "*" in self._origins or origin in self._origins:
                return None, {
                    "access-control-allow-origin": origins[0],
                    "access-control-expose-headers": _EXPOSED,
                    "vary": "Origin",
                }
            (host,) = header_values(scope, b"host") or [""]
            if _authority(origin) is not None and _authority(origin) == _authority_of_host(
                origin, host
            ):
                return None, {}
        return Problem.plain(403, _FOREIGN), {}

    def _access_problem(self, scope: Scope) -> tuple[Problem | None, dict[str, str]]:
        needed = access_of(scope["method"], path_of(scope))
        if needed is Access.NONE:
            return None, {}
        if needed is Access.WRITE and self._read_only:
            hint = "it was started with read_only"
            return problem_of(UnsupportedError("writing", "server's", hint)), {}
        if not self._keys:
            return None, {}
        given = _credentials(scope)
        granted = self._keys.access(given[0]) if len(given) == 1 else Access.NONE
        if granted is Access.NONE:
            detail = (
                "the API key is not one of this server's"
                if given
                else "an API key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY"
            )
            return Problem.plain(401, detail), {"www-authenticate": 'Bearer realm="aiovec"'}
        state_of_request(scope)["aiovec_access"] = granted.name.lower()
        if granted < needed:
            detail = "this API key may read only, and the request writes"
            challenge = 'Bearer realm="aiovec", error="insufficient_scope"'
            return Problem.plain(403, detail), {"www-authenticate": challenge}
        return None, {}


_FOREIGN = (
    "the request comes from a page of another origin; to let that page in, add its origin to "
    "cors_origins in [retrieval.server]"
)


def _host(text: str) -> str:
    """Return the name in a Host header or a setting, without its port, in one form."""
    text = text.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return text.rstrip(".")


def _authority(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname, port or _DEFAULT_PORTS[parts.scheme]


def _authority_of_host(origin: str, host: str) -> tuple[str, int] | None:
    """Return the Host header's name and port, read with the scheme of the origin."""
    return _authority(f"{origin.partition('://')[0]}://{host.lower()}")


def _is_foreign(scope: Scope) -> bool:
    """Return whether a browser says that a page of another origin asks. Links to the page may.

    Pages of this machine at other ports are of the same site, but of another origin.
    """
    if access_of(scope["method"], path_of(scope)) is Access.NONE:
        return False
    sites = header_values(scope, b"sec-fetch-site")
    return any(value in ("cross-site", "same-site") for value in sites)


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and bool(
        header_values(scope, b"access-control-request-method")
    )


async def _answer_preflight(send: Send, headers: dict[str, str]) -> None:
    named = {
        **headers,
        "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "access-control-allow-headers": _SENT,
        "access-control-max-age": _PREFLIGHT_SECONDS,
    }
    await send({"type": "http.response.start", "status": 204, "headers": raw_headers(named)})
    await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    raw = raw_headers(headers)

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *raw]}
        await send(message)

    return sending


def _credentials(scope: Scope) -> list[str]:
    """Return each different key that a request carries, of whatever header."""
    found = dict.fromkeys(header_values(scope, b"x-api-key"))
    for value in header_values(scope, b"authorization"):
        scheme, _, key = value.partition(" ")
        found[key.strip() if scheme.lower() == "bearer" else ""] = None
    return list(found)
