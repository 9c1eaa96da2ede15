"""Tables of databases that have texts and no vectors, as rows of a store.

``SqliteTable`` is a table, a view or a query of SQLite. It reads all rows, or those of some keys,
through a connection of its caller, in whatever transaction that has begun. ``texts.TextSync``
brings the chunks into a table of its ``schema``, completed by the store's embedder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiovec._input.infer import USUAL_VECTORS, field_of_kinds, fields_of, kinds_in, with_indexes
from aiovec.backend import Field, Schema, read_json
from aiovec.bridge import storable
from aiovec.errors import AiovecError, ConfigError
from aiovec_sqlite.layout import quoted

from .sources import BYTES_AT_ONCE, Chunk, ForeignTable, Hints, Reject, legal_table_name

QUERY = "aiovec_query"
"""The view of ``--query``, which hides a table of its name."""

_COPY = "aiovec_copy"
# Rows are fetched so many at a time, to notice where their bytes end a chunk.
_ROWS_AT_ONCE = 64
# Rows that show the type of a column without a declared one.
_FIRST_ROWS = 1000

# By SQLite's rules for declared types, and bool beside them.
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
    """A column of a table in SQLite, with its declared type."""

    name: str
    type: str
    is_partition: bool = False
    is_key: bool = False

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


class SqliteTable:
    """A table, a view or a query of a SQLite database, whose rows have a text and no vectors.

    ``key`` are the columns whose values make the id, ``columns`` the others that come along. Sets
    the ``text_factory`` of the connection: a text that is not UTF-8 is rejected with its row only.
    """

    def __init__(self, db: Any, name: str, hints: Hints) -> None:
        db.text_factory = as_text
        self._db = db
        self.name = name
        listed = db.execute(
            "SELECT type, wr FROM pragma_table_list WHERE name = ? ORDER BY schema = 'main'",
            (name,),
        ).fetchone()
        if listed is None:
            raise ConfigError(f"there is no table {name!r}", key="SOURCE")
        self.layout: str = "query" if name == QUERY else listed[0]
        info = db.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
        # Generated columns are among them, those that a virtual table hides are not.
        columns = [Column(row[1], row[2] or "", is_key=row[5] > 0) for row in info if row[6] != 1]
        keys = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
        has_rowid = listed[0] != "view" and not listed[1]
        names = [column.name for column in columns]
        self.key: Sequence[str] = key_of(name, hints, keys, names, ["rowid"] * has_rowid)
        blobs = [column for column in columns if "blob" in column.type.lower()]
        self.left_out: Sequence[str] = [
            f"the column {column.name} ({column.type})" for column in blobs
            if column.name not in self.key
        ]  # fmt: skip
        own = [] if len(self.key) > 1 else self.key
        self.columns: Sequence[Column] = [
            column for column in columns if column not in blobs and column.name not in own
        ]
        self.schema: Schema = schema_of_texts(
            name, {column.name: self._field(column) for column in self.columns},
            self._indexed(), hints,
        )  # fmt: skip
        chosen = ", ".join(
            name if name == "rowid" else quoted(name)
            for name in (*self.key, *(column.name for column in self.columns))
        )
        self._select = self._rows = f"SELECT {chosen} FROM {quoted(name)}"

    def foreign(self, database: str) -> ForeignTable:
        """Return the table as a reader of the database of this name offers it."""
        (rows,) = self._db.execute(f"SELECT count(*) FROM {quoted(self.name)}").fetchone()
        name = "query" if self.name == QUERY else self.name
        return foreign_texts(name, self.layout, rows, self.schema, self.left_out, database, self)

    def copy(self) -> None:
        """Copy all rows into a temporary file, from which ``chunks`` reads them then.

        Without WAL, a reader keeps writers from their commits until its last row.
        """
        self._db.execute(f"DROP TABLE IF EXISTS temp.{_COPY}")
        self._db.execute(f"CREATE TEMP TABLE {_COPY} AS {self._select}")
        self._rows = f"SELECT * FROM temp.{_COPY}"

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]:
        """Yield all rows for a table of this schema, up to ``size`` at once."""
        for rows in batches(self._db.execute(self._rows), size):
            yield self._chunk(rows, schema)

    def some(self, keys: Sequence[Sequence[Any]], schema: Schema) -> tuple[Chunk, set[str]]:
        """Return the rows with these keys, and the ids of the keys that no row has."""
        by = " AND ".join(f"{name if name == 'rowid' else quoted(name)} = ?" for name in self.key)
        find = f"{self._select} WHERE {by}"
        rows = [row for key in keys for row in self._db.execute(find, key)]
        present = {id_of(row[: len(self.key)]) for row in rows}
        absent = {id for key in keys if (id := id_of(key)) is not None and id not in present}
        return self._chunk(rows, schema), absent

    def _chunk(self, rows: Sequence[tuple[Any, ...]], schema: Schema) -> Chunk:
        count = len(self.key)
        named = (
            (
                row[:count],
                {c.name: c.value(v) for c, v in zip(self.columns, row[count:], strict=True)},
            )
            for row in rows
        )
        return chunk_of(named, schema)

    def _field(self, column: Column) -> Field | None:
        """Return the field of a column that is named or has an index."""
        declared = column.type.lower()
        kind = next((k for k, words in _LOOSE if any(w in declared for w in words)), None)
        if (field := column.field or (kind and Field(kind))) is not None or declared:
            return field
        few = f"SELECT {quoted(column.name)} FROM {quoted(self.name)} LIMIT {_FIRST_ROWS}"
        kinds = kinds_in([value for (value,) in self._db.execute(few)])
        return field_of_kinds(kinds) if kinds else None

    def _indexed(self) -> set[str]:
        """Return the columns that an index of the table begins with."""
        first = "SELECT i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i"
        rows = self._db.execute(f"{first} WHERE i.seqno = 0 AND i.cid >= 0", (self.name,))
        return {name for (name,) in rows}


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


def key_of(
    table: str, hints: Hints, keys: Sequence[str], names: Sequence[str], hidden: Sequence[str] = ()
) -> Sequence[str]:
    """Return the column that the user names, or else the primary key, or the column ``id``."""
    wanted = hints.id_column
    if wanted is None and (keys or "id" in names):
        return keys or ["id"]
    if wanted in (*names, *hidden):
        return [wanted]
    if hints.wants_new_ids:
        raise ConfigError(
            "rows whose vectors are made of a text need ids of their own, by which the same import "
            "finds them again; name a column with --id-column", key="--id-column",
        )  # fmt: skip
    lack = "no primary key" if wanted is None else f"no column {wanted!r}"
    raise ConfigError(
        f"{table!r} has {lack}; name a column whose values are unique with --id-column: "
        f"{', '.join((*names, *hidden)):.500}",
        key="--id-column",
    )


def schema_of_texts(
    table: str, columns: Mapping[str, Field | None], indexed: Iterable[str], hints: Hints
) -> Schema:
    """Return the schema for rows with these columns; dimension and model are the embedder's.

    A column that is named, or has an index, becomes a field. The payload keeps the others.
    """
    new = hints.new
    fields: dict[str, Field | None] = {
        name: Field(kind.kind, index="btree") for name in indexed if (kind := columns.get(name))
    }
    texts = [*new.text, *([] if new.embed is None else [new.embed])]
    for option, names in (("--text", new.text), ("--index", new.index), ("--embed", texts)):
        for name in names:
            if name not in columns:
                listed = ", ".join(columns)
                raise ConfigError(
                    f"{option} {name}: {table!r} has no such column; the columns: {listed:.500}",
                    key=option,
                )
            if name in texts and getattr(fields.get(name), "kind", None) != "text":
                fields[name] = Field(str)
            fields.setdefault(name, columns[name])
    kept, _ = fields_of(
        {name: fields[name] for name in columns if name in fields}, USUAL_VECTORS[0]
    )
    schema = Schema(
        0, metric=new.metric or "cosine", model=new.model, fields=kept, embed=new.embed_of(kept)
    )
    return with_indexes(schema, new.text, new.index)


def foreign_texts(
    name: str, layout: str, rows: int, schema: Schema, left_out: Sequence[str], database: str,
    part: Any,
) -> ForeignTable:  # fmt: skip
    """Return a table with texts as a reader of the database of this name offers it."""
    notes = tuple(f"not imported: {column}" for column in left_out)
    base = f"{database}#{name}"
    return ForeignTable(
        legal_table_name(name), name, layout, rows, schema, notes, part=part, texts=True, base=base
    )


def chunk_of(rows: Iterable[tuple[Sequence[Any], Mapping[str, Any]]], schema: Schema) -> Chunk:
    """Return rows, given by their keys and columns, for a table of a schema."""
    taken = ("id", "payload", schema.vector)
    kept: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    for key, columns in rows:
        id = id_of(key)
        try:
            row = {
                f"{name}_" if name in taken else name:
                value if name in schema.fields else storable(value, name, large=str)
                for name, value in columns.items()
            }  # fmt: skip
        except AiovecError as exc:
            rejects.append(Reject(id, id, str(exc)))
        else:
            kept.append({"id": id, **row})
    return Chunk(kept, [row["id"] or "" for row in kept], rejects)


def batches(cursor: Any, size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a statement, up to ``size`` at once, and fewer if they are large."""
    rows: list[tuple[Any, ...]] = []
    nbytes = 0
    while fetched := cursor.fetchmany(min(size, _ROWS_AT_ONCE)):
        rows += fetched
        nbytes += sum(len(v) for row in fetched for v in row if isinstance(v, (bytes, str)))
        if len(rows) >= size or nbytes >= BYTES_AT_ONCE:
            yield rows
            rows, nbytes = [], 0
    if rows:
        yield rows


def as_text(text: bytes) -> str:
    """Return a text of SQLite; bytes that are no UTF-8 become lone surrogates."""
    return text.decode("utf-8", "surrogateescape")
