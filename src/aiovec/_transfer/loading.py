"""Tables of a file or a database into a store, by the door that every row goes through."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .._filters import F
from .._input.rows import CheckedRows
from .._model.schema import Schema
from .._store.store import VectorStore
from ..backend.foreign import Chunk, ForeignTable, Reject
from ..backend.threads import in_thread
from ..errors import (
    AiovecError,
    ConfigError,
    DimensionMismatchError,
    DuplicateIdError,
    InvalidRowError,
    ModelMismatchError,
    TableExistsError,
    TableNotFoundError,
    UnsupportedError,
)
from .foreign import reading
from .parts import check_apart
from .reading import Input
from .rejects import Reason, RejectsFile
from .sifting import Sifted, sift, without_ids

# One write of this much: large enough for any backend to be fast, small enough to hold twice.
_BYTES_AT_ONCE = 16 * 1024 * 1024
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 64, 10_000
_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Load:
    """A table to load, and the table of the store that it goes to.

    ``schema`` is one that the user gave; ``metric`` and ``model`` stand for what the source does
    not say.
    """

    source: ForeignTable
    table: str
    schema: Schema | None = None
    metric: Literal["cosine", "l2", "dot"] | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load.

    Each row that the source counts was taken (``rows``), listed as a reject (``rejected``), or
    could not be read (``missing``). ``replaced`` of the rows that were taken replaced one of the
    same id; ``reasons`` are those of the rejects. ``omitted`` are the columns that were not taken.
    """

    table: str
    origin: str
    layout: str
    created: bool
    rows: int
    rejected: int
    schema: Schema
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    replaced: int = 0
    missing: int = 0
    reasons: tuple[Reason, ...] = ()

    @property
    def whole(self) -> bool:
        """True if all of the table was taken."""
        return not (self.rejected or self.missing or self.omitted)


@dataclass(slots=True)
class Loading:
    """Options of a load: ``seen`` is called with the table and the number of rows read.

    ``rows_at_once`` are the rows of one write; by default as many as make 16 MiB of vectors.
    """

    upsert: bool = False
    strict: bool = False
    rows_at_once: int | None = None
    seen: Callable[[Load, int], None] = field(default=lambda load, rows: None)


@dataclass(slots=True)
class _Placed:
    """A table that is being loaded: ``place`` is where its rows are until all are there.

    ``created`` tells that the table is new, ``made`` that ``place`` is there.
    """

    load: Load
    schema: Schema
    place: str
    created: bool
    made: bool
    rows: int = 0
    rejected: int = 0
    replaced: int = 0
    missing: int = 0

    @property
    def is_staged(self) -> bool:
        return self.place != self.load.table


async def load(
    store: VectorStore,
    source: Input,
    loads: Sequence[Load],
    rejects: RejectsFile,
    how: Loading,
) -> list[Loaded]:
    """Load tables; what cannot be taken goes to the rejects, and the rest goes on.

    With ``strict`` nothing of any table is kept where a row cannot be taken: the rows are gathered
    in a table beside it first, and moved when all are known to be good. A failure of the move
    deletes the table's moved rows again; with ``upsert`` they stay, because they may have replaced
    others. Tables that were moved before keep their rows.
    A new table is made when the first of its rows can be taken: no table has to be dropped that
    somebody else may have written to meanwhile.
    """
    placed: list[_Placed] = []
    await in_thread(check_apart, store, [rejects.path])
    await in_thread(rejects.open)
    try:
        for one in loads:
            placed.append(await _place(store, one, how))
            await _fill(store, source, placed[-1], rejects, how)
        if how.strict:
            await _settle(store, placed, rejects, how, source.place)
        _check_taken(placed, rejects)
        # What came through a pipe before may have been other rows, for another store.
        done = [] if source.is_stream else [one.load.table for one in placed]
        await in_thread(rejects.close, done)
    except BaseException as exc:
        try:
            await _undo(store, placed, exc)
        finally:
            await in_thread(rejects.abandon, exc)
        if isinstance(exc, AiovecError) and not how.strict:
            _tell_kept(exc, placed)
        raise
    return [
        Loaded(
            p.load.table, p.load.source.origin, p.load.source.layout, p.created and p.made, p.rows,
            p.rejected, p.schema, source.notes(p.load.source), p.load.source.omitted, p.replaced,
            p.missing, tuple(rejects.reasons(p.load.table)),
        )
        for p in placed
    ]  # fmt: skip


async def _place(store: VectorStore, one: Load, how: Loading) -> _Placed:
    """The table that the rows go to first. A new one is created with its first rows."""
    wanted = _wanted(one)
    if one.schema is None and wanted.quantized and not store.supports("quantized"):
        wanted = replace_in(wanted, quantized=None)  # the file's suggestion, not the user's wish
    try:
        there = await store.schema(one.table)
    except TableNotFoundError:
        place = _beside(one) if how.strict else one.table
        return _Placed(one, wanted, place, created=True, made=False)
    given = one.schema
    if given is not None:  # what the user said has to be so; what a file suggests has not
        await store.create_table(one.table, given, exist_ok=True)
    if wanted.model is not None and there.model is not None and wanted.model != there.model:
        raise ModelMismatchError(one.table, there.model, wanted.model)
    if wanted.dim != there.dim:
        raise DimensionMismatchError(there.dim, wanted.dim)
    if one.metric is not None and one.metric != there.metric:
        raise ConfigError(
            f"the table {one.table!r} exists with the metric {there.metric!r}", key="--metric"
        )
    if how.strict:
        return _Placed(one, there, _beside(one), created=False, made=False)
    return _Placed(one, there, one.table, created=False, made=True)


def _beside(one: Load) -> str:
    return f"{one.table[:40].rstrip('-_')}-import-{uuid.uuid4().hex[:8]}"


def _wanted(one: Load) -> Schema:
    """The schema of a table that is made for these rows."""
    schema = one.schema or one.source.schema
    if one.metric is not None:
        schema = replace_in(schema, metric=one.metric)
    if one.model is not None:
        if schema.model is not None and schema.model != one.model:
            raise ModelMismatchError(one.table, schema.model, one.model)
        schema = replace_in(schema, model=one.model)
    return schema


def replace_in(schema: Schema, **options: Any) -> Schema:
    """The schema with other options."""
    return Schema.from_json({**schema.to_dict(), **options})


async def _fill(
    store: VectorStore, source: Input, placed: _Placed, rejects: RejectsFile, how: Loading
) -> None:
    """Load one table: the next chunk is read and checked while the last one is written."""
    schema = placed.schema
    before = await store.count(placed.place) if how.upsert and placed.made else 0
    size = how.rows_at_once
    if size is None:
        size = min(max(_BYTES_AT_ONCE // (4 * schema.dim), _FEWEST_AT_ONCE), _MOST_AT_ONCE)
    read = 0
    async with contextlib.aclosing(_sifted(source, placed, how, size)) as sifted:
        async for part in sifted:
            read += part.rows.num_rows + len(part.rejects)
            if how.strict and placed.rejected:  # nothing will be kept: only look for more
                done = part
            else:
                done = await _write(store, placed, part, how)
                placed.rows += done.rows.num_rows
            if done.rejects:
                placed.rejected += len(done.rejects)
                await in_thread(rejects.write, placed.load.table, source.place, done.rejects)
            how.seen(placed.load, read)
    if placed.load.source.rows is not None:
        placed.missing = max(0, placed.load.source.rows - read)
    if not placed.rejected:
        await _make(store, placed)
    if how.upsert and placed.made:
        await _count_replaced(store, placed, placed.place, before)


async def _make(store: VectorStore, placed: _Placed) -> None:
    if not placed.made:
        await store.create_table(placed.place, placed.schema, exist_ok=True)
        placed.made = True


async def _count_replaced(store: VectorStore, placed: _Placed, table: str, before: int) -> None:
    """Tell how many rows replaced another, as far as nobody else wrote or deleted meanwhile."""
    added = await store.count(table) - before
    placed.replaced = min(max(0, placed.rows - added), placed.rows)


async def _sifted(
    source: Input, placed: _Placed, how: Loading, size: int
) -> AsyncGenerator[Sifted, None]:
    def following(chunks: Iterator[Chunk]) -> Sifted | None:
        chunk = next(chunks, None)
        if chunk is None:
            return None
        at = f"{source.place} {chunk.places[0]}" if len(chunk.places) else ""
        with reading(source.path, at):
            return sift(chunk, placed.schema, last_counts=how.upsert)

    chunks = source.chunks(placed.load.source, placed.schema, size)
    coming = asyncio.ensure_future(in_thread(following, chunks, stop=source.stop))
    try:
        while (part := await coming) is not None:
            coming = asyncio.ensure_future(in_thread(following, chunks, stop=source.stop))
            yield part
    finally:
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError, AiovecError):
            await coming  # the thread must be out of the iterator before it is closed
        close = getattr(chunks, "close", None)
        if close is not None:
            await in_thread(close)


async def _write(store: VectorStore, placed: _Placed, part: Sifted, how: Loading) -> Sifted:
    """Write rows; what the table has already becomes a reject."""
    if part.rows.num_rows:
        await _make(store, placed)
    if how.upsert:
        if part.rows.num_rows:
            rows = CheckedRows(part.rows, placed.schema)
            await store._write("upsert", placed.place, rows, on_conflict="replace")
        return part
    fresh = placed.created or placed.is_staged
    reason = "the id came before in the same source" if fresh else "the id already exists"
    while part.rows.num_rows:
        try:
            rows = CheckedRows(part.rows, placed.schema)
            await store._write("insert", placed.place, rows, on_conflict="fail")
        except DuplicateIdError as exc:
            part = await in_thread(without_ids, part, set(exc.ids), reason)
        else:
            break
    return part


# With --strict


async def _settle(
    store: VectorStore, placed: list[_Placed], rejects: RejectsFile, how: Loading, place: str
) -> None:
    """Keep everything, or nothing."""
    for one in placed:
        if not one.created and not how.upsert and not one.rejected:
            await _reject_known(store, one, rejects, place)
    bad = sum(one.rejected for one in placed)
    if bad:
        raise InvalidRowError(
            f"{bad:,} of them cannot be imported, so nothing was kept; {rejects.path} lists each"
        )
    for n, one in enumerate(placed):
        try:
            if not (one.created and await _renamed(store, one)):
                await _move(store, one, how)
        except AiovecError as exc:
            if isinstance(exc, TableExistsError):
                exc.add_note("somebody made it meanwhile, and it was left alone; import again")
            _tell_kept(exc, placed[:n])
            raise


async def _renamed(store: VectorStore, one: _Placed) -> bool:
    """Give gathered rows the name of their new table; False where no table can be renamed."""
    try:
        await store.rename_table(one.place, one.load.table)
    except UnsupportedError:
        await store.create_table(one.load.table, one.schema)
        return False
    one.place = one.load.table
    return True


async def _reject_known(store: VectorStore, one: _Placed, rejects: RejectsFile, place: str) -> None:
    async for ids in _ids_of(store, one.place):
        there = await store.find(one.load.table, F.id.in_(ids), select=["id"], limit=len(ids))
        found = [Reject(None, record.id, "the id already exists") for record in there]
        one.rejected += len(found)
        await in_thread(rejects.write, one.load.table, place, found)


async def _move(store: VectorStore, one: _Placed, how: Loading) -> None:
    """Bring the gathered rows into their table. Another writer can still be faster with an id."""
    moved = 0
    before = await store.count(one.load.table) if how.upsert else 0
    try:
        async for batch in store.export(one.place, batch_size=4000):
            if how.upsert:
                await store.upsert(one.load.table, batch)
            else:
                await store.insert(one.load.table, batch)
            moved += batch.num_rows
    except BaseException:
        if not how.upsert:
            await _take_back(store, one, moved)
        raise
    if how.upsert:
        await _count_replaced(store, one, one.load.table, before)
    await store.drop_table(one.place, missing_ok=True)


async def _take_back(store: VectorStore, one: _Placed, moved: int) -> None:
    """Delete what was moved: the first rows of the gathered ones, which nobody else writes."""
    async with contextlib.aclosing(_ids_of(store, one.place)) as batches:
        async for ids in batches:
            if moved <= 0:
                break
            await store.delete(one.load.table, ids[:moved])
            moved -= len(ids)


async def _ids_of(store: VectorStore, table: str) -> AsyncGenerator[list[str], None]:
    async for batch in store.export(table, batch_size=_IDS_AT_ONCE, select=["id"]):
        yield batch.column("id").to_pylist()


async def _undo(store: VectorStore, placed: list[_Placed], error: BaseException) -> None:
    """After a failure: drop the tables in which rows were gathered."""
    for one in placed:
        if one.is_staged:
            try:
                await store.drop_table(one.place, missing_ok=True)
            except AiovecError:  # such as a migration; the failure itself is told
                error.add_note(f"the rows are left in the table {one.place!r}; drop it")


def _tell_kept(error: AiovecError, placed: list[_Placed]) -> None:
    """Say what is there all the same: the error is about the rows of its own call alone."""
    kept = [f"{one.rows:,} rows of {one.load.table!r}" for one in placed if one.rows]
    if kept:
        error.add_note(f"kept before that: {', '.join(kept)}; with --upsert the import goes on")


def _check_taken(placed: list[_Placed], rejects: RejectsFile) -> None:
    """Where not one row could be taken, something else is wrong than the rows."""
    if any(one.rows for one in placed) or not any(one.rejected for one in placed):
        return
    first = rejects.first
    raise InvalidRowError(
        f"not one of {sum(one.rejected for one in placed):,} could be imported; the first: "
        f"{first.reason if first else 'unknown'}; {rejects.path} lists each"
    )
