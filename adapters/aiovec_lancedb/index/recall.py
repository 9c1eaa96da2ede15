"""Measure the recall of searches with an index, at efforts that rise until it is high enough.

The recall is a share by distance: a hit counts that is no further from the question than the last
of the true nearest, so of rows that share a vector any will do.

Questions are made of stored vectors, but users ask others, which lie further from the rows than
these do from one another. So a question is a distinct stored vector, moved in a random direction
by twice the distance to the nearest of the other vectors of a sample. Near copies of a row are
mostly not in the sample, so a table full of them gets no easier questions. What such questions
miss still counts ``_MORE_MISSED`` times, since real ones missed up to so many times as much
(measured with ``python -m bench lancedb``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from aiovec.backend import Float32Array, Float64Array, Metric, to_matrix
from aiovec.backend.threads import hop, in_thread

from ..session import Opened, Session
from ..tuning import EVERY_PARTITION, MEASURED_HITS, Effort, Rung, code_margin
from .kinds import Kind

_QUESTIONS = 64
_SAMPLE = 4096
_FURTHER = 2.0
_MORE_MISSED = 1.5
# An effort that finds so much is the last that is measured.
_ENOUGH = 0.999
_STEP = 1.5
_LEAST_EF, _WIDEST_EF = 26.0, 1500
_MORE_REFINES = (3, 10)
# Searches under way at once while an effort is measured.
_AT_ONCE = 4
_SCAN_BATCH = 4096
# Closeness that differs by less, in parts of the lengths that it is made of, is equal in float32.
_TIE = 1e-6


async def measure(session: Session, table: Opened, kind: Kind, partitions: int) -> tuple[Rung, ...]:
    """Return the efforts that pay, for the index as it is now; none for a table without vectors."""
    questions = await _questions(session, table)
    if not len(questions):
        return ()
    last, ties = await _last_of_nearest(session, table, questions)
    ladder: list[Rung] = []
    # By row ids. The hits of one effort are mostly those of the one before, and in a bucket each
    # vector is a request.
    vectors: dict[int, Float32Array] = {}
    for effort in _efforts(kind, partitions):
        found: list[list[int]] = []
        for start in range(0, len(questions), _AT_ONCE):
            some = questions[start : start + _AT_ONCE]
            found += await asyncio.gather(*(_hits(session, table, one, effort) for one in some))
        await _read(session, table, sorted(set().union(*found) - vectors.keys()), vectors)
        shares = []
        for rows, question, least in zip(found, questions, np.subtract(last, ties), strict=True):
            if not rows:  # as few lists were looked through as that
                shares.append(0.0)
                continue
            hits = np.stack([vectors[row] for row in rows])
            close = _closeness(hits, question[None, :], table.schema.metric)[0]
            shares.append(min(int((close >= least).sum()), MEASURED_HITS) / MEASURED_HITS)
        recall = max(0.0, 1 - _MORE_MISSED * (1 - float(np.mean(shares))))
        if not ladder or recall > ladder[-1].recall:
            ladder.append(Rung(recall=round(recall, 4), effort=effort))
        if recall >= _ENOUGH:
            break
    return tuple(ladder)


def _efforts(kind: Kind, partitions: int) -> Iterable[Effort]:
    """Yield efforts, each wider than the one before."""
    if kind.graph:
        ef = _LEAST_EF
        while ef < _WIDEST_EF * _STEP:
            yield Effort(nprobes=EVERY_PARTITION, ef=min(int(ef), _WIDEST_EF))
            ef *= _STEP
        return
    probes = 1.0
    while probes < partitions:
        yield Effort(nprobes=int(probes), refine=kind.refine)
        probes = max(probes + 1, probes * _STEP)
    yield Effort(nprobes=EVERY_PARTITION, refine=kind.refine)
    if not kind.whole:
        for times in _MORE_REFINES:
            yield Effort(nprobes=EVERY_PARTITION, refine=(kind.refine or 1) * times)


async def _hits(
    session: Session, table: Opened, question: Float32Array, effort: Effort
) -> list[int]:
    """Return the row ids of what a search with this effort finds."""
    asked = MEASURED_HITS + (0 if effort.refine else code_margin(MEASURED_HITS))
    query = table.lance.query().nearest_to(question).column(table.schema.vector)
    query = with_effort(query, effort).distance_type(table.schema.metric)
    found = await session.fetch(query.select(["_rowid", "_distance"]).limit(asked))
    rows: list[int] = found.column("_rowid").to_pylist()
    return rows


async def _read(
    session: Session, table: Opened, rows: list[int], vectors: dict[int, Float32Array]
) -> None:
    """Add the vectors of these rows."""
    if rows:
        query = table.lance.take_row_ids(rows).select(["_rowid", table.schema.vector])
        found = await session.run(query.to_arrow())
        read = to_matrix(found.column(table.schema.vector))
        vectors.update(zip(found.column("_rowid").to_pylist(), read, strict=True))


def with_effort(query: Any, effort: Effort) -> Any:
    """Return the query of lancedb, told the effort."""
    if effort.nprobes is not None:
        query = query.nprobes(effort.nprobes)
    if effort.ef is not None:
        query = query.ef(effort.ef)
    return query if effort.refine is None else query.refine_factor(effort.refine)


async def _questions(session: Session, table: Opened) -> Float32Array:
    """Return questions as they are described above."""
    vector = table.schema.vector
    rows = await session.rows(table)
    chance = np.random.default_rng()
    places = await in_thread(lambda: sorted(chance.choice(rows, min(rows, _SAMPLE), replace=False)))
    query = table.lance.take_offsets([int(place) for place in places]).select([vector])
    stored = to_matrix((await session.fetch(query)).column(vector).drop_null())
    return await in_thread(_moved, stored, table.schema.metric == "cosine", chance)


def _moved(stored: Float32Array, cosine: bool, chance: np.random.Generator) -> Float32Array:
    distinct = np.unique(stored.astype(np.float64), axis=0)
    if cosine and len(distinct):
        distinct = np.unique(_units(distinct), axis=0)
    chosen = chance.permutation(len(distinct))[:_QUESTIONS]
    points = distinct[chosen]
    if len(distinct) < 2:
        return cast("Float32Array", points.astype(np.float32))
    squares = np.square(distinct).sum(axis=1)
    apart = squares[chosen, None] + squares[None, :] - 2 * points @ distinct.T
    apart[np.arange(len(chosen)), chosen] = np.inf
    gaps = np.sqrt(np.maximum(apart.min(axis=1), 0))
    ways = _units(chance.standard_normal(points.shape))
    return cast("Float32Array", (points + _FURTHER * gaps[:, None] * ways).astype(np.float32))


def _units(vectors: Float64Array) -> Float64Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return cast("Float64Array", vectors / np.maximum(lengths, 1e-30))


async def _last_of_nearest(
    session: Session, table: Opened, questions: Float32Array
) -> tuple[Sequence[float], Sequence[float]]:
    """Return for each question the closeness of the last of the nearest, and what counts as equal.

    It reads the table once, in constant memory.
    """
    vector, metric = table.schema.vector, table.schema.metric
    nearest = np.empty((len(questions), 0), dtype=np.float32)
    longest = 0.0
    scan = table.lance.query().select([vector])
    present = f"`{vector}` IS NOT NULL" if table.schema.vector_nullable else None

    def nearer(batch: Any) -> None:
        nonlocal nearest, longest
        rows = to_matrix(batch.column(vector))
        longest = max(longest, float(np.linalg.norm(rows, axis=1).max(initial=0.0)))
        close = np.concatenate([nearest, _closeness(rows, questions, metric)], axis=1)
        nearest = -np.partition(-close, min(MEASURED_HITS, close.shape[1]) - 1, axis=1)
        nearest = nearest[:, :MEASURED_HITS]

    async for batch in await session.batches(scan, _SCAN_BATCH, present):
        await hop(_SCAN_BATCH, partial(nearer, batch))
    lengths = np.linalg.norm(questions, axis=1)
    size = {"cosine": np.ones(len(questions)), "dot": lengths * longest, "l2": 4 * lengths**2}
    return nearest.min(axis=1).tolist(), (_TIE * size[metric]).tolist()


def _closeness(rows: Float32Array, questions: Float32Array, metric: Metric) -> Float32Array:
    """Return what is higher for nearer rows; comparable within one question."""
    products = questions @ rows.T
    if metric == "dot":
        return products
    squares = np.einsum("ij,ij->i", rows, rows)
    if metric == "l2":
        return cast("Float32Array", 2 * products - squares)
    lengths = np.sqrt(squares) * np.linalg.norm(questions, axis=1)[:, None]
    return cast("Float32Array", products / np.maximum(lengths, np.float32(1e-30)))
