"""Use the checks of ``insert`` to divide rows into importable rows and rejects.

A chunk that passes is checked once. A chunk that fails is halved until each bad row is found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec import Embed
from aiovec._input.rows import Collected, repeated_ids, to_batch
from aiovec.backend import BoolArray, Schema
from aiovec.errors import DimensionMismatchError, InvalidRowError, InvalidVectorError

from .sources import CAME_BEFORE, Chunk, Reject

# Arrow and Python raise the last four for values that no column can store.
_FAULTS = (
    InvalidRowError, InvalidVectorError, DimensionMismatchError, pa.ArrowException, OverflowError,
    RecursionError, UnicodeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Importable rows with their places in the source, and rejects for the other rows."""

    rows: pa.Table
    places: Sequence[int | str]
    rejects: list[Reject]

    def only(self, good: BoolArray, reason: str) -> CheckedRows:
        """Return the rows for which ``good`` is true, and rejects for the other rows."""
        ids = self.rows.column("id")
        bad = [
            Reject(self.places[i], ids[i].as_py(), reason) for i in np.flatnonzero(~good).tolist()
        ]
        places = [self.places[i] for i in np.flatnonzero(good).tolist()]
        return CheckedRows(self.rows.filter(pa.array(good)), places, [*self.rejects, *bad])

    def without(self, ids: Collection[str], reason: str) -> CheckedRows:
        """Return the rows without these ids; rows with one of the ids become rejects."""
        held = self.rows.column("id").to_pylist()
        good = np.fromiter((id not in ids for id in held), dtype=bool, count=len(held))
        return self.only(good, reason)


def check_chunk(
    chunk: Chunk, schema: Schema, *, last_counts: bool, new_ids: bool = False
) -> CheckedRows:
    """Check a chunk, so that its rows can be stored as a ``Batch`` without a second check.

    If rows have the same id, the first is imported, or with ``last_counts`` the last. With
    ``new_ids``, the rows have no ids and get new ones.
    """
    rows, places, rejects = chunk.rows, chunk.places, list(chunk.rejects)
    if not len(places):
        return CheckedRows(schema.to_arrow().empty_table(), [], rejects)
    _check_length(rows, schema)
    checked = _halved(rows, places, schema, new_ids, rejects)
    if schema.embed is not None and not schema.vector_nullable:
        reason = f"there is no vector, and no text in {schema.embed.field!r} to compute one from"
        checked = checked.only(_with_text(checked.rows, schema, schema.embed), reason)
    if not last_counts and repeated_ids(checked.rows.column("id").to_pylist()):
        checked = checked.only(_first_of_id(checked.rows), CAME_BEFORE)
    return checked


def reason_of(error: Exception) -> str:
    """Return the reason for a reject, without the position in the chunk, which users never see."""
    if isinstance(error, InvalidVectorError):
        return f"the vector {error.reason}"
    if isinstance(error, DimensionMismatchError):
        return f"the vector has {error.given} dimensions, not {error.expected}"
    if isinstance(error, InvalidRowError):
        return error.reason if error.field is None else f"field {error.field!r}: {error.reason}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)


def _check_length(rows: Any, schema: Schema) -> None:
    """Raise DimensionMismatchError if the column's type gives all vectors the wrong length."""
    if isinstance(rows, pa.Table) and schema.vector in rows.column_names:
        kind = rows.schema.field(schema.vector).type
        if pa.types.is_fixed_size_list(kind) and kind.list_size != schema.dim:
            raise DimensionMismatchError(schema.dim, kind.list_size)


def _halved(
    rows: Any, places: Sequence[int | str], schema: Schema, new_ids: bool, rejects: list[Reject]
) -> CheckedRows:
    """Return the rows that pass the checks. Rows that fail together are split into halves."""
    tables: list[pa.Table] = []
    kept: list[int | str] = []
    # A stack instead of recursion: the rows stay in order, and the call stack stays flat.
    waiting = [(rows, places)]
    while waiting:
        rows, places = waiting.pop()
        count = len(places)
        if not count:
            continue
        try:
            given = Collected([rows], "tables") if isinstance(rows, pa.Table) else Collected(rows)
            batch = to_batch(given, schema, new_ids="always" if new_ids else "never")
            tables.append(batch.table(schema))
            kept += places
        except _FAULTS as exc:
            if count == 1:
                rejects.append(Reject(places[0], _id_of(rows, 0), reason_of(exc)))
                continue
            half = count // 2
            waiting.append((_slice(rows, half, count), places[half:]))
            waiting.append((_slice(rows, 0, half), places[:half]))
    return CheckedRows(pa.concat_tables(tables or [schema.to_arrow().empty_table()]), kept, rejects)


def _slice(rows: Any, start: int, stop: int) -> Any:
    if isinstance(rows, pa.Table):
        return rows.slice(start, stop - start)
    return rows[start:stop]


def _id_of(rows: Any, i: int) -> str | None:
    if isinstance(rows, pa.Table):
        id = rows.column("id")[i].as_py() if "id" in rows.column_names else None
    else:
        id = rows[i].get("id")
    return str(id) if isinstance(id, (str, int)) else None


def _with_text(table: pa.Table, schema: Schema, embed: Embed) -> BoolArray:
    """Return a mask of the rows that have a vector, or a text to compute it from."""
    length = pc.fill_null(pc.binary_length(table.column(embed.field)), 0)
    missing = pc.and_(table.column(schema.vector).is_null(), pc.equal(length, 0))
    return np.asarray(pc.invert(missing), dtype=np.bool_)


def _first_of_id(table: pa.Table) -> BoolArray:
    ids = table.column("id").to_pylist()
    first = dict(zip(reversed(ids), range(len(ids) - 1, -1, -1), strict=True))
    return np.isin(np.arange(len(ids)), list(first.values()))
