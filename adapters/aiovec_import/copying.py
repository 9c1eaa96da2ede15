"""Import rows with vectors from files and stores, and update existing rows from files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from aiovec import VectorStore
from aiovec._internals import StoreInternals
from aiovec.backend.rows import Batch
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError, ConfigError, DuplicateIdError

from .checking import CheckedRows, check_chunk
from .files import reading, rows_at_once
from .folders import KINDS
from .globs import files_of
from .loading import EXISTS, Import, Load, create, read_ahead
from .opening import opened
from .sources import CAME_BEFORE, NO_LIST, Chunk, Wanted, refuse


@dataclass
class RowImport(Import):
    """An import of a source's tables. Rows that cannot be imported are listed as rejects.

    A new table is created when its first rows are written. If a table cannot be read, the import
    fails with ``strict`` or if there is only one table; otherwise, it continues with the others.
    """

    going_on: ClassVar[str] = "with --upsert the import continues"

    def __post_init__(self) -> None:
        refuse(
            self.wanted,
            "delete passages chunk_size overlap base",
            f"documents ({KINDS}), and for rows with the --embed FIELD of a text",
        )

    async def parts(self) -> AsyncGenerator[Any, None]:
        """Yield each chunk with its load, and read the next chunk meanwhile."""
        for load in self.loads:
            schema = load.used_schema
            chunks = self.source.read(load.source, schema, rows_at_once(schema))
            read = 0
            following = partial(in_thread, self._following, load, chunks)
            async with aclosing(read_ahead(following)) as checked:
                async for part in checked:
                    read += part.rows.num_rows + len(part.rejects)
                    await self.note(load, part.rejects)
                    if part.rows.num_rows:
                        yield load, replace(part, rejects=[])
                    load.seen(read)

    def _following(self, load: Load, chunks: Iterator[Chunk]) -> CheckedRows | None:
        new_ids = load.source.new_ids
        try:
            with reading(self.source.name):
                if (chunk := next(chunks, None)) is None:
                    return None
                checked = check_chunk(
                    chunk, load.used_schema, last_counts=self.wanted.upsert, new_ids=new_ids
                )
                if checked.rows.num_rows:
                    load.choose_analyzer(checked.rows)
                return checked
        except AiovecError as exc:
            if self.wanted.strict or (len(self.loads) == 1 and not self.source.failed):
                raise
            load.problem = str(exc)
            return None

    async def check(self, store: VectorStore) -> None:
        before: dict[str, set[str]] = {load.table: set() for load in self.loads}
        async with aclosing(self.parts()) as parts:
            async for load, part in parts:
                if self.wanted.upsert:
                    continue
                part = part.without(before[load.table], CAME_BEFORE)
                ids = part.rows.column("id").to_pylist()
                before[load.table].update(ids)
                if load.exists and ids:
                    part = part.without(await store.exists(load.table, ids), EXISTS)
                await self.note(load, part.rejects)
        self.refuse_rejects()

    async def write(self, store: VectorStore, part: Any) -> None:
        """Write rows; without ``upsert``, rows whose id already exists become rejects."""
        load: Load
        rows: CheckedRows
        load, rows = part
        await create(store, load)
        while rows.rows.num_rows:
            schema = load.used_schema
            checked = await in_thread(Batch.of_table, rows.rows, schema)
            try:
                await StoreInternals(store).write_checked(
                    load.table, checked, schema, replace=self.wanted.upsert
                )
                load.rows += rows.rows.num_rows
                break
            except DuplicateIdError as exc:
                # Even in a new table, the existing row may come from another writer.
                rows = await in_thread(rows.without, set(exc.ids), EXISTS)
        await self.note(load, rows.rejects)

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


@dataclass
class RowUpdate(Import):
    """An update from the rows of a file: all rows change in one commit, or none if one is bad.

    With ``strict``, every id must exist. ``count`` is the number of rows to update.
    """

    going_on: ClassVar[str] = ""

    count: int = 0
    updated: int = 0

    @property
    def whole(self) -> bool:
        return True

    def facts(self) -> dict[str, Any]:
        absent = self.count - self.updated
        return {"table": self.loads[0].table, "updated": self.updated, "absent": absent}

    async def find(self, store: VectorStore) -> None:
        """Do nothing: the table exists, and its schema was used to read the file."""

    async def check(self, store: VectorStore) -> None:
        """Do nothing: the store checks all rows before it changes any."""

    async def parts(self) -> AsyncGenerator[Any, None]:
        yield await in_thread(self._rows)

    def _rows(self) -> list[Any]:
        """Return the rows as Arrow tables, or as mappings with at least one key besides the id."""
        (load,) = self.loads
        schema, rows = load.used_schema, []
        with reading(self.source.name):
            for chunk in self.source.read(load.source, schema, rows_at_once(schema)):
                for bad in chunk.rejects:
                    where = f"{self.source.name}: {self.source.place} {bad.row}"
                    raise ConfigError(f"{where}: {bad.reason}; nothing was changed")
                if isinstance(chunk.rows, list):
                    some = [row for row in chunk.rows if row.keys() != {"id"}]
                    rows += some
                    self.count += len(some)
                else:
                    rows.append(chunk.rows)
                    self.count += chunk.rows.num_rows
        return rows

    async def write(self, store: VectorStore, part: Any) -> None:
        table, strict = self.loads[0].table, self.wanted.strict
        self.updated = await store.update(table, part, strict=strict)

    async def finish(self, store: VectorStore) -> Sequence[str]:
        return [self.loads[0].table] if self.updated else []


def opened_update(wanted: Wanted) -> RowUpdate:
    """Open the file of an update. This blocks."""
    source = opened(wanted, files_of(wanted.sources), wanted.schema)
    try:
        with reading(source.name):
            (table,) = source.tables()
    except BaseException:
        source.close()
        raise
    load = Load(table, str(wanted.table), wanted.schema)
    return RowUpdate(wanted, source, [load], NO_LIST)
