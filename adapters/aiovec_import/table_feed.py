"""Follow a table of an app's SQLite database through a queue of its changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiovec._internals import StoreInternals
from aiovec.backend.threads import in_daemon_thread, in_thread
from aiovec.errors import AiovecError, ConfigError, TableNotFoundError

from .feeds import AT_ONCE, LOG, MOST_REFUSED, SourceFeed, shown
from .locks import FileLock
from .sources import CAME_BEFORE, Chunk, ForeignTable, Reject
from .stores.queue import Key, Keys, Mark, Queue, files_of, lock_of
from .stores.sql import SqliteTable, id_of
from .syncing import Change, Item, Seen, SyncImport

if TYPE_CHECKING:
    from .rows import Rows
    from .texts import TextImport

# Seconds between checks for commits: right after a change, and once 7.5 seconds have passed.
_LOOK, _LAST_LOOK = 0.025, 0.1
# Seconds after a change of the files until another look at them. File systems round the times of
# commits that follow one another, Linux to 10 ms.
_SETTLED = 0.05
# Seconds after which ``changed`` returns without a change, and seconds between two writes of the
# mark while the queue has no changes.
_TELL, _LAZY = 1.0, 0.5
# The name used for rows with a null in their key.
_NO_ID = "NULL"
_Rows = tuple[Chunk, set[str]]


class TableFeed(SourceFeed):
    """Follows a SQLite table whose triggers write the keys of changed rows to a queue.

    ``docs/internals/adr/0025`` describes the design. A ``Mark`` is a position in the queue. The
    store keeps the mark in the table's notes, under the source's base. Each step reads the mark,
    because the store may have been restored, reverted or moved.
    """

    def __init__(self, rows: Rows, job: TextImport, every: float) -> None:
        self._rows, self._path, self._wanted = rows, rows.path, rows.wanted
        super().__init__(rows.store, f"{rows.path}#{self._wanted.origin}", job, every)
        # The states of the database's files, when they were first seen and last read, and, at the
        # last step, the newest entry and the schema's version.
        self._files: Any = None
        self._files_at = self._looked_at = 0.0
        self._newest: Any = None
        # The mark in the store, as text and parsed, and the current mark; a mark is None if it
        # is not valid for the queue.
        self._noted: str | None = ""
        self._put_mark: Mark | None = None
        self._mark: Mark | None = None
        self._noted_at = self._stepped_at = self._changed_at = 0.0
        # For the comparison of all rows: its mark, the keys, the position of the last compared key,
        # and all ids.
        self._copying: Mark | None = None
        self._keys: Any = None
        self._copied, self._ids = 0, Seen()
        self._keys_of: dict[str, Key] = {}

    def _take(self) -> None:
        super()._take()
        if self._locks is None:
            return
        queue = FileLock.take(lock_of(self._path, str(self._wanted.origin)), shared=True)
        if queue is None:  # the queue is being removed
            self._locks.close()
            self._locks = None
        else:
            self._locks.callback(queue.close)

    async def begin(self) -> None:
        """Read the table's columns, or raise an error if the table cannot be followed."""
        offered, columns = await in_thread(self._look)
        self._job = self._rows.job(None, offered)
        await self._job.find(self.store)
        cutter = self._job.cutter  # with other lengths, all rows are cut again
        self._shape = [columns, [cutter.limit, cutter.overlap] if cutter else []]
        self._copying = None

    @contextmanager
    def _opened(self, begin: str = "BEGIN") -> Iterator[tuple[Queue, SqliteTable]]:
        """Open the database for one look or, with ``BEGIN IMMEDIATE``, for a write."""
        name = str(self._wanted.origin)
        with (
            closing(Queue(self._path, name, writes=begin != "BEGIN")) as queue,
            queue.snapshot(begin),
        ):
            table = SqliteTable(queue.db, name, self._wanted)
            queue.keys = table.key
            yield queue, table

    def _look(self) -> tuple[ForeignTable, list[str]]:
        with self._opened() as (queue, table):
            if table.key == ["rowid"]:
                raise ConfigError(
                    f"{self.source} has no key that VACUUM keeps; give it a PRIMARY KEY, or "
                    "name a column whose values are unique as the id column",
                    key="id_column",
                )
            queue.removals()  # raises an error if the app has a table with the queue's name
            return table.offered(None, self._path.name), _names(table)

    async def _step(self) -> bool:
        await in_thread(self._is_touched)
        self._stepped_at = self._looked_at = time.monotonic()
        if (text := await self._note()) != self._noted:
            self._load(text)
        try:
            return await (self._follow() if self._copying is None else self._compare(self._copying))
        except TableNotFoundError:  # it was dropped: the next step creates it again
            self._mark = self._copying = None
            raise

    async def _note(self) -> str | None:
        """Return the text of the mark in the store."""
        with suppress(TableNotFoundError):
            return (await StoreInternals(self.store).notes(self.table)).get(self.base)
        return None

    def _load(self, text: str | None) -> None:
        """Continue from the mark in the store, which another process may have written."""
        self._noted, self._copying = text, None
        mark = Mark.read(text)
        self._mark = self._put_mark = None if mark is None or mark.forgot else mark
        if mark is not None and mark.refused:
            self._keys_of = {_name_of(key): key for key in mark.refused}
            self.refused |= dict.fromkeys(self._keys_of, "it was set aside before the start")
            self._again_at = 0.0

    async def _put(self, mark: Mark | None) -> None:
        """Write the mark to the store."""
        if mark is not None and mark == self._put_mark:
            return
        forgot = len(self.refused) >= MOST_REFUSED
        text = None if mark is None else replace(mark, forgot=forgot).text()
        notes = await StoreInternals(self.store).notes(self.table, {self.base: text})
        self._noted, self._put_mark = notes.get(self.base), mark
        self._noted_at = time.monotonic()

    async def _follow(self) -> bool:
        """Apply the next changes."""
        again = [*self._keys_of.values()] if self._is_time_for_refused() else []
        before = self._mark
        part = await in_thread(self._read, before, again) if before is not None else None
        if before is None or part is None:
            return await self._begin_copy()
        mark, keys, rows = part
        if keys:
            self._mark = replace(before, seen=mark.seen)
            await self._bring_rows(keys, *await in_thread(self._items, *rows))
        self._mark = replace(mark, refused=[*self._keys_of.values()])
        if not keys and self._is_due():
            await self._put(self._mark)
        return bool(keys)

    def _is_due(self) -> bool:
        """Return whether it is time to write the mark to the store again."""
        return self._mark != self._put_mark and time.monotonic() >= self._noted_at + _LAZY

    def _read(self, mark: Mark, again: Sequence[Key]) -> tuple[Mark, list[Key], _Rows] | None:
        """Read the next keys and their rows in one snapshot, and return them with the mark to set.

        Return None if ``mark`` is not valid for the queue.
        """
        with self._opened() as (queue, table):
            if mark.shape != self._shape or not (self._is_same(table) and queue.suits(mark)):
                return None
            last, noted = queue.noted(AT_ONCE, mark.applied)
            keys = [*dict.fromkeys([*again, *noted])]
            rows = table.rows_of_keys(keys, self._job.schema)
            self._newest = queue.newest()
            return replace(mark, applied=last, seen=queue.seen()), keys, rows

    def _is_same(self, table: SqliteTable) -> bool:
        """Return whether the table still has the columns that ``begin`` read."""
        return _names(table) == self._shape[0]

    def _items(self, chunk: Chunk, absent: set[str]) -> tuple[list[Item], list[Reject]]:
        """Convert rows to items; ids without a row become items without a text."""
        rows: dict[str, Any] = {}
        rejects = [*chunk.rejects]
        for row in chunk.rows:
            if row["id"] is None:
                rejects.append(Reject(_NO_ID, _NO_ID, "a part of its key is null"))
            # Keys that differ only in case may match the same row.
            elif rows.setdefault(row["id"], row) != row:
                rejects.append(Reject(row["id"], row["id"], CAME_BEFORE))
        items, refused = self._job.items(Chunk([*rows.values()], [*rows], rejects))
        return [*items, *(Item(id, id) for id in absent)], refused

    async def _write(self, job: SyncImport, change: Change) -> list[Reject]:
        if self._mark is not None and change.writes:
            await self._put(self._mark)  # it records how new the rows may be: see Mark
        return await super()._write(job, change)

    async def _bring_rows(
        self, keys: Sequence[Key], items: Sequence[Item], rejects: Sequence[Reject]
    ) -> None:
        await self._apply(self._job, items, rejects)
        for name, key in ((_name_of(key), key) for key in keys):
            if name in self._told:
                self._keys_of[name] = key
            else:  # the row was accepted this time
                self.refused.pop(name, None)
                self._keys_of.pop(name, None)

    async def _begin_copy(self) -> bool:
        """Begin a comparison of all rows; create the queue if it is missing or has changed.

        If the columns change meanwhile, nothing is compared, and the next step begins again.
        """
        await self.begin()
        self._mark = None
        if self._job.load.exists:
            await self._put(None)
        self._copied = 0
        self._copying = await in_thread(self._copy)
        return True

    def _copy(self) -> Mark | None:
        """Copy all keys; return the mark for the current state, or None if the columns changed."""
        with self._opened() as (queue, _):
            statements = [] if queue.number() is not None else queue.statements()
        if statements:
            made = "".join(f"\n{statement};" for statement in statements)
            about = "%s: creates a queue, which aiovec watch %s --stop removes: %s"
            LOG.info(about, self._path, self.source, made)
            with self._opened("BEGIN IMMEDIATE") as (queue, table):
                if self._is_same(table):
                    queue.set_up(statements)
        with self._opened() as (queue, table):
            if not self._is_same(table) or (number := queue.number()) is None:
                return None
            mark = Mark(number, self._shape, queue.last(), queue.seen())
        # Changes since are in the queue after this mark.
        self._close()
        self._keys, self._ids = Keys(queue), Seen()
        last = 0
        while (part := self._keys.after(last, AT_ONCE))[1]:
            last, keys = part
            self._ids.add(id for key in keys if (id := id_of(key)) is not None)
        return mark

    async def _compare(self, mark: Mark) -> bool:
        """Compare the next rows; after the last rows, delete stored rows that the source lacks."""
        if (part := await in_thread(self._read_copied)) is None:
            self._copying = None
            return True
        last, keys, rows = part
        if keys:
            await self._bring_rows(keys, *await in_thread(self._items, *rows))
            self._copied = last
            return True
        await self._create(self._job)
        gone, _ = await self._job.rows_without(self.store, self._ids.__contains__)
        await self._job.delete(self.store, [*gone])
        self._copying, self._ids = None, Seen()
        await in_thread(self._close)
        # Since the comparison began, the queue may have been emptied, or entries after the
        # comparison's mark may have been pruned.
        if (read := await in_thread(self._read, mark, [])) is not None:
            refused = [*self._keys_of.values()]
            self._mark = replace(mark, seen=read[0].seen, refused=refused)
            await self._put(self._mark)
        return True

    def _read_copied(self) -> tuple[int, list[Key], _Rows] | None:
        """Read the rows of the next copied keys; return None if the columns have changed."""
        last, keys = self._keys.after(self._copied, AT_ONCE)
        with self._opened() as (_, table):
            rows = table.rows_of_keys(keys, self._job.schema)
            return (last, keys, rows) if self._is_same(table) else None

    async def changed(self) -> bool:
        until = time.monotonic() + _TELL
        while (now := time.monotonic()) < until:
            is_time = now >= self._stepped_at + self._every
            is_time = is_time or (now >= self._again_at and bool(self.refused))
            if self._wake.is_set() or is_time or self._is_due():
                self._wake.clear()
                return True
            if await in_thread(self._has_news):
                self._changed_at = now
                return True
            with suppress(TimeoutError):  # wait_for may swallow a cancellation
                async with asyncio.timeout(min(_LOOK + (now - self._changed_at) / 100, _LAST_LOOK)):
                    await self._wake.wait()
        return False

    def _is_touched(self) -> bool:
        """Return whether the database's files have changed, or must be read once more."""
        files, now = files_of(self._path), time.monotonic()
        if files != self._files:
            self._files, self._files_at = files, now
            return True
        return self._looked_at < self._files_at + _SETTLED <= now

    def _has_news(self) -> bool:
        """Return whether a step may find changes.

        With a rollback journal, the app cannot commit during a look, so this one is short: many
        commits concern other tables.
        """
        if not self._is_touched():
            return False
        self._looked_at = time.monotonic()
        try:
            with closing(Queue(self._path, str(self._wanted.origin))) as queue:
                return bool(queue.newest() != self._newest)
        except AiovecError:  # the step raises it
            return True

    async def last(self) -> int:
        last = await in_thread(self._last)
        self._wake.set()
        return last

    def _last(self) -> int:
        with self._opened() as (queue, _):
            return queue.last()

    async def waiting(self, mark: int | None = None) -> int | None:
        own = self._mark
        if self._stands_by:
            own = Mark.read(await self._note())
            if own is not None and own.shape != self._shape:
                async with self._stepping:
                    await self.begin()
        if own is None or own.shape != self._shape:
            return None
        # A caller that is cancelled must not have to wait for the app's lock.
        return await in_daemon_thread(self._waiting, own, mark)

    def _waiting(self, own: Mark, until: int | None) -> int | None:
        with self._opened() as (queue, table):
            return queue.waiting(own, until) if self._is_same(table) else None

    async def close(self) -> None:
        if self._mark is not None and not self._stands_by:
            with suppress(AiovecError, TimeoutError):
                async with asyncio.timeout(_LAZY):
                    await self._put(self._mark)
        await in_thread(self._close)
        await super().close()

    def _close(self) -> None:
        if self._keys is not None:
            self._keys.close()
            self._keys = None


def _names(table: SqliteTable) -> list[str]:
    return [column.name for column in table.columns]


def _name_of(key: Key) -> str:
    """Return the name by which ``refused`` lists the row with this key."""
    id = id_of(key)
    return _NO_ID if id is None else shown(id)
