"""The rows and queries of the benchmarks, and each query's truly nearest rows.

A folder with a real data set contains ``queries-<dim>-f16.npy``, ``<name>-<dim>-f16.npy`` with a
vector for each row, and a ``.parquet`` file with a column ``text`` for the same rows. Without this
folder, the rows are generated; the same arguments give the same rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aiovec import Field, Schema

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

FOLDER_VARIABLE = "AIOVEC_BENCH_DATA"
TABLE = "docs"
LIMIT = 10
# The shape of the real data set behind the figures in the docs.
ROWS, DIM = 117_659, 384
# ``pick < n`` selects n thousandths of the rows, scattered over the table.
PICKS = 1000
COLUMNS = ("id", "pick", "place", "text")
# Scores that differ by less are ties: float32 sums differ between kernels.
TOLERANCE = 1e-5

_QUERIES = 1000
_BATCH = 10_000
_STRIDE = 617  # spreads the picks
_CLUSTERS = 200
_SYLLABLES = "ka lo mi ten ra su ver dan no pel ist or an ge tri ul mar be sho en".split()
_VOCABULARY = 20_000
_WORDS = 20  # in a generated text


class Data:
    """Rows with a unit-length vector, two ints and a text each, and queries."""

    def __init__(
        self, origin: str, vectors: Float32Array, texts: Sequence[str], queries: Float32Array
    ) -> None:
        self.origin = origin
        self.vectors = _unit(vectors)
        self.texts = texts
        self.queries = _unit(queries)
        self.picks: Int64Array = np.arange(len(vectors), dtype=np.int64) * _STRIDE % PICKS

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors)

    def __str__(self) -> str:
        return f"{len(self):,} rows of {self.dim} dims ({self.origin})"

    def schema(self, *, text: bool = False) -> Schema:
        fields = {
            "pick": Field(int, index="btree"),
            "place": Field(int, index="btree"),
            "text": Field(str, text=text),
        }
        return Schema(self.dim, fields=fields)

    def batch(self, rows: Sequence[int] | Int64Array | slice) -> pa.RecordBatch:
        numbers = np.arange(len(self))[rows]
        vectors = pa.array(self.vectors[rows].reshape(-1))
        columns = {
            "id": pa.array(map(row_id, numbers)),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors, self.dim),
            "pick": pa.array(self.picks[rows]),
            "place": pa.array(numbers),
            "text": pa.array([self.texts[row] for row in numbers]),
        }
        return pa.RecordBatch.from_pydict(columns)

    def batches(self, size: int = _BATCH) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))

    def row(self, number: int) -> dict[str, object]:
        return {
            "id": row_id(number),
            "embedding": self.vectors[number],
            "pick": int(self.picks[number]),
            "place": number,
            "text": self.texts[number],
        }

    def pairs(self, count: int, seed: int = 7) -> Int64Array:
        """Return the two rows behind each point of ``mixed``; the first has the larger share."""
        rows: Int64Array = np.random.default_rng(seed).integers(len(self), size=(2, count))
        return rows

    def mixed(self, count: int, share: float = 0.6, seed: int = 7) -> Float32Array:
        """Return points, each between two vectors."""
        first, second = self.pairs(count, seed)
        points: Float32Array = share * self.vectors[first] + (1 - share) * self.vectors[second]
        return points

    def words(self, count: int) -> list[str]:
        """Return random words from the texts."""
        random = np.random.default_rng(3)
        drawn = self._drawn(random, r"\b[a-z]{4,}\b")
        return [str(random.choice(next(drawn))) for _ in range(count)]

    def questions(self, count: int) -> list[str]:
        """Return the first nine words of random texts, like questions."""
        drawn = self._drawn(np.random.default_rng(4), r"[a-z]+")
        return [" ".join(next(drawn)[:9]) for _ in range(count)]

    def _drawn(self, random: np.random.Generator, pattern: str) -> Iterator[list[str]]:
        """Yield the words of random texts that match a pattern, one text after another."""
        while True:
            text = self.texts[int(random.integers(len(self)))].lower()
            if words := re.findall(pattern, text):
                yield words

    # Truth

    def nearest(self, queries: Iterable[int], allowed: Int64Array) -> list[Int64Array]:
        """Return the nearest of the allowed rows for each of these queries, best first."""
        rows = self.vectors if len(allowed) == len(self) else self.vectors[allowed]
        # More rows than requested, because float64 orders rows that float32 cannot tell apart.
        count = min(4 * LIMIT, len(allowed))
        nearest = []
        for part in np.array_split(np.fromiter(queries, dtype=np.int64), 16):
            for query, scores in zip(part, self.queries[part] @ rows.T, strict=True):
                best = allowed[np.argpartition(scores, -count)[-count:]]
                order = np.argsort(-self._scores(query, best), kind="stable")
                nearest.append(best[order][:LIMIT])
        return nearest

    def recall(
        self, answers: Iterable[tuple[int, Sequence[int]]], allowed: Int64Array | None = None
    ) -> float:
        """Return the share of the nearest allowed rows in the answers, averaged over queries."""
        return float(self.recalls(answers, allowed).mean())

    def recalls(
        self, answers: Iterable[tuple[int, Sequence[int]]], allowed: Int64Array | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the share of the nearest allowed rows in the answer to each query."""
        rows = np.arange(len(self)) if allowed is None else allowed
        queries, answered = zip(*answers, strict=True)
        shares = []
        for query, hits, truth in zip(queries, answered, self.nearest(queries, rows), strict=True):
            least = self._scores(query, truth)[-1] - TOLERANCE
            enough = self._scores(query, np.intersect1d(hits, rows).astype(np.int64)) >= least
            shares.append(min(1.0, np.count_nonzero(enough) / len(truth)))
        return np.array(shares)

    def _scores(self, query: int, rows: Int64Array) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = self.vectors[rows].astype(np.float64) @ self.queries[
            query
        ].astype(np.float64)
        return scores


def row_id(number: int) -> str:
    return f"row-{number:08d}"


def row_number(id: str) -> int:
    return int(id[4:])


def load(rows: int, folder: str | None = None, dim: int = DIM) -> Data:
    """Return real rows, and mixes of two if there are too few; without a folder, generate rows."""
    place = folder or os.environ.get(FOLDER_VARIABLE)
    if not place:
        return generate(rows, dim)
    real = _read(Path(place))
    more = max(0, rows - len(real))
    vectors = np.concatenate([real.vectors[:rows], real.mixed(more)])
    texts = [*real.texts[:rows], *(real.texts[row] for row in real.pairs(more)[0])]
    origin = real.origin + (" and mixes of two" if more else "")
    return Data(origin, vectors, texts, real.queries)


def _read(folder: Path) -> Data:
    queries = next(folder.glob("queries-*-f16.npy"))
    vectors = next(path for path in sorted(folder.glob("*-f16.npy")) if path != queries)
    texts = pq.read_table(next(folder.glob("*.parquet")), columns=["text"]).column("text")
    return Data(
        f"real embeddings ({vectors.stem})",
        np.load(vectors).astype(np.float32),
        texts.to_pylist(),
        np.load(queries)[:_QUERIES].astype(np.float32),
    )


def generate(rows: int, dim: int = DIM) -> Data:
    """Generate points around centres, like embeddings, and texts with frequent and rare words."""
    random = np.random.default_rng(20240501)
    centres = random.standard_normal((_CLUSTERS, dim), dtype=np.float32)

    def points(count: int) -> Float32Array:
        made = random.standard_normal((count, dim), dtype=np.float32)
        made += centres[random.integers(_CLUSTERS, size=count)]
        return made

    chances = 1 / (np.arange(_VOCABULARY) + 3.0)
    vocabulary = ["".join(random.choice(_SYLLABLES, 2 + n % 3)) for n in range(_VOCABULARY)]
    used = random.choice(_VOCABULARY, size=(rows, _WORDS), p=chances / chances.sum())
    texts = [" ".join(vocabulary[word] for word in row) for row in used]
    return Data("generated clusters", points(rows), texts, points(_QUERIES))


def _unit(vectors: Float32Array) -> Float32Array:
    unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
