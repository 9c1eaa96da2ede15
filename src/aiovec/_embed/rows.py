"""Rows without a vector: their texts, and their vectors once these are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .._arrays import Float32Array, Int64Array
from .._arrow import from_matrix, one_array, to_matrix
from .._core.schema import Embed, Schema
from ..errors import EmbeddingError, InvalidRowError


@dataclass(frozen=True, slots=True)
class Lacking:
    """Rows of a table that have no vector: their places, ids and texts."""

    places: Int64Array
    ids: list[str]
    texts: list[str]


def lacking(rows: pa.Table, schema: Schema, embed: Embed) -> Lacking:
    """Return the rows without a vector that have a text.

    InvalidRowError for one that has neither, unless the schema allows that.
    """
    missing = one_array(rows.column(schema.vector)).is_null()
    texts = one_array(rows.column(embed.field))
    ids = one_array(rows.column("id"))
    empty = pc.fill_null(pc.equal(pc.binary_length(texts), 0), True)
    if not schema.vector_nullable:
        neither = pc.and_(missing, empty).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(neither)[:1].tolist():
            what = "no text" if texts[row].as_py() is None else "an empty text"
            raise InvalidRowError(
                f"there is {what} to make a vector of; give the row a text or a vector",
                row=row, id=ids[row].as_py(), field=embed.field,
            )  # fmt: skip
    chosen = pc.and_(missing, pc.invert(empty))
    places = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
    return Lacking(places, ids.filter(chosen).to_pylist(), texts.filter(chosen).to_pylist())


def filled(
    rows: pa.Table, schema: Schema, found: Lacking, vectors: Float32Array, embedder: str
) -> pa.Table:
    """Return the rows with the vectors that they lacked."""
    if schema.metric == "cosine":
        for n in np.flatnonzero(~vectors.any(axis=1))[:1].tolist():
            raise EmbeddingError(
                embedder, "its vector is zero, so it has no cosine", model=schema.model,
                row=int(found.places[n]), id=found.ids[n],
            )  # fmt: skip
    column = rows.column(schema.vector)
    missing = one_array(column).is_null().to_numpy(zero_copy_only=False).copy()
    missing[found.places] = False
    matrix = vectors
    if len(found.places) < rows.num_rows:
        matrix = to_matrix(column).copy()
        matrix[found.places] = vectors
    layout = schema.to_arrow()
    at = layout.get_field_index(schema.vector)
    return rows.set_column(
        at, layout.field(at), from_matrix(matrix, missing if missing.any() else None)
    )


def of_row(error: EmbeddingError, found: Lacking, *, numbered: bool) -> EmbeddingError:
    """Return the error of a text as that of its row."""
    at = error.row
    if at is None:
        return error
    row = int(found.places[at]) if numbered else None
    told = EmbeddingError(
        error.embedder, error.reason, model=error.model, row=row, id=found.ids[at],
        status=error.status, retryable=error.retryable,
    )  # fmt: skip
    told.__cause__ = error.__cause__
    return told
