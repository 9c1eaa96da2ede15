"""Import: the tables of a file or a database into a store, checked as ``insert`` checks rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from aiovec import VectorStore
from aiovec._input.infer import with_indexes
from aiovec._internals import StoreInternals
from aiovec.backend import Schema
from aiovec.backend.rows import Batch
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
from .sources import (
    Chunk,
    ForeignTable,
    Import,
    NewTable,
    Reader,
    Reject,
    RejectsFile,
    read_ahead,
)

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
    exists: bool = False

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


@dataclass
class RowImport(Import):
    """The tables of a source. A row that cannot be imported is listed, and the rest goes on.

    A new table is created with the first of its rows. A table that cannot be read stops no other;
    alone, or with ``strict``, it raises the error.
    """

    going_on: ClassVar[str] = "with --upsert the import goes on"

    source: Reader
    loads: Sequence[Load]
    rejects: RejectsFile
    strict: bool = False

    @property
    def kept(self) -> str:
        kept = [f"{load.rows:,} rows of {load.table!r}" for load in self.loads if load.rows]
        return f"{', '.join(kept)}; {self.going_on}" if kept else ""

    def followed(self) -> Iterable[tuple[Load, str, int | None]]:
        return [(load, load.table, load.source.rows) for load in self.loads]

    def wanted(self) -> tuple[str, Schema]:
        return self.loads[0].table, wanted_schema(self.loads[0])

    async def find(self, store: VectorStore) -> None:
        for load in self.loads:
            await find_table(store, load)

    async def parts(self) -> AsyncGenerator[Any, None]:
        """Read the next chunk ahead; yield each with the load that it belongs to."""
        for load in self.loads:
            schema = load.used_schema
            chunks = self.source.read(load.source, schema, rows_at_once(schema))
            read = 0
            async with aclosing(read_ahead(partial(self._following, load, chunks))) as sifted:
                async for part in sifted:
                    read += part.rows.num_rows + len(part.rejects)
                    await self._note(load, part.rejects)
                    if part.rows.num_rows:
                        yield load, replace(part, rejects=[])
                    load.seen(read)

    def _following(self, load: Load, chunks: Iterator[Chunk]) -> Sifted | None:
        new_ids = load.source.new_ids
        try:
            with reading(self.source.name):
                if (chunk := next(chunks, None)) is None:
                    return None
                return sift(chunk, load.used_schema, last_counts=load.upsert, new_ids=new_ids)
        except AiovecError as exc:
            if self.strict or (len(self.loads) == 1 and not self.source.failed):
                raise
            load.problem = str(exc)
            return None

    async def _note(self, load: Load, rejects: Sequence[Reject]) -> None:
        load.note(rejects)
        if rejects and not self.dry_run:
            await in_thread(self.rejects.write, load.table, self.source.place, rejects)

    async def check(self, store: VectorStore) -> None:
        before: dict[str, set[str]] = {load.table: set() for load in self.loads}
        async with aclosing(self.parts()) as parts:
            async for load, part in parts:
                if load.upsert:
                    continue
                part = part.without(before[load.table], CAME_BEFORE)
                ids = part.rows.column("id").to_pylist()
                before[load.table].update(ids)
                if load.exists and ids:
                    part = part.without(await store.exists(load.table, ids), _EXISTS)
                await self._note(load, part.rejects)
        self.rejects.refuse(sum(load.rejected for load in self.loads), "row")

    def is_over(self) -> bool:
        """Raise ConfigError if no row of any table could be imported, unless the tables are empty.

        These are created.
        """
        if problems := {load.table: load.problem for load in self.loads if load.problem}:
            problems |= self.source.failed
            listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
            raise ConfigError(f"no table can be imported: {listed}")
        if self.rejects.count:
            first = next(reason for load in self.loads for reason in load.reasons)
            cure = "; --upsert replaces the rows that exist" if first == _EXISTS else ""
            raise ConfigError(
                f"not one of {self.rejects.count:,} rows could be imported; the first: {first}; "
                f"{self.rejects.place} lists each{cure}"
            )
        return False

    async def write(self, store: VectorStore, part: Any) -> None:
        """Write rows; those whose id exists already become rejects."""
        load: Load
        rows: Sifted
        load, rows = part
        await create(store, load)
        while rows.rows.num_rows:
            schema = load.used_schema
            checked = await in_thread(Batch.of_table, rows.rows, schema)
            try:
                await StoreInternals(store).write_checked(
                    load.table, checked, schema, replace=load.upsert
                )
                load.rows += rows.rows.num_rows
                break
            except DuplicateIdError as exc:
                # In a new table too, the row may be another writer's as well as an earlier one's.
                rows = await in_thread(rows.without, set(exc.ids), _EXISTS)
        await self._note(load, rows.rejects)

    async def finish(self, store: VectorStore) -> Sequence[str]:
        for load in self.loads:
            if not load.problem:
                load.missing = max(0, (load.source.rows or 0) - load.rows - load.rejected)
                if not load.rejected:
                    await create(store, load)
        filled = [load.table for load in self.loads if load.rows]
        if not filled:
            self.is_over()
        return filled


async def find_table(store: VectorStore, load: Load) -> None:
    """Settle the schema: of the existing table, or of the table to create."""
    wanted = wanted_schema(load)
    if load.schema is None and wanted.quantized and not store.supports("quantized"):
        wanted = replace(wanted, quantized=None)  # the file suggests it, not the user
    try:
        existing = await store.schema(load.table)
    except TableNotFoundError:
        load.schema = await StoreInternals(store).completed(load.table, wanted)
        return
    if wanted.dim or not load.source.texts:  # else the table says how vectors are made
        wanted = await StoreInternals(store).completed(load.table, wanted)
    if load.schema is not None:  # the user's must be the same; one that a file suggests need not
        await store.create_table(load.table, load.schema, exist_ok=True)
    if wanted.model is not None and existing.model is not None and wanted.model != existing.model:
        raise ModelMismatchError(load.table, existing.model, wanted.model)
    if wanted.dim not in (0, existing.dim):
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
    load.schema, load.exists = existing, True


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
                f"{option} {name}: there is no such field; the fields: {fields:.200}", key=option
            )
    if new.embed not in (None, schema.embed and schema.embed.field):
        schema = replace(schema, embed=new.embed_of(schema.fields))
    return with_indexes(schema, new.text, new.index)


async def create(store: VectorStore, load: Load) -> None:
    """Create the table, unless it exists."""
    if load.exists:
        return
    try:
        await store.create_table(load.table, load.used_schema)
        load.created = True
    except TableExistsError:  # another process was faster; its schema must be the same
        await store.create_table(load.table, load.used_schema, exist_ok=True)
    load.exists = True
