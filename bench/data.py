"""The data of the benchmarks: a real set where a folder holds one, else data made to look like it.

A folder with a real set holds three files: ``queries-<dim>-f16.npy``, another
``<name>-<dim>-f16.npy`` with one vector for each row, and a ``.parquet`` with a column ``text`` for
the same rows. A ``truth-<name>-cosine.npy`` may hold the numbers of the nearest rows for each
query, best first; else they are computed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aiovec import Schema

Float32Array = npt.NDArray[np.float32]

FOLDER_VARIABLE = "AIOVEC_BENCH_DATA"

_SYLLABLES = "ka lo mi ten ra su ver dan no pel ist or an ge tri ul mar be sho en".split()
_CLUSTERS = 200
_QUERIES = 100


@dataclass(frozen=True)
class Dataset:
    """Vectors of unit length, a text for each, and queries of the same kind."""

    origin: str
    vectors: Float32Array
    texts: list[str]
    queries: Float32Array

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.vectors)

    def ids(self) -> list[str]:
        return [f"row-{i:08d}" for i in range(len(self))]

    def schema(self) -> Schema:
        return Schema.context_vectors(self.dim)

    def batches(self, size: int = 1000) -> list[pa.RecordBatch]:
        """The rows as Arrow batches of ``schema()``, all its fields filled."""
        count = len(self)
        columns = {
            "id": pa.array(self.ids()),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(self.vectors.reshape(-1)), self.dim
            ),
            "source_id": pa.array([f"source-{i % 997}" for i in range(count)]),
            "source_type": pa.array([("web", "rss", "mail", "file")[i % 4] for i in range(count)]),
            "text_chunk": pa.array(self.texts),
            "created_at": pa.array(["2024-05-01T12:00:00+00:00"] * count),
            "tags": pa.array([f'["tag-{i % 50}","tag-{i % 7}"]' for i in range(count)]),
        }
        return pa.table(columns).to_batches(max_chunksize=size)


def real_folder(folder: str | None = None) -> Path | None:
    """Where a real set lies, if one was named."""
    place = folder or os.environ.get(FOLDER_VARIABLE)
    return Path(place) if place else None


def load(
    rows: int, dim: int | None = None, folder: str | None = None, *, queries: int = _QUERIES
) -> Dataset:
    """At most ``rows`` rows, always the same for the same arguments.

    A real set is used where ``dim`` is its own or None; else ``dim`` is 768 by default.
    """
    place = real_folder(folder)
    real = _read(place, rows, dim, queries) if place else None
    return real or generate(rows, dim or 768, queries)


def _read(folder: Path, rows: int, dim: int | None, count: int) -> Dataset | None:
    queries = next(folder.glob("queries-*-f16.npy"))
    vectors = next(p for p in sorted(folder.glob("*-f16.npy")) if p != queries)
    if dim not in (None, np.load(queries, mmap_mode="r").shape[1]):
        return None
    texts = pq.read_table(next(folder.glob("*.parquet")), columns=["text"]).column("text")
    return Dataset(
        origin=f"real embeddings ({vectors.stem})",
        vectors=np.load(vectors, mmap_mode="r")[:rows].astype(np.float32),
        texts=texts[:rows].to_pylist(),
        queries=np.load(queries)[:count].astype(np.float32),
    )


def generate(rows: int, dim: int, queries: int = _QUERIES) -> Dataset:
    """Points around cluster centres, as embeddings lie, not spread evenly over the sphere."""
    random = np.random.default_rng(20240501)
    centres = random.standard_normal((_CLUSTERS, dim), dtype=np.float32)

    def points(count: int) -> Float32Array:
        made = random.standard_normal((count, dim), dtype=np.float32)
        made += centres[random.integers(_CLUSTERS, size=count)]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made

    vectors, asked = points(rows), points(queries)
    parts = random.integers(len(_SYLLABLES), size=(rows, 40))
    texts = [
        " ".join(_SYLLABLES[a] + _SYLLABLES[b] for a, b in row.reshape(-1, 2)) for row in parts
    ]
    return Dataset("generated clusters", vectors, texts, asked)
