"""Compare the searches of two tables, and measure the recall of the target's index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa

from aiovec.backend import Float32Array, Float64Array, Schema, to_matrix, without_vector
from aiovec.backend.contract import Columns, Found, StoredRows, VectorQuery

from .compare import Side, Sides, both

# Backends compute distances in float32.
_TOLERANCE = 1e-5
_LARGEST = float(np.finfo(np.float32).max)
# Queries that are asked at once.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Searches:
    """Searches from sampled vectors.

    ``unlike`` counts those to which both sides gave different answers, exact against exact, though
    the rows in them are the same; ``unlike_ids`` are the rows from which the first of them began.
    ``moving`` counts those whose rows differed or changed meanwhile. ``recall`` is the share of
    the nearest that searches of all sampled vectors through the target's index found; None where it
    has none.
    """

    asked: int
    limit: int
    unlike: int = 0
    unlike_ids: tuple[str, ...] = ()
    moving: int = 0
    farthest: float = 0.0
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    ids: Sequence[str]
    vectors: Float32Array


async def sampled_ids(side: Side, count: int, rows: int) -> list[str]:
    """Ids from all over the table, which has about so many rows.

    Which ones is told by their hashes, so both sides would give the same.
    """
    if count < 1 or rows < 1:
        return []
    # Of all hashes, as many as will be about the rows wanted.
    share = min(1.0, 2.0 * count / rows)
    edge = np.uint64(min(2**64 - 1, int(share * 2.0**64)))
    best: list[tuple[int, str]] = []
    async with aclosing(side.export(Columns(()), 2**14)) as batches:
        async for batch, _ in batches:
            ids = batch.column("id")
            hashes = await side.host.in_thread(side.hasher.ids, ids)
            low = np.flatnonzero(hashes <= edge)
            best += [(int(hashes[place]), ids[place].as_py()) for place in low.tolist()]
            best = sorted(best)[:count]
    return [id for _, id in best]


async def sampled(side: Side, count: int, rows: int, seed: int) -> Sample:
    """Vectors from all over the table, every second one moved away from its row a little."""
    nothing = Sample((), np.empty((0, side.schema.dim), dtype=np.float32))
    ids = await sampled_ids(side, count, rows)
    if not ids:
        return nothing
    there = await side.backend.get(side.handle, ids, Columns((), vector=True))
    if there.vectors is None or not len(there.ids):
        return nothing
    missing = without_vector(there.vectors)
    order = sorted(np.flatnonzero(~missing).tolist(), key=there.ids.__getitem__)
    vectors = there.vectors[order].astype(np.float32)
    noise = np.random.default_rng(seed).standard_normal(vectors.shape)
    sizes = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    moved = vectors + 0.2 * sizes * noise / np.sqrt(side.schema.dim)
    vectors[1::2] = moved.clip(-_LARGEST, _LARGEST).astype(np.float32)[1::2]
    usable = np.flatnonzero(vectors.any(axis=1)).tolist()  # cosine has no answer to a zero vector
    return Sample([there.ids[order[place]] for place in usable], vectors[usable])


async def compared_searches(
    sides: Sides, sample: Sample, limit: int, *, seconds: float = 1.0, least: int = 3
) -> Searches:
    """Ask both sides for the exact nearest and compare the answers.

    An exact search of a large table takes long: after ``seconds`` it ends, when the ``least``
    have been asked.
    """
    unlike_ids: list[str] = []
    asked = moving = 0
    farthest = 0.0
    begun = sides.host.now()
    for place in spread(len(sample.ids)):
        if asked >= least and sides.host.now() - begun > seconds:
            break
        queries = sample.vectors[place : place + 1]
        (mine,), (theirs,) = await both(
            _answers(sides.source, queries, limit, exact=True),
            _answers(sides.target, queries, limit, exact=True),
        )
        asked += 1
        metric = sides.source.schema.metric
        suspects, apart = differing_answers(metric, queries[0], mine, theirs)
        if suspects is None:
            farthest = max(farthest, apart)
        elif await _all_the_same(sides, suspects):
            unlike_ids.append(sample.ids[place])
        else:
            moving += 1
    return Searches(asked, limit, len(unlike_ids), tuple(unlike_ids[:10]), moving, farthest)


def spread(count: int) -> list[int]:
    """All places, in an order whose beginnings lie far apart, and of even and odd ones."""
    step = next((n for n in range(count // 3 + 1, 1, -1) if math.gcd(n, count) == 1), 1)
    return [place * step % count for place in range(count)]


class Nearest:
    """The distances of the rows nearest to each sampled vector, found in one pass over all.

    An exact search reads the whole table for each query. This multiplies all queries with the
    vectors that are at hand anyway.
    """

    def __init__(self, schema: Schema, sample: Sample, limit: int) -> None:
        self._schema = schema
        self._limit = limit
        self._queries = sample.vectors
        self._exact = sample.vectors.astype(np.float64)
        self._best: list[Float64Array] = [np.empty(0) for _ in sample.ids]
        # Some more than are wanted, for ranks come from products of float32.
        self._most = 2 * limit + 8
        self._ranked: list[Float32Array] = [np.empty(0, dtype=np.float32) for _ in sample.ids]

    def add(self, batch: pa.RecordBatch) -> None:
        vectors = to_matrix(batch.column(self._schema.vector))
        if self._schema.vector_nullable:
            vectors = vectors[~without_vector(vectors)]
        for place, ranks in enumerate(self._ranks(vectors)):
            ranked = self._ranked[place]
            # A few batches on hardly any vector is nearer than those that came.
            full = len(ranked) == self._most
            chosen = np.flatnonzero(ranks < ranked[-1]) if full else np.arange(len(ranks))
            if not len(chosen):
                continue
            if len(chosen) > self._most:
                chosen = chosen[np.argpartition(ranks[chosen], self._most - 1)[: self._most]]
            near = distances(
                self._schema.metric, self._exact[place], vectors[chosen].astype(np.float64)
            )
            best = np.sort(np.concatenate([self._best[place], near]))
            self._best[place] = best[: self._limit]
            self._ranked[place] = np.sort(np.concatenate([ranked, ranks[chosen]]))[: self._most]

    def _ranks(self, vectors: Float32Array) -> Float32Array:
        """For each query a number for each vector that is lower the nearer it is."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            ranks = -(self._queries @ vectors.T)
            if self._schema.metric != "dot":
                squares = np.einsum("ij,ij->i", vectors, vectors)
                ranks = squares + 2 * ranks if self._schema.metric == "l2" else ranks / squares**0.5
        # Numbers beyond float32 come last, and do not hide others.
        ranks[np.isnan(ranks)] = np.inf
        return cast("Float32Array", ranks)

    def edges(self) -> list[tuple[int, float]]:
        """For each query how many the nearest are, and how far the last of them is."""
        return [(len(best), float(best[-1]) if len(best) else 0.0) for best in self._best]


def distances(metric: str, query: Float64Array, vectors: Float64Array) -> Float64Array:
    """The distances of one query, as backends tell them."""
    products = vectors @ query
    if metric == "dot":
        return -products
    if metric == "l2":
        return cast("Float64Array", np.linalg.norm(vectors - query, axis=1))
    sizes = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return 1 - products / np.where(sizes > 0, sizes, 1)


async def measured_recall(side: Side, sample: Sample, nearest: Nearest, limit: int) -> float | None:
    """The share of the nearest that an ordinary search finds; None without vectors."""
    hits = wanted = 0
    edges = nearest.edges()
    for start in range(0, len(sample.ids), _AT_ONCE):
        queries = sample.vectors[start : start + _AT_ONCE]
        answers = await _answers(side, queries, limit, exact=False)
        for query, given, (count, edge) in zip(
            queries, answers, edges[start : start + _AT_ONCE], strict=True
        ):
            wanted += count
            hits += min(count, hits_within(side.schema.metric, query, edge, given))
    return hits / wanted if wanted else None


async def _answers(side: Side, queries: Float32Array, limit: int, *, exact: bool) -> list[Found]:
    columns = Columns((), vector=True)
    answers = await side.backend.search(
        side.handle, [VectorQuery(query, limit, None, columns, exact) for query in queries]
    )
    return [_nearest(found, limit) for found in answers]


def _nearest(found: Found, limit: int) -> Found:
    """As many as were asked for: a backend may give more, where some are equally far."""
    measures, ids = found.measures, found.rows.ids
    order = sorted(range(len(ids)), key=lambda i: (measures[i], ids[i]))[:limit]
    vectors = None if found.rows.vectors is None else found.rows.vectors[order]
    rows = StoredRows([found.rows.ids[place] for place in order], {}, vectors=vectors)
    return Found(rows, [found.measures[place] for place in order])


async def _all_the_same(sides: Sides, ids: Sequence[str]) -> bool:
    """Return whether these rows exist on both sides and are equal."""
    mine, theirs = await both(sides.source.looked_up(ids), sides.target.looked_up(ids))
    return mine == theirs and len(mine) == len(ids)


def differing_answers(
    metric: str, query: Float32Array, mine: Found, theirs: Found
) -> tuple[list[str] | None, float]:
    """None where both answers are right if one is, else the rows that they are about.

    Beside it, how far apart distances of the same row are, in units of what they come from.
    """
    here, there = _distances(mine), _distances(theirs)
    scale = max(_scale(metric, query, mine), _scale(metric, query, theirs))
    slack = _TOLERANCE * scale
    apart = max((abs(here[id] - there[id]) for id in here.keys() & there.keys()), default=0.0)
    alike = len(here) == len(there) and apart <= slack
    if alike and here:
        # Of those that are equally far any may have come last.
        edge = max(here.values()), max(there.values())
        alike = abs(edge[0] - edge[1]) <= slack
        alike = alike and all(
            distance >= edge[0] - 2 * slack
            for answer, other in ((here, there), (there, here))
            for id, distance in answer.items()
            if id not in other
        )
    if alike:
        return None, apart / scale
    changed = here.keys() ^ there.keys()
    return sorted(changed or here.keys()), apart / scale


def hits_within(metric: str, query: Float32Array, edge: float, given: Found) -> int:
    """Count the results that are as near as the last of the nearest."""
    slack = _TOLERANCE * _scale(metric, query, given)
    return sum(distance <= edge + slack for distance in _distances(given).values())


def _distances(found: Found) -> dict[str, float]:
    return dict(zip(found.rows.ids, map(float, found.measures), strict=True))


def _scale(metric: str, query: Float32Array, found: Found) -> float:
    """The size of the numbers that a distance comes from."""
    if metric == "cosine" or found.rows.vectors is None or not len(found.rows.vectors):
        return 1.0
    size = float(np.linalg.norm(query.astype(np.float64)))
    largest = float(np.linalg.norm(found.rows.vectors.astype(np.float64), axis=1).max())
    return max(1.0, size + largest if metric == "l2" else size * largest)
