"""A million rows: more than one wants to scan from a file, and little enough for memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

import aiovec
from aiovec import Field, Schema
from aiovec.backend import Float32Array

from ..measure import Check, Result
from ..options import Options
from .corpus import LIMIT, TABLE, TOLERANCE, row_number
from .fresh import probe, save_queries

SUBJECT = "search-million"

ROWS = 1_000_000
DIM = 384
_CHUNK = 20_000
_CLUSTERS = 1000
_SEARCHES = 60
_CHECKED = 20
SEED = 11


async def run(options: Options) -> list[Result]:
    rows = options.rows(ROWS)
    path = options.folder / "million.db"
    queries = next(points(_SEARCHES + 1, seed=SEED + 1))
    scores: list[Float32Array] = []
    async with aiovec.connect(path) as store:
        await store.create_table(
            TABLE, Schema(DIM, fields={"pick": Field(int, index="btree"), "text": Field(str)})
        )
        first = 0
        for vectors in points(rows):
            await store.insert(TABLE, batch(first, vectors))
            first += len(vectors)
            scores.append(best_scores(scores, queries[:_CHECKED] @ vectors.T))
            del scores[:-1]
    told = await probe(path, save_queries(options.folder, queries), "ours", _SEARCHES)
    bare = await probe(path, save_queries(options.folder, queries), "theirs", 3)
    hit_scores = scores_of(rows, queries[:_CHECKED], told["found"])
    exact = np.mean(
        [found >= best.min() - TOLERANCE for found, best in zip(hit_scores, scores[0], strict=True)]
    )
    gib = 2**30
    note = (
        f"{told['before'] / gib:.2f} GiB before the first search, the copy takes "
        f"{told['copy'] / gib:.2f} GiB and was ready after {told['ready_s']:.1f} s"
    )
    return [
        Result(
            SUBJECT,
            f"the {LIMIT} nearest of {rows:,} generated rows of {DIM} dims, in a fresh process "
            f"(median of {_SEARCHES})",
            "ms",
            {"aiovec, whole rows": told["median_ms"], "sqlite-vec, same file": bare["median_ms"]},
            [
                Check("one client", told["median_ms"], 30, at_most=True, unit=" ms"),
                Check("memory of the process", told["after"] / gib, 1, at_most=True, unit=" GiB"),
                Check("recall of aiovec", float(exact), 1.0),
            ],
            [note],
        )
    ]


def points(count: int, seed: int = SEED) -> Iterator[Float32Array]:
    """Clusters as ``bench.data`` makes them, in chunks, for they would fill the memory."""
    centres = np.random.default_rng(SEED).standard_normal((_CLUSTERS, DIM), dtype=np.float32)
    random = np.random.default_rng(seed)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        made = random.standard_normal((size, DIM), dtype=np.float32)
        made += centres[random.integers(_CLUSTERS, size=size)]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        yield made


def batch(first: int, vectors: Float32Array) -> pa.RecordBatch:
    numbers = range(first, first + len(vectors))
    return pa.RecordBatch.from_pydict(
        {
            "id": pa.array([f"row-{row:08d}" for row in numbers]),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM),
            "pick": pa.array([row % 1000 for row in numbers]),
            "text": pa.array([f"the text of row {row}" for row in numbers]),
        }
    )


def best_scores(before: list[Float32Array], scores: Float32Array) -> Float32Array:
    joined = np.concatenate([*before, scores], axis=1)
    count = min(LIMIT, joined.shape[1])
    best: Float32Array = np.partition(joined, -count, axis=1)[:, -count:]
    return best


def scores_of(rows: int, queries: Float32Array, found: list[list[str]]) -> list[Float32Array]:
    """Return the true scores of the rows that were found, read from the generator again."""
    wanted = [np.array([row_number(name) for name in names]) for names in found[: len(queries)]]
    scores: list[Float32Array] = [np.full(len(one), -2.0, dtype=np.float32) for one in wanted]
    first = 0
    for vectors in points(rows):
        for query, (numbers, into) in enumerate(zip(wanted, scores, strict=True)):
            here = (numbers >= first) & (numbers < first + len(vectors))
            into[here] = vectors[numbers[here] - first] @ queries[query]
        first += len(vectors)
    return scores
