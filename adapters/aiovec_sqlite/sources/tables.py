"""Tables with a vector in a column: vec0's own, and ordinary ones with BLOBs or JSON text."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aiovec.backend import MAX_DIM, Metric, Schema
from aiovec.backend.foreign import Chunk, ForeignTable, Hints, Reject, Skipped, legal_table_name
from aiovec.errors import AiovecError, ConfigError

from ..errors import failures
from ..layout import quoted
from .blobs import DTYPES, JSON, Matrix, batches, is_damage, matrix_of, numbers_in, readings
from .catalog import (
    Catalog,
    Column,
    Kept,
    composed,
    field_of,
    free_names,
    kept_columns,
    merged,
    model_column,
    parsed,
)

_SAMPLE = 200
# BLOBs that may be vectors: by their name, or since so many are of one length that no digest, key
# or UUID has.
_VECTOR_NAME = re.compile(r"embed|vector|(?<![a-z])(vec|emb)s?(?![a-z])", re.IGNORECASE)
_FEWEST_ALIKE = 5
# Beginnings of what others keep in such columns: shapes, pictures, documents.
_OTHERS = (b"GP\0", b"<", b"{", b"[", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"%PDF", b"PK")
_DIGESTS = frozenset({0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64})
_METRICS: dict[str, Metric] = {"cosine": "cosine", "l2": "l2"}
# How far two vectors may lie apart, by their length, and be the same one: float16, or digits that
# were left out in JSON, are off by less than 0.01. int8 keeps little more than the direction.
_SAME = {"float32": 0.01, "int8": 0.3}
# Vectors of a second length get a table of their own from this share of a model's rows. Fewer are
# taken for mistakes, and each is a reject.
_OWN_TABLE = 0.05


@dataclass(frozen=True, slots=True)
class Copy:
    """A vec0 table that repeats a table's vectors: its key has the values of the table's column."""

    table: str
    key: str
    column: str


@dataclass(frozen=True, slots=True)
class Part:
    """One table to read: all of its rows, or those of one model or one length of vectors.

    ``ids`` are the columns that make the id. ``place`` tells where a row stands: a column, or None
    for the id itself. Of the BLOBs only those of ``length`` bytes are read, or with None all but
    those of ``other_lengths``.
    """

    table: str
    place: str | None
    ids: tuple[str, ...]
    vector: str
    dtype: str
    columns: tuple[Kept, ...]
    model_column: str | None = None
    model: str | None = None
    length: int | None = None
    other_lengths: tuple[int, ...] = ()
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of one model, and of one length where a model has several."""

    model: str | None
    rows: int
    dtype: str
    dim: int
    length: int | None = None
    other_lengths: tuple[int, ...] = ()


@dataclass(slots=True)
class _Found:
    """A table before its rows are parted by model."""

    table: str
    layout: str
    keys: tuple[str, ...]
    place: str | None
    vector: str
    metric: Metric
    groups: list[_Group]
    columns: list[tuple[Column, bool]]
    model_column: str | None
    notes: list[str]
    omitted: list[str] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)

    @property
    def dims(self) -> set[int]:
        return {group.dim for group in self.groups}


def survey(
    db: sqlite3.Connection,
    catalog: Catalog,
    vec0: Sequence[str],
    ordinary: Sequence[str],
    hints: Hints,
    taken: set[str],
) -> tuple[list[ForeignTable], list[Skipped]]:
    """The vec0 and ordinary tables that can be taken, and those with vectors that cannot.

    With ``hints.table`` the reason is raised instead. A vec0 table that a trigger or its name makes
    the index of an ordinary table with the same vectors is not a table of its own.
    """
    skipped: list[Skipped] = []
    found: dict[str, _Found] = {}
    for name in (*ordinary, *vec0):
        with _skipping(catalog, name, hints, skipped):
            is_vec0 = name in catalog.modules
            one = _vec0(db, catalog, name, hints) if is_vec0 else _ordinary(
                db, catalog, name, hints
            )  # fmt: skip
            if one is not None:
                found[name] = one
            elif (
                hints.table is None
                and hints.vector_column is None
                and (doubt := _doubt(db, name, catalog.columns(name)))
            ):
                skipped.append(Skipped(name, catalog.count(name), doubt))
    for name in vec0:
        owners = [
            one for owner, one in found.items()
            if name in {related for related, _ in catalog.indexes_of(owner)}
        ]  # fmt: skip
        if name in found and any(_add_index(db, catalog, one, found[name]) for one in owners):
            del found[name]
    tables: list[ForeignTable] = []
    for name in (*vec0, *ordinary):
        if name in found:
            with _skipping(catalog, name, hints, skipped):
                tables += _tables(db, found[name], hints, taken)
    return tables, skipped


class _skipping:  # noqa: N801 - reads as a statement
    """Let a table that cannot be taken keep none of the others from being taken."""

    def __init__(self, catalog: Catalog, name: str, hints: Hints, skipped: list[Skipped]) -> None:
        self._catalog = catalog
        self._name = name
        self._hints = hints
        self._skipped = skipped

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        known = isinstance(error, AiovecError) or (
            isinstance(error, failures()) and not is_damage(error)
        )
        if not known or self._hints.table is not None:
            return False
        try:
            rows = self._catalog.count(self._name)
        except failures():
            rows = None
        self._skipped.append(Skipped(self._name, rows, str(error)))
        return True


def _add_index(db: sqlite3.Connection, catalog: Catalog, table: _Found, index: _Found) -> bool:
    """Take a vec0 table for the index of a table, if it repeats its vectors."""
    link = _link(db, catalog, table, index) if index.dims & table.dims else None
    if link is None:
        return False
    table.copies.append(Copy(index.table, index.place or "rowid", link))
    table.metric = index.metric
    table.notes.append(f"left out, because it indexes the same vectors: {index.table}")
    own = {column.name.lower() for column, _ in table.columns}
    others = [f"the column {c.name}" for c, _ in index.columns if c.name.lower() not in own]
    table.omitted += [f"{what} of {index.table}" for what in (*others, *index.omitted)]
    return True


def _link(db: sqlite3.Connection, catalog: Catalog, table: _Found, index: _Found) -> str | None:
    """The table's column by which a vec0 table repeats its vectors; None where it does not."""
    key = index.place or "rowid"
    names = [column.name for column, _ in table.columns]
    links = [name for name in names if name.lower() == key.lower()]
    links += table.keys if len(table.keys) == 1 else ()
    links += ["rowid"] if catalog.has_rowid(table.table) else ()
    shared = {link: _shared(db, table, link, index) for link in links}
    same = [link for link in links if shared[link] is not None]
    return max(same, key=lambda link: shared[link] or 0, default=None)


def _shared(db: sqlite3.Connection, table: _Found, link: str, index: _Found) -> int | None:
    """Count vectors that both have; None where one differs, or they have no row in common."""
    key = _as_column(index.place or "rowid")
    pairs = db.execute(
        f"SELECT i.v, t.{quoted(table.vector)} FROM "
        f"(SELECT {key} AS k, {quoted(index.vector)} AS v FROM {quoted(index.table)} "
        f"LIMIT {_SAMPLE}) i LEFT JOIN {quoted(table.table)} t ON t.{_as_column(link)} = i.k "
        f"LIMIT {_SAMPLE}"
    ).fetchall()
    element, dim = index.groups[0].dtype, index.groups[0].dim
    shared = 0
    for dtype in {group.dtype for group in table.groups if group.dim == dim}:
        own, good, _ = matrix_of([own for _, own in pairs], dim, dtype)
        chosen = [pair[0] for pair, there in zip(pairs, good.tolist(), strict=True) if there]
        copied, _, _ = matrix_of(chosen, dim, element)
        if not _are_same(own, copied, element, any_length=index.metric == "cosine"):
            return None
        shared += len(chosen)
    return shared if shared or not pairs else None


def _are_same(own: Matrix, copied: Matrix, element: str, *, any_length: bool) -> bool:
    """Return whether each vector is a copy of the other, or of its direction."""
    with np.errstate(invalid="ignore"):  # of NaN and infinity, which tell nothing of the others
        one, other = own.astype(np.float64), copied.astype(np.float64)
        if any_length or element == "int8":
            one, other = _scaled(one), _scaled(other)
        apart = np.linalg.norm(one - other, axis=1)
        return not bool((apart > _SAME[element] * np.linalg.norm(one, axis=1)).any())


def _scaled(matrix: Matrix) -> Matrix:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def _vec0(db: sqlite3.Connection, catalog: Catalog, name: str, hints: Hints) -> _Found:
    declared = catalog.vec0(name)
    if declared is None:
        raise ConfigError(f"the declaration of the vec0 table {name!r} cannot be read")
    able = [v for v in declared.vectors if v.element != "bit"]
    vectors = [v for v in able if hints.vector_column in (None, v.name)]
    shown = ", ".join(f"{v.name} {v.element}[{v.dim}]" for v in declared.vectors)
    if not able:
        raise ConfigError(
            f"the vec0 table {name!r} has the vectors {shown}; bit vectors cannot be imported. "
            "Import the float vectors that they were made from",
            key="--table",
        )
    if len(vectors) != 1:
        raise ConfigError(
            f"the vec0 table {name!r} has the vectors {shown}; choose one with --table {name} and "
            "--vector-column",
            key="--vector-column",
        )
    vector = vectors[0]
    notes, omitted = [], []
    for other in declared.vectors:
        if other.element == "bit" and other.dim == vector.dim:
            notes.append(f"left out, because it holds bits of the same vectors: {other.name}")
        elif other is not vector:
            omitted.append(f"the vectors {other.name} ({other.element}[{other.dim}])")
    if vector.metric not in _METRICS:
        notes.append(f"the metric {vector.metric} is unknown to aiovec; the table gets l2")
    columns = [(Column(c.name, c.type), c.is_partition) for c in declared.columns]
    modelled = _model_column(name, columns, hints)
    models: list[tuple[str | None, int]] = [(None, catalog.count(name))]
    if modelled is not None:
        models = db.execute(
            f"SELECT {_model_in(modelled)}, count(*) FROM {quoted(name)} GROUP BY 1 ORDER BY 1"
        ).fetchall() or models  # fmt: skip
    return _Found(
        name, "vec0 table", () if declared.key == "rowid" else (declared.key,), declared.key,
        vector.name, _METRICS.get(vector.metric, "l2"),
        [_Group(model, rows, vector.element, vector.dim) for model, rows in models],
        columns, modelled, notes, omitted,
    )  # fmt: skip


def _ordinary(db: sqlite3.Connection, catalog: Catalog, name: str, hints: Hints) -> _Found | None:
    """An ordinary table or view in which a column looks like vectors, or is said to be them."""
    columns = catalog.columns(name)
    vector = _vector_of(db, name, columns, hints)
    if vector is None:
        return None
    column, dtypes = vector
    others = [(c, False) for c in columns if c.name != column]
    modelled = _model_column(name, others, hints)
    if dtypes == (JSON,):
        groups = _groups_of_text(db, name, column, modelled)
    else:
        dims = {
            vector.dim for _, declared in catalog.indexes_of(name) for vector in declared.vectors
        }
        groups = _groups_of_blobs(db, name, column, modelled, hints.dtype, dtypes, dims)
    keys = tuple(c.name for c in sorted(columns, key=lambda c: c.in_key) if c.in_key)
    place = keys[0] if len(keys) == 1 else "rowid" if catalog.has_rowid(name) else None
    kinds = " and ".join(sorted({group.dtype for group in groups}))
    layout = "column of JSON text" if kinds == JSON else f"column of {kinds} BLOBs"
    return _Found(name, layout, keys, place, column, "cosine", groups, others, modelled, [])


def _vector_of(
    db: sqlite3.Connection, name: str, columns: list[Column], hints: Hints
) -> tuple[str, tuple[str, ...]] | None:
    """The column with the vectors, and the types that it may be of."""
    wanted = hints.vector_column
    for column in columns:
        if wanted not in (None, column.name):
            continue
        if hints.dtype is not None and wanted is not None:
            return column.name, (hints.dtype,)
        # A vector of zeros is no sign of any type.
        shown = quoted(column.name)
        sample = _sample(db, name, column.name, f"{shown} IS NOT zeroblob(length({shown}))")
        dtypes = readings(sample)
        if hints.dtype is not None and any(isinstance(value, bytes) for value in sample):
            dtypes = (hints.dtype,)
        if dtypes:
            return column.name, dtypes
    return None


def _doubt(db: sqlite3.Connection, name: str, columns: list[Column]) -> str | None:
    """Return why a table without a known vector may have some; None where nothing hints at it."""
    for column in columns:
        values = db.execute(
            f"SELECT {quoted(column.name)} FROM {quoted(name)} LIMIT {_SAMPLE}"
        ).fetchall()
        blobs = [value for (value,) in values if isinstance(value, bytes)]
        lengths = {len(blob) for blob in blobs}
        if blobs and all(blob.startswith(_OTHERS) for blob in blobs):
            continue
        named = _VECTOR_NAME.search(column.name) is not None and len(blobs) > 1
        alike = len(blobs) >= _FEWEST_ALIKE and len(lengths) == 1
        if named or (alike and not lengths & _DIGESTS):
            return (
                f"its BLOBs in {column.name!r} may be vectors, of a type that cannot be seen; "
                f"import them with --table {name} --vector-column {column.name} --dtype "
                f"({', '.join(DTYPES)})"
            )
    return None


def _sample(
    db: sqlite3.Connection, table: str, column: str, where: str = "1", values: Iterable[Any] = ()
) -> list[Any]:
    name = quoted(column)
    rows = db.execute(
        f"SELECT {name} FROM {quoted(table)} WHERE {name} IS NOT NULL AND {where} LIMIT {_SAMPLE}",
        tuple(values),
    )
    return [value for (value,) in rows.fetchall()]


def _groups_of_text(
    db: sqlite3.Connection, name: str, column: str, modelled: str | None
) -> list[_Group]:
    """A group for each model, its dimensions the usual ones of its first rows."""
    model = "NULL" if modelled is None else _model_in(modelled)
    rows = db.execute(f"SELECT {model}, count(*) FROM {quoted(name)} GROUP BY 1 ORDER BY 1")
    groups = []
    for of, count in rows.fetchall():
        sample = _sample(db, name, column, f"{model} IS ?", [of])
        lengths = [len(numbers) for text in sample if (numbers := numbers_in(text))]
        dim = max(set(lengths), key=lengths.count) if lengths else 0
        groups.append(_Group(of, count, JSON, _checked(name, column, JSON, dim)))
    return groups


def _groups_of_blobs(
    db: sqlite3.Connection,
    name: str,
    column: str,
    modelled: str | None,
    told: str | None,
    dtypes: tuple[str, ...],
    dims: set[int],
) -> list[_Group]:
    """A group for each model and each usual length of its BLOBs.

    ``dims`` are those of the vec0 tables that belong to the table.
    """
    model = "NULL" if modelled is None else _model_in(modelled)
    vector = quoted(column)
    rows = db.execute(
        f"SELECT {model}, CASE typeof({vector}) WHEN 'blob' THEN length({vector}) END, count(*) "
        f"FROM {quoted(name)} GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"
    ).fetchall()
    counts: dict[str | None, list[tuple[int, int]]] = {}
    totals: dict[str | None, int] = {}
    for of, length, count in rows:
        totals[of] = totals.get(of, 0) + count
        counts.setdefault(of, [])
        if length is not None:
            counts[of].append((length, count))
    groups = []
    for of, found in counts.items():
        likely = [length for length, n in found if n >= max(2, totals[of] * _OWN_TABLE)]
        read: list[tuple[int, str]] = []
        for length in likely or [length for length, _ in found[:1]]:
            where = f"{model} IS ? AND typeof({vector}) = 'blob' AND length({vector}) = ?"
            own = readings(_sample(db, name, column, where, [of, length]))
            if not own and not read:
                own = dtypes
            if not own and told is None:
                continue  # of an odd length: each is a reject
            dtype = told or _only(name, column, own, length, dims)
            if length % DTYPES[dtype].itemsize == 0:
                read.append((length, dtype))
        if not read:
            shown = ", ".join(str(length) for length, _ in found[:5]) or "no"
            raise ConfigError(
                f"the BLOBs of the column {column!r} of the table {name!r} have {shown} bytes, "
                f"which is no vector of {told or dtypes[0]}; say --dtype "
                f"({', '.join((*DTYPES, JSON))})",
                key="--dtype",
            )
        aside = dict(found)
        rest = totals[of] - sum(aside[length] for length, _ in read[1:])
        for i, (length, dtype) in enumerate(read):
            dim = _checked(name, column, dtype, length // DTYPES[dtype].itemsize)
            if i == 0:
                others = tuple(length for length, _ in read[1:])
                groups.append(_Group(of, rest, dtype, dim, None, others))
            else:
                groups.append(_Group(of, aside[length], dtype, dim, length))
    return groups


def _only(name: str, column: str, dtypes: tuple[str, ...], length: int, dims: set[int]) -> str:
    """The one type that BLOBs of a length are of."""
    if len(dtypes) > 1:
        fitting = [dtype for dtype in dtypes if length // DTYPES[dtype].itemsize in dims]
        if len(fitting) == 1:
            return fitting[0]
        raise ConfigError(
            f"the BLOBs of the column {column!r} of the table {name!r} may be vectors of "
            f"{' or '.join(dtypes)}; their bytes make sense as any of them. Choose one with "
            f"--table {name} and --dtype",
            key="--dtype", accepted=", ".join(dtypes),
        )  # fmt: skip
    return dtypes[0]


def _checked(name: str, column: str, dtype: str, dim: int) -> int:
    if not 1 <= dim <= MAX_DIM:
        raise ConfigError(
            f"the column {column!r} of the table {name!r} holds no importable vectors of {dtype} "
            f"(their usual length would be {dim})",
            key="--vector-column",
        )
    return dim


def _model_column(name: str, columns: list[tuple[Column, bool]], hints: Hints) -> str | None:
    modelled = model_column([column for column, _ in columns], hints.model_column)
    if hints.model_column is not None and modelled is None:
        raise ConfigError(
            f"the table {name!r} has no column {hints.model_column!r}", key="--model-column"
        )
    return modelled


def _model_in(column: str) -> str:
    """The model of a row, null where none is named; the sign keeps vec0 from having to filter."""
    return f"CAST(nullif(+{quoted(column)}, '') AS TEXT)"


def _tables(
    db: sqlite3.Connection, found: _Found, hints: Hints, taken: set[str]
) -> list[ForeignTable]:
    """A table as it is, or one for each embedding model and dimension: they must not be mixed."""
    models = {group.model for group in found.groups}
    tables = []
    seen: set[str | None] = set()
    for group in found.groups:
        wanted = found.table
        if len(models) > 1 and group.model is not None:
            wanted = f"{wanted}-{group.model}"
        if group.model in seen:
            wanted = f"{wanted}-{group.dim}d"
        seen.add(group.model)
        name = legal_table_name(wanted, taken)
        tables.append(_table(db, found, hints, name, group))
        taken.add(name)
    return tables


def _table(
    db: sqlite3.Connection, found: _Found, hints: Hints, name: str, group: _Group
) -> ForeignTable:
    names = [column.name for column, _ in found.columns]
    ids = _ids_of(found, names, hints)
    columns = [
        (c, p) for c, p in found.columns if (c.name,) != ids and c.name != found.model_column
    ]
    kept, fields, omitted = kept_columns(db, found.table, columns)
    notes = list(found.notes)
    if len(ids) > 1:
        notes.append(f"ids are made from the columns of the key, such as {'/'.join(ids)}")
    schema = Schema(
        group.dim, metric=found.metric, model=group.model, vector=_vector_name(found.vector, names),
        fields=fields,
    )  # fmt: skip
    part = Part(
        found.table, found.place, ids, found.vector, group.dtype, kept, found.model_column,
        group.model, group.length, group.other_lengths,
        tuple(found.copies) if group is found.groups[0] else (),
    )  # fmt: skip
    return ForeignTable(
        name, found.table, found.layout, group.rows, schema, tuple(notes),
        (*found.omitted, *omitted), part,
    )  # fmt: skip


def _vector_name(column: str, others: list[str]) -> str:
    """The name of the vector's column, or of none of the others where no vector can have it."""
    if field_of(Column(column, "text")) is not None:
        return column
    used = {other.lower() for other in others}
    usual = ("embedding", "vector", *(f"vector{n}" for n in range(len(used))))
    return next(name for name in usual if name not in used)


def _ids_of(found: _Found, names: list[str], hints: Hints) -> tuple[str, ...]:
    """The columns that make the ids: those of the key, else a column id, else the rowid."""
    if hints.id_column is not None:
        ids: tuple[str, ...] = (hints.id_column,)
    elif found.keys:
        ids = found.keys
    else:
        usual = next((name for name in names if name.lower() == "id"), found.place)
        ids = () if usual is None else (usual,)
    if not ids or not set(ids) <= {*names, found.place}:
        raise ConfigError(
            f"the table {found.table!r} has no column {hints.id_column or 'id'!r}, and no key; "
            f"choose the column of the ids with --id-column: {', '.join(names)}",
            key="--id-column",
        )
    return ids


def read(db: sqlite3.Connection, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
    """The rows of a table, or of one model or length in it."""
    part: Part = table.part
    names = [part.vector, *part.ids, *(kept.column.name for kept in part.columns)]
    if part.place is not None:
        names.append(part.place)
    sql = f"SELECT {', '.join(map(_as_column, names))} FROM {quoted(part.table)}"
    conditions: list[str] = []
    values: list[Any] = []
    if part.model_column is not None:
        conditions.append(f"{_model_in(part.model_column)} IS ?")
        values.append(part.model)
    vector = quoted(part.vector)
    lengths = part.other_lengths if part.length is None else (part.length,)
    if lengths:
        of_these = (
            f"(typeof({vector}) = 'blob' AND length({vector}) IN ({', '.join('?' * len(lengths))}))"
        )
        conditions.append(f"NOT {of_these}" if part.length is None else of_these)
        values += lengths
    if conditions:
        sql += f" WHERE {' AND '.join(conditions)}"
    for rows in batches(db, sql, values, size):
        yield _chunk(part, list(zip(*rows, strict=True)), schema)
    for copy in part.copies:
        key, column = f"c.{_as_column(copy.key)}", f"t.{_as_column(copy.column)}"
        # A join, since NOT EXISTS scans the table for each row where the column has no index.
        lonely = (
            f"SELECT {key} FROM {quoted(copy.table)} c "
            f"LEFT JOIN {quoted(part.table)} t ON {column} = {key} WHERE {column} IS NULL"
        )
        for rows in batches(db, lonely, (), size):
            reason = f"it is only in {copy.table}; {part.table} has no row for it"
            yield Chunk([], [], [Reject(place, None, reason) for (place,) in rows])


def _as_column(name: str) -> str:
    # Quoted, "rowid" would be taken for a text where a table has none.
    return name if name == "rowid" else quoted(name)


def _chunk(part: Part, columns: list[tuple[Any, ...]], schema: Schema) -> Chunk:
    vectors, *others = columns
    key_columns = others[: len(part.ids)]
    ids = list(map(as_id, key_columns[0]))
    if len(key_columns) > 1:
        ids = [composed(values) for values in zip(*key_columns, strict=True)]
    places = ids if part.place is None else others[-1]
    matrix, good, faults = matrix_of(vectors, schema.dim, part.dtype)
    rejects = [Reject(_place_of(places[i], i), _shown(ids[i]), why) for i, why in faults.items()]
    chosen = good.nonzero()[0].tolist()

    def taken(values: Iterable[Any]) -> list[Any]:
        held = list(values)
        return held if not faults else [held[i] for i in chosen]

    own = {"id", "payload", schema.vector}
    names = free_names([kept.column.name for kept in part.columns], own)
    rows: dict[str, Any] = {"id": taken(ids), schema.vector: matrix}
    merging: tuple[str, list[Any]] | None = None
    for name, kept, values in zip(names, part.columns, others[len(part.ids) :], strict=False):
        held = taken(values)
        if kept.form == "keys":
            merging = name, held
            continue
        if kept.form == "json":
            held = [parsed(value) for value in held]
        elif kept.column.kind == "bool":
            held = [bool(v) if v in (0, 1) else v for v in held]
        rows[name] = held
    stand = [_place_of(place, i) for i, place in enumerate(taken(places))]
    if merging is None:
        return Chunk(rows, stand, rejects)
    name, objects = merging
    keys = tuple(rows)
    mappings = [dict(zip(keys, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    reserved = {*own, *schema.fields, *keys}
    return Chunk(
        [
            {**row, **merged(name, value, reserved)}
            for row, value in zip(mappings, objects, strict=True)
        ],
        stand,
        rejects,
    )


def _place_of(value: Any, i: int) -> int | str:
    return value if isinstance(value, (int, str)) else str(i) if value is None else str(value)


def as_id(value: Any) -> Any:
    """An id as text where it is a whole number."""
    return str(value) if isinstance(value, int) else value


def _shown(value: Any) -> str | None:
    return None if value is None or isinstance(value, bytes) else str(value)
