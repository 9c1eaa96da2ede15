"""Candidates' true distances, by the vectors in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiovec.backend import Float32Array, Float64Array, Metric, VectorQuery, distances, nearest_first

from ..connection import Ticket
from ..vectors import VectorReader
from .codes import value_of
from .scan import Candidates
from .segments import Int64Array, State

# Where there are this many rows for each candidate, hardly two of these lie in one chunk.
_SPARSE = 32


# Rows read at once.
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Nearest:
    """Rows and their distances to a query; vectors where the batch wants any."""

    rowids: Int64Array
    distances: Float64Array
    vectors: Float32Array | None

    def take(self, which: Int64Array) -> Nearest:
        vectors = None if self.vectors is None else self.vectors[which]
        return Nearest(self.rowids[which], self.distances[which], vectors)


class Rescoring:
    """Settles a batch's candidates in a state of the copy."""

    def __init__(self, vectors: VectorReader, metric: Metric, state: State, ticket: Ticket) -> None:
        self.read = 0
        self._vectors = vectors
        self._metric = metric
        self._rows = state.rows
        self._longest = state.longest
        self._ticket = ticket

    def nearest(self, found: Sequence[Candidates], queries: Sequence[VectorQuery]) -> list[Nearest]:
        """Of each query's candidates its nearest, best first, and those that equal the last one.

        The likeliest ones are measured first: their distances leave few of the others.
        """
        first = [one.rowids[: query.limit] for one, query in zip(found, queries, strict=True)]
        measured = self._measured(first, queries)
        others = [
            self._others(one, near, query)
            for one, near, query in zip(found, measured, queries, strict=True)
        ]
        more = self._measured(others, queries)
        return [
            _best(near, other, query.limit)
            for near, other, query in zip(measured, more, queries, strict=True)
        ]

    def _others(self, found: Candidates, near: Nearest, query: VectorQuery) -> Int64Array:
        """Candidates beyond the first ones that may be as near as the farthest of these."""
        rest = slice(query.limit, None)
        if len(found.rowids) <= query.limit:
            return found.rowids[rest]
        farthest = float(near.distances.max())
        reached = value_of(farthest, query.vector, self._metric, self._longest)
        return found.rowids[rest][found.most[rest] >= reached]

    def _measured(
        self, wanted: Sequence[Int64Array], queries: Sequence[VectorQuery]
    ) -> list[Nearest]:
        """Each query's rows with their distances; those of all queries are read together."""
        keeps = any(query.columns.vector for query in queries)
        rowids = np.concatenate(wanted)
        measured = np.empty(len(rowids), dtype=np.float64)
        dim = len(queries[0].vector)
        kept = np.empty((len(rowids), dim), dtype=np.float32) if keeps else None
        sizes = [len(part) for part in wanted]
        points = np.stack([query.vector for query in queries])
        which = np.repeat(np.arange(len(queries)), sizes)
        for start in range(0, len(rowids), _BLOCK):
            end = min(start + _BLOCK, len(rowids))
            vectors = self._read(rowids[start:end])
            measured[start:end] = distances(vectors, points[which[start:end]], self._metric)
            if kept is not None:
                kept[start:end] = vectors
        self.read += len(rowids)
        ends = np.cumsum(sizes).tolist()
        parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [
            Nearest(rowids[part], measured[part], None if kept is None else kept[part])
            for part in parts
        ]

    def _read(self, rowids: Int64Array) -> Float32Array:
        """Their vectors; one that several queries want is read once."""
        once, places = np.unique(rowids, return_inverse=True)
        sparse = len(once) * _SPARSE < self._rows
        vectors: Float32Array = self._vectors.read(once, self._ticket, scattered=sparse)[places]
        return vectors


def _best(near: Nearest, other: Nearest, limit: int) -> Nearest:
    if len(other.rowids):
        vectors = None
        if near.vectors is not None and other.vectors is not None:
            vectors = np.concatenate([near.vectors, other.vectors])
        near = Nearest(
            np.concatenate([near.rowids, other.rowids]),
            np.concatenate([near.distances, other.distances]),
            vectors,
        )
    return near.take(nearest_first(near.distances, limit))
