"""Load, renew and drop the copies and words of tables that are kept in memory.

Copies and words are loaded in the background, in separate snapshots, and may be in scan files.
Copies are loaded one at a time, and so are the words of tables, so that each load sees how much
memory earlier loads have taken.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from aiovec.backend import Int64Array
from aiovec.backend.contract import StaleTableError, TableHandle
from aiovec.backend.threads import Background, in_daemon_thread, in_thread
from aiovec.errors import AiovecError

from ..connection import ReaderPool, Ticket
from ..layout import TableLayout, current_table
from ..text_index import serving
from .copy import ResidentCopy, rows_to_load
from .postings import make_postings
from .scanfile import NewFile, ScanFiles, read_segments, size_of
from .segments import State
from .words import TooFewRowsError, Words, rows_to_keep

LOG = logging.getLogger("aiovec")

TOO_LARGE = "it is larger than the memory for copies"
# The shares of the memory limit that one table's masks, its words, and its copy's changes can take.
_FOR_MASKS, _FOR_WORDS, _FOR_CHANGES = 1 / 16, 1 / 8, 1 / 2
# Seconds until a retry after a failure, and until the next check of a table with few texts.
PAUSE, _UNTIL_MORE = 60.0, 1.0
# A copy is rebuilt when this share of its scan file's rows has changed or, without a scan file,
# when it has this many more dead rows than live rows. The pause after a build is this many times as
# long as the build.
_WORN, _GONE, _BETWEEN_BUILDS = 1 / 8, 256, 4
# A copy with more changes than this share of its rows is rebuilt, not updated.
_FOLLOWED = 1 / 2
# Seconds between checks of a scan file that another process is writing.
_LOOK = 0.2
# Postings of at least this many bytes get a file.
_WORDS_IN_FILE = 4 * 2**20

PutToken = Callable[[TableHandle, str, str | None], Awaitable[None]]
"""Stores the token of a table's scan file, which makes the file valid. The arguments are the table,
the kind of the file's contents, and the token, or None to remove the stored token."""


_T = TypeVar("_T", ResidentCopy, Words)


class Keeper(ABC):
    """The state that the copies and words of all tables share."""

    def __init__(
        self, readers: ReaderPool, files: ScanFiles | None, put_token: PutToken, memory: int
    ) -> None:
        self.readers = readers
        self.files = files
        self.put_token = put_token
        self.memory = memory
        # Includes the tasks of tables that were dropped from memory.
        self.tasks = Background()
        self.closed = False
        # Only one table's copy, and one table's words, are loaded at a time.
        self.turns = {"codes": asyncio.Lock(), "words": asyncio.Lock()}

    @abstractmethod
    def has_room(self, wanted: int = 0) -> bool:
        """Return whether ``wanted`` more bytes fit; if necessary, unload idle tables first."""

    @abstractmethod
    def stale(self, table: TableHandle) -> None:
        """Release the memory of a table that was dropped or altered in the file."""

    @abstractmethod
    def ready(self) -> None:
        """Start the searches that wait for a copy."""

    def clean(self) -> None:
        """Begin to remove scan files whose tokens are not in the store."""
        files = self.files
        if files is not None and files.can_write and not self.closed:
            self.tasks.start(self._clean(files))

    async def _clean(self, files: ScanFiles) -> None:
        with suppress(Exception):  # the next call retries
            await self.readers.read(lambda db, _: files.clean(db))


class Kept(ABC, Generic[_T]):
    """A table's copy or words; ``value`` is None until they are loaded."""

    kind: str

    def __init__(self, table: TableHandle, keeper: Keeper) -> None:
        self.table = table
        self.value: _T | None = None
        self._keeper = keeper
        self._task: asyncio.Task[None] | None = None
        # The earliest times to retry a load, to renew the value, and to use a scan file.
        self.retry_at = self.renew_at = self.file_at = 0.0

    @property
    def is_loading(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def nbytes(self) -> int:
        value = self.value  # another thread may remove it
        return 0 if value is None else value.nbytes

    def begin(self, before: _T | None = None) -> asyncio.Task[None] | None:
        """Begin to load the value, or to renew ``before``; return None if no load can begin now."""
        if self._keeper.closed or self.is_loading or time.monotonic() < self.retry_at:
            return None
        self._task = self._keeper.tasks.start(self._load_until_ready(before))
        return self._task

    def drop(self) -> None:
        """Drop the value, and stop loading it."""
        self.value = None
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def gets_file(self, size: int) -> bool:
        """Return whether a value of ``size`` bytes would be written to a scan file."""
        files = self._keeper.files
        if files is None or not files.can_write or time.monotonic() < self.file_at:
            return False
        return size >= self._least(files)

    async def forget_file(self) -> None:
        """Make all processes stop using the scan file, and remove it."""
        files = self._keeper.files
        if files is not None and files.can_write:
            with suppress(AiovecError):
                await self._keeper.put_token(self.table, self.kind, None)
            self._keeper.clean()

    async def _load_until_ready(self, before: _T | None) -> None:
        began = time.monotonic()
        try:
            while not await self._load_once(before):
                pass
        except StaleTableError:
            self._keeper.stale(self.table)
        except Exception as exc:  # noqa: BLE001 - the file gives the same results
            self.renew_at = time.monotonic() + PAUSE
            self._failed(exc)
        else:
            ended = time.monotonic()
            self.renew_at = ended + _BETWEEN_BUILDS * (ended - began)
            self.keep_to_memory()
        # For example, a store may have been restored next to an earlier store's scan files.
        self._keeper.clean()

    async def _load_once(self, before: _T | None) -> bool:
        """Load the value; return False if the caller has to retry."""
        new: list[NewFile] = []
        loaded = False
        try:
            loaded = await self._load(before, new)
            if new:
                await in_daemon_thread(new[0].flush)
                await self._keeper.put_token(self.table, self.kind, new[0].token)
                await in_thread(new.pop().end)
        except OSError:
            if time.monotonic() < self.file_at:  # the failure was not in a scan file
                raise
            self.file_at = time.monotonic() + PAUSE
            if loaded:  # after a failed flush, memory may differ from what was written
                self.value = None
            return False
        finally:
            for file in new:
                await in_thread(file.discard)
        if not loaded:
            await asyncio.sleep(_LOOK)
        return loaded

    @abstractmethod
    async def _load(self, before: _T | None, new: list[NewFile]) -> bool:
        """Set the value from a recent snapshot; return False if the caller has to retry.

        Appends the scan file, if one is created, to ``new``.
        """

    @abstractmethod
    def _failed(self, error: Exception) -> None:
        """Handle a failed load; without a value, searches read the store's file until a retry."""

    @abstractmethod
    def _least(self, files: ScanFiles) -> int:
        """Return the smallest size in bytes for which the value gets a scan file."""

    @abstractmethod
    def keep_to_memory(self) -> None:
        """Drop the value if the memory limit is exceeded."""


class KeptCopy(Kept[ResidentCopy]):
    """The codes and vectors of a table."""

    kind = "codes"

    def __init__(self, table: TableHandle, keeper: Keeper) -> None:
        super().__init__(table, keeper)
        self.reason = ""
        """The reason why the copy could not be loaded; empty if it was loaded."""

    def is_worn(self, state: State) -> bool:
        """Return whether so many rows have changed that the copy should be rebuilt."""
        if time.monotonic() < self.renew_at:
            return False
        if state.is_mapped or self.gets_file(size_of(state.rows, self.table.schema.dim)):
            return state.changed > _WORN * state.rows
        return state.dead > state.rows + _GONE

    def mapped(self, db: sqlite3.Connection, layout: TableLayout) -> ResidentCopy | None:
        """Return a copy that maps the table's scan file; None without a valid file."""
        files, read = self._keeper.files, partial(read_segments, table=layout)
        state = None if files is None else files.find(db, layout, self.kind, read)
        return None if state is None else self._copy_of(layout, state)

    def _copy_of(self, layout: TableLayout, state: State | None = None) -> ResidentCopy:
        return ResidentCopy(layout, int(self._keeper.memory * _FOR_MASKS), state)

    async def _load(self, before: ResidentCopy | None, new: list[NewFile]) -> bool:
        """Load the copy: update ``before`` or the copy in the scan file, or build a new copy."""
        files, dim = self._keeper.files, self.table.schema.dim
        async with self._keeper.turns[self.kind], self._keeper.readers.aside() as read:
            copy, rows, has_file = await read(partial(self._look, before))
            if rows is not None:
                size = size_of(len(rows), dim)
                large = files is not None and size >= files.least
                if large and files is not None and await in_thread(files.waits, self.kind):
                    return False
                in_file = self.gets_file(size)
                if not in_file:
                    worn = self.value and self.value.state
                    # Private memory is better than a worn scan file only if most rows are dead.
                    if (worn and worn.dead <= worn.rows) or not self._keeper.has_room(size):
                        raise AiovecError(TOO_LARGE)

                def load(db: sqlite3.Connection, ticket: Ticket) -> None:
                    if in_file and files is not None:
                        new.append(files.new(self.kind, size))
                    copy.load(db, ticket, rows, new[0] if new else None)

                await read(load)
                if has_file and not large:
                    self._keeper.tasks.start(self.forget_file())  # the table has shrunk
        self.value, self.reason = copy, ""
        self._keeper.ready()
        return True

    def _look(
        self, before: ResidentCopy | None, db: sqlite3.Connection, ticket: Ticket
    ) -> tuple[ResidentCopy, Int64Array | None, bool]:
        """Return an up-to-date copy, or else an empty copy and the rows to load.

        With rows to load, the last item is True if the table has a valid scan file.
        """
        layout = current_table(db, self.table)
        copy, mapped = before, self.mapped(db, layout)
        if mapped is not None and (before is None or mapped.file_change > before.file_change):
            copy = mapped
        if copy is not None and copy is not self.value:
            most = self._keeper.memory * _FOR_CHANGES / size_of(1, layout.schema.dim)
            if copy.follow(db, ticket, min(most, _FOLLOWED * copy.rows)):
                return copy, None, True
        return self._copy_of(layout), rows_to_load(db, layout), mapped is not None

    def _least(self, files: ScanFiles) -> int:
        return files.least

    def _failed(self, error: Exception) -> None:
        if self.value is None:
            self.refuse(str(error))

    def keep_to_memory(self) -> None:
        """If the memory limit is exceeded, drop the copy; a later copy may go into a scan file."""
        copy = self.value
        if copy is None or copy.state is None or self._keeper.has_room():
            return
        if self.gets_file(size_of(copy.state.rows, copy.table.schema.dim)):
            self.drop()
        else:
            self.refuse(TOO_LARGE)

    def refuse(self, reason: str) -> None:
        """Drop the copy; searches read the store's file until a load is retried."""
        self.drop()
        self.retry_at = time.monotonic() + PAUSE
        if reason != self.reason:  # log in a thread: it may write to a file
            self.reason, name = reason, self.table.name
            say = partial(LOG.warning, "table %s is searched from the file: %s", name, reason)
            self._keeper.tasks.start(in_thread(say))


class KeptWords(Kept[Words]):
    """The words of a table's text index."""

    kind = "words"

    def __init__(self, table: TableHandle, keeper: Keeper) -> None:
        super().__init__(table, keeper)
        self._most = int(keeper.memory * _FOR_WORDS)
        # The largest size of the words that was checked against the memory limit.
        self._checked_bytes = 0
        self._following: asyncio.Task[None] | None = None
        # The first search acquires this lock, maps the file, and never releases the lock.
        self._first = threading.Lock()

    def find(self, db: sqlite3.Connection) -> Words | None:
        """Return the words, or None if they are not loaded. The first call maps their file."""
        if self.value is None and self._first.acquire(blocking=False):
            layout = current_table(db, self.table)
            self.value = Words.mapped(db, layout, self._most, self._keeper.files)
        return self.value

    def look_after(self) -> None:
        """After a search by words, begin to load the words or to bring them up to date."""
        words = self.value
        if words is None:
            self.begin()
        elif words.lost:
            if words.spoiled:
                self.retry_at = time.monotonic() + PAUSE
                self._keeper.tasks.start(self.forget_file())
            self.value = None
            self.begin()
        elif words.behind:
            if not self._keeper.closed and (self._following is None or self._following.done()):
                self._following = self._keeper.tasks.start(self._follow(words))
        else:
            if words.worn and time.monotonic() >= self.renew_at:
                self.begin(words)
            if words.nbytes > self._checked_bytes:
                self._checked_bytes = words.nbytes
                self.keep_to_memory()

    async def _follow(self, words: Words) -> None:
        try:
            async with self._keeper.readers.aside() as read:
                await read(words.follow)
        except Exception as exc:  # noqa: BLE001 - FTS5 answers, or reports why it cannot
            words.lost = True
            self._failed(exc)

    async def _load(self, before: Words | None, new: list[NewFile]) -> bool:
        keeper = self._keeper

        def load(db: sqlite3.Connection, ticket: Ticket) -> Words | None:
            layout, files = current_table(db, self.table), keeper.files
            words = Words.mapped(db, layout, self._most, files)
            if words is not None:
                words.follow(db, ticket)
                if not words.lost and (before is None or words.begun_at > before.begun_at):
                    return words
            index = serving(db, layout)
            rows, size = rows_to_keep(db, index, self._most)
            if files is not None and self.gets_file(size):
                if files.waits(self.kind):
                    return None
                new.append(files.new(self.kind, size))
            elif size > self._most // 2:
                raise AiovecError(TOO_LARGE)
            postings = make_postings(db, ticket, layout, index, rows, new[0] if new else None)
            return Words(db, layout, index, self._most, postings)

        async with keeper.turns[self.kind]:
            async with keeper.readers.aside() as read:
                words = await read(load)
            if words is not None and self.value is not None:  # the old words were updated meanwhile
                async with keeper.readers.aside() as read:
                    await read(words.follow)
        if words is None or words.lost:
            return False
        self.value, self._checked_bytes = words, 0
        return True

    def _least(self, files: ScanFiles) -> int:
        return min(files.least, _WORDS_IN_FILE)

    def _failed(self, error: Exception) -> None:
        few = isinstance(error, TooFewRowsError)
        self.retry_at = time.monotonic() + (_UNTIL_MORE if few else PAUSE)

    def keep_to_memory(self) -> None:
        if self.value is not None and not self._keeper.has_room():
            self.value = None
            self.retry_at = time.monotonic() + PAUSE
