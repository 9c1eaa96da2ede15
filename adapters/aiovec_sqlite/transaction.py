"""What a write's work is, and what it gets to do it with."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from .connection import Ticket

# More rows than this are not written within a savepoint.
_MOST_ROWS_IN_SAVEPOINT = 1000


class TooLargeForGroupError(Exception):
    """Raised by work that wants a commit of its own. Never reaches a user."""


class Transaction:
    """What a write's work gets: the connection, change numbers, and whether it is still wanted."""

    __slots__ = ("_alone", "_change", "_ticket", "db")

    def __init__(
        self, db: sqlite3.Connection, change: Change, ticket: Ticket, *, alone: bool
    ) -> None:
        self.db = db
        self._change = change
        self._ticket = ticket
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
        self._ticket.check()

    @property
    def newest(self) -> int:
        """The newest change number taken so far."""
        return self._change.number

    def take(self, count: int = 1) -> int:
        """Reserve change numbers; the first of them. They rise and are never used again."""
        first = self._change.number + 1
        self._change.number += count
        return first


class Change:
    """The newest change number, read and written once for each commit."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class JoinableWork(ABC):
    """Work that can be done in one go with more of its kind that waits beside it.

    A statement for all of them costs little more than one for each, and each costs several
    hand-overs of the interpreter (``python -m bench writers``).
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """How many rows it writes."""

    @abstractmethod
    def joins(self, other: object) -> bool:
        """Whether the other one may be done in the same go."""

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> Callable[[Transaction], object]:
        """The work of this one and the others behind it. Where it fails, each is done alone."""

    @abstractmethod
    def __call__(self, tx: Transaction) -> object:
        """Do it alone."""
