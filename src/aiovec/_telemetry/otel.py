"""Spans and metrics that follow OpenTelemetry's conventions for database clients.

Only this module imports OpenTelemetry, and it imports only the API: the app decides where spans
and metrics go. A provider that the app sets later gets them too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, metrics, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import Attributes, Reported

# Reading the version from the installed metadata would block the event loop.
_VERSION = sys.modules["aiovec"].__version__
_TRACER = trace.get_tracer("aiovec", _VERSION)
_METER = metrics.get_meter("aiovec", _VERSION)
_DURATIONS = _METER.create_histogram(
    "db.client.operation.duration",
    unit="s",
    description="Duration of database client operations.",
    # The bucket boundaries that the conventions recommend.
    explicit_bucket_boundaries_advisory=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10),
)
_ROWS = _METER.create_histogram(
    "aiovec.rows",
    unit="{row}",
    description="Rows that a call returned, wrote or deleted.",
    explicit_bucket_boundaries_advisory=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000),
)
# Not the global propagator, which cannot be loaded if the environment names a missing propagator.
_CALLERS = TraceContextTextMapPropagator()


def is_configured() -> bool:
    """Return whether the app has set a provider; the API's defaults do nothing."""
    return not (
        type(trace.get_tracer_provider()).__module__.startswith("opentelemetry.trace")
        and type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")
    )


@contextmanager
def span(call: str, table: str | None, place: Attributes, *, current: bool) -> Iterator[Reported]:
    """Create the span of a call, and record its duration and rows."""
    attributes, name, reported = {**place, "db.operation.name": call}, call, Reported(place)
    if table is not None:
        attributes["db.collection.name"] = table
        name = f"{call} {table}"
    client_span = _TRACER.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)
    within = trace.set_span_in_context(client_span)
    token = context.attach(within) if current else None
    began = time.perf_counter()
    late: dict[str, str | int] = {}
    try:
        yield reported
    except asyncio.CancelledError:
        late["aiovec.cancelled"] = True
        raise
    except GeneratorExit:  # an export that was closed early
        raise
    except BaseException as exc:
        client_span.set_status(trace.StatusCode.ERROR)
        # Only the class: a message may name ids and quote filters.
        late["error.type"] = type(exc).__qualname__
        raise
    finally:
        took = time.perf_counter() - began
        if token is not None:
            context.detach(token)
        late.update(reported.place)
        attributes.update(late)
        _DURATIONS.record(took, attributes, within)
        if reported.rows is not None:
            _ROWS.record(reported.rows, attributes, within)
            late["aiovec.rows"] = reported.rows
        client_span.set_attributes(late)
        client_span.end()


@contextmanager
def called_by(headers: Mapping[str, str]) -> Iterator[None]:
    """Make the caller's span the parent of the spans in the block."""
    token = context.attach(_CALLERS.extract(headers))
    try:
        yield
    finally:
        context.detach(token)
