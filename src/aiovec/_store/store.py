"""VectorStore: the one class users hold, whatever the backend."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import warnings
import weakref
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import anyio

from .._embed.protocol import Embedder
from .._embed.registry import Embedders
from .._filters import Expr, bind
from .._filters.tree import Combinable, Value, characters_of
from .._input.arguments import (
    check_field_index,
    check_flag,
    check_model,
    check_words,
    count_of,
    existing_field,
    is_iterable,
)
from .._input.selection import (
    Selection,
    order_keys,
    selected_names,
    selection_of,
    sort_order,
    value_ref,
)
from .._input.types import (
    ON_CONFLICT,
    FieldValue,
    Id,
    Ids,
    OnConflict,
    Rows,
    Vector,
    Vectors,
    Where,
)
from .._model.patch import Remove
from .._model.records import Hit, Record
from .._model.results import Results
from .._model.schema import (
    Embed,
    Field,
    FieldIndex,
    FieldType,
    Schema,
    check_field_name,
    check_table_name,
)
from .._telemetry.calls import Operation
from .._telemetry.spans import span
from ..backend.conditions import is_retried, write_key
from ..backend.contract import (
    Backend,
    Columns,
    IndexInfo,
    IndexOptions,
    StaleTableError,
    TableHandle,
    TableStats,
    Tuning,
)
from ..backend.limits import Deadline, renewed
from ..backend.locate import path_of_copy
from ..backend.pool import LITTLE, NUMBERS_A_VALUE, in_thread, off_loop
from ..backend.threads import FORKED, Nested, OneLoop, PerLoop
from ..errors import (
    ConfigError,
    EmbeddingError,
    InvalidArgumentError,
    InvalidRowError,
    ModelMismatchError,
    SchemaMismatchError,
    StoreClosedError,
    TableExistsError,
    TableNotFoundError,
    UnsupportedError,
)
from . import once
from .current import REFUSALS, Engine, Follower
from .rank import RRF, Fusion, Listed, Rerank, check_fusion
from .search import Ranked, Search, SearchOptions, clauses_of, finished
from .turns import SearchTurn, SearchTurns

if TYPE_CHECKING:
    import pyarrow as pa

    from .._embed.batcher import Batcher
    from .._embed.protocol import Purpose
    from .._input.rows import CheckedRows
    from .._model.arrays import Float32Array
    from ..backend.config import RetrievalSettings
    from ..backend.embedders import EmbedderSettings
    from ..backend.origin import Origin
    from .table import Table

_T = TypeVar("_T")

# So much filter text takes as long to parse as one value takes to check, and so much of a literal
# as long to look for wildcards in.
_CHARACTERS_A_VALUE, _CHARACTERS_OF_A_LITERAL = 2, 16
# Rows of an exported batch: more than fit into one, and a number that every backend can take.
_LARGEST_BATCH = 2**31 - 1
# What a store that was opened for reading only refuses. "create_table" may find that all is there.
_WRITES = frozenset(
    {
        "add_field", "create_field_index", "drop_field_index", "drop_field",
        "rename_field", "rename_table", "drop_table",
        "insert", "upsert", "update", "set_vectors", "delete",
        "delete_where", "optimize", "create_index", "drop_index", "restore",
    }
)  # fmt: skip


# The calls that are done once under a key.
_ONCE = (_WRITES | {"create_table"}) - {"optimize"}


class VectorStore:
    """Tables of vectors that can be awaited. Made by ``aiovec.connect``.

    What holds for every method:

    - It checks its arguments first; bad ones raise an ``AiovecError`` and change nothing.
    - A write is atomic: all of it or none. When it returns, it survives ``kill -9``, and every
      search that starts later, in any process, sees it.
    - A cancelled call is wholly done or not at all, and the store stays usable.
    - It never blocks the event loop, and calls may overlap in any number.
    - It raises ``StoreClosedError`` after ``close``, ``TableNotFoundError`` where the table is
      missing, and no error but those of ``aiovec.errors``.
    """

    def __init__(
        self,
        backend: Backend,
        settings: RetrievalSettings,
        source: Origin | None = None,
        embedders: Mapping[str, Embedder | EmbedderSettings] | None = None,
    ) -> None:
        self._embedders = Embedders(embedders or {})
        self._threads = PerLoop(lambda: anyio.CapacityLimiter(4))
        # What an app's own code takes as long as it likes for: nothing else waits for these.
        self._rerank_threads = PerLoop(lambda: anyio.CapacityLimiter(4))
        self._reader_threads = PerLoop(lambda: anyio.CapacityLimiter(4))
        self._follower = Follower(Engine(backend, settings), source, self._threads)
        self._process = os.getpid()
        self._loop = OneLoop()
        self._searches = SearchTurns()
        # With nothing of it that leads back here: a store is gone with the last reference.
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._exporting: PerLoop[weakref.WeakSet[AsyncGenerator[Any, None]]]
        self._exporting = PerLoop(weakref.WeakSet)
        # Whoever closes it waits for nothing that can be done later.
        self._hurried = False

    # Life

    @property
    def target(self) -> str:
        """Where the store lies."""
        return self._follower.engine.backend.target

    @property
    def backend_name(self) -> str:
        """The name of the backend in use now."""
        return self._follower.engine.backend.name

    def __repr__(self) -> str:
        state = "closed " if self._closing is not None else ""
        return f"<{state}VectorStore {self.target}>"

    async def __aenter__(self) -> VectorStore:
        return self

    async def __aexit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        self._hurried = kind is not None
        await self.close()

    async def close(self) -> None:
        """Wait for the writes that were accepted, then let go of everything.

        May be called twice. Reads that are under way end with StoreClosedError, as later calls do.
        Being cancelled does not stop the closing.

        A backend may first do the upkeep that is due: for example an index for a table that was
        loaded, for ``close_timeout`` seconds at most. It does not where the block of the store ends
        with an exception, or where this call is cancelled.
        """
        if os.getpid() != self._process:
            return  # what is under way belongs to the parent
        task = asyncio.current_task()
        self._hurried |= task is not None and task.cancelling() > 0
        # A loop that ended while the store was being closed, or a failure, is followed by another
        # try.
        again = self._loop.enter(self.target) and not self._closed
        if again or self._closing is None or (self._closing.done() and not self._closed):
            self._closing = asyncio.ensure_future(self._close())
        if self._closed:
            return
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            self._hurried = True
            self._follower.hurry()
            raise

    async def _close(self) -> None:
        self._searches.close(StoreClosedError(self.target))
        # A call that waits for its vectors has begun no write yet.
        await self._embedders.close(lambda: StoreClosedError(self.target))
        await self._follower.close(finish=not self._hurried)
        self._closed = True
        # The loop would end their parts in no order. One that is read just now ends by itself.
        left = [batches.aclose() for batches in self._exporting()]
        await asyncio.gather(*left, return_exceptions=True)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_closing", self) is None and os.getpid() == self._process:
            _warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)

    def supports(self, ability: str) -> bool:
        """Return whether the backend has an ability: "text", "text-prefix", "indexes", "changes",
        "snapshots", "backup", "moves", "read-only", "restore", "once",
        "power-loss" or "quantized"."""
        if not isinstance(ability, str):
            raise InvalidArgumentError("ability", ability, "the name of an ability")
        return self._follower.engine.backend.supports(ability)

    @property
    def read_only(self) -> bool:
        """True if the store was opened for reading only."""
        return self._follower.engine.backend.read_only

    def _owns(self, path: Path) -> bool:
        """Return whether a path belongs to the store. Reads the disk."""
        return self._follower.engine.backend.owns(path)

    def _check_writable(self, call: str) -> None:
        if self.read_only:
            raise UnsupportedError(
                call, self.backend_name, f"{self.target} was opened with read_only=True"
            )

    async def ping(self) -> None:
        """Reach the store, or raise why not."""
        await self._call(Operation("ping"), lambda engine: engine.backend.ping())

    def table(self, name: str) -> Table:
        """A light handle: ``store.table("docs").search(vector)``. Reads nothing."""
        from .table import Table

        return Table(self, check_table_name(name))

    # Tables

    async def create_table(
        self, table: str, schema: Schema | None = None, *, exist_ok: bool = False
    ) -> None:
        """Create a table; without a schema, ``Schema.context_vectors`` of the configured ``dim``.

        Of several callers at once one creates it. Where it exists: TableExistsError, or with
        ``exist_ok`` nothing, unless the schema is another: ModelMismatchError where only the
        model differs, else SchemaMismatchError. A schema with an option that the backend cannot
        honour raises UnsupportedError, unless such a table exists already.

        With ``embed`` in the schema the table gets the model of the embedder, if the store has it
        and the schema names none.
        """
        check_table_name(table)
        if schema is not None and not isinstance(schema, Schema):
            raise InvalidArgumentError("schema", schema, "an aiovec.Schema or None")
        exist_ok = check_flag("exist_ok", exist_ok)

        async def create(engine: Engine) -> None:
            wanted = schema or Schema.context_vectors(engine.settings.dim)
            if wanted.embed is not None:
                wanted = await self._with_model_of_embedder(engine, table, wanted, wanted.embed)
            try:
                if self.read_only:
                    # As a no-op it is for an app that begins with it.
                    if not exist_ok or table not in await engine.backend.tables():
                        self._check_writable("create_table")
                    raise TableExistsError(table)
                if wanted.quantized and not engine.backend.supports("quantized"):
                    # A table that a migration brought here keeps the option, for the way back.
                    if not exist_ok or table not in await engine.backend.tables():
                        raise UnsupportedError(
                            "quantized", engine.backend.name,
                            "it stores no bit codes; leave quantized out of the schema",
                        )  # fmt: skip
                    raise TableExistsError(table)
                try:
                    await once.create_table(engine.backend, table, wanted)
                except (UnsupportedError, ConfigError):
                    # So it is where a server refuses whatever writes.
                    if not exist_ok or table not in await engine.backend.tables():
                        raise
                    raise TableExistsError(table) from None
            except TableExistsError:
                if not exist_ok:
                    raise
                try:
                    there = (await engine.open_table(table, fresh=True)).schema
                except TableNotFoundError:
                    raise StaleTableError(table) from None  # dropped meanwhile: once more
                if wanted.embed is not None and wanted.model is None:
                    # Without its embedder the store has no name of a model to compare with.
                    wanted = _with_model(wanted, there.model)
                differences = there.differences(wanted)
                if differences and not there.differences(_with_model(wanted, there.model)):
                    raise ModelMismatchError(table, there.model, wanted.model) from None
                if differences:
                    raise SchemaMismatchError(table, differences) from None

        await self._call(Operation("create_table", table), create)

    async def _with_model_of_embedder(
        self, engine: Engine, table: str, schema: Schema, embed: Embed
    ) -> Schema:
        embedder = await self._embedders.find(embed.using, engine.settings)
        if embedder is None:
            return schema
        embedder.check_fits(table, schema)
        return _with_model(schema, embedder.model)

    async def add_field(self, table: str, name: str, field: Field | FieldType) -> None:
        """Add a field, which is null in the rows there are; its index is built before it returns.

        A field that cannot be null, or that is a partition key, has to be there from the start.
        """
        check_field_name(name)
        added = field if isinstance(field, Field) else Field(field)
        if not added.nullable or added.partition:
            raise InvalidArgumentError(
                "field", added, "nullable and no partition key, since rows may be there already"
            )

        async def add(engine: Engine, handle: TableHandle) -> None:
            if once.is_field_added(handle.schema, name, added):
                return
            handle.schema.with_field(name, added)  # raises InvalidNameError where it cannot be
            await engine.backend.add_field(handle, name, added)
            engine.forget(table)

        await self._on_table(Operation("add_field", table), add)

    async def create_field_index(self, table: str, field: str, kind: FieldIndex) -> None:
        """Build an index over an existing field: "btree" or "bitmap" for filters, "text" for
        keyword search. Reads go on meanwhile.

        The schema says so afterwards, as ``Field(index=…)`` or ``Field(text=True)``. A "bitmap"
        takes the place of a "btree", and the reverse. Where the same index exists, this completes
        one whose build was killed, and else does nothing. Fields of lists have none of these.
        OutcomeUnknownError says of an index that could not be completed that the schema has it
        already; then ``optimize`` completes it.
        """

        async def create(engine: Engine, handle: TableHandle) -> None:
            check_field_index(handle.schema, field, kind)
            if kind == "text":
                engine.backend.check_able("text")
            await engine.backend.create_field_index(handle, field, kind)
            engine.forget(table)

        await self._on_table(Operation("create_field_index", table), create)

    async def drop_field_index(
        self, table: str, field: str, kind: FieldIndex | None = None
    ) -> None:
        """Drop the index of this kind over a field; without ``kind``, all indexes over it.

        The field and its values stay. Does nothing where there is no such index.
        """

        async def drop(engine: Engine, handle: TableHandle) -> None:
            check_field_index(handle.schema, field, "btree" if kind is None else kind)
            await engine.backend.drop_field_index(handle, field, kind)
            engine.forget(table)

        await self._on_table(Operation("drop_field_index", table), drop)

    async def drop_field(self, table: str, field: str) -> None:
        """Drop a field with its values and its indexes.

        A partition key, and the field that the vectors are made from, stay. A payload key of the
        same name, hidden until then, is seen again.
        """

        async def drop(engine: Engine, handle: TableHandle) -> None:
            if once.is_field_dropped(handle.schema, field):
                return
            existing_field(handle.schema, field)
            handle.schema.without_field(field)  # raises where it cannot be
            await engine.backend.drop_field(handle, field)
            engine.forget(table)

        await self._on_table(Operation("drop_field", table), drop)

    async def rename_field(self, table: str, old: str, new: str) -> None:
        """Give a field another name. Its values and indexes stay.

        A payload key that has the new name is hidden by the field.
        """
        check_field_name(new)

        async def rename(engine: Engine, handle: TableHandle) -> None:
            if once.is_field_renamed(handle.schema, old, new):
                return
            existing_field(handle.schema, old)
            handle.schema.with_renamed_field(old, new)  # raises InvalidNameError where it is taken
            await engine.backend.rename_field(handle, old, new)
            engine.forget(table)

        await self._on_table(Operation("rename_field", table), rename)

    async def rename_table(self, old: str, new: str) -> None:
        """Give a table another name. Rows, schema, indexes and the change feed stay.

        UnsupportedError where the store lies in a bucket, in LanceDB's memory or its service, in
        which no table can be renamed in one step.
        """
        check_table_name(old)
        check_table_name(new)

        async def rename(engine: Engine) -> None:
            engine.forget(old)
            engine.forget(new)
            try:
                await engine.backend.rename_table(old, new)
            except TableNotFoundError as exc:
                if not (is_retried() and new in exc.tables):
                    raise

        await self._call(Operation("rename_table", old), rename)

    async def drop_table(self, table: str, *, missing_ok: bool = False) -> None:
        """Drop the table and all its rows."""
        check_table_name(table)
        missing_ok = check_flag("missing_ok", missing_ok)

        async def drop(engine: Engine) -> None:
            engine.forget(table)
            try:
                await engine.backend.drop_table(table)
            except TableNotFoundError:
                if not (missing_ok or is_retried()):
                    raise

        await self._call(Operation("drop_table", table), drop)

    async def tables(self) -> list[str]:
        """The names of the tables, sorted."""
        return await self._call(Operation("tables"), lambda engine: engine.backend.tables())

    async def schema(self, table: str) -> Schema:
        """The table's schema as it is now."""
        check_table_name(table)

        async def read(engine: Engine) -> Schema:
            return (await engine.open_table(table, fresh=True)).schema

        return await self._call(Operation("schema", table), read)

    # Writing

    async def insert(
        self,
        table: str,
        rows: Rows,
        *,
        on_conflict: OnConflict = "fail",
        model: str | None = None,
    ) -> int:
        """Add rows; how many.

        ``rows`` are an Arrow batch or table, an (async) iterable of those, of mappings or of
        ``Record``s, or a mapping of columns. An iterable is read to its end before the write
        begins. An id that exists, or that stands twice in ``rows``, raises DuplicateIdError, and
        nothing of the call is kept. With ``on_conflict="skip"`` such rows are left out instead (of
        an id that stands twice, the first row counts), and with ``"replace"`` they replace the
        existing ones, as in ``upsert``.

        Where the schema has ``embed``, rows may come without a vector: the store's embedder makes
        it of their text; not of rows that are skipped. EmbeddingError names the row for which it
        failed.
        """
        if not isinstance(on_conflict, str) or on_conflict not in ON_CONFLICT:
            expected = " or ".join(map(repr, ON_CONFLICT))
            raise InvalidArgumentError("on_conflict", on_conflict, expected)
        return await self._write("insert", table, rows, model, on_conflict=on_conflict)

    async def upsert(self, table: str, rows: Rows, *, model: str | None = None) -> int:
        """Add rows, or replace whole rows of the same ids; how many ids.

        ``rows`` as in ``insert``; where an id stands twice, the last row counts.
        """
        return await self._write("upsert", table, rows, model, on_conflict="replace")

    async def _write(
        self,
        call: str,
        table: str,
        rows: Rows | CheckedRows,
        model: str | None = None,
        *,
        on_conflict: OnConflict,
    ) -> int:
        """Insert or upsert. ``CheckedRows`` are an import's, which has checked each row."""
        self._check_writable(call)
        from .._input.rows import collect
        from .write import RowsToWrite

        held = await collect(rows, self._read_in_thread)
        operation = Operation(call, table)
        writing = RowsToWrite(rows, held, model, on_conflict, operation, self._with_vectors)
        del held  # it is let go of there
        try:
            return await self._on_table(operation, writing.write)
        finally:
            await writing.let_go()

    async def _with_vectors(
        self,
        engine: Engine,
        handle: TableHandle,
        rows: pa.Table,
        model: str | None,
        on_conflict: OnConflict,
    ) -> pa.Table:
        """Return the rows with vectors from the embedder where they have none.

        Rows that would be made for nothing, as ``on_conflict`` skips them, are left out.
        """
        from .._embed.rows import filled, lacking, of_row, without
        from .._input.rows import effort_of

        schema = handle.schema
        embed = schema.embed
        if embed is None or not rows.column(schema.vector).null_count:
            return rows
        effort = effort_of(rows) + rows.num_rows * (1 + schema.dim // NUMBERS_A_VALUE)
        found = await off_loop(effort, lacking, rows, schema, embed)
        if found.texts and on_conflict == "skip":
            there = (await engine.backend.get(handle, found.ids, Columns(()))).ids
            rows, found = await off_loop(effort, without, rows, found, there)
        if not found.texts:  # rows may stay without a vector
            return rows
        embedder = await self._embedders.of_table(handle, embed, engine.settings, model)
        try:
            vectors = await _embedded(engine, handle, embedder, found.texts, "document")
        except EmbeddingError as exc:
            # Repeated ids have moved the rows, unless they are an error.
            error = of_row(exc, found, numbered=on_conflict == "fail")
        else:
            return await off_loop(effort, filled, rows, schema, found, vectors, embedder.name)
        try:
            raise error
        finally:
            del error  # it refers to this frame

    async def update(
        self,
        table: str,
        fields: Mapping[str, FieldValue | Remove],
        *,
        ids: Ids | None = None,
        where: Where = None,
    ) -> int:
        """Set fields, and keys of the payload, and keep vectors; how many rows.

        A key ``payload.<key>.<key>`` leads into nested objects, as in filters, and the other keys
        stay; objects on the way that are absent or null are made. Anything else on the way raises
        InvalidRowError, and no row is changed. ``aiovec.REMOVE`` as the value removes the key.
        ``ids`` and ``where`` both narrow the rows. One of them is needed; every row is
        ``where="TRUE"``. A new text in the field that the vectors are made of gives the rows its
        vector in the same write; no text, where rows may have no vector, takes theirs.
        """
        from .._input.rows import check_patch, distinct_ids, effort_of_update

        if ids is None and where is None:
            raise InvalidArgumentError(
                "ids or where", None, "given; to update every row pass where='TRUE'"
            )
        if isinstance(fields, Mapping):
            fields = dict(fields)  # its owner may change it while the call waits
        effort = effort_of_update(fields, len(fields) if isinstance(fields, dict) else 0)
        wanted = None if ids is None else await self._checked_ids(ids, distinct_ids)
        operation = Operation("update", table)

        async def update(engine: Engine, handle: TableHandle) -> int:
            values, payload = await off_loop(effort, check_patch, fields, handle.schema)
            condition = await self._bind(where, handle.schema)
            if wanted is not None and not wanted:
                return 0
            vector = await self._vector_of_update(engine, handle, values)
            with renewed(vector is not None):
                operation.rows = await engine.backend.update(
                    handle, values, payload, ids=wanted, where=condition, vector=vector
                )
            return operation.rows

        return await self._on_table(operation, update)

    async def _vector_of_update(
        self, engine: Engine, handle: TableHandle, values: Mapping[str, Any]
    ) -> Any:
        """Return the vector of a new text in the embedded field; None if the update has none.

        NaN where rows without a text have no vector.
        """
        import numpy as np

        from .._embed.rows import check_made, of_text
        from .._input.vectors import query_vector

        embed = handle.schema.embed
        if embed is None or embed.field not in values:
            return None
        text = values[embed.field]
        if not text and handle.schema.vector_nullable:
            return np.full(handle.schema.dim, np.nan, dtype=np.float32)
        if not text:
            raise InvalidRowError(
                "there is no text to make the vectors of; pass one, or set other fields",
                field=embed.field,
            )
        embedder = await self._embedders.of_table(handle, embed, engine.settings, None)
        try:
            vectors = await _embedded(engine, handle, embedder, [text], "document")
            check_made(vectors, handle.schema, embedder.name)
        except EmbeddingError as exc:
            error = of_text(exc, [0])
        else:
            return query_vector(vectors[0], handle.schema)
        try:
            raise error
        finally:
            del error  # it refers to this frame

    async def set_vectors(
        self,
        table: str,
        ids: Ids,
        vectors: Vectors,
        *,
        model: str | None = None,
    ) -> int:
        """Give the rows with these ids new vectors, and keep their fields; how many rows existed.

        ``vectors`` has one vector for each id, checked as in ``insert``; an error names the
        position of the vector and its id. Where an id stands twice, its last vector counts. Ids
        that are absent are not counted, and are no error. ``model`` names the model that made the
        vectors; another than the table's raises ModelMismatchError.
        """
        self._check_writable("set_vectors")
        from .._input.rows import check_new_vectors, collect_ids, effort_of
        from .._input.vectors import collect_vectors

        listed = await collect_ids(ids)
        listed = list(listed) if isinstance(listed, (list, tuple)) else listed
        held = [await collect_vectors(vectors, self._read_in_thread)]
        effort = effort_of(listed) + effort_of(held[0])
        operation = Operation("set_vectors", table)

        async def write(engine: Engine, handle: TableHandle) -> int:
            check_model(handle, model)
            schema, backend = handle.schema, engine.backend
            size = len(held[0]) * 4 * schema.dim
            async with backend.writing(size):
                wanted, matrix = await off_loop(effort, check_new_vectors, listed, held[0], schema)
                count = len(wanted)
                if count:
                    count = await backend.set_vectors(handle, wanted, matrix)
            operation.rows = count
            return count

        try:
            return await self._on_table(operation, write)
        finally:
            await off_loop(effort, held.clear)

    async def delete(self, table: str, ids: Ids) -> int:
        """Delete the rows with these ids; how many were there."""
        from .._input.rows import distinct_ids

        wanted = await self._checked_ids(ids, distinct_ids)
        operation = Operation("delete", table)

        async def delete(engine: Engine, handle: TableHandle) -> int:
            if not wanted:
                return 0
            operation.rows = await engine.backend.delete(handle, ids=wanted, where=None)
            return operation.rows

        return await self._on_table(operation, delete)

    async def delete_where(self, table: str, where: Combinable | str) -> int:
        """Delete the rows that the filter selects; how many there were."""
        if where is None:
            raise InvalidArgumentError("where", where, "a filter; to delete every row pass 'TRUE'")
        operation = Operation("delete_where", table)

        async def delete(engine: Engine, handle: TableHandle) -> int:
            condition = await self._bind(where, handle.schema)
            operation.rows = await engine.backend.delete(handle, ids=None, where=condition)
            return operation.rows

        return await self._on_table(operation, delete)

    # Reading

    async def exists(self, table: str, ids: Ids) -> set[str]:
        """Return those of the ids that exist."""
        from .._input.rows import distinct_ids

        wanted = await self._checked_ids(ids, distinct_ids)
        operation = Operation("exists", table)

        async def exists(engine: Engine, handle: TableHandle) -> set[str]:
            if not wanted:
                return set()
            rows = await engine.backend.get(handle, wanted, Columns(()))
            operation.rows = len(rows.ids)
            return await off_loop(len(rows.ids), set, rows.ids)

        return await self._on_table(operation, exists)

    async def get(
        self,
        table: str,
        ids: Ids,
        *,
        select: Iterable[str] | None = None,
        include_vector: bool = True,
    ) -> Results[Record]:
        """The rows with these ids, in the order asked; absent ones left out.

        ``select`` names the fields to read, as in ``find``. The vector comes with them unless
        ``include_vector`` is false.
        """
        from .._input.rows import check_ids, distinct_ids

        asked = await self._checked_ids(ids, check_ids)
        with_vector = check_flag("include_vector", include_vector)
        names = selected_names(select)
        operation = Operation("get", table)

        async def get(engine: Engine, handle: TableHandle) -> Results[Record]:
            chosen = await selection_of(handle.schema, names, include_vector=with_vector)
            columns = chosen.first_columns(handle.schema)
            if not asked:
                return Results(columns=columns)
            distinct = await off_loop(len(asked), distinct_ids, asked)
            rows = await engine.backend.get(handle, distinct, chosen.columns)

            def records() -> Results[Record]:
                found = {record.id: record for record in chosen.records(rows)}
                operation.rows = len(found)
                return Results((found[id] for id in asked if id in found), columns=columns)

            return await off_loop(chosen.effort(rows) + len(asked), records)

        return await self._on_table(operation, get)

    async def find(
        self,
        table: str,
        where: Where = None,
        *,
        order_by: str | Iterable[str] | None = None,
        descending: bool = False,
        limit: int = 100,
        offset: int = 0,
        select: Iterable[str] | None = None,
        include_vector: bool = False,
    ) -> Results[Record]:
        """Rows without a vector search, in the order of one or more keys, by default of the id.

        A key is a field, "id" or a key of the payload (``payload.rank``); a leading minus sorts it
        descending, and ``descending`` turns the direction of every key. Nulls come last, equal rows
        by id. Of a payload key, numbers come before text and text before booleans; other values
        count as null. ``vector`` is None unless its name is selected, or ``include_vector``
        is true.
        """
        limit = count_of("limit", limit)
        offset = count_of("offset", offset, least=0)
        falling = check_flag("descending", descending)
        keys = order_keys(order_by)
        with_vector = check_flag("include_vector", include_vector)
        names = selected_names(select)
        operation = Operation("find", table)

        async def find(engine: Engine, handle: TableHandle) -> Results[Record]:
            schema = handle.schema
            chosen = await selection_of(schema, names, include_vector=with_vector)
            order = sort_order(schema, keys, descending=falling)
            rows = await engine.backend.find(
                handle,
                where=await self._bind(where, schema),
                order_by=order,
                limit=limit,
                offset=offset,
                columns=chosen.columns,
            )
            operation.rows = len(rows.ids)

            def records() -> Results[Record]:
                return Results(chosen.records(rows), columns=chosen.first_columns(schema))

            return await off_loop(chosen.effort(rows), records)

        return await self._on_table(operation, find)

    async def count(self, table: str, where: Where = None) -> int:
        """Return the number of rows, or of those that match the filter."""

        async def count(engine: Engine, handle: TableHandle) -> int:
            return await engine.backend.count(handle, await self._bind(where, handle.schema))

        return await self._on_table(Operation("count", table), count)

    async def distinct(
        self, table: str, field: str, where: Where = None, limit: int | None = None
    ) -> dict[Value, int]:
        """Return the values of a field with the number of rows that have each.

        The most frequent come first, equally frequent ones in the order in which ``find`` sorts
        them; ``limit`` gives at most so many. ``field`` is a field, "id" or a key of the payload
        (``payload.kind``). Nulls are not counted. A row counts once for each different item of a
        list field; lists and objects in the payload count as null.

        A dict cannot hold 1 beside True, nor 0 beside False. Where rows have both in a payload key,
        InvalidArgumentError says so: count them apart with ``where``.
        """
        if limit is not None:
            limit = count_of("limit", limit)

        async def counted(engine: Engine, handle: TableHandle) -> dict[Value, int]:
            ref = value_ref(handle.schema, field, lists=True)
            condition = await self._bind(where, handle.schema)
            counts = [await engine.backend.value_counts(handle, ref, condition, limit)]
            operation.rows = count = len(counts[0])
            # Freed in the thread too, as that of a million takes its time.
            return await off_loop(count, lambda: _dict_of(field, counts.pop()))

        operation = Operation("distinct", table)
        return await self._on_table(operation, counted)

    async def bounds(
        self, table: str, field: str, where: Where = None
    ) -> tuple[Value, Value] | None:
        """Return the least and the greatest value of a field, or None where every one is null.

        ``field`` is a field that holds no lists, "id" or a key of the payload; the order is that of
        ``find(order_by=…)``, in which numbers of a payload key come before text.
        """

        async def read(engine: Engine, handle: TableHandle) -> tuple[Value, Value] | None:
            ref = value_ref(handle.schema, field, lists=False)
            condition = await self._bind(where, handle.schema)
            return await engine.backend.bounds(handle, ref, condition)

        return await self._on_table(Operation("bounds", table), read)

    def export(
        self,
        table: str,
        *,
        batch_size: int = 1000,
        where: Where = None,
        select: Iterable[str] | None = None,
        after: bytes | None = None,
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Every row of one consistent snapshot, as Arrow batches, in constant memory.

        Writes go on meanwhile and are not seen. Each batch carries its cursor in
        ``batch.schema.metadata[b"aiovec.cursor"]``; ``after=`` goes on behind it in a new
        snapshot. Leave early by ``aclose()`` or ``contextlib.aclosing``: an abandoned export
        holds its snapshot until it is collected. A store has eight open at most; a further one
        waits for its turn, ``busy_timeout`` at most.
        """
        return self._export(table, batch_size, where, select, after)

    async def _export(
        self,
        table: str,
        batch_size: int,
        where: Where,
        select: Iterable[str] | None,
        after: bytes | None,
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        check_table_name(table)
        batch_size = count_of("batch_size", batch_size)
        batch_size = min(batch_size, _LARGEST_BATCH)
        self._enter()
        if after is not None and not isinstance(after, bytes):
            raise InvalidArgumentError("after", after, "the bytes of a batch's cursor, or None")
        names = selected_names(select)
        operation = Operation("export", table)

        async def prepared(handle: TableHandle) -> tuple[Columns, Expr | None]:
            chosen = (
                Selection.everything(handle.schema)
                if names is None
                else await selection_of(handle.schema, names, whole_payload=True)
            )
            return chosen.columns, await self._bind(where, handle.schema)

        batches = self._batches(operation, table, batch_size, after, prepared)
        async with contextlib.aclosing(batches):
            async for batch, cursor in batches:
                metadata = {**(batch.schema.metadata or {}), b"aiovec.cursor": cursor}
                yield batch.replace_schema_metadata(metadata)

    def _batches(
        self,
        operation: Operation,
        table: str,
        batch_size: int,
        after: bytes | None,
        prepared: Callable[[TableHandle], Awaitable[tuple[Columns, Expr | None]]],
    ) -> Nested[tuple[pa.RecordBatch, bytes]]:
        """The batches of an export with their cursors; ``prepared`` gives what to read."""
        return Nested(self._watched_batches(operation, table, batch_size, after, prepared))

    async def _watched_batches(
        self,
        operation: Operation,
        table: str,
        batch_size: int,
        after: bytes | None,
        prepared: Callable[[TableHandle], Awaitable[tuple[Columns, Expr | None]]],
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        batches = self._read_batches(operation, table, batch_size, after, prepared)
        self._exporting().add(batches)
        with span(operation, self._follower.engine.place, current=False):
            async with contextlib.aclosing(batches):
                async for found in batches:
                    yield found
            if self._closed:  # which has ended it
                raise StoreClosedError(self.target)

    async def _read_batches(
        self,
        operation: Operation,
        table: str,
        batch_size: int,
        after: bytes | None,
        prepared: Callable[[TableHandle], Awaitable[tuple[Columns, Expr | None]]],
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        operation.rows = 0
        for attempt in self._follower.attempts():
            async with attempt as engine:
                operation.place = engine.place
                handle = await engine.open_table(table)
                try:
                    columns, where = await prepared(handle)
                except REFUSALS:
                    await engine.check_current(handle)
                    raise
                batches = engine.backend.export(
                    handle, where=where, columns=columns, after=after, batch_size=batch_size
                )
                try:
                    async for batch, cursor in batches:
                        # Once a batch is out, a repeated attempt would give rows twice.
                        attempt.commit()
                        operation.rows += int(batch.num_rows)
                        yield batch, cursor
                finally:
                    await batches.aclose()
                return

    # Searching

    async def search(
        self,
        table: str,
        vector: Vector | str,
        *,
        limit: int = 10,
        where: Where = None,
        select: Iterable[str] | None = None,
        model: str | None = None,
        include_vector: bool = False,
        exact: bool = False,
        tuning: Tuning | None = None,
        diversity: float | None = None,
        rerank: Rerank | None = None,
        fetch_k: int | None = None,
        min_score: float | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        per_group: int = 1,
    ) -> Results[Hit]:
        """Return the rows nearest to ``vector``, best first, equal ones by id.

        Where the table's schema has ``embed``, ``vector`` may be a text, of which the embedder
        makes the vector. A filter selects before the nearest are taken: with enough matching rows
        there are always ``limit`` hits. ``model`` names the model that made the vector; another
        than the table's raises ModelMismatchError.

        ``diversity`` and ``rerank`` choose from the best ``fetch_k`` hits, by default four times
        ``limit``. ``diversity`` from 0 to 1 trades nearness for variety: maximal marginal
        relevance with ``lambda`` as ``1 - diversity``. ``rerank`` gets the hits, with all their
        text fields, and gives their new scores, or hits in a new order (a plain function runs in
        a thread); diversity is applied to what it gives.

        Only hits of at least ``min_score``, and at most ``max_distance`` away, count. Both are
        compared with what the search found, not with the scores of ``rerank``.

        With ``group_by``, a field or ``payload.<key>``, the hits are the best ``per_group`` rows
        of each of the ``limit`` best values. Rows without a value are a group of their own.
        """
        from .._input.rows import effort_of_query
        from .._input.vectors import kept_query, one_query

        options = SearchOptions(
            limit=limit, where=where, select=select, model=model, exact=exact, tuning=tuning,
            include_vector=include_vector, diversity=diversity, rerank=rerank, fetch_k=fetch_k,
            min_score=min_score, max_distance=max_distance, group_by=group_by, per_group=per_group,
        )  # fmt: skip
        texts = _texts_of(vector)
        effort = effort_of_query(vector)
        turn = self._turn(Operation("search", table), embeds=bool(texts))
        if turn.waits:  # its caller may write the next one into the same place
            vector = kept_query(vector)
        async with turn:
            found = await self._search(turn, partial(one_query, vector), effort, texts, options)
        return found[0]

    async def search_many(
        self,
        table: str,
        vectors: Vectors,
        *,
        limit: int = 10,
        where: Where | Sequence[Where] = None,
        select: Iterable[str] | None = None,
        model: str | None = None,
        include_vector: bool = False,
        exact: bool = False,
        tuning: Tuning | None = None,
        diversity: float | None = None,
        rerank: Rerank | None = None,
        fetch_k: int | None = None,
        min_score: float | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        per_group: int = 1,
    ) -> list[Results[Hit]]:
        """Do ``search`` for several vectors or texts, all on the same state of the table.

        ``where`` is one filter for all of them, or a sequence with one for each. With
        ``group_by``, each vector is searched for by itself.
        """
        from .._input.rows import effort_of
        from .._input.vectors import collect_vectors, kept_query, many_queries, texts_among

        one: Where = None
        wheres: tuple[Where, ...] | None = None
        if isinstance(where, Sequence) and not isinstance(where, str):
            wheres = tuple(where)
        else:
            one = where
        options = SearchOptions(
            limit=limit, where=one, wheres=wheres, select=select, model=model, exact=exact,
            tuning=tuning, include_vector=include_vector, diversity=diversity, rerank=rerank,
            fetch_k=fetch_k, min_score=min_score, max_distance=max_distance, group_by=group_by,
            per_group=per_group,
        )  # fmt: skip
        collected = await collect_vectors(vectors, self._read_in_thread)
        effort = effort_of(collected)
        texts = await off_loop(effort, texts_among, collected)
        turn = self._turn(Operation("search_many", table), embeds=bool(texts))
        if turn.waits:
            collected = kept_query(collected)
        async with turn:
            return await self._search(
                turn, partial(many_queries, collected), effort, texts, options
            )

    async def _search(
        self,
        turn: SearchTurn,
        queries: Callable[[Schema, Mapping[int, Any]], Sequence[Any]],
        effort: int,
        texts: Mapping[int, str],
        options: SearchOptions,
    ) -> list[Results[Hit]]:
        operation = turn.operation

        async def search(engine: Engine, handle: TableHandle) -> Ranked:
            check_model(handle, options.model)
            schema = handle.schema
            where = await self._bind(options.where, schema)
            made = {}
            if texts:
                turn.leave()  # of an attempt before: the embedder may search itself
                made = await self._vectors_of(engine, handle, texts, options.model)
            vectors = await off_loop(effort, queries, schema, made)
            wheres = None
            if options.wheres is not None:
                wheres = await self._bind_each(options.wheres, schema, len(vectors))
            prepared = await Search.of(engine.backend, handle, options, where)
            with renewed(bool(made)):
                if made:
                    await turn.take_late()
                hits = await prepared.of_vectors(vectors, wheres)
            operation.rows = sum(map(len, hits))
            return prepared.ranked(hits, vectors)

        return await self._searched(turn, options, search)

    async def _searched(
        self,
        turn: SearchTurn,
        options: SearchOptions,
        act: Callable[[Engine, TableHandle], Awaitable[Ranked]],
    ) -> list[Results[Hit]]:
        ranked = await self._on_table(turn.operation, act, deadline=turn.deadline)
        turn.leave()  # no other search waits for what reranks
        return await finished(ranked, options, self._rerank_threads)

    def _turn(self, operation: Operation, *, embeds: bool = False) -> SearchTurn:
        """A search's turn among those of this store."""
        check_table_name(operation.table)
        self._enter()
        return self._searches.of(self._follower.engine, operation, embeds=embeds)

    async def search_like(
        self,
        table: str,
        id: Id,
        *,
        limit: int = 10,
        where: Where = None,
        select: Iterable[str] | None = None,
        include_vector: bool = False,
        exact: bool = False,
        tuning: Tuning | None = None,
        diversity: float | None = None,
        rerank: Rerank | None = None,
        fetch_k: int | None = None,
        min_score: float | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        per_group: int = 1,
    ) -> Results[Hit]:
        """Return the rows nearest to the row ``id``, which is not among them.

        The options are those of ``search``. InvalidArgumentError where there is no such row, or
        where it has no vector.
        """
        from .._input.rows import check_ids
        from .._model.ids import id_text

        text = id_text(id)
        if text is None:
            raise InvalidArgumentError("id", id, "the id of a row: text, a whole number or a UUID")
        (wanted,) = await self._checked_ids(text, check_ids)
        options = SearchOptions(
            limit=limit, where=where, select=select, exact=exact, tuning=tuning,
            include_vector=include_vector, diversity=diversity, rerank=rerank, fetch_k=fetch_k,
            min_score=min_score, max_distance=max_distance, group_by=group_by, per_group=per_group,
        )  # fmt: skip
        operation = Operation("search_like", table)

        async def search(engine: Engine, handle: TableHandle) -> Ranked:
            condition = await self._bind(options.where, handle.schema)
            prepared = await Search.of(engine.backend, handle, options, condition, left_out=wanted)
            rows = await engine.backend.get(handle, [wanted], Columns((), vector=True))
            if not rows.ids:
                raise InvalidArgumentError("id", id, f"the id of a row of the table {table!r}")
            vector = None if rows.vectors is None else rows.vectors[0]
            if vector is None or vector[0] != vector[0]:  # NaN
                raise InvalidArgumentError("id", id, "the id of a row that has a vector")
            hits = await prepared.of_vectors([vector])
            operation.rows = len(hits[0])
            return prepared.ranked(hits, [vector])

        async with self._turn(operation) as turn:
            return (await self._searched(turn, options, search))[0]

    async def _vectors_of(
        self, engine: Engine, handle: TableHandle, texts: Mapping[int, str], model: str | None
    ) -> dict[int, Any]:
        """Return the vectors of texts to search for, by their places; none for a table of
        vectors alone, where a text is refused as any other value."""
        from .._embed.rows import check_made, of_text
        from .._input.vectors import check_query_texts

        embed = handle.schema.embed
        if embed is None:
            return {}
        listed = await off_loop(len(texts), check_query_texts, texts)
        embedder = await self._embedders.of_table(handle, embed, engine.settings, model)
        try:
            found = await _embedded(engine, handle, embedder, listed, "query")
            effort = len(found) * (1 + handle.schema.dim // NUMBERS_A_VALUE)
            await off_loop(effort, check_made, found, handle.schema, embedder.name)
        except EmbeddingError as exc:
            error = of_text(exc, list(texts))
        else:
            return dict(zip(texts, found, strict=True))
        try:
            raise error
        finally:
            del error  # it refers to this frame

    async def search_text(
        self,
        table: str,
        query: str,
        *,
        limit: int = 10,
        where: Where = None,
        select: Iterable[str] | None = None,
        include_vector: bool = False,
        any: bool = False,
        highlight: bool | tuple[str, str] = False,
        diversity: float | None = None,
        rerank: Rerank | None = None,
        fetch_k: int | None = None,
        min_score: float | None = None,
        group_by: str | None = None,
        per_group: int = 1,
    ) -> Results[Hit]:
        """Return the best rows by keywords (BM25) in the fields with ``text=True``.

        ``query`` has words, ``"exact phrases"``, ``-without`` and ``field:word``, and ``prefix*``
        where the store supports "text-prefix". All words must match, or with ``any`` at least one.
        Anything else that a user types is text; a query without a word finds nothing.

        With ``highlight``, each hit's ``highlights`` has a snippet of every field that matched,
        with each match between ``<mark>`` and ``</mark>``, or between two texts of your own. The
        text itself is not escaped for HTML.

        A filter selects before the best are taken. ``diversity``, ``rerank`` and ``fetch_k`` are
        as in ``search``.
        """
        _check_query(query)
        options = SearchOptions(
            limit=limit, where=where, select=select, include_vector=include_vector, any=any,
            highlight=highlight, diversity=diversity, rerank=rerank, fetch_k=fetch_k,
            min_score=min_score, group_by=group_by, per_group=per_group,
        )  # fmt: skip
        operation = Operation("search_text", table)

        async def search(engine: Engine, handle: TableHandle) -> Ranked:
            clauses = await clauses_of(engine.backend, handle, query)
            where = await self._bind(options.where, handle.schema)
            prepared = await Search.of(engine.backend, handle, options, where)
            hits = await prepared.of_clauses(clauses)
            operation.rows = len(hits)
            return prepared.ranked([hits], None)

        async with self._turn(operation) as turn:
            return (await self._searched(turn, options, search))[0]

    async def search_hybrid(
        self,
        table: str,
        query: str,
        vector: Vector | str | None = None,
        *,
        fusion: Fusion = RRF(),  # noqa: B008 - immutable
        limit: int = 10,
        where: Where = None,
        select: Iterable[str] | None = None,
        model: str | None = None,
        include_vector: bool = False,
        exact: bool = False,
        tuning: Tuning | None = None,
        any: bool = True,
        highlight: bool | tuple[str, str] = False,
        diversity: float | None = None,
        rerank: Rerank | None = None,
        fetch_k: int | None = None,
        min_score: float | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        per_group: int = 1,
    ) -> Results[Hit]:
        """Search by keywords and by vector at once, and fuse both lists into one.

        Each list has the best ``fetch_k`` hits, by default four times ``limit``. ``fusion`` is
        ``RRF()``, by places, or ``Weighted()``, by scores. Each hit's ``ranks`` tells its place
        and score in the lists that have it. By default one matching word is enough (``any``). The
        other arguments are as in ``search`` and ``search_text``.

        ``-word``, quotes and ``field:`` act on the keyword list only; to exclude rows from both
        lists, use ``where``.

        Where the table's schema has ``embed``, ``vector`` may be a text, and without one it is made
        of the query as it is, with these in it.
        """
        from .._input.rows import effort_of_query
        from .._input.vectors import kept_query, query_vector

        _check_query(query)
        options = SearchOptions(
            limit=limit, where=where, select=select, model=model, exact=exact, tuning=tuning,
            include_vector=include_vector, any=any, highlight=highlight, diversity=diversity,
            rerank=rerank, fetch_k=fetch_k, min_score=min_score, max_distance=max_distance,
            group_by=group_by, per_group=per_group,
        )  # fmt: skip
        check_fusion(fusion)
        may_embed = vector is None or isinstance(vector, str)
        operation = Operation("search_hybrid", table)

        async def search(engine: Engine, handle: TableHandle) -> Ranked:
            clauses = await clauses_of(engine.backend, handle, query)
            check_model(handle, options.model)
            where = await self._bind(options.where, handle.schema)
            texts = {0: query} if vector is None else _texts_of(vector)
            embeds = handle.schema.embed is not None and texts

            async def checked() -> Any:
                made = {}
                if embeds:
                    turn.leave()  # of an attempt before: the embedder may search itself
                    made = await self._vectors_of(engine, handle, texts, model)
                given = made.get(0, vector)
                return await off_loop(effort_of_query(given), query_vector, given, handle.schema)

            known = [] if embeds else [await checked()]
            prepared = await Search.of(engine.backend, handle, options, where, fuses=True)

            async def by_vector(count: int) -> Listed:
                embedded = not known
                if embedded:
                    known.append(await checked())
                one = Operation("search", table)
                with span(one, engine.place), renewed(embedded):
                    if embedded:
                        await turn.take_late()
                    listed = await prepared.list_by_vector(known[0], count)
                    one.rows = len(listed.ids)
                    return listed

            async def by_text(count: int) -> Listed:
                one = Operation("search_text", table)
                with span(one, engine.place):
                    # While the vector is made the search has no turn.
                    words = (
                        self._searches.place_by_words(engine)
                        if embeds
                        else contextlib.nullcontext()
                    )
                    async with words:
                        listed = await prepared.list_by_clauses(clauses, count, where)
                    one.rows = len(listed.ids)
                    return listed

            hits = await prepared.of_both(by_vector, by_text, fusion)
            operation.rows = len(hits)
            return prepared.ranked([hits], None)

        turn = self._turn(operation, embeds=may_embed)
        if turn.waits:
            vector = kept_query(vector)
        async with turn:
            return (await self._searched(turn, options, search))[0]

    # Upkeep

    async def stats(self, table: str) -> TableStats:
        """Return the size and the costs of the table."""
        return await self._on_table(
            Operation("stats", table), lambda engine, handle: engine.backend.stats(handle)
        )

    async def optimize(self, table: str) -> None:
        """Do now what keeps the table small and fast. Reads and writes go on."""
        await self._on_table(
            Operation("optimize", table), lambda engine, handle: engine.backend.optimize(handle)
        )

    async def create_index(
        self,
        /,
        table: str,
        kind: str = "auto",
        *,
        wait: bool = True,
        **options: Unpack[IndexOptions],
    ) -> None:
        """Build an approximate index over the vectors, and measure what it finds.

        ``kind`` and the options are the backend's; one that it does not know raises
        InvalidArgumentError, which lists those that it does. ``recall`` is the part of the true
        nearest that searches of this table shall find. Without ``wait`` the build goes on in the
        background, until the store is closed. A cancelled build leaves the table as it was.
        """
        check_words("kind", kind)
        for option, value in options.items():
            check_words(option, value)
        wait = check_flag("wait", wait)

        async def create(engine: Engine, handle: TableHandle) -> None:
            await engine.backend.create_index(handle, kind, wait=wait, options=options)

        await self._on_table(Operation("create_index", table), create)

    async def indexes(self, table: str) -> list[IndexInfo]:
        """The indexes over the vectors."""

        async def indexes(engine: Engine, handle: TableHandle) -> list[IndexInfo]:
            return await engine.backend.indexes(handle)

        return await self._on_table(Operation("indexes", table), indexes)

    async def drop_index(self, table: str, name: str) -> None:
        """Drop an index."""
        check_words("name", name)

        async def drop(engine: Engine, handle: TableHandle) -> None:
            await engine.backend.drop_index(handle, name)

        await self._on_table(Operation("drop_index", table), drop)

    async def versions(self, table: str) -> list[Mapping[str, Any]]:
        """The earlier versions that are kept."""

        async def versions(engine: Engine, handle: TableHandle) -> list[Mapping[str, Any]]:
            return await engine.backend.versions(handle)

        return await self._on_table(Operation("versions", table), versions)

    async def restore(self, table: str, version: int) -> None:
        """Make an earlier version the present one."""
        if isinstance(version, bool) or not isinstance(version, int):
            raise InvalidArgumentError("version", version, "a whole number")

        async def restore(engine: Engine, handle: TableHandle) -> None:
            await engine.backend.restore(handle, version)

        await self._on_table(Operation("restore", table), restore)

    async def backup(self, path: str | Path) -> None:
        """Copy the whole store, as it is at one moment, to a path that does not exist yet."""

        async def backup(engine: Engine) -> None:
            target = await self._in_thread(_absolute, path)
            await engine.backend.backup(target)

        await self._call(Operation("backup"), backup)

    # Inside

    def _enter(self) -> None:
        """Let a call begin: in the process that opened the store, on one loop at a time."""
        if os.getpid() != self._process:
            raise StoreClosedError(self.target, FORKED)
        if self._closing is not None:
            raise StoreClosedError(self.target)
        self._loop.enter(self.target)

    def _call(
        self,
        operation: Operation,
        act: Callable[[Engine], Awaitable[_T]],
        result: Callable[[int | None], _T] = once.as_it_is,
    ) -> Coroutine[Any, Any, _T]:
        return self._run(operation, act, result)

    async def _run(
        self,
        operation: Operation,
        act: Callable[..., Awaitable[_T]],
        result: Callable[[int | None], _T],
        table: str | None = None,
        deadline: Deadline | None = None,
    ) -> _T:
        """Run ``act`` on the backend in use, again where the table or the backend changed.

        It gets the engine, and the handle of a ``table``. ``result`` makes what it returns of the
        outcome that is kept of a write.
        """
        self._enter()
        if operation.name in _WRITES:
            self._check_writable(operation.name)
        engine = self._follower.engine
        deadline = deadline or Deadline.after(engine.backend.busy_timeout)
        with deadline, span(operation, engine.place):
            for attempt in self._follower.attempts():
                async with attempt as engine:
                    operation.place = engine.place
                    key = write_key() if operation.name in _ONCE else None
                    if key is not None:
                        write = partial(self._attempt, engine, act, table)
                        return await once.once(engine.backend, key, write, result)
                    return await self._attempt(engine, act, table)
        raise StoreClosedError(self.target)  # never reached: the last attempt raises

    @staticmethod
    async def _attempt(engine: Engine, act: Callable[..., Awaitable[_T]], table: str | None) -> _T:
        if table is None:
            return await act(engine)
        handle = await engine.open_table(table)
        try:
            return await act(engine, handle)
        except REFUSALS:
            await engine.check_current(handle)
            raise

    def _on_table(
        self,
        operation: Operation,
        act: Callable[[Engine, TableHandle], Awaitable[_T]],
        result: Callable[[int | None], _T] = once.as_it_is,
        *,
        deadline: Deadline | None = None,
    ) -> Coroutine[Any, Any, _T]:
        return self._run(operation, act, result, check_table_name(operation.table), deadline)

    async def _checked_ids(self, ids: Any, check: Callable[[Any], list[str]]) -> list[str]:
        """The ids that a user passed in, read once, as ``check`` gives them."""
        from .._input.rows import collect_ids

        listed = await collect_ids(ids)
        return await off_loop(
            len(listed) if isinstance(listed, Sized) and is_iterable(listed) else 0, check, listed
        )

    async def _bind(self, where: Where, schema: Schema) -> Expr | None:
        return await off_loop(_effort_of(where), bind, where, schema)

    async def _bind_each(
        self, wheres: Sequence[Where], schema: Schema, count: int
    ) -> list[Expr | None]:
        """Return a bound filter for each of so many vectors; equal texts are read once."""
        if len(wheres) != count:
            raise InvalidArgumentError(
                "where", list(wheres),
                f"one filter, or one for each of the {count} vectors (there are {len(wheres)})",
            )  # fmt: skip
        distinct = {where if isinstance(where, str) else id(where): where for where in wheres}

        stopped = False

        def stop() -> None:
            nonlocal stopped
            stopped = True

        def bound() -> list[Expr | None]:
            made: dict[str | int, Expr | None] = {}
            for key, where in distinct.items():
                if stopped:  # nobody waits for the result
                    return []
                made[key] = bind(where, schema)
            return [made[where if isinstance(where, str) else id(where)] for where in wheres]

        effort = len(wheres)
        for where in distinct.values():
            if effort > LITTLE:
                break
            effort += _effort_of(where)
        return await off_loop(effort, bound, stop=stop)

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        return await in_thread(work, *args, limit=self._threads())

    async def _read_in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        """Read what a user passed in, which may wait for anything."""
        return await in_thread(work, *args, limit=self._reader_threads())


def _texts_of(vector: object) -> dict[int, str]:
    """Return a text in the place of a single query, as ``texts_among`` does for many."""
    return {0: vector} if isinstance(vector, str) else {}


def _absolute(path: str | Path) -> Path:
    """The path in full, or InvalidArgumentError. Reads the disk."""
    if not isinstance(path, (str, Path)):
        raise InvalidArgumentError("path", path, "a text or a pathlib.Path")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError("path", path, "valid Unicode") from exc
    if "\0" in str(path):
        raise InvalidArgumentError("path", path, "without NUL")
    if isinstance(path, str):
        path = path_of_copy(path, "path")
    try:
        target = Path(path).expanduser().absolute()
        if not target.name:  # the root
            raise InvalidArgumentError("path", path, "a path that does not exist yet")
        target.lstat()
    except RuntimeError as exc:
        raise InvalidArgumentError("path", path, f"one that leads somewhere ({exc})") from exc
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:
            raise InvalidArgumentError("path", path, "no longer than the disk allows") from exc
    return target


async def _embedded(
    engine: Engine, handle: TableHandle, embedder: Batcher, texts: list[str], kind: Purpose
) -> Float32Array:
    """Return one row for each text, or raise EmbeddingError with the text's place as ``row``."""
    operation = Operation("embed", handle.name)
    operation.rows = len(texts)
    with span(operation, engine.place):
        return await embedder.embed(texts, kind)


def _check_query(query: object) -> None:
    if not isinstance(query, str):
        raise InvalidArgumentError("query", query, "text")


def _dict_of(field: str, counts: Sequence[tuple[Value, int]]) -> dict[Value, int]:
    found = dict(counts)
    if len(found) < len(counts):  # as keys of a dict, 1 and True are one
        raise InvalidArgumentError(
            "field", field,
            "a key with numbers or with booleans; rows have both 1 and TRUE in it, or 0 and FALSE, "
            f"which a dict cannot hold apart: count them with where='{field} IN (TRUE, FALSE)' and "
            f"where='{field} IN (0, 1)'",
        )  # fmt: skip
    return found


def _effort_of(where: Where) -> int:
    """Return the number of values in a filter, for ``off_loop``."""
    if isinstance(where, str):
        return len(where) // _CHARACTERS_A_VALUE
    if not isinstance(where, Expr):
        return 0
    effort = 4 * where.literals
    if effort > LITTLE:  # counting more would take long itself
        return effort
    return effort + characters_of(where) // _CHARACTERS_OF_A_LITERAL


def _with_model(schema: Schema, model: str | None) -> Schema:
    return Schema.from_json({**schema.to_dict(), "model": model})
