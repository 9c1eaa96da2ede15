"""An import by the workers of an engine: each reads whole files, and one commit adds all rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import partial

import pyarrow as pa

from aiovec import VectorStore
from aiovec._internals import StoreInternals
from aiovec.backend import Schema
from aiovec.backend.engine import Engine
from aiovec.backend.paths import is_url
from aiovec.backend.threads import in_thread
from aiovec.errors import InvalidRowError

from .files import rows_at_once
from .loading import Load, create
from .opening import Opener
from .sifting import sift


async def load_by(
    engine: Engine, store: VectorStore, load: Load, files: Mapping[str, str], opener: Opener
) -> None:
    """Have an engine add the rows of all files to a table, in one commit or none.

    The table is created if it was not found. A load is known by its table, and by the names, sizes
    and times of change of its files: the same one again skips all of them.
    """
    await create(store, load)
    files = await in_thread(_absolute, files)
    said = repr((load.table, sorted(files.items())))
    run = f"load-{hashlib.blake2b(said.encode(), digest_size=6).hexdigest()}"
    loaded = await StoreInternals(store).on_table(
        "load", load.table,
        lambda backend, handle: engine.load(
            backend, handle, run, list(files), partial(_checked_rows, opener),
            lambda _, rows: load.seen(rows),
        ),
    )  # fmt: skip
    load.rows = loaded.rows
    load.skipped = list(files) if loaded.existing else ()


def _absolute(files: Mapping[str, str]) -> dict[str, str]:
    """Return the files by paths that mean the same in every worker's folder."""
    return {path if is_url(path) else os.path.abspath(path): text for path, text in files.items()}


def _checked_rows(opener: Opener, source: str, schema: Schema) -> Iterator[pa.Table]:
    """Yield the rows of one file, checked for the schema; InvalidRowError for the first bad one."""
    for table, chunk in opener.chunks(source, schema, rows_at_once(schema)):
        sifted = sift(chunk, schema, last_counts=False, new_ids=table.new_ids)
        for bad in sifted.rejects:
            raise InvalidRowError(f"{bad.row}: {bad.reason}", id=bad.id)
        yield sifted.rows
