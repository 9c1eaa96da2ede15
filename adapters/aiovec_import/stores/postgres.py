"""Read PostgreSQL in one snapshot: tables with pgvector columns, and tables of texts."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from aiovec.backend import Field, without_secrets
from aiovec.errors import ConfigError

from ..sources import ForeignTable, Wanted
from .common import Collection, Vectors, client
from .sql import Column, SqlSource, SqlTable, TextTable, batches

_KINDS: dict[str, Any] = {
    "bool": "bool", "int2": "int", "int4": "int", "int8": "int", "float4": "float",
    "float8": "float", "text": "text", "varchar": "text", "bpchar": "text",
    "timestamptz": "datetime", "_text": "list[text]", "_varchar": "list[text]",
    "_int4": "list[int]", "_int8": "list[int]", "_float8": "list[float]",
}  # fmt: skip
_JSON = ("json", "jsonb")
_LOCK_TIMEOUT = "10s"
_UNREADABLE = (
    "the URL of the database cannot be read; write blanks and the characters % @ / : # of its user "
    "and its password as %20, %25, %40, %2F, %3A and %23, and name options as libpq does, as in "
    "?sslmode=require"
)
_TIMES = ("date", "timestamp", "timestamptz")
_VECTORS = ("vector", "halfvec", "sparsevec")
_OMITTED = ("bytea", "bit", "varbit", "tsvector")

# The metric comes from an index, even one on an expression such as embedding::halfvec(3072).
_COLUMNS = """
SELECT c.oid::regclass::text,
    CASE WHEN pg_table_is_visible(c.oid) THEN relname ELSE nspname || '.' || relname END,
    attname, typname, atttypmod,
    (SELECT min(split_part(opcname, '_', 2)) FROM pg_index JOIN pg_opclass o ON o.oid = indclass[0]
        JOIN pg_depend d ON objid = indexrelid AND refobjid = c.oid AND refobjsubid = attnum
        WHERE indrelid = c.oid AND opcname ~ '^(vector|halfvec)_'),
    (SELECT array_position(indkey::int2[], attnum) FROM pg_index
        WHERE indrelid = c.oid AND indisprimary),
    EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indkey[0] = attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    JOIN pg_attribute a ON attrelid = c.oid JOIN pg_type t ON t.oid = atttypid
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition AND attnum > 0
    AND nspname NOT IN ('pg_catalog', 'information_schema') AND NOT attisdropped
    AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
ORDER BY 2, attnum
"""


def _column(
    name: str, type: str, _dim: int = -1, _metric: str | None = None, key: int | None = None,
    is_indexed: bool = False,
) -> Column:  # fmt: skip
    """Return a column of this type, with SQL that converts its values for a row."""
    sql, kind = _quoted(name), _KINDS.get(type)
    may_be = None if type in _JSON else Field("float" if type == "numeric" else "text")
    if type in _TIMES:  # PostgreSQL's range is larger than Python's and includes infinity
        sql = f"(to_json({sql}) #>> '{{}}')"
    elif kind is None and type not in _JSON:
        sql += "::float8" if type == "numeric" else "::text"
    left_out = type if type in (*_OMITTED, *_VECTORS) else ""
    return Column(name, sql, Field(kind) if kind else None, may_be, key, is_indexed, left_out)


class PostgresSource(SqlSource):
    layout = "pgvector table"

    def __init__(self, place: str, wanted: Wanted) -> None:
        if not place.startswith("//"):
            raise ConfigError("name the database as postgresql://HOST/DATABASE#TABLE")
        super().__init__(f"postgresql:{place}", wanted)

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return False

    def open(self, place: str) -> None:
        psycopg = client("psycopg", "'psycopg[binary]'")
        self._db = _connected(psycopg, place)
        self._db.read_only = True
        self._db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._db.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
        self._listed = {
            name: (source, [row[2:] for row in columns])
            for (source, name), columns in groupby(
                self._db.execute(_COLUMNS).fetchall(), lambda row: row[:2]
            )
        }

    def names(self) -> list[str]:
        return [
            name for name, (_, columns) in self._listed.items()
            if any(type in _VECTORS for _, type, *_ in columns)
        ]  # fmt: skip

    def tables(self) -> list[ForeignTable]:
        tables = super().tables()
        if self._wanted.is_of_texts:
            self._db.commit()
        return tables

    def of_texts(self) -> tuple[TextTable, str] | None:
        name, query = self._wanted.origin or "", self._wanted.query
        is_unknown = query is None and name not in self._listed
        if not self._wanted.is_of_texts or (is_unknown and self.names()):
            return None
        if is_unknown:
            fault = f"there is no table {name!r}" if name else "name a table as #TABLE"
            listed = ", ".join(self._listed) or "none"
            raise ConfigError(f"{fault}; the tables are: {listed:.500}", key="SOURCE")
        if query is None:
            source, columns = self._listed[name]
        else:  # parentheses, and the protocol of a named cursor, allow only a single statement
            name, source = "query", f"({query.rstrip().rstrip(';')}\n) AS query"
            with self._db.cursor("shape") as cursor:
                cursor.execute(f"SELECT * FROM {source} LIMIT 0")
                shape = [(column.name, column.type_code) for column in cursor.description]
            types = dict(self._db.execute("SELECT oid, typname FROM pg_type").fetchall())
            columns = [(column, types[code]) for column, code in shape]
        layout = "table" if query is None else "query"
        made = [_column(*column) for column in columns]
        table = TextTable(name, layout, source, made, self._wanted)
        return table, self._db.info.dbname

    def rows(self, select: str, size: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        with self._db.cursor("rows") as cursor:
            cursor.execute(select)
            yield from batches(cursor, size)

    def rows_of_texts(self, table: TextTable, size: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        # Copy the rows to a file first: while a transaction is open, migrations of the table wait,
        # and the app waits for them.
        with tempfile.TemporaryFile() as file:
            for rows in super().rows_of_texts(table, size):
                pickle.dump(rows, file)
            self._db.commit()
            pickle.dump([], file)
            file.seek(0)
            while rows := pickle.load(file):
                yield rows

    def collection(self, name: str) -> Collection:
        with self._db.transaction():  # a savepoint, so that an error does not end the snapshot
            return self._collection(name)

    def _collection(self, name: str) -> Collection:
        source, listed = self._listed[name]
        vectors: list[Vectors] = []
        columns: list[Column] = []
        for each, type, dim, metric, *more in listed:
            column = _column(each, type, dim, metric, *more)
            if type in _VECTORS:
                vectors.append(self._vectors(source, each, type, dim, metric))
                column = column._replace(left_out="", read=_vector)
            elif type == "tsvector":
                column = column._replace(left_out="")
            columns.append(column)
        names = [vector.name for vector in vectors]
        table = SqlTable(name, self.layout, source, columns, self._wanted, (), names)
        return table.collected(vectors, self.count(source))

    def _vectors(
        self, source: str, name: str, type: str, dim: int | None, metric: str | None
    ) -> Vectors:
        if type == "sparsevec":
            return Vectors(name, kind="sparse")
        if dim is not None and dim < 0:  # the column was declared without a length
            quoted = _quoted(name)
            # vector_dims() may be in a schema outside the search path.
            query = (
                f"SELECT json_array_length({quoted}::text::json) FROM {source} "
                f"WHERE {quoted} IS NOT NULL LIMIT 1"
            )
            (dim,) = self._db.execute(query).fetchone() or (None,)
        return Vectors(name, dim, metric)

    def close(self) -> None:
        self._db.close()


def _connected(psycopg: Any, url: str) -> Any:
    """Connect to a database. Errors and their causes never contain a part of the password."""
    user, _, rest = url.partition("//")[2].partition("/")[0].rpartition("@")
    hosts = rest.partition("?")[0].split(",")
    ports = [host.rpartition(":")[2] for host in hosts if ":" in host.rpartition("]")[2]]
    # Without this check, errors could show a part of the password as a host, a port or a path.
    if "@" in user or url.count("@") > bool(user) or not all(map(str.isdigit, ports)):
        raise ConfigError(_UNREADABLE)
    try:
        return psycopg.connect(url)
    except psycopg.ProgrammingError:
        pass
    except psycopg.Error as exc:
        text = without_secrets(" ".join(str(exc).split()))
        raise ConfigError(f"the database cannot be reached: {text}") from None
    # Raised here, outside the except block, so that the driver's error is not its context.
    raise ConfigError(_UNREADABLE)


def _vector(text: str | None) -> Any:
    """Parse the text of a vector, which is JSON."""
    return None if text is None else np.array(json.loads(text), np.float32)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
