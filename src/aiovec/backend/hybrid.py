"""The steps of a hybrid search between its two lists and its hits, which backends share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from .._model.schema import Metric
from .._search.distance import distances
from .._search.fusion import FusedHit, Fusion, fuse
from .contract import Columns, Found, Query, Snippets
from .rows import Batch


def fused(
    query: Query,
    metric: Metric,
    near: Iterable[tuple[float, str]],
    words: Sequence[tuple[str, float]],
    whole: int,
) -> list[FusedHit]:
    """Return the hits of a hybrid search, whose rows are not read yet.

    ``near`` has distances and ids in any order, perhaps more than the limit; ``words`` has ids and
    scores, best first, beginning with the ``whole`` rows that surely have all words.
    """
    farthest = math.inf if query.max_distance is None else query.max_distance
    nearest = [(id, far) for far, id in sorted(near)[: query.limit] if far <= farthest]
    return fuse(cast("Fusion", query.fusion), metric, nearest, words, whole, query.hits)


def columns_to_read(query: Query, hits: Sequence[FusedHit]) -> Columns:
    """Return the columns to read of the hits: the vector too if a distance is not known."""
    if query.columns.vector or None not in [hit.distance for hit in hits]:
        return query.columns
    return replace(query.columns, vector=True)


def found(
    query: Query,
    metric: Metric,
    hits: Sequence[FusedHit],
    rows: Batch,
    snippets: Snippets | None,
) -> Found:
    """Return the rows of the hits, read in any order, each with its distance if it has a vector."""
    place = {id: n for n, id in enumerate(rows.ids)}
    rows = rows.take([place[hit.id] for hit in hits])
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
