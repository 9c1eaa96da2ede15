"""Read connections: opened when first needed, each call alone on one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

from aiovec.backend.limits import Gate, current_deadline
from aiovec.backend.threads import wait_out
from aiovec.errors import AiovecError, StoreClosedError, StoreReplacedError

from .connection import (
    CancelledWorkError,
    Connection,
    ConnectionClosedError,
    Ticket,
    clear_frames_of,
)
from .errors import failures, translate, translated

_T = TypeVar("_T")


class Read(Protocol):
    """``ReaderPool.run``."""

    def __call__(self, work: Callable[[sqlite3.Connection, Ticket], _T], /) -> Awaitable[_T]: ...


# The page cache, in KiB, of what reads each page once: the inner pages of the trees that it walks.
_ASIDE_CACHE = 512


@asynccontextmanager
async def reading_aside(connect: Callable[[], Connection]) -> AsyncGenerator[Read, None]:
    """Reads in the background on a connection of their own, all in one snapshot."""
    connection = connect()
    ticket = Ticket()

    def begun(db: sqlite3.Connection) -> sqlite3.Connection:
        if not db.in_transaction:
            db.execute(f"PRAGMA cache_size = {-_ASIDE_CACHE}")
            db.execute("BEGIN")
        return db

    async def run(work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
        return await connection.run(lambda db: work(begun(db), ticket))

    try:
        await connection
        yield run
    finally:
        ticket.cancelled = True
        await connection.close()


class ReaderPool:
    """At most ``size`` connections. Readers in WAL mode never wait for the writer."""

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

    async def run(self, work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
        """Run the work on a connection of its own, in one snapshot of the file.

        A cancelled caller leaves at once; the statement is interrupted and the connection comes
        back to the pool when that has taken effect. StoreBusyError where none comes in time.
        """
        return await self.run_outside_snapshot(lambda db, ticket: in_snapshot(db, ticket, work))

    async def run_outside_snapshot(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], *, until_over: bool = False
    ) -> _T:
        """The same for what cannot run in a transaction.

        ``check_file`` is called behind the work, so that no result comes from a file that is no
        longer the store's. With ``until_over`` a cancelled caller leaves when the interrupt has
        taken effect: the work does nothing any more then.
        """
        self._check_open()
        place = await self._places.enter(current_deadline(self._busy_timeout)).take()
        try:
            with translated(self._target):
                connection = await self._take()
        except BaseException as exc:
            place.leave()
            # Closing interrupts the opening of a connection too.
            if self._closed and isinstance(exc, AiovecError):
                raise StoreClosedError(self._target) from exc
            raise

        def give_back() -> None:
            if not self._closed:
                self._idle.append(connection)
            place.leave()

        try:
            run = run_until_over if until_over else Connection.run_cancellable
            return await run(connection, partial(self._checked, work), give_back)
        except (ConnectionClosedError, CancelledWorkError, StoreReplacedError) as exc:
            # What a connection says that is closed, or was while this ran. The last one to be
            # closed takes the WAL with it.
            if self._closed:
                raise StoreClosedError(self._target) from exc
            raise

    def _checked(
        self,
        work: Callable[[sqlite3.Connection, Ticket], _T],
        db: sqlite3.Connection,
        ticket: Ticket,
    ) -> _T:
        try:
            return translating(self._target, work, db, ticket)
        finally:
            # It also explains what failed.
            self._check_file()

    async def _take(self) -> Connection:
        self._check_open()
        if self._idle:
            return self._idle.pop()
        connection = self._connect()
        self._open.add(connection)
        try:
            await connection
            self._check_open()  # it may have been closed meanwhile
        except BaseException:
            self._open.discard(connection)
            connection.begin_closing()
            raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self._target)

    async def close(self) -> None:
        """Interrupt what runs and close every connection."""
        self._closed = True
        await asyncio.gather(*(connection.close_now() for connection in list(self._open)))
        # Calls whose connections were still being opened give back last.
        for _ in range(self._size):
            await self._places.enter(None).take()
        self._open.clear()
        self._idle.clear()


async def run_until_over(
    connection: Connection,
    work: Callable[[sqlite3.Connection, Ticket], _T],
    give_back: Callable[[], None],
) -> _T:
    """As ``Connection.run_cancellable``, but a cancelled caller leaves when the work has ended."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finished() -> None:
        give_back()
        over.set_result(None)

    try:
        return await connection.run_cancellable(work, finished)
    except asyncio.CancelledError:
        await wait_out(over)
        raise


def translating(
    target: str,
    work: Callable[[sqlite3.Connection, Ticket], _T],
    db: sqlite3.Connection,
    ticket: Ticket,
) -> _T:
    """Do the work, whose statements are interrupted when it is cancelled."""
    try:
        return work(db, ticket)
    except AiovecError:
        raise
    except failures() as exc:
        if ticket.cancelled:
            raise CancelledWorkError from exc
        raise translate(exc, target) from exc


def in_snapshot(
    db: sqlite3.Connection, ticket: Ticket, work: Callable[[sqlite3.Connection, Ticket], _T]
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
        with ticket.whole:  # interrupted, it would leave the transaction to the next call
            db.execute("ROLLBACK")
