"""Read connections: opened when first needed, each call alone on one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from aiovec.errors import StoreClosedError

from .connection import Connection, Ticket
from .errors import failures, translate, translated

_T = TypeVar("_T")


class ReaderPool:
    """At most ``size`` connections. Readers in WAL mode never wait for the writer."""

    def __init__(self, connect: Callable[[], Connection], target: str, size: int) -> None:
        self._connect = connect
        self._target = target
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
        """Run the work on a connection of its own, in one snapshot of the file.

        A cancelled caller leaves at once; the statement is interrupted and the connection comes
        back to the pool when that has taken effect.
        """
        return await self.run_outside_snapshot(
            lambda db, ticket: in_snapshot(db, lambda: work(db, ticket))
        )

    async def run_outside_snapshot(self, work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
        """The same for what cannot run in a transaction."""
        if self._closed:
            raise StoreClosedError(self._target)
        await self._places.acquire()
        try:
            with translated(self._target):
                connection = await self._take()
        except BaseException:
            self._places.release()
            raise
        try:
            return await connection.run_cancellable(work, lambda: self._give_back(connection))
        except failures() as exc:
            if self._closed:
                raise StoreClosedError(self._target) from exc
            raise translate(exc, self._target) from exc
        except ValueError as exc:
            if self._closed:  # aiosqlite's word for a closed connection
                raise StoreClosedError(self._target) from exc
            raise

    async def _take(self) -> Connection:
        if self._idle:
            return self._idle.pop()
        connection = self._connect()
        await connection
        if self._closed:  # while it was being opened
            await connection.close()
            raise StoreClosedError(self._target)
        self._open.add(connection)
        return connection

    def _give_back(self, connection: Connection) -> None:
        if not self._closed:
            self._idle.append(connection)
        self._places.release()

    async def close(self) -> None:
        """Interrupt what runs and close every connection."""
        self._closed = True
        await asyncio.gather(*(connection.close_now() for connection in self._open))
        # Connections that were still being opened close themselves; their calls give back last.
        for _ in range(self._size):
            await self._places.acquire()
        self._open.clear()
        self._idle.clear()


class SharedConnection:
    """``:memory:``: the writer's connection serves for reads too, one call at a time.

    With a shared cache an open reader would make writes fail as locked.
    """

    def __init__(self, connection: Connection, target: str) -> None:
        self._connection = connection
        self._target = target
        self._lock = asyncio.Lock()
        self._closed = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._lock:
            yield

    async def run(self, work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
        """As ``ReaderPool.run``; the lock is what makes the snapshot."""
        return await self.run_outside_snapshot(
            lambda db, ticket: in_snapshot(db, lambda: work(db, ticket))
        )

    async def run_outside_snapshot(self, work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
        """As ``ReaderPool.run_outside_snapshot``."""
        self._check_open()
        await self._lock.acquire()
        try:
            self._check_open()
        except BaseException:
            self._lock.release()
            raise
        try:
            return await self._connection.run_cancellable(work, self._lock.release)
        except failures() as exc:
            raise translate(exc, self._target) from exc

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self._target)

    async def close(self) -> None:
        """Take no more reads, and wait for the one that runs."""
        self._closed = True
        async with self._lock:
            pass


def in_snapshot(db: sqlite3.Connection, work: Callable[[], _T]) -> _T:
    """Run the work in one read transaction, so that its statements see the same state."""
    db.execute("BEGIN")
    try:
        return work()
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
