"""Tables of databases that have texts and no vectors, as rows of a store.

``SqliteTable`` is a table, a view or a query of SQLite. It reads all rows, or those of some keys,
through a connection of its caller. ``texts.TextSync`` brings the chunks into a table of its
``schema``, completed by the store's embedder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from aiovec._input.infer import USUAL_VECTORS, field_of_kinds, fields_of, kinds_in, with_indexes
from aiovec.backend import Field, Schema, read_json
from aiovec.bridge import storable
from aiovec.errors import AiovecError, ConfigError
from aiovec_sqlite.layout import quoted

from .sources import Chunk, ForeignTable, Hints, NewTable, Reject, in_parts, legal_table_name

QUERY = "aiovec_query"
"""The view of ``--query``, which hides a table of its name."""

_COPY = "aiovec_copy"
# Rows are fetched so many at a time, to notice where their bytes end a chunk.
_ROWS_AT_ONCE = 64
_TORN = ("utf-8", "surrogateescape")
# Rows that show the type of a column without a declared one.
_FIRST_ROWS = 1000

# By SQLite's rules for declared types, and bool in addition.
_KINDS: tuple[tuple[Literal["bool", "int", "text", "float"] | None, tuple[str, ...]], ...] = (
    ("bool", ("bool",)),
    ("int", ("int",)),
    ("text", ("char", "clob", "text")),
    (None, ("blob",)),
    ("float", ("real", "floa", "doub")),
)
# Types whose values are kept in the payload, unless the column is named or has an index.
_LOOSE: tuple[tuple[Literal["text", "float"], tuple[str, ...]], ...] = (
    ("text", ("date", "time")),
    ("float", ("num", "dec")),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table in SQLite, with its declared type.

    ``key`` is its place in the primary key, 0 if it is none of its columns.
    """

    name: str
    type: str
    is_partition: bool = False
    key: int = 0

    @property
    def field(self) -> Field | None:
        """The field that the column becomes; None if its values go to the payload."""
        declared = self.type.lower()
        kind = next((k for k, words in _KINDS if any(w in declared for w in words)), None)
        partition = self.is_partition and kind in ("text", "int")
        return None if kind is None else Field(kind, partition=partition)

    def value(self, value: Any) -> Any:
        """Return a value as a field or the payload takes it: flags as bool, JSON as it reads."""
        if "bool" in self.type.lower():
            return bool(value) if value in (0, 1) else value
        if isinstance(value, str) and value[:1] in ("{", "[") and self.field is None:
            try:
                return read_json(value)
            except (ValueError, RecursionError):
                return value
        return value


class TextColumn(NamedTuple):
    """A column of a table of texts: how it is selected, and the field that it may become.

    ``key`` is its place in the primary key. ``left_out`` is its type if no row can hold its values.
    """

    name: str
    sql: str
    field: Field | None
    key: int | None = None
    is_indexed: bool = False
    left_out: str = ""


class TextTable:
    """A table, a view or a query whose rows have a text and no vectors, in any database.

    ``key`` are the columns whose values make the id, ``columns`` the others that come along.
    ``schema`` is that of the store's table; its dimension and model are the embedder's. ``hidden``
    are names of the id that are no columns.
    """

    def __init__(
        self, name: str, layout: str, source: str, columns: Sequence[TextColumn], hints: Hints,
        hidden: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name, self.layout = name, layout
        names = [*(column.name for column in columns), *hidden]
        keys = sorted((c for c in columns if c.key is not None), key=lambda each: each.key or 0)
        wanted = hints.id_column
        usual = [column.name for column in keys] or [name for name in names if name == "id"]
        self.key: Sequence[str] = usual if wanted is None else [n for n in names if n == wanted]
        if not self.key:
            lack = "no primary key" if wanted is None else f"no column {wanted!r}"
            raise ConfigError(
                f"{name!r} has {lack} by which the same import finds its rows again; name a "
                f"column whose values are unique with --id-column: {', '.join(names):.500}",
                key="--id-column",
            )
        self.left_out: Sequence[str] = [
            f"the column {column.name} ({column.left_out})" for column in columns
            if column.left_out and column.name not in self.key
        ]  # fmt: skip
        own = self.key if len(self.key) == 1 else ()
        self.columns: Sequence[TextColumn] = [
            column for column in columns if not column.left_out and column.name not in own
        ]
        self.schema: Schema = self._schema(hints.new)
        by_name = {column.name: column.sql for column in columns}
        chosen = [by_name.get(name, name) for name in self.key]
        chosen += [column.sql for column in self.columns]
        self.select: str = f"SELECT {', '.join(chosen)} FROM {source}"

    def _schema(self, new: NewTable) -> Schema:
        columns = {column.name: column for column in self.columns}
        texts = [*new.text, *([] if new.embed is None else [new.embed])]
        for option, names in (("--text", new.text), ("--index", new.index), ("--embed", texts)):
            for name in set(names) - columns.keys():
                raise ConfigError(
                    f"{option} {name}: {self.name!r} has no such column; the columns: "
                    f"{', '.join(columns):.500}", key=option,
                )  # fmt: skip
        fields: dict[str, Field | None] = {}
        for name, column in columns.items():
            field = column.field
            if name != free_name(name, ("id", "payload", USUAL_VECTORS[0])):
                continue
            if name in texts and (field is None or field.kind != "text"):
                field = Field("text")
            if field is not None and column.is_indexed:
                fields[name] = Field(field.kind, index="btree")
            elif name in (*texts, *new.index):
                fields[name] = field
        kept, _ = fields_of(fields, USUAL_VECTORS[0])
        schema = Schema(
            0, metric=new.metric or "cosine", model=new.model, fields=kept, embed=new.embed_of(kept)
        )
        return with_indexes(schema, new.text, new.index)

    def offered(self, rows: int, database: str) -> ForeignTable:
        """Return the table as a reader of the database of this name offers it."""
        return ForeignTable(
            legal_table_name(self.name), self.name, self.layout, rows, self.schema,
            tuple(f"not imported: {column}" for column in self.left_out), part=self, texts=True,
            base=f"{database}#{self.name}",
        )  # fmt: skip

    def chunk(self, rows: Iterable[Sequence[Any]], schema: Schema) -> Chunk:
        """Return rows of ``select`` for a table of this schema."""
        taken = ("id", "payload", schema.vector)
        kept: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        for key, *values in ((row[: len(self.key)], *row[len(self.key) :]) for row in rows):
            row: dict[str, Any] = {"id": id_of(key)}
            try:
                for column, value in zip(self.columns, values, strict=True):
                    name = free_name(column.name, taken)
                    row[name] = value if name in schema.fields else storable(value, name, large=str)
            except AiovecError as exc:
                rejects.append(Reject(row["id"], row["id"], str(exc)))
            else:
                kept.append(row)
        return Chunk(kept, [row["id"] or "" for row in kept], rejects)


class SqliteTable(TextTable):
    """A table of texts in a SQLite database.

    Sets the ``text_factory`` of the connection: a text that is not UTF-8 rejects its own row only.
    """

    def __init__(self, db: Any, name: str, hints: Hints) -> None:
        db.text_factory = as_text
        self._db, self._source = db, quoted(name)
        listed = db.execute(
            "SELECT type, wr FROM pragma_table_list WHERE name = ? ORDER BY schema = 'main'",
            (name,),
        ).fetchone()
        if listed is None:
            raise ConfigError(f"there is no table {name!r}", key="SOURCE")
        is_query = name == QUERY
        first = "SELECT i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i"
        indexed = {n for (n,) in db.execute(f"{first} WHERE seqno = 0 AND cid >= 0", (name,))}
        self._types = {column.name: column for column in columns_of(db, name)}
        columns = [
            TextColumn(
                each.name, quoted(each.name), self._field(each), each.key or None,
                each.name in indexed, each.type if "blob" in each.type.lower() else "",
            )
            for each in self._types.values()
        ]  # fmt: skip
        hidden = () if listed[0] == "view" or listed[1] else ("rowid",)
        super().__init__(
            "query" if is_query else name, "query" if is_query else listed[0], self._source,
            columns, hints, hidden,
        )  # fmt: skip
        # Without WAL, a reader keeps writers from their commits until its last row.
        self._copies = db.execute("PRAGMA main.journal_mode").fetchone() != ("wal",)
        if self._copies and db.in_transaction:
            db.execute("COMMIT")

    def foreign(self, database: str) -> ForeignTable:
        """Return the table as a reader of the database of this name offers it."""
        (rows,) = self._db.execute(f"SELECT count(*) FROM {self._source}").fetchone()
        return self.offered(rows, database)

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]:
        """Yield all rows for a table of this schema, up to ``size`` at once.

        They are of one moment: of the transaction that is open, or of a copy in a temporary file.
        """
        select = self.select
        if self._copies:
            self._db.execute(f"DROP TABLE IF EXISTS temp.{_COPY}")
            self._db.execute(f"CREATE TEMP TABLE {_COPY} AS {select}")
            select = f"SELECT * FROM temp.{_COPY}"
        for rows in batches(self._db.execute(select), size):
            yield self.chunk(rows, schema)

    def some(self, keys: Sequence[Sequence[Any]], schema: Schema) -> tuple[Chunk, set[str]]:
        """Return the rows with these keys, and the ids of the keys that no row has."""
        names = [name if name == "rowid" else quoted(name) for name in self.key]
        rows: list[Any] = []
        for key in keys:
            marks = ["CAST(? AS TEXT)" if _is_torn(part) else "?" for part in key]
            by = " AND ".join(f"{n} IS {mark}" for n, mark in zip(names, marks, strict=True))
            parts = [p.encode(*_TORN) if _is_torn(p) else p for p in key]
            rows += self._db.execute(f"{self.select} WHERE {by}", parts)
        present = {id_of(row[: len(self.key)]) for row in rows}
        ids = {id for key in keys if (id := id_of(key)) is not None and not _is_torn(id)}
        return self.chunk(rows, schema), ids - present

    def chunk(self, rows: Iterable[Sequence[Any]], schema: Schema) -> Chunk:
        types = [self._types[column.name] for column in self.columns]
        count = len(self.key)
        read = (
            (*row[:count], *(t.value(value) for t, value in zip(types, row[count:], strict=True)))
            for row in rows
        )
        return super().chunk(read, schema)

    def _field(self, column: Column) -> Field | None:
        """Return the field of a column that is named or has an index."""
        declared = column.type.lower()
        kind = next((k for k, words in _LOOSE if any(w in declared for w in words)), None)
        if declared or column.field:
            return column.field or (Field(kind) if kind else None)
        few = f"SELECT {quoted(column.name)} FROM {self._source} LIMIT {_FIRST_ROWS}"
        kinds = kinds_in([value for (value,) in self._db.execute(few)])
        return field_of_kinds(kinds) if kinds else None


def columns_of(db: Any, table: str) -> list[Column]:
    """Return the columns of a table, also generated ones, but none that a virtual table hides."""
    info = db.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    return [
        Column(name, kind or "", key=key) for _, name, kind, _, _, key, hides in info if hides != 1
    ]


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a column's name with a "_" behind it if it is taken, or would be one of these then."""
    return f"{name}_" if name.rstrip("_") in taken else name


def id_of(key: Sequence[Any]) -> str | None:
    """Return the id of a row with this key; None if a part of it is null.

    The parts of a key of several columns have a slash between them. Within a part, "%" and "/" are
    written "%25" and "%2F", so no two keys have one id. Bytes are written in hexadecimal.
    """
    if None in key:
        return None
    parts = [part.hex() if isinstance(part, bytes) else str(part) for part in key]
    if len(parts) == 1:
        return parts[0]
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def batches(cursor: Any, size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a statement, up to ``size`` at once, and fewer if they are large."""
    fetched = iter(partial(cursor.fetchmany, min(size, _ROWS_AT_ONCE)), [])
    return in_parts(((row, _bytes_of(row)) for rows in fetched for row in rows), size)


def _bytes_of(row: Iterable[Any]) -> int:
    return sum(len(value) for value in row if isinstance(value, (bytes, str)))


def as_text(text: bytes) -> str:
    """Return a text of SQLite; bytes that are no UTF-8 become lone surrogates."""
    return text.decode(*_TORN)


def _is_torn(value: object) -> bool:
    """Return whether a value is a text that came of bytes which are no UTF-8."""
    return isinstance(value, str) and any("\udc80" <= letter <= "\udcff" for letter in value)
