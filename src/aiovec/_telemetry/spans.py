"""Spans of calls: ``with span("search", "docs", place) as reported: ...``.

OpenTelemetry is used only if the app has imported it, before or after opening the store:
otherwise the app cannot have set a provider. Telemetry reports names, counts, durations and the
classes of errors: never a row, an id, a vector, a filter or the message of an error.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from .._tools.redaction import redacted
from . import Attributes, Reported

_NO_SPAN = nullcontext()


def attributes_of(backend: str, target: str) -> Attributes:
    """Return the attributes that name a backend, without the secrets of its target."""
    return {
        "db.system.name": backend,
        # A path may contain bytes that are not text.
        "db.namespace": redacted(target).encode("utf-8", "replace").decode("utf-8"),
    }


@lru_cache(maxsize=1)
def _otel() -> Any:
    try:
        from . import otel
    except (ImportError, AttributeError, TypeError):  # older than the extra "otel" requires
        return None
    return otel


def _configured() -> Any:
    """Return the module that calls OpenTelemetry; None if the app has set no provider."""
    otel = _otel()
    return otel if otel is not None and otel.is_configured() else None


def span(
    call: str, table: str | None, place: Attributes, *, current: bool = True
) -> AbstractContextManager[Reported | None, None]:
    """Report the block as one call, or yield None if the app has not set up OpenTelemetry.

    A span that is not ``current`` may begin and end in different tasks.
    """
    otel = _configured() if "opentelemetry" in sys.modules else None
    return _NO_SPAN if otel is None else otel.span(call, table, place, current=current)


def called_by(headers: Mapping[str, str]) -> AbstractContextManager[None, None]:
    """Make the span in a request's ``traceparent`` the parent of the spans in the block."""
    otel = _configured() if headers and "opentelemetry" in sys.modules else None
    return _NO_SPAN if otel is None else otel.called_by(headers)
