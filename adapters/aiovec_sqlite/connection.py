"""One SQLite connection on its own thread, driven by aiosqlite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import aiosqlite

from .driver import load_driver

_T = TypeVar("_T")

# How often, in seconds, a cancelled call's statement is interrupted until it has ended. The first
# interrupt can fall between two statements.
_INTERRUPT_EVERY = 0.005


class CancelledWorkError(Exception):
    """Raised inside a thread's work whose caller has gone. Never reaches a user."""


class Ticket:
    """Tells the work on a thread that its caller has gone."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled = False

    def check(self) -> None:
        """Raise CancelledWorkError where nobody waits for the outcome any more."""
        if self.cancelled:
            raise CancelledWorkError


class Connection(aiosqlite.Connection):
    """aiosqlite's connection that runs whole units of work in one hop to its thread.

    aiosqlite serialises statements, not transactions: tasks that share a connection could
    interleave inside one. So a transaction is one function here, never a row of awaits.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection], name: str) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._closing: asyncio.Task[None] | None = None
        self._thread.name = name
        self._thread.run = partial(_run_to_loops_end, self._thread.run)  # type: ignore[method-assign]
        # A store that nobody closed must not keep the process from ending.
        self._thread.daemon = True

    async def close(self) -> None:
        """Close after the work that runs. May be called twice, at once too."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(super().close())
        await asyncio.shield(self._closing)

    async def interrupt(self) -> None:
        """Interrupt what runs, if anything does and the connection is not closed meanwhile."""
        with suppress(ValueError, load_driver().Error):
            await super().interrupt()

    async def close_now(self) -> None:
        """Close, and interrupt what runs until that has taken effect."""
        closing = asyncio.ensure_future(self.close())
        while not closing.done():
            # Work of several statements needs several interrupts.
            await self.interrupt()
            await asyncio.wait({closing}, timeout=_INTERRUPT_EVERY)
        closing.result()

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run the work on the connection's thread. Being cancelled does not stop it."""
        result: _T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result

    async def run_cancellable(
        self, work: Callable[[sqlite3.Connection, Ticket], _T], finished: Callable[[], None]
    ) -> _T:
        """Run the work; a cancelled caller leaves at once and the work is interrupted.

        ``finished`` is called when the thread is free again, whoever waits for that.
        """
        ticket = Ticket()
        task = asyncio.ensure_future(self.run(partial(_with_ticket, work, ticket)))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            ticket.cancelled = True
            raise
        finally:
            if task.done():
                finished()
            else:
                _linger(self._interrupt(task, finished))

    async def _interrupt(self, task: asyncio.Task[_T], finished: Callable[[], None]) -> None:
        try:
            while not task.done():
                await self.interrupt()
                await asyncio.wait({task}, timeout=_INTERRUPT_EVERY)
            task.exception()  # nobody is left to hear of it
        finally:
            finished()


def _run_to_loops_end(run: Callable[[], None]) -> None:
    """Run a connection's thread, which ends without a word when the loop it answers is closed.

    That happens where a store was never closed, or where nobody waited for its opening to fail.
    """
    with suppress(RuntimeError):
        run()


def _with_ticket(
    work: Callable[[sqlite3.Connection, Ticket], _T], ticket: Ticket, db: sqlite3.Connection
) -> _T:
    ticket.check()
    return work(db, ticket)


_LINGERING: set[asyncio.Task[None]] = set()


def _linger(coroutine: Coroutine[Any, Any, None]) -> None:
    """Keep a reference on a task nobody awaits: the loop itself keeps only a weak one."""
    task = asyncio.ensure_future(coroutine)
    _LINGERING.add(task)
    task.add_done_callback(_LINGERING.discard)
