"""Read connections: opened when first needed, each call alone on one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

from aiovec.backend.limits import Gate, current_deadline
from aiovec.errors import AiovecError, StoreClosedError

from .connection import (
    CancelledWorkError,
    Connection,
    ConnectionClosedError,
    Ticket,
    clear_frames_of,
)
from .errors import translated

_T = TypeVar("_T")


class Read(Protocol):
    """``ReaderPool.read``."""

    def __call__(self, work: Callable[[sqlite3.Connection, Ticket], _T], /) -> Awaitable[_T]: ...


# The page cache, in KiB, of what reads each page once: the inner pages of the trees that it walks.
_ASIDE_CACHE = 512


class ReaderPool:
    """At most ``size`` connections. Readers in WAL mode never wait for the writer.

    ``check_file`` is called behind each work, so that no result comes from a file that is no longer
    the store's; it also explains what failed.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        target: str,
        size: int,
        busy_timeout: float,
        check_file: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect = connect
        self._check_file = check_file
        self._target = target
        self._size = size
        self._busy_timeout = busy_timeout
        self._places = Gate(f"the {size} reading connections are in use", calls=size)
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False

    async def read(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], *, in_transaction: bool = True
    ) -> _T:
        """Run the work on a connection of its own, in one snapshot of the file.

        When the caller is cancelled, the work is interrupted, and this ends with it. StoreBusyError
        where no connection is free in time.
        """
        self._check_open()
        async with self._places.enter(current_deadline(self._busy_timeout)):
            connection = self._idle.pop() if self._idle else await self._opened()
            try:
                act = partial(_in_snapshot, work) if in_transaction else work
                return await self._run(connection, act)
            finally:
                self._idle.append(connection)

    @asynccontextmanager
    async def aside(self) -> AsyncGenerator[Read, None]:
        """Reads on a further connection, all in one snapshot, for what takes long."""
        connection = await self._opened()

        async def run(work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
            return await self._run(connection, partial(_in_open_snapshot, work))

        try:
            yield run
        finally:
            self._open.discard(connection)
            await connection.close()

    async def _run(
        self, connection: Connection, work: Callable[[sqlite3.Connection, Ticket], _T]
    ) -> _T:
        def checked(db: sqlite3.Connection, ticket: Ticket) -> _T:
            try:
                with translated(self._target):
                    return work(db, ticket)
            finally:
                self._check_file()

        try:
            return await connection.read(checked)
        except (AiovecError, ConnectionClosedError, CancelledWorkError) as exc:
            # The last connection to be closed takes the WAL with it, and others are interrupted.
            self._check_open(exc)
            raise

    async def _opened(self) -> Connection:
        self._check_open()
        connection = self._connect()
        self._open.add(connection)
        try:
            with translated(self._target):
                await connection
            self._check_open()  # it may have been closed meanwhile
        except BaseException as exc:
            self._open.discard(connection)
            connection.begin_closing()
            if isinstance(exc, AiovecError):
                self._check_open(exc)
            raise
        return connection

    def _check_open(self, cause: Exception | None = None) -> None:
        if self._closed:
            raise StoreClosedError(self._target) from cause

    async def close(self) -> None:
        """Interrupt what runs and close every connection."""
        self._closed = True
        await asyncio.gather(*(connection.close_now() for connection in list(self._open)))
        # Calls whose connections were still being opened give back last.
        for _ in range(self._size):
            await self._places.enter(None).take()
        self._open.clear()
        self._idle.clear()


def _in_open_snapshot(
    work: Callable[[sqlite3.Connection, Ticket], _T], db: sqlite3.Connection, ticket: Ticket
) -> _T:
    """Run the work in the read transaction that the first one began."""
    if not db.in_transaction:
        db.execute(f"PRAGMA cache_size = {-_ASIDE_CACHE}")
        db.execute("BEGIN")
    return work(db, ticket)


def _in_snapshot(
    work: Callable[[sqlite3.Connection, Ticket], _T], db: sqlite3.Connection, ticket: Ticket
) -> _T:
    """Run the work in one read transaction, so that its statements see the same state."""
    _end_transaction(db, ticket)  # of a call before, where that failed
    db.execute("BEGIN")
    try:
        return work(db, ticket)
    except BaseException as exc:
        # SQLite forgets an interrupt when no statement runs any more, so no cursor may be left.
        clear_frames_of(exc)
        raise
    finally:
        _end_transaction(db, ticket)


def _end_transaction(db: sqlite3.Connection, ticket: Ticket) -> None:
    if db.in_transaction:
        with ticket.uninterrupted:  # interrupted, it would leave the transaction to the next call
            db.execute("ROLLBACK")
