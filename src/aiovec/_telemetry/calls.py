"""The facts of a call that telemetry reports.

They are names, counts, durations and the classes of errors: never a row, an id, a vector, a filter
or the message of an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._model.redaction import redacted

Attributes = Mapping[str, str | int]


def place_of(backend: str, target: str) -> Attributes:
    """Return the attributes that name a backend, without the secrets of its target."""
    return {
        "db.system.name": backend,
        # A path may hold bytes that are no text.
        "db.namespace": redacted(target).encode("utf-8", "replace").decode("utf-8"),
    }


class Operation:
    """One call of a user: its method, its table, and how many rows it came to."""

    __slots__ = ("name", "place", "rows", "table")

    def __init__(self, name: str, table: str | None = None) -> None:
        self.name = name
        self.table = table
        self.place: Attributes | None = None
        """The backend that answered, if the store followed a migration during the call."""
        self.rows: int | None = None
        """The number of rows returned, written or deleted."""


class HttpRequest:
    """A request to the server. ``route`` and ``status`` are known at its end.

    ``caller`` holds the headers that name the client's span.
    """

    __slots__ = ("caller", "method", "route", "scheme", "status")

    def __init__(self, method: str, scheme: str, caller: Mapping[str, str]) -> None:
        self.method = method
        self.scheme = scheme
        self.caller = caller
        self.route: str | None = None
        self.status: int | None = None
