"""The base class of all feeds: it takes locks, and sets aside rows that cannot be stored."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, aclosing, suppress

from aiovec import VectorStore, new_id
from aiovec._internals import StoreInternals
from aiovec.backend.feed import Feed
from aiovec.backend.paths import is_url
from aiovec.backend.threads import in_thread
from aiovec.errors import ConfigError, EmbeddingError

from .language import analyzer_line
from .loading import create
from .locks import FileLock, lock_path
from .sources import Chunk, Reject
from .syncing import Change, Item, SyncImport

LOG = logging.getLogger("aiovec.watch")

AT_ONCE = 500
"""Maximum number of rows or documents to read and compare at a time."""
MOST_REFUSED = 1000
"""Maximum number of names of refused rows or documents to remember."""
AGAIN_SECONDS = 3600.0
"""Seconds after which refused rows or documents are tried again."""

_NO_COUNTS: Counter[str] = Counter()


class SourceFeed(Feed):
    """A feed that follows a source. By default, it checks for changes every ``every`` seconds."""

    def __init__(
        self, store: VectorStore, source: str, job: SyncImport, every: float, document: str = ""
    ) -> None:
        self.store, self.source, self.table, self.base = store, source, job.table, job.base
        self.document = document
        self.refused: dict[str, str] = {}
        self._told: set[str] = set()
        self._every = every
        self._wake = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._locks: ExitStack | None = None
        self._stands_by = False
        # The number of the current step, the number of the last step that left no work, and
        # whether no step has failed since then.
        self._begun = self._done = 0
        self._is_known = False
        self._again_at = time.monotonic() + AGAIN_SECONDS
        # The state of a source that lacked most of its rows or documents, the time when this state
        # was first seen, and whether the deletes are still delayed.
        self._shrunk: object = None
        self._shrunk_at, self._waits = 0.0, False

    async def take_turn(self) -> bool:
        if self._locks is None:
            await in_thread(self._take)
        self._stands_by = self._locks is None
        return not self._stands_by

    def _take(self) -> None:
        """Take the feed's locks, or none if another process holds the source's lock.

        ``self`` keeps the locks, so that ``close`` releases them even after a cancellation.
        """
        place = self.source if is_url(self.source) else os.path.realpath(self.source)
        with ExitStack() as locks:
            if not self._lock(locks, "source", place):
                return
            # Lock the rows that the feed may delete: all rows of its base, or of one document.
            own = [("rows", "", bool(self.document)), ("document", self.document, False)]
            for kind, name, shared in own if self.document else own[:1]:
                if not self._lock(locks, kind, name, shared=shared):
                    raise ConfigError(
                        f"another process watches a source for the table {self.table!r} with the "
                        f"same base {self.base!r}, and each watch would delete the rows of the "
                        f"other; watch {self.source} with another base, or for another table",
                        key="base",
                    )
            self._locks = locks.pop_all()

    def _lock(self, locks: ExitStack, *named: str, shared: bool = False) -> bool:
        path = lock_path(StoreInternals(self.store).identity, self.table, self.base, *named)
        if (lock := FileLock.take(path, shared=shared)) is not None:
            locks.callback(lock.close)
        return lock is not None

    async def close(self) -> None:
        if self._locks is not None:
            await in_thread(self._locks.close)

    async def begin(self) -> None:
        """Raise an error if the source cannot be followed."""

    async def step(self) -> bool:
        async with self._stepping:
            self._begun += 1
            self._told.clear()
            try:
                left = await self._step()
            except BaseException:
                self._is_known = False
                raise
            if not left:
                self._done, self._is_known = self._begun, True
            return left

    @abstractmethod
    async def _step(self) -> bool:
        """Apply some changes; return False if no changes are left."""

    async def changed(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._every):
                await self._wake.wait()
        self._wake.clear()
        return True

    async def last(self) -> int:
        if self._stands_by:  # the other process does not report its progress
            while await self.step():
                pass
            return self._done - 1
        self._wake.set()
        return self._begun

    async def waiting(self, mark: int | None = None) -> int | None:
        is_done = self._is_known and (mark is None or self._done > mark)
        return 0 if is_done and not self._waits else None

    def _is_loss(self, state: object, lost: int, known: int) -> bool:
        """Return whether it is too early to delete what a source lost; log a new loss.

        If most rows or documents are gone, another look ``every`` seconds later must find the same
        ``state``: a file may be half written, and a folder half mounted.
        """
        if lost * 2 <= known:
            self._shrunk = None
            return False
        if self._shrunk != state:
            self._shrunk, self._shrunk_at = state, time.monotonic()
            about = "%s: %s of %s are gone, and are deleted if the next check finds the same"
            LOG.warning(about, self.source, f"{lost:,}", f"{known:,}")
        return time.monotonic() < self._shrunk_at + self._every

    def _is_time_for_refused(self) -> bool:
        """Return whether it is time to try refused rows or documents again."""
        if (now := time.monotonic()) < self._again_at or not self.refused:
            return False
        self._again_at = now + AGAIN_SECONDS
        return True

    async def _bring(self, job: SyncImport, chunks: Iterator[Chunk]) -> int:
        """Store the items of a reader's chunks; return their number."""
        count = 0
        while (part := await in_thread(job.following, chunks)) is not None:
            count += len(part[0])
            await self._apply(job, *part)
        return count

    async def _apply(
        self, job: SyncImport, items: Sequence[Item], rejects: Sequence[Reject] = ()
    ) -> None:
        """Store items; set a text aside if the embedder rejects it but accepts other texts."""
        await in_thread(self._tell, rejects)
        try:
            stored_in = self.store if job.load.exists else None
            async with aclosing(job.changes(stored_in, items)) as changes:
                async for change in changes:
                    rejects = [*change.rejects, *await self._write(job, change)]
                    await in_thread(self._tell, rejects, change.counts)
        except EmbeddingError as exc:
            if exc.retryable or exc.table is not None or not await self._embeds():
                raise
            if half := len(items) // 2:
                await self._apply(job, items[:half])
                await self._apply(job, items[half:])
            else:
                reject = Reject(items[0].place, items[0].name, exc.reason)
                await in_thread(self._tell, [reject])

    async def _write(self, job: SyncImport, change: Change) -> list[Reject]:
        await self._create(job)
        return await job.apply(self.store, change)

    async def _create(self, job: SyncImport) -> None:
        """Create the table if it does not exist, and log its analyzer."""
        if not job.load.exists:
            await create(self.store, job.load)
            for line in analyzer_line(job.load.words()):
                await in_thread(LOG.info, "%s: %s", self.table, line)

    async def _embeds(self) -> bool:
        """Return whether the embedder accepts another text now."""
        try:
            await self.store.search(self.table, new_id(), limit=1)  # a text that is not cached
        except EmbeddingError:
            return False
        return True

    def _tell(self, rejects: Sequence[Reject], counts: Counter[str] = _NO_COUNTS) -> None:
        """Log which rows or documents were set aside, and how many changed. Logging can block."""
        for reject in rejects:
            self.refused.pop(name := shown(reject.id or reject.row), None)
            LOG.warning("%s: %s is set aside: %s", self.table, name, reject.reason)
            self.refused[name] = reject.reason
            self._told.add(name)
            if len(self.refused) > MOST_REFUSED:
                del self.refused[next(iter(self.refused))]
        if said := [f"{counts[it]:,} {it}" for it in ("new", "changed", "deleted") if counts[it]]:
            LOG.info("%s: %s", self.table, ", ".join(said))


def shown(id: object) -> str:
    """Return an id as valid Unicode, even if it comes from bytes that are not UTF-8."""
    return str(id).encode(errors="replace").decode()
