"""Import: the tables of a file or a database into a store, checked as ``insert`` checks rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from aiovec import VectorStore
from aiovec._input.infer import with_indexes
from aiovec._internals import StoreInternals
from aiovec.backend import Schema
from aiovec.backend.rows import NewRows
from aiovec.backend.threads import in_thread
from aiovec.errors import (
    AiovecError,
    ConfigError,
    DimensionMismatchError,
    DuplicateIdError,
    ModelMismatchError,
    TableExistsError,
    TableNotFoundError,
)

from .files import reading, rows_at_once
from .sifting import CAME_BEFORE, Sifted, sift
from .sources import ForeignTable, NewTable, Reader, Reject, RejectsFile, read_ahead

_EXISTS = "the id already exists in the table"
# A reason may quote a value, so there can be as many as rows. Those beyond are counted together.
_REASONS = 50


@dataclass(slots=True)
class Load:
    """A table to import: where it goes, how, and what became of its rows.

    ``schema`` is one that the user gave. Each row is imported (``rows``) or listed as a reject
    (``rejected``); the source counted some more that it did not give (``missing``). ``created``
    says that the table is new, ``problem`` why the rest of the source cannot be read. An engine's
    load that was complete before has ``skipped`` its files.
    """

    source: ForeignTable
    table: str
    schema: Schema | None = None
    upsert: bool = False
    new: NewTable = field(default_factory=NewTable)
    seen: Callable[[int], None] = lambda rows: None
    rows: int = 0
    rejected: int = 0
    missing: int = 0
    created: bool = False
    problem: str = ""
    skipped: Sequence[str] = ()
    reasons: Counter[str] = field(default_factory=Counter)
    _exists: bool = False

    @property
    def whole(self) -> bool:
        """True if nothing of the table was left out."""
        return not (self.rejected or self.missing or self.source.omitted or self.problem)

    @property
    def used_schema(self) -> Schema:
        """The schema of the table that the rows go to."""
        return self.schema or self.source.schema

    def note(self, rejects: Sequence[Reject]) -> None:
        """Count rejects by their reasons."""
        self.rejected += len(rejects)
        for reject in rejects:
            full = reject.reason not in self.reasons and len(self.reasons) >= _REASONS
            self.reasons["other reasons" if full else reject.reason] += 1


async def load(
    store: VectorStore, source: Reader, loads: Sequence[Load], rejects: RejectsFile, *, strict: bool
) -> None:
    """Import tables: list the rows that cannot be imported, and go on with the rest.

    With ``strict``, check every row before the first one is written, and write none if one cannot
    be imported. A new table is created with the first of its rows. A table that cannot be read
    stops no other; alone, or with ``strict``, it raises the error.
    """
    done = False
    try:
        for load in loads:
            await find_table(store, load)
        for load in loads if strict else ():
            await _check(store, source, load, rejects)
        rejects.refuse(sum(load.rejected for load in loads), "row")
        alone = _alone(source, loads, strict)
        for load in loads:
            await _fill(store, source, load, rejects, alone=alone)
        if not any(load.rows for load in loads):
            _refuse_all(source, loads, rejects)
        done = True
    except AiovecError as exc:
        # The error is about the rows of its own call alone.
        if kept := [f"{load.rows:,} rows of {load.table!r}" for load in loads if load.rows]:
            exc.add_note(f"kept before that: {', '.join(kept)}; with --upsert the import goes on")
        raise
    finally:
        await in_thread(rejects.close, done)


async def rehearse(
    source: Reader, loads: Sequence[Load], rejects: RejectsFile, *, strict: bool
) -> bool:
    """Raise what the import into a new store would end with, so that no empty one is left behind.

    Reads until a row can be imported; with ``strict``, all rows. Return False if nothing could be
    checked before the store exists.
    """
    trials = [replace(load, schema=wanted_schema(load), reasons=Counter()) for load in loads]
    if not all(load.used_schema.dim for load in trials):
        return False  # the store's embedder says the length
    alone = _alone(source, trials, strict)
    try:
        for load in trials:
            good = await _check(None, source, load, rejects, whole=strict, alone=alone)
            if good and not strict:
                return True
        if strict:
            rejects.refuse(sum(load.rejected for load in trials), "row")
        else:
            _refuse_all(source, trials, rejects)
        return True
    finally:
        await in_thread(rejects.close, False)


def _refuse_all(source: Reader, loads: Sequence[Load], rejects: RejectsFile) -> None:
    """Raise ConfigError if no row of any table could be imported, unless the tables are empty."""
    if problems := {load.table: load.problem for load in loads if load.problem}:
        problems |= source.failed
        listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise ConfigError(f"no table can be imported: {listed}")
    if rejects.count:
        first = next(reason for load in loads for reason in load.reasons)
        cure = "; --upsert replaces the rows that exist" if first == _EXISTS else ""
        raise ConfigError(
            f"not one of {rejects.count:,} rows could be imported; the first: {first}; "
            f"{rejects.place} lists each{cure}"
        )


def _alone(source: Reader, loads: Sequence[Load], strict: bool) -> bool:
    """Return whether an error of one table ends the whole import."""
    return strict or (len(loads) == 1 and not source.failed)


async def find_table(store: VectorStore, load: Load) -> None:
    """Settle the schema: of the existing table, or of the table to create."""
    wanted = await StoreInternals(store).completed(load.table, wanted_schema(load))
    if load.schema is None and wanted.quantized and not store.supports("quantized"):
        wanted = replace(wanted, quantized=None)  # the file suggests it, not the user
    try:
        existing = await store.schema(load.table)
    except TableNotFoundError:
        load.schema = wanted
        return
    if load.schema is not None:  # the user's must be the same; one that a file suggests need not
        await store.create_table(load.table, load.schema, exist_ok=True)
    if wanted.model is not None and existing.model is not None and wanted.model != existing.model:
        raise ModelMismatchError(load.table, existing.model, wanted.model)
    if wanted.dim != existing.dim:
        raise DimensionMismatchError(existing.dim, wanted.dim)
    new = load.new
    if new.metric is not None and new.metric != existing.metric:
        raise ConfigError(
            f"the table {load.table!r} exists with the metric {existing.metric!r}", key="--metric"
        )
    embeds = new.embed is None or (existing.embed and existing.embed.field == new.embed)
    if not embeds or with_indexes(existing, new.text, new.index) != existing:
        raise ConfigError(
            f"the table {load.table!r} exists, and --text, --index and --embed are for new tables",
            key="--text" if new.text else "--index" if new.index else "--embed",
        )
    load.schema, load._exists = existing, True


def wanted_schema(load: Load) -> Schema:
    """Return the schema of a table that is made for these rows."""
    schema, new = load.used_schema, load.new
    if new.metric is not None:
        schema = replace(schema, metric=new.metric)
    if new.model is not None:
        if schema.model is not None and schema.model != new.model:
            raise ModelMismatchError(load.table, schema.model, new.model)
        schema = replace(schema, model=new.model)
    for option, names in (("--text", new.text), ("--index", new.index)):
        for name in set(names) - schema.fields.keys():
            fields = ", ".join(schema.fields) or "none"
            raise ConfigError(
                f"{option} {name}: there is no such field; the fields: {fields:.200}",
                key=option, accepted=fields,
            )  # fmt: skip
    if new.embed not in (None, schema.embed and schema.embed.field):
        schema = replace(schema, embed=new.embed_of(schema.fields))
    return with_indexes(schema, new.text, new.index)


async def _check(
    store: VectorStore | None, source: Reader, load: Load, rejects: RejectsFile, *,
    whole: bool = True, alone: bool = True,
) -> bool:  # fmt: skip
    """List the rows that cannot be imported; return whether another can be.

    ``store`` is None where it does not exist yet. Reads all rows if ``whole``, else until one can
    be imported.
    """
    before: set[str] = set()

    async def checked(part: Sifted) -> Sifted:
        if load.upsert:
            return part
        part = part.without(before, CAME_BEFORE)
        ids = part.rows.column("id").to_pylist()
        before.update(ids)
        if store is not None and load._exists and ids:
            part = part.without(await store.exists(load.table, ids), _EXISTS)
        return part

    return await _read(source, load, rejects, checked, whole=whole, alone=alone)


async def _fill(
    store: VectorStore, source: Reader, load: Load, rejects: RejectsFile, *, alone: bool
) -> None:
    """Import one table."""
    await _read(source, load, rejects, partial(_write, store, load), whole=True, alone=alone)
    if load.problem:
        return
    load.missing = max(0, (load.source.rows or 0) - load.rows - load.rejected)
    if not load.rejected:
        await create(store, load)


async def create(store: VectorStore, load: Load) -> None:
    """Create the table, unless it exists."""
    if load._exists:
        return
    try:
        await store.create_table(load.table, load.used_schema)
        load.created = True
    except TableExistsError:  # another process was faster; its schema must be the same
        await store.create_table(load.table, load.used_schema, exist_ok=True)
    load._exists = True


async def _read(
    source: Reader, load: Load, rejects: RejectsFile,
    take: Callable[[Sifted], Awaitable[Sifted]], *, whole: bool, alone: bool,
) -> bool:  # fmt: skip
    """Read a table and ``take`` its rows, the next chunk read and checked ahead.

    List the rows that are not taken, and return whether one was. Read on after that if ``whole``.
    End and note why if the table cannot be read; where it is ``alone``, raise that.
    """
    schema = load.used_schema
    chunks = source.read(load.source, schema, rows_at_once(schema))

    def following() -> Sifted | None:
        try:
            with reading(source.name):
                chunk = next(chunks, None)
                if chunk is None:
                    return None
                return sift(chunk, schema, last_counts=load.upsert, new_ids=load.source.new_ids)
        except AiovecError as exc:
            if alone:
                raise
            load.problem = str(exc)
            return None

    read, good = 0, False
    async with aclosing(read_ahead(following)) as parts:
        async for part in parts:
            read += part.rows.num_rows + len(part.rejects)
            taken = await take(part)
            load.note(taken.rejects)
            if taken.rejects:
                await in_thread(rejects.write, load.table, source.place, taken.rejects)
            load.seen(read)
            good = good or taken.rows.num_rows > 0
            if good and not whole:
                break
    return good


async def _write(store: VectorStore, load: Load, part: Sifted) -> Sifted:
    """Write rows; those whose id exists already become rejects."""
    if part.rows.num_rows:
        await create(store, load)
    while part.rows.num_rows:
        rows = NewRows(load.used_schema, part.rows)
        try:
            await StoreInternals(store).write_checked(load.table, rows, replace=load.upsert)
            load.rows += part.rows.num_rows
            break
        except DuplicateIdError as exc:
            # In a new table too, the row may be another writer's as well as an earlier one's.
            part = await in_thread(part.without, set(exc.ids), _EXISTS)
    return part
