"""Rows that can be taken and rows that cannot, by the rules of the door itself.

A chunk that passes is checked once. Of one that does not, the faults that come by the thousand
(vectors that are missing, of a wrong length, not finite, zero) are found in one pass of NumPy,
and what is left is halved until the bad rows stand alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .._input.rows import repeated_ids, to_table
from .._model.arrays import BoolArray
from .._model.arrow import is_list, is_number
from .._model.schema import Embed, Schema, may_lack_vectors
from ..backend.foreign import Chunk, Reject
from ..errors import DimensionMismatchError, InvalidRowError, InvalidVectorError

# The last ones are what Arrow and Python stumble over in values that are made to do harm.
_FAULTS = (
    InvalidRowError, InvalidVectorError, DimensionMismatchError, pa.ArrowException, OverflowError,
    RecursionError, UnicodeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sifted:
    """The rows that can be taken, where each stands in the source, and the others."""

    rows: pa.Table
    places: Sequence[int | str]
    rejects: list[Reject]


def sift(chunk: Chunk, schema: Schema, *, last_counts: bool) -> Sifted:
    """Check a chunk once for all: its rows enter the store as ``CheckedRows``.

    Of rows with one id the first is taken, or with ``last_counts`` the last.
    """
    rejects = list(chunk.rejects)
    rows, places = chunk.rows, chunk.places
    if not len(places):
        return Sifted(schema.to_arrow().empty_table(), [], rejects)
    _check_columns(rows, schema)
    try:
        table = to_table(rows, schema)
    except _FAULTS:
        rows, places, found = _without_bad_vectors(rows, places, schema)
        rejects += found
        tables: list[tuple[pa.Table, Sequence[int | str]]] = []
        _halve(rows, places, schema, tables, rejects)
        table = pa.concat_tables([schema.to_arrow().empty_table(), *(t for t, _ in tables)])
        places = [place for _, part in tables for place in part]
    if schema.embed is not None and not schema.vector_nullable:
        table, places, found = _without_text(table, places, schema, schema.embed)
        rejects += found
    if not last_counts:
        table, places, found = _without_repeated(table, places)
        rejects += found
    return Sifted(table, places, rejects)


def reason_of(error: Exception) -> str:
    """Return the fault of a row, without its place in a chunk that the user never sees."""
    if isinstance(error, InvalidVectorError):
        return f"the vector {error.reason}"
    if isinstance(error, DimensionMismatchError):
        return f"the vector has {error.given} dimensions, not {error.expected}"
    if isinstance(error, InvalidRowError):
        return error.reason if error.field is None else f"field {error.field!r}: {error.reason}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)


def _check_columns(rows: Any, schema: Schema) -> None:
    """Refuse columns of a wrong type as a whole: no row of them could be taken."""
    if not isinstance(rows, pa.Table):
        return
    to_table(rows.slice(0, 0), schema)
    if schema.vector in rows.column_names:
        kind = rows.schema.field(schema.vector).type
        if pa.types.is_fixed_size_list(kind) and kind.list_size != schema.dim:
            raise DimensionMismatchError(schema.dim, kind.list_size)


def _halve(
    rows: Any,
    places: Sequence[int | str],
    schema: Schema,
    tables: list[tuple[pa.Table, Sequence[int | str]]],
    rejects: list[Reject],
) -> None:
    # A stack, not recursion, so that the rows come out in their order without deep frames.
    waiting = [(rows, places)]
    while waiting:
        rows, places = waiting.pop()
        count = len(places)
        if not count:
            continue
        try:
            tables.append((to_table(rows, schema), places))
        except _FAULTS as exc:
            if count == 1:
                rejects.append(Reject(places[0], _id_of(rows, 0), reason_of(exc)))
                continue
            half = count // 2
            waiting.append((_slice(rows, half, count), places[half:]))
            waiting.append((_slice(rows, 0, half), places[:half]))


def _slice(rows: Any, start: int, stop: int) -> Any:
    if isinstance(rows, pa.Table):
        return rows.slice(start, stop - start)
    if isinstance(rows, Mapping):
        return {name: column[start:stop] for name, column in rows.items()}
    return rows[start:stop]


def _take(rows: Any, good: BoolArray) -> Any:
    if isinstance(rows, pa.Table):
        return rows.filter(pa.array(good))
    chosen = np.flatnonzero(good).tolist()
    if isinstance(rows, Mapping):
        return {
            name: column[good] if isinstance(column, np.ndarray) else [column[i] for i in chosen]
            for name, column in rows.items()
        }
    return [rows[i] for i in chosen]


def _id_of(rows: Any, i: int) -> str | None:
    if isinstance(rows, pa.Table):
        id = rows.column("id")[i].as_py()
    elif isinstance(rows, Mapping):
        id = rows["id"][i]
    else:
        id = rows[i].get("id")
    return id if isinstance(id, str) else None


def _without_bad_vectors(
    rows: Any, places: Sequence[int | str], schema: Schema
) -> tuple[Any, Sequence[int | str], list[Reject]]:
    """The rows whose vectors can be taken, and a reject for each of the others."""
    without = isinstance(rows, (pa.Table, Mapping)) and schema.vector not in _names_of(rows)
    if without and may_lack_vectors(schema):
        return rows, places, []
    if isinstance(rows, pa.Table):
        faults = _faults_of_column(rows.column(schema.vector), schema)
    elif isinstance(rows, Mapping) and isinstance(rows[schema.vector], np.ndarray):
        faults = _faults_of_matrix(rows[schema.vector], schema)
    else:
        faults = _faults_of_mappings(rows, schema)
    if not faults:
        return rows, places, []
    good = np.ones(len(places), dtype=bool)
    rejects = []
    for i in sorted(faults):
        good[i] = False
        rejects.append(Reject(places[i], _id_of(rows, i), faults[i]))
    return _take(rows, good), [places[i] for i in np.flatnonzero(good).tolist()], rejects


def _faults_of_column(column: pa.ChunkedArray, schema: Schema) -> dict[int, str]:
    kind = column.type
    if not (is_list(kind) and is_number(kind.value_type)):
        return {}
    there = column.is_valid().to_numpy()
    missing = [] if may_lack_vectors(schema) else np.flatnonzero(~there).tolist()
    faults = dict.fromkeys(missing, "the vector is missing")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    wrong = there & (lengths != schema.dim)
    for i in np.flatnonzero(wrong).tolist():
        faults[i] = f"the vector has {lengths[i]} dimensions, not {schema.dim}"
    right = there & ~wrong
    where = np.flatnonzero(right)
    if len(where):
        values = pc.list_flatten(column.filter(pa.array(right)))
        holes = values.is_null().to_numpy().reshape(-1, schema.dim).any(axis=1)
        for i in where[holes].tolist():
            faults[i] = "the vector has a null in it"
        matrix = pc.fill_null(values, 1).to_numpy().reshape(-1, schema.dim)
        for i, reason in _faults_of_matrix(matrix, schema).items():
            faults.setdefault(int(where[i]), reason)
    return faults


def _faults_of_mappings(rows: Any, schema: Schema) -> dict[int, str]:
    """The faults of vectors that are there and have the right length; halving finds the rest."""
    if isinstance(rows, Mapping):
        return {}
    vectors = [row.get(schema.vector) for row in rows]
    right = [
        i for i, v in enumerate(vectors)
        if isinstance(v, (list, np.ndarray)) and len(v) == schema.dim
    ]  # fmt: skip
    try:
        matrix = np.asarray([vectors[i] for i in right])
    except (ValueError, TypeError, OverflowError):
        return {}
    return {right[i]: reason for i, reason in _faults_of_matrix(matrix, schema).items()}


def _faults_of_matrix(matrix: npt.NDArray[Any], schema: Schema) -> dict[int, str]:
    if matrix.ndim != 2 or matrix.shape[1] != schema.dim or matrix.dtype.kind not in "fiu":
        return {}  # the same for every row, and so for the door to tell
    with np.errstate(over="ignore", invalid="ignore"):
        stored = matrix.astype(np.float32, copy=False)
    faults: dict[int, str] = {}
    finite = np.isfinite(stored)
    for i in np.flatnonzero(~finite.all(axis=1)).tolist():
        value = matrix[i][~finite[i]][0]
        too_large = ", too large for float32" if np.isfinite(value) else ""
        faults[i] = f"the vector has {value} in it{too_large}"
    if schema.metric == "cosine":
        for i in np.flatnonzero((stored == 0).all(axis=1)).tolist():
            faults[i] = "the vector is zero, so it has no cosine"
    return faults


def _names_of(rows: pa.Table | Mapping[str, Any]) -> Sequence[str]:
    return rows.column_names if isinstance(rows, pa.Table) else list(rows)


def _without_text(
    table: pa.Table, places: Sequence[int | str], schema: Schema, embed: Embed
) -> tuple[pa.Table, Sequence[int | str], list[Reject]]:
    """The rows of which an embedder can make the vectors that are missing."""
    length = pc.fill_null(pc.binary_length(table.column(embed.field)), 0)
    bad = pc.and_(table.column(schema.vector).is_null(), pc.equal(length, 0))
    good = ~bad.to_numpy().astype(bool)
    if good.all():
        return table, places, []
    ids = table.column("id")
    reason = f"there is no vector, and no text in {embed.field!r} to make one of"
    rejects = [Reject(places[i], ids[i].as_py(), reason) for i in np.flatnonzero(~good).tolist()]
    return _take(table, good), [places[i] for i in np.flatnonzero(good).tolist()], rejects


def _without_repeated(
    table: pa.Table, places: Sequence[int | str]
) -> tuple[pa.Table, Sequence[int | str], list[Reject]]:
    if not repeated_ids(table):
        return table, places, []
    seen: set[str] = set()
    good = np.ones(table.num_rows, dtype=bool)
    rejects = []
    for i, id in enumerate(table.column("id").to_pylist()):
        if id in seen:
            good[i] = False
            rejects.append(Reject(places[i], id, "the id came before in the same source"))
        seen.add(id)
    return _take(table, good), [places[i] for i in np.flatnonzero(good).tolist()], rejects


def without_ids(sifted: Sifted, ids: set[str], reason: str) -> Sifted:
    """The same rows without those of some ids, which become rejects."""
    held = sifted.rows.column("id").to_pylist()
    good = np.fromiter((id not in ids for id in held), dtype=bool, count=len(held))
    bad = np.flatnonzero(~good).tolist()
    return Sifted(
        _take(sifted.rows, good),
        [sifted.places[i] for i in np.flatnonzero(good).tolist()],
        [*sifted.rejects, *(Reject(sifted.places[i], held[i], reason) for i in bad)],
    )
