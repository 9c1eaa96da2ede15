"""Spans and durations of a store's calls, if the app has set up OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Attributes = Mapping[str, str | int]


@dataclass(slots=True)
class Reported:
    """Facts for a call's span that are known only when the call ends."""

    place: Attributes
    """The backend that served the call, after any migration that the store followed."""
    rows: int | None = None
    """The number of rows returned, written or deleted."""
