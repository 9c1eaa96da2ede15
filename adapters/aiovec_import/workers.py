"""An import by an engine's workers: each reads whole files, and one commit adds all rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa

from aiovec import VectorStore
from aiovec._internals import StoreInternals
from aiovec.backend import Schema, redacted
from aiovec.backend.engine import Engine
from aiovec.backend.paths import is_url
from aiovec.backend.threads import in_thread
from aiovec.errors import InvalidRowError

from .checking import check_chunk
from .copying import RowImport
from .files import rows_at_once
from .loading import create
from .opening import Files, Opener


@dataclass
class EngineImport(RowImport):
    """An import of files by an engine, which adds all rows in one commit, or none.

    The table is created if it is missing. A load is identified by its table and by the names, sizes
    and modification times of its files; repeating a complete load skips all files.
    """

    engine: Engine

    @property
    def _files(self) -> Files:
        return cast(Files, self.source)

    async def check(self, store: VectorStore) -> None:
        """Do nothing: a bad row makes the whole load fail, so no row is imported."""

    async def parts(self) -> AsyncGenerator[Any, None]:
        yield await in_thread(_absolute, self._files.files)

    async def write(self, store: VectorStore, part: Any) -> None:
        load = self.loads[0]
        await create(store, load)
        said = repr((load.table, sorted(part.items())))
        run = f"load-{hashlib.blake2b(said.encode(), digest_size=6).hexdigest()}"
        rows = partial(_checked_rows, self._files.opener)
        loaded = await StoreInternals(store).on_table(
            "load", load.table,
            lambda backend, handle: self.engine.load(
                backend, handle, run, list(part), rows, lambda _, count: load.seen(count)
            ),
        )  # fmt: skip
        load.rows = loaded.rows
        load.skipped = [*map(redacted, part)] if loaded.existing else ()

    async def finish(self, store: VectorStore) -> Sequence[str]:
        return []


def _absolute(files: Mapping[str, str]) -> dict[str, str]:
    """Return the files by absolute path: a worker can have another working directory."""
    return {
        path if is_url(path) else os.path.abspath(os.path.expanduser(path)): text
        for path, text in files.items()
    }


def _checked_rows(opener: Opener, source: str, schema: Schema) -> Iterator[pa.Table]:
    """Yield the checked rows of one file. Raises InvalidRowError for the first bad row."""
    for table, chunk in opener.chunks(source, schema, rows_at_once(schema)):
        checked = check_chunk(chunk, schema, last_counts=False, new_ids=table.new_ids)
        for bad in checked.rejects:
            raise InvalidRowError(f"{bad.row}: {bad.reason}", id=bad.id)
        yield checked.rows
