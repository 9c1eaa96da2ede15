"""The file's layout: its first page, names, tables, and versions.

``docs/internals/file-format.md`` describes the layout. The first page is read through SQLite: POSIX
drops all locks of a process on a file as soon as the process closes any descriptor of the file.
SQLite keeps its own descriptors open while a lock is held, but does not know about other
descriptors. If this process used ``open`` to read the file of a store that it uses, another process
would then consider the store unused and delete its WAL, with acknowledged rows in it. So this code
opens a file that may be a database only through SQLite; ``_keeps_wal`` explains the only exception.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

from aiovec.backend import Field, Ref, Schema, check_table_name
from aiovec.backend.contract import StaleTableError, TableHandle
from aiovec.backend.rows import partition_fields
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    ExtensionUnavailableError,
    StorePermissionError,
)

from .driver import OPENING, load_driver
from .errors import (
    CANTOPEN,
    CORRUPT,
    NOTADB,
    DamageError,
    code_of,
    decodes,
    failures,
    names_text_index,
)
from .sql.filters import indexed_value
from .sql.schema import check_schema

_HEADER_BYTES = 100
# Offset of the header byte for the file format's write version: 1 without a WAL, 2 with a WAL.
_READ_VERSIONS = 18
_NO_DATABASE = "this is not a SQLite database"
_MAY_NOT_READ = "this process may not read the file"


@dataclass(frozen=True, slots=True)
class Header:
    """The numbers that identify a database's application and its layout."""

    application_id: int
    version: int


def read_header(path: Path) -> Header | None:
    """Return the file's header; None if the file is missing or empty.

    Creates no files next to it. Raises CorruptStoreError if the file is not a database.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as exc:
        if isinstance(exc, PermissionError):
            raise StorePermissionError(str(path), _MAY_NOT_READ) from exc
        raise AiovecError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    if stat.S_ISDIR(status.st_mode):
        raise CorruptStoreError(
            str(path),
            "this is a folder, and a SQLite store is a file; a LanceDB store, or a backup of one, "
            f"is opened as lancedb://{path}",
        )
    if not stat.S_ISREG(status.st_mode):
        raise CorruptStoreError(str(path), "this is a device, not a file")
    if not status.st_size:
        return None
    if status.st_size < _HEADER_BYTES:  # SQLite takes a single byte for an empty database
        raise CorruptStoreError(str(path), _NO_DATABASE)
    driver = _any_driver()
    try:
        with opened_as_it_lies(path) as db:
            # If another process is writing the file, or was killed while writing, the file may be
            # longer than its header says, and could not be read without this pragma.
            db.execute("PRAGMA writable_schema = ON")
            application, version = (
                int(db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("application_id", "user_version")
            )
        return Header(application & 0xFFFFFFFF, version)
    except UnicodeDecodeError as exc:  # the message about a damaged file is not UTF-8
        raise CorruptStoreError(str(path), "the file is damaged") from exc
    except driver.Error as exc:
        code = code_of(exc)
        if code == NOTADB:
            raise CorruptStoreError(str(path), _NO_DATABASE) from exc
        if code == CORRUPT:
            raise _damaged(path, exc) from exc
        if code == CANTOPEN and not path.exists():
            return None
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StorePermissionError(str(path), _MAY_NOT_READ) from exc
        raise AiovecError(f"{path} cannot be read: {exc}") from exc


def is_database(path: Path) -> bool:
    """Return whether a file is a SQLite database of any application."""
    try:
        return read_header(path) is not None
    except AiovecError:
        return False


@contextmanager
def opened_as_it_lies(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection that reads only the file, without its WAL, and creates and locks nothing.

    The connection may read an inconsistent state while another process writes to the file.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    driver = _any_driver()
    db = cast("sqlite3.Connection", driver.connect(uri, uri=True, isolation_level=None))
    with closing(db):
        yield db


def _any_driver() -> Any:
    """Return the driver that opens stores, because only that driver knows their locks.

    If no driver can open a store, return ``sqlite3``, which can still recognise a database.
    """
    try:
        return load_driver()
    except ExtensionUnavailableError:
        return sqlite3


def _damaged(path: Path, error: Exception) -> CorruptStoreError:
    return CorruptStoreError(str(path), f"the file is damaged ({error}); restore a sound backup")


APPLICATION_ID = 0x61696F76  # "aiov"
LAYOUT_VERSION = 1

# The number of checks of a file that looks damaged, and the seconds between two checks.
_LOOKS = 3
_BETWEEN_LOOKS = 0.005

# More changes than any store can have: a million per second for 146,000 years.
_CHANGES = 2**62

# Fields of other kinds are TEXT; lists are stored as JSON.
_SQL_TYPES = {"int": "INTEGER", "float": "REAL", "bool": "INTEGER", "datetime": "INTEGER"}
_VEC_METRICS = {"cosine": "cosine", "l2": "l2", "dot": "l2"}

# A partition has its own chunks, so a small tenant would waste most of a large chunk.
_PARTITIONED_CHUNK = 64

CREATE_STORE = (
    "CREATE TABLE aiovec_state (key TEXT PRIMARY KEY, value ANY) STRICT",
    "INSERT INTO aiovec_state VALUES ('change', 0)",
    """CREATE TABLE aiovec_tables (
        name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, schema TEXT NOT NULL, created TEXT NOT NULL,
        floor INTEGER NOT NULL DEFAULT 0, extreme INTEGER NOT NULL DEFAULT 0, optimized TEXT
    ) STRICT""",
    """CREATE TABLE aiovec_deleted (
        name TEXT NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, row INTEGER NOT NULL,
        PRIMARY KEY (name, seq)
    ) STRICT, WITHOUT ROWID""",
)


# The key of the stem in a renamed table's entry.
_STEM = "stem"
_IS_STEM = re.compile(r"_?[a-z][a-z0-9_-]{0,62}|_[0-9]{1,19}")


def default_stem(name: str) -> str:
    """Return the default prefix of a table's names in the file. SQLite reserves "sqlite_…"."""
    return f"_{name}" if name.startswith("sqlite_") else name


def exists(db: sqlite3.Connection, stem: str) -> bool:
    """Return whether a table uses names with this stem in the file."""
    names = (f"{stem}.rows", f"{stem}.vec")
    sql = "SELECT 1 FROM sqlite_master WHERE name IN (?, ?) COLLATE NOCASE"
    return db.execute(sql, names).fetchone() is not None


def quoted(name: str) -> str:
    """Return a name quoted for SQL, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class TableLayout:
    """One table of a store, with its names in the file."""

    name: str
    schema: Schema
    epoch: int
    stem: str = ""
    """The prefix of the table's names in the file, which a renamed table keeps."""

    def __post_init__(self) -> None:
        if not self.stem:
            object.__setattr__(self, "stem", default_stem(self.name))

    def entry(self, schema: Schema) -> str:
        """Return the text that ``aiovec_tables`` stores for a schema of this table."""
        if self.stem == default_stem(self.name):
            return schema.to_json()
        return json.dumps({**schema.to_dict(), _STEM: self.stem}, ensure_ascii=False)

    @cached_property
    def rows(self) -> str:
        """The quoted name of the ordinary table. It has a dot, which users' names cannot have."""
        return quoted(f"{self.stem}.rows")

    @cached_property
    def vec(self) -> str:
        """The quoted name of the vec0 table."""
        return quoted(f"{self.stem}.vec")

    @cached_property
    def rowids(self) -> str:
        """The quoted name of the table in which vec0 records the chunk and offset of each row."""
        return self.shadow("rowids")

    def shadow(self, suffix: str) -> str:
        """Return the quoted name of one of the tables in which vec0 keeps its data."""
        return quoted(f"{self.stem}.vec_{suffix}")

    @cached_property
    def partitions(self) -> tuple[str, ...]:
        return tuple(partition_fields(self.schema))

    def partition_column(self, field: str) -> str:
        """Return vec0's column for a partition field: p1 to p4."""
        return f"p{self.partitions.index(field) + 1}"

    @cached_property
    def row_columns(self) -> tuple[str, ...]:
        """The quoted columns with a row's values, in the order of the Arrow schema."""
        names = ["id", *self.schema.fields, *(["payload"] if self.schema.payload else [])]
        return tuple(map(quoted, names))

    def create_statements(self, chunk_size: int) -> list[str]:
        schema = self.schema
        columns = ["_rowid INTEGER PRIMARY KEY", "id TEXT NOT NULL UNIQUE"]
        columns += [column_definition(name, field) for name, field in schema.fields.items()]
        if schema.payload:
            columns.append("payload TEXT")
        columns.append("_seq INTEGER NOT NULL")
        vectors = [f"vector float[{schema.dim}] distance_metric={_VEC_METRICS[schema.metric]}"]
        if schema.quantized:
            vectors.append(f"vector_bit bit[{schema.dim}]")
        vectors += [f"{self.partition_column(name)} text partition key" for name in self.partitions]
        size = min(chunk_size, _PARTITIONED_CHUNK) if self.partitions else chunk_size
        vectors.append(f"chunk_size={size}")
        statements = [
            f"CREATE TABLE {self.rows} ({', '.join(columns)}) STRICT",
            f"CREATE INDEX {quoted(f'{self.stem}.seq')} ON {self.rows} (_seq)",
            f"CREATE VIRTUAL TABLE {self.vec} USING vec0({', '.join(vectors)})",
        ]
        for name in (*schema.fields, *schema.payload_indexes):
            statements += self.index_statements(name, schema)
        return statements

    def index_statements(self, name: str, schema: Schema) -> list[str]:
        """Return the statements that create the index of a field or a payload key.

        SQLite has only one kind of index, so all of aiovec's kinds are created in the same way.
        """
        if name in schema.payload_indexes:
            value = indexed_value(name.split(".")[1:], "payload")
        elif (field := schema.fields.get(name)) and (field.index or field.partition):
            value = quoted(name)
        else:
            return []
        return [f"CREATE INDEX {self.index_of(name)} ON {self.rows} ({value})"]

    def index_of(self, name: str) -> str:
        """Return the quoted name of the index of a field or a payload key."""
        if "." in name:  # SQL names ignore case, but payload keys do not
            name = f"payload.{name.encode().hex()}"
        return quoted(f"{self.stem}.rows.{name}")

    @cached_property
    def payload_values(self) -> dict[Ref, str]:
        """A map from each indexed payload key to its index's SQL expression, for table ``r``."""
        paths = [tuple(name.split(".")[1:]) for name in self.schema.payload_indexes]
        return {Ref("payload", path): indexed_value(path, "r.payload") for path in paths}


def column_definition(name: str, field: Field) -> str:
    null = "" if field.nullable else " NOT NULL"
    return f"{quoted(name)} {_SQL_TYPES.get(field.kind, 'TEXT')}{null}"


def partition_value(value: object) -> str:
    """Return the text that vec0 keeps for the value of a partition field.

    vec0 cannot find rows by a NULL partition key, so null is stored as an empty string.
    """
    return "" if value is None else f"={value}"


def check_header(path: Path, *, to_read: bool = False) -> bool:
    """Return whether the path is a complete store; raise CorruptStoreError for other databases.

    Does not change the file. A reader cannot complete a store that another process has begun to
    create, so with ``to_read``, this raises AiovecError if no process completes it soon.
    """
    # SQLite keeps its other files next to the file itself, not next to a link to it.
    path = path.resolve()
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_LOOKS)
        try:
            if _look_at(path):
                return True
            if not (to_read and has_contents(path, "-journal")):
                return False
        except CorruptStoreError:
            # Another process may be creating the store, or truncating free pages at its end.
            if look == _LOOKS - 1:
                raise
    raise AiovecError(
        f"{path} is being created or put into use by another process, or a process was "
        "killed while it did this; open the store once for writing, which completes it"
    )


def _look_at(path: Path) -> bool:
    target = str(path)
    header = read_header(path)
    if header is None:
        return False
    if header.application_id != APPLICATION_ID:
        raise CorruptStoreError(
            target,
            "this is a database of another application, or one that aiovec did not create "
            f"(application id {header.application_id:#010x}); if it holds vectors, "
            f"aiovec import {path.name} reads them",
        )
    if header.version > LAYOUT_VERSION:
        raise CorruptStoreError(
            target,
            f"the file has layout {header.version}, and this version of aiovec reads up to "
            f"{LAYOUT_VERSION}; upgrade aiovec to open it",
        )
    if has_contents(path, "-journal"):
        # A process is creating the store, or was killed while creating it; SQLite then rolls back.
        return False
    if has_contents(path, "-wal") and not _keeps_wal(path):
        raise CorruptStoreError(
            target,
            f"the WAL next to it, {path.name}-wal, belongs to another file: a backup was copied "
            "over a store that was not closed. Restore the backup with aiovec restore, which "
            "removes the WAL, or delete the WAL if the file is the unchanged backup",
        )
    if path.with_name(f"{path.name}-wal").exists():
        return True
    try:  # no process has it open, so it can be read without creating files next to it
        with opened_as_it_lies(path) as db:
            check_schema(db, target)
            newest_change(db)
    except failures() as exc:
        raise _damaged(path, exc) from exc
    return True


def _keeps_wal(path: Path) -> bool:
    """Return whether the file's header allows a WAL next to the file.

    Every store's header does. A backup's header does not, so a WAL next to a backup belongs to
    another file, and SQLite would mix their pages. SQLite does not report the header's byte for
    WAL mode. If this process has the file open, the byte is read through the open descriptor (see
    the module's docstring). Otherwise ``OPENING`` keeps connections from opening the file while the
    byte is read.
    """
    with OPENING:
        status = path.stat()
        with suppress(OSError, ValueError):
            for number in map(int, os.listdir("/dev/fd")):
                with suppress(OSError):
                    if os.path.samestat(os.fstat(number), status):
                        return os.pread(number, 1, _READ_VERSIONS) == b"\2"
        with path.open("rb") as file:
            file.seek(_READ_VERSIONS)
            return file.read(1) == b"\2"


def has_contents(path: Path, suffix: str) -> bool:
    """Return whether a database's companion file with this suffix exists and is not empty."""
    try:
        return Path(f"{path.resolve()}{suffix}").stat().st_size > 0
    except FileNotFoundError:
        return False


def create_store(db: sqlite3.Connection) -> None:
    """Turn an empty database into a store, unless another process has done so first.

    The connection must be in rollback-journal mode, so that the header is in the file itself as
    soon as the store exists. Everything is one transaction, so a killed process leaves an empty
    file, or a file that its journal makes empty again.
    """
    # A commit of one row writes eight pages to the WAL, but smaller pages would slow bulk inserts.
    db.execute("PRAGMA page_size = 8192")
    db.execute("BEGIN")
    try:
        # Lets optimize return free pages in small steps. This must be the transaction's first
        # write.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {LAYOUT_VERSION}")
            for statement in CREATE_STORE:
                db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def read_table(db: sqlite3.Connection, name: str) -> TableLayout | None:
    row = db.execute("SELECT schema, epoch FROM aiovec_tables WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    return _layout(name, *row)


# Errors that parsing a damaged schema raises.
_UNREADABLE = (AiovecError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)


@lru_cache(maxsize=256)
def _layout(name: str, schema: str, epoch: int) -> TableLayout:
    # Cached, because every call reads its table's entry, and equal texts have equal layouts.
    try:
        check_table_name(name)  # the names in SQL are made from this name
        stem = default_stem(name)
        form = json.loads(schema)
        if isinstance(form, dict) and _STEM in form:
            stem = form.pop(_STEM)
            if not isinstance(stem, str) or not _IS_STEM.fullmatch(stem):
                raise ValueError("the stem of the names in SQL is invalid")
        return TableLayout(name, Schema.from_json(form), epoch, stem=stem)
    except _UNREADABLE as exc:
        raise DamageError(f"the entry of the table {name!r} cannot be read") from exc


def newest_change(db: sqlite3.Connection) -> int:
    """Return the number of the store's newest change, in this snapshot."""
    row = db.execute("SELECT value FROM aiovec_state WHERE key = 'change'").fetchone()
    return change_number(row and row[0])


def check_contents(db: sqlite3.Connection) -> None:
    """Raise DamageError if the change number or a table's entry cannot be read."""
    newest_change(db)
    for (name,) in db.execute("SELECT name FROM aiovec_tables").fetchall():
        read_table(db, name)


# The most faults to report.
_MOST_FAULTS = 5


def faults_of(db: sqlite3.Connection, check: str) -> list[str]:
    """Return the first faults that SQLite's ``quick_check`` or ``integrity_check`` finds.

    Faults in text indexes do not count, because the rows contain the texts too.
    """
    try:
        faults = [str(row[0]) for row in db.execute(f"PRAGMA {check}({_MOST_FAULTS})")]
    except load_driver().DatabaseError as exc:
        faults = [str(exc)]
    if any(map(names_text_index, faults)):
        names = "SELECT name FROM sqlite_master WHERE rootpage > 0 AND type = 'table'"
        faults = []
        for (name,) in db.execute(names).fetchall():
            faults += [str(row[0]) for row in db.execute(f"PRAGMA {check}({quoted(name)})")]
    return [fault for fault in faults if fault != "ok"][:_MOST_FAULTS]


@decodes
def change_number(value: Any) -> int:
    """Return a stored change number; raise DamageError if it is out of range."""
    number = int(value)
    if not 0 <= number < _CHANGES:
        raise DamageError(f"the change number is {number}")
    return number


@decodes
def floor_of(db: sqlite3.Connection, table: TableLayout) -> int:
    """Return the change number up to which the table's tombstones were pruned."""
    row = db.execute("SELECT floor FROM aiovec_tables WHERE name = ?", (table.name,)).fetchone()
    return int(row[0])


def current_table(db: sqlite3.Connection, handle: TableHandle) -> TableLayout:
    """Return the table in this snapshot, or raise StaleTableError."""
    table = read_table(db, handle.name)
    if table is None or table.epoch != handle.epoch:
        raise StaleTableError(handle.name)
    return table


# The token of a scan file: the random bytes of its name, and a digest of its head.
_TOKEN = re.compile(r"[0-9a-f]{96}")
# The token's key in ``aiovec_state``, by the kind of the file's contents.
_TOKEN_KEYS = {"codes": "scan:{}", "words": "scan:words:{}"}


def token_of(db: sqlite3.Connection, table: str, kind: str) -> str | None:
    sql = "SELECT value FROM aiovec_state WHERE key = ?"
    row = db.execute(sql, (_TOKEN_KEYS[kind].format(table),)).fetchone()
    known = row is not None and isinstance(row[0], str) and _TOKEN.fullmatch(row[0])
    return row[0] if known else None


# The prefix of the keys of a table's notes in ``aiovec_state``. Table names have no colons.
_NOTES = "note:{}:"


def notes_of(db: sqlite3.Connection, table: str) -> dict[str, str]:
    start = _NOTES.format(table)
    sql = "SELECT substr(key, ?), value FROM aiovec_state WHERE substr(key, 1, ?) = ?"
    rows = db.execute(sql, (len(start) + 1, len(start), start)).fetchall()
    return {name: str(text) for name, text in rows}


def put_note(db: sqlite3.Connection, table: str, name: str, text: str | None) -> None:
    """Store a table's note, or remove it if ``text`` is None."""
    key = _NOTES.format(table) + name
    db.execute("DELETE FROM aiovec_state WHERE key = ?", (key,))
    if text is not None:
        db.execute("INSERT INTO aiovec_state VALUES (?, ?)", (key, text))


def put_token(db: sqlite3.Connection, table: str, kind: str, token: str | None) -> None:
    """Make the store accept only the table's scan file with this token; with None, no file."""
    key = _TOKEN_KEYS[kind].format(table)
    db.execute("DELETE FROM aiovec_state WHERE key = ?", (key,))
    if token is not None:
        db.execute("INSERT INTO aiovec_state VALUES (?, ?)", (key, token))


def forget_tokens(db: sqlite3.Connection, table: str) -> None:
    """Make the store accept none of the table's scan files."""
    for kind in _TOKEN_KEYS:
        put_token(db, table, kind, None)
