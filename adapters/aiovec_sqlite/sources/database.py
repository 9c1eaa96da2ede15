"""One database that another program wrote, opened for reading only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from aiovec.errors import AiovecError, ConfigError
from aiovec.schema import Schema
from aiovec.sources import Chunk, ForeignTable, Hints, Source

from ..driver import connect, load_driver
from ..errors import CANTOPEN, READONLY, code_of, failures, translate
from ..layout import APPLICATION_ID
from . import collections, tables
from .blobs import DTYPES, JSON
from .catalog import Catalog
from .collections import META, Collection

_MAGIC = b"SQLite format 3\0"
_BUSY_SECONDS = 10.0
_PAGES_AT_ONCE = 4096


class SqliteSource(Source):
    """Collections, vec0 tables and ordinary tables with vectors in a SQLite file."""

    place = "rowid"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                return file.read(len(_MAGIC)) == _MAGIC
        except OSError:
            return False

    def __init__(self, path: Path, hints: Hints) -> None:
        if hints.dtype is not None and hints.dtype not in (*DTYPES, JSON):
            raise ConfigError(
                f"there is no dtype {hints.dtype!r}; there are {', '.join((*DTYPES, JSON))}",
                key="--dtype",
            )
        self._path = path
        self._hints = hints
        _refuse_own(path)
        self._db: sqlite3.Connection | None = None
        try:
            self._db = open_read_only(path)
            # One state of the file, whatever others write meanwhile.
            self._db.execute("BEGIN")
            self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
        except BaseException as exc:
            self.close()
            if isinstance(exc, failures()):
                raise translate(exc, str(path)) from exc
            raise

    def tables(self) -> list[ForeignTable]:
        try:
            return self._tables()
        except failures() as exc:
            raise translate(exc, str(self._path)) from exc

    def _tables(self) -> list[ForeignTable]:
        db = self._open()
        catalog = Catalog(db)
        taken: set[str] = set()
        hints = self._hints
        found = collections.collections(db, catalog, taken)
        claimed = {META}
        for table in found:
            claimed |= {table.part.vec, table.part.payload}
        vec0 = [n for n, module in catalog.modules.items() if module == "vec0"]
        ordinary = catalog.ordinary
        if hints.table is not None:
            chosen = [t for t in found if hints.table in (t.name, t.origin, t.part.vec)]
            if chosen:
                return chosen
            vec0 = [n for n in vec0 if n == hints.table]
            ordinary = [n for n in (*ordinary, *catalog.views) if n == hints.table]
            found = []
            if not vec0 and not ordinary:
                return self._by_name_here(catalog, hints.table)
        found += tables.vec0_tables(
            db, catalog, [n for n in vec0 if n not in claimed], hints, taken
        )
        found += tables.ordinary_tables(
            db, catalog, [n for n in ordinary if n not in claimed], hints, taken
        )
        if not found:
            raise ConfigError(self._nothing_found(catalog))
        return found

    def _by_name_here(self, catalog: Catalog, name: str) -> list[ForeignTable]:
        """``--table`` may also give the name that a table would get here."""
        if catalog.modules.get(name) == "vss0":
            raise ConfigError(_about_vss(name))
        everything = SqliteSource(self._path, Hints(dtype=self._hints.dtype))
        with closing(everything):
            chosen = [t for t in everything.tables() if t.name == name]
        if not chosen:
            raise ConfigError(
                f"there is no table {name!r} in {self._path}; there are: "
                f"{', '.join(catalog.names) or 'none'}",
                key="--table",
            )
        return chosen

    def _nothing_found(self, catalog: Catalog) -> str:
        vss = [n for n, module in catalog.modules.items() if module == "vss0"]
        if vss:
            return _about_vss(vss[0])
        told = self._hints.table
        if told is not None:
            return (
                f"no column of the table {told!r} looks like vectors; say which it is by "
                f"--vector-column and --dtype ({', '.join((*DTYPES, JSON))})"
            )
        return (
            f"no vectors were recognised in {self._path}; say by --table, --id-column, "
            "--vector-column and --dtype where they are; the tables are: "
            f"{', '.join(catalog.names) or 'none'}"
        )

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        reader = collections.read if isinstance(table.part, Collection) else tables.read
        try:
            yield from reader(self._open(), table, schema, size)
        except failures() as exc:
            raise translate(exc, str(self._path)) from exc

    def backup(self, path: Path) -> None:
        if path.exists():
            raise ConfigError(f"{path} is there already; a backup overwrites nothing")
        try:
            with closing(load_driver().connect(str(path))) as copy:
                open_db = open_read_only(self._path)
                with closing(open_db):
                    open_db.backup(copy, pages=_PAGES_AT_ONCE)
        except failures() as exc:
            path.unlink(missing_ok=True)
            raise translate(exc, str(path)) from exc

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise AiovecError(f"{self._path} is closed")
        return self._db

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that can write nothing, with a WAL beside the file read too.

    SQLite needs a lock file to read a database in WAL mode. Where none can be made, on a medium
    that cannot be written, the file is read as one that nobody changes; but only if there is no
    WAL, without which its last changes would be missing.
    """
    path = path.absolute()
    uri = path.as_uri()
    try:
        return _settled(f"{uri}?mode=ro")
    except load_driver().Error as exc:
        wal = path.with_name(f"{path.name}-wal")
        if code_of(exc) not in (CANTOPEN, READONLY):
            raise
        if wal.exists() and wal.stat().st_size:
            raise AiovecError(
                f"{path} has changes in {wal.name} which cannot be read where nothing can be "
                "written; copy both files to a folder that can be written"
            ) from exc
        return _settled(f"{uri}?mode=ro&immutable=1")


def _settled(uri: str) -> sqlite3.Connection:
    db = connect(uri, uri=True, timeout=_BUSY_SECONDS)
    try:
        db.execute("PRAGMA query_only = ON")
        # A text that is no UTF-8 shall cost its row only.
        db.text_factory = _lenient
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _lenient(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _refuse_own(path: Path) -> None:
    with path.open("rb") as file:
        application = int.from_bytes(file.read(72)[68:72], "big")
    if application == APPLICATION_ID:
        raise ConfigError(
            f"{path} is a store of aiovec already; to take tables over use aiovec migrate, or "
            "aiovec export and then aiovec import"
        )


def _about_vss(name: str) -> str:
    return (
        f"the vss0 table {name!r} keeps its vectors in an index that only sqlite-vss reads. Import "
        "the table that they were built from, if it still holds them (--table, --vector-column); "
        "else load sqlite-vss into a copy of the file, run CREATE TABLE vectors AS SELECT rowid AS "
        f"id, vector_to_json(<its column>) AS embedding FROM {name}, and import that table"
    )
