"""One database that another program wrote, opened for reading only, and its program if known."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aiovec.backend import Schema
from aiovec.backend.foreign import Chunk, ForeignTable, Hints, Skipped, Source
from aiovec.errors import AiovecError, ConfigError

from ..driver import load_driver
from ..errors import ERROR, code_of, failures, translate
from ..layout import APPLICATION_ID, is_database, quoted, read_header
from ..opening import connect_read_only
from ..paths import BESIDE
from . import collections, tables
from .blobs import DTYPES, JSON
from .catalog import Catalog
from .collections import META, Collection

_PAGE = "docs/VECTOR_SEARCH.md shows how"
_CHROMA = frozenset({
    "collection_metadata", "collections", "databases", "embedding_fulltext",
    "embedding_fulltext_search", "embedding_metadata", "embedding_metadata_array", "embeddings",
    "embeddings_queue", "embeddings_queue_config", "maintenance_log", "max_seq_id", "migrations",
    "segment_metadata", "segments", "tenants",
})  # fmt: skip

CURES: Mapping[str, str] = MappingProxyType(
    {
        "Chroma": "its vectors are in index files beside it, and its table embeddings_queue is a "
        "log with only some of them. Write each collection to a JSON Lines file with "
        "chromadb's collection.get, and import that file",
        "Qdrant (local mode)": "its points are pickled, and unpickling a file can run arbitrary "
        "code. "
        "Write each collection to a JSON Lines file with qdrant_client's scroll, and import that "
        "file",
        "llm": "its ids are unique within a collection only, and each collection has a model of "
        "its own. Make a view of each collection in a copy of the file, and import that",
    }
)


@dataclass(frozen=True, slots=True)
class Program:
    """Another program's tables in a database: its name, their names, and its rows."""

    name: str
    tables: frozenset[str]
    rows: int

    @property
    def reason(self) -> str:
        return reason_of(self.name)


def reason_of(program: str) -> str:
    """Why a program's database is not imported, and what to do."""
    return f"this is a database of {program}, which aiovec does not read: {CURES[program]}; {_PAGE}"


def programs(db: sqlite3.Connection, catalog: Catalog) -> list[Program]:
    """The known programs whose tables the database holds."""
    found: list[tuple[str, frozenset[str] | None, str]] = [
        ("Chroma", _chroma(catalog), "embeddings"),
        ("llm", _llm(catalog), "embeddings"),
        ("Qdrant (local mode)", _qdrant(db, catalog), "points"),
    ]
    return [
        Program(name, tables, catalog.count(counted) if counted in catalog else 0)
        for name, tables, counted in found
        if tables is not None
    ]


def _chroma(catalog: Catalog) -> frozenset[str] | None:
    names = {*catalog.ordinary, *catalog.modules}
    return _CHROMA if {"embeddings_queue", "collections", "segments"} <= names else None


def _llm(catalog: Catalog) -> frozenset[str] | None:
    if not {"embeddings", "collections"} <= set(catalog.ordinary):
        return None
    keys = {column.name for column in catalog.columns("embeddings") if column.in_key}
    names = {column.name for column in catalog.columns("embeddings")}
    held = {column.name for column in catalog.columns("collections")}
    ours = keys == {"collection_id", "id"} and "embedding" in names and {"name", "model"} <= held
    return frozenset({"embeddings", "collections"}) if ours else None


def _qdrant(db: sqlite3.Connection, catalog: Catalog) -> frozenset[str] | None:
    if "points" not in catalog.ordinary:
        return None
    if [column.name for column in catalog.columns("points")] != ["id", "point"]:
        return None
    row = db.execute(f"SELECT point FROM {quoted('points')} LIMIT 1").fetchone()
    pickled = row is None or (isinstance(row[0], bytes) and row[0][:1] == b"\x80")
    return frozenset({"points"}) if pickled else None


def _holds_chroma(folder: Path) -> bool:
    return (folder / "chroma.sqlite3").is_file()


def _holds_qdrant(folder: Path) -> bool:
    return next(folder.glob("collection/*/storage.sqlite"), None) is not None


_FOLDERS: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("Chroma", _holds_chroma),
    ("Qdrant (local mode)", _holds_qdrant),
)


def program_of_folder(folder: Path) -> str | None:
    """The known program whose data a folder holds."""
    return next((name for name, holds in _FOLDERS if holds(folder)), None)


_BUSY_SECONDS = 10.0
_PAGES_AT_ONCE = 4096


class SqliteSource(Source):
    """Collections, vec0 tables and ordinary tables with vectors in a SQLite file."""

    place = "rowid"
    beside = BESIDE

    @classmethod
    def recognise(cls, path: Path) -> bool:
        if path.is_dir():
            return program_of_folder(path) is not None
        return is_database(path)

    def __init__(self, path: Path, hints: Hints) -> None:
        if hints.dtype is not None and hints.dtype not in (*DTYPES, JSON):
            raise ConfigError(
                f"there is no dtype {hints.dtype!r}; there are {', '.join((*DTYPES, JSON))}",
                key="--dtype",
            )
        if path.is_dir():
            program = program_of_folder(path)
            raise ConfigError(
                f"{path} is a folder" + ("" if program is None else f"; {reason_of(program)}")
            )
        self._path = path
        self._hints = hints
        self._skipped: list[Skipped] = []
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
                raise self._translated(exc) from exc
            raise

    def _translated(self, error: Exception) -> AiovecError:
        """A failure of SQLite. Tables that a statement does not fit are no damage of the file."""
        if code_of(error) != ERROR and not isinstance(error, UnicodeDecodeError):
            return translate(error, str(self._path))
        return ConfigError(
            f"{self._path} has a layout that aiovec does not know: {error}. Name the vectors with "
            "--table, --id-column, --vector-column and --dtype",
            file=str(self._path), key="--table",
        )  # fmt: skip

    def tables(self) -> list[ForeignTable]:
        try:
            db = self._open()
            return self._tables(db, Catalog(db), self._hints)
        except failures() as exc:
            raise self._translated(exc) from exc

    def skipped(self) -> list[Skipped]:
        return self._skipped

    def _tables(self, db: sqlite3.Connection, catalog: Catalog, hints: Hints) -> list[ForeignTable]:
        taken: set[str] = set()
        found = collections.collections(db, catalog, taken)
        claimed = {META} if found else set()
        for table in found:
            claimed |= {table.part.vec, table.part.payload}
        known = programs(db, catalog)
        vec0 = [n for n, module in catalog.modules.items() if module == "vec0"]
        ordinary = catalog.ordinary
        if hints.table is not None:
            chosen = [t for t in found if hints.table in (t.name, t.origin, t.part.vec)]
            if chosen:
                return chosen
            for program in known:
                if hints.table in program.tables:
                    raise ConfigError(f"{self._path}: {program.reason}", key="--table")
            vec0 = [n for n in vec0 if n == hints.table]
            ordinary = [n for n in (*ordinary, *catalog.views) if n == hints.table]
            found = []
            if not vec0 and not ordinary:
                return self._by_name_here(db, catalog, hints)
        for program in known:
            claimed |= program.tables
        others, skipped = tables.survey(
            db, catalog, [n for n in vec0 if n not in claimed],
            [n for n in ordinary if n not in claimed], hints, taken,
        )  # fmt: skip
        found += others
        self._skipped = [Skipped(p.name, p.rows, p.reason) for p in known] + skipped
        self._skipped += _vss_tables(catalog, found, hints)
        if not found:
            raise ConfigError(self._nothing_found(catalog), file=str(self._path), key="--table")
        return found

    def _by_name_here(
        self, db: sqlite3.Connection, catalog: Catalog, hints: Hints
    ) -> list[ForeignTable]:
        """``--table`` may also give the name that a table would get here."""
        if catalog.modules.get(hints.table or "") == "vss0":
            raise ConfigError(_about_vss(hints.table or ""))
        everything = self._tables(db, catalog, Hints(dtype=hints.dtype))
        self._skipped = []
        chosen = [t for t in everything if t.name == hints.table]
        if not chosen:
            raise ConfigError(
                f"there is no table {hints.table!r} in {self._path}; there are: "
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
                f"no column of the table {told!r} looks like vectors; name it with --vector-column "
                f"and --dtype ({', '.join((*DTYPES, JSON))})"
            )
        if self._skipped:
            reasons = "; ".join(f"{one.origin}: {one.reason}" for one in self._skipped)
            return f"no table of {self._path} can be imported: {reasons}"
        return (
            f"no vectors were recognised in {self._path}, whose layout aiovec does not know; name "
            "them with --table, --id-column, --vector-column and --dtype. It knows vec0 tables, "
            "collections, LangChain's SQLiteVec, and columns of float BLOBs or JSON "
            f"arrays; the tables are: {', '.join(catalog.names) or 'none'}"
        )

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        reader = collections.read if isinstance(table.part, Collection) else tables.read
        try:
            yield from reader(self._open(), table, schema, size)
        except failures() as exc:
            raise self._translated(exc) from exc

    def backup(self, path: Path) -> None:
        if path.exists():
            raise ConfigError(f"{path} already exists; name a path that does not exist yet")
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
    """A connection that can write nothing, with a WAL beside the file read too."""
    db = connect_read_only(path, _BUSY_SECONDS)
    db.execute("PRAGMA query_only = ON")
    # A text that is no UTF-8 shall cost its row only.
    db.text_factory = _lenient
    return db


def _lenient(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _refuse_own(path: Path) -> None:
    header = read_header(path)
    if header is not None and header.application_id == APPLICATION_ID:
        raise ConfigError(
            f"{path} is already an aiovec store; copy tables with aiovec migrate, or aiovec export "
            "and then aiovec import"
        )


def _vss_tables(catalog: Catalog, found: list[ForeignTable], hints: Hints) -> list[Skipped]:
    """The vss0 tables, but for those whose vectors come from the table that they index."""
    if hints.table is not None:
        return []
    taken = {f"vss_{table.origin}" for table in found}
    return [
        Skipped(name, None, _about_vss(name))
        for name, module in catalog.modules.items()
        if module == "vss0" and name not in taken
    ]


def _about_vss(name: str) -> str:
    return (
        f"the vss0 table {name!r} keeps its vectors in an index that only sqlite-vss reads. Import "
        "the table that they were built from, if it still holds them (--table, --vector-column); "
        "else load sqlite-vss into a copy of the file, run CREATE TABLE vectors AS SELECT rowid AS "
        f"id, vector_to_json(<its column>) AS embedding FROM {name}, and import that table"
    )
