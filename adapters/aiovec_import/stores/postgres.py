"""PostgreSQL, read in one snapshot: tables with pgvector's columns, and tables of texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aiovec.backend import Field, Schema
from aiovec.errors import ConfigError

from ..files import reading
from ..sources import Chunk, ForeignTable, Hints
from ..tables import TextColumn, TextTable, batches
from .common import Collection, CollectionSource, Point, Vectors, client, fields_of_kinds

_KINDS: dict[str, Any] = {
    "bool": "bool", "int2": "int", "int4": "int", "int8": "int", "float4": "float",
    "float8": "float", "text": "text", "varchar": "text", "bpchar": "text",
    "timestamptz": "datetime", "_text": "list[text]", "_varchar": "list[text]",
    "_int4": "list[int]", "_int8": "list[int]", "_float8": "list[float]",
}  # fmt: skip
# Values of these types go to the payload as they are, values of other types as text.
_STORABLE = {"json", "jsonb", "numeric"}
_TIMES = ("date", "timestamp", "timestamptz")
_DENSE = ("vector", "halfvec")
_VECTORS = {*_DENSE, "sparsevec"}
_OMITTED = ("bytea", "bit", "varbit")

# An index has the metric.
_COLUMNS = """
SELECT c.oid::regclass::text,
    CASE WHEN pg_table_is_visible(c.oid) THEN relname ELSE nspname || '.' || relname END,
    attname, typname, atttypmod,
    (SELECT min(split_part(opcname, '_', 2)) FROM pg_index JOIN pg_opclass o ON o.oid = indclass[0]
        WHERE indrelid = c.oid AND indkey[0] = attnum AND opcname ~ '^(vector|halfvec)_'),
    (SELECT array_position(indkey::int2[], attnum) FROM pg_index
        WHERE indrelid = c.oid AND indisprimary),
    EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indkey[0] = attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    JOIN pg_attribute a ON attrelid = c.oid JOIN pg_type t ON t.oid = atttypid
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition AND attnum > 0
    AND nspname NOT IN ('pg_catalog', 'information_schema') AND NOT attisdropped
    AND has_table_privilege(c.oid, 'SELECT')
ORDER BY 2, attnum
"""


class _Column(NamedTuple):
    name: str
    type: str
    dim: int
    metric: str | None = None
    key: int | None = None
    """The place of the column in the primary key."""
    is_indexed: bool = False

    @property
    def sql(self) -> str:
        """The column, as text if no other form of its values is wanted."""
        if self.type in _TIMES:  # PostgreSQL's are longer than Python's, and may be infinite
            return f"(to_json({_quoted(self.name)}) #>> '{{}}')"
        return _quoted(self.name) + ("" if self.type in _STORABLE | _KINDS.keys() else "::text")

    def of_texts(self) -> TextColumn:
        """Return the column as one of a table of texts."""
        plain = self.type in _KINDS or self.type in ("json", "jsonb")
        cast = "" if plain else "::float8" if self.type == "numeric" else "::text"
        kind: Any = "float" if self.type == "numeric" else _KINDS.get(self.type, "text")
        field = None if self.type in ("json", "jsonb") else Field(kind)
        left_out = self.type if self.type in (*_OMITTED, *_VECTORS, "tsvector") else ""
        sql = self.sql if self.type == "timestamptz" else _quoted(self.name) + cast
        return TextColumn(self.name, sql, field, self.key, self.is_indexed, left_out)


class PostgresSource(CollectionSource):
    layout = "pgvector table"
    chooses_ids = takes_queries = True

    def __init__(self, place: str, hints: Hints) -> None:
        if not place.startswith("//"):
            raise ConfigError("name the database as postgresql://HOST/DATABASE#TABLE")
        super().__init__(f"postgresql:{place}", hints)

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return False

    def open(self, place: str) -> None:
        psycopg = client("psycopg", "'psycopg[binary]'")
        self._db = psycopg.connect(place)
        self._db.read_only = True
        self._db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        self._listed = {
            name: (source, [_Column(*row[2:]) for row in columns])
            for (source, name), columns in groupby(
                self._db.execute(_COLUMNS).fetchall(), lambda row: row[:2]
            )
        }

    def names(self) -> list[str]:
        return [
            name for name, (_, columns) in self._listed.items()
            if any(column.type in _VECTORS for column in columns)
        ]  # fmt: skip

    def tables(self) -> list[ForeignTable]:
        name, query = self._hints.table or "", self._hints.query
        is_unknown = query is None and name not in self._listed
        if not self._hints.of_texts or (is_unknown and self.names()):
            return super().tables()
        if is_unknown:
            fault = f"there is no table {name!r}" if name else "name a table as #TABLE"
            listed = ", ".join(self._listed) or "none"
            raise ConfigError(f"{fault}; the tables are: {listed:.500}", key="SOURCE")
        self.place: str = "key"
        with reading(None):
            if query is None:
                source, columns = self._listed[name]
            else:  # in parentheses, and by a protocol that takes one statement only
                name, source = "query", f"({query.rstrip().rstrip(';')}\n) AS query"
                with self._db.cursor("shape") as cursor:
                    cursor.execute(f"SELECT * FROM {source} LIMIT 0")
                    shape = [(column.name, column.type_code) for column in cursor.description]
                types = dict(self._db.execute("SELECT oid, typname FROM pg_type").fetchall())
                columns = [_Column(column, types[code], -1) for column, code in shape]
            (rows,) = self._db.execute(f"SELECT count(*) FROM {source}").fetchone()
            layout = "table" if query is None else "query"
            texts = [column.of_texts() for column in columns]
            table = TextTable(name, layout, source, texts, self._hints)
            return [table.offered(rows, self._db.info.dbname)]

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        if not table.texts:
            yield from super().read(table, schema, size)
            return
        with reading(None), self._db.cursor("rows") as cursor:
            cursor.execute(table.part.select)
            for rows in batches(cursor, size):
                yield table.part.chunk(rows, schema)

    def collection(self, name: str) -> Collection:
        source, columns = self._listed[name]
        keys = [column.name for column in columns if column.key is not None]
        key = keys[0] if len(keys) == 1 else "none"  # a key of several columns is no id
        id = self._hints.id_column or key
        if id not in ("none", *(column.name for column in columns)):
            raise ConfigError(f"{name} has no column {id!r}", key="--id-column")
        vectors = [self._vectors(source, column) for column in columns if column.type in _DENSE]
        vectors += [
            Vectors(column.name, kind="sparse") for column in columns if column.type == "sparsevec"
        ]  # fmt: skip
        used = {id, *(vector.name for vector in vectors)}
        others = [
            column for column in columns if column.name not in used and column.type not in _OMITTED
        ]
        fields = fields_of_kinds((column.name, _KINDS.get(column.type)) for column in others)
        (rows,) = self._db.execute(f"SELECT count(*) FROM {source}").fetchone()
        return Collection(
            name, vectors, rows, (source, id, others), fields,
            omitted=[f"the column {column.name} ({column.type})" for column in columns
                     if column.type in _OMITTED],
            new_ids=id == "none",
        )  # fmt: skip

    def _vectors(self, source: str, column: _Column) -> Vectors:
        dim: int | None = column.dim
        if column.dim < 0:  # declared without a length
            quoted = _quoted(column.name)
            query = f"SELECT vector_dims({quoted}) FROM {source} WHERE {quoted} IS NOT NULL LIMIT 1"
            (dim,) = self._db.execute(query).fetchone() or (None,)
        return Vectors(column.name, dim, column.metric)

    def points(self, collection: Collection, vector: str, size: int) -> Iterator[Iterable[Point]]:
        source, id, others = collection.handle
        key = "NULL" if id == "none" else f"{_quoted(id)}::text"
        chosen = ", ".join([key, f"{_quoted(vector)}::text", *(column.sql for column in others)])
        with self._db.cursor("rows") as cursor:
            cursor.execute(f"SELECT {chosen} FROM {source}")
            while rows := cursor.fetchmany(size):
                yield [_point(row, others) for row in rows]

    def close(self) -> None:
        self._db.close()


def _point(row: tuple[Any, ...], columns: list[_Column]) -> Point:
    id, text, *values = row
    keys = {column.name: value for column, value in zip(columns, values, strict=True)}
    # The text of a vector is JSON.
    return Point(id, None if text is None else np.array(json.loads(text), np.float32), keys)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
