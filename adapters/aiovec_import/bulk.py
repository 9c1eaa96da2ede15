"""Many files into one table: by this process, or read by the workers of an engine."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from aiovec import VectorStore
from aiovec.backend import Schema
from aiovec.backend.engine import Engine, Loaded
from aiovec.backend.locate import is_url
from aiovec.backend.rows import NewRows
from aiovec.errors import ConfigError, InvalidRowError

from .files import format_of, reading
from .loading import Load, create, find_table, read_ahead, rows_at_once
from .reading import Input, open_input
from .sifting import sift
from .sources import Hints


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Reads the rows of one file, also in another process: an ``engine.ReadSource``."""

    hints: Hints

    def __call__(self, source: str, schema: Schema) -> Generator[pa.Table, None, None]:
        """Yield the rows, checked for the schema; InvalidRowError for the first bad one."""
        with closing(self.opened(source, schema)) as file:
            for chunk in file.chunks(file.tables()[0], schema, rows_at_once(schema)):
                with reading(file.name):
                    sifted = sift(chunk, schema, last_counts=False)
                for bad in sifted.rejects:
                    place = f"{source}, {file.reader.place} {bad.row}"
                    raise InvalidRowError(f"{place}: {bad.reason}", id=bad.id)
                yield sifted.rows

    def opened(
        self, source: str, existing: Schema | None = None, given: Schema | None = None
    ) -> Input:
        """Open a file; one in object storage is copied to a temporary file first."""
        if not is_url(source):
            file = open_input(Path(source), hints=self.hints, schema=given, existing=existing)
            if file.is_database:
                file.close()
                raise ConfigError(f"{source} is a database; use aiovec import for it")
            return file
        path = Path(source)
        with reading(path):
            place, name = fs.FileSystem.from_uri(source)
            form = format_of(Path(name), None)
            with place.open_input_stream(name) as stream:
                return open_input(
                    path, form=form, hints=self.hints, schema=given, existing=existing,
                    stream=stream,
                )  # fmt: skip


def files_of(patterns: Sequence[str]) -> dict[str, int]:
    """Return the files that paths, URLs and globs name, and the bytes of each, in their order.

    Raises ConfigError if a pattern matches no file.
    """
    found: dict[str, int] = {}
    for pattern in patterns:
        with reading(Path(pattern)):
            matches = _in_bucket(pattern) if is_url(pattern) else _in_folder(pattern)
        if not matches:
            raise ConfigError(f"no file matches {pattern}", key="SOURCE")
        found |= matches
    return found


def _in_folder(pattern: str) -> dict[str, int]:
    pattern = os.path.abspath(os.path.expanduser(pattern))
    paths = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
    return {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}


def _in_bucket(pattern: str) -> dict[str, int]:
    plain = re.split(r"[*[]", pattern)[0]
    single = plain == pattern
    url = pattern if single else plain.rpartition("/")[0]
    place, path = fs.FileSystem.from_uri(url)
    prefix = url.removesuffix(path)
    if single:
        infos = [place.get_file_info(path)]
    else:
        below = fs.FileSelector(path, recursive=True, allow_not_found=True)
        infos = [
            info for info in place.get_file_info(below)
            if fnmatchcase(f"{prefix}{info.path}", pattern)
        ]  # fmt: skip
    files = {f"{prefix}{info.path}": info.size for info in infos if info.type == fs.FileType.File}
    return dict(sorted(files.items()))


def run_name(table: str, files: dict[str, int]) -> str:
    """Return the name of a load, the same for the same files."""
    said = repr((table, sorted(files.items())))
    return f"load-{hashlib.blake2b(said.encode(), digest_size=6).hexdigest()}"


async def load_files(
    store: VectorStore,
    one: Load,
    files: dict[str, int],
    read: SourceReader,
    engine: Engine | None,
    seen: Callable[[int, int], None],
) -> Loaded:
    """Load all rows of the files into one table, which is created if it does not exist.

    In this process a row whose id exists is left as it is, so the same call continues after an
    interruption. An engine adds all rows or none, to an empty table.
    """
    await find_table(store, one)
    await create(store, one)
    schema, table, sources = one.used_schema, one.table, list(files)
    if engine is not None:
        run = run_name(table, files)
        return await store._on_table(
            "load", table,
            lambda now, handle: engine.load(now.backend, handle, run, sources, read, seen),
        )  # fmt: skip
    rows = added = 0
    for number, source in enumerate(sources):
        with closing(read(source, schema)) as parts:
            async with aclosing(read_ahead(partial(next, parts, None))) as batches:
                async for batch in batches:
                    part = NewRows(schema, batch)
                    added += await store._write("insert", table, part, on_conflict="skip")
                    rows += batch.num_rows
                    seen(number, rows)
        seen(number + 1, rows)
    return Loaded(added, rows - added)
