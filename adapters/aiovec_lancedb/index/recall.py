"""Measure the recall of searches with an index, and find the effort that a search needs.

The recall is measured by distance: a hit counts if it is at most as far from the question as the
last of the true nearest rows, so rows with the same vector are interchangeable.

The questions are vectors that a user passed, or else vectors of users' searches. If there are too
few of both, this module makes questions of four kinds: stored vectors, which do not count as their
own hits; points beyond stored vectors, as seen from a neighbour; points between two stored vectors;
and stored vectors moved from their neighbourhood towards another neighbourhood. The recall of the
last kind is the closest to the recall of questions unlike the rows, such as a few words used to
search long texts; in clustered data, another kind can have a lower recall. So the kind with the
lowest recall counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from aiovec.backend import Float32Array, Float64Array, Int64Array, Metric, to_matrix
from aiovec.backend.threads import hop, in_thread, together

from ..layout import ROW
from ..memory import SCAN_BATCH
from ..session import Snapshot
from .effort import EVERY_PARTITION, MADE, MEASURED_HITS, Effort, with_effort
from .kinds import Kind

# The number of rows from which questions are made, and of rows among which their neighbours are
# chosen. Then the weight of the other row in a point beyond a row, and in a point between two rows.
_MADE_OF, _SAMPLE = 64, 4096
_BEYOND, _BETWEEN = -1 / 3, 0.3
# The number of neighbours whose mean is the centre of a neighbourhood, and the fraction of the
# distance between two centres by which a row is moved.
_AROUND, _MOVED = 16, 0.7
_STEP = 1.5
_LEAST_EF, _WIDEST_EF = 26.0, 1500
_MORE_REFINES = (3, 10)
# Simultaneous searches while an effort is measured.
_AT_ONCE = 4
# Smaller differences in closeness, relative to the vectors' lengths, are rounding errors.
_TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions and their origin. Question n is in the group n modulo ``groups``. If there are
    several groups, the questions in the first group are stored vectors."""

    vectors: Float32Array
    whose: str
    groups: int = 1


class Measured(NamedTuple):
    """An effort, and the share of the nearest rows that searches with this effort find."""

    effort: Effort
    recall: float


async def measure(
    table: Snapshot, kind: Kind, partitions: int, questions: Questions, target: float
) -> Measured | None:
    """Return the least effort whose recall, minus the measurement's error, reaches ``target``, or
    else the greatest effort.

    In each list that ``_efforts`` returns, more effort finds more rows, so this function does a
    binary search in one list after another. Returns None for a table without vectors.
    """
    nearest = await _nearest(table, questions)
    if not nearest.counts.any():
        return None
    for efforts in _efforts(kind, partitions):
        measured: dict[int, tuple[float, float]] = {}
        low, high = 0, len(efforts) - 1
        while low < high or high not in measured:
            middle = (low + high) // 2
            measured[middle] = await _recall(table, kind, efforts[middle], questions, nearest)
            recall, error = measured[middle]
            if recall - error >= target:
                high = middle
            else:
                low = min(middle + 1, high)
        recall, error = measured[high]
        if recall - error >= target:
            break
    return Measured(efforts[high], round(recall, 4))


async def _recall(
    table: Snapshot, kind: Kind, effort: Effort, questions: Questions, nearest: _Nearest
) -> tuple[float, float]:
    """Return the recall of searches with this effort, and its error, for the group of questions
    with the lowest recall."""
    vector, metric, points = table.schema.vector, table.schema.metric, questions.vectors
    most = MEASURED_HITS + effort.margin(MEASURED_HITS, fine=kind.fine)

    async def search(n: int) -> list[int]:
        """Search for question ``n``, and return the row ids of the hits."""
        query = table.lance.query().nearest_to(points[n]).column(vector).distance_type(metric)
        query = with_effort(query, effort).select([ROW, "_distance"])
        hits = await table.session.fetch(query.limit(most + int(nearest.itself[n])))
        rows: list[int] = hits.column(ROW).to_pylist()
        return rows

    hits = await together([partial(search, n) for n in range(len(points))], _AT_ONCE)
    # The vectors of all hits are read together: searches that read vectors take three times as
    # long.
    query = table.lance.take_row_ids(sorted(set().union(*hits))).select([ROW, vector])
    taken = await table.session.run(query.to_arrow())

    def of_worst_group() -> tuple[float, float]:
        vectors = dict(zip(taken[ROW].to_pylist(), to_matrix(taken[vector]), strict=True))
        shares = []
        for n, rows in enumerate(hits):
            near = np.reshape([vectors[row] for row in rows], (-1, table.schema.dim))
            close = _closeness(near, points[n][None, :], metric)
            count = int((close >= nearest.least[n]).sum()) - nearest.itself[n]
            shares.append(min(max(0.0, count / max(1, nearest.counts[n])), 1.0))
        of_groups = np.reshape(shares, (-1, questions.groups))
        worst = of_groups[:, of_groups.mean(axis=0).argmin()]
        return float(worst.mean()), float(worst.std()) / math.sqrt(len(worst))

    return await in_thread(of_worst_group)


def _efforts(kind: Kind, partitions: int) -> list[list[Effort]]:
    """Return lists of efforts, each in ascending order.

    An index's codes cannot always tell near rows apart, so even a search of all partitions can miss
    the target recall. A search of few partitions may still reach the target if it reads the vectors
    of more candidates.
    """
    efforts = []
    if kind.graph:
        ef = _LEAST_EF
        while ef < _WIDEST_EF * _STEP:
            efforts.append(Effort(nprobes=EVERY_PARTITION, ef=min(int(ef), _WIDEST_EF)))
            ef *= _STEP
        return [efforts]
    probes = 1.0
    while probes < partitions:
        efforts.append(Effort(nprobes=int(probes), refine=kind.refine))
        probes = max(probes + 1, probes * _STEP)
    efforts.append(Effort(nprobes=EVERY_PARTITION, refine=kind.refine))
    more = [] if kind.whole else [(kind.refine or 1) * times for times in _MORE_REFINES]
    refined = ([Effort(nprobes=e.nprobes, refine=refine) for e in efforts] for refine in more)
    return [efforts, *refined]


async def make_questions(table: Snapshot) -> Questions:
    """Make questions from stored rows, of the four kinds that the module's docstring describes."""
    vector = table.schema.vector
    rows = await table.rows()
    chance = np.random.default_rng()
    places = await in_thread(lambda: sorted(chance.choice(rows, min(rows, _SAMPLE), replace=False)))
    query = table.lance.take_offsets([int(place) for place in places]).select([vector])
    stored = to_matrix((await table.session.fetch(query)).column(vector).drop_null())
    return await in_thread(_questions_from, stored, table.schema.metric == "cosine", chance)


def _questions_from(stored: Float32Array, cosine: bool, chance: np.random.Generator) -> Questions:
    distinct = np.unique(stored.astype(np.float64), axis=0)
    if cosine and len(distinct):
        lengths = np.linalg.norm(distinct, axis=1, keepdims=True)
        distinct = np.unique(distinct / np.maximum(lengths, 1e-30), axis=0)
    chosen = chance.permutation(len(distinct))[:_MADE_OF]
    points = distinct[chosen]
    groups = [points]
    if len(distinct) > 1:
        apart = np.square(distinct).sum(axis=1) - 2 * points @ distinct.T
        apart[np.arange(len(chosen)), chosen] = np.inf
        around = distinct[np.argsort(apart, axis=1)[:, :_AROUND]]
        near, means = around[:, 0], around.mean(axis=1)
        other = distinct[chance.integers(len(distinct), size=len(chosen))]
        groups += [points + _BEYOND * (near - points), points + _BETWEEN * (other - points)]
        groups.append(points + _MOVED * (np.roll(means, 1, axis=0) - means))
    vectors = np.stack(groups, axis=1).reshape(-1, stored.shape[1]).astype(np.float32)
    return Questions(vectors, MADE, len(groups))


class _Nearest(NamedTuple):
    """For each question, the closeness of the furthest row that counts as near, the number of near
    rows, and 1 if the question is a stored vector that its search also finds, else 0."""

    least: Float64Array
    counts: Int64Array
    itself: Int64Array


async def _nearest(table: Snapshot, questions: Questions) -> _Nearest:
    """Find the nearest rows of all questions in one read of the table, with constant memory."""
    vector, metric, points = table.schema.vector, table.schema.metric, questions.vectors
    nearest = np.full((len(points), 1), -np.inf, dtype=np.float32)
    longest = 0.0
    scan = table.lance.query().select([vector])
    present = f"`{vector}` IS NOT NULL" if table.schema.vector_nullable else None

    def nearer(batch: Any) -> None:
        nonlocal nearest, longest
        rows = to_matrix(batch.column(vector))
        longest = max(longest, float(np.linalg.norm(rows, axis=1).max(initial=0.0)))
        close = np.concatenate([nearest, _closeness(rows, points, metric)], axis=1)
        kept = MEASURED_HITS + 1
        nearest = -np.partition(-close, min(kept, close.shape[1]) - 1, axis=1)[:, :kept]

    async for batch in await table.session.batches(scan, SCAN_BATCH, present):
        await hop(SCAN_BATCH, nearer, batch)
    nearest = -np.sort(-nearest, axis=1)
    lengths = np.linalg.norm(points, axis=1).astype(np.float64)
    size = {"cosine": np.ones(len(points)), "dot": lengths * longest, "l2": 4 * lengths**2}
    ties = _TIE * size[metric]
    squares = np.einsum("ij,ij->i", points, points) if metric != "cosine" else 1.0
    numbers = np.arange(len(points))
    is_row = (questions.groups > 1) & (numbers % questions.groups == 0)
    # With the dot product, many rows can be closer to a row than the row itself.
    itself = (is_row & (squares >= nearest[:, :MEASURED_HITS][:, -1] - ties)).astype(np.int64)
    counts = np.minimum(MEASURED_HITS, np.isfinite(nearest).sum(axis=1) - itself)
    return _Nearest(nearest[numbers, counts + itself - 1] - ties, counts, itself)


def _closeness(rows: Float32Array, questions: Float32Array, metric: Metric) -> Float32Array:
    """Return numbers that are higher for nearer rows, but comparable only for one question."""
    products = questions @ rows.T
    if metric == "dot":
        return products
    squares = np.einsum("ij,ij->i", rows, rows)
    if metric == "l2":
        return cast("Float32Array", 2 * products - squares)
    lengths = np.sqrt(squares) * np.linalg.norm(questions, axis=1)[:, None]
    return cast("Float32Array", products / np.maximum(lengths, np.float32(1e-30)))
