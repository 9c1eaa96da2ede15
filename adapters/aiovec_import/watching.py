"""Sources that are followed: folders of documents, and tables of SQLite with a queue of changes.

Each is a ``Feed`` of ``aiovec.watch``. Applying a change twice changes nothing, so a follower that
was killed begins again where it was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from aiovec import Schema, VectorStore, new_id
from aiovec._internals import StoreInternals
from aiovec.backend import needs_arrow, redacted
from aiovec.backend.contract import Backend, TableHandle
from aiovec.backend.paths import is_url
from aiovec.backend.threads import begin_in_thread, in_daemon_thread, in_thread
from aiovec.documents import SUFFIXES
from aiovec.errors import ConfigError, EmbeddingError, TableNotFoundError, UnsupportedError

from .documents import DocumentImport
from .files import names_format, path_and_table
from .folders import Documents
from .loading import Load, create
from .sources import (
    Chunk,
    ForeignTable,
    Hints,
    Reader,
    Reject,
    RejectsFile,
    legal_table_name,
    named_source,
)
from .stores.queue import Queue, Versions, connected, removals, take_turn, translated, versions_of
from .syncing import Item, Seen, SyncImport
from .tables import QUERY, SqliteTable, id_of
from .wanted import Wanted

if TYPE_CHECKING:
    from .texts import TextImport

LOG = logging.getLogger("aiovec.watch")

# Rows or documents of one step, and names of refused ones that are remembered.
_AT_ONCE = 500
_REMEMBERED = 1000
# The system's events come when none followed for this long, or after the longest wait.
_STEP_MS, _DEBOUNCE_MS = 50, 400
# The watcher may begin after the first look, so there is another one this long after its start.
_SETTLED_MS = 1000

# Seconds between two looks at what a database has committed: after a change, and seconds later.
_LOOK, _LAST_LOOK = 0.025, 0.1

_NEVER: Versions = (0, (0, 0))
_State = tuple[int, ...]
_NO_COUNTS: Counter[str] = Counter()
# A feed names what is set aside, and writes no list.
_NO_LIST = RejectsFile(Path(os.devnull), lambda _: None)
_T = TypeVar("_T")


async def followed(store: VectorStore, wanted: Wanted, every: float) -> Feed:
    """Return the feed of a source, which suits the store."""
    feed: Feed | None = await in_thread(_documents, store, wanted, every)
    if feed is None:
        rows = Rows(store, await _completed(store, wanted))
        job = await in_thread(rows.opened)  # raises what is wrong with the source
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
    if wanted.hints.query is not None:
        return None
    is_folder = os.path.isdir(os.path.expanduser(wanted.sources[0]))
    files = {} if is_folder else wanted.documents().files
    return FolderFeed(store, wanted, every, "".join(files)) if files or is_folder else None


async def _completed(store: VectorStore, wanted: Wanted) -> Wanted:
    """Add the column of the texts, which the table of an earlier import says too."""
    (source,), new = wanted.sources, wanted.hints.new
    _, name = await in_thread(path_and_table, source)
    if new.embed is None and (wanted.table or name):
        with suppress(TableNotFoundError):
            schema = await store.schema(wanted.table or legal_table_name(name))
            new = replace(new, embed=None if schema.embed is None else schema.embed.field)
            wanted = replace(wanted, passages={"part", "parts"} <= schema.fields.keys())
    if new.embed is None:
        raise ConfigError(
            f"{source} cannot be watched without embed, the column of the texts that vectors are "
            "made of",
            key="embed",
        )
    return replace(wanted, hints=replace(wanted.hints, table=name or None, new=new))


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows with texts, which are followed. Python's own SQLite reads a file that the app may have
    open: see stores/queue.py."""

    store: VectorStore
    wanted: Wanted

    @property
    def source(self) -> str:
        return self.wanted.sources[0]

    @property
    def path(self) -> Path:
        return path_and_table(self.source)[0]

    def is_writable(self) -> bool:
        return self._is_sqlite() and os.access(self.path, os.W_OK)

    def _is_sqlite(self) -> bool:
        is_path = named_source(self.source) is None and not is_url(self.source)
        return is_path and not names_format(self.path)

    def opened(self) -> TextImport:
        """Open the source for an import of all its rows."""
        hints = self.wanted.hints
        if not self._is_sqlite():
            reader = _needing_arrow("opening").Opener(hints).open(self.source)
        elif StoreInternals(self.store).owns(self.path.resolve()):
            raise ConfigError(f"{self.path} is this store itself; name a table of another database")
        else:
            reader = SqliteRows(self.path, hints)
        try:
            (rows,) = reader.tables()
            return self.job(reader, rows)
        except BaseException:
            reader.close()
            raise

    def job(self, reader: Any, rows: ForeignTable) -> TextImport:
        load = Load(rows, self.wanted.table or rows.name)
        job: TextImport = _needing_arrow("texts").TextImport(self.wanted, reader, [load], _NO_LIST)
        return job


def _needing_arrow(name: str) -> Any:
    """Import a module that reads rows, which needs pyarrow; a folder is followed without it."""
    try:
        return import_module(f"aiovec_import.{name}")
    except ImportError as exc:
        raise needs_arrow(exc) or exc from exc


class SqliteRows(Reader):
    """A table, a view or a query, read by Python's own SQLite."""

    place = "key"

    def __init__(self, path: Path, hints: Hints) -> None:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        name = QUERY if hints.query is not None else hints.table
        if name is None:
            raise ConfigError(f"name a table of {path} as {path}#TABLE", key="source")
        self.name: str = str(path)
        self._db, self._path = connected(path, "ro"), path
        try:
            with translated(path):
                if hints.query is not None:  # a view takes one statement, which only reads
                    self._db.execute(f"CREATE TEMP VIEW {QUERY} AS {hints.query}")
                self._db.execute("BEGIN")
                self._table = SqliteTable(self._db, name, hints)
        except BaseException:
            self._db.close()
            raise

    def tables(self) -> list[ForeignTable]:
        with translated(self._path):
            return [self._table.foreign(self._path.name)]

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        with translated(self._path):
            yield from self._table.chunks(schema, size)

    def close(self) -> None:
        self._db.close()


def stop_watching(source: str, dry_run: bool) -> list[str]:
    """Remove the queue and the triggers of a table; return the statements that do, or would."""
    path, table = path_and_table(source)
    if not table or not path.is_file():
        raise ConfigError(f"--stop needs a table of a SQLite database, FILE#TABLE, not {source}")
    with closing(connected(path, "ro")) as db, translated(path):
        name, statements = removals(db, table)
    if dry_run or not statements:
        return statements
    lock = _lock_of(path, name)
    if (turn := take_turn(lock)) is None:
        raise ConfigError(f"{source} is watched by a process now, which would recreate the queue")
    with closing(turn), closing(connected(path)) as db, translated(path):
        db.execute("BEGIN IMMEDIATE")
        for statement in statements:
            db.execute(statement)
        db.execute("COMMIT")
    Path(lock).unlink(missing_ok=True)
    return statements


def _lock_of(path: Path, table: str) -> str:
    """Return a path next to the database, which several containers may share."""
    return f"{os.path.realpath(path)}.{quote(table, safe='')}.aiovec-lock"


def _shown(id: object) -> str:
    """Return an id that can be written anywhere, also one of bytes that are no UTF-8."""
    return str(id).encode(errors="replace").decode()


class Feed(ABC):
    """A source that is followed; without a better sign, it may change every so many seconds."""

    def __init__(
        self, store: VectorStore, source: str, job: SyncImport, every: float, document: str = ""
    ) -> None:
        self.store, self.source, self.table, self.base = store, source, job.table, job.base
        self.document = document
        self.refused: dict[str, str] = {}
        self._every = every
        self._wake = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._turn: ExitStack | None = None
        self._stands_by = self._is_copied = False

    @property
    def _lock(self) -> str:
        """The path of the lock that the one follower on this machine holds."""
        return self._lock_for(self.source if is_url(self.source) else os.path.abspath(self.source))

    def _lock_for(self, part: str) -> str:
        """Return the path of a lock of a part of the rows with this base."""
        known = f"{StoreInternals(self.store).identity}\0{self.table}\0{self.base}\0{part}"
        name = blake2b(known.encode(), digest_size=12).hexdigest()
        return os.path.join(tempfile.gettempdir(), f"aiovec-{name}.lock")

    async def take_turn(self) -> bool:
        if self._turn is None:
            await in_thread(self._take)
        self._stands_by = self._turn is None
        return self._turn is not None

    def _take(self) -> None:
        """Take the locks here: ``close`` releases them also if the awaiting task is cancelled."""
        with ExitStack() as turns:
            if (turn := take_turn(self._lock)) is None:
                return
            turns.callback(turn.close)
            # The rows that the feed may delete: those of its document, or all of its base.
            if (rows := take_turn(self._lock_for(self.document))) is None:
                raise ConfigError(
                    f"another process watches a source for the table {self.table!r} with the same "
                    f"base {self.base!r}, and each watch would delete the rows of the other; watch "
                    f"{self.source} with another base, or for another table",
                    key="base",
                )
            turns.callback(rows.close)
            self._turn = turns.pop_all()

    async def close(self) -> None:
        if self._turn is not None:
            await in_thread(self._turn.close)

    async def begin(self) -> None:  # noqa: B027 - most find it at the first step
        """Raise what makes it impossible to follow the source."""

    async def step(self) -> bool:
        async with self._stepping:
            return await self._step()

    @abstractmethod
    async def _step(self) -> bool:
        """Apply some changes; False if none is left."""

    async def changed(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._every):
                await self._wake.wait()
        self._wake.clear()

    async def last(self) -> int:
        while await self.step():
            pass
        return 0

    async def waiting(self, mark: int | None = None) -> int | None:
        return None if mark is None and not self._is_copied else 0

    async def _bring(self, job: SyncImport, chunks: Iterator[Chunk]) -> None:
        """Bring what a reader has read into the store."""
        while (part := await in_thread(job.following, chunks)) is not None:
            await self._apply(job, *part)

    async def _apply(
        self, job: SyncImport, items: Sequence[Item], rejects: Sequence[Reject] = ()
    ) -> None:
        """Bring items into the store; set aside a text that the embedder refuses though it takes
        others."""
        await in_thread(self._tell, rejects)
        try:
            async with aclosing(job.changes(self.store, items)) as changes:
                async for change in changes:
                    rejects = [*change.rejects, *await job.apply(self.store, change)]
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

    async def _embeds(self) -> bool:
        """Return whether the embedder takes any text now."""
        try:
            await self.store.search(self.table, new_id(), limit=1)  # no text that is cached
        except EmbeddingError:
            return False
        return True

    def _tell(self, rejects: Sequence[Reject], counts: Counter[str] = _NO_COUNTS) -> None:
        """Log what was set aside, and how many rows or documents changed, perhaps to a file."""
        for reject in rejects:
            self.refused.pop(name := _shown(reject.id or reject.row), None)
            LOG.warning("%s: %s is set aside: %s", self.table, name, reject.reason)
            self.refused[name] = reject.reason
            if len(self.refused) > _REMEMBERED:
                del self.refused[next(iter(self.refused))]
        if said := [f"{counts[it]:,} {it}" for it in ("new", "changed", "deleted") if counts[it]]:
            LOG.info("%s: %s", self.table, ", ".join(said))


class FolderFeed(Feed):
    """Documents of files and folders.

    The system's events say only that something may have changed. Time, size and number of each
    file say what, so no event has to be right, and a lost one is made good after ``every`` seconds.
    """

    def __init__(self, store: VectorStore, wanted: Wanted, every: float, document: str) -> None:
        self._wanted = wanted
        super().__init__(store, wanted.sources[0], self._job(Documents()), every, document)
        self._place = Path(self.source).expanduser()
        self._states: dict[str, _State] = {}
        self._watcher = threading.Event()
        self._watcher.set()
        self._top: _State = ()

    def _job(self, documents: Documents) -> DocumentImport:
        return DocumentImport.of(self._wanted, documents, _NO_LIST)

    async def begin(self) -> None:
        self._tell_change = partial(asyncio.get_running_loop().call_soon_threadsafe, self._wake.set)
        try:
            await in_thread(import_module, "watchfiles")
        except ImportError as exc:
            raise ConfigError(
                'a folder needs watchfiles, which is missing; pip install "aiovec[documents]"'
            ) from exc
        await self._job(Documents()).find(self.store)

    async def _step(self) -> bool:
        if self._turn is not None:
            await in_thread(self._watch)
        present = await in_thread(self._wanted.documents)
        states = await in_thread(_states, present)
        states = await in_thread(_with_lost, present, states, self._states)
        if not states or (self._is_copied and states == self._states):
            return False  # no file: perhaps it is not mounted
        job = self._job(present)
        await job.find(self.store)
        before = self._states
        if not (self._is_copied and job.load.exists):
            await create(self.store, job.load)
            stored, _ = await job.rows_without(self.store, lambda _: False)
            before = {name: () for name in stored.values() if self.document in ("", name)}
            states = await in_thread(_with_lost, present, states, before)
        names = sorted(
            name for name in before.keys() | states.keys() if before.get(name) != states.get(name)
        )
        for name in names:
            self.refused.pop(name, None)
        await self._bring(job, present.some([name for name in names if name in states], _AT_ONCE))
        absent = [Item(name, name) for name in names if not present.has(name)]
        for start in range(0, len(absent), _AT_ONCE):
            await self._apply(job, absent[start : start + _AT_ONCE])
        self._states, self._is_copied = states, True
        return bool(names)

    def _watch(self) -> None:
        """Have a thread watch the place, again if it is another file or folder."""
        top = _state(self._place)[3:]
        if self._watcher.is_set() or top != self._top:
            self._watcher.set()
            self._watcher, self._top = threading.Event(), top
            begin_in_thread(partial(_watched, self._place, self._watcher, self._tell_change))

    async def close(self) -> None:
        self._watcher.set()
        await super().close()


def _states(documents: Documents) -> dict[str, _State]:
    return {source: _state(path) for source, path in documents.files.items()}


def _with_lost(
    documents: Documents, states: Mapping[str, _State], before: Mapping[str, _State]
) -> dict[str, _State]:
    """Add the states of documents in folders that cannot be read, which stay as before."""
    lost = before.keys() - states.keys() if states else ()
    return {**states, **{source: before[source] for source in lost if documents.has(source)}}


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0, 0, 0)
    # A program that keeps the time and the size, such as rsync, changes the second time.
    changed = status.st_mtime_ns, status.st_ctime_ns, status.st_size
    return *changed, status.st_ino, status.st_dev


def _watched(place: Path, stop: threading.Event, tell: Callable[[], object]) -> None:
    """Tell of changes below a place until ``stop`` is set, at the latest by an error."""
    from watchfiles import watch

    told = False
    with suppress(OSError, RuntimeError):  # no more watches, a folder that is gone, a closed loop
        for changes in watch(
            place,
            watch_filter=_may_matter,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            stop_event=stop,
            rust_timeout=_SETTLED_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            if changes or not told:
                tell()
                told = True
    stop.set()


def _may_matter(_: object, path: str) -> bool:
    """Return whether a change may be one of documents; a store may lie next to them."""
    return Path(path).suffix.lower() in SUFFIXES or not os.path.isfile(path)


class TableFeed(Feed):
    """A table of SQLite whose triggers note the keys of changed rows in a queue.

    The rows of noted keys are read after the queue, so they are never older than their entries.
    """

    def __init__(self, rows: Rows, job: TextImport, every: float) -> None:
        self._rows, self._path, self._hints = rows, rows.path, rows.wanted.hints
        super().__init__(rows.store, f"{rows.path}#{self._hints.table}", job, every)
        # A connection serves one thread at a time.
        self._turns = asyncio.Semaphore(1)
        self._alone = partial(in_thread, limit=self._turns)
        self._db: Any = None
        # As the open database was, as it was when the queue was looked at, and at the last step.
        self._versions = self._stepped = _NEVER
        self._schema: tuple[int, int] | None = None
        # The last entry that is applied, and the one that the queue has as its mark.
        self._applied = self._marked = 0

    async def begin(self) -> None:
        """Open the database, and raise what makes it impossible to follow the table."""
        versions = await self._alone(self._open)
        rows = await self._alone(self._shape.foreign, self._path.name)
        self._job = self._rows.job(None, rows)
        await self._job.find(self.store)
        if (cutter := self._job.cutter) is not None:  # by other lengths, all rows are cut again
            self._queue.says |= {"chunk_size": cutter.limit, "overlap": cutter.overlap}
        await self._ask(Queue.is_marked)
        self._versions = versions

    def _open(self) -> Versions:
        """Open the database, in place of the connection that is open."""
        db, name = connected(self._path), str(self._hints.table)
        try:
            # Before the columns, so that a later change of these is seen.
            versions = versions_of(db, self._path)
            with translated(self._path):
                shape = SqliteTable(db, name, self._hints)
                if shape.key == ["rowid"]:
                    raise ConfigError(
                        f"{self.source} has no key that VACUUM keeps; give it a PRIMARY KEY, or "
                        "name a column whose values are unique as the id column",
                        key="id_column",
                    )
                says = {"columns": [column.name for column in shape.columns]}
                target = f"{StoreInternals(self.store).identity}#{self.table}"
                queue = Queue(db, self._path, name, shape.key, target, says)
        except BaseException:
            db.close()
            raise
        self._close()
        self._db, self._shape, self._queue = db, shape, queue
        return versions

    async def _ask(self, method: Callable[..., _T], *args: object) -> _T:
        """Call a method of the queue that is open then."""
        return await self._alone(lambda: method(self._queue, *args))

    async def _look(self) -> None:
        """Open the database again if its schema has changed."""
        if (versions := await self._ask(Queue.versions))[1] != self._versions[1]:
            await self.begin()
        else:
            self._versions = versions

    async def _step(self) -> bool:
        await self._look()
        try:
            return await self._follow()
        except TableNotFoundError:  # dropped: the next step creates it again
            self._schema, self._versions = None, _NEVER
            raise

    async def _follow(self) -> bool:
        if self._schema != self._versions[1] and not await self._begin_again():
            return True
        self._stepped = self._versions
        last, keys = await self._ask(Queue.noted, _AT_ONCE, self._applied)
        if keys:
            for key in keys:
                self.refused.pop(_shown(id_of(key)), None)
            await self._apply(self._job, *await self._alone(self._items, keys))
        self._applied = max(last, self._applied)
        if self._applied != self._marked:
            await self._mark(self._applied)
            self._marked = self._applied
        return bool(last)

    async def _begin_again(self) -> bool:
        """Go on with the queue if it and the store's table suit each other; else note all rows.

        False if the app changed the schema since the last look.
        """
        exists = self._job.load.exists
        await create(self.store, self._job.load)
        if not (exists and await self._ask(Queue.is_marked) and await self._continues()):
            if (seen := await self._alone(self._note_all)) is None:
                return False
            gone, _ = await self._job.rows_without(self.store, seen.__contains__)
            await self._job.delete(self.store, [*gone])
            await self._mark(0)
        marked = await self._ask(Queue.marked)
        self._applied = self._marked = marked or 0
        self._schema = self._versions[1]
        return True

    async def _continues(self) -> bool:
        """Return whether the store's table has all that the mark says; not if it is an earlier
        backup, or was made anew."""
        if number := await self._ask(Queue.number):
            with suppress(UnsupportedError):
                return await self._on_table(lambda backend, it: backend.has_change(it, number))
        return True

    async def _mark(self, until: int) -> None:
        number = 0
        if self.store.supports("changes"):  # not a server, which would get a request for each mark
            with suppress(UnsupportedError):  # a table that another program made
                number = await self._on_table(lambda backend, it: backend.change_number(it))
        await self._ask(Queue.mark, until, number)

    async def _on_table(self, act: Callable[[Backend, TableHandle], Awaitable[_T]]) -> _T:
        return await StoreInternals(self.store).on_table("changes", self.table, act)

    def _note_all(self) -> Seen | None:
        """Make the queue with an entry for each row, and return the ids of all.

        None if the app changed the schema since the last look.
        """
        made = "".join(f"\n{statement};" for statement in self._queue.statements())
        about = "%s: makes a queue, which aiovec watch %s --stop removes: %s"
        LOG.info(about, self._path, self.source, made)
        commits, schema = self._versions
        if (schema_now := self._queue.make(schema)) is None:
            return None
        self._versions = commits, schema_now
        seen, last = Seen(), 0
        while (noted := self._queue.noted(_AT_ONCE, last))[0]:
            last, keys = noted
            seen.add([id for key in keys if (id := id_of(key)) is not None])
        return seen

    def _items(self, keys: Sequence[Any]) -> tuple[list[Item], list[Reject]]:
        """Return the rows with some keys; those that no row has are without a text."""
        with translated(self._path), self._queue.snapshot():
            chunk, absent = self._shape.some(keys, self._job.schema)
        # Keys that differ in letters only may find one row twice.
        rows = {row["id"]: row for row in chunk.rows}
        items, rejects = self._job.items(Chunk([*rows.values()], [*rows], chunk.rejects))
        return [*items, *(Item(id, id) for id in absent)], rejects

    @property
    def _lock(self) -> str:
        return _lock_of(self._path, str(self._hints.table))

    async def changed(self) -> None:
        began = time.monotonic()
        while not self._wake.is_set() and await self._ask(Queue.versions) == self._stepped:
            pause = min(_LOOK + (time.monotonic() - began) / 100, _LAST_LOOK)
            with suppress(TimeoutError):  # wait_for may swallow a cancellation
                async with asyncio.timeout(pause):
                    await self._wake.wait()
        self._wake.clear()

    async def last(self) -> int:
        while True:
            async with self._stepping:
                await self._look()
                own = self._turn is not None or not self._stands_by
                if self._schema == self._versions[1] if own else await self._ask(Queue.is_marked):
                    last = await self._ask(Queue.last)
                    self._wake.set()
                    return last
            await asyncio.sleep(_LOOK)

    async def waiting(self, mark: int | None = None) -> int | None:
        # Who cancels this does not wait for a lock of the app, too.
        return await in_daemon_thread(lambda: self._queue.waiting(mark), slots=self._turns)

    async def close(self) -> None:
        await self._alone(self._close)
        await super().close()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()


class ComparedFeed(Feed):
    """A source that tells no changes: all its rows are compared every so many seconds."""

    def __init__(self, rows: Rows, job: TextImport, every: float) -> None:
        super().__init__(rows.store, redacted(rows.source), job, every)
        self._rows = rows
        self._job: TextImport | None = None

    async def _step(self) -> bool:
        self.refused = {}
        try:
            job = await in_thread(self._open)
            await job.find(self.store)
            await create(self.store, job.load)
            await self._bring(job, job.source.read(job.load.source, job.schema, _AT_ONCE))
            await job.find_rest(self.store)
            await job.delete(self.store, [*job.gone])
        finally:
            await in_thread(self._close)
        self._is_copied = True
        return False

    def _open(self) -> TextImport:
        self._job = self._rows.opened()
        return self._job

    def _close(self) -> None:
        if self._job is not None:
            self._job.source.close()
            self._job = None
