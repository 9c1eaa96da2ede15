"""Follow a table of an app's SQLite database through a queue of its changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiovec._internals import StoreInternals
from aiovec.backend.threads import in_daemon_thread, in_thread
from aiovec.errors import AiovecError, ConfigError, TableNotFoundError

from .feeds import AT_ONCE, LOG, MOST_REFUSED, SourceFeed, shown
from .loading import create
from .locks import FileLock
from .sources import CAME_BEFORE, Chunk, Reject
from .stores.queue import (
    Key,
    Mark,
    Queue,
    Versions,
    lock_of,
)
from .stores.sql import SqliteTable, id_of
from .syncing import Change, Item, Seen, SyncImport

if TYPE_CHECKING:
    from .rows import Rows
    from .texts import TextImport

# Seconds between checks for commits: right after a change, and once 7.5 seconds have passed.
_LOOK, _LAST_LOOK = 0.025, 0.1
# Seconds after which ``changed`` returns without a change, and seconds between two writes of the
# mark while the queue has no changes.
_TELL, _LAZY = 1.0, 0.5
_NEVER = Versions(0, 0, 0, 0)
# The name used for rows with a null in their key.
_NO_ID = "NULL"
_Rows = tuple[Chunk, set[str]]
_T = TypeVar("_T")


class TableFeed(SourceFeed):
    """Follows a SQLite table whose triggers write the keys of changed rows to a queue.

    ``docs/internals/adr/0025`` describes the design. A ``Mark`` is a position in the queue. The
    store keeps the mark in the table's notes, under the source's base. Each step reads the mark,
    because the store may have been restored, reverted or moved.
    """

    def __init__(self, rows: Rows, job: TextImport, every: float) -> None:
        self._rows, self._path, self._wanted = rows, rows.path, rows.wanted
        super().__init__(rows.store, f"{rows.path}#{self._wanted.origin}", job, every)
        # Only one thread at a time may use the connection.
        self._turns = asyncio.Semaphore(1)
        self._alone = partial(in_thread, limit=self._turns)
        self._queue: Any = None
        # The versions of the database when it was opened, and at the last step.
        self._versions = self._stepped = _NEVER
        # The mark in the store, as text and parsed, and the current mark; a mark is None if it
        # is not valid for the queue.
        self._noted: str | None = ""
        self._put_mark: Mark | None = None
        self._mark: Mark | None = None
        self._noted_at = self._stepped_at = self._changed_at = 0.0
        # For the comparison of all rows: its mark, the position of the last compared key, all ids,
        # and repeated ids.
        self._copying: Mark | None = None
        self._copied, self._ids = 0, Seen()
        self._repeated: list[str] = []
        self._keys_of: dict[str, Key] = {}

    async def take_turn(self) -> bool:
        if not (has_turn := await super().take_turn()):
            async with self._stepping:
                await self._look()
        return has_turn

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
        """Open the database, or raise an error if the table cannot be followed."""
        versions = await self._alone(self._open)
        self._job = self._rows.job(None, self._offered)
        await self._job.find(self.store)
        cutter = self._job.cutter  # with other lengths, all rows are cut again
        columns = [column.name for column in self._table.columns]
        self._shape = [columns, [cutter.limit, cutter.overlap] if cutter else []]
        self._copying, self._versions = None, versions

    def _open(self) -> Versions:
        """Open the database, and close the previous connection."""
        name = str(self._wanted.origin)
        queue = Queue(self._path, name)
        try:
            # Read the versions before the columns, so that a later change of columns is noticed.
            versions = queue.versions()
            with queue.reading():
                table = SqliteTable(queue.db, name, self._wanted)
                offered = table.foreign(self._path.name)
            if table.key == ["rowid"]:
                raise ConfigError(
                    f"{self.source} has no key that VACUUM keeps; give it a PRIMARY KEY, or "
                    "name a column whose values are unique as the id column",
                    key="id_column",
                )
            queue.keys = table.key
            queue.removals()  # raises an error if the app has a table with the queue's name
        except BaseException:
            queue.close()
            raise
        self._close()
        self._queue, self._table, self._offered = queue, table, offered
        return versions

    async def _ask(self, method: Callable[..., _T], *args: object) -> _T:
        """Call a method of the currently open queue, in a thread."""
        return await self._alone(lambda: method(self._queue, *args))

    async def _look(self) -> None:
        """Reopen the database if its schema or its file has changed."""
        versions = await self._ask(Queue.versions)
        if versions.is_same_file(self._versions):
            self._versions = versions
        else:
            await self.begin()

    async def _step(self) -> bool:
        await self._look()
        self._stepped, self._stepped_at = self._versions, time.monotonic()
        if (text := await self._note()) != self._noted:
            self._load(text)
        try:
            return await (self._follow() if self._copying is None else self._compare(self._copying))
        except TableNotFoundError:  # it was dropped: the next step creates it again
            self._versions, self._mark = _NEVER, None
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
        part = await self._alone(self._read, before, again) if before is not None else None
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
        with self._queue.snapshot():
            if mark.shape != self._shape or not self._queue.suits(mark):
                return None
            last, noted = self._queue.noted(AT_ONCE, mark.applied)
            keys = [*dict.fromkeys([*again, *noted])]
            rows = self._table.rows_of_keys(keys, self._job.schema)
            return replace(mark, applied=last, seen=self._queue.seen()), keys, rows

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

        If the schema has changed since the last check, the queue is not created, and the next step
        reopens the database.
        """
        await self._job.find(self.store)
        await create(self.store, self._job.load)
        self._mark = None
        await self._put(None)
        if await self._ask(Queue.number) is None:
            statements = await self._ask(Queue.statements)
            made = "".join(f"\n{statement};" for statement in statements)
            about = "%s: creates a queue, which aiovec watch %s --stop removes: %s"
            await in_thread(LOG.info, about, self._path, self.source, made)
            versions = await self._ask(Queue.set_up, statements, self._versions)
            self._versions = versions or self._versions
        self._copied = 0
        self._copying = await self._alone(self._copy)
        return True

    def _copy(self) -> Mark | None:
        """Copy all keys; return the mark for the current state, or None if there is no queue."""
        queue, self._ids, self._repeated = self._queue, Seen(), []
        with queue.snapshot():
            if (number := queue.number()) is None:
                return None
            mark = Mark(number, self._shape, queue.last(), queue.seen())
            queue.copy_keys()
        last = 0
        while (part := queue.copied(AT_ONCE, last))[1]:
            last, keys = part
            ids = [id for key in keys if (id := id_of(key)) is not None]
            self._repeated += [id for id in ids if id in self._ids][:MOST_REFUSED]
            self._ids.add(ids)
        return mark

    async def _compare(self, mark: Mark) -> bool:
        """Compare the next rows; after the last rows, delete stored rows that the source lacks."""
        last, keys = await self._ask(Queue.copied, AT_ONCE, self._copied)
        if keys:
            rows = await self._alone(self._table.rows_of_keys, keys, self._job.schema)
            await self._bring_rows(keys, *await in_thread(self._items, *rows))
            self._copied = last
            return True
        gone, _ = await self._job.rows_without(self.store, self._ids.__contains__)
        await self._job.delete(self.store, [*gone])
        self._copying, self._ids = None, Seen()
        await in_thread(self._tell, [Reject(id, id, CAME_BEFORE) for id in self._repeated])
        # Since the comparison began, the queue may have been emptied, or entries after the
        # comparison's mark may have been pruned.
        if (part := await self._alone(self._read, mark, [])) is not None:
            refused = [*self._keys_of.values()]
            self._mark = replace(mark, seen=part[0].seen, refused=refused)
            await self._put(self._mark)
        return True

    async def changed(self) -> bool:
        until = time.monotonic() + _TELL
        while (now := time.monotonic()) < until:
            is_time = now >= self._stepped_at + self._every
            is_time = is_time or (now >= self._again_at and bool(self.refused))
            if self._wake.is_set() or is_time or self._is_due():
                self._wake.clear()
                return True
            if await self._ask(Queue.versions) != self._stepped:
                self._changed_at = now
                return True
            with suppress(TimeoutError):  # wait_for may swallow a cancellation
                async with asyncio.timeout(min(_LOOK + (now - self._changed_at) / 100, _LAST_LOOK)):
                    await self._wake.wait()
        return False

    async def last(self) -> int:
        async with self._stepping:
            await self._look()
            last = await self._ask(Queue.last)
        self._wake.set()
        return last

    async def waiting(self, mark: int | None = None) -> int | None:
        own = Mark.read(await self._note()) if self._stands_by else self._mark
        if own is None or own.shape != self._shape:
            return None
        # A caller that is cancelled must not have to wait for the app's lock.
        return await in_daemon_thread(lambda: self._waiting(own, mark), slots=self._turns)

    def _waiting(self, own: Mark, until: int | None) -> int | None:
        # The path may lead to another file now, or the table may have other columns.
        is_open = self._queue.versions().is_same_file(self._versions)
        return self._queue.waiting(own, until) if is_open else None

    async def close(self) -> None:
        if self._mark is not None and not self._stands_by:
            with suppress(AiovecError, TimeoutError):
                async with asyncio.timeout(_LAZY):
                    await self._put(self._mark)
        await self._alone(self._close)
        await super().close()

    def _close(self) -> None:
        if self._queue is not None:
            self._queue.close()


def _name_of(key: Key) -> str:
    """Return the name by which ``refused`` lists the row with this key."""
    id = id_of(key)
    return _NO_ID if id is None else shown(id)
