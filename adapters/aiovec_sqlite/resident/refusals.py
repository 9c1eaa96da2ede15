"""Which tables are not copied for now, and when it is worth another try."""

from __future__ import annotations

import time
from dataclasses import dataclass

from aiovec.backend import TableHandle

# Seconds until a load that failed is tried again; each further failure doubles them.
_FIRST_PAUSE = 1.0
# The longest pause, and the only one where the table itself is in the way: it may have shrunk. A
# look costs a count of its rows, on a connection of its own.
_LONGEST_PAUSE = 300.0


@dataclass(slots=True)
class _Refusal:
    token: object
    reason: str
    failures: int
    until: float


class Refusals:
    """The tables of one store whose searches the file answers for a while."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Refusal] = {}

    def holds(self, table: TableHandle) -> bool:
        """Whether it is too early to try to copy the table."""
        refusal = self._by_name.get(table.name)
        return (
            refusal is not None
            and refusal.token == table.token
            and time.monotonic() < refusal.until
        )

    def add(self, table: TableHandle, reason: str, *, failed: bool) -> bool:
        """Let the table wait; whether the reason is another one than the last time.

        ``failed`` tells that something went wrong that may go well soon.
        """
        now = time.monotonic()
        before = self._by_name.get(table.name)
        if before is not None and before.token != table.token:
            before = None
        failures = (0 if before is None else before.failures) + 1 if failed else 0
        # The exponent is bounded, since failures are not.
        pause = _FIRST_PAUSE * 2 ** min(failures - 1, 30) if failed else _LONGEST_PAUSE
        self._forget_old(now)
        until = now + min(pause, _LONGEST_PAUSE)
        self._by_name[table.name] = _Refusal(table.token, reason, failures, until)
        return before is None or before.reason != reason

    def settle(self, table: TableHandle) -> None:
        """The table was copied. Its last reason stays known, so that it is not told twice."""
        refusal = self._by_name.get(table.name)
        if refusal is not None:
            refusal.failures = 0
            refusal.until = time.monotonic()

    def _forget_old(self, now: float) -> None:
        """Tables may come and go under ever new names."""
        for name, refusal in list(self._by_name.items()):
            if refusal.until + _LONGEST_PAUSE < now:
                del self._by_name[name]
