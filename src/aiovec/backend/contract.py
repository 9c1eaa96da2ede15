"""The contract between ``VectorStore`` and a backend.

``VectorStore`` checks names, rows, vectors, models and filters, ranks the hits and tells errors;
a ``Backend`` stores and finds. It gets only what was checked: Arrow tables in the layout of
``Schema.to_arrow()``, filter trees whose names and literals fit the schema, and contiguous
float32 arrays. A backend names the abilities that not every engine has in ``abilities``, and
implements their methods; without the ability a method raises UnsupportedError.

Rules for every method:

- It raises the errors of ``aiovec.errors`` only, with the driver's own as the cause.
- A write is atomic and, when it returns, durable against ``kill -9`` and visible to every later
  read in any process.
- A cancelled write is wholly done or not at all; a cancelled call leaves the backend usable and
  stops using the CPU soon.
- It never blocks the event loop.
- Calls may overlap in any number.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from .._filters.tree import Expr, Ref, Value
from .._model.arrays import Float32Array
from .._model.patch import PayloadPatch
from .._model.schema import Field, FieldIndex, Schema
from .._text.query import TextClause
from ..errors import (
    AiovecError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreMovedError,
    UnsupportedError,
)
from .context import Kept, WriteKey
from .marks import MoveMark, MoveRecord

if TYPE_CHECKING:
    import pyarrow as pa

    from .limits import Slot
    from .rows import NewRows


class StaleTableError(Exception):
    """The table is no longer what the handle says: altered, dropped, or made anew.

    Never reaches a user: ``VectorStore`` opens the table again and repeats the call.
    """


@dataclass(frozen=True, slots=True)
class TableHandle:
    """A table as it was when it was opened.

    ``token`` is the backend's own mark of that state. A method that gets a handle whose token is
    out of date raises StaleTableError and does nothing.
    """

    name: str
    schema: Schema
    token: Hashable


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to read of each row beside its id."""

    fields: tuple[str, ...]
    payload: bool = False
    vector: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """One key to sort rows by: a field, "id", or a key of the payload.

    Nulls come last in either direction. Of a payload key, numbers come before text, text before
    booleans (FALSE before TRUE), and every other value counts as null; ``descending`` turns this
    around. Numbers are compared exactly, text by code points.
    """

    ref: Ref
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Tuning:
    """The effort of an approximate search. None leaves a value to the backend."""

    nprobes: int | None = None
    ef: int | None = None
    refine: int | None = None
    recall: float | None = None
    dims: int | None = None
    oversample: float | None = None


@dataclass(frozen=True, slots=True)
class VectorQuery:
    vector: Float32Array
    limit: int
    where: Expr | None
    columns: Columns
    exact: bool = False
    tuning: Tuning | None = None


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A keyword search. A row matches that matches all clauses, or with ``any`` at least one.

    No row matches that matches an excluded clause. At least one clause is not excluded.
    ``highlight`` has the texts to put before and behind each matching word of the snippets.
    """

    clauses: tuple[TextClause, ...]
    limit: int
    where: Expr | None
    columns: Columns
    any: bool = False
    highlight: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows as columns of Python values, in the order that was asked for.

    ``fields`` has one list for each of ``Columns.fields``; ``payloads`` holds JSON text or None,
    ``vectors`` one row of float32 for each id, of NaN where it has no vector; both are None where
    they were not asked for.
    """

    ids: Sequence[str]
    fields: Mapping[str, Sequence[Any]]
    payloads: Sequence[str | None] | None = None
    vectors: Float32Array | None = None

    def take(self, places: Sequence[int], fields: Iterable[str] | None = None) -> StoredRows:
        """Return the rows at these places, in this order, with these fields alone if given."""
        names = self.fields if fields is None else fields
        return StoredRows(
            [self.ids[row] for row in places],
            {name: [self.fields[name][row] for row in places] for name in names},
            None if self.payloads is None else [self.payloads[row] for row in places],
            None if self.vectors is None else self.vectors[list(places)],
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that a query found, in any order.

    ``measures`` has one number a row: for a vector search the distance in the table's metric
    (``1 - cos``, Euclidean, ``-dot``), for a text search the BM25 score, higher is better. With
    ``partial``, the last so many rows lack a word of the query; backends leave it at None.
    """

    rows: StoredRows
    measures: Sequence[float]
    highlights: Sequence[Mapping[str, str]] | None = None
    partial: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of the change feed: all that happened after ``since`` and up to ``number``.

    Apply ``deleted`` first, then ``upserted``. ``complete`` tells that ``number`` is the newest.
    """

    number: int
    upserted: pa.Table
    deleted: Sequence[str]
    complete: bool


@dataclass(frozen=True, slots=True)
class TableStats:
    """The size and the costs of a table.

    ``bytes`` is what it takes where it lies, ``index`` the state of its vector index in words,
    ``unindexed_rows`` those that a search must scan, ``scan_memory`` the bytes that its resident
    copy takes in this process. ``details`` is the backend's own; for a table whose rows expire,
    ``VectorStore`` takes the ``expired_rows`` that await their deletion out of ``rows``, and puts
    their number there.
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
    """One index: its kind and parameters, how many rows it covers, its measured recall."""

    name: str
    kind: str
    column: str
    parameters: Mapping[str, Any]
    rows_indexed: int
    rows_unindexed: int
    recall: float | None = None


class IndexOptions(TypedDict, total=False):
    """Options of an approximate index. An index takes those of its kind and refuses others.

    ``recall`` is the part of the true nearest rows that searches of the table shall find. The rest
    are whole numbers: ``num_partitions`` or ``target_partition_size`` rows each, ``sample_rate``
    and ``max_iterations`` of their training, ``m`` links and ``ef_construction`` candidates of a
    graph (kinds named ``hnsw``), ``num_sub_vectors`` and ``num_bits`` of codes (``pq`` and ``rq``).
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


LARGEST_BATCH = 32 * 1024 * 1024
"""Bytes of an export's batch. It ends behind the row with which it has so many."""


class Backend(ABC):
    """A place where tables lie. The constructor does no I/O."""

    name: ClassVar[str]
    """Its name in the TOML."""

    abilities: frozenset[str] = frozenset()
    """The abilities of the backend: names of ``ABILITIES``, "bulk-load" and "questions". Those with
    methods: "text", "indexes", "changes", "snapshots", "backup", "restore", "moves", and these two.

    - "once": the key of a write (``write_key``) is committed with it, so that a write which is
      repeated under its key is not done twice.
    - "power-loss": an acknowledged write survives a power failure.
    - "quantized": it stores the bit codes of ``Schema(quantized="bit")``.
    - "read-only": it heeds ``read_only``.
    """

    hints: ClassVar[Mapping[str, str]] = {}
    """For missing abilities, what to do instead: the ``hint`` of UnsupportedError."""

    read_only: bool = False
    """Set before ``open``. Then ``open`` raises ConfigError where there is no store, nothing is
    created or written next to it (no upkeep, no mark) but what keeps a version while it is read,
    and what the driver itself needs to read while others write, and a method that writes raises
    UnsupportedError."""

    @property
    @abstractmethod
    def target(self) -> str:
        """Where the store lies, as a user would name it; never a secret."""

    busy_timeout: float | None = None
    """Seconds that a call waits for its turn before StoreBusyError; None without a limit.
    ``VectorStore`` has a search wait for so long too before it asks the backend."""

    searches_at_once: int = max(96, 32 * (os.cpu_count() or 1))
    """The most searches by vectors, and as many by words, that gain by being at work at once.
    ``VectorStore`` has further ones wait, in their order whatever their tables. By default as many
    as fill a batch of SQLite's on each core, and the next one."""

    upkeep: bool = True
    """Set to False before ``open`` by those who only look: no work begins in the background."""

    hides_expired: bool = False
    """True if the rows of ``Schema.expires`` are no matter of this process: a server behind it
    hides those that have expired, and frees their ids. Else the backend treats them as all rows,
    and ``VectorStore`` asks for those that live."""

    @property
    def address(self) -> str:
        """Where the store lies, as ``connect`` takes it; never a secret."""
        return self.target

    @abstractmethod
    async def open(self) -> None:
        """Make the store ready, and create it where it is not there yet."""

    @abstractmethod
    async def close(self) -> None:
        """Finish the writes that were accepted and let go of everything. Called once, last."""

    @abstractmethod
    async def ping(self) -> None:
        """Reach the store, or raise."""

    def owns(self, path: Path) -> bool:
        """Return whether a path belongs to the store: no export may replace it. Reads the disk."""
        return False

    # Tables

    @abstractmethod
    async def tables(self) -> list[str]:
        """The tables' names, sorted."""

    @abstractmethod
    async def open_table(self, name: str) -> TableHandle:
        """A handle, or TableNotFoundError."""

    @abstractmethod
    async def create_table(self, name: str, schema: Schema) -> None:
        """Create an empty table, or raise TableExistsError. Of callers at once, one succeeds."""

    @abstractmethod
    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        """Add a field that is null in the rows there are."""

    @abstractmethod
    async def create_field_index(self, table: TableHandle, field: str, kind: FieldIndex) -> None:
        """Build an index over a field, which the schema then says; return when it is used.

        The field exists and ``kind`` fits its type. "btree" and "bitmap" take each other's place,
        "text" stands beside them. Where the same index exists, nothing changes, but what a killed
        build has left undone is completed. Reads go on meanwhile.
        """

    @abstractmethod
    async def drop_field_index(
        self, table: TableHandle, field: str, kind: FieldIndex | None
    ) -> None:
        """Drop the index of this kind over a field, or all of its indexes; nothing without one.

        The schema then says so, and no upkeep builds it again.
        """

    @abstractmethod
    async def drop_field(self, table: TableHandle, field: str) -> None:
        """Drop a field with its values and indexes. It is no partition key and not embedded."""

    @abstractmethod
    async def rename_field(self, table: TableHandle, old: str, new: str) -> None:
        """Give a field another name, which is free; values and indexes stay."""

    @abstractmethod
    async def rename_table(self, old: str, new: str) -> None:
        """Give a table another name; rows, schema, indexes and changes stay.

        TableNotFoundError or TableExistsError where it cannot be, UnsupportedError with the reason
        where the place of the store knows no way to do it in one step.
        """

    @abstractmethod
    async def drop_table(self, name: str) -> None:
        """Drop the table with all its rows, or raise TableNotFoundError."""

    # Writing

    def writing(self, size: int) -> AbstractAsyncContextManager[Slot | None]:
        """A place among the writing calls under way, for about ``size`` bytes of rows.

        ``VectorStore`` holds it while it checks the rows of an ``insert`` or ``upsert``, or the
        vectors of ``set_vectors``, and writes them, so that calls that wait take no memory. The
        other writing methods take one themselves, so none of them is called within.
        StoreBusyError where none comes in time.
        """
        return nullcontext()

    @abstractmethod
    async def insert(
        self, table: TableHandle, rows: NewRows, *, skip_existing: bool = False
    ) -> int:
        """Add rows, whose ids are distinct, and return how many were added.

        DuplicateIdError where one of the ids exists; with ``skip_existing`` its row is left out.
        """

    @abstractmethod
    async def upsert(self, table: TableHandle, rows: NewRows, *, moves: bool = False) -> None:
        """Add rows, whose ids are distinct, or replace whole rows of the same ids.

        InvalidRowError, and nothing written, where a row has another value of a partition field
        than the stored one, unless it ``moves``, as in a migration.
        """

    @abstractmethod
    async def update(
        self,
        table: TableHandle,
        values: Mapping[str, Any],
        payload: PayloadPatch,
        *,
        ids: Sequence[str] | None,
        where: Expr | None,
        vector: Float32Array | None = None,
    ) -> int:
        """Set fields, and change the payload, in the rows selected by both; how many those were.

        ``ids`` are distinct; None for either selects every row. With ``vector``, each of these
        rows gets this vector; with one of NaN they have none any more, as tables with
        ``vector_nullable`` allow. Where ``payload.apply`` raises for a row, nothing is changed.
        """

    @abstractmethod
    async def set_vectors(
        self, table: TableHandle, ids: Sequence[str], vectors: Float32Array
    ) -> int:
        """Give the rows with these ids, which are distinct, new vectors; how many existed.

        ``vectors`` has one for each id. Fields stay, and ids that are absent are passed by.
        """

    @abstractmethod
    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        """Delete the rows selected by both; how many those were."""

    async def kept(self, key: WriteKey) -> Kept | None:
        """The trace of a write that was done under this key, whatever has become of the store.

        None where there is none: it was not done, or its key was forgotten since. What a killed
        process has left undone of it, such as the build of an index, is completed.
        InvalidArgumentError where another write has the key.
        """
        return None

    # Reading

    @abstractmethod
    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> StoredRows:
        """The rows with these ids, which are distinct, in any order; absent ones are left out."""

    @abstractmethod
    async def find(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        order_by: Sequence[Order],
        limit: int,
        offset: int,
        columns: Columns,
    ) -> StoredRows:
        """Rows in the order of one or more keys; rows that are equal in all of them by id."""

    @abstractmethod
    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        """The nearest rows for each query: a filter selects before the nearest are taken."""

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
        """All rows of one consistent snapshot, in constant memory, each batch with its cursor.

        A batch has ``batch_size`` rows, or fewer once these have ``LARGEST_BATCH`` bytes.
        The batches have the columns of ``Schema.to_arrow()`` that were asked for, the id always.
        A cursor goes on behind its batch in a new snapshot: rows that were there all the time
        come exactly once.
        """

    @abstractmethod
    async def count(self, table: TableHandle, where: Expr | None) -> int: ...

    @abstractmethod
    async def value_counts(
        self, table: TableHandle, ref: Ref, where: Expr | None, limit: int | None
    ) -> Sequence[tuple[Value, int]]:
        """The values of a field, "id" or a payload key, each with the number of rows that have it.

        The most frequent first, equally frequent ones in the order of ``Order``; at most ``limit``.
        Nulls are not counted. A row counts once for each different item of a list, also of one in
        the payload. Integers and floats that are equal are one value; booleans are never numbers.
        """

    @abstractmethod
    async def bounds(
        self, table: TableHandle, ref: Ref, where: Expr | None
    ) -> tuple[Value, Value] | None:
        """The first and the last value, nulls left out, in the order of ``Order``, of one state.

        None where there is none. ``ref`` is no list field.
        """

    @abstractmethod
    async def stats(self, table: TableHandle) -> TableStats: ...

    @abstractmethod
    async def optimize(self, table: TableHandle) -> None:
        """Do now what keeps the table small and fast."""

    def supports(self, ability: str) -> bool:
        """Return whether the backend has the ability."""
        return ability in self.abilities

    def check_able(self, ability: str) -> None:
        """Raise UnsupportedError unless the backend has the ability."""
        if not self.supports(ability):
            raise self._lacks(ability)

    def _lacks(self, ability: str) -> UnsupportedError:
        return UnsupportedError(ability, self.name, self.hints.get(ability))

    # "text": keyword search over the fields with ``text=True``

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        """The best rows by BM25."""
        raise self._lacks("text")

    # "indexes": approximate indexes over the vectors

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        raise self._lacks("indexes")

    async def measure(self, table: TableHandle, questions: Float32Array) -> None:
        """Measure what the index finds with these questions, which ``create_index`` takes as the
        option ``questions`` too. Its ability is "questions"."""
        raise self._lacks("questions")

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        raise self._lacks("indexes")

    async def drop_index(self, table: TableHandle, name: str) -> None:
        raise self._lacks("indexes")

    # "changes": the rows that changed since a change number; also what "moves" needs while a mark
    # is open. Numbers rise within a table and are never reused.

    async def change_number(self, table: TableHandle) -> int:
        """The number of the newest change. 0 lies before all changes."""
        raise self._lacks("changes")

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        """About ``limit`` changes after ``since``; ChangesPrunedError where they are not kept."""
        raise self._lacks("changes")

    # "snapshots": earlier versions of a table

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        raise self._lacks("snapshots")

    async def revert(self, table: TableHandle, version: int) -> None:
        raise self._lacks("snapshots")

    # "backup": a copy of the whole store while it is in use, and "restore": one put in its place

    async def backup(self, path: Path) -> None:
        """Write one consistent copy to a path that does not exist yet."""
        raise self._lacks("backup")

    async def restore_from(self, backup: Path, *, overwrite: bool) -> Path | None:
        """Replace the store by a copy of ``backup``; return where the old one was kept.

        Called in place of ``open``, on an object that is used for nothing else. Checks the backup
        before it changes anything, and raises StoreBusyError where a process uses the store. What
        is there stays under another name unless ``overwrite`` is true.
        """
        raise self._lacks("restore")

    # "bulk-load": filling a table faster than ``insert`` does, which looks every id up

    async def bulk_add(self, table: TableHandle, rows: pa.Table) -> None:
        """Add rows to a table that the caller has made and holds alone; durable when it returns.

        Their ids are distinct, and the table lacks them: the caller answers for that.
        """
        raise self._lacks("bulk-load")

    # "moves": helping a migration away from the store, by a mark that all its processes heed.
    #
    # Every write reads the mark under the lock, or in the transaction, that commits the write. So a
    # write that began before a change of the mark is either committed when the call that changed it
    # returns, or looks again. The object on which ``act_for`` was called acts for the run: it
    # reads and writes whatever the mark says. Every other one is held by it.

    async def move_record(self) -> MoveRecord:
        """The mark, whoever set it, and the generation; CorruptStoreError where it is damaged."""
        raise self._lacks("moves")

    async def change_move(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        """Replace the record by what ``change`` makes of it, in one step; both, before and after.

        Calls ``change`` again where somebody else was faster. With ``anew`` the record counts as
        empty where it cannot be read. A mark that comes to say "moved" ends every read and write
        of every other object, whatever handles they hold.
        """
        raise self._lacks("moves")

    async def flush_writers(self, limit: float) -> None:
        """Return when every write that read an earlier mark is committed or will read it again.

        StoreBusyError where one of them takes longer than ``limit`` seconds.
        """
        raise self._lacks("moves")

    def act_for(self, run: str | None) -> None:
        """Let this object read and write whatever the mark of that run says."""
        raise self._lacks("moves")

    # By these; a run of the migrator does the rest (``aiovec_migrate.marks``)

    async def move_mark(self) -> MoveMark | None:
        """The mark, whoever set it; None where no migration has left one."""
        return (await self.move_record()).mark

    async def arrive(self, run: str, generation: int) -> None:
        """Put the store into use, to which a cut-over of this run has led.

        Whoever was led here by the mark of the store that was left may do it: a mark of the same
        run and an older generation is out of date. Done a second time it does nothing.
        """
        if (record := await self.move_record()) != record.arrive(run, generation):
            await self.change_move(lambda record: record.arrive(run, generation))


@contextmanager
def index_behind_change(target: str, table: str) -> Iterator[None]:
    """Within, an index is built that a change of the schema wants, which is kept by now.

    A failure must not say that nothing of the call was kept.
    """
    try:
        yield
    except (StoreClosedError, StoreMovedError):
        raise
    except AiovecError as exc:
        # Theirs say that nothing was kept, or that it is not known.
        told = (OutcomeUnknownError, StoreBusyError, StoreFullError)
        why = exc.reason if isinstance(exc, told) else exc
        reason = f"an index could not be completed: {why}; optimize({table!r}) completes it"
        raise OutcomeUnknownError(target, reason) from exc


ABILITIES = (
    "text", "indexes", "changes", "snapshots", "backup", "restore", "moves",
    "read-only", "once", "power-loss", "quantized",
)  # fmt: skip
"""The names that ``VectorStore.supports`` knows."""
