"""The outermost middleware: names each request, observes it, and answers what nobody expected.

Logs, metrics and spans have nothing that a client chose freely but the request's id and address.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from random import Random

from aiovec._http.problems import Problem, problem_of
from aiovec.backend import called_by
from aiovec.backend.threads import in_thread

from .asgi import App, Message, Receive, Scope, Send, header_values, state_of_request
from .logs import ACCESS
from .metrics import Metrics
from .problems import problem_response

LOG = logging.getLogger("aiovec.server")

_UNKNOWN = "(none)"  # the route of a request that has none
_CLIENT_GONE = 499  # the status where the client disconnected: no answer was sent
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Not the system's: to ask it takes the interpreter away from the event loop, and a busy scan gives
# it back late. An id is no secret.
_RANDOM = Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RANDOM.seed)
_STOPPING = Problem(
    503,
    "Service Unavailable",
    "the server is stopping; try again, but a write may have been done",
    retry_after=1,
    begun=True,
)


class Observing:
    """Observes the requests to an app."""

    def __init__(self, app: App, metrics: Metrics | None, *, logs: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        state = state_of_request(scope)
        id = state["request_id"] = _id_of(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = sent = 0
        whole = False

        async def named(message: Message) -> None:
            nonlocal status, sent, whole
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", id.encode())]
                if all(name != b"cache-control" for name, _ in headers):
                    # Rows change, and they are for who asked: nobody shall keep them.
                    headers += [(b"cache-control", b"no-store"), _NOSNIFF]
                await send({**message, "headers": headers})
                status = message["status"]
                return
            await send(message)
            sent += len(message.get("body", b""))
            whole = not message.get("more_body", False)

        if self._metrics is not None:
            self._metrics.running.inc()
        try:
            with called_by(_trace_headers(scope)):
                try:
                    await self._app(scope, receive, named)
                except asyncio.CancelledError:  # the server stops
                    if not status:
                        stopping = problem_response(_STOPPING, headers={"connection": "close"})
                        await stopping(scope, receive, named)
                except Exception as exc:  # noqa: BLE001 - whatever it is, no traceback leaves
                    await in_thread(_log_error, id, exc)
                    if not status:
                        await problem_response(problem_of(exc))(scope, receive, named)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", None) or _UNKNOWN
            received = state.get("aiovec_received", 0)
            status = status or _CLIENT_GONE
            if self._metrics is not None:
                self._metrics.ended(method, route, status, seconds, received, sent)
            if self._logs:
                facts = {
                    "request": id, "client": _client_of(scope), "method": method, "route": route,
                    "table": _table_of(scope), "status": status, "ms": round(seconds * 1000, 3),
                    "received": received, "sent": sent,
                }  # fmt: skip
                if "aiovec_access" in state:
                    facts["key"] = state["aiovec_access"]
                if not whole:
                    facts["broken"] = True
                ACCESS.info("", extra={"facts": facts})


def _log_error(id: str, error: Exception) -> None:
    LOG.error("request %s failed", id, exc_info=error)


def _id_of(scope: Scope) -> str:
    """Return the request's id: the client's, unless it could confuse a log."""
    given = header_values(scope, b"x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return f"{_RANDOM.getrandbits(128):032x}"


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
