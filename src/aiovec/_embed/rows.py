"""Rows without a vector: their texts, and their vectors once they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .._model.arrays import Float32Array, Int64Array
from .._model.arrow import from_matrix, one_array, to_matrix, without_vector
from .._model.schema import Embed, Schema
from ..errors import EmbeddingError, InvalidRowError

_AT_ONCE = 1000
_ZERO = "its vector is zero, so it has no cosine"


@dataclass(frozen=True, slots=True)
class Lacking:
    """Rows of a table without a vector: their positions, ids and texts."""

    places: Int64Array
    ids: list[str]
    texts: list[str]


def lacking(rows: pa.Table, schema: Schema, embed: Embed) -> Lacking:
    """Return the rows without a vector that have a text.

    Raises InvalidRowError for a row without both, unless the schema allows that.
    """
    missing = one_array(rows.column(schema.vector)).is_null()
    texts = one_array(rows.column(embed.field))
    ids = one_array(rows.column("id"))
    empty = pc.fill_null(pc.equal(pc.binary_length(texts), 0), True)
    if not schema.vector_nullable:
        neither = pc.and_(missing, empty).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(neither)[:1].tolist():
            reason = "no text" if texts[row].as_py() is None else "only an empty text"
            raise InvalidRowError(
                f"there is {reason} for the embedder; give the row a text or a vector",
                row=row, id=ids[row].as_py(), field=embed.field,
            )  # fmt: skip
    chosen = pc.and_(missing, pc.invert(empty))
    places = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
    return Lacking(places, _listed(ids.filter(chosen)), _listed(texts.filter(chosen)))


def _listed(column: pa.Array) -> list[str]:
    """Return a column as a list, converted in parts so that other threads can run in between."""
    parts = (column.slice(start, _AT_ONCE) for start in range(0, len(column), _AT_ONCE))
    return [value for part in parts for value in part.to_pylist()]


def without(rows: pa.Table, ids: Sequence[str]) -> pa.Table:
    """Return the rows without those with these ids."""
    existing = pc.is_in(rows.column("id"), value_set=pa.array(ids, pa.utf8()))
    return rows.filter(pc.invert(existing))


def filled(rows: pa.Table, schema: Schema, missing: Lacking, vectors: Float32Array) -> pa.Table:
    """Return the rows with their missing vectors filled in."""
    matrix = to_matrix(rows.column(schema.vector)).copy()
    matrix[missing.places] = vectors
    absent = without_vector(matrix)
    layout = schema.to_arrow()
    at = layout.get_field_index(schema.vector)
    return rows.set_column(
        at, layout.field(at), from_matrix(matrix, absent if absent.any() else None)
    )


def of_row(error: EmbeddingError, missing: Lacking, *, numbered: bool) -> EmbeddingError:
    """Return the error of a text as an error of its row."""
    at = error.row
    if at is None:
        return error
    row = int(missing.places[at]) if numbered else None
    return _copy(error, row, missing.ids[at])


def check_made(vectors: Float32Array, schema: Schema, embedder: str) -> None:
    """Raise EmbeddingError, with the text's position as ``row``, for a vector without a cosine."""
    if schema.metric == "cosine":
        for row in np.flatnonzero(~vectors.any(axis=1))[:1].tolist():
            raise EmbeddingError(embedder, _ZERO, model=schema.model, row=row)


def of_text(error: EmbeddingError, places: Sequence[int]) -> EmbeddingError:
    """Return the error of a text without a row, with its position among several as ``row``."""
    at = error.row
    return error if at is None else _copy(error, places[at] if len(places) > 1 else None, None)


def _copy(error: EmbeddingError, row: int | None, id: str | None) -> EmbeddingError:
    copy = replace(error, row=row, id=id)
    copy.__cause__ = error.__cause__
    return copy
