"""Columns of a file, which are set in rows that exist."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aiovec import VectorStore
from aiovec.backend.threads import in_thread
from aiovec.errors import ConfigError

from .files import reading, rows_at_once
from .globs import files_of
from .loading import Import, Load
from .opening import opened
from .sources import RejectsFile
from .wanted import Wanted


@dataclass
class RowUpdate(Import):
    """All rows of a file change in one commit, or none if one of them is bad.

    With ``strict``, every id must exist. ``count`` rows of the file have anything besides an id.
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
        """The table exists: the file was read by its schema."""

    async def check(self, store: VectorStore) -> None:
        """The store checks all rows before it changes one."""

    async def parts(self) -> AsyncGenerator[Any, None]:
        yield await in_thread(self._rows)

    def _rows(self) -> list[Any]:
        """Return the rows that have anything besides their ids, or Arrow tables of them."""
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
    """Open the file of an update. Blocks."""
    source = opened(wanted, files_of(wanted.sources), wanted.schema)
    try:
        with reading(source.name):
            (table,) = source.tables()
    except BaseException:
        source.close()
        raise
    load = Load(table, str(wanted.table), wanted.schema)
    return RowUpdate(wanted, source, [load], RejectsFile(Path(os.devnull), lambda _: None))
