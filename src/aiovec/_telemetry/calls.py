"""The facts of a call that telemetry reports.

They are names, counts, durations and the classes of errors: never a row, an id, a vector, a filter
or the message of an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .._model.redaction import redacted

Attributes = Mapping[str, str | int]


def place_of(backend: str, target: str) -> Attributes:
    """Return the attributes that name a backend, without the secrets of its target."""
    return {
        "db.system.name": backend,
        # A path may hold bytes that are no text.
        "db.namespace": redacted(target).encode("utf-8", "replace").decode("utf-8"),
    }


@dataclass(slots=True)
class Operation:
    """One call of a user: its method, its table, and how many rows it came to."""

    name: str
    table: str | None = None
    place: Attributes | None = None
    """The backend that answered, if the store followed a migration during the call."""
    rows: int | None = None
    """The number of rows returned, written or deleted."""
