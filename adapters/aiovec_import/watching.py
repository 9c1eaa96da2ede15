"""Choose the feed for a source of ``aiovec.watch``, and follow sources by comparing rows."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from aiovec import VectorStore
from aiovec.backend import needs_arrow, without_secrets
from aiovec.backend.paths import is_url
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError, ConfigError, TableNotFoundError

from .feeds import AT_ONCE, SourceFeed
from .files import no_file, path_and_table, reading, schema_file
from .folder_feed import FolderFeed, State, state_of
from .folders import documents_of
from .locks import FileLock
from .sources import Wanted, legal_table_name, named_source, refuse
from .stores.queue import Queue, lock_of
from .table_feed import TableFeed

if TYPE_CHECKING:
    from .rows import Rows
    from .texts import TextImport

# Seconds for which a file of rows must be unchanged before it is read.
_STILL = 1.0


async def followed(store: VectorStore, wanted: Wanted, every: float) -> SourceFeed:
    """Return the feed that keeps a table of this store in step with a source."""
    feed: SourceFeed | None = await in_thread(_documents, store, wanted, every)
    if feed is None:
        rows = await in_thread(_rows, store, await _completed(store, wanted))
        refuse(wanted, "include exclude", f"documents, and {rows.shown} has rows")
        # This raises an error if the source cannot be read.
        job = await in_thread(partial(rows.opened, is_first=True))
        await in_thread(job.source.close)
        has_queue = job.load.source.layout == "table" and await in_thread(rows.is_writable)
        feed = (TableFeed if has_queue else ComparedFeed)(rows, job, every)
    try:
        await feed.begin()
    except BaseException:
        await feed.close()
        raise
    return feed


def _documents(store: VectorStore, wanted: Wanted, every: float) -> FolderFeed | None:
    """Return the feed of a folder or a document; None if the source has rows."""
    if (found := documents_of(wanted)) is None:
        return None
    is_folder = os.path.isdir(os.path.expanduser(wanted.sources[0]))
    return FolderFeed(store, wanted, every, "" if is_folder else "".join(found.files))


def _rows(store: VectorStore, wanted: Wanted) -> Rows:
    """Return a source of rows. Its readers need pyarrow; a feed of documents does not."""
    try:
        from .rows import Rows
    except ImportError as exc:
        raise needs_arrow(exc) or exc from exc
    return Rows(store, wanted)


def _table_named(source: str) -> str:
    """Return the name of the source's table, or "". Raises ConfigError if the file is missing."""
    path, name = path_and_table(source)
    if named_source(source) is None and not is_url(source) and not path.exists():
        raise no_file(path)
    return name


async def _completed(store: VectorStore, wanted: Wanted) -> Wanted:
    """Complete the request: ``embed`` defaults to the text field of the existing table."""
    (source,) = wanted.sources
    name = await in_thread(_table_named, source)
    if wanted.embed is None and (wanted.table or name):
        with suppress(TableNotFoundError):
            schema = await store.schema(wanted.table or legal_table_name(name))
            embed = None if schema.embed is None else schema.embed.field
            is_cut = {"part", "parts"} <= schema.fields.keys()
            wanted = replace(wanted, embed=embed, passages=is_cut)
    if wanted.embed is None:
        raise ConfigError(
            f"{without_secrets(source)} cannot be watched without embed, the column of texts to "
            "compute vectors from",
            key="embed",
        )
    return replace(wanted, origin=name or None, delete_all=True)


def stop_watching(source: str, dry_run: bool) -> list[str]:
    """Remove a table's queue and triggers, unless ``dry_run``; return the statements."""
    path, table = path_and_table(source)
    if not table or not path.is_file():
        raise ConfigError(f"--stop needs a table of a SQLite database, FILE#TABLE, not {source}")
    with closing(Queue(path, table, writes=not dry_run)) as queue:
        if dry_run:
            return queue.removals()
        if (lock := FileLock.take(lock_of(path, table))) is None:
            raise ConfigError(
                f"{source} is watched by a process now, which would recreate the queue"
            )
        with closing(lock):
            return queue.remove()


class ComparedFeed(SourceFeed):
    """Follows a source that reports no changes, by comparing all rows every ``every`` seconds.

    A file is copied before it is read, once it has been unchanged for a moment. If more than half
    of the rows are gone, the delete waits for a later check that finds the file unchanged.
    """

    def __init__(self, rows: Rows, job: TextImport, every: float) -> None:
        super().__init__(rows.store, rows.shown, job, every)
        self._rows = rows
        self._opened = ExitStack()

    async def _step(self) -> bool:
        self.refused = {}
        try:
            state = await self._stands_still()
            job = await in_thread(self._open, state)
            await job.find(self.store)
            kept = await self._bring(job, job.source.read(job.load.source, job.schema, AT_ONCE))
            await self._create(job)
            await job.find_rest(self.store)
            lost = len({*job.gone.values()})
            waits = bool(state) and await in_thread(self._is_loss, state, lost, lost + kept)
            if not waits:
                await job.delete(self.store, [*job.gone])
            self._waits = waits
        finally:
            await in_thread(self._opened.close)
        return False

    async def _stands_still(self) -> State:
        """Wait until a file no longer changes, and return its state, or () for other sources."""
        if not self._rows.is_file():
            return ()
        path, before = self._rows.path, State()
        while (state := await in_thread(state_of, path)) != before:
            if abs(time.time() - state[0] / 1e9) > _STILL:
                break
            before = state
            await asyncio.sleep(_STILL)
        return state

    def _open(self, state: State) -> TextImport:
        rows, path = self._rows, self._rows.path
        if state:
            folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="aiovec-"))
            with reading(path):
                shutil.copyfile(path, os.path.join(folder, path.name))
            described = schema_file(path)
            with suppress(FileNotFoundError):
                shutil.copyfile(described, os.path.join(folder, described.name))
            if state_of(path) != state:
                raise AiovecError(f"{path} changed while it was read; it is read again")
            rows = replace(rows, copy=os.path.join(folder, path.name))
        job = rows.opened()
        self._opened.callback(job.source.close)
        return job
