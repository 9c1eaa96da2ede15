"""Spans and metrics by OpenTelemetry's conventions for database clients.

The only module that imports OpenTelemetry, and only its API: the app decides where spans and
metrics go. Both follow a provider that the app sets later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import context, metrics, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .calls import Attributes, HttpRequest, Operation

_SERVER_ERROR = 500
_TRACER = trace.get_tracer("aiovec", version("aiovec"))
_METER = metrics.get_meter("aiovec", version("aiovec"))
_DURATIONS = _METER.create_histogram(
    "db.client.operation.duration",
    unit="s",
    description="Duration of database client operations.",
    # As the conventions say.
    explicit_bucket_boundaries_advisory=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10),
)
_ROWS = _METER.create_histogram(
    "aiovec.rows",
    unit="{row}",
    description="Rows that a call returned, wrote or deleted.",
    explicit_bucket_boundaries_advisory=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000),
)
_REQUESTS = _METER.create_histogram(
    "http.server.request.duration",
    unit="s",
    description="Duration of HTTP server requests.",
    # As the conventions say.
    explicit_bucket_boundaries_advisory=(
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
    ),
)  # fmt: skip
# Not the global propagator: loading that fails where the environment names one that is missing.
_CALLERS = TraceContextTextMapPropagator()


def is_configured() -> bool:
    """Return whether the app has set a provider: the API's own ones do nothing."""
    return not (
        type(trace.get_tracer_provider()).__module__.startswith("opentelemetry.trace")
        and type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")
    )


@contextmanager
def span(operation: Operation, place: Attributes, *, current: bool) -> Iterator[None]:
    """Make the span of a call and record its duration and rows."""
    attributes = {**place, "db.operation.name": operation.name}
    name = operation.name
    if operation.table is not None:
        attributes["db.collection.name"] = operation.table
        name = f"{name} {operation.table}"
    made = _TRACER.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)
    within = trace.set_span_in_context(made)
    token = context.attach(within) if current else None
    began = time.perf_counter()
    late: dict[str, str | int] = {}
    try:
        yield
    except asyncio.CancelledError:
        late["aiovec.cancelled"] = True
        raise
    except GeneratorExit:  # an export that was left early
        raise
    except BaseException as exc:
        made.set_status(trace.StatusCode.ERROR)
        # Its class alone: a message may name ids and quote filters.
        late["error.type"] = type(exc).__qualname__
        raise
    finally:
        took = time.perf_counter() - began
        if token is not None:
            context.detach(token)
        late.update(operation.place or {})
        attributes.update(late)
        _DURATIONS.record(took, attributes, within)
        if operation.rows is not None:
            _ROWS.record(operation.rows, attributes, within)
            late["aiovec.rows"] = operation.rows
        made.set_attributes(late)
        made.end()


@contextmanager
def watch_request(request: HttpRequest) -> Iterator[None]:
    """Make the span of a request to the server and record its duration.

    The span names the route, not the path or the query, which may hold ids and words.
    """
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "url.scheme": request.scheme,
    }
    caller = _CALLERS.extract(request.caller) if request.caller else None
    made = _TRACER.start_span(request.method, caller, trace.SpanKind.SERVER, attributes=attributes)
    within = trace.set_span_in_context(made, caller)
    token = context.attach(within)
    began = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - began
        context.detach(token)
        if request.route is not None:
            made.update_name(f"{request.method} {request.route}")
            attributes["http.route"] = request.route
        if request.status is None:
            attributes["error.type"] = "disconnect"  # the client went before its answer
        else:
            attributes["http.response.status_code"] = request.status
            if request.status >= _SERVER_ERROR:
                attributes["error.type"] = str(request.status)
        if "error.type" in attributes:
            made.set_status(trace.StatusCode.ERROR)
        made.set_attributes(attributes)
        made.end()
        _REQUESTS.record(took, attributes, within)
