"""The contract between ``VectorStore`` and a backend.

``VectorStore`` checks names, rows, vectors, models and filters, and ranks the hits; a ``Backend``
stores and searches. A backend gets only checked values: rows as a ``Batch`` with columns of Python
values or Arrow arrays, filter trees with names and literals that fit the schema, and contiguous
float32 arrays. A backend lists its optional abilities in ``abilities``, and implements their
methods; without the ability, a method raises UnsupportedError.

Rules for every method:

- It raises only errors of ``aiovec.errors``, with the driver's error as the cause.
- A write is atomic and, when it returns, durable against ``kill -9`` and visible to every later
  read in any process.
- A cancelled write is done completely or not at all; a cancelled call leaves the backend usable,
  and soon stops using the CPU.
- It never blocks the event loop.
- Any number of calls may overlap. The backend decides how many run; the other calls wait in order
  of arrival, each until its deadline (``limits.current_deadline``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypedDict, TypeVar

import numpy as np

from .._filters.tree import Expr, Ref, Value
from .._model.arrays import Float32Array
from .._model.arrow import one_array, payload_texts, python_values, to_matrix
from .._model.schema import Schema
from .._search.query import TextClause
from .._search.snippets import Texts
from .._tools.lazy_arrow import pa
from ..errors import (
    AiovecError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreMovedError,
    UnsupportedError,
)
from .changes import RowChange, SchemaChange
from .context import Kept, Meter, WriteKey, new_meter
from .marks import MoveMark, MoveRecord
from .rows import Batch
from .threads import hop

if TYPE_CHECKING:
    from .._model.records import Rank
    from .._search.fusion import Fusion
    from .limits import Slot


_T = TypeVar("_T")


class StaleTableError(Exception):
    """The table has been altered, dropped or re-created since the handle was opened.

    Never reaches a user: ``VectorStore`` opens the table again and repeats the call.
    """


@dataclass(frozen=True, slots=True)
class TableHandle:
    """A table as it was when it was opened.

    ``epoch`` identifies that state for the backend. A method that gets a handle with an outdated
    epoch raises StaleTableError and does nothing.
    """

    name: str
    schema: Schema
    epoch: Hashable


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to read for each row, besides its id.

    With a ``meter``, a backend reads about ``FEW_ROWS`` rows at a time, and calls ``meter.add``
    with the bytes of each part before it reads the next one. A server limits the memory
    of its responses this way.
    """

    fields: tuple[str, ...]
    payload: bool = False
    vector: bool = False
    meter: Meter | None = None

    def metered(self, rows: int) -> Columns:
        """Return the columns for a read of at most ``rows`` rows, with a new meter if needed."""
        ids_only = not (self.fields or self.payload or self.vector)
        meter = None if ids_only else new_meter(rows)
        return self if meter is self.meter else replace(self, meter=meter)

    def layout(self, schema: Schema) -> pa.Schema:
        """Return ``Schema.to_arrow()`` with only these columns."""
        names = {"id", *self.fields, *["payload"] * self.payload, *[schema.vector] * self.vector}
        whole = schema.to_arrow()
        return pa.schema([each for each in whole if each.name in names], metadata=whole.metadata)


def stored_rows(rows: pa.Table | pa.RecordBatch, schema: Schema, columns: Columns) -> Batch:
    """Convert Arrow rows from a read to a batch. A server omits a payload or vector column without
    values."""
    count, names = rows.num_rows, rows.schema.names
    payloads: list[str | None] | None = None
    if columns.payload:
        payloads = payload_texts(rows["payload"]) if "payload" in names else [None] * count
    vectors = None
    if columns.vector:
        vectors = np.full((count, schema.dim), np.nan, np.float32)
        if schema.vector in names and count:
            vectors = to_matrix(rows[schema.vector])
    return Batch(
        rows["id"].to_pylist(),
        {name: python_values(one_array(rows[name])) for name in columns.fields},
        payloads,
        vectors,
    )


@dataclass(frozen=True, slots=True)
class Order:
    """One key to sort rows by: a field, "id", or a key of the payload.

    Nulls come last in either direction. Among the values of a payload key, numbers come before
    text, text before booleans (FALSE before TRUE), and every other value counts as null;
    ``descending`` reverses this order. Numbers are compared exactly, text by code points.
    """

    ref: Ref
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Tuning:
    """The effort of an approximate search. None lets the backend choose. Numbers are at least 1.

    A backend accepts some of the values and refuses the rest; ``others`` has values for a backend
    from another package.

    On LanceDB, a search reads ``nprobes`` partitions of the index or follows ``ef`` candidates of a
    graph, and measures the whole vectors of ``refine`` or ``oversample`` times ``limit`` rows. With
    ``measure=False``, hits have the index's own distances, and their vectors are not read. On
    SQLite, rows are ranked by their first ``dims`` components, or by bit codes, and ``oversample``
    times ``limit`` of them are measured: by default 4 times, or 16 times with bit codes.
    """

    nprobes: int | None = None
    ef: int | None = None
    refine: int | None = None
    measure: bool | None = None
    dims: int | None = None
    oversample: float | None = None
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def values(self) -> dict[str, Any]:
        """Return the values that are not None, by name."""
        named = {each.name: getattr(self, each.name) for each in fields(self)[:-1]}
        return {name: value for name, value in named.items() if value is not None} | {**self.others}


def no_vector() -> Float32Array:
    """Return the empty vector of a search by words only."""
    return np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search by ``vector``, by the words of ``clauses``, or, with ``fusion``, by both.

    In a search by words, a row matches if it matches all clauses, or, with ``match="any"``, at
    least one. With ``match="best"``, rows that match all clauses come first; if these are fewer
    than ``limit``, rows that match at least one clause follow (``aiovec.backend.all_words_first``).
    Rows that match an excluded clause are left out; if every clause is excluded, no row matches.
    ``highlight`` has the texts to put before and after each matching word in the snippets.

    A search by both makes a vector list and a word list of at most ``limit`` rows each;
    ``aiovec.backend.hybrid`` fuses them, ``fused`` rows of each at a time, into one list of at most
    ``hits`` rows. ``limit`` is a multiple of ``fused``, so that the first hits do not depend on it.
    The vector list has no rows beyond ``max_distance``.
    """

    limit: int
    where: Expr | None
    columns: Columns
    vector: Float32Array = field(default_factory=no_vector)
    exact: bool = False
    tuning: Tuning | None = None
    max_distance: float | None = None
    clauses: tuple[TextClause, ...] = ()
    match: Literal["all", "any", "best"] = "all"
    highlight: tuple[str, str] | None = None
    fusion: Fusion | None = None
    hits: int = 0
    fused: int = 0

    @property
    def by_words(self) -> bool:
        """True for a search by words only."""
        return not len(self.vector)

    @property
    def by_both(self) -> bool:
        """True for a search by the vector and by words."""
        return self.fusion is not None

    @property
    def wanted(self) -> int:
        """The number of clauses that are not excluded."""
        return sum(not clause.excluded for clause in self.clauses)


Snippets = Callable[[Sequence[str], Sequence[Texts]], Sequence[Mapping[str, str]]]
"""A function, called in a thread, that returns the snippets of hits, by field, from the hits' ids
and texts."""


@dataclass(frozen=True, slots=True)
class Found:
    """The matching rows of a query, in any order, with their distances, scores and ranks.

    A search by vector returns all rows that are at least as near as the last of the ``limit``
    nearest (``aiovec.backend.nearest_first``): ``VectorStore`` breaks ties by id. The search may
    return more rows.

    ``distances`` follow the table's metric (``1 - cos``, Euclidean, ``-dot``); a search by words
    has none, and a search by both has None for a row without a vector. ``scores`` are the BM25
    scores of a search by words, or the fused scores of a search by both; higher is better.
    ``ranks`` has, for a search by both, each row's ranks in the two lists. ``snippets`` makes the
    snippets of the hits that are shown, if the query has ``highlight``.
    """

    rows: Batch
    distances: Sequence[float | None] = ()
    scores: Sequence[float] = ()
    ranks: Sequence[Mapping[str, Rank]] = ()
    snippets: Snippets | None = None


FromRows = Callable[[Batch], _T]
FromEach = Callable[[list[Found]], _T]
"""``FromRows`` turns the rows of a read into its result, and ``FromEach`` turns the matching rows
of each query into the result of a search."""


@dataclass(frozen=True, slots=True)
class Read(Generic[_T]):
    """A read of a table: one of ``Get``, ``Find``, ``Count``, ``Values`` and ``Bounds``."""


@dataclass(frozen=True, slots=True)
class Get(Read[_T]):
    """The result of ``finish`` for the rows with these distinct ids, in any order; missing ids are
    skipped."""

    ids: Sequence[str]
    columns: Columns
    finish: FromRows[_T]


@dataclass(frozen=True, slots=True)
class OfSelected(Read[_T]):
    """A read of the rows that a filter selects; None selects all."""

    where: Expr | None


@dataclass(frozen=True, slots=True)
class Find(OfSelected[_T]):
    """The result of ``finish`` for at most ``limit`` rows after the first ``offset``, sorted by one
    or more keys, the last of which is the id."""

    order_by: Sequence[Order]
    limit: int
    columns: Columns
    finish: FromRows[_T]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Count(OfSelected[int]):
    """The number of rows."""


@dataclass(frozen=True, slots=True)
class Values(OfSelected[Sequence[tuple[Value, int]]]):
    """The values of a field, "id" or a payload key, each with its number of rows.

    The most frequent values come first, and equally frequent ones are in the order of ``Order``; at
    most ``limit`` are returned. Nulls are not counted. A row counts once for each distinct item of
    a list, even of a list in the payload. An integer and a float that are equal are one value,
    returned as the integer; booleans are never numbers.
    """

    ref: Ref
    limit: int | None


@dataclass(frozen=True, slots=True)
class Bounds(OfSelected[tuple[Value, Value] | None]):
    """The first and the last non-null value in the order of ``Order``, from one snapshot.

    None if there are no values. ``ref`` is not a list field.
    """

    ref: Ref


@dataclass(frozen=True, slots=True)
class Changes:
    """The result of ``Backend.changes``: a page of the change feed, up to the change ``number``.

    Apply ``deleted`` first, then ``upserted``. If ``complete``, there is no newer change.
    """

    number: int
    upserted: pa.Table
    deleted: Sequence[str]
    complete: bool


@dataclass(frozen=True, slots=True)
class TableStats:
    """The size and costs of a table.

    ``bytes`` is its size on disk, ``index`` the state of its vector index in words,
    ``unindexed_rows`` the number of rows that a search must scan, ``scan_memory`` the size in bytes
    of the copy that searches keep in this process's memory. ``last_optimize`` is None if the table
    was never optimized (on LanceDB, by this process). ``details`` depends on the backend. If rows
    expire, ``VectorStore`` subtracts from ``rows`` the expired rows that are still stored, and puts
    their number into ``details`` as ``expired_rows``.
    """

    table: str
    backend: str
    rows: int
    bytes: int
    index: str
    unindexed_rows: int
    scan_memory: int
    last_optimize: datetime | None
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """One index: its kind, its parameters, the rows that it covers, and its measured recall."""

    name: str
    kind: str
    column: str
    parameters: Mapping[str, Any]
    rows_indexed: int
    rows_unindexed: int
    recall: float | None = None


class IndexOptions(TypedDict, total=False):
    """Options of an approximate index. An index takes the options of its kind and refuses others.

    ``recall`` is the share of the true nearest rows that searches of the table must find, and
    ``others`` has options for a backend from another package. On LanceDB, the other options are
    whole numbers: ``num_partitions``, or ``target_partition_size`` in rows; ``sample_rate`` and
    ``max_iterations`` for training; ``m`` links and ``ef_construction`` candidates of a graph
    (kinds named ``hnsw``); ``num_sub_vectors`` and ``num_bits`` of codes (``pq`` and ``rq``).
    """

    recall: float | None
    num_partitions: int
    target_partition_size: int
    max_iterations: int
    sample_rate: int
    m: int
    ef_construction: int
    num_sub_vectors: int
    num_bits: int
    others: Mapping[str, Any]


NO_NOTES: Mapping[str, str] = MappingProxyType({})

LARGEST_BATCH = 32 * 1024 * 1024
"""The size in bytes at which a batch of an export ends."""


class Backend(ABC):
    """A store of tables. The constructor does no I/O."""

    name: ClassVar[str]
    """The backend's name in the TOML file."""

    abilities: frozenset[str] = frozenset()
    """The abilities of the backend: names in ``ABILITIES``, "bulk-load" and "questions". The
    abilities with methods are "indexes", "changes", "snapshots", "backup", "restore", "moves",
    "bulk-load" and "questions". The other abilities:

    - "text": it searches by words, in the fields with ``text=True``, and by words and a vector.
    - "once": it commits the key of a write (``write_key``) with the write, so that a repeated write
      is not done twice.
    - "power-loss": an acknowledged write survives a power failure.
    - "payload-indexes": it has indexes over payload keys; a backend without this ability only keeps
      the keys' names in a migrated schema, for a migration back.
    - "quantized": it stores the bit codes of ``Schema(quantized="bit")``.
    - "read-only": it can be opened with ``read_only``.
    """

    hints: ClassVar[Mapping[str, str]] = {}
    """The ``hint`` of UnsupportedError for each missing ability: what to do instead."""

    tunings: frozenset[str] | None = frozenset()
    """The names of the ``Tuning`` values that the backend's searches accept; the store refuses the
    other values, unless the search is exact. None if the backend itself refuses the other
    values."""

    read_only: bool = False
    """Set before ``open``. If True, ``open`` raises ConfigError if there is no store, and methods
    that write raise UnsupportedError. Nothing is created or written (no upkeep, no mark), except
    files that the driver needs for reads while other processes write, or that keep a version while
    it is read."""

    @property
    @abstractmethod
    def target(self) -> str:
        """The store's address, as a user would write it, without secrets."""

    busy_timeout: float | None = None
    """Seconds that a call waits for its turn before StoreBusyError; None means no limit."""

    upkeep: bool = True
    """Set to False before ``open`` by tools that only read: then no background work starts."""

    hides_expired: bool = False
    """True if a server behind the backend hides rows that have expired, and frees their ids. If
    False, the backend treats expired rows like all other rows, and ``VectorStore`` filters them
    out."""

    @property
    def address(self) -> str:
        """The store's address, as ``connect`` accepts it; it never contains secrets."""
        return self.target

    @abstractmethod
    async def open(self) -> None:
        """Open the store, and create it if it does not exist yet."""

    @abstractmethod
    async def close(self) -> None:
        """Finish the accepted writes and release everything. No method is called afterwards."""

    @abstractmethod
    async def ping(self) -> None:
        """Raise an error if the store cannot be reached."""

    def owns(self, path: Path) -> bool:
        """Return whether a path belongs to the store, so that no export overwrites it. Reads the
        disk."""
        return False

    # Tables

    @abstractmethod
    async def tables(self) -> list[str]:
        """Return the names of the tables, sorted."""

    @abstractmethod
    async def open_table(self, name: str) -> TableHandle:
        """Return a handle, or raise TableNotFoundError."""

    @abstractmethod
    async def create_table(self, name: str, schema: Schema) -> None:
        """Create an empty table, or raise TableExistsError. Of several concurrent callers, exactly
        one succeeds."""

    @abstractmethod
    async def alter(self, table: TableHandle, change: SchemaChange) -> None:
        """Change a table's schema. ``VectorStore`` has checked that ``change.apply`` accepts the
        handle's schema."""

    @abstractmethod
    async def rename_table(self, old: str, new: str) -> None:
        """Rename a table; it keeps its rows, schema, indexes and change feed.

        Raises TableNotFoundError or TableExistsError, and UnsupportedError with the reason if the
        store cannot rename a table in one step.
        """

    @abstractmethod
    async def drop_table(self, name: str) -> None:
        """Drop the table with all its rows, or raise TableNotFoundError."""

    # Writing

    def writing(self, size: int) -> AbstractAsyncContextManager[Slot | None]:
        """Return a slot among the running writes, for about ``size`` bytes of rows.

        ``VectorStore`` holds it while it checks and writes the rows of an ``Insert`` or ``Upsert``,
        or the columns of ``UpdateRows``, so that waiting calls take no memory. Other writes take a
        slot themselves, so they must not be called while a slot is held. Raises StoreBusyError if
        no slot is free in time.
        """
        return nullcontext()

    @abstractmethod
    async def write(self, table: TableHandle, change: RowChange) -> int:
        """Change rows, and return the number that the change's class documents."""

    async def kept(self, key: WriteKey) -> Kept | None:
        """Return the kept result of a write with this key, even after a migration of the store.

        Return None if the write was not done, or if its key is no longer kept. Work that a killed
        process left unfinished, such as an index build, is completed. Raises InvalidArgumentError
        if the key was used for another write.
        """
        return None

    # Reading. ``finish`` makes the result from the rows. Its time grows with the rows and payloads,
    # so it is called in the read's thread; a backend that reads without a thread calls it through
    # ``threads.hop``. An error that it raises is the error of the call.

    @abstractmethod
    async def read(self, table: TableHandle, read: Read[_T]) -> _T:
        """Return the result of a ``Get``, ``Find``, ``Count``, ``Values`` or ``Bounds``."""

    @abstractmethod
    async def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> _T:
        """Return the result of ``finish`` for the best rows of each query; filters apply first.

        If there are several queries, all are by vector, and their filters may differ. A query by
        words, or by words and a vector, is the only query of its call, and needs the ability
        "text". A search by words and a vector sees one state of the table, and reads only the rows
        of the fused list.
        """

    @abstractmethod
    def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        """Yield all rows of one consistent snapshot, in constant memory, each batch with its
        cursor.

        A batch has ``batch_size`` rows, or fewer if these reach ``LARGEST_BATCH`` bytes, and the
        columns of ``columns.layout(schema)`` in any order: ``VectorStore`` sorts them. If ``after``
        is a batch's cursor, the export continues after that batch, in a new snapshot: rows that
        exist throughout are yielded exactly once.
        """

    async def rows(
        self, table: TableHandle, *, where: Expr | None, columns: Columns, finish: FromRows[_T]
    ) -> AsyncGenerator[_T, None]:
        """Yield the results of ``finish`` for the rows of one snapshot, part by part.

        ``export`` yields the same rows. A backend that can read them without Arrow overrides this
        method.
        """
        export = self.export(table, where=where, columns=columns, after=None, batch_size=1000)

        def finished(batch: pa.RecordBatch) -> _T:
            return finish(stored_rows(batch, table.schema, columns))

        async with aclosing(export) as batches:
            async for batch, _ in batches:
                yield await hop(batch.num_rows * batch.num_columns, finished, batch)

    @abstractmethod
    async def stats(self, table: TableHandle) -> TableStats: ...

    async def notes(
        self, table: TableHandle, change: Mapping[str, str | None] = NO_NOTES
    ) -> Mapping[str, str]:
        """Apply ``change`` to the table's notes, which are short named strings, and return all
        notes.

        ``change`` maps names to new strings; None removes a note. Notes are as durable as rows: if
        a write survives, so does each note that was acknowledged before it. They stay with the
        table when it is renamed, copied by a backup, or reverted to an earlier version, and are
        dropped with it. They change neither the handle's epoch nor the change number.

        A backend that keeps no notes returns an empty mapping: ``aiovec.watch`` then compares all
        rows at each start.
        """
        return NO_NOTES

    @abstractmethod
    async def optimize(self, table: TableHandle) -> None:
        """Free space and update indexes now."""

    def supports(self, ability: str) -> bool:
        """Return whether the backend has the ability."""
        return ability in self.abilities

    def check_able(self, ability: str) -> None:
        """Raise UnsupportedError unless the backend has the ability."""
        if not self.supports(ability):
            raise self._lacks(ability)

    def _lacks(self, ability: str) -> UnsupportedError:
        return UnsupportedError(ability, self.name, self.hints.get(ability) or _HINTS.get(ability))

    # "indexes": approximate indexes over the vectors

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        """Build an index. Raises InvalidArgumentError for an option that this kind does not
        accept."""
        raise self._lacks("indexes")

    async def measure(self, table: TableHandle, questions: Float32Array) -> None:
        """Measure the recall of the index with these query vectors. Needs the ability "questions".

        ``create_index`` also takes query vectors, as the option ``questions``.
        """
        raise self._lacks("questions")

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        raise self._lacks("indexes")

    async def drop_index(self, table: TableHandle, name: str) -> None:
        raise self._lacks("indexes")

    # "changes": the rows that changed since a change number. "moves" needs this ability while a
    # mark is open. Change numbers rise within a table and are never reused.

    async def change_number(self, table: TableHandle) -> int:
        """Return the number of the newest change. 0 is before all changes."""
        raise self._lacks("changes")

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        """Return about ``limit`` changes after the change number ``since``.

        Raises ChangesPrunedError if some of these changes are no longer kept.
        """
        raise self._lacks("changes")

    # "snapshots": earlier versions of a table

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        raise self._lacks("snapshots")

    async def revert(self, table: TableHandle, version: int) -> None:
        raise self._lacks("snapshots")

    # "backup": copy the whole store while it is in use. "restore": replace it with a copy

    async def backup(self, path: Path) -> None:
        """Write one consistent copy to a path that does not exist yet."""
        raise self._lacks("backup")

    async def restore_from(self, backup: Path, *, overwrite: bool) -> Path | None:
        """Replace the store with a copy of ``backup``; return the path of the old store, if it was
        kept.

        Called instead of ``open``, on an object that is used for nothing else. Checks the backup
        before it changes anything, and raises StoreBusyError if a process uses the store. The old
        store is renamed, or deleted if ``overwrite`` is true.
        """
        raise self._lacks("restore")

    # "bulk-load": filling a table faster than ``insert``, which looks up every id

    async def bulk_add(self, table: TableHandle, rows: pa.Table) -> None:
        """Add rows to a table that only the caller uses; they are durable when this method returns.

        The caller guarantees that the ids are distinct and not in the table.
        """
        raise self._lacks("bulk-load")

    # "moves": a migration away from the store, with a mark that all processes of the store read.
    # Every write reads the mark under the lock, or in the transaction, that commits the write. So
    # when a call that changed the mark returns, an earlier write is either committed or will read
    # the new mark. The object on which ``act_for`` was called belongs to the run: the mark does not
    # stop its reads and writes. All other objects obey the mark.

    async def move_record(self) -> MoveRecord:
        """Return the store's record of migrations; raise CorruptStoreError if it is damaged."""
        raise self._lacks("moves")

    async def change_move(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        """Replace the record with the result of ``change``, atomically; return the old and new
        records.

        Calls ``change`` again if another process changed the record first. With ``anew``, a record
        that cannot be read counts as empty. Once the mark is "moved", every read and write of all
        other objects fails, whatever handles they hold.
        """
        raise self._lacks("moves")

    async def flush_writers(self, limit: float) -> None:
        """Wait until each write that read an earlier mark has been committed, or will read the mark
        again.

        Raises StoreBusyError if one of the writes takes longer than ``limit`` seconds.
        """
        raise self._lacks("moves")

    def act_for(self, run: str | None) -> None:
        """Let this object read and write regardless of the mark of this run."""
        raise self._lacks("moves")

    # Derived from the methods above; the migrator has the rest (``aiovec_migrate.marks``)

    async def move_mark(self) -> MoveMark | None:
        """Return the mark; None if no migration has left one."""
        return (await self.move_record()).mark

    async def arrive(self, run: str, generation: int) -> None:
        """Put the store into use, as the target of this run's cut-over.

        Any process that followed the source's mark may call this method. A mark of the same run and
        an older generation is removed. A second call does nothing.
        """
        if (record := await self.move_record()) != record.arrive(run, generation):
            await self.change_move(lambda record: record.arrive(run, generation))


@contextmanager
def index_behind_change(target: str, table: str) -> Iterator[None]:
    """Translate errors of an index build whose schema change is already committed.

    The errors must not say that nothing was kept.
    """
    try:
        yield
    except (StoreClosedError, StoreMovedError):
        raise
    except AiovecError as exc:
        # These errors would say that nothing was kept, or that the outcome is unknown.
        translated = (OutcomeUnknownError, StoreBusyError, StoreFullError)
        why = exc.reason if isinstance(exc, translated) else exc
        reason = f"an index could not be completed: {why}; optimize({table!r}) completes it"
        raise OutcomeUnknownError(target, reason) from exc


_HINTS = {
    "payload-indexes": "add_field adds a field with an index, for values to filter on",
    "quantized": "it stores no bit codes; leave quantized out of the schema",
}

ABILITIES = tuple(
    "text indexes changes snapshots backup restore moves read-only once power-loss quantized "
    "payload-indexes".split()
)
"""The names that ``VectorStore.supports`` accepts."""
