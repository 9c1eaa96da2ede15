"""The outermost middleware: gives each request an id, observes it, and answers unexpected errors.

Of the values that a client chooses freely, logs and spans contain only the request's id, the
table's name and the client's address. Metrics contain none.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiovec import WatchState
from aiovec._http.problems import Problem
from aiovec.backend import called_by
from aiovec.backend.threads import in_thread, together

from .call import Call
from .endpoints.declaring import Endpoint
from .logs import ACCESS
from .problems import problem_response, response_of

STOPPING = "aiovec_stopping"
"""Name of a flag in the app's state, set once the server is stopping and may cancel calls."""

_UNKNOWN = "(none)"  # the label for a request without a route
_CLIENT_GONE = 499  # the status if the client disconnected before a response was sent
_OF_CALLERS = ("traceparent", "tracestate")
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The system's random numbers are not used: reading them releases the interpreter lock, which takes
# long to get back during a scan. An id need not be secret.
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
# Seconds. Searches in memory take a millisecond, index builds minutes.
_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
)  # fmt: skip
_WATCHED = {
    "waiting": "Number of changes of a watched source that are not applied yet; NaN if unknown.",
    "seconds": "Seconds since a watched table was last known to be in step with its source.",
    "failing": "1 if the last attempt to follow a source failed.",
    "refused": "Number of rows or documents that were set aside, because they cannot be stored.",
}


class Metrics:
    """Prometheus metrics of one app's requests.

    No label has a value that a client can choose freely.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)

        def made(kind: Any, name: str, about: str, *labels: str, **options: Any) -> Any:
            return kind(f"aiovec_http_{name}", about, labels, registry=self._registry, **options)

        about = "Requests that ended. Status 499: the client disconnected first."
        self._requests = made(Counter, "requests", about, "method", "route", "status")
        about = "Time from the headers of a request to the end of its answer."
        name = "request_duration_seconds"
        self._times = made(Histogram, name, about, "method", "route", buckets=_BUCKETS)
        self.running: Gauge = made(Gauge, "requests_in_progress", "Requests in progress.")
        self._received = made(Counter, "received_bytes", "Bytes of requests' bodies.")
        self._sent = made(Counter, "sent_bytes", "Bytes of answers' bodies.")
        self._watched = {
            name: Gauge(f"aiovec_watch_{name}", about, ["table"], registry=self._registry)
            for name, about in _WATCHED.items()
        }

    def ended(self, facts: dict[str, Any]) -> None:
        """Count a request that ended."""
        method, route = facts["method"], facts["route"]
        self.running.dec()
        self._requests.labels(method, route, str(facts["status"])).inc()
        self._times.labels(method, route).observe(facts["ms"] / 1000)
        self._received.inc(facts["received"])
        self._sent.inc(facts["sent"])

    def watched(self, states: Sequence[WatchState]) -> None:
        """Record how far each table lags behind its sources; a table may have several sources."""
        for table in {state.table for state in states}:
            of = [state for state in states if state.table == table]
            for name, value in {
                "waiting": sum(math.nan if each.waiting is None else each.waiting for each in of),
                "seconds": max(each.seconds for each in of),
                "failing": any(each.error for each in of),
                "refused": sum(len(each.refused) for each in of),
            }.items():
                self._watched[name].labels(table).set(value)

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)


async def read_metrics(call: Call, options: dict[str, Any]) -> Response:
    """Serve the metrics for Prometheus."""
    metrics = call.request.app.state.aiovec_metrics
    metrics.watched(await together([each.state for each in call.store.watching]))
    text = await in_thread(metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


METRICS = Endpoint("GET", "/metrics", read_metrics, kinds=("text/plain",))
"""The endpoint for the metrics, which are ``aiovec_metrics`` in the app's state."""


class Observing:
    """Assigns an id to each HTTP request to an app, and logs, counts and traces the request."""

    def __init__(self, app: ASGIApp, metrics: Metrics | None, *, logs: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        state, given = scope.setdefault("state", {}), Headers(scope=scope)
        id = state["request_id"] = _id_of(given)
        status = sent = 0
        whole = False

        async def named(message: Message) -> None:
            nonlocal status, sent, whole
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", id.encode())]
                if "expect" in given:  # the client may still send the body
                    headers.append((b"connection", b"close"))
                if all(name != b"cache-control" for name, _ in headers):
                    # Rows change and may be confidential, so no cache may keep them.
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
            callers = {name: given.get(name, "") for name in _OF_CALLERS}
            # OpenTelemetry gets only headers that are short enough.
            with called_by({name: text for name, text in callers.items() if 0 < len(text) <= 512}):
                await self._app(scope, receive, named)
        except asyncio.CancelledError:
            # Pass the error on to the outer app or server, which sends its own response.
            if not getattr(scope["app"].state, STOPPING, False):
                raise
            if not status:
                stopping = problem_response(_STOPPING, headers={"connection": "close"})
                await stopping(scope, receive, named)
        except Exception as exc:  # noqa: BLE001 - no traceback may reach a client
            answer = await response_of(exc, id)
            if not status:
                await answer(scope, receive, named)
        finally:
            client, table = scope.get("client"), scope.get("path_params", {}).get("table")
            facts = {
                "request": id, "client": str(client[0]) if client else "",
                "method": scope["method"] if scope["method"] in _METHODS else "other",
                "route": getattr(scope.get("route"), "path", None) or _UNKNOWN,
                "table": table and table[:63], "status": status or _CLIENT_GONE,
                "ms": round((time.perf_counter() - began) * 1000, 3),
                "received": state.get("aiovec_received", 0), "sent": sent,
            }  # fmt: skip
            if self._metrics is not None:
                self._metrics.ended(facts)
            if self._logs:
                if "aiovec_access" in state:
                    facts["key"] = state["aiovec_access"]
                if not whole:
                    facts["broken"] = True
                words = "%(method)s %(route)s: status %(status)d, %(ms)s ms"
                ACCESS.info(words, facts, extra={"facts": facts})


def _id_of(headers: Headers) -> str:
    """Return the request's id: the client's id if it is safe to log, otherwise a random id."""
    given = headers.getlist("x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return f"{_RANDOM.getrandbits(128):032x}"
