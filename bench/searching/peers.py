"""The same search by others: exact ones that need no index worth waiting for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import bare
from .corpus import LIMIT, TABLE, Corpus, row_number
from .store import Ask

SQLITE_VEC = "sqlite-vec, the same file, rowids only"
FAISS = "faiss flat, one thread, row numbers only"

_PANORAMA_LEVELS = 8
_PANORAMA_BATCH = 128
_TRAINED = 50_000


def _faiss() -> Any:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    return faiss


def faiss_flat(corpus: Corpus) -> Ask:
    index = _faiss().IndexFlatIP(corpus.dim)
    index.add(corpus.vectors)
    return _of_index(index, corpus.queries)


def faiss_panorama(corpus: Corpus) -> Ask:
    """It passes over what the first components rule out, so these have to hold the most."""
    faiss = _faiss()
    rotation = faiss.PCAMatrix(corpus.dim, corpus.dim)
    rotation.train(corpus.vectors[:_TRAINED])
    # The same rotation for both sides keeps products, a shift would not.
    matrix = faiss.vector_to_array(rotation.A).reshape(corpus.dim, corpus.dim)
    index = faiss.IndexFlatIPPanorama(corpus.dim, _PANORAMA_LEVELS, _PANORAMA_BATCH)
    index.add(np.ascontiguousarray(corpus.vectors @ matrix.T))
    return _of_index(index, corpus.queries, matrix)


def _of_index(index: Any, queries: np.ndarray, matrix: np.ndarray | None = None) -> Ask:
    async def ask(query: int) -> list[int]:
        asked = queries[query : query + 1]
        if matrix is not None:
            asked = asked @ matrix.T
        found: list[int] = index.search(asked, LIMIT)[1][0].tolist()
        return [row for row in found if row >= 0]

    return ask


def numpy_product(corpus: Corpus) -> Ask:
    async def ask(query: int) -> list[int]:
        scores = corpus.vectors @ corpus.queries[query]
        best = np.argpartition(scores, -corpus.limit)[-corpus.limit :]
        found: list[int] = best[np.argsort(-scores[best])].tolist()
        return found

    return ask


def usearch_exact(corpus: Corpus) -> Ask:
    search = importlib.import_module("usearch.index").search

    async def ask(query: int) -> list[int]:
        found = search(
            corpus.vectors, corpus.queries[query], corpus.limit, "ip", exact=True, threads=1
        )
        keys: list[int] = found.keys.tolist()
        return keys

    return ask


EXACT: dict[str, tuple[str, Callable[[Corpus], Ask]]] = {
    "NumPy's product, float32": ("numpy", numpy_product),
    FAISS: ("faiss", faiss_flat),
    "faiss Panorama, one thread": ("faiss", faiss_panorama),
    "usearch exact, one thread": ("usearch", usearch_exact),
}


def exact_peers(corpus: Corpus) -> tuple[dict[str, Ask], list[str]]:
    """The ways that are installed, and a line for each that is not."""
    ways: dict[str, Ask] = {}
    left_out: list[str] = []
    for name, (package, made) in EXACT.items():
        try:
            ways[name] = made(corpus)
        except ImportError:
            left_out.append(f"skipped: {name}: {package} is not installed")
        except AttributeError as exc:
            left_out.append(f"skipped: {name}: this version of {package} lacks it ({exc})")
    return ways, left_out


@contextmanager
def sqlite_vec(path: Path, corpus: Corpus) -> Iterator[Ask]:
    """KNN by hand in aiovec's own file. It blocks its caller, so no thread costs it anything."""
    db = bare.connect(path)
    statement = f'SELECT rowid FROM "{TABLE}.vec" WHERE vector MATCH ? AND k = ? ORDER BY distance'

    names = f'SELECT _rowid, id FROM "{TABLE}.rows"'
    rows = {rowid: row_number(name) for rowid, name in db.execute(names)}

    async def ask(query: int) -> list[int]:
        asked = corpus.queries[query].tobytes()
        return [rows[rowid] for (rowid,) in db.execute(statement, (asked, LIMIT))]

    try:
        yield ask
    finally:
        db.close()
