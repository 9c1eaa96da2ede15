"""The rows that are moved: vectors in clusters, text, dates, lists and payload; always the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from aiovec import Field, Schema

TABLE = "docs"
CHUNK = 5_000

_SEED = 20_260_101
_CLUSTERS = 200
# Some that other encodings and careless writers lose: more bytes than characters, quotes, lines.
_WORDS = 'Ärger naïve Δοκιμή 数据 emoji🙂 it\'s "quoted" tab\there line\nbreak plain words'.split(
    " "
)
_EPOCH_US = 1_600_000_000_000_000


def schema(dim: int) -> Schema:
    return Schema(
        dim,
        model="bench-model",
        fields={
            "title": str,
            "body": str,
            "year": Field(int, index="btree"),
            "score": float,
            "seen": datetime,
            "live": bool,
            "tags": list[str],
        },
    )


def batches(rows: int, dim: int) -> Iterator[pa.RecordBatch]:
    """The rows in the layout of ``schema``, some thousand at a time."""
    centres = np.random.default_rng(_SEED).standard_normal((_CLUSTERS, dim), dtype=np.float32)
    for first in range(0, rows, CHUNK):
        random = np.random.default_rng([_SEED, first])
        yield _batch(first, min(CHUNK, rows - first), centres, random)


def _batch(first: int, count: int, centres: Any, random: np.random.Generator) -> pa.RecordBatch:
    dim = centres.shape[1]
    vectors = random.standard_normal((count, dim), dtype=np.float32)
    vectors += centres[random.integers(_CLUSTERS, size=count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = random.integers(len(_WORDS), size=(count, 24))
    numbers = range(first, first + count)
    columns = {
        "id": [f"doc-{n:09d}" for n in numbers],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim),
        "title": [f"The document {n}" if n % 11 else None for n in numbers],
        "body": [" ".join(_WORDS[w] for w in row) for row in words],
        "year": [1990 + n % 40 if n % 13 else None for n in numbers],
        "score": random.standard_normal(count).tolist(),
        "seen": [_EPOCH_US + 61_000_001 * n if n % 7 else None for n in numbers],
        "live": [n % 3 == 0 if n % 17 else None for n in numbers],
        "tags": [[f"tag-{n % 50}", _WORDS[n % len(_WORDS)]] if n % 5 else [] for n in numbers],
        "payload": [_payload(n) if n % 4 else None for n in numbers],
    }
    arrays = []
    layout = schema(dim).to_arrow()
    for column in layout:
        values = columns[column.name]
        if column.name == "payload":
            values = pa.ExtensionArray.from_storage(column.type, pa.array(values, pa.utf8()))
        elif not isinstance(values, pa.Array):
            values = pa.array(values, column.type)
        arrays.append(values)
    return pa.RecordBatch.from_arrays(arrays, schema=layout)


def _payload(number: int) -> str:
    source = {"url": f"https://example.org/{number}", "rank": number * 37 % 1009}
    kept = {"kind": _WORDS[number % 7], "source": source, "parts": [number % 9, 0.5, None, True]}
    return json.dumps(kept, ensure_ascii=False)


class Fingerprint:
    """Tells two sets of rows apart, whatever their order: every value of every row counts.

    Made with none of the migrator's own code. Payloads count as JSON values, since LanceDB sorts
    their keys.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, batch: pa.RecordBatch) -> None:
        values = [_values(batch.column(i)) for i in range(batch.num_columns)]
        for row in zip(*values, strict=True):
            digest = hashlib.blake2b(repr(row).encode(), digest_size=16).digest()
            self._sum = (self._sum + int.from_bytes(digest, "big")) % 2**128
            self.rows += 1

    def __str__(self) -> str:
        return f"{self.rows} {self._sum:032x}"


def _values(column: pa.Array) -> Iterable[Any]:
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        matrix = column.flatten().to_numpy().reshape(len(column), kind.list_size)
        return [hashlib.blake2b(row, digest_size=16).digest() for row in matrix]
    if pa.types.is_timestamp(kind):
        return column.cast(pa.int64()).to_pylist()
    if isinstance(column, pa.ExtensionArray):
        texts = column.storage.to_pylist()
        return [None if t is None else json.dumps(json.loads(t), sort_keys=True) for t in texts]
    return column.to_pylist()
