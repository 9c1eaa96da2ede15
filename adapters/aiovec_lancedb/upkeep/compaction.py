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


async def compact(
    session: Session,
    handle: TableHandle,
    retention: Retention,
    pinned: Callable[[], int | None],
    *,
    alone: bool,
) -> None:
    """Compact a table. ``alone``: nobody writes meanwhile.

    ``pinned`` tells the oldest version that somebody reads for long; it may read the disk.
    """
    await _optimize(session, await session.opened(handle), _NEVER)
    for seconds in _REMOVALS:
        table = await session.opened(handle)  # what was rewritten is another version
        versions = await versions_of(session, table)
        oldest = await in_thread(pinned)
        now = datetime.now(UTC)
        first = retention.first_kept(versions, now, oldest)
        if first is None:
            return
        age = now - first.created + timedelta(seconds=seconds)
        if first == versions[-1] and alone:
            age = _AT_ONCE
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await _optimize(session, table, age)
            return


async def _optimize(session: Session, table: Opened, age: timedelta) -> None:
    await session.run(table.lance.optimize(cleanup_older_than=age))
