"""Tables of SQL databases, and the roles of their columns: ids, vectors, fields, payload.

``SqlTable`` is a table, a view or a query, with or without vectors. In a ``TextTable``, rows have a
text and no vectors. ``SqliteTable`` is a ``TextTable`` in SQLite; it reads all rows, or the rows
with the given keys, through its caller's connection. ``texts.TextImport`` imports the chunks of a
text table into a table with the text table's ``schema``, which the store's embedder completes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from typing import Any, Literal, NamedTuple

from aiovec._input.infer import USUAL_VECTORS, field_of_kinds, fields_of, kinds_in
from aiovec.backend import Field, Schema, read_json
from aiovec.errors import ConfigError
from aiovec_sqlite.layout import quoted

from ..files import reading
from ..sources import Chunk, ForeignTable, Reject, Wanted, free_name, in_parts, legal_table_name
from .common import FIRST_POINTS, Collection, CollectionSource, Point, Vectors, chunk_of

QUERY = "aiovec_query"
"""The name of the temporary view for ``--query``; the view hides a table of the same name."""

_COPY = "aiovec_copy"
# Rows to fetch at a time: few, so that a chunk can end when it has enough bytes.
_ROWS_AT_ONCE = 64
_TORN = ("utf-8", "surrogateescape")

# SQLite's rules for declared types, with bool added.
_KINDS: tuple[tuple[Literal["bool", "int", "text", "float"] | None, tuple[str, ...]], ...] = (
    ("bool", ("bool",)),
    ("int", ("int",)),
    ("text", ("char", "clob", "text")),
    (None, ("blob",)),
    ("float", ("real", "floa", "doub")),
)
# Values of these types stay in the payload, unless an option names the column or it has an index.
_LOOSE: tuple[tuple[Literal["text", "float"], tuple[str, ...]], ...] = (
    ("text", ("date", "time")),
    ("float", ("num", "dec")),
)


def _same(value: Any) -> Any:
    return value


class Column(NamedTuple):
    """A column: the SQL that selects it, and the field for its declared type.

    Without a field, the values go into the payload; in a ``TextTable``, the column can become the
    field ``may_be`` instead. ``key`` is the column's position in the primary key. ``left_out``
    describes the values if they cannot be imported. ``read`` converts a selected value for a row,
    or raises ValueError. With ``spread``, the values are objects, whose keys are imported as
    columns; a table has at most one such column.
    """

    name: str
    sql: str
    field: Field | None = None
    may_be: Field | None = None
    key: int | None = None
    is_indexed: bool = False
    left_out: str = ""
    read: Callable[[Any], Any] = _same
    spread: bool = False


class SqlTable:
    """A table, a view or a query of any database.

    ``key`` lists the columns whose values form the id; it is empty if rows get new ids. ``columns``
    lists the other columns to import, and the columns of a composite key. ``hidden`` lists names
    that can be selected but are not columns, such as rowid; they are the key of a table with
    ``vectors`` that has no other key.
    """

    def __init__(
        self, name: str, layout: str, source: str, columns: Sequence[Column], wanted: Wanted,
        hidden: Sequence[str] = (), vectors: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name, self.layout, self.source, self._wanted = name, layout, source, wanted
        names = [*(column.name for column in columns), *hidden]
        keys = sorted((c for c in columns if c.key is not None), key=lambda each: each.key or 0)
        usual = [column.name for column in keys] or [name for name in names if name == "id"]
        id_column = wanted.id_column
        self.new_ids: bool = bool(vectors) and wanted.wants_new_ids
        self.key: Sequence[str] = usual or (hidden if vectors else ())
        if id_column is not None:
            self.key = [each for each in names if each == id_column and not self.new_ids]
        if not (self.key or self.new_ids):
            lack = "no primary key" if id_column is None else f"no column {id_column!r}"
            able = ", ".join([*names, "none for new ids"] if vectors else names)
            raise ConfigError(
                f"{name!r} has {lack} by which the same import finds its rows again; name a "
                f"column whose values are unique with --id-column: {able:.500}",
                key="--id-column",
            )
        self.left_out: Sequence[str] = [
            f"the column {column.name} ({column.left_out})" for column in columns
            if column.left_out and column.name not in self.key
        ]  # fmt: skip
        own = (*vectors, *(self.key if len(self.key) == 1 else ()))
        self.columns: Sequence[Column] = [
            column for column in columns if not column.left_out and column.name not in own
        ]
        self._by_name = {column.name: column for column in columns}
        self._spreads = any(column.spread for column in columns)

    def select(self, place: str = "NULL", vector: str = "") -> str:
        """Return the statement that selects each row's position, vector, key and other columns."""
        sql = {name: column.sql for name, column in self._by_name.items()}
        key = [sql.get(name, name) for name in self.key]
        chosen = [place, sql.get(vector, "NULL"), *key, *(column.sql for column in self.columns)]
        return f"SELECT {', '.join(chosen)} FROM {self.source}"

    def point(self, row: Sequence[Any], vector: str = "") -> Point | Reject:
        """Convert a row of ``select``. If the row has no position, its key is its place."""
        place, found, *rest = row
        count = len(self.key)
        id = id_of(rest[:count]) if count else None
        if place is None:
            place = rest[0] if count == 1 and isinstance(rest[0], int) else id
        spread: dict[str, Any] = {}
        named: dict[str, Any] = {}
        try:
            for column, value in zip(self.columns, rest[count:], strict=True):
                if column.spread:
                    spread = column.read(value)
                else:
                    named[column.name] = column.read(value)
            read = self._by_name[vector].read(found) if vector else None
        except ValueError as exc:
            return Reject(place, id, str(exc))
        if self._spreads:
            return Point(id, read, spread, named, place)
        return Point(id, read, named, place=place)

    def collected(
        self,
        vectors: Sequence[Vectors],
        rows: int | None,
        place: str = "NULL",
        model: str | None = None,
    ) -> Collection:
        """Return the table as a collection. ``place`` is the SQL for the position of a row."""
        fields = {column.name: column.field for column in self.columns if not column.spread}
        return Collection(
            self.name, vectors, rows, (self, place), fields, model, self.left_out, self.new_ids,
            self.layout,
        )  # fmt: skip


class TextTable(SqlTable):
    """A table whose rows have a text and no vectors.

    ``schema`` is the target table's schema without the dimension and the model, which the store's
    embedder adds.
    """

    @cached_property
    def schema(self) -> Schema:
        wanted = self._wanted
        fields: dict[str, Field | None] = {}
        for column in self.columns:
            name, field = column.name, column.field or column.may_be
            if name != free_name(name, ("id", "payload", USUAL_VECTORS[0])):
                continue
            if name in wanted.texts and (field is None or field.kind != "text"):
                field = Field("text")
            if field is not None and column.is_indexed:
                fields[name] = Field(field.kind, index="btree")
            elif name in (*wanted.texts, *wanted.index):
                fields[name] = field
        kept, _ = fields_of(fields, USUAL_VECTORS[0])
        return Schema(0, fields=kept, embed=wanted.embed_of(kept))

    def offered(self, rows: int | None, database: str) -> ForeignTable:
        """Return the table to import; ``database`` is the name of its database."""
        collection = replace(self.collected([], rows), fields=self.schema.fields)
        return ForeignTable(
            legal_table_name(self.name), self.name, self.layout, rows, self.schema,
            tuple(f"not imported: {column}" for column in self.left_out), part=(collection, ""),
            texts=True, base=f"{database}#{self.name}",
        )  # fmt: skip

    def chunk(self, rows: Iterable[Sequence[Any]], schema: Schema) -> Chunk:
        """Convert rows of ``select`` to a chunk for a table of this schema."""
        collection = replace(self.collected([], 0), fields=self.schema.fields)
        return chunk_of(map(self.point, rows), collection, schema, count(1))


class SqliteTable(TextTable):
    """A table of texts in a SQLite database.

    The table sets the connection's ``text_factory``, so that a text that is not UTF-8 makes only
    its own row a reject.
    """

    def __init__(self, db: Any, name: str, wanted: Wanted) -> None:
        db.text_factory = as_text
        self._db = db
        listed = db.execute(
            "SELECT type, wr FROM pragma_table_list WHERE name = ? ORDER BY schema = 'main'",
            (name,),
        ).fetchone()
        if listed is None:
            raise ConfigError(f"there is no table {name!r}", key="SOURCE")
        is_query = name == QUERY
        first = "SELECT i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i"
        indexed = {n for (n,) in db.execute(f"{first} WHERE seqno = 0 AND cid >= 0", (name,))}
        declared = columns_of(db, name)
        # A key column without a type may have several values with the same id, such as 1 and '1'.
        self._untyped = {column.name for column, type in declared if not type}
        columns = [
            column._replace(
                is_indexed=column.name in indexed, left_out=type if "blob" in type.lower() else "",
                may_be=column.may_be if type else self._shown(column, name),
            )
            for column, type in declared
        ]  # fmt: skip
        hidden = () if listed[0] == "view" or listed[1] else ("rowid",)
        super().__init__(
            "query" if is_query else name, "query" if is_query else listed[0], quoted(name),
            columns, wanted, hidden,
        )  # fmt: skip

    def _shown(self, column: Column, table: str) -> Field | None:
        """Return the field that the first values of a column without a type suggest."""
        few = f"SELECT {column.sql} FROM {quoted(table)} LIMIT {FIRST_POINTS}"
        kinds = kinds_in([value for (value,) in self._db.execute(few)])
        return field_of_kinds(kinds) if kinds else None

    def rows(self, size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield all rows of ``select`` from one snapshot, up to ``size`` at a time.

        The rows are copied to a temporary table first. Otherwise, until the last row is read,
        writers could not commit or, in WAL mode, the log could not be checkpointed.
        """
        self._db.execute(f"DROP TABLE IF EXISTS temp.{_COPY}")
        self._db.execute(f"CREATE TEMP TABLE {_COPY} AS {self.select()}")
        yield from batches(self._db.execute(f"SELECT * FROM temp.{_COPY}"), size)

    def rows_of_keys(self, keys: Sequence[Sequence[Any]], schema: Schema) -> tuple[Chunk, set[str]]:
        """Return the rows with the ids of these keys, and the ids of keys without a row."""
        rows: list[Any] = []
        for key in keys:
            by, values = [], []
            for name, part in zip(self.key, key, strict=True):
                same = _with_id_of(part) if name in self._untyped else [part]
                marks = ", ".join("CAST(? AS TEXT)" if _is_torn(each) else "?" for each in same)
                is_one = f"IN ({marks})" if len(same) > 1 else f"IS {marks}"
                by.append(f"{name if name == 'rowid' else quoted(name)} {is_one}")
                values += [each.encode(*_TORN) if _is_torn(each) else each for each in same]
            rows += self._db.execute(f"{self.select()} WHERE {' AND '.join(by)}", values)
        present = {id_of(row[2 : 2 + len(self.key)]) for row in rows}
        ids = {id for key in keys if (id := id_of(key)) is not None and not _is_torn(id)}
        return self.chunk(rows, schema), ids - present


def columns_of(db: Any, table: str) -> list[tuple[Column, str]]:
    """Return the columns of a SQLite table with their declared types.

    Generated columns are included; columns that a virtual table hides are not.
    """
    info = db.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    return [
        (sqlite_column(name, type or "", key or None), type or "")
        for _, name, type, _, _, key, hides in info if hides != 1
    ]  # fmt: skip


def sqlite_column(name: str, type: str, key: int | None = None, partition: bool = False) -> Column:
    """Return the description of a SQLite column that is declared with this type."""
    declared = type.lower()
    kind = next((k for k, words in _KINDS if any(w in declared for w in words)), None)
    loose = next((k for k, words in _LOOSE if any(w in declared for w in words)), None)
    field = Field(kind, partition=partition and kind in ("text", "int")) if kind else None
    read = _flag if "bool" in declared else _read_as_json if field is None else _same
    return Column(name, quoted(name), field, Field(loose) if loose else None, key, read=read)


def _flag(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


def _read_as_json(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return read_json(value)
        except (ValueError, RecursionError):
            return value
    return value


def id_of(key: Sequence[Any]) -> str | None:
    """Return the id of a row with this key; None if a part of the key is null.

    The parts of a composite key are joined by slashes. Within a part, "%" and "/" are written
    "%25" and "%2F", so different keys have different ids. Bytes are written in hexadecimal.
    """
    if None in key:
        return None
    parts = [part.hex() if isinstance(part, bytes) else str(part) for part in key]
    if len(parts) == 1:
        return parts[0]
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def _with_id_of(value: Any) -> list[Any]:
    """Return all values of a key column that are written like this one in an id."""
    if (text := id_of([value])) is None:
        return [value]
    values: list[Any] = [text]
    kinds: tuple[Callable[[str], Any], ...] = (int, float, bytes.fromhex)
    for read in kinds:
        with suppress(ValueError, OverflowError):
            other = read(text)
            fits = not isinstance(other, int) or -(2**63) <= other < 2**63
            if fits and id_of([other]) == text:
                values.append(other)
    return values


def batches(cursor: Any, size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a statement, up to ``size`` at a time, or fewer if the rows are large."""
    fetched = iter(partial(cursor.fetchmany, min(size, _ROWS_AT_ONCE)), [])
    return in_parts(((row, _bytes_of(row)) for rows in fetched for row in rows), size)


def _bytes_of(row: Iterable[Any]) -> int:
    return sum(len(value) for value in row if isinstance(value, (bytes, str)))


def as_text(text: bytes) -> str:
    """Decode text from SQLite; bytes that are not UTF-8 become lone surrogates."""
    return text.decode(*_TORN)


def _is_torn(value: object) -> bool:
    """Return whether a value is text that ``as_text`` decoded from bytes that are not UTF-8."""
    return isinstance(value, str) and any("\udc80" <= letter <= "\udcff" for letter in value)


class SqlSource(CollectionSource):
    """A database. Its tables with vectors are collections; its other tables may have texts."""

    chooses_ids = takes_queries = True

    @abstractmethod
    def rows(self, select: str, size: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Yield the rows of a statement, up to ``size`` at a time."""

    @abstractmethod
    def of_texts(self) -> tuple[TextTable, str] | None:
        """Return the table or query of texts, and its database's name; None to import vectors."""

    def tables(self) -> list[ForeignTable]:
        with self.reading():
            if (found := self.of_texts()) is None:
                return super().tables()
            self.place: str = "key"
            table, database = found
            return [table.offered(self.count(table.source), database)]

    def count(self, source: str) -> int:
        ((rows,),) = next(self.rows(f"SELECT count(*) FROM {source}", 1))
        return int(rows)

    def points(
        self, collection: Collection, vector: str, size: int
    ) -> Iterator[Iterable[Point | Reject]]:
        table, place = collection.handle
        with self.reading():
            if isinstance(table, TextTable):
                pages = self.rows_of_texts(table, size)
            else:
                pages = self.rows(table.select(place, vector), size)
            for rows in pages:
                yield [table.point(row, vector) for row in rows]

    def rows_of_texts(self, table: TextTable, size: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Yield the rows of a table of texts. The caller may take hours to embed them."""
        return self.rows(table.select(), size)

    def reading(self) -> AbstractContextManager[None]:
        """Translate the errors of the database's client."""
        return reading(None)
