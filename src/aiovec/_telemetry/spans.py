"""Spans of calls: ``with span(operation, place): ...; operation.rows = 3``.

OpenTelemetry is used only if the app has imported it, perhaps after it opened the store: only then
can it have set a provider. Telemetry reports names, counts, durations and the classes of errors:
never a row, an id, a vector, a filter or the message of an error.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import ModuleType
from typing import cast

from .._model.redaction import redacted
from . import Attributes, Operation

Watch = AbstractContextManager[object, None]
"""A block that is reported. It passes every exception on."""

_NOTHING = nullcontext()


def place_of(backend: str, target: str) -> Attributes:
    """Return the attributes that name a backend, without the secrets of its target."""
    return {
        "db.system.name": backend,
        # A path may contain bytes that are not text.
        "db.namespace": redacted(target).encode("utf-8", "replace").decode("utf-8"),
    }


@lru_cache(maxsize=1)
def _otel() -> ModuleType | None:
    try:
        from . import otel
    except (ImportError, AttributeError, TypeError):  # older than the extra "otel" requires
        return None
    return otel


def _configured() -> ModuleType | None:
    """Return the module that calls OpenTelemetry; None if the app has set no provider."""
    if "opentelemetry" not in sys.modules:
        return None
    otel = _otel()
    return otel if otel is not None and otel.is_configured() else None


def span(operation: Operation, place: Attributes, *, current: bool = True) -> Watch:
    """Report the block as one call.

    A span that is not ``current`` may begin and end in different tasks.
    """
    otel = _configured()
    if otel is None:
        return _NOTHING
    return cast("Watch", otel.span(operation, place, current=current))


def called_by(headers: Mapping[str, str]) -> Watch:
    """Make the calls in the block children of the span in a request's ``traceparent``."""
    otel = _configured() if headers else None
    if otel is None:
        return _NOTHING
    return cast("Watch", otel.called_by(headers))
