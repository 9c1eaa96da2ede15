"""Rows without a vector: their texts, and their vectors once they are made."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .._model.arrays import Float32Array, Int64Array
from .._model.arrow import without_vector
from .._model.schema import Schema
from ..backend.rows import Batch
from ..errors import EmbeddingError, InvalidRowError

_ZERO = "its vector is zero, so it has no cosine"


@dataclass(frozen=True, slots=True)
class Lacking:
    """Rows of a table without a vector: their positions, ids and texts."""

    positions: Int64Array
    ids: list[str]
    texts: list[str]


def lacking(rows: Batch, schema: Schema) -> Lacking:
    """Return the rows without a vector that have a text; none if the table embeds no texts.

    Raises InvalidRowError for a row without both, unless the schema allows that.
    """
    embed = schema.embed
    missing = [] if embed is None else np.flatnonzero(without_vector(rows.matrix())).tolist()
    if embed is None or not missing:
        return Lacking(np.empty(0, dtype=np.int64), [], [])
    ids, texts = rows.ids, rows.values(embed.field)
    if not schema.vector_nullable:
        for row in missing:
            if not texts[row]:
                given = "no text" if texts[row] is None else "only an empty text"
                reason = f"there is {given} for the embedder; give the row a text or a vector"
                raise InvalidRowError(reason, row=row, id=ids[row], field=embed.field)
    chosen = [row for row in missing if texts[row]]
    positions = np.array(chosen, dtype=np.int64)
    return Lacking(positions, [ids[row] for row in chosen], [texts[row] for row in chosen])


def without(rows: Batch, schema: Schema, ids: Container[str]) -> tuple[Batch, Lacking]:
    """Return the rows without those with these ids, and what is lacking among them."""
    rows = rows.take([at for at, id in enumerate(rows.ids) if id not in ids])
    return rows, lacking(rows, schema)


def with_vectors(rows: Batch, missing: Lacking, vectors: Float32Array) -> Batch:
    """Return the rows with their missing vectors filled in."""
    matrix = rows.matrix().copy()
    matrix[missing.positions] = vectors
    return replace(rows, vectors=matrix)


def of_row(error: EmbeddingError, missing: Lacking, *, numbered: bool) -> EmbeddingError:
    """Return the error of a text as an error of its row."""
    at = error.row
    if at is None:
        return error
    row = int(missing.positions[at]) if numbered else None
    return _copy(error, row, missing.ids[at])


def check_made(vectors: Float32Array, schema: Schema, embedder: str) -> None:
    """Raise EmbeddingError, with the text's position as ``row``, for a vector without a cosine."""
    if schema.metric == "cosine":
        for row in np.flatnonzero(~vectors.any(axis=1))[:1].tolist():
            raise EmbeddingError(embedder, _ZERO, model=schema.model, row=row)


def of_text(error: EmbeddingError, positions: Sequence[int]) -> EmbeddingError:
    """Return the error of a text without a row, with its position among several as ``row``."""
    at = error.row
    many = len(positions) > 1
    return error if at is None else _copy(error, positions[at] if many else None, None)


def _copy(error: EmbeddingError, row: int | None, id: str | None) -> EmbeddingError:
    copy = replace(error, row=row, id=id)
    copy.__cause__ = error.__cause__
    return copy
