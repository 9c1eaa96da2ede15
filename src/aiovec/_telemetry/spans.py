"""Spans of calls: ``with span(operation, place): ...; operation.rows = 3``.

``VectorStore`` imports this module, and ``connect`` imports ``VectorStore`` in a thread. So
OpenTelemetry is not loaded by ``import aiovec`` and not on the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

from .calls import Attributes, Operation

try:
    from . import otel
except (ImportError, AttributeError, TypeError):
    otel = None  # type: ignore[assignment]  # not installed, or older than the extra "otel" asks for

Watch = AbstractContextManager[object, None]
"""Within it something is reported. It lets every exception pass."""

_NOTHING = nullcontext()


def span(operation: Operation, place: Attributes, *, current: bool = True) -> Watch:
    """Report what is done within as one call.

    A span that is not ``current`` may begin and end in different tasks.
    """
    if otel is None or not otel.is_configured():
        return _NOTHING
    return cast("Watch", otel.span(operation, place, current=current))


def called_by(headers: Mapping[str, str]) -> Watch:
    """Make the calls within children of the span that a request's ``traceparent`` names."""
    if otel is None or not headers or not otel.is_configured():
        return _NOTHING
    return cast("Watch", otel.called_by(headers))
