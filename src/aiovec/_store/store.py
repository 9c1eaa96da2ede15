"""VectorStore, an open store on any backend, and Table, a handle to one of its tables."""

from __future__ import annotations

import asyncio
import inspect
import os
import warnings
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial, update_wrapper
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, TypeVar, Unpack, cast

from .._embed.protocol import Purpose
from .._embed.registry import Embedders
from .._embed.rows import Texts
from .._filters import Expr
from .._filters.tree import Value
from .._input.arguments import check_flag, check_model, check_words, count_of, whole_number
from .._input.columns import Places
from .._input.infer import TableOptions, inferred
from .._input.rows import (
    check_new_vectors,
    check_patch,
    collect,
    collect_ids,
    distinct_ids,
    ids_to_delete,
    ids_with_distinct,
)
from .._input.selection import (
    count_types,
    order_keys,
    read_names,
    select_columns,
    selected_names,
    sort_order,
    value_ref,
)
from .._input.types import ON_CONFLICT, FieldValue, Ids, OnConflict, Rows, Vector, Vectors, Where
from .._input.vectors import (
    check_query_texts,
    collect_vectors,
    given_matrix,
    many_queries,
    query_vector,
    texts_among,
)
from .._model.arrays import Float32Array
from .._model.patch import Remove
from .._model.records import Hit, Record
from .._model.results import Counts, Results, ResultsList
from .._model.schema import Embed, Field, FieldIndex, FieldType, Metric, Schema, check_table_name
from .._search.fusion import Fusion
from .._telemetry.spans import span
from .._tools.hints import Hints, NoLength, NotCopied, hints_methods
from .._tools.lazy_arrow import pa
from ..backend.changes import (
    AddField,
    Delete,
    DropField,
    IndexField,
    Insert,
    RenameField,
    SchemaChange,
    UnindexField,
    Update,
    UpdateRows,
    changes_text,
    is_payload_key,
)
from ..backend.context import write_key
from ..backend.contract import (
    Backend,
    Bounds,
    Changes,
    Columns,
    Count,
    Find,
    IndexInfo,
    IndexOptions,
    StaleTableError,
    TableHandle,
    TableStats,
    Values,
)
from ..backend.cost import cost_of, cost_of_text
from ..backend.limits import Deadline, current_deadline
from ..backend.place import Place, new_path_of
from ..backend.rows import Batch
from ..backend.threads import FORKED, arrow_ready, hop, in_thread, to_its_end, together
from ..errors import (
    AiovecError,
    EmbeddingError,
    InvalidArgumentError,
    StoreClosedError,
    StoreMovedError,
    StoreReplacedError,
    TableExistsError,
    TableNotFoundError,
    UnsupportedError,
)
from .active_backend import REFUSALS, ActiveBackend, Backends, check_same
from .expiry import opened
from .opened import OpenTable
from .search import (
    Answer,
    NearArguments,
    SearchArguments,
    SearchOptions,
    VectorArguments,
    hits_in,
    names_options,
    options_of,
    plan_of,
    vector_like,
)
from .write import RowsToUpdate, RowsToWrite, kept_of, may_match, vector_of_update

if TYPE_CHECKING:
    from .watch_task import Watching

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Parts = Callable[[OpenTable], Awaitable[AsyncGenerator[_T, None]]]
"""A function that begins to read a snapshot of a table, part by part."""

# The limit of ``find(limit=None)``: a number that every backend accepts.
_EVERY_ROW = 2**31 - 1
# ``search_like`` takes at most this many rows, since it first reads their vectors.
_MOST_LIKE = 1_000
# Writes that are done at most once per write key.
_ONCE = frozenset(
    "create_table insert upsert update set_vectors delete create_index drop_index revert".split()
)
# Writes that a read-only store refuses, besides alterations. ``create_table`` is not among them:
# with ``exist_ok`` the table may already exist.
_WRITES = _ONCE - {"create_table"} | {"create_table_from", "optimize"}


class VectorStore(NotCopied, Hints):
    """A store of vector tables for async code. Created by ``aiovec.connect``.

    Every method follows these rules:

    - It checks its arguments before it changes anything. An invalid argument raises
      InvalidArgumentError; an invalid name of a table, field or selected column raises
      InvalidNameError.
    - ``where`` is a filter: a string, an ``F`` expression, a mapping of fields to values, a list of
      filters that must all match, or None for every row. A bad filter raises FilterError.
    - ``ids`` is one id or an iterable of ids: strings, whole numbers or UUIDs.
    - ``model`` names the model that made the vectors of the call. A model other than the table's
      raises ModelMismatchError; if the table or the call names none, any model is accepted.
    - A write, or a change of fields or tables, is atomic: all of it is done, or none. Once it
      returns, it survives ``kill -9``, and every read that starts later, in any process, sees it.
    - A cancelled call, for example by ``asyncio.timeout``, is done completely or not at all, and
      the store stays usable.
    - It never blocks the event loop, and any number of calls may overlap.
    - It raises ``TableNotFoundError`` if the table is missing, ``StoreBusyError`` if it waited for
      other calls or processes for longer than ``busy_timeout`` (30 s), ``UnsupportedError`` if the
      backend or a read-only store does not support the call, ``StoreClosedError`` after ``close``,
      and only errors of ``aiovec.errors``.
    - It must be called on the event loop that opened the store; elsewhere it raises AiovecError.
    """

    def __init__(
        self,
        backend: Backend,
        place: Place,
        embedders: Embedders,
        *,
        follow: bool = False,
    ) -> None:
        self._backends = Backends(backend, place, follow=follow)
        self._embedders = embedders
        # Rerank functions and users' iterables may take arbitrarily long, so they have separate
        # limits.
        self._rerank_slots = asyncio.Semaphore(4)
        self._read_in_thread = partial(in_thread, limit=asyncio.Semaphore(4))
        self._process = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._exports: weakref.WeakSet[AsyncGenerator[Any, None]] = weakref.WeakSet()
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._watching: list[Watching] = []

    # The store

    @property
    def target(self) -> str:
        """The path or URL of the store."""
        return self._backends.active.backend.target

    @property
    def backend_name(self) -> str:
        """The name of the backend in use now."""
        return self._backends.active.backend.name

    @property
    def watching(self) -> list[Watching]:
        """The sources that ``aiovec.watch`` follows for this store, in this process."""
        return self._watching

    def __repr__(self) -> str:
        state = "closed " if self._closing is not None else ""
        return f"<{state}VectorStore {self.target}>"

    async def __aenter__(self) -> VectorStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the accepted writes, then close the store.

        May be called twice. Running reads and later calls raise StoreClosedError. Cancelling the
        call does not stop the store from closing. A store that is never closed emits a
        ResourceWarning.
        """
        if os.getpid() != self._process:
            return  # running calls belong to the parent process
        if self._closed:
            return
        self._enter(closing=True)
        if self._closing is None or self._closing.done():  # the previous attempt failed
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # Calls that wait for an embedder have not begun to write, so they are stopped first.
        await self._embedders.close(self.target)
        try:
            await self._backends.close()
        finally:
            self._closed = True  # a backend is closed only once, even if closing it fails
            # An export that is being read ends with its next batch.
            left = [batches.aclose() for batches in self._exports]
            await asyncio.gather(*left, return_exceptions=True)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_closing", self) is None and os.getpid() == self._process:
            _warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)

    def supports(self, ability: str) -> bool:
        """Return whether the backend has an ability: "text", "indexes", "changes", "snapshots",
        "backup", "restore", "moves", "read-only", "once", "power-loss", "quantized" or
        "payload-indexes"."""
        if not isinstance(ability, str):
            raise InvalidArgumentError("ability", ability, "the name of an ability")
        return self._backends.active.backend.supports(ability)

    @property
    def read_only(self) -> bool:
        """True if the store was opened for reading only."""
        return self._backends.active.backend.read_only

    def _check_writable(self, call: str) -> None:
        if self._backends.active.backend.read_only:
            raise UnsupportedError(
                call, self.backend_name, f"{self.target} was opened with read_only=True"
            )

    async def ping(self) -> None:
        """Check that the store can be reached; raise an error with the reason if not."""
        await self._call("ping", None, lambda active: active.backend.ping())

    def table(self, name: str) -> Table:
        """Return a handle to a table: ``store.table("docs").search(vector)``. Reads nothing."""
        return Table(self, check_table_name(name))

    # Tables

    async def create_table(
        self, table: str, schema: Schema | None = None, *, exist_ok: bool = False
    ) -> Schema:
        """Create a table, and return its schema, by default ``Schema.context_vectors`` with the
        configured ``dim``. ``create_table_from`` creates a table from rows.

        Of several concurrent callers, exactly one creates the table. An existing table raises
        TableExistsError. With ``exist_ok``, an existing table is accepted if its schema is the
        same; otherwise the call raises ModelMismatchError if only the model or the embedder
        differs, else SchemaMismatchError. A schema with an option that the backend does not support
        raises UnsupportedError, unless ``exist_ok`` accepts an existing table.

        With ``embed`` in the schema, ``dim`` and ``model`` may be left out: they come from the
        embedder. If the embedder was passed as a kind or a mapping, its settings are stored too, so
        that other programs can search the table by text.
        """
        check_table_name(table)
        exist_ok = check_flag("exist_ok", exist_ok)
        if schema is not None and not isinstance(schema, Schema):
            raise InvalidArgumentError(
                "schema", schema, "an aiovec.Schema (create_table_from(table, rows) takes rows)"
            )

        async def create(active: ActiveBackend) -> Schema | None:
            backend = active.backend
            requested = schema or Schema.context_vectors(active.settings.dim)
            requested = await self._embedders.completed(table, requested, active.settings)
            if not (exist_ok and table in await backend.tables()):
                self._check_writable("create_table")
                if requested.quantized:
                    backend.check_able("quantized")
                if requested.payload_indexes:
                    backend.check_able("payload-indexes")
                try:
                    await backend.create_table(table, requested)
                    return requested
                except TableExistsError:
                    if not exist_ok:
                        raise
            return await check_same(active, table, requested)

        created = await self._call("create_table", table, create)
        # A repeated call under a write key returns no schema.
        return await self.schema(table) if created is None else created

    async def create_table_from(
        self,
        table: str,
        rows: Rows,
        *,
        vector: str | None = None,
        metric: Metric | None = None,
        model: str | None = None,
        text: str | Iterable[str] = (),
        index: str | Iterable[str] = (),
        embed: Embed | None = None,
        vector_nullable: bool = False,
    ) -> Schema:
        """Create a table from rows as in ``insert``, store the rows, and return the schema.

        ``vector`` names the column with the vectors; by default it is "embedding", "vector" or the
        only column with lists of numbers. A column whose values all have one type becomes a field:
        text, integers, floats, booleans, datetimes, or lists of texts or numbers. Mixed and
        nested values stay in the payload. Arrow, pandas and Polars columns keep their types.
        ``text`` names the fields for keyword search, ``index`` the fields with an index for
        filters; ``metric``, ``model``, ``embed`` and ``vector_nullable`` are as in ``Schema``.

        If a row is refused, no table is created; a full disk or a killed process may leave an empty
        table. An existing table raises TableExistsError; use ``upsert`` to add rows to it.
        """
        check_table_name(table)
        texts, indexed = read_names("text", text), read_names("index", index)
        nullable = check_flag("vector_nullable", vector_nullable)
        options = TableOptions(vector, metric, model, tuple(texts), tuple(indexed), embed, nullable)
        collected = await collect(rows, self._read_in_thread)
        writing = RowsToWrite(collected, None, "fail", None, self._make_vectors)
        exists = False  # True in a retry if an earlier attempt created the table

        async def create(active: ActiveBackend) -> Schema:
            if not exists and table in await active.backend.tables():  # before texts are embedded
                raise TableExistsError(table)
            schema = await hop(cost_of(collected.data), inferred, collected, options)
            schema = await self._embedders.completed(table, schema, active.settings)
            batch = await writing.batch(OpenTable(active, TableHandle(table, schema, None)))
            await to_its_end(fill(active.backend, schema, batch))
            return schema

        async def fill(backend: Backend, schema: Schema, batch: Batch) -> None:
            nonlocal exists
            if not exists:
                await backend.create_table(table, schema)
                exists = True
            try:
                if len(batch):
                    async with backend.writing(batch.nbytes):
                        await backend.write(await backend.open_table(table), Insert(batch))
            except BaseException as exc:
                exc.add_note(f"the table {table!r} was created before that")
                raise

        return await self._call("create_table_from", table, create)

    async def add_field(self, table: str, name: str, field: Field | FieldType) -> None:
        """Add a field. It is null in existing rows; its index is built before the call returns.

        ``field`` is a ``Field``, or a type such as ``str`` if no option is needed. A taken or
        forbidden name raises InvalidNameError. A field that cannot be null, or that is a partition
        key, raises InvalidArgumentError: it must be in the schema with which the table is created.
        """
        added = field if isinstance(field, Field) else Field(field)
        await self._alter("add_field", table, AddField(name, added))

    async def create_field_index(self, table: str, field: str, kind: FieldIndex) -> None:
        """Build an index over an existing field ("btree" or "bitmap" for filters, "text" for
        keyword search), or over a payload key such as ``"payload.user"`` ("btree"). Reads continue
        during the build.

        Afterwards the schema has ``Field(index=…)`` or ``Field(text=True)``, or the key in its
        ``payload_indexes``; LanceDB cannot index payload keys. A "bitmap" replaces a "btree", and
        vice versa. If the same index exists, the call completes a build that was killed, or does
        nothing. List fields cannot have these indexes.

        Until a "text" index is complete, keyword searches raise UnsupportedError with the progress;
        on SQLite, ``title:wool`` is answered if the index of ``title`` is complete. If the call is
        cancelled, the build continues in the background; if the process ends, the build continues
        when the store is next opened for writing. OutcomeUnknownError means that the schema has the
        index, but its build failed. In all these cases, ``optimize`` completes the index.
        """
        await self._alter("create_field_index", table, IndexField(field, kind))

    async def drop_field_index(
        self, table: str, field: str, kind: FieldIndex | None = None
    ) -> None:
        """Drop the index of this kind over a field; without ``kind``, all indexes over it.

        ``field`` may be a payload key. The field and its values stay. Does nothing if the field has
        no such index; a field that does not exist raises InvalidArgumentError.
        """
        await self._alter("drop_field_index", table, UnindexField(field, kind))

    async def drop_field(self, table: str, field: str) -> None:
        """Drop a field with its values and its indexes.

        A partition key, the field of ``embed`` and a missing field raise InvalidArgumentError. A
        payload key of the same name, which the field has hidden, becomes visible again.
        """
        await self._alter("drop_field", table, DropField(field))

    async def rename_field(self, table: str, old: str, new: str) -> None:
        """Rename a field. Its values and indexes stay.

        A new name that is taken raises InvalidNameError; a missing field raises
        InvalidArgumentError. The field hides a payload key that has the new name.
        """
        await self._alter("rename_field", table, RenameField(old, new))

    async def _alter(self, call: str, table: str, change: SchemaChange) -> None:
        async def alter(t: OpenTable) -> None:
            change.apply(t.schema)  # raises if the schema does not allow it
            if changes_text(change, t.schema):
                t.backend.check_able("text")
            if is_payload_key(t.schema, change.name):
                t.backend.check_able("payload-indexes")
            await t.backend.alter(t.handle, change)
            t.active.forget(table)

        await self._on_table(call, table, alter, alters=True)

    async def rename_table(self, old: str, new: str) -> None:
        """Rename a table. Rows, schema, indexes and the change feed stay.

        Raises TableExistsError if ``new`` exists, and UnsupportedError for a LanceDB store in a
        bucket, in memory or in LanceDB's service, where a table cannot be renamed in one step.
        """
        check_table_name(old)
        check_table_name(new)

        async def rename(active: ActiveBackend) -> None:
            active.forget(old)
            active.forget(new)
            await active.backend.rename_table(old, new)

        await self._call("rename_table", old, rename, alters=True)

    async def drop_table(self, table: str, *, missing_ok: bool = False) -> None:
        """Drop the table and all its rows.

        With ``missing_ok``, a missing table is not an error.
        """
        check_table_name(table)
        missing_ok = check_flag("missing_ok", missing_ok)

        async def drop(active: ActiveBackend) -> None:
            active.forget(table)
            try:
                await active.backend.drop_table(table)
            except TableNotFoundError:
                if not missing_ok:
                    raise

        await self._call("drop_table", table, drop, alters=True)

    async def tables(self) -> list[str]:
        """Return the names of the tables, sorted."""
        return await self._call("tables", None, lambda active: active.backend.tables())

    async def schema(self, table: str) -> Schema:
        """Return the table's current schema."""
        return (await self._schema_and_state(table))[0]

    async def _schema_and_state(self, table: str) -> tuple[Schema, str]:
        """Return the schema, and the table's state as ``CallContext.states`` names it."""
        check_table_name(table)

        async def read(active: ActiveBackend) -> tuple[Schema, str]:
            handle = await active.open_table(table, fresh=True)
            return handle.schema, active.state_of(handle)

        return await self._call("schema", table, read)

    # Writing

    async def insert(
        self,
        table: str,
        rows: Rows,
        *,
        on_conflict: OnConflict = "fail",
        model: str | None = None,
    ) -> int:
        """Add rows, and return the number of added rows.

        ``rows`` is an (async) iterable of mappings, ``Record``s, pydantic models, dataclasses or
        named tuples, a mapping of columns, a data frame, Arrow data, or an iterable of these. An
        iterable is read to its end before the write begins. An id that exists, or that occurs twice
        in ``rows``, raises DuplicateIdError, and no row is added. With ``on_conflict="skip"`` such
        rows are left out instead (the first row of a repeated id counts), and with ``"replace"``
        they replace the existing rows, as in ``upsert``.

        A value that does not fit the schema raises InvalidRowError; a wrong vector raises
        InvalidVectorError or DimensionMismatchError. Each error names the row and its id. If the
        schema has ``embed``, rows may lack a vector: the embedder makes it from their text, except
        for skipped rows. If that fails, EmbeddingError names the row.
        """
        if not isinstance(on_conflict, str) or on_conflict not in ON_CONFLICT:
            expected = " or ".join(map(repr, ON_CONFLICT))
            raise InvalidArgumentError("on_conflict", on_conflict, expected)
        return await self._write("insert", table, rows, model, on_conflict=on_conflict)

    async def upsert(self, table: str, rows: Rows, *, model: str | None = None) -> int:
        """Add each row, or replace the whole stored row that has its id; return the number of ids.

        ``rows`` and the errors are as in ``insert``; the last row of a repeated id counts. Also
        raises InvalidRowError if a row's value in a partition field would change: use ``update``
        for that.
        """
        return await self._write("upsert", table, rows, model, on_conflict="replace")

    async def _write(
        self,
        call: str,
        table: str,
        rows: Rows | Batch,
        model: str | None = None,
        *,
        on_conflict: OnConflict,
        checked_for: Schema | None = None,
    ) -> int:
        """Insert or upsert rows. ``checked_for`` is the schema that an import's batch fits."""
        collected = rows if isinstance(rows, Batch) else await collect(rows, self._read_in_thread)
        writing = RowsToWrite(collected, model, on_conflict, checked_for, self._make_vectors)
        return await self._on_table(call, table, writing.write, row_count=int)

    async def _make_vectors(
        self, t: OpenTable, texts: Texts, purpose: Purpose, model: str | None = None
    ) -> Float32Array:
        """Return a vector for each text. ``model`` is the model that the caller named."""
        embedder = await self._embedders.of_table(t.handle, t.active.settings, model)
        try:
            with span("embed", t.handle.name, t.active.attributes) as reported:
                if reported is not None:
                    reported.rows = len(texts.texts)
                vectors = await embedder.embed(texts.texts, purpose)
            current_deadline(None).renew()  # the embedder has its own time limits
            await hop(len(vectors), texts.check, vectors, t.schema, embedder.name)
        except EmbeddingError as exc:
            raise texts.error_of(exc) from exc.__cause__
        return vectors

    async def update(
        self,
        table: str,
        fields: Mapping[str, FieldValue | Remove] | Rows,
        *,
        ids: Ids | None = None,
        where: Where = None,
        vector: Vector | None = None,
        strict: bool = False,
    ) -> int:
        """Set fields and payload keys, keep the rest of each row, and return the number of rows.

        A single mapping of ``fields`` changes all rows that match both ``ids`` and ``where``. Pass
        at least one of these; ``where="TRUE"`` selects every row. ``fields`` may also be rows, in
        any form that ``upsert`` takes, each with an id and the values to set; all these rows are
        updated in one commit. Ids that do not exist are not counted; with ``strict`` they raise
        InvalidRowError, and no row is changed. An id may occur only once. A call sets at most
        10,000 fields and payload keys.

        A key ``payload.<key>.<key>`` sets a key of a nested object, as in filters, and keeps the
        other keys; objects on the path that are missing or null are created. Any other value on the
        path raises InvalidRowError, and no row is changed. ``aiovec.REMOVE`` as the value removes
        the key. A new text in the field of ``embed`` also gives a row its vector, in the same
        write; without a text the row loses its vector if the schema allows that. If a vector is
        passed, in the rows or as ``vector`` for all rows that match ``ids`` and ``where``, the
        embedder is not called.
        """
        # A mapping of columns has an id; one mapping of fields has ids= or where=.
        if not isinstance(fields, Mapping) or (ids is None and where is None and "id" in fields):
            for name, value in {"ids": ids, "where": where, "vector": vector}.items():
                if value is not None:
                    reason = f"{name} is for one mapping of fields; rows have their own ids"
                    raise InvalidArgumentError(name, value, reason=reason)
            rows = await collect(fields, self._read_in_thread)
            writing = RowsToUpdate(rows, check_flag("strict", strict), self._make_vectors)
            return await self._on_table("update", table, writing.write, row_count=int)
        if check_flag("strict", strict):
            reason = "strict is for rows with their own ids, not for ids= and where="
            raise InvalidArgumentError("strict", strict, reason=reason)
        fields = dict(fields)  # the caller may change it while the call waits
        requested = None if ids is None else await self._checked_ids(ids, distinct_ids)
        cost = cost_of(fields, *fields)

        async def update(t: OpenTable) -> int:
            values, payload = await hop(cost, check_patch, fields, t.schema)
            condition = await _narrowed(t, requested, where)
            if requested is not None and not requested:
                return 0
            if vector is None:
                if not await may_match(t, values, requested, condition):
                    return 0
                new_vector = await vector_of_update(self._make_vectors, t, values)
            else:
                new_vector = query_vector(vector, t.schema)
            return await t.write(Update(values, payload, requested, condition, new_vector))

        return await self._on_table("update", table, update, row_count=int)

    async def set_vectors(
        self,
        table: str,
        ids: Ids,
        vectors: Vectors,
        *,
        model: str | None = None,
    ) -> int:
        """Give the rows with these ids new vectors, keep their fields, and return how many existed.

        ``vectors`` has one vector for each id, checked as in ``insert``; an error names the
        position and the id. The last vector of a repeated id counts. Missing ids are ignored, and
        not counted.
        """
        listed = await collect_ids(ids)
        listed = list(listed) if isinstance(listed, (list, tuple)) else listed
        collected = await collect_vectors(vectors, self._read_in_thread)
        cost = cost_of(listed, collected)

        async def write(t: OpenTable) -> int:
            check_model(t.handle, model)
            existing: set[str] | None = None
            if t.expires:  # before the gate, since a read may wait for memory
                existing = await t.ids(await hop(cost, distinct_ids, listed))

            def checked() -> tuple[list[str], Float32Array]:
                requested, matrix = check_new_vectors(listed, collected, t.schema)
                if existing is None:
                    return requested, matrix
                places = [place for place, id in enumerate(requested) if id in existing]
                return [requested[place] for place in places], matrix[places]

            async with t.backend.writing(len(collected) * 4 * t.schema.dim):
                requested, matrix = await hop(cost, checked)
                if not requested:
                    return 0
                return await t.write(UpdateRows([Batch(requested, {}, vectors=matrix)]))

        return await self._on_table("set_vectors", table, write, row_count=int)

    async def delete(self, table: str, ids: Ids | None = None, *, where: Where = None) -> int:
        """Delete rows, and return how many existed.

        Pass ``ids``, ``where`` or both; with both, only rows that match both are deleted.
        ``where="TRUE"`` selects every row. A single string that looks like a filter is refused as
        an id; pass such an id in a list.
        """
        requested = None if ids is None else await self._checked_ids(ids, ids_to_delete)

        async def delete(t: OpenTable) -> int:
            condition = await _narrowed(t, requested, where)
            if requested is not None and not requested:
                return 0
            return await t.write(Delete(requested, condition))

        return await self._on_table("delete", table, delete, row_count=int)

    # Reading

    async def exists(self, table: str, ids: Ids) -> set[str]:
        """Return the set of the ids that exist in the table."""
        requested = await self._checked_ids(ids, distinct_ids)
        return await self._on_table("exists", table, lambda t: t.ids(requested), row_count=len)

    async def get(
        self,
        table: str,
        ids: Ids,
        *,
        select: Iterable[str] | None = None,
        include_vector: bool = True,
    ) -> Results[Record]:
        """Return the rows with these ids, in the order of ``ids``; missing ids are skipped.

        A repeated id returns its row again. ``select`` names the fields to read, as in ``find``.
        The vector is read too unless ``include_vector`` is false.
        """
        requested, distinct = await self._checked_ids(ids, ids_with_distinct)
        with_vector = check_flag("include_vector", include_vector)
        names = selected_names(select)

        async def get(t: OpenTable) -> Results[Record]:
            chosen = select_columns(t.schema, names, include_vector=with_vector)
            columns = chosen.first_columns(t.schema)

            def records(rows: Batch) -> Results[Record]:
                by_id = {record.id: record for record in chosen.records(rows)}
                return Results([by_id[id] for id in requested if id in by_id], columns=columns)

            if not requested:
                return Results(columns=columns)
            read = chosen.columns.metered(len(distinct))
            return await t.get(distinct, read, records)

        return await self._on_table("get", table, get, row_count=len)

    async def find(
        self,
        table: str,
        where: Where = None,
        *,
        order_by: str | Iterable[str] | None = None,
        descending: bool = False,
        limit: int | None = 100,
        offset: int = 0,
        select: Iterable[str] | None = None,
        include_vector: bool = False,
    ) -> Results[Record]:
        """Return rows without a search, sorted by one or more keys, by default by the id.

        At most ``limit`` rows are returned, after the first ``offset`` rows. ``limit=None`` returns
        all rows, in memory; ``rows`` yields them one by one.

        A key is a field, "id" or a payload key (``payload.rank``); a leading minus sorts it
        descending, and ``descending`` reverses every key. Nulls come last; rows with equal keys are
        sorted by id. In a payload key, numbers come before text and text before booleans; other
        values count as null. There may be at most 32 keys.

        ``select`` has the names of at most 2,000 values to read: fields, the vector, "payload", or
        payload keys ("payload.url"); by default, all fields and the payload are read. A record's
        ``vector`` is None unless the vector's name is selected or ``include_vector`` is true.
        """
        most = _EVERY_ROW if limit is None else count_of("limit", limit)
        offset = count_of("offset", offset, least=0)
        falling = check_flag("descending", descending)
        keys = order_keys(order_by)
        with_vector = check_flag("include_vector", include_vector)
        names = selected_names(select)

        async def find(t: OpenTable) -> Results[Record]:
            schema = t.schema
            chosen = select_columns(schema, names, include_vector=with_vector)
            order = sort_order(schema, keys, descending=falling)
            condition = await t.bound(where)
            columns = chosen.first_columns(schema)

            def records(rows: Batch) -> Results[Record]:
                return Results(chosen.records(rows), columns=columns)

            read = chosen.columns.metered(most)
            return await t.read(Find(condition, order, most, read, records, offset))

        return await self._on_table("find", table, find, row_count=len)

    async def count(self, table: str, where: Where = None) -> int:
        """Return the number of rows that match the filter, by default of all rows."""

        async def count(t: OpenTable) -> int:
            return await t.read(Count(await t.bound(where)))

        return await self._on_table("count", table, count)

    async def distinct(
        self, table: str, field: str, where: Where = None, limit: int | None = None
    ) -> Counts:
        """Return a mapping from each value of a field to its number of rows.

        The most frequent values come first, equally frequent ones in the order of ``find``. At most
        ``limit`` values are returned, by default all. ``field`` is a field, "id" or a payload key
        (``payload.kind``). Nulls are not counted. A row counts once for each distinct item of a
        list, in a list field or at a payload key; objects and lists in lists count as null. As in
        filters, 1 and 1.0 are one value, and 1 and True are two.
        """
        if limit is not None:
            limit = count_of("limit", limit)

        async def counted(t: OpenTable) -> Counts:
            ref = value_ref(t.schema, field, "field", lists=True)
            condition = await t.bound(where)
            counts = await t.read(Values(condition, ref, limit))
            return await hop(len(counts), Counts, counts)

        return await self._on_table("distinct", table, counted, row_count=len)

    async def bounds(
        self, table: str, field: str, where: Where = None
    ) -> tuple[Value, Value] | None:
        """Return the smallest and the largest value of a field, or None if all are null.

        ``field`` is a non-list field, "id" or a payload key. Values are ordered as in
        ``find(order_by=…)``: in a payload key, numbers come before text.
        """

        async def read(t: OpenTable) -> tuple[Value, Value] | None:
            ref = value_ref(t.schema, field, "field")
            condition = await t.bound(where)
            return await t.read(Bounds(condition, ref))

        return await self._on_table("bounds", table, read)

    async def fields_info(self, table: str, where: Where = None) -> dict[str, dict[str, int]]:
        """Return the number of values of each type in each field and payload key.

        The result is, for example,
        ``{"year": {"int": 120}, "payload.kind": {"text": 80, "list": 3}}``. The types are named as
        in ``Schema.to_json``; the payload also has "list" and "object". Nulls are not counted, keys
        within objects are not listed, and a declared field is listed even without values. Reads
        every row. Raises InvalidArgumentError for more than 10,000 payload keys.
        """
        check_table_name(table)
        counts: dict[str, Counter[str]] = {}

        async def begun(t: OpenTable) -> AsyncGenerator[int, None]:
            counts.clear()  # an earlier attempt may have seen another schema
            fields = t.schema.fields
            counts.update({name: Counter({str(field.kind): 0}) for name, field in fields.items()})
            columns = Columns(tuple(fields), payload=t.schema.payload)
            condition = await t.bound(where)
            counted = partial(count_types, fields=fields, counts=counts)
            return t.rows(condition, columns, counted)

        async for _ in self._snapshot("fields_info", table, begun, int):
            pass
        return {name: dict(types) for name, types in counts.items()}

    def export(
        self,
        table: str,
        *,
        batch_size: int = 1000,
        where: Where = None,
        select: Iterable[str] | None = None,
        after: bytes | None = None,
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield every row of one consistent snapshot, as Arrow batches, in constant memory.

        This method needs pyarrow: ``pip install "aiovec[arrow]"``. ``select`` names the columns:
        fields, the vector, or "payload" as a whole; by default all of them. Later writes are not
        included.

        Each batch has its cursor in ``batch.schema.metadata[b"aiovec.cursor"]``; ``after=``
        continues after that batch in a new snapshot. A batch has ``batch_size`` rows, or fewer if
        they are large or some have expired. To stop early, use ``aclose()`` or
        ``contextlib.aclosing``: an abandoned export holds its snapshot until it is garbage
        collected. A store has at most eight exports open; another export waits up to
        ``busy_timeout``.
        """
        batch_size = count_of("batch_size", batch_size)
        if after is not None and not isinstance(after, bytes):
            raise InvalidArgumentError("after", after, "the bytes of a batch's cursor, or None")
        names = selected_names(select)

        check_table_name(table)

        async def begun(t: OpenTable) -> AsyncGenerator[pa.RecordBatch, None]:
            await arrow_ready()
            schema, every = t.schema, names is None
            chosen = select_columns(schema, names, include_vector=every, whole_payload=True)
            condition = await t.bound(where)
            columns = chosen.columns
            export = t.export(where=condition, columns=columns, after=after, batch_size=batch_size)
            return _with_cursors(export, columns.layout(schema))

        return self._snapshot("export", table, begun, len)

    def rows(
        self,
        table: str,
        where: Where = None,
        *,
        select: Iterable[str] | None = None,
        include_vector: bool = False,
    ) -> AsyncGenerator[Record, None]:
        """Yield every row of one consistent snapshot, one by one, in constant memory.

        Iterate with ``async for row in store.rows("docs")``. ``select`` and ``include_vector`` are
        as in ``find``. The backend chooses the order. Later writes are not included. To
        stop early, use ``contextlib.aclosing``: an abandoned iterator holds its snapshot until it
        is garbage collected. A store has at most eight iterators and exports open in total.
        """
        check_table_name(table)
        names = selected_names(select)
        with_vector = check_flag("include_vector", include_vector)

        async def begun(t: OpenTable) -> AsyncGenerator[list[Record], None]:
            chosen = select_columns(t.schema, names, include_vector=with_vector)
            condition = await t.bound(where)
            return t.rows(condition, chosen.columns, chosen.records)

        async def each() -> AsyncGenerator[Record, None]:
            async with aclosing(self._snapshot("rows", table, begun, len)) as parts:
                async for part in parts:
                    for record in part:
                        yield record

        return each()

    async def _snapshot(
        self, call: str, table: str, begin: _Parts[_T], row_count: Callable[[_T], int]
    ) -> AsyncGenerator[_T, None]:
        """Yield the parts of the snapshot that ``begin`` starts to read.

        ``row_count`` counts the rows of a part.
        """
        self._enter()
        backends, failed, done = self._backends, 0, 0
        deadline = current_deadline(backends.active.backend.busy_timeout)
        with span(call, table, backends.active.attributes, current=False) as reported:
            while True:
                active = backends.active
                active.enter()
                try:
                    t = await opened(active, table)
                    try:
                        parts = await begin(t)
                    except REFUSALS:
                        await active.check_current(t.handle)
                        raise
                    self._exports.add(parts)
                    async with aclosing(parts):
                        async for part in parts:
                            if failed:  # alterations must not wait for the caller
                                backends.end_retry()
                                failed = 0
                            done += row_count(part)
                            yield part
                    if t.filters and not done:
                        await t.refuse_lists()
                    if self._closed:  # closing has ended the export
                        raise StoreClosedError(self.target)
                    return
                except (StaleTableError, StoreMovedError, StoreReplacedError) as exc:
                    error = exc
                finally:
                    active.leave()
                    if failed:
                        backends.end_retry()
                    if reported is not None:
                        reported.rows = done
                # After the first row, another attempt would repeat rows.
                failed += 1
                await backends.begin_retry(active, error, failed, deadline, last=done > 0)

    # Searching

    @names_options(VectorArguments)
    async def search(
        self,
        table: str,
        vector: Vector | str,
        *,
        limit: int = 10,
        where: Where = None,
        **options: Unpack[VectorArguments],
    ) -> Results[Hit]:
        """Return the rows nearest to ``vector``, best first; equally near rows are sorted by id.

        If the schema has ``embed``, ``vector`` may be a text: the embedder makes its vector. The
        filter is applied before the search: with enough matching rows there are always ``limit``
        hits, unless another argument, such as ``min_score``, leaves some out.

        Arguments of all searches:

        - ``select``: the names of the fields to read, as in ``find``, by default all;
          ``include_vector=True`` reads the vector too.
        - ``offset``: the number of hits to skip or, with ``group_by``, the number of groups.
          Skipped hits are ranked too: a page costs as much as ``offset + limit`` hits.
        - ``min_score``: the lowest score of a hit, as the search computes it, before ``rerank``; by
          default there is no bound.
        - ``group_by``, a non-list field or ``payload.<key>``: the hits are the best
          ``per_group`` rows (by default 1) of each of the ``limit`` best values. Rows without a
          value form one group. The search ranks the best ``fetch_k * per_group`` rows; if these
          have too few values, or too few rows of a value, it ranks 16 times as many, and returns
          the groups among them.
        - ``diversity`` from 0 to 1 trades nearness for variety: maximal marginal relevance with
          ``lambda`` as ``1 - diversity``, by cosine whatever the metric; 0 changes nothing.
          It cannot be combined with ``group_by``.
        - ``rerank`` is a function that gets the hits, with all their text fields, and returns new
          scores, or the hits in a new order (a plain function runs in a thread). Diversity is
          applied afterwards.
        - ``rerank=Decay("at", half_life="7d", weight=0.3)`` prefers newer hits, by the times in a
          field, and ``Factor("importance", weight=0.2)`` prefers hits with a higher number; a list
          combines several boosts. ``min_score`` applies first.
        - ``fetch_k``: the number of hits from which diversity, rerank and ``per_group`` choose, by
          default 40. They need at least ``offset + limit``, the same number for every page.

        The first hits of a search are the hits of the same search with a smaller ``limit``, and
        pages are parts of one order, while nothing is written.

        Arguments of searches by vector:

        - ``max_distance``: the largest distance of a hit; by default there is no bound.
        - ``exact=True`` uses no approximate index, and ``tuning``, a ``Tuning``, sets the effort of
          an approximate search. Without ``exact``, a tuning that the backend does not support
          raises UnsupportedError.

        A text raises InvalidVectorError if the schema has no ``embed``, and EmbeddingError if the
        embedder is missing or fails.
        """
        checked = options_of(
            "search", VectorArguments, options, vector=vector, limit=limit, where=where
        )
        return (await self._search("search", table, checked))[0]

    @names_options(VectorArguments)
    async def search_many(
        self,
        table: str,
        vectors: Vectors,
        *,
        limit: int = 10,
        where: Where = None,
        each_where: Sequence[Where] | None = None,
        **options: Unpack[VectorArguments],
    ) -> ResultsList:
        """Search for several vectors or texts on one state of the table.

        The result has the hits of each query, in the order of ``vectors``. ``each_where`` is a list
        that has, for each vector, None or a filter that narrows ``where``. With ``group_by``, each
        vector is a separate search. The other arguments are as in ``search``. The methods
        ``to_arrow``, ``to_pandas`` and ``to_polars`` of the result return one table, whose column
        ``_query`` is the position of the query.
        """
        named = {"limit": limit, "where": where, "each_where": each_where}
        checked = options_of("search_many", VectorArguments, options, **named)
        checked.vectors = await collect_vectors(vectors, self._read_in_thread)
        return ResultsList(await self._search("search_many", table, checked))

    @names_options(NearArguments)
    async def search_like(
        self,
        table: str,
        ids: Ids,
        *,
        not_like: Ids = (),
        limit: int = 10,
        where: Where = None,
        **options: Unpack[NearArguments],
    ) -> Results[Hit]:
        """Return the rows nearest to the rows in ``ids``, and unlike the rows in ``not_like``.

        None of these rows is a hit. The query vector is the mean of the vectors of ``ids``; with
        ``not_like`` it is ``2 * mean(ids) - mean(not_like)``. Under cosine, only the direction of
        each vector counts. The other arguments are as in ``search``. Raises InvalidArgumentError if
        a row is missing or has no vector, and for more than 1,000 rows.
        """
        like = await self._checked_ids(ids, distinct_ids)
        unlike = await self._checked_ids(not_like, distinct_ids)
        most = max(len(like), len(unlike))
        named = list(dict.fromkeys([*like, *unlike])) if most <= _MOST_LIKE else []
        if not like or not named or len(named) > _MOST_LIKE:
            raise InvalidArgumentError("ids", ids, f"the ids of 1 to {_MOST_LIKE:,} rows")
        checked = options_of(
            "search_like", NearArguments, options, like=(like, unlike), limit=limit, where=where
        )
        return (await self._search("search_like", table, checked))[0]

    @names_options(SearchArguments)
    async def search_text(
        self,
        table: str,
        query: str,
        *,
        limit: int = 10,
        where: Where = None,
        match: Literal["all", "any", "best"] = "any",
        highlight: bool | tuple[str, str] = False,
        **options: Unpack[SearchArguments],
    ) -> Results[Hit]:
        """Return the best rows by keywords (BM25) in the fields with ``text=True``.

        ``query`` can have words, ``"exact phrases"``, ``-excluded`` words, ``field:word`` and
        ``prefix*``. A row matches if it has at least one of the words, and rare words count more
        than common ones. With ``match="all"`` it must have all of them. With ``"best"``, rows with
        all words come first; if they are fewer than ``limit``, rows with some of the words follow,
        with lower scores. Everything else is plain text; a query without a word finds nothing. A
        field without ``text=True``, or a misspelt one (``titel:wool``), raises
        InvalidNameError. A query has at most 100,000 characters and 1,000 different words.

        On SQLite, a word that half of the rows contain adds almost nothing to a score: in a small
        table, a good hit may have the score 0.000001. On LanceDB, if more than 10,000 rows have the
        same score, any of them may be hits.

        With ``highlight``, each hit's ``highlights`` has a snippet of about 160 characters of every
        field that matched, with each match between ``<mark>`` and ``</mark>``, or between two
        strings that you pass. The snippet is not escaped for HTML.

        The filter is applied before the search. ``search`` explains the other arguments.
        """
        words = {"query": _checked_query(query), "match": match, "highlight": highlight}
        named = {**words, "limit": limit, "where": where}
        checked = options_of("search_text", SearchArguments, options, **named)
        return (await self._search("search_text", table, checked))[0]

    @names_options(VectorArguments)
    async def search_hybrid(
        self,
        table: str,
        query: str,
        vector: Vector | str | None = None,
        *,
        fusion: Fusion | None = None,
        limit: int = 10,
        where: Where = None,
        match: Literal["all", "any", "best"] = "any",
        highlight: bool | tuple[str, str] = False,
        **options: Unpack[VectorArguments],
    ) -> Results[Hit]:
        """Search by keywords and by vector, and fuse the two lists of hits into one.

        Both searches see one state of the table. The best ``fetch_k`` hits of both lists (by
        default 40) are fused, and the next ones follow with lower scores. ``fusion`` is
        ``Weighted(vector=…, text=…)``, by scores, or ``RRF()``, by ranks; both give scores from 0
        to 1, which are comparable within this search only. By default it is ``Weighted``, with the
        weight of the table's embedder: 0.5 for vectors of your own, ``"local"`` (0.2 beside the
        analyzer of a language other than English) and ``"demo"``, otherwise 0.65. To judge a hit,
        look at its ``distance``. Each hit's ``ranks`` has its rank and score in each list.
        ``min_score`` applies to the fused score, ``max_distance`` to the vector list only: rows
        that match the words stay. The other arguments are as in ``search`` and ``search_text``.

        ``-word``, quotes and ``field:`` act on the keyword list only; to exclude rows from both
        lists, use ``where``.

        If the schema has ``embed``, ``vector`` may be a text; by default it is the whole query
        text.
        """
        words = {"query": _checked_query(query), "match": match, "highlight": highlight}
        named: dict[str, Any] = {**words, "vector": vector, "limit": limit, "where": where}
        named |= {"hybrid": True, "fusion": fusion}
        checked = options_of("search_hybrid", VectorArguments, options, **named)
        return (await self._search("search_hybrid", table, checked))[0]

    async def _search(self, call: str, table: str, options: SearchOptions) -> list[Results[Hit]]:
        """Return the hits of each query; a user's function for ``rerank`` runs after the reads."""
        filters = cost_of_text(options.where) + cost_of_text(options.each_where)
        cost = filters + cost_of_text(options.query)

        async def attempt(t: OpenTable) -> list[Answer]:
            if options.query is not None:
                t.backend.check_able("text")  # before any text is embedded
            vectors = await self._vectors(t, options)
            return await (await hop(cost, plan_of, t, options, vectors)).answers()

        answers = await self._on_table(call, table, attempt, row_count=hits_in)
        if callable(options.rerank):
            for answer in answers:
                await answer.finish_by(options.rerank, self._rerank_slots)
        return [cast("Results[Hit]", answer.hits) for answer in answers]

    async def _vectors(self, t: OpenTable, options: SearchOptions) -> Sequence[Float32Array]:
        """Return the vectors to search for; empty for a keyword search."""
        schema = t.schema
        if options.like is not None:
            ids = list(dict.fromkeys(chain(*options.like)))
            return await t.get(
                ids, Columns((), vector=True), partial(vector_like, options.like, schema)
            )
        if options.model is not None:
            check_model(t.handle, options.model)
        embeds, vector, vectors = schema.embed is not None, options.vector, options.vectors
        if vectors is not None:
            texts = texts_among(vectors) if embeds else {}
            embedded = await self._query_vectors(t, texts, options.model) if texts else {}
            return await hop(cost_of(vectors), many_queries, vectors, schema, embedded)
        if options.query is not None and not options.hybrid:
            return ()
        text = options.query if vector is None else vector
        if embeds and isinstance(text, str):
            vector = (await self._query_vectors(t, {0: text}, options.model))[0]
        return [query_vector(vector, schema)]

    async def _query_vectors(
        self, t: OpenTable, texts: Mapping[int, str], model: str | None
    ) -> dict[int, Any]:
        """Return the vectors of query texts, by the texts' positions.

        ``model`` is the model that the caller named.
        """
        listed = await hop(len(texts), check_query_texts, texts)
        queries = Texts(listed, list(texts) if len(texts) > 1 else ())
        vectors = await self._make_vectors(t, queries, "query", model)
        return dict(zip(texts, vectors, strict=True))

    # Upkeep

    async def stats(self, table: str) -> TableStats:
        """Return the size and costs of the table.

        If the table's rows expire, ``details["expired_rows"]`` is the number of expired rows that
        are not deleted yet. Counting them reads the expiry times of all rows, unless the field with
        these times has an index. ``details["watching"]`` has the states of the sources that
        ``aiovec.watch`` follows for the table.
        """
        stats = await self._on_table("stats", table, lambda t: t.stats())
        watching = [each.state for each in self._watching if each.table == table]
        if not watching:
            return stats
        states = [asdict(state) for state in await together(watching)]
        return replace(stats, details={**stats.details, "watching": states})

    async def optimize(self, table: str, *, questions: Vectors | None = None) -> None:
        """Free space, update indexes and delete expired rows now.

        Reads and writes continue. With ``questions``, which are vectors of real queries, the call
        also measures the recall of the vector index, as ``create_index`` does.
        """
        collected = await self._collected(questions)

        async def optimize(t: OpenTable) -> None:
            vectors = await self._questions(t, collected)
            await t.sweep()
            await t.backend.optimize(t.handle)
            if vectors is not None:
                await t.backend.measure(t.handle, vectors)

        await self._on_table("optimize", table, optimize)

    async def create_index(
        self,
        /,
        table: str,
        kind: str = "auto",
        *,
        wait: bool = True,
        questions: Vectors | None = None,
        **options: Unpack[IndexOptions],
    ) -> None:
        """Build an approximate index over the vectors, and measure its recall.

        ``kind`` and the options depend on the backend; an unknown kind or option raises
        InvalidArgumentError, which lists the known ones. ``recall`` is the share of the true
        nearest rows that searches of this table must find, by default ``recall_target`` of the TOML
        file (0.95), and ``questions`` are at least 64 vectors of real queries with which the recall
        is measured. SQLite needs no index, and raises UnsupportedError. With ``wait=False`` the
        build runs in the background, until the store is closed. A cancelled build leaves the table
        unchanged.
        """
        check_words("kind", kind)
        others = options.pop("others", None) or {}
        if not isinstance(others, Mapping):
            raise InvalidArgumentError("others", others, "a mapping of names to values")
        for option, value in {**options, **others}.items():
            check_words(option, value)
        wait = check_flag("wait", wait)
        collected = await self._collected(questions)

        async def create(t: OpenTable) -> None:
            passed: dict[str, Any] = {**options, **others}
            vectors = await self._questions(t, collected)
            if vectors is not None:
                passed["questions"] = vectors
            await t.backend.create_index(t.handle, kind, wait=wait, options=passed)

        await self._on_table("create_index", table, create)

    async def _collected(self, questions: Vectors | None) -> Any:
        return None if questions is None else await collect_vectors(questions, self._read_in_thread)

    async def _questions(self, t: OpenTable, collected: Any) -> Float32Array | None:
        """Return the questions, checked like queries, or raise UnsupportedError if the backend
        takes no questions."""
        if collected is None:
            return None
        t.backend.check_able("questions")
        return await hop(cost_of(collected), given_matrix, collected, t.schema, Places())

    async def indexes(self, table: str) -> list[IndexInfo]:
        """Return the indexes of a table on LanceDB.

        The index over the vectors has its measured ``recall``; the other indexes are over fields.
        SQLite raises UnsupportedError.
        """
        return await self._on_table("indexes", table, lambda t: t.backend.indexes(t.handle))

    async def drop_index(self, table: str, name: str) -> None:
        """Drop the vector index of this name, as ``indexes`` returns it.

        Until another index is built, a search reads all vectors. A table without this index raises
        InvalidArgumentError.
        """
        check_words("name", name)
        await self._on_table("drop_index", table, lambda t: t.backend.drop_index(t.handle, name))

    async def changes(self, table: str, since: int = 0, *, limit: int = 10_000) -> Changes:
        """Return a page of the changes after ``since``: the rows written, and the ids deleted.

        ``since`` is the ``number`` of the previous page, or 0 for all rows. Apply ``deleted``
        first, then ``upserted``, an Arrow table of whole rows. This method needs pyarrow:
        ``pip install "aiovec[arrow]"``.

        A page has about ``limit`` changes, and only the last change of a row; the newest page is
        ``complete``. Raises ChangesPrunedError if the changes are no longer kept: drop the rows
        read so far, and start again with 0. An expired row is in ``deleted``. A row that expires
        after a page listed it is in ``deleted`` only once the table deletes it, so check each row's
        expiry time too.
        """
        since = whole_number("since", since, least=0)
        limit = count_of("limit", limit)

        async def changes(t: OpenTable) -> Changes:
            await arrow_ready()
            return await t.changes(since, limit)

        return await self._on_table("changes", table, changes)

    async def versions(self, table: str) -> list[Mapping[str, Any]]:
        """Return the table's kept versions, oldest first, each with "version" and "created"."""
        return await self._on_table("versions", table, lambda t: t.backend.versions(t.handle))

    async def revert(self, table: str, version: int) -> None:
        """Restore an earlier version of the table; ``version`` is its number from ``versions``.

        This adds a new version, so the replaced one stays in the list. Raises InvalidArgumentError
        if the version is no longer kept, and UnsupportedError on SQLite.
        """
        version = whole_number("version", version, least=0)
        await self._on_table("revert", table, lambda t: t.backend.revert(t.handle, version))

    async def backup(self, path: str | Path) -> None:
        """Copy the whole store, as of one moment, to a path that does not exist yet.

        In a bucket, the copies of the tables may be from different moments. An existing path raises
        InvalidArgumentError, a store on a server UnsupportedError. ``aiovec.restore`` restores the
        copy.
        """

        async def backup(active: ActiveBackend) -> None:
            active.backend.check_able("backup")
            await active.backend.backup(await in_thread(new_path_of, path))

        await self._call("backup", None, backup)

    # Calls

    def _enter(self, *, closing: bool = False) -> None:
        """Check that a call comes from the process and the event loop that opened the store."""
        if os.getpid() != self._process:
            raise StoreClosedError(self.target, FORKED)
        if self._closing is not None and not closing:
            raise StoreClosedError(self.target)
        if asyncio.get_running_loop() is not self._loop:
            raise AiovecError(
                f"the store {self.target} belongs to the event loop that opened it; open a store "
                "on each loop, or use aiovec.sync, whose stores threads can share"
            )

    async def _call(
        self,
        call: str,
        table: str | None,
        act: Callable[[ActiveBackend], Awaitable[_T]],
        row_count: Callable[[_T], int] | None = None,
        *,
        alters: bool = False,
    ) -> _T:
        """Run ``act`` on the active backend; run it again if the table or the backend changed.

        A call that ``alters`` makes the table's handles stale. ``row_count`` returns the number of
        rows in the result, for telemetry.
        """
        self._enter()
        if alters or call in _WRITES:  # before rows are checked and embedded
            self._check_writable(call)
        key = write_key() if alters or call in _ONCE else None
        backends, failed = self._backends, 0
        active = backends.active
        with (
            Deadline(active.backend.busy_timeout) as deadline,
            span(call, table, active.attributes) as reported,
        ):
            backends.look_ahead()
            if alters:
                await backends.let_through(deadline)
            while True:
                active = backends.active
                active.enter()
                try:
                    # The backend checks again when it commits; this early check saves embedding.
                    if key is not None and (kept := await kept_of(key, active.backend)):
                        result = cast("_T", kept.outcome)
                    else:
                        result = await act(active)
                    if reported is not None:
                        reported.place = active.attributes  # the call may have followed a migration
                        reported.rows = None if row_count is None else row_count(result)
                    return result
                except (StaleTableError, StoreMovedError, StoreReplacedError) as exc:
                    error = exc
                finally:
                    active.leave()
                    if failed:
                        backends.end_retry()
                failed += 1
                await backends.begin_retry(active, error, failed, deadline)

    def _on_table(
        self,
        call: str,
        table: str,
        act: Callable[[OpenTable], Awaitable[_T]],
        *,
        row_count: Callable[[_T], int] | None = None,
        alters: bool = False,
    ) -> Awaitable[_T]:
        """Run ``act`` on an opened table, as ``_call`` does."""
        check_table_name(table)

        async def attempt(active: ActiveBackend) -> _T:
            t = await opened(active, table)
            try:
                result = await act(t)
                if t.filters and not (row_count(result) if row_count else result):
                    await t.refuse_lists()
            except REFUSALS:
                await active.check_current(t.handle)
                raise
            return result

        return self._call(call, table, attempt, row_count, alters=alters)

    async def _checked_ids(self, ids: Any, check: Callable[[Any], _T]) -> _T:
        """Read a user's ids once, and return the result of ``check``."""
        listed = await collect_ids(ids)
        return await hop(cost_of(listed), check, listed)


async def _narrowed(t: OpenTable, ids: list[str] | None, where: Where) -> Expr | None:
    """Return the bound filter of a write. A write without ids needs a filter."""
    condition = await t.bound(where, alone=ids is None)
    if ids is None and condition is None:
        reason = "pass ids or where; to select every row, pass where='TRUE'"
        raise InvalidArgumentError("ids or where", where, reason=reason)
    return condition


async def _with_cursors(
    export: AsyncGenerator[tuple[pa.RecordBatch, bytes], None], layout: pa.Schema
) -> AsyncGenerator[pa.RecordBatch, None]:
    """Yield the batches of an export in this layout, each with its cursor in its metadata."""
    async with aclosing(export) as batches:
        async for batch, cursor in batches:
            if batch.num_rows:
                metadata = {**(layout.metadata or {}), b"aiovec.cursor": cursor}
                columns = [batch.column(name) for name in layout.names]
                yield pa.RecordBatch.from_arrays(columns, schema=layout.with_metadata(metadata))


def _checked_query(query: object) -> str:
    if not isinstance(query, str):
        raise InvalidArgumentError("query", query, "text")
    return query


def _bound(
    method: Callable[Concatenate[VectorStore, str, _P], _T],
) -> Callable[Concatenate[Table, _P], _T]:
    """Return the store's method with the table's name filled in."""

    def call(self: Table, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return method(self.store, self.name, *args, **kwargs)

    update_wrapper(call, method)
    signature = inspect.signature(method)
    others = [value for name, value in signature.parameters.items() if name != "table"]
    call.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    return call


class Table(NotCopied, NoLength, Hints):
    """A lightweight handle to one table, with the store's methods but no table name to pass.

    Creating a handle reads nothing. A handle stays valid when the table is dropped and created
    again.
    """

    __slots__ = ("name", "store")

    def __init__(self, store: VectorStore, name: str) -> None:
        self.store: VectorStore = store
        self.name: str = name

    def __repr__(self) -> str:
        return f"<Table {self.name} of {self.store!r}>"

    create: Final = _bound(VectorStore.create_table)
    create_from: Final = _bound(VectorStore.create_table_from)
    drop: Final = _bound(VectorStore.drop_table)
    schema: Final = _bound(VectorStore.schema)
    add_field: Final = _bound(VectorStore.add_field)
    create_field_index: Final = _bound(VectorStore.create_field_index)
    drop_field_index: Final = _bound(VectorStore.drop_field_index)
    drop_field: Final = _bound(VectorStore.drop_field)
    rename_field: Final = _bound(VectorStore.rename_field)
    insert: Final = _bound(VectorStore.insert)
    upsert: Final = _bound(VectorStore.upsert)
    update: Final = _bound(VectorStore.update)
    set_vectors: Final = _bound(VectorStore.set_vectors)
    delete: Final = _bound(VectorStore.delete)
    exists: Final = _bound(VectorStore.exists)
    get: Final = _bound(VectorStore.get)
    find: Final = _bound(VectorStore.find)
    count: Final = _bound(VectorStore.count)
    distinct: Final = _bound(VectorStore.distinct)
    fields_info: Final = _bound(VectorStore.fields_info)
    bounds: Final = _bound(VectorStore.bounds)
    rows: Final = _bound(VectorStore.rows)
    export: Final = _bound(VectorStore.export)
    search: Final = _bound(VectorStore.search)
    search_many: Final = _bound(VectorStore.search_many)
    search_like: Final = _bound(VectorStore.search_like)
    search_text: Final = _bound(VectorStore.search_text)
    search_hybrid: Final = _bound(VectorStore.search_hybrid)
    stats: Final = _bound(VectorStore.stats)
    optimize: Final = _bound(VectorStore.optimize)
    create_index: Final = _bound(VectorStore.create_index)
    indexes: Final = _bound(VectorStore.indexes)
    drop_index: Final = _bound(VectorStore.drop_index)
    versions: Final = _bound(VectorStore.versions)
    changes: Final = _bound(VectorStore.changes)
    revert: Final = _bound(VectorStore.revert)


hints_methods(VectorStore)
hints_methods(Table)
