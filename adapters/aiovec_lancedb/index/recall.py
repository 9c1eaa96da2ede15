"""Measuring of the recall of a search with the index, at several efforts.

Questions are made of stored vectors, but users ask others. On a set of dictionary entries and
searches by single words, an index that had to look at 8 of 29 partitions to find 96 of 100
neighbours of stored vectors found 89 of 100 of those of the searches. Stored vectors that are
moved in a random direction, twice as far as their nearest neighbour is away, find as little, so
with them the partitions are measured. They blur what codes can tell apart, though, far more than
searches do; that is measured with vectors moved less, in the direction in which two others differ
(all by ``python -m bench lancedb``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from aiovec.backend import Float32Array, Float64Array, Int64Array, Metric, to_matrix
from aiovec.backend.threads import hop, in_thread

from ..limits import IndexLimits
from ..session import Opened, Session
from .effort import LIMITS, MARGIN, Effort, Rung
from .kinds import KINDS

Costs = dict[int, list[tuple[float, float, float, Effort]]]
"""For each limit the efforts that were tried: cost, least and mean recall, and the effort."""

# How far stored vectors are moved, in distances to their nearest neighbours, and the tangent of
# the angle by which those of a cosine are turned at most.
_NEAR, _NEAR_STEEPEST = 4 / 3, 2.0
_FAR, _FAR_STEEPEST = 2.0, 2.25
# Neighbours that are known beyond the last that counts: equals of it count as well.
_EQUALS = 64
_TIE = 1e-6
# A mean over so many questions is taken less this many of its standard errors.
_ERRORS = 1.64
# Users' questions miss so many times as many of their neighbours as ours do. Of searches by single
# words, partitions missed up to 1.8 times as many, and of questions that lie among the vectors
# product codes up to 1.5 times. A part of both is chance, for which the standard errors are there.
_MORE_MISSED = 1.5
# An effort that finds so much is the last that is measured.
_ENOUGH = 0.999
_STEP = 1.5
_WIDEST_EF = 1500
_REFINES = (2, 3, 5, 10, 20, 50)
_MOST_CANDIDATES = 2000
# What reading a row's vector costs, in codes of an index that are compared meanwhile.
_FETCH = 64
_SCAN_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of measuring: the efforts, and the recall of the one in use."""

    ladders: dict[int, tuple[Rung, ...]]
    means: dict[tuple[int, Effort], float]


@dataclass(frozen=True, slots=True)
class _Truth:
    """For each question the rows that are nearest, best first, and their closeness."""

    rows: Int64Array
    closeness: Float32Array

    def acceptable(self, limit: int) -> list[set[int]]:
        """For each question the rows that may count as one of the first ``limit``.

        These are the first, and equals of the last of them.
        """
        last = self.closeness[:, min(limit, self.closeness.shape[1]) - 1][:, None]
        near_enough = self.closeness >= last - _TIE * np.maximum(1.0, np.abs(last))
        return [
            set(rows[count].tolist()) for rows, count in zip(self.rows, near_enough, strict=True)
        ]


async def measure(
    session: Session, table: Opened, kind: str, partitions: int, limits: IndexLimits
) -> Measured:
    """The efforts that pay, for the index as it is now."""
    rows = int(await session.run(table.lance.count_rows()))
    count = rows // limits.rows_a_question
    count = min(max(count, limits.least_questions), limits.most_questions)
    near, far = await _questions(session, table, rows, 2 * count)
    if not len(near):
        return Measured({}, {})
    hits = [limit for limit in LIMITS if limit <= max(rows // 4, LIMITS[0])]
    if KINDS[kind].graph:
        far = far[:0]  # there are no partitions to miss
    elif KINDS[kind].whole:
        near = near[:0]  # there are no codes to blur
    known = min(rows, hits[-1] + _EQUALS)
    truth = await _true_nearest(session, table, np.concatenate([near, far]), known)
    good = await in_thread(lambda: {limit: truth.acceptable(limit) for limit in hits})
    costs: Costs = {limit: [] for limit in hits}
    trial = _Trial(kind, rows, partitions, good, len(near))
    for effort in _steps(kind, partitions, hits[-1]):
        found = [
            await _candidates(session, table, one, kind, effort, hits[-1]) for one in (*near, *far)
        ]
        if await in_thread(trial.of, effort, found, costs):
            break
    return await in_thread(_worth_it, costs)


@dataclass(frozen=True, slots=True)
class _Trial:
    """The recall of one effort's candidates: sets of some hundred thousand rows."""

    kind: str
    rows: int
    partitions: int
    good: Mapping[int, Sequence[set[int]]]
    near: int

    def of(self, effort: Effort, found: Sequence[Sequence[int]], costs: Costs) -> bool:
        """Add to the costs; return whether the effort finds enough for every limit."""
        enough = True
        for limit, good in self.good.items():
            best = 0.0
            shares = _Shares(found, good, limit, min(limit, self.rows), self.near)
            for refine in _refines(self.kind, effort, limit):
                taken = limit * refine if refine else limit + MARGIN
                mean, error = shares.of(taken)
                bound = mean - _ERRORS * error
                cost = _cost(effort, self.rows / max(1, self.partitions))
                cost += _FETCH * (taken + (limit if refine else 0))
                chosen = Effort(effort.nprobes, effort.ef, refine)
                costs[limit].append((cost, bound, mean, chosen))
                best = max(best, bound)
            enough = enough and best >= _ENOUGH
        return enough


@dataclass(frozen=True, slots=True)
class _Shares:
    """Return the share of the nearest among the candidates, of near questions and then of far."""

    found: Sequence[Sequence[int]]
    good: Sequence[set[int]]
    limit: int
    most: int
    near: int

    def of(self, taken: int) -> tuple[float, float]:
        """The recall with so many candidates, and its standard error."""
        share, error = self._of_our_questions(taken)
        return max(0.0, 1 - _MORE_MISSED * (1 - share)), _MORE_MISSED * error

    def _of_our_questions(self, taken: int) -> tuple[float, float]:
        near, far = slice(None, self.near), slice(self.near, None)
        if not self.found[far]:
            return _mean(self._each(near, taken))
        if not self.found[near]:
            return _mean(self._each(far, taken))
        # Of what lies in the partitions that were searched, how much do the codes tell apart?
        reached, error = _mean(self._each(far, _MOST_CANDIDATES))
        told, blurred = _mean(self._each(near, taken))
        all_there, _ = _mean(self._each(near, _MOST_CANDIDATES))
        return reached * told / max(all_there, 1e-9), math.hypot(error, blurred)

    def _each(self, which: slice, taken: int) -> list[float]:
        pairs = zip(self.good[which], self.found[which], strict=True)
        return [
            min(self.limit, len(some.intersection(got[:taken]))) / self.most for some, got in pairs
        ]


def _mean(shares: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(np.mean(shares)), float(np.std(shares)) / len(shares) ** 0.5


def _worth_it(costs: Costs) -> Measured:
    """Of the efforts those that find more than every cheaper one."""
    ladders: dict[int, tuple[Rung, ...]] = {}
    means: dict[tuple[int, Effort], float] = {}
    for limit, tried in costs.items():
        ladder: list[Rung] = []
        for _, bound, mean, effort in sorted(tried, key=lambda one: one[0]):
            if not ladder or bound > ladder[-1].recall:
                ladder.append(Rung(bound, effort))
                means[limit, effort] = mean
        ladders[limit] = tuple(ladder)
    return Measured(ladders, means)


def _steps(kind: str, partitions: int, limit: int) -> Iterable[Effort]:
    """Efforts without refine, each wider than the one before."""
    if KINDS[kind].graph:
        ef = float(limit // 10 + MARGIN)
        while ef < _WIDEST_EF * _STEP:
            yield Effort(partitions, min(int(ef), _WIDEST_EF))
            ef *= _STEP
        return
    tried = set()
    probes = max(1.0, partitions / 64)
    while probes < partitions * _STEP:
        step = min(int(probes), partitions)
        if step not in tried:
            tried.add(step)
            yield Effort(step)
        probes *= _STEP


def _refines(kind: str, effort: Effort, limit: int) -> Sequence[int | None]:
    most = _MOST_CANDIDATES if effort.ef is None else effort.ef
    if limit + MARGIN > most:
        return ()
    if KINDS[kind].whole:
        return (None,)
    return (None, *(refine for refine in _REFINES if limit * refine <= most))


def _cost(effort: Effort, per_partition: float) -> float:
    if effort.ef is not None:
        return effort.ef * 32.0
    return (effort.nprobes or 1) * per_partition


async def _candidates(
    session: Session, table: Opened, question: Float32Array, kind: str, effort: Effort, limit: int
) -> list[int]:
    """The rows that the index gives, best first, as far as any refine would look."""
    asked = limit + MARGIN if KINDS[kind].whole else _MOST_CANDIDATES
    query = table.lance.query().nearest_to(question).column(table.schema.vector)
    query = query.distance_type(table.schema.metric).select(["_distance"]).with_row_id()
    if effort.ef is not None:
        asked = min(asked, effort.ef)
        query = query.ef(effort.ef)
    query = query.nprobes(effort.nprobes or 1).limit(asked)
    found = await session.fetch(query)
    return cast("list[int]", found.column("_rowid").to_pylist())


async def _questions(
    session: Session, table: Opened, rows: int, count: int
) -> tuple[Float32Array, Float32Array]:
    """Stored vectors moved a little, and others moved further: see above."""
    vector, cosine = table.schema.vector, table.schema.metric == "cosine"
    chance = np.random.default_rng()
    # It shuffles all the numbers.
    chosen = await in_thread(lambda: chance.choice(rows, min(rows, count), replace=False))
    places = sorted(chosen.tolist())
    taken = await session.fetch(table.lance.take_offsets(places).select([vector]))
    present = taken.column(vector).drop_null()
    stored = to_matrix(present).astype(np.float64)
    stored = chance.permutation(_units(stored) if cosine else stored)
    gaps = np.array([await _gap(session, table, one) for one in stored])
    return await in_thread(_moved_both_ways, stored, gaps, chance, cosine)


def _moved_both_ways(
    stored: Float64Array, gaps: Float64Array, chance: np.random.Generator, cosine: bool
) -> tuple[Float32Array, Float32Array]:
    half = (len(stored) + 1) // 2
    apart = stored[chance.permutation(half)] - stored[chance.permutation(half)]
    anywhere = chance.standard_normal((len(stored) - half, stored.shape[1]))
    near = _moved(stored[:half], _units(apart), gaps[:half] * _NEAR, _NEAR_STEEPEST, cosine)
    far = _moved(stored[half:], _units(anywhere), gaps[half:] * _FAR, _FAR_STEEPEST, cosine)
    return near, (far if len(far) else near)


def _moved(
    stored: Float64Array, ways: Float64Array, lengths: Float64Array, steepest: float, cosine: bool
) -> Float32Array:
    """Each vector a length along its way; those of a cosine so far on the sphere."""
    if cosine:
        turned = 1 - np.minimum(lengths, 1.4) ** 2 / 2
        lengths = np.minimum(np.sqrt(1 - turned**2) / np.maximum(turned, 1e-9), steepest)
    else:
        lengths = np.minimum(lengths, steepest * np.linalg.norm(stored, axis=1))
    moved = stored + lengths[:, None] * ways
    # A cosine cannot be asked for nothing at all.
    nothing = ~moved.any(axis=1)
    moved[nothing] = stored[nothing]
    return moved.astype(np.float32)


def _units(vectors: Float64Array) -> Float64Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return cast("Float64Array", vectors / np.maximum(lengths, 1e-30))


async def _gap(session: Session, table: Opened, stored: Float64Array) -> float:
    """The distance from a stored vector to its nearest neighbour, or about that."""
    vector = table.schema.vector
    query = table.lance.query().nearest_to(stored.astype(np.float32)).column(vector)
    query = query.distance_type(table.schema.metric).select([vector, "_distance"])
    found = await session.fetch(query.nprobes(20).refine_factor(5).limit(3))
    near = to_matrix(found.column(vector)).astype(np.float64)
    if table.schema.metric == "cosine":
        near = _units(near)
    gaps = np.sort(np.linalg.norm(near - stored, axis=1))
    return float(gaps[1]) if len(gaps) > 1 else 0.0


async def _true_nearest(
    session: Session, table: Opened, questions: Float32Array, count: int
) -> _Truth:
    """The nearest rows of all questions, in one pass over the table and constant memory."""
    vector, metric = table.schema.vector, table.schema.metric
    truth = _Truth(
        np.empty((len(questions), 0), dtype=np.int64), np.empty((len(questions), 0), np.float32)
    )
    scan = table.lance.query().select([vector]).with_row_id()
    if table.schema.vector_nullable:
        scan = scan.where(f"`{vector}` IS NOT NULL")
    batches = await session.run(scan.to_batches(max_batch_length=_SCAN_BATCH))
    with session.guarded():
        async for batch in batches:
            truth = await hop(
                _SCAN_BATCH,
                lambda batch=batch, truth=truth: _nearer(
                    truth, batch, vector, metric, questions, count
                ),
            )
    return truth


def _nearer(
    truth: _Truth,
    batch: Any,
    vector: str,
    metric: Metric,
    questions: Float32Array,
    count: int,
) -> _Truth:
    rows = to_matrix(batch.column(vector))
    numbers = batch.column("_rowid").to_numpy(zero_copy_only=False).astype(np.int64)
    close = _closeness(rows, questions, metric)
    close = np.concatenate([truth.closeness, close], axis=1)
    known = np.concatenate(
        [truth.rows, np.broadcast_to(numbers, (len(questions), len(numbers)))], axis=1
    )
    if close.shape[1] > count:
        kept = np.argpartition(-close, count - 1, axis=1)[:, :count]
        close, known = np.take_along_axis(close, kept, 1), np.take_along_axis(known, kept, 1)
    order = np.argsort(-close, axis=1, kind="stable")
    return _Truth(np.take_along_axis(known, order, 1), np.take_along_axis(close, order, 1))


def _closeness(rows: Float32Array, questions: Float32Array, metric: Metric) -> Float32Array:
    """Higher is nearer; comparable within one question."""
    products = questions @ rows.T
    if metric == "dot":
        return products
    squares = np.einsum("ij,ij->i", rows, rows)
    if metric == "l2":
        return cast("Float32Array", 2 * products - squares)
    lengths = np.sqrt(squares) * np.linalg.norm(questions, axis=1)[:, None]
    return cast("Float32Array", products / np.maximum(lengths, np.float32(1e-30)))
