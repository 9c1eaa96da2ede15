"""What a write's work gets: the connection, change numbers, and a check of its caller."""

from __future__ import annotations

import sqlite3

from aiovec.backend.commit import WriteCall

from .connection import CancelledWorkError

# More rows than this are not written within a savepoint.
_MOST_ROWS_IN_SAVEPOINT = 1000


class TooLargeForGroupError(Exception):
    """Raised by work that wants a commit of its own. Never reaches a user."""


class Change:
    """The newest change number, read and written once for each commit."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class Transaction:
    """The means of a write's work: the connection, change numbers, and a check of its caller."""

    __slots__ = ("_alone", "_call", "_change", "db")

    def __init__(
        self, db: sqlite3.Connection, change: Change, call: WriteCall | None, *, alone: bool
    ) -> None:
        self.db = db
        self._change = change
        self._call = call
        self._alone = alone

    def expect(self, rows: int) -> None:
        """Say how many rows will be written, before the first: many get a commit of their own.

        Within a savepoint SQLite looks through all that the savepoint has saved for each further
        row of vec0, so that 20,000 rows take ten times as long as without one.
        """
        if rows > _MOST_ROWS_IN_SAVEPOINT and not self._alone:
            raise TooLargeForGroupError

    def check(self) -> None:
        """Raise CancelledWorkError, and so roll back, where the caller has gone."""
        if self._call is not None and self._call.gone:
            raise CancelledWorkError

    @property
    def newest(self) -> int:
        """The newest change number taken so far."""
        return self._change.number

    def take(self, count: int = 1) -> int:
        """Reserve change numbers; the first of them. They rise and are never used again."""
        first = self._change.number + 1
        self._change.number += count
        return first
