"""SQLite connections, built on aiosqlite, that run their work in threads shared by all stores.

Reads use a pool of connections. A write is a function that gets a ``Transaction``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import sqlite3
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from typing import Any, Protocol, TypeVar

import aiosqlite

from aiovec.backend.commit import WriteCall
from aiovec.backend.limits import Gate
from aiovec.backend.threads import FORKED, REST, begin_in_thread, do_for
from aiovec.errors import AiovecError, StoreClosedError

from .driver import load_driver
from .errors import failures, translate

_T = TypeVar("_T")

# Seconds between interrupts of a cancelled call's statement. The first interrupt can fall between
# two statements.
_INTERRUPT_EVERY = 0.005
# The page cache of long reads, in KiB. They read each page once, except the inner pages of trees.
_ASIDE_CACHE = 512
# The most rows to write in a savepoint.
_MOST_ROWS_IN_SAVEPOINT = 1000


class CancelledWorkError(Exception):
    """Raised inside work on a thread after its caller was cancelled. Never reaches a user."""


class Ticket:
    """State that a caller shares with its work on a thread: cancellation and progress."""

    __slots__ = ("begun", "over", "stop", "uninterrupted")

    def __init__(self, uninterrupted: threading.Lock) -> None:
        self.begun = False
        self.over = False
        # 1 after the caller was cancelled; native code also reads this flag.
        self.stop = ctypes.c_byte(0)
        # Held by work that must not be interrupted. sqlite-vec crashes if it is interrupted while
        # a connection's first lookup of a row prepares statements.
        self.uninterrupted = uninterrupted

    def check(self) -> None:
        """Raise CancelledWorkError if the caller was cancelled."""
        if self.stop.value:
            raise CancelledWorkError


class _Outcome(asyncio.Future[Any]):
    """The outcome of work on a thread.

    If a task is cancelled while it awaits this future, CancelledError is raised only after the work
    has ended. ``cancel`` calls ``interrupt`` with the loop, which need not be running.
    """

    interrupt: Callable[[asyncio.AbstractEventLoop], None] | None = None

    def cancel(self, msg: Any = None) -> bool:
        if self.interrupt is not None:
            self.interrupt(self.get_loop())
        return False


class _Queue:
    """A queue of one connection's work, which any free thread does in order, one item at a time.

    It replaces aiosqlite's queue, which has its own thread. That thread stops if a waiting call's
    loop is closed, and the process cannot exit while the thread runs.
    """

    def __init__(self) -> None:
        self._work: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        # Held while a thread does queued work.
        self._running = threading.Lock()

    @property
    def running(self) -> bool:
        return bool(self._work) or self._running.locked()

    def put_nowait(self, work: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        self._work.append(work)
        if self._running.acquire(blocking=False):
            try:
                begin_in_thread(self._run)
            except AiovecError:  # the system allows no more threads; later work tries again
                self._work.remove(work)
                self._running.release()
                raise

    def _run(self) -> None:
        while True:
            while self._work:
                waiting, work = self._work.popleft()
                do_for(waiting, work, clear_frames_of)
                del waiting, work  # keep no references to this work while waiting for the next
            self._running.release()
            # Work that was added just before this release could not start a thread.
            if not (self._work and self._running.acquire(blocking=False)):
                return


class Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs each unit of work in one hop to a thread.

    aiosqlite serialises statements, not transactions: tasks that share a connection could
    interleave inside one. So a transaction is one function here, never a series of awaits.

    A connection opens for its first work, closes when idle, and reopens for later work. A ``kept``
    connection stays open when idle and only frees memory, so other processes see that the file is
    in use.

    Each read ends with a call of ``check_file``, so that no result comes from a replaced file. If a
    read fails because its file was replaced, the check's error is raised instead.
    """

    def __init__(
        self,
        opener: Callable[[Ticket], sqlite3.Connection],
        target: str,
        *,
        kept: bool = False,
        check_file: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(lambda: opener(self._ticket), iter_chunk_size=64)
        self._opener = opener
        self._check_file = check_file
        self._process = os.getpid()
        self._target = target
        self._kept = kept
        self._file = ""
        self._uninterrupted = threading.Lock()
        self._ticket = Ticket(self._uninterrupted)
        self._closing = False
        self._closed: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._tx: Any = _Queue()
        # True if work was submitted since the timer last fired. The timer runs while more work is
        # likely.
        self._used = False
        self._timer: asyncio.TimerHandle | None = None
        _OPEN.add(self)

    def _open_here(self, ticket: Ticket) -> sqlite3.Connection:
        if self._connection is None:
            db = self._opener(ticket)
            factory, db.text_factory = db.text_factory, os.fsdecode  # a path need not be UTF-8
            self._file = db.execute("PRAGMA database_list").fetchone()[2] or ""
            db.text_factory = factory
            self._connection = db  # from here on, it can be interrupted
        return self._connection

    def _look(self) -> None:
        """Close the connection, or free its memory, if it has had no work for ``REST`` seconds."""
        self._timer = None
        if self._closing:
            return
        if self._used or self._tx.running:
            self._used = False
            self._look_later(asyncio.get_running_loop())
        else:
            self._tx.put_nowait((None, self._rest_here))

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        # Use an empty context, because a call's context may hold large objects of its app.
        self._timer = loop.call_later(REST, self._look, context=Context())

    def _rest_here(self) -> None:
        db = self._connection
        if db is None or db.in_transaction:  # an export continues in its snapshot
            return
        if self._kept:
            db.execute("PRAGMA shrink_memory")
        else:
            self._connection = None
            db.close()

    def __del__(self) -> None:
        # The interpreter cannot start threads while it exits.
        if os.getpid() == self._process and not sys.is_finalizing():
            getattr(super(), "__del__", self.begin_closing)()  # aiosqlite 0.22's __del__ warns

    # Closing

    async def close(self) -> None:
        """Close the connection when its work has ended. May be called twice, even concurrently."""
        self.begin_closing()
        await asyncio.shield(asyncio.wrap_future(self._closed))

    def begin_closing(self) -> None:
        """Begin to close the connection; its running work ends first."""
        if self._closing or os.getpid() != self._process:
            return
        self._closing = True
        self._running = False
        if self._connection is None and not self._tx.running:  # not opened, or closed when idle
            self._closed.set_result(None)
        else:
            self._tx.put_nowait((None, self._close_here))

    def stop(self) -> None:
        self.begin_closing()

    def _close_here(self) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        except BaseException as exc:  # noqa: BLE001 - the waiting caller gets it
            self._closed.set_exception(exc)
        else:
            self._closed.set_result(None)

    async def close_now(self) -> None:
        """Close the connection, and interrupt the running work repeatedly until it has ended."""
        self.begin_closing()  # first, so that the work knows why it is stopped
        self._ticket.stop.value = 1
        closed = asyncio.wrap_future(self._closed)
        while not closed.done():
            self._interrupt()
            # Work with several statements may need several interrupts.
            await asyncio.wait({closed}, timeout=_INTERRUPT_EVERY)
        closed.result()

    # Work

    async def read(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], *, snapshot: bool = True
    ) -> _T:
        """Run the work, by default in one read transaction, whose statements see one snapshot.

        If the caller is cancelled, the work is interrupted. The driver's errors are translated.
        Raises StoreClosedError if the connection is closed before the work has ended.
        """
        ticket = self._ticket = Ticket(self._uninterrupted)
        return await self._submit(
            partial(self._read_here, work, ticket, snapshot), partial(self._give_up, ticket)
        )

    def _read_here(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], ticket: Ticket, snapshot: bool
    ) -> _T:
        try:
            try:
                ticket.check()
                db = self._open_here(ticket)
                ticket.begun = True
                ticket.check()
                if not snapshot:
                    return work(db, ticket)
                _end_transaction(db, ticket)  # left by an earlier call that failed
                db.execute("BEGIN")
                try:
                    return work(db, ticket)
                except BaseException as exc:
                    # SQLite forgets an interrupt once no statement runs, so close all cursors.
                    clear_frames_of(exc)
                    raise
                finally:
                    _end_transaction(db, ticket)
            finally:
                with ticket.uninterrupted:  # a later interrupt would stop the next work
                    ticket.over = True
                self._check_file()
        except Exception as exc:
            if self._closing:  # closing interrupts the work
                raise StoreClosedError(self._target) from exc
            if isinstance(exc, failures()):
                raise translate(exc, self._target) from exc
            raise

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run the work to completion, even if the caller is cancelled, and return its result."""
        done = self._submit(lambda: work(self._open_here(Ticket(self._uninterrupted))))
        try:
            return await done
        except asyncio.CancelledError:
            return done.result()
        finally:
            del done  # it refers to the error, which refers to this frame

    def _submit(
        self,
        work: Callable[[], _T],
        interrupt: Callable[[asyncio.AbstractEventLoop], None] | None = None,
    ) -> asyncio.Future[_T]:
        if os.getpid() != self._process:
            raise StoreClosedError(self._target, FORKED)
        if self._closing:
            raise StoreClosedError(self._target)
        loop = asyncio.get_running_loop()
        self._used = True
        if self._timer is None:
            self._look_later(loop)
        done = _Outcome(loop=loop)
        done.interrupt = interrupt
        self._tx.put_nowait((done, work))
        return done

    def _give_up(self, ticket: Ticket, loop: asyncio.AbstractEventLoop) -> None:
        """Interrupt a cancelled caller's work repeatedly until the work has ended."""
        if not ticket.stop.value:
            ticket.stop.value = 1
            self._interrupt_until_over(loop, ticket)

    def _interrupt_until_over(self, loop: asyncio.AbstractEventLoop, ticket: Ticket) -> None:
        if not ticket.over:
            self._interrupt(ticket)
            loop.call_later(_INTERRUPT_EVERY, self._interrupt_until_over, loop, ticket)

    def _interrupt(self, ticket: Ticket | None = None) -> None:
        """Interrupt the running work unless protected; with ``ticket``, only the ticket's work."""
        connection = self._connection
        if connection is None or os.getpid() != self._process:
            return
        if self._uninterrupted.acquire(blocking=False):
            try:
                if ticket is None or (ticket.begun and not ticket.over):
                    with suppress(load_driver().Error):  # the connection has just been closed
                        connection.interrupt()
            finally:
                self._uninterrupted.release()


def clear_frames_of(error: BaseException) -> None:
    """Clear the local variables in the tracebacks of an error and its causes.

    Otherwise any thread that drops the error would reset the cursors among these variables. A reset
    would wait for the connection's running statement, or crash if the connection is being closed.
    """
    left, seen = [error], set[int]()
    while left:
        cause = left.pop()
        seen.add(id(cause))
        traceback.clear_frames(cause.__traceback__)
        causes = (cause.__cause__, cause.__context__)
        left += [cause for cause in causes if cause is not None and id(cause) not in seen]


# All connections, for ``_after_fork``.
_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()

# The files that were open when this process was forked.
_INHERITED: set[str] = set()


def check_not_inherited(file: str | os.PathLike[str]) -> None:
    """Raise AiovecError if the parent process had the file open when it forked this process.

    SQLite records a process's locks in memory. A fork copies the record but not the locks, so a
    connection in the child would work without locks.
    """
    if _INHERITED and os.path.realpath(file) in _INHERITED:
        raise AiovecError(
            f"{os.fspath(file)} was open when this process was forked, so SQLite cannot use it "
            "safely here; open the store after the fork, close it before, or start processes with "
            "spawn or forkserver"
        )


def _after_fork() -> None:
    """Keep a forked child from touching its parent's SQLite connections.

    The interpreter would close these connections on exit, which could delete the parent's WAL. So
    the child never frees them.
    """
    for connection in list(_OPEN):
        if connection._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection._connection))
            if connection._file:
                _INHERITED.add(os.path.realpath(connection._file))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Read(Protocol):
    """The signature of ``ReaderPool.read``."""

    def __call__(self, work: Callable[[sqlite3.Connection, Ticket], _T], /) -> Awaitable[_T]: ...


class ReaderPool:
    """A pool of up to ``size`` reading connections, which in WAL mode never wait for the writer.

    A read waits without a time limit until a connection is free.
    """

    def __init__(self, connect: Callable[[], Connection], target: str, size: int) -> None:
        self._connect = connect
        self._target = target
        self._size = size
        self._places = Gate(f"the {size} reading connections are in use", calls=size)
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False

    async def read(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], *, snapshot: bool = True
    ) -> _T:
        """Run the work on a connection of the pool, like ``Connection.read``."""
        self._check_open()
        async with self._places.enter(None):
            connection = self._take()
            try:
                return await connection.read(work, snapshot=snapshot)
            finally:
                self._idle.append(connection)

    @asynccontextmanager
    async def reader(self) -> AsyncGenerator[Connection, None]:
        """Yield a connection of the pool."""
        self._check_open()
        async with self._places.enter(None):
            connection = self._take()
            try:
                yield connection
            finally:
                self._idle.append(connection)

    @asynccontextmanager
    async def aside(self) -> AsyncGenerator[Read, None]:
        """Yield a function for long reads in one snapshot.

        The connection for these reads does not count towards ``size``.
        """
        connection = self._take()
        try:
            await connection.read(_begin_aside, snapshot=False)
            yield partial(connection.read, snapshot=False)
        finally:
            self._open.discard(connection)
            await connection.close()

    def _take(self) -> Connection:
        self._check_open()
        if self._idle:
            return self._idle.pop()
        connection = self._connect()
        self._open.add(connection)
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self._target)

    async def close(self) -> None:
        """Interrupt running work and close every connection."""
        self._closed = True
        await asyncio.gather(*(connection.close_now() for connection in list(self._open)))
        # Wait for calls that were still opening their connections.
        for _ in range(self._size):
            await self._places.enter(None).take()
        self._open.clear()
        self._idle.clear()


def _begin_aside(db: sqlite3.Connection, ticket: Ticket) -> None:
    """Begin the read transaction in which a connection for long reads does all its work."""
    _end_transaction(db, ticket)  # left by an earlier call that failed
    db.execute(f"PRAGMA cache_size = {-_ASIDE_CACHE}")
    db.execute("BEGIN")


def _end_transaction(db: sqlite3.Connection, ticket: Ticket) -> None:
    if db.in_transaction:
        with ticket.uninterrupted:  # an interrupt would leave the transaction to the next call
            db.execute("ROLLBACK")


class TooLargeForGroupError(Exception):
    """Raised by work that needs its own commit. Never reaches a user."""


class Transaction:
    """A write transaction: the connection, change numbers, and a check for cancellation.

    All calls in a commit share a transaction. ``call`` is the running call, or None while several
    calls run as one. ``alone`` is true if the commit has only one call.
    """

    __slots__ = ("alone", "call", "db", "newest")

    def __init__(self, db: sqlite3.Connection, newest: int, *, alone: bool) -> None:
        self.db = db
        # The newest change number taken so far.
        self.newest = newest
        self.alone = alone
        self.call: WriteCall | None = None

    def expect(self, rows: int) -> None:
        """Announce how many rows the call will write, before it writes the first.

        Raises TooLargeForGroupError if many rows would be written in a group: for each row of vec0,
        SQLite searches all pages that the group's savepoint has saved, so 20,000 rows take ten
        times as long as they take alone.
        """
        if rows > _MOST_ROWS_IN_SAVEPOINT and not self.alone:
            raise TooLargeForGroupError

    def check(self) -> None:
        """Raise CancelledWorkError, which undoes the call's work, if the caller was cancelled."""
        if self.call is not None and self.call.gone:
            raise CancelledWorkError

    def take(self, count: int = 1) -> int:
        """Reserve ``count`` ascending change numbers, which are never reused; return the first."""
        first = self.newest + 1
        self.newest += count
        return first
