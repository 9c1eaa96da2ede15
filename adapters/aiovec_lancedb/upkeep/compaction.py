"""Making a table small again: few files, new rows in its indexes, old versions gone.

Lance does the three in one call, ``optimize``: it rewrites neighbouring files that hold few rows
as one, brings new rows into indexes, and removes every version older than it is told, counted
from the moment when the rest is done. It does not know who reads a version. So what it is told
here is the age of the oldest version to keep and the time that the call may take at most, and the
call is ended when it takes longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiovec.backend.contract import TableHandle
from aiovec.backend.threads import in_thread

from ..session import Opened, Session
from .retention import Retention, versions_of

# A file of a table is left as it is when it has this many rows, unless many are deleted.
FULL_FILE = 1_048_576
# For calls that are to remove no version; nothing is as old as this.
_NEVER = timedelta(days=36_500)
# For calls that are to leave the newest version only, which Lance never removes. It warns of 0.
_AT_ONCE = timedelta(milliseconds=1)
# Seconds that a call may take that has only versions to remove, one attempt after another.
_REMOVALS = (0.25, 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Compaction:
    """The compaction of one table: among its writes as an operation, or beside them by ``run``."""

    handle: TableHandle
    retention: Retention
    pinned: Callable[[], int | None]
    """The oldest version that somebody reads for long; it may read the disk."""

    async def run(self, session: Session, *, alone: bool) -> None:
        """Compact the table. ``alone``: nobody writes meanwhile."""
        table = await session.opened(self.handle)
        await _optimize(session, table, _NEVER)
        for seconds in _REMOVALS:
            table = await session.opened(self.handle)  # what was rewritten is another version
            age = await self._age(session, table, alone=alone)
            if age is None:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    slack = timedelta() if age == _AT_ONCE else timedelta(seconds=seconds)
                    await _optimize(session, table, age + slack)
                return

    async def _age(self, session: Session, table: Opened, *, alone: bool) -> timedelta | None:
        """Return the age up to which versions are kept; None if none is to go."""
        versions = await versions_of(session, table)
        pinned = await in_thread(self.pinned)
        now = datetime.now(UTC)
        first = self.retention.first_kept(versions, now, pinned)
        if first == versions[-1] and alone:
            return _AT_ONCE
        return None if first is None else now - first.created


async def _optimize(session: Session, table: Opened, age: timedelta) -> None:
    await session.run(table.lance.optimize(cleanup_older_than=age))
