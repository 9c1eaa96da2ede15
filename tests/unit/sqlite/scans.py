"""Random scans, and what they have to find, by NumPy in float64."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tests.contract.base import case as named
from tests.harness.hard_vectors import KINDS, Rows, hard_query, hard_rows

from aiovec.backend import Metric, distances
from aiovec_sqlite.copies.kernel import library as native
from aiovec_sqlite.copies.scan import ScanQuery, nearest
from aiovec_sqlite.copies.segments import Int8Array, Segment, State, encode_rows

Bools = npt.NDArray[np.bool_]
Near = list[tuple[list[int], npt.NDArray[np.float64]]]
"""For each query rows with their distances."""
METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")


PARTS = (1, 2, 3, 8)
"""The numbers of threads that share a scan in these tests."""


def most_values(
    segment: Segment, point: npt.NDArray[np.float32], metric: Metric
) -> npt.NDArray[np.float64]:
    """The most that the rows' true values can be, as docs/internals/exact-search.md has it."""
    exact, dim = point.astype("f8"), segment.dim
    length = float(np.sqrt(np.square(exact).sum()))
    if metric == "cosine":
        exact, length = exact / length, 1.0
    scale = (np.abs(exact).max() or 1) / 127
    codes = np.rint(exact / scale)
    share = (dim + 32) * 2.0**-24
    slack = np.sqrt(np.square(exact - scale * codes).sum()) + share * length
    rows = slice(segment.count)
    product = codes_of(segment).astype("f8") @ codes
    value = (product.astype("f4") * segment.scale[rows]).astype("f8") * scale
    miss = length * (1 + share) * segment.error[rows] + slack * segment.most_reach * (1 + share)
    if metric == "l2":
        value = np.maximum(value + segment.offset[rows], -1e37 * scale)
        miss += share * np.abs(segment.offset[rows]) + share * 2.0**-26 * length**2
    most: npt.NDArray[np.float64] = value + miss
    return most


def true_values(rows: Rows, query: Rows, metric: Metric) -> npt.NDArray[np.float64]:
    """The values that the scan bounds: the larger, the nearer."""
    exact, point = rows.astype(np.float64), query.astype(np.float64)
    products: npt.NDArray[np.float64] = exact @ point
    if metric == "l2":
        products -= np.square(exact).sum(axis=1) / 2
    elif metric == "cosine":
        products /= np.sqrt(np.square(exact).sum(axis=1) * np.square(point).sum())
    return products


@dataclass(frozen=True, slots=True)
class Case:
    segments: list[Segment]
    points: npt.NDArray[np.float32]
    wanted: list[int]
    masks: list[list[Bools] | None]
    metric: Metric

    @property
    def state(self) -> State:
        return State(1, tuple(self.segments))

    @property
    def queries(self) -> list[ScanQuery]:
        return [ScanQuery(*args) for args in zip(self.points, self.wanted, self.masks, strict=True)]


def random_case(
    rng: np.random.Generator,
    *,
    rows: int = 300,
    dims: int = 300,
    dim: int = 0,
    count: int = 0,
    metric: Metric | None = None,
    kind: str = "",
) -> Case:
    """A scan of hard sizes: few components, odd ones, segments that begin anywhere in memory.

    ``dim``, ``count``, ``metric`` and ``kind`` choose the components, the queries, the metric and
    the kind of the vectors; without it some segments have one and some another.
    """
    metric = metric or METRICS[rng.integers(3)]
    dim = dim or int(
        rng.choice([1, 2, 3, 4, 5, 15, 16, 31, 33, 63, 64, 65, rng.integers(1, dims + 1)])
    )
    least = 1 if kind else 0  # row and segment
    sizes = rng.integers(least, rows, rng.integers(least, 4)).tolist()
    kinds = [kind or str(rng.choice([*KINDS])) for _ in (None, *sizes)]
    segments = [
        _segment(rng, place, hard_rows(kinds[place], rng, size, dim, metric), metric)
        for place, size in enumerate(sizes)
    ]
    count = count or int(rng.choice([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33]))
    near = [segment.vectors[: segment.count] for segment in segments if segment.count]
    near = near or [hard_rows("gaussian", rng, 5, dim, metric)]
    points = np.stack([hard_query(rng, near[n % len(near)], metric) for n in range(count)])
    masks = [_masks(rng, segments) if rng.random() < 0.3 else None for _ in range(count)]
    wanted = [int(rng.choice([1, 1, 3, 10, 50, 1000])) for _ in range(count)]
    return Case(segments, points, wanted, masks, metric)


def _segment(rng: np.random.Generator, place: int, vectors: Rows, metric: Metric) -> Segment:
    count, dim = vectors.shape
    room = count + int(rng.integers(0, 9))
    segment = Segment.empty(max(room, 1), dim)
    if rng.random() < 0.5:  # not where a line of the cache begins
        upper, lower = _loose(rng, segment.upper), _loose(rng, segment.lower)
        segment = replace(segment, upper=upper, lower=lower)
    ids = place * 10_000 + rng.permutation(10_000)[:count].astype(np.int64)
    if count:
        segment = segment.append(ids, encode_rows(vectors, metric))
    if count and rng.random() < 0.4:
        gone = rng.choice(ids, rng.integers(0, count + 1), replace=False)
        segment = segment.without(np.sort(gone))
    return segment


def codes_of(segment: Segment) -> Int8Array:
    """The codes of a segment's rows, of both their halves."""
    rows = slice(segment.count)
    high, low = segment.upper[rows].view(np.uint8), segment.lower[rows].view(np.uint8)
    codes = np.concatenate([high << 4 | low & 15, high & 240 | low >> 4], axis=1)
    return (codes ^ 128).view(np.int8)[:, : segment.dim]


def _loose(rng: np.random.Generator, codes: Int8Array) -> Int8Array:
    loose = np.zeros(codes.size + 64, dtype=codes.dtype)[int(rng.integers(1, 64)) :]
    return loose[: codes.size].reshape(codes.shape)


def _masks(rng: np.random.Generator, segments: list[Segment]) -> list[Bools]:
    share = rng.choice([rng.random(), 0.1, 0.01])
    return [rng.random(segment.count) < share for segment in segments]


def check_scan(case: Case) -> None:
    """Check what each number of threads finds, and the vectors that come with it."""
    every = {
        id: vector
        for s in case.segments
        for id, vector in zip(s.rowids[: s.count], s.vectors[: s.count], strict=True)
    }
    for parts in PARTS:
        with named(f"{parts} parts"):
            near = nearest(
                case.state, case.queries, case.metric, vectors=True, parts=parts, unit=32
            )
            check_measured(case, [(result.rowids.tolist(), result.distances) for result in near])
            for result in near:
                assert result.vectors is not None
                assert all(map(np.array_equal, result.vectors, [every[n] for n in result.rowids]))


def check_measured(case: Case, results: Near) -> None:
    """Check each query's rows with their distances: the nearest, in order."""
    assert len(results) == len(case.points)
    for column, (rowids, measured) in enumerate(results):
        mask, ids, vectors = case.masks[column], [], []
        for number, segment in enumerate(case.segments):
            alive = segment.offset[: segment.count] > -np.inf
            if mask is not None:
                alive &= mask[number]
            ids.append(segment.rowids[: segment.count][alive])
            vectors.append(segment.vectors[: segment.count][alive])
        every = np.concatenate(vectors) if ids else case.points[:0]
        true = distances(every, case.points[column], case.metric)
        for segment in case.segments:
            values = true_values(segment.vectors[: segment.count], case.points[column], case.metric)
            most = most_values(segment, case.points[column], case.metric)
            assert (most >= values)[segment.offset[: segment.count] > -np.inf].all(), (
                "better than its bound"
            )
        by_id = dict(zip(np.concatenate(ids).tolist() if ids else [], true, strict=True))
        assert len(set(rowids)) == len(rowids)
        assert [by_id[rowid] for rowid in rowids] == measured.tolist() == sorted(measured)
        if len(true):
            last = np.sort(true)[min(case.wanted[column], len(true)) - 1]
            assert {rowid for rowid, far in by_id.items() if far <= last} == set(rowids)


def packed(case: Case, kind: int, threads: int) -> bytes:
    """A case as ``scan_driver.c`` reads it."""
    count, dim = case.points.shape
    head = (kind, threads, len(case.segments), count, dim, native.METRICS[case.metric])
    parts = [struct.pack("<6qd", *head, case.state.longest)]
    for number, segment in enumerate(case.segments):
        parts.append(struct.pack("<2q", segment.count, segment.dead))
        coded = (segment.upper, segment.lower, segment.scale)
        arrays = (*coded, segment.offset, segment.error, segment.rowids, segment.vectors)
        parts += [array[: segment.count].tobytes() for array in arrays]
        facts = (segment.most_error, segment.most_reach, segment.most_offset, segment.most_lower)
        parts.append(struct.pack("<4d", *facts))
        for mask in case.masks:
            parts.append(struct.pack("<q", mask is not None))
            if mask is not None:
                parts.append(mask[number].tobytes())
    parts.append(case.points.tobytes())
    parts.append(struct.pack(f"<{count}q", *case.wanted))
    return b"".join(parts)


def unpacked(results: bytes, cases: list[Case]) -> tuple[int, list[Near]]:
    """Read the driver's output: the kinds of its processor; for each case each query's nearest rows
    with their distances."""
    numbers = np.frombuffer(results, dtype="<i8")
    place, answers = 1, []

    def taken(count: int) -> npt.NDArray[np.int64]:
        nonlocal place
        place += count
        return numbers[place - count : place]

    for case in cases:
        ends = [0, *taken(len(case.points)).tolist()]
        rowids, far = taken(ends[-1]).tolist(), taken(ends[-1]).view("<f8")
        answers.append([(rowids[a:b], far[a:b]) for a, b in itertools.pairwise(ends)])
    assert place == len(numbers)
    return int(numbers[0]), answers


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows and points whose distances are asked for, by their numbers."""

    vectors: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    points: npt.NDArray[np.float32]
    which: npt.NDArray[np.int64]
    metric: Metric

    def by_numpy(self) -> npt.NDArray[np.float64]:
        return distances(self.vectors[self.rows], self.points[self.which], self.metric)

    def packed(self) -> bytes:
        """As ``scan_driver.c`` reads them."""
        count, dim = len(self.rows), self.vectors.shape[1]
        metric = native.METRICS[self.metric]
        head = struct.pack("<6q", 1000 + metric, len(self.vectors), len(self.points), count, dim, 0)
        arrays = (self.vectors, self.points, self.rows, self.which)
        return head + b"".join(array.tobytes() for array in arrays)


def random_pairs(rng: np.random.Generator) -> Pairs:
    """Far ones, near ones down to the last bit, equal ones; of all sizes, some damaged."""
    dim = int(rng.choice([1, 2, 7, 8, 9, 16, 31, 127, 128, 129, 136, 257, rng.integers(1, 2000)]))
    vectors = rng.standard_normal((int(rng.integers(1, 20)), dim)).astype(np.float32)
    points = rng.standard_normal((int(rng.integers(1, 5)), dim)).astype(np.float32)
    count = int(rng.integers(0, 15))
    rows = rng.integers(0, len(vectors), count)
    which = np.sort(rng.integers(0, len(points), count))
    if rng.random() < 0.75:
        vectors[rows] = points[which] * np.float32(rng.uniform(0.1, 10))
        off = np.float32(0.0 if rng.random() < 0.2 else 10.0 ** -rng.integers(0, 9))
        vectors += off * rng.standard_normal(vectors.shape).astype(np.float32)
    vectors *= np.float32(10.0 ** int(rng.integers(-12, 12)) if rng.random() < 0.3 else 1)
    points *= np.float32(10.0 ** int(rng.integers(-12, 12)) if rng.random() < 0.3 else 1)
    for array in (vectors, points):
        if rng.random() < 0.1:
            array[0] = 0
        if rng.random() < 0.05:
            array[0, 0] = np.nan if rng.random() < 0.5 else np.inf
    return Pairs(vectors, rows, points, which, METRICS[rng.integers(3)])


# As in words.c; a search keeps more behind these fields.
RECORD = np.dtype(
    {
        "names": ["rows", "counts", "size", "wide", "largest", "weight", "original"],
        "formats": ["u8", "u8", "i8", "i8", "f8", "f8", "i8"],
        "itemsize": 80,
    }
)


@dataclass(frozen=True)
class WordCase:
    """Lists of rows and counts, as a keyword search has them, in the order of its words."""

    lists: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8] | npt.NDArray[np.uint32]]]
    weights: list[float]
    selected: npt.NDArray[np.uint32] | None
    """The rows that a filter selects."""
    gone: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.uint32]
    mean: float
    wanted: int
    every: bool
    """True if a row has to be in all lists."""

    @property
    def order(self) -> list[int]:
        return sorted(range(len(self.lists)), key=lambda n: -self.weights[n])

    @property
    def required(self) -> int:
        first = int(self.selected is not None)
        return first + len(self.lists) if self.every else first

    def records(self) -> npt.NDArray[np.void]:
        """The lists in the form of ``words.c``, which has to outlive none of these arrays."""
        first = int(self.selected is not None)
        rows = [] if self.selected is None else [(self.selected, np.zeros(0, np.uint8), 0, 0.0)]
        rows += [(*self.lists[n], self.lists[n][1].itemsize, self.weights[n]) for n in self.order]
        originals = [0] * first + [first + self.order.index(n) for n in range(len(self.lists))]
        table = np.zeros(len(rows), RECORD)
        for n, (numbers, counts, wide, weight) in enumerate(rows):
            most = float(counts.max()) if len(counts) else 0.0
            table[n] = (
                native.address(numbers), native.address(counts), len(numbers), wide, most, weight,
                originals[n],
            )  # fmt: skip
        return table

    def packed(self) -> bytes:
        numbers = (2_000, len(self.lengths), self.wanted, self.required)
        records = self.records()
        parts = [struct.pack("<4q", *numbers), struct.pack("<q", len(records))]
        parts += [struct.pack("<2d", self.lengths.min(initial=2**31), self.mean)]
        parts += [self.gone.tobytes(), self.lengths.tobytes()]
        arrays = [] if self.selected is None else [(self.selected, np.zeros(0, np.uint8))]
        arrays += [self.lists[n] for n in self.order]
        for record, (rows, counts) in zip(records, arrays, strict=True):
            parts.append(struct.pack("<2q", record["size"], record["wide"]))
            parts.append(struct.pack("<2d", record["largest"], record["weight"]))
            parts += [struct.pack("<q", record["original"]), rows.tobytes(), counts.tobytes()]
        return b"".join(parts)

    def best(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """Every row's score, word by word, in double; the best, and all that equal the last."""
        scores, having = np.zeros(len(self.lengths)), np.zeros(len(self.lengths), np.int64)
        base = 1.2 * (1 - 0.75 + 0.75 * self.lengths.astype(float) / self.mean)
        for (rows, counts), weight in zip(self.lists, self.weights, strict=True):
            many = counts.astype(float)
            scores[rows] += weight * ((many * (1.2 + 1.0)) / (many + base[rows]))
            having[rows] += 1
        valid = (having == len(self.lists)) if self.every else (having > 0)
        valid &= self.gone == 0
        if self.selected is not None:
            valid &= np.isin(np.arange(len(valid)), self.selected)
        rows = np.flatnonzero(valid)
        if len(rows) > self.wanted:
            rows = rows[scores[rows] >= np.sort(scores[rows])[-self.wanted]]
        return rows.astype(np.uint32), scores[rows]

    def check(self, rows: npt.NDArray[np.uint32], scores: npt.NDArray[np.float64]) -> None:
        expected, true = self.best()
        order = np.argsort(rows, kind="stable")
        assert rows[order].tolist() == expected.tolist()
        assert scores[order].tolist() == true.tolist()


def random_words(rng: np.random.Generator) -> WordCase:
    """Common and rare words, some of which are in no row or twice in the query; many equal rows."""
    count = int(rng.choice([1, 2, 31, 500, rng.integers(1, 3_000)]))
    lists = []
    for _ in range(int(rng.integers(1, 9))):
        rows = np.flatnonzero(rng.random(count) < rng.choice([0, 1, 10.0 ** -rng.uniform(0, 3)]))
        most = int(rng.choice([2, 5, 200, 100_000]))
        counts = rng.integers(1, most, len(rows))
        kind = np.uint8 if most < 256 else np.uint32
        lists.append((rows.astype(np.uint32), counts.astype(kind)))
    if rng.random() < 0.2:
        lists.append(lists[0])
    lengths = rng.integers(1, int(rng.choice([2, 5, 400])), count).astype(np.uint32)
    weights = [max(1e-6, float(np.log((count - len(r) + 0.5) / (len(r) + 0.5)))) for r, _ in lists]
    selected = None
    if rng.random() < 0.3:
        selected = np.flatnonzero(rng.random(count) < rng.random()).astype(np.uint32)
    return WordCase(
        lists, weights, selected, (rng.random(count) < rng.choice([0, 0.1])).astype(np.uint8),
        lengths, float(lengths.mean()), int(rng.choice([1, 3, 10, count, 5_000])),
        every=bool(rng.random() < 0.4),
    )  # fmt: skip
