"""Tables with a vector in a column: vec0's own, and ordinary ones with BLOBs or JSON text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aiovec.errors import ConfigError
from aiovec.schema import MAX_DIM, Field, Metric, Schema
from aiovec.sources import Chunk, ForeignTable, Hints, Reject, legal_table_name

from ..layout import quoted
from .blobs import DTYPES, JSON, looks_like, matrix_of, numbers_in
from .catalog import Catalog, Column, field_of, model_column

_SAMPLE = 200
_METRICS: dict[str, Metric] = {"cosine": "cosine", "l2": "l2"}


@dataclass(frozen=True, slots=True)
class Part:
    """One table to read: all of its rows, or those of one model.

    ``columns`` are the further columns, with the name each gets here.
    """

    table: str
    place: str
    id: str
    vector: str
    dtype: str
    columns: tuple[tuple[Column, str], ...]
    model_column: str | None = None
    model: str | None = None


@dataclass(slots=True)
class _Found:
    """A table before its rows are parted by model."""

    table: str
    layout: str
    key: str
    vector: str
    dtype: str
    dim: int
    metric: Metric
    columns: list[tuple[Column, bool]]
    notes: list[str]
    rows: int


def vec0_tables(
    db: sqlite3.Connection, catalog: Catalog, names: Iterable[str], hints: Hints, taken: set[str]
) -> list[ForeignTable]:
    """Bare vec0 tables."""
    found = []
    for name in names:
        one = _vec0(catalog, name, hints)
        found += _by_model(db, one, hints, taken)
    return found


def _vec0(catalog: Catalog, name: str, hints: Hints) -> _Found:
    declared = catalog.vec0(name)
    if declared is None:
        raise ConfigError(f"what the vec0 table {name!r} declares cannot be read")
    able = [v for v in declared.vectors if v.element != "bit"]
    vectors = [v for v in able if hints.vector_column in (None, v.name)]
    if len(vectors) != 1:
        shown = ", ".join(f"{v.name} {v.element}[{v.dim}]" for v in declared.vectors)
        raise ConfigError(
            f"the vec0 table {name!r} has the vectors {shown}; "
            + ("say which by --vector-column" if able else "bits are no vectors that can be taken"),
            key="--vector-column",
        )
    vector = vectors[0]
    notes = [f"not taken: the vectors {v.name}" for v in declared.vectors if v is not vector]
    if vector.metric not in _METRICS:
        notes.append(f"the metric {vector.metric} is not known here; the table gets l2")
    return _Found(
        name, "vec0 table", declared.key, vector.name, vector.element, vector.dim,
        _METRICS.get(vector.metric, "l2"),
        [(Column(c.name, c.type), c.is_partition) for c in declared.columns],
        notes, catalog.count(name),
    )  # fmt: skip


def ordinary_tables(
    db: sqlite3.Connection, catalog: Catalog, names: Iterable[str], hints: Hints, taken: set[str]
) -> list[ForeignTable]:
    """Ordinary tables and views in which a column looks like vectors, or is said to be it."""
    found = []
    for name in names:
        one = _ordinary(db, catalog, name, hints)
        if one is not None:
            found += _by_model(db, one, hints, taken)
    return found


def _ordinary(db: sqlite3.Connection, catalog: Catalog, name: str, hints: Hints) -> _Found | None:
    columns = catalog.columns(name)
    vector = _vector_of(db, name, columns, hints)
    if vector is None:
        return None
    column, dtype = vector
    dim = _dim_of(db, name, column, dtype)
    keys = [c.name for c in columns if c.in_key]
    key = keys[0] if len(keys) == 1 else "rowid" if catalog.has_rowid(name) else ""
    return _Found(
        name, f"column of {'JSON text' if dtype == JSON else f'{dtype} BLOBs'}", key, column,
        dtype, dim, "cosine", [(c, False) for c in columns if c.name != column], [],
        catalog.count(name),
    )  # fmt: skip


def _vector_of(
    db: sqlite3.Connection, name: str, columns: list[Column], hints: Hints
) -> tuple[str, str] | None:
    wanted = hints.vector_column
    for column in columns:
        if wanted not in (None, column.name):
            continue
        if hints.dtype is not None and wanted is not None:
            return column.name, hints.dtype
        if wanted is None and column.kind in ("int", "float", "bool"):
            continue
        quoted_name = quoted(column.name)
        sample = db.execute(
            f"SELECT {quoted_name} FROM {quoted(name)} WHERE {quoted_name} IS NOT NULL "
            f"LIMIT {_SAMPLE}"
        ).fetchall()
        dtype = looks_like([value for (value,) in sample])
        if hints.dtype is not None and any(isinstance(value, bytes) for (value,) in sample):
            dtype = hints.dtype
        if dtype is not None:
            return column.name, dtype
    return None


def _dim_of(db: sqlite3.Connection, name: str, column: str, dtype: str) -> int:
    vector, table = quoted(column), quoted(name)
    if dtype == JSON:
        sample = db.execute(
            f"SELECT {vector} FROM {table} WHERE {vector} IS NOT NULL LIMIT {_SAMPLE}"
        ).fetchall()
        lengths = [len(numbers) for (text,) in sample if (numbers := numbers_in(text))]
        usual = max(set(lengths), key=lengths.count) if lengths else 0
    else:
        row = db.execute(
            f"SELECT length({vector}) FROM {table} WHERE typeof({vector}) = 'blob' "
            "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
        ).fetchone()
        usual = 0 if row is None else row[0] // DTYPES[dtype].itemsize
    if not 1 <= usual <= MAX_DIM:
        raise ConfigError(
            f"the column {column!r} of the table {name!r} holds no vectors of {dtype} that can be "
            f"taken (their usual length would be {usual})",
            key="--vector-column",
        )
    return int(usual)


def _by_model(
    db: sqlite3.Connection, found: _Found, hints: Hints, taken: set[str]
) -> list[ForeignTable]:
    """A table as it is, or one for each embedding model: two models must not be mixed."""
    every = [column for column, _ in found.columns]
    modelled = model_column(every, hints.model_column)
    if hints.model_column is not None and modelled is None:
        raise ConfigError(
            f"the table {found.table!r} has no column {hints.model_column!r}", key="--model-column"
        )
    models: list[tuple[str | None, int]] = [(None, found.rows)]
    if modelled is not None:
        models = (
            db.execute(
                f"SELECT {_model_in(modelled)}, count(*) FROM {quoted(found.table)} "
                "GROUP BY 1 ORDER BY 1"
            ).fetchall()
            or models
        )
    tables = []
    for model, rows in models:
        wanted = found.table if len(models) == 1 or model is None else f"{found.table}-{model}"
        name = legal_table_name(wanted, taken)
        taken.add(name)
        tables.append(_table(found, hints, name, model, rows, modelled))
    return tables


def _model_in(column: str) -> str:
    """The model of a row, null where none is named; the sign keeps vec0 from having to filter."""
    return f"CAST(nullif(+{quoted(column)}, '') AS TEXT)"


def _table(
    found: _Found, hints: Hints, name: str, model: str | None, rows: int, modelled: str | None
) -> ForeignTable:
    names = [column.name for column, _ in found.columns]
    id = hints.id_column or _usual_id(found.key, names)
    if id not in (*names, found.key):
        raise ConfigError(
            f"the table {found.table!r} has no column {id!r}; say by --id-column which of these "
            f"holds the ids: {', '.join(names)}",
            key="--id-column",
        )
    fields: dict[str, Field] = {}
    columns = []
    notes = list(found.notes)
    for column, is_partition in found.columns:
        if column.name in (id, modelled):
            continue
        if column.kind == "blob":
            notes.append(f"not taken, being a BLOB: {column.name}")
            continue
        field = field_of(column, is_partition=is_partition)
        if field is not None:
            fields[column.name] = field
        # A row's payload has no key of these names.
        here = f"_{column.name}" if column.name in ("id", "payload") else column.name
        columns.append((column, column.name if field is not None else here))
    vector = found.vector if field_of(Column(found.vector, "text")) else "embedding"
    if vector in fields:
        vector = "vector"
    schema = Schema(found.dim, metric=found.metric, model=model, vector=vector, fields=fields)
    place = found.key or id
    part = Part(found.table, place, id, found.vector, found.dtype, tuple(columns), modelled, model)
    return ForeignTable(name, found.table, found.layout, rows, schema, tuple(notes), part)


def _usual_id(key: str, names: list[str]) -> str:
    if key not in ("rowid", ""):
        return key
    return next((name for name in names if name.lower() == "id"), key)


def read(db: sqlite3.Connection, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
    """The rows of a table, or of one model in it."""
    part: Part = table.part
    wanted = [part.place, part.id, part.vector, *(column.name for column, _ in part.columns)]
    sql = f"SELECT {', '.join(_as_column(name) for name in wanted)} FROM {quoted(part.table)}"
    values: tuple[Any, ...] = ()
    if part.model_column is not None:
        sql += f" WHERE {_model_in(part.model_column)} IS ?"
        values = (part.model,)
    rows = db.execute(sql, values)
    try:
        while found := rows.fetchmany(size):
            yield _chunk(part, list(zip(*found, strict=True)), schema)
    finally:
        rows.close()


def _as_column(name: str) -> str:
    # Quoted, "rowid" would be taken for a text where a table has none.
    return name if name == "rowid" else quoted(name)


def _chunk(part: Part, columns: list[tuple[Any, ...]], schema: Schema) -> Chunk:
    places, ids, vectors, *others = columns
    matrix, good, faults = matrix_of(vectors, schema.dim, part.dtype)
    rejects = [Reject(places[i], _shown(ids[i]), reason) for i, reason in faults.items()]
    chosen = good.nonzero()[0].tolist()

    def kept(values: Iterable[Any]) -> list[Any]:
        held = list(values)
        return held if not faults else [held[i] for i in chosen]

    rows: dict[str, Any] = {"id": [as_id(id) for id in kept(ids)], schema.vector: matrix}
    for (column, name), values in zip(part.columns, others, strict=True):
        held = kept(values)
        if column.kind == "bool":
            held = [bool(v) if v in (0, 1) else v for v in held]
        rows[name] = held
    return Chunk(rows, kept(places), rejects)


def as_id(value: Any) -> Any:
    """An id as text where it is a whole number."""
    return str(value) if isinstance(value, int) else value


def _shown(value: Any) -> str | None:
    return None if value is None or isinstance(value, bytes) else str(value)
