"""Tables of a file or a database into a store, by the door that every row goes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from .._model.schema import Schema
from .._store.store import VectorStore
from ..backend.foreign import ForeignTable
from ..backend.rows import NewRows
from ..backend.threads import in_thread
from ..errors import (
    AiovecError,
    ConfigError,
    DimensionMismatchError,
    DuplicateIdError,
    InvalidRowError,
    ModelMismatchError,
    TableNotFoundError,
)
from .foreign import reading
from .parts import check_apart
from .reading import Input
from .rejects import Reason, RejectsFile
from .sifting import CAME_BEFORE, Sifted, sift

# One write of this much: large enough for any backend to be fast, small enough to hold twice.
_BYTES_AT_ONCE = 16 * 1024 * 1024
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 64, 10_000
_EXISTS = "the id already exists"


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
    """A table that is being loaded: ``created`` tells that it is new, ``made`` that it is there."""

    load: Load
    schema: Schema
    created: bool
    made: bool
    rows: int = 0
    rejected: int = 0
    replaced: int = 0
    missing: int = 0


async def load(
    store: VectorStore,
    source: Input,
    loads: Sequence[Load],
    rejects: RejectsFile,
    how: Loading,
) -> list[Loaded]:
    """Load tables; what cannot be taken goes to the rejects, and the rest goes on.

    With ``strict`` every row is looked at before the first one is written, and none is written
    where one cannot be taken. A new table is made when the first of its rows can be taken: no table
    has to be dropped that somebody else may have written to meanwhile.
    """
    placed: list[_Placed] = []
    await in_thread(check_apart, store, [rejects.path])
    await in_thread(rejects.open)
    try:
        placed = [await _place(store, one) for one in loads]
        if how.strict:
            await _look(store, source, placed, rejects, how)
        for one in placed:
            await _fill(store, source, one, rejects, how)
        _check_taken(placed, rejects)
        # What came through a pipe before may have been other rows, for another store.
        await in_thread(partial(rejects.close, done=source.stream is None))
    except BaseException as exc:
        await in_thread(rejects.abandon, exc)
        if isinstance(exc, AiovecError):
            _tell_kept(exc, placed)
        raise
    return [
        Loaded(
            p.load.table, p.load.source.origin, p.load.source.layout, p.created and p.made, p.rows,
            p.rejected, p.schema, p.load.source.notes, p.load.source.omitted, p.replaced,
            p.missing, tuple(rejects.reasons(p.load.table)),
        )
        for p in placed
    ]  # fmt: skip


async def _place(store: VectorStore, one: Load) -> _Placed:
    """The table that the rows go to. A new one is created with its first rows."""
    wanted = _wanted(one)
    if one.schema is None and wanted.quantized and not store.supports("quantized"):
        wanted = replace_in(wanted, quantized=None)  # the file's suggestion, not the user's wish
    try:
        there = await store.schema(one.table)
    except TableNotFoundError:
        return _Placed(one, wanted, created=True, made=False)
    if one.schema is not None:  # what the user said has to be so; what a file suggests has not
        await store.create_table(one.table, one.schema, exist_ok=True)
    if wanted.model is not None and there.model is not None and wanted.model != there.model:
        raise ModelMismatchError(one.table, there.model, wanted.model)
    if wanted.dim != there.dim:
        raise DimensionMismatchError(there.dim, wanted.dim)
    if one.metric is not None and one.metric != there.metric:
        raise ConfigError(
            f"the table {one.table!r} exists with the metric {there.metric!r}", key="--metric"
        )
    return _Placed(one, there, created=False, made=True)


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


async def _look(
    store: VectorStore,
    source: Input,
    placed: Sequence[_Placed],
    rejects: RejectsFile,
    how: Loading,
) -> None:
    """List what cannot be taken; InvalidRowError if there is anything. Writes no row."""
    for one in placed:
        seen: set[str] = set()
        read = 0
        async with aclosing(_sifted(source, one, how)) as sifted:
            async for part in sifted:
                read += part.rows.num_rows + len(part.rejects)
                if not how.upsert:
                    part = part.without(seen, CAME_BEFORE)
                    ids = part.rows.column("id").to_pylist()
                    seen.update(ids)
                    if one.made and ids:
                        there = await store.get(
                            one.load.table, ids, select=[], include_vector=False
                        )
                        part = part.without({row.id for row in there}, _EXISTS)
                one.rejected += len(part.rejects)
                await in_thread(rejects.write, one.load.table, source.place, part.rejects)
                how.seen(one.load, read)
    if bad := sum(one.rejected for one in placed):
        raise InvalidRowError(
            f"{bad:,} of them cannot be imported, so nothing was kept; {rejects.path} lists each"
        )


async def _fill(
    store: VectorStore, source: Input, placed: _Placed, rejects: RejectsFile, how: Loading
) -> None:
    """Load one table: the next chunk is read and checked while the last one is written."""
    table = placed.load.table
    before = await store.count(table) if how.upsert and placed.made else 0
    read = 0
    async with aclosing(_sifted(source, placed, how)) as sifted:
        async for part in sifted:
            read += part.rows.num_rows + len(part.rejects)
            done = await _write(store, placed, part, how)
            placed.rows += done.rows.num_rows
            placed.rejected += len(done.rejects)
            await in_thread(rejects.write, table, source.place, done.rejects)
            how.seen(placed.load, read)
    if placed.load.source.rows is not None:
        placed.missing = max(0, placed.load.source.rows - read)
    if not placed.rejected:
        await _make(store, placed)
    if how.upsert and placed.made:  # as far as nobody else wrote or deleted meanwhile
        added = await store.count(table) - before
        placed.replaced = min(max(0, placed.rows - added), placed.rows)


async def _make(store: VectorStore, placed: _Placed) -> None:
    if not placed.made:
        await store.create_table(placed.load.table, placed.schema, exist_ok=True)
        placed.made = True


async def _sifted(source: Input, placed: _Placed, how: Loading) -> AsyncGenerator[Sifted, None]:
    """The rows of a table a chunk at a time, the next one read ahead."""
    schema = placed.schema
    size = how.rows_at_once
    if size is None:
        size = min(max(_BYTES_AT_ONCE // (4 * schema.dim), _FEWEST_AT_ONCE), _MOST_AT_ONCE)
    chunks = source.chunks(placed.load.source, schema, size)

    def following() -> Sifted | None:
        chunk = next(chunks, None)
        if chunk is None:
            return None
        at = f"{source.place} {chunk.places[0]}" if len(chunk.places) else ""
        with reading(source.path, at):
            return sift(chunk, schema, last_counts=how.upsert)

    coming = asyncio.ensure_future(in_thread(following, stop=source.stop))
    try:
        while (part := await coming) is not None:
            coming = asyncio.ensure_future(in_thread(following, stop=source.stop))
            yield part
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, AiovecError):
            await coming  # the thread must be out of the iterator before it is closed
        await in_thread(chunks.close)


async def _write(store: VectorStore, placed: _Placed, part: Sifted, how: Loading) -> Sifted:
    """Write rows; what the table has already becomes a reject."""
    table = placed.load.table
    if part.rows.num_rows:
        await _make(store, placed)
    while part.rows.num_rows:
        rows = NewRows(placed.schema, part.rows)
        try:
            if how.upsert:
                await store._write("upsert", table, rows, on_conflict="replace")
            else:
                await store._write("insert", table, rows, on_conflict="fail")
        except DuplicateIdError as exc:
            reason = CAME_BEFORE if placed.created else _EXISTS
            part = await in_thread(part.without, set(exc.ids), reason)
        else:
            break
    return part


def _tell_kept(error: AiovecError, placed: list[_Placed]) -> None:
    """Say what is there all the same: the error is about the rows of its own call alone."""
    kept = [f"{one.rows:,} rows of {one.load.table!r}" for one in placed if one.rows]
    if kept:
        error.add_note(f"kept before that: {', '.join(kept)}; with --upsert the import goes on")


def _check_taken(placed: list[_Placed], rejects: RejectsFile) -> None:
    """Raise InvalidRowError where not one row could be taken."""
    if any(one.rows for one in placed) or not any(one.rejected for one in placed):
        return
    first = rejects.first
    raise InvalidRowError(
        f"not one of {sum(one.rejected for one in placed):,} could be imported; the first: "
        f"{first.reason if first else 'unknown'}; {rejects.path} lists each"
    )
