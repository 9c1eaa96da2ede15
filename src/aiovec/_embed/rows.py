"""Texts that need vectors, and the rows that they belong to."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .._model.arrays import Float32Array
from .._model.arrow import without_vector
from .._model.schema import Schema
from ..backend.rows import Batch
from ..errors import EmbeddingError, InvalidRowError

_ZERO = "its vector is zero, so it has no cosine"


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts to embed, each with the position and the id of its row or query.

    ``rows`` is empty if errors must not name rows, and ``ids`` if they must not name ids.
    """

    texts: Sequence[str]
    rows: Sequence[int] = ()
    ids: Sequence[str] = ()

    def error_of(self, error: EmbeddingError) -> EmbeddingError:
        """Return an error about a text as an error about its row."""
        at = error.row
        if at is None:
            return error
        row, id = self.rows[at] if self.rows else None, self.ids[at] if self.ids else None
        return replace(error, row=row, id=id)

    def check(self, vectors: Float32Array, schema: Schema, embedder: str) -> None:
        """Raise EmbeddingError for a zero vector if the metric is cosine."""
        if schema.metric == "cosine":
            for at in np.flatnonzero(~vectors.any(axis=1))[:1].tolist():
                raise EmbeddingError(embedder, _ZERO, model=schema.model, row=at)


def texts_of(rows: Batch, schema: Schema) -> Texts:
    """Return the texts of rows without a vector; empty if the table embeds no texts.

    Raises InvalidRowError for a row with neither a text nor a vector, unless the schema allows
    missing vectors.
    """
    embed = schema.embed
    missing = [] if embed is None else np.flatnonzero(without_vector(rows.matrix())).tolist()
    if embed is None or not missing:
        return Texts([])
    ids, texts = rows.ids, rows.values(embed.field)
    if not schema.vector_nullable:
        for row in missing:
            if not texts[row]:
                lack = "no text" if texts[row] is None else "only an empty text"
                reason = f"the row has {lack} for the embedder; give it a text or a vector"
                raise InvalidRowError(reason, row=row, id=ids[row], field=embed.field)
    chosen = [row for row in missing if texts[row]]
    return Texts([texts[row] for row in chosen], chosen, [ids[row] for row in chosen])


def without(rows: Batch, schema: Schema, ids: Container[str]) -> tuple[Batch, Texts]:
    """Return the rows whose ids are not in ``ids``, and the texts of these rows to embed."""
    rows = rows.take([at for at, id in enumerate(rows.ids) if id not in ids])
    return rows, texts_of(rows, schema)


def with_vectors(rows: Batch, at: Sequence[int], vectors: Float32Array) -> Batch:
    """Return the rows, with these vectors for the rows at these positions."""
    matrix = rows.matrix().copy()
    matrix[list(at)] = vectors
    return replace(rows, vectors=matrix)
