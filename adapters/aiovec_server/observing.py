"""The facts of each request that logs, metrics and spans are made of, and its id.

Also the outermost bound: an error that nobody expected ends here, as a problem that says nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from aiovec._http.problems import Problem, problem_of
from aiovec.backend import HttpRequest, watch_request
from aiovec.backend.threads import in_thread

from .asgi import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    header_values,
    send_problem,
    state_of_request,
)

LOG = logging.getLogger("aiovec.server")

UNKNOWN = "(none)"
"""The route of a request that has none."""
CLIENT_GONE = 499
"""The status, in logs and metrics, of a call whose client disconnected: no answer was sent."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Not the system's: to ask it takes the interpreter away from the event loop, and a busy scan gives
# it back late. An id is no secret.
_RANDOM = Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RANDOM.seed)
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(slots=True)
class Observed:
    """One request that ended. Nothing that a client chose freely but its id and its address."""

    id: str
    method: str
    route: str
    """The template of the path, such as /tables/{table}/search."""
    table: str | None
    status: int
    seconds: float
    received: int
    sent: int
    client: str
    access: str | None
    whole: bool
    """True if the answer was sent to its end."""


class Listener(Protocol):
    def begun(self) -> None:
        """Count a request that begins."""

    def ended(self, observed: Observed) -> None:
        """Count a request that ended."""


class Observing:
    """Names each request, and tells listeners when it has ended."""

    def __init__(
        self, app: App, listeners: Sequence[Listener], shared: Mapping[str, object]
    ) -> None:
        self._app = app
        self._listeners = listeners
        self._shared = shared
        """The things that each request brings to its endpoint, by ``request.state``."""
        self._templates = _Templates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        id = _id_of(scope)
        state = state_of_request(scope)
        state["request_id"] = id
        state.update(self._shared)
        answer = _Sent(send, id)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        for listener in self._listeners:
            listener.begun()
        request = HttpRequest(method, scope.get("scheme", "http"), _trace_headers(scope))
        try:
            with watch_request(request):
                try:
                    await self._guarded(scope, receive, answer, id)
                finally:
                    request.route = self._templates.of(scope)
                    request.status = answer.status or None
        finally:
            observed = Observed(
                id=id,
                method=method,
                route=request.route or UNKNOWN,
                table=_table_of(scope),
                status=answer.status or CLIENT_GONE,
                seconds=time.perf_counter() - began,
                received=state.get("aiovec_received", 0),
                sent=answer.size,
                client=_client_of(scope),
                access=state.get("aiovec_access"),
                whole=answer.whole,
            )
            for listener in self._listeners:
                listener.ended(observed)

    async def _guarded(self, scope: Scope, receive: Receive, answer: _Sent, id: str) -> None:
        try:
            await self._app(scope, receive, answer)
        except Exception as exc:  # noqa: BLE001 - whatever it is, no traceback leaves
            await in_thread(_log_error, id, exc)
            if not answer.status:
                await send_problem(scope, answer, problem_of(exc))
        except asyncio.CancelledError:  # the server stops
            if not answer.status:
                await send_problem(scope, answer, _STOPPING, {"connection": "close"})


_STOPPING = Problem(
    503,
    "Service Unavailable",
    "the server is stopping; try again, but a write may have been done",
    retry_after=1,
    begun=True,
)


def _log_error(id: str, error: Exception) -> None:
    LOG.error("request %s failed", id, exc_info=error)


class _Sent:
    """A ``send`` that looks at what it sends, names the request, and lets nobody keep answers."""

    __slots__ = ("_id", "_send", "size", "status", "whole")

    def __init__(self, send: Send, id: str) -> None:
        self._send = send
        self._id = id
        self.status = 0
        self.size = 0
        self.whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-request-id", self._id.encode())]
            if all(name != b"cache-control" for name, _ in headers):
                # Rows change, and they are for who asked: no browser or proxy shall keep them.
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
            await self._send(message)
            self.status = message["status"]
            return
        await self._send(message)
        if message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)


def _id_of(scope: Scope) -> str:
    """Return the request's id: the client's, unless it could confuse a log."""
    given = header_values(scope, b"x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return f"{_RANDOM.getrandbits(128):032x}"


class _Templates:
    """Finds the templates of routes. Those of Starlette do not leave themselves in the scope."""

    def __init__(self) -> None:
        self._by_endpoint: dict[int, str] | None = None

    def of(self, scope: Scope) -> str | None:
        path = getattr(scope.get("route"), "path", None)
        if isinstance(path, str) and path:
            return path
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return None
        if self._by_endpoint is None:
            # They live as long as the app, so none of the ids is ever another's.
            self._by_endpoint = dict(_endpoints(getattr(scope.get("app"), "routes", ())))
        return self._by_endpoint.get(id(endpoint))


def _endpoints(routes: Iterable[Any]) -> Iterator[tuple[int, str]]:
    for route in routes:
        path, endpoint = getattr(route, "path", None), getattr(route, "endpoint", None)
        if isinstance(path, str) and endpoint is not None:
            yield id(endpoint), path
        for name in ("routes", "original_router"):
            inner = getattr(route, name, None)
            yield from _endpoints(getattr(inner, "routes", inner) or ())


def _table_of(scope: Scope) -> str | None:
    table = scope.get("path_params", {}).get("table")
    return table[:63] if isinstance(table, str) else None


def _client_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _trace_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that name the span of the caller."""
    found = {}
    for name in ("traceparent", "tracestate"):
        values = header_values(scope, name.encode())
        if len(values) == 1 and len(values[0]) <= 1024:
            found[name] = values[0]
    return found
