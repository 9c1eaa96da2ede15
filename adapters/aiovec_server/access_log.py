"""The access log: one line of JSON for each request.

No query, header, body, id of a row or key is in it.
"""

from __future__ import annotations

from .lines import Lines
from .observing import Observed


class AccessLog:
    """Writes a line for each request that ended."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def begun(self) -> None:
        pass

    def ended(self, observed: Observed) -> None:
        facts: dict[str, object] = {
            "request": observed.id,
            "client": observed.client,
            "method": observed.method,
            "route": observed.route,
            "table": observed.table,
            "status": observed.status,
            "ms": round(observed.seconds * 1000, 3),
            "received": observed.received,
            "sent": observed.sent,
        }
        if observed.access is not None:
            facts["key"] = observed.access
        if not observed.whole:
            facts["broken"] = True
        self._lines.put(facts)
