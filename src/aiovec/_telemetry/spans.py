"""Spans of calls: ``with span(operation, place): ...; operation.rows = 3``.

``VectorStore`` imports this module, and ``connect`` imports ``VectorStore`` in a thread. So
OpenTelemetry is not loaded by ``import aiovec`` and not on the event loop. Telemetry reports names,
counts, durations and the classes of errors: never a row, an id, a vector, a filter or the message
of an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

from .._model.redaction import redacted

try:
    from . import otel
except (ImportError, AttributeError, TypeError):
    otel = None  # type: ignore[assignment]  # not installed, or older than the extra "otel" requires

Watch = AbstractContextManager[object, None]
"""A block that is reported. It passes every exception on."""

_NOTHING = nullcontext()

Attributes = Mapping[str, str | int]


def place_of(backend: str, target: str) -> Attributes:
    """Return the attributes that name a backend, without the secrets of its target."""
    return {
        "db.system.name": backend,
        # A path may contain bytes that are not text.
        "db.namespace": redacted(target).encode("utf-8", "replace").decode("utf-8"),
    }


@dataclass(slots=True)
class Operation:
    """One call of a user: its method, its table and its number of rows."""

    name: str
    table: str | None = None
    place: Attributes | None = None
    """The backend that served the call, after any migration that the store followed."""
    rows: int | None = None
    """The number of rows returned, written or deleted."""


def span(operation: Operation, place: Attributes, *, current: bool = True) -> Watch:
    """Report the block as one call.

    A span that is not ``current`` may begin and end in different tasks.
    """
    if otel is None or not otel.is_configured():
        return _NOTHING
    return cast("Watch", otel.span(operation, place, current=current))


def called_by(headers: Mapping[str, str]) -> Watch:
    """Make the calls in the block children of the span in a request's ``traceparent``."""
    if otel is None or not headers or not otel.is_configured():
        return _NOTHING
    return cast("Watch", otel.called_by(headers))
