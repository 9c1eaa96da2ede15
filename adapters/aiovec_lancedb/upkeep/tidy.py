"""Making a table small again: few files, new rows in its indexes, old versions gone.

Lance does the three in one call, ``optimize``: it rewrites neighbouring files that hold few rows
as one, brings new rows into indexes, and removes every version older than it is told, counted
from the moment when the rest is done. It does not know who reads a version. So what it is told
here is the age of the oldest version to keep and the time that the call may take at most, and the
call is ended when it takes longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiovec.backend.contract import TableHandle
from aiovec.backend.threads import in_thread

from ..index.fields import filled_anew
from ..session import Opened, Session
from ..writer import WriteOperation
from .retention import Retention, versions_of

# A file of a table is left as it is when it has this many rows, unless many are deleted.
FULL_FILE = 1_048_576
# For calls that are to remove no version; nothing is as old as this.
_NEVER = timedelta(days=36_500)
# For calls that are to leave the newest version only, which Lance never removes. It warns of 0.
_AT_ONCE = timedelta(milliseconds=1)

# How long, in seconds, a call may take that has only versions to remove, one try after another.
_REMOVALS = (0.03, 0.25, 1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Tidying:
    """The upkeep that one table needs."""

    session: Session
    handle: TableHandle
    retention: Retention
    pinned: Callable[[], int | None]
    """The oldest version that somebody reads for long; it may read the disk."""

    async def run(self, most_time: float | None = None) -> None:
        """All of it. TimeoutError where rewriting takes longer than ``most_time`` seconds.

        Without a bound nobody else may be writing: then removing versions has nothing more to
        rewrite, and takes next to no time.
        """
        table = await self.session.opened(self.handle)
        async with filled_anew(self.session, table.lance):
            if most_time is None:
                await self._optimize(table, _NEVER)
            else:
                # Those that write meanwhile leave more to rewrite, so the removal is not put off.
                first_age = await self._age(table) or _NEVER
                async with asyncio.timeout(most_time):
                    await self._optimize(table, first_age + timedelta(seconds=most_time))
        for most in _REMOVALS:
            # Opened anew: what was rewritten is another version.
            table = await self.session.opened(self.handle)
            age = await self._age(table, alone=most_time is None)
            if age is None:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(most):
                    more = timedelta() if age == _AT_ONCE else timedelta(seconds=most)
                    await self._optimize(table, age + more)
                return

    async def _age(self, table: Opened, *, alone: bool = False) -> timedelta | None:
        """Return the age up to which versions are kept; None if none is to go.

        ``alone``: nobody else writes now.
        """
        versions = await versions_of(self.session, table)
        pinned = await in_thread(self.pinned)
        now = datetime.now(UTC)
        first = self.retention.first_kept(versions, now, pinned)
        if first == versions[-1] and alone:
            return _AT_ONCE
        return None if first is None else now - first.created

    async def _optimize(self, table: Opened, age: timedelta) -> None:
        await self.session.run(table.lance.optimize(cleanup_older_than=age))


class TidyingOperation(WriteOperation):
    """A tidying among the writes of its table, which can be stopped. Its result is the seconds that
    it took; where these would be more than ``patience``, it was in vain."""

    def __init__(self, tidying: Tidying, patience: float | None) -> None:
        self._tidying = tidying
        self._patience = patience
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        began = time.monotonic()
        if not self._stopped:
            self._task = asyncio.ensure_future(self._run())
            try:
                await asyncio.wait({self._task})
            finally:
                self._task.cancel()  # where the loop is about to end
            if not self._task.cancelled():
                self._task.result()
        return [time.monotonic() - began]

    async def _run(self) -> None:
        async with asyncio.timeout(self._patience):
            await self._tidying.run()

    def stop(self) -> None:
        """Have it end soon, whether it began or not."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
