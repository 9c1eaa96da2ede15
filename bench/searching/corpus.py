"""The rows that searches are measured on, and which of them are truly the nearest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aiovec import Field, Schema
from aiovec.backend import Float32Array

from ..data import Dataset, generate, load, real_folder

Int64Array = npt.NDArray[np.int64]

TABLE = "docs"
LIMIT = 10
QUERIES = 1000
# Scores nearer to each other than this are ties: float32 sums differ from one kernel to the next.
TOLERANCE = 1e-5
# ``pick < n`` selects n thousandths of the rows, spread over all of the table.
PICKS = 1000
_STRIDE = 617
_BATCH = 10_000


class Corpus:
    """Unit vectors with two fields each, and queries."""

    def __init__(self, data: Dataset, truth: Int64Array | None = None) -> None:
        self.origin = data.origin
        self.texts = data.texts
        self.vectors = _unit(data.vectors)
        self.queries = _unit(data.queries)
        self._truth = truth

    @classmethod
    def load(cls, rows: int, dim: int, folder: str | None) -> Corpus:
        """The real set where it is of this dimension, else generated rows."""
        data = load(rows, dim, folder, queries=QUERIES)
        place = real_folder(folder)
        truth = None
        if place and not data.origin.startswith("generated"):
            known = next(place.glob("truth-*-cosine.npy"), None)
            # It holds for the whole set only.
            whole = next(p for p in sorted(place.glob("*-f16.npy")) if "queries" not in p.name)
            if known and len(data) == len(np.load(whole, mmap_mode="r")):
                truth = np.load(known)[:, :LIMIT].astype(np.int64)
        return cls(data, truth)

    @classmethod
    def generate(cls, rows: int, dim: int) -> Corpus:
        return cls(generate(rows, dim, QUERIES))

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.vectors)

    def __str__(self) -> str:
        return f"{len(self):,} rows of {self.dim} dims ({self.origin})"

    @cached_property
    def picks(self) -> Int64Array:
        return np.arange(len(self), dtype=np.int64) * _STRIDE % PICKS

    def schema(self, quantized: Literal["bit"] | None = None) -> Schema:
        fields = {"pick": Field(int, index="btree"), "text": Field(str)}
        return Schema(self.dim, fields=fields, quantized=quantized)

    def batch(self, rows: Sequence[int] | Int64Array | slice) -> pa.RecordBatch:
        numbers = np.arange(len(self))[rows]
        vectors = pa.array(self.vectors[rows].reshape(-1))
        return pa.RecordBatch.from_pydict(
            {
                "id": pa.array([f"row-{row:08d}" for row in numbers]),
                "embedding": pa.FixedSizeListArray.from_arrays(vectors, self.dim),
                "pick": pa.array(self.picks[rows]),
                "text": pa.array([self.texts[row] for row in numbers]),
            }
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self), _BATCH):
            yield self.batch(slice(start, start + _BATCH))

    # Truth

    @cached_property
    def least_scores(self) -> npt.NDArray[np.float64]:
        """Return the score that a row needs, for each query, to be among the nearest."""
        truth = self._truth if self._truth is not None else self.nearest(range(len(self.queries)))
        return np.array(
            [self._scores(query, rows[: self.limit])[-1] for query, rows in enumerate(truth)]
        )

    @property
    def limit(self) -> int:
        return min(LIMIT, len(self))

    def nearest(self, queries: Iterable[int], most_pick: int = PICKS) -> list[Int64Array]:
        """The nearest rows of these queries, best first, of those with ``pick`` below a value."""
        allowed = np.flatnonzero(self.picks < most_pick)
        rows = self.vectors if len(allowed) == len(self) else self.vectors[allowed]
        # Some more than asked for: float64 settles what float32 cannot tell.
        count = min(4 * LIMIT, len(allowed))
        found = []
        for part in np.array_split(np.fromiter(queries, dtype=np.int64), 16):
            for query, scores in zip(part, self.queries[part] @ rows.T, strict=True):
                best = allowed[np.argpartition(scores, -count)[-count:]]
                order = np.argsort(-self._scores(query, best), kind="stable")
                found.append(best[order][:LIMIT])
        return found

    def recall(self, answers: Iterable[tuple[int, Sequence[int]]]) -> float:
        """The share of the nearest that answers have: pairs of a query's number and row numbers."""
        shares = []
        for query, rows in answers:
            different = np.unique(np.asarray(rows, dtype=np.int64))
            enough = self._scores(query, different) >= self.least_scores[query] - TOLERANCE
            shares.append(min(1.0, np.count_nonzero(enough) / self.limit))
        return float(np.mean(shares))

    def _scores(self, query: int, rows: Int64Array) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = self.vectors[rows].astype(np.float64) @ self.queries[
            query
        ].astype(np.float64)
        return scores


def row_number(identifier: str) -> int:
    return int(identifier[4:])


def _unit(vectors: Float32Array) -> Float32Array:
    unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
