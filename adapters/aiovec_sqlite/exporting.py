"""An export that takes long must not keep the WAL growing.

SQLite cannot cut the WAL while somebody reads an older state of the file. An export reads one for
as long as its reader takes, which may be hours. So beyond some growth it goes on in a copy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from aiovec.backend import BESIDE, in_thread, remove_abandoned
from aiovec.errors import AiovecError, StoreClosedError

from .connection import Ticket
from .driver import connect
from .reads import Export

LOG = logging.getLogger("aiovec.sqlite")

# Four times what ``journal_size_limit`` leaves of it: a copy of the whole file is worth it then.
MOST_WAL = 256 * 2**20
# Seconds between looks at the WAL's size.
LOOK_EVERY = 1.0
_PAGES_AT_ONCE = 4096

Run = Callable[[Callable[[sqlite3.Connection, Ticket], bool]], Awaitable[bool]]


class OwnCopy:
    """The copy of one export's snapshot, once there is one. Every method belongs into a thread."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._name = f".{os.path.basename(target)}.{uuid.uuid4().hex[:12]}.export"
        self._db: sqlite3.Connection | None = None

    @property
    def _path(self) -> Path:
        return Path(self._target).resolve().with_name(self._name)

    def is_due(self) -> bool:
        try:
            return os.stat(f"{os.path.realpath(self._target)}-wal").st_size > MOST_WAL
        except OSError:
            return False

    def move(self, walk: Export, db: sqlite3.Connection, ticket: Ticket) -> bool:
        """Copy the snapshot that ``db`` reads, let the walk go on there, and let go of it."""
        begin = f".{os.path.basename(self._target)}."
        remove_abandoned(self._path.parent, begin, ".export")
        copy = connect(str(self._path))  # beside the store, where there is room for as much
        try:
            copy.execute("PRAGMA synchronous = OFF")
            db.backup(copy, pages=_PAGES_AT_ONCE, progress=lambda *_: ticket.check())
            copy.execute("PRAGMA journal_mode = DELETE").fetchone()
            walk.go_on_in(copy)
        except BaseException:
            copy.close()
            self._remove()
            raise
        self._db = copy
        if os.name != "nt":  # which removes no file that is open
            self._remove()
        db.execute("ROLLBACK")
        return True

    def close(self) -> None:
        """Let go of the copy, when the thread has ended."""
        if self._db is not None:
            self._db.close()
            self._remove()

    def _remove(self) -> None:
        for end in ("", *BESIDE):
            with suppress(OSError):
                Path(f"{self._path}{end}").unlink()


async def bound_wal(target: str, walk: Export, copy: OwnCopy, run: Run) -> None:
    """Look at the WAL until it is too long, and have the export go on in a copy then."""
    while not await in_thread(copy.is_due):  # noqa: ASYNC110 - nobody tells of its growth
        await asyncio.sleep(LOOK_EVERY)
    try:
        await run(lambda db, ticket: copy.move(walk, db, ticket))
    except StoreClosedError:
        return
    except AiovecError as exc:
        text = "an open export keeps the WAL of %s growing until it ends; copying it failed: %s"
        await in_thread(LOG.warning, text, target, exc)
