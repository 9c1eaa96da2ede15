"""The steps of a hybrid search that backends share, from its two lists to its hits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from .._model.schema import Metric
from .._search.distance import distances
from .._search.fusion import FusedHit, Fusion, IdsOf, fuse, least
from .contract import Columns, Found, Query, Snippets
from .rows import Batch

_K = TypeVar("_K")


def fused(
    query: Query,
    metric: Metric,
    near: Sequence[tuple[float, _K]],
    words: Sequence[tuple[_K, float]],
    weight: float,
    ids_of: IdsOf[_K],
) -> list[FusedHit[_K]]:
    """Return the hits of a hybrid search, before their rows are read.

    ``near`` has distances and keys in any order, perhaps more than the limit; ``words`` has keys
    and scores, best first. ``weight`` is the sum of the BM25 weights of the query's clauses, which
    a row with each word about once has as its score; 0 if it is unknown. Rows with equal values are
    ranked by id.
    """
    farthest = math.inf if query.max_distance is None else query.max_distance
    best = least(near, query.limit, ids_of)
    nearest = [(key, far) for far, key in best if far <= farthest]
    ranked = least([(-score, key) for key, score in words], len(words), ids_of)
    matches = [(key, -value) for value, key in ranked]
    fusion, hits = cast("Fusion", query.fusion), query.hits
    return fuse(fusion, metric, nearest, matches, weight, query.fused, hits, ids_of)


def columns_to_read(query: Query, hits: Sequence[FusedHit[Any]]) -> Columns:
    """Return the columns to read for the hits, with the vector if a hit has no distance yet."""
    if query.columns.vector or None not in [hit.distance for hit in hits]:
        return query.columns
    return replace(query.columns, vector=True)


def found(
    query: Query,
    metric: Metric,
    hits: Sequence[FusedHit[Any]],
    rows: Batch,
    snippets: Snippets | None,
) -> Found:
    """Return the hits with their ``rows``, which are in the same order, and measure the missing
    distances."""
    if rows.vectors is not None and hits:
        measured = distances(rows.vectors, query.vector, metric).tolist()
        for hit, distance in zip(hits, measured, strict=True):
            if hit.distance is None and distance == distance:  # NaN: no vector
                hit.distance = distance
    if not query.columns.vector:
        rows = replace(rows, vectors=None)
    return Found(
        rows,
        [hit.distance for hit in hits],
        [hit.score for hit in hits],
        [hit.ranks for hit in hits],
        snippets,
    )
