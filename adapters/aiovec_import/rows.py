"""Sources of rows that watches follow, and the readers of these sources."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiovec import Schema, VectorStore
from aiovec._internals import StoreInternals
from aiovec.backend import redacted
from aiovec.backend.paths import is_url
from aiovec.errors import ConfigError

from .files import names_format, no_file, path_and_table
from .loading import Load
from .opening import Opener
from .sources import NO_LIST, Chunk, ForeignTable, Reader, Wanted, kind_in, named_source
from .stores.queue import AppDatabase, roll_back
from .stores.sql import QUERY, SqliteTable
from .texts import TextImport

# If the text after a "#" contains one of these, it may belong to a password that contains "#".
_NO_TABLE = re.compile(r"[@:/?=&]")


@dataclass(frozen=True, slots=True)
class Rows:
    """A source that a watch follows: rows with texts instead of documents.

    Python's own SQLite reads files that the app may have open: see stores/queue.py.
    """

    store: VectorStore
    wanted: Wanted
    copy: str = ""
    """The path of a copy to read instead of the file; empty if there is no copy."""

    @property
    def source(self) -> str:
        return self.wanted.sources[0]

    @property
    def shown(self) -> str:
        """The source for messages: without secrets, but with the table of a database URL."""
        place, number_sign, table = self.source.partition("#")
        is_hidden = _NO_TABLE.search(table)
        return redacted(self.source) if is_hidden else f"{redacted(place)}{number_sign}{table}"

    @property
    def path(self) -> Path:
        return path_and_table(self.source)[0]

    def is_file(self) -> bool:
        """Return whether the source is a file of rows on this machine."""
        return not self._is_elsewhere() and names_format(self.path)

    def is_writable(self) -> bool:
        return self._is_sqlite() and os.access(self.path, os.W_OK)

    def _is_sqlite(self) -> bool:
        is_store = self._is_elsewhere() or self.path.is_dir()
        return not (is_store or names_format(self.path))

    def _is_elsewhere(self) -> bool:
        return named_source(self.source) is not None or is_url(self.source)

    def opened(self, *, is_first: bool = False) -> TextImport:
        """Open the source for an import of all its rows; ``is_first`` when a watch begins."""
        reader: Reader
        if kind_in(self.source) == "sqlite":  # its reader may use another SQLite library
            raise ConfigError(
                f"{self.shown}: a watch takes the path of a database; leave out sqlite:",
                key="source",
            )
        if not self._is_sqlite():
            reader = Opener(self.wanted).open(self.copy or self.source)
        elif StoreInternals(self.store).owns(self.path.resolve()):
            raise ConfigError(f"{self.path} is this store itself; name a table of another database")
        else:
            if is_first:
                roll_back(self.path)
            reader = SqliteRows(self.path, self.wanted)
        try:
            rows, *others = reader.tables()
            if others or not rows.texts:
                raise ConfigError(
                    f"{self.shown} brings vectors of its own; documents and rows with texts are "
                    "followed, and aiovec import --upsert copies others again", key="source",
                )  # fmt: skip
            return self.job(reader, rows)
        except BaseException:
            reader.close()
            raise

    def job(self, reader: Any, rows: ForeignTable) -> TextImport:
        load = Load(rows, self.wanted.table or rows.name)
        return TextImport(self.wanted, reader, [load], NO_LIST)


class SqliteRows(Reader):
    """A table, a view or a query, read by Python's own SQLite."""

    place = "key"

    def __init__(self, path: Path, wanted: Wanted) -> None:
        if not path.is_file():
            raise no_file(path)
        name = QUERY if wanted.query is not None else wanted.origin
        if name is None:
            raise ConfigError(f"name a table of {path} as {path}#TABLE", key="source")
        self.name: str = str(path)
        self._app = AppDatabase(path)
        try:
            with self._app.reading():
                # A view can contain only one statement, which can only read.
                if wanted.query is not None:
                    self._app.db.execute(f"CREATE TEMP VIEW {QUERY} AS {wanted.query}")
                with self._app.snapshot():
                    self._table = SqliteTable(self._app.db, name, wanted)
        except BaseException:
            self.close()
            raise

    def tables(self) -> list[ForeignTable]:
        return [self._table.offered(None, self._app.path.name)]

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        with self._app.reading():
            for rows in self._table.rows(size):
                yield self._table.chunk(rows, schema)

    def close(self) -> None:
        self._app.close()
