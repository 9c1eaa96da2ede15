"""SQLite connections, driven by aiosqlite. They work in threads that all stores share.

Reads use a pool of connections. ``Transaction`` is passed to a write's work.
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
from aiovec.backend.limits import Gate, current_deadline
from aiovec.backend.threads import FORKED, REST, begin_in_thread, do_for
from aiovec.errors import AiovecError, StoreClosedError

from .driver import load_driver
from .errors import failures, translate

_T = TypeVar("_T")

# Seconds between interrupts of a cancelled call's statement. The first interrupt can fall between
# two statements.
_INTERRUPT_EVERY = 0.005
# The page cache, in KiB, of long reads, which read each page once except the inner pages of trees.
_ASIDE_CACHE = 512
# More rows than this are not written in a savepoint.
_MOST_ROWS_IN_SAVEPOINT = 1000


class CancelledWorkError(Exception):
    """Raised in a thread's work after its caller has gone. Never reaches a user."""


class Ticket:
    """State that a caller shares with its work on a thread: cancellation and progress."""

    __slots__ = ("begun", "over", "stop", "uninterrupted")

    def __init__(self, uninterrupted: threading.Lock) -> None:
        self.begun = False
        self.over = False
        # 1 once the caller has gone; native code also reads it.
        self.stop = ctypes.c_byte(0)
        # Held by work that must not be interrupted. sqlite-vec crashes if it is interrupted while
        # it prepares its statements for finding a row, at a connection's first look-up.
        self.uninterrupted = uninterrupted

    def check(self) -> None:
        """Raise CancelledWorkError if the caller has gone."""
        if self.stop.value:
            raise CancelledWorkError


class _Outcome(asyncio.Future[Any]):
    """The outcome of work on the thread.

    A cancelled task that awaits it continues only after the work has ended, and then gets the
    cancellation. ``interrupt`` is called with the loop, which need not be running.
    """

    interrupt: Callable[[asyncio.AbstractEventLoop], None] | None = None

    def cancel(self, msg: Any = None) -> bool:
        if self.interrupt is not None:
            self.interrupt(self.get_loop())
        return False


class _Queue:
    """The work of one connection, done in order, one piece at a time, by any free thread.

    It replaces aiosqlite's queue, which has its own thread. That thread ends if the loop of a
    waiting call is closed, and keeps the process from ending until then.
    """

    def __init__(self) -> None:
        self._work: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        # Held while a thread does the work.
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
            # Work that was put just before this release could not begin a thread.
            if not (self._work and self._running.acquire(blocking=False)):
                return


class Connection(aiosqlite.Connection):
    """aiosqlite's connection that runs whole units of work in one hop to a thread.

    aiosqlite serialises statements, not transactions: tasks that share a connection could
    interleave inside one. So a transaction is one function here, never a row of awaits.

    It opens with its first work, closes when idle, and opens again. If it is ``kept``, it only
    frees its memory when idle, and other processes see that the file is in use.

    ``check_file`` is called after each read, so that no result comes from a file that is no longer
    the store's; it also explains failures.
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
        """Rest if no work was submitted for some seconds."""
        self._timer = None
        if self._closing:
            return
        if self._used or self._tx.running:
            self._used = False
            self._look_later(asyncio.get_running_loop())
        else:
            self._tx.put_nowait((None, self._rest_here))

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        # An empty context: a call's context may hold large objects of its app.
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
        # The interpreter starts no threads while it exits.
        if os.getpid() == self._process and not sys.is_finalizing():
            getattr(super(), "__del__", self.begin_closing)()  # aiosqlite 0.22 warns there

    # Closing

    async def close(self) -> None:
        """Close after the running work. May be called twice, even at the same time."""
        self.begin_closing()
        await asyncio.shield(asyncio.wrap_future(self._closed))

    def begin_closing(self) -> None:
        """Request closing after the running work, without waiting."""
        if self._closing or os.getpid() != self._process:
            return
        self._closing = True
        self._running = False
        if self._connection is None and not self._tx.running:  # not opened, or at rest
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
        except BaseException as exc:  # noqa: BLE001 - it belongs to the waiting caller
            self._closed.set_exception(exc)
        else:
            self._closed.set_result(None)

    async def close_now(self) -> None:
        """Close, and interrupt the running work until it has ended."""
        self.begin_closing()  # first: the work must know why it is stopped
        self._ticket.stop.value = 1
        closed = asyncio.wrap_future(self._closed)
        while not closed.done():
            self._interrupt()
            # Work of several statements needs several interrupts.
            await asyncio.wait({closed}, timeout=_INTERRUPT_EVERY)
        closed.result()

    # Work

    async def read(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], *, snapshot: bool = True
    ) -> _T:
        """Run the work, by default in one read transaction, whose statements see the same state.

        If the caller is cancelled, the work is interrupted, and both end. Errors of the driver are
        translated; StoreClosedError if the connection is closed before the end.
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
                    # SQLite forgets an interrupt once no statement runs, so no cursor may be left.
                    clear_frames_of(exc)
                    raise
                finally:
                    _end_transaction(db, ticket)
            finally:
                with ticket.uninterrupted:  # a later interrupt would stop the next work
                    ticket.over = True
                self._check_file()
        except Exception as exc:
            if self._closing:  # which interrupts
                raise StoreClosedError(self._target) from exc
            if isinstance(exc, failures()):
                raise translate(exc, self._target) from exc
            raise

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run the work to its end, even if the caller is cancelled, and return its result."""
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
        """Interrupt the work of a cancelled caller repeatedly until it is over."""
        if not ticket.stop.value:
            ticket.stop.value = 1
            self._interrupt_until_over(loop, ticket)

    def _interrupt_until_over(self, loop: asyncio.AbstractEventLoop, ticket: Ticket) -> None:
        if not ticket.over:
            self._interrupt(ticket)
            loop.call_later(_INTERRUPT_EVERY, self._interrupt_until_over, loop, ticket)

    def _interrupt(self, ticket: Ticket | None = None) -> None:
        """Interrupt the running work, or only this ticket's; try again later if it is protected."""
        connection = self._connection
        if connection is None or os.getpid() != self._process:
            return
        if self._uninterrupted.acquire(blocking=False):
            try:
                if ticket is None or (ticket.begun and not ticket.over):
                    with suppress(load_driver().Error):  # it has just been closed
                        connection.interrupt()
            finally:
                self._uninterrupted.release()


def clear_frames_of(error: BaseException) -> None:
    """Clear the variables of the functions that an error and its causes came through.

    Otherwise a cursor among them would be reset when the error is dropped, on another thread: that
    waits for the statement running here, and crashes if this thread is closing the connection.
    """
    left, seen = [error], set[int]()
    while left:
        cause = left.pop()
        seen.add(id(cause))
        traceback.clear_frames(cause.__traceback__)
        causes = (cause.__cause__, cause.__context__)
        left += [cause for cause in causes if cause is not None and id(cause) not in seen]


# The open connections, for a fork.
_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()

# The files that were open when this process was forked.
_INHERITED: set[str] = set()


def check_not_inherited(file: str | os.PathLike[str]) -> None:
    """Raise AiovecError if the file was open in the process that this one was forked from.

    SQLite remembers a process's locks in memory, which a fork copies, but the child does not get
    the locks. A connection in the child would work without them.
    """
    if _INHERITED and os.path.realpath(file) in _INHERITED:
        raise AiovecError(
            f"{os.fspath(file)} was open when this process was forked, so SQLite cannot use it "
            "safely here; open the store after the fork, close it before, or start processes with "
            "spawn or forkserver"
        )


def _after_fork() -> None:
    """Keep a forked child from touching the SQLite connections of its parent.

    The interpreter would close them at its end, which could delete the parent's WAL. So they are
    never freed.
    """
    for connection in list(_OPEN):
        if connection._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection._connection))
            if connection._file:
                _INHERITED.add(os.path.realpath(connection._file))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Read(Protocol):
    """``ReaderPool.read``."""

    def __call__(self, work: Callable[[sqlite3.Connection, Ticket], _T], /) -> Awaitable[_T]: ...


class ReaderPool:
    """At most ``size`` reading connections. In WAL mode they never wait for the writer."""

    def __init__(
        self, connect: Callable[[], Connection], target: str, size: int, busy_timeout: float
    ) -> None:
        self._connect = connect
        self._target = target
        self._size = size
        self._busy_timeout = busy_timeout
        self._places = Gate(f"the {size} reading connections are in use", calls=size)
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._closed = False

    async def read(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], *, snapshot: bool = True
    ) -> _T:
        """Run the work on a separate connection, as ``Connection.read`` does.

        StoreBusyError if no connection is free in time.
        """
        self._check_open()
        async with self._places.enter(current_deadline(self._busy_timeout)):
            connection = self._take()
            try:
                return await connection.read(work, snapshot=snapshot)
            finally:
                self._idle.append(connection)

    @asynccontextmanager
    async def reader(self) -> AsyncGenerator[Connection, None]:
        """Yield a connection for reads that other code limits in number and time."""
        self._check_open()
        async with self._places.enter(None):
            connection = self._take()
            try:
                yield connection
            finally:
                self._idle.append(connection)

    @asynccontextmanager
    async def aside(self) -> AsyncGenerator[Read, None]:
        """Yield reads that do not count in the pool's size, all in one snapshot, for long work."""
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
        # Calls whose connections were still being opened return them last.
        for _ in range(self._size):
            await self._places.enter(None).take()
        self._open.clear()
        self._idle.clear()


def _begin_aside(db: sqlite3.Connection, ticket: Ticket) -> None:
    """Begin the one read transaction of a connection for long work."""
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
    """Passed to a write's work: the connection, change numbers, and a check of the caller.

    Calls of one commit share it. ``call`` is the call whose work runs, if it runs by itself, and
    ``alone`` is true if that call has the commit to itself.
    """

    __slots__ = ("alone", "call", "db", "newest")

    def __init__(self, db: sqlite3.Connection, newest: int, *, alone: bool) -> None:
        self.db = db
        # The newest change number taken so far.
        self.newest = newest
        self.alone = alone
        self.call: WriteCall | None = None

    def expect(self, rows: int) -> None:
        """Announce the number of rows before writing the first: many rows get their own commit.

        In a savepoint, SQLite searches all pages that the savepoint has saved for each further row
        of vec0, so 20,000 rows take ten times as long as without one.
        """
        if rows > _MOST_ROWS_IN_SAVEPOINT and not self.alone:
            raise TooLargeForGroupError

    def check(self) -> None:
        """Raise CancelledWorkError, and so roll back, if the caller has gone."""
        if self.call is not None and self.call.gone:
            raise CancelledWorkError

    def take(self, count: int = 1) -> int:
        """Reserve change numbers; return the first. They rise and are never used again."""
        first = self.newest + 1
        self.newest += count
        return first
