"""Stores and files that benchmarks read, filled as quickly as they can be."""

from __future__ import annotations

from pathlib import Path

from aiovec import VectorStore

from . import bare
from .data import Dataset

TABLE = "docs"
_BATCH = 10_000


async def fill(store: VectorStore, data: Dataset) -> None:
    await store.create_table(TABLE, data.schema())
    for batch in data.batches(_BATCH):
        await store.insert(TABLE, batch)


def fill_bare(path: Path, data: Dataset) -> None:
    """The same rows in one ordinary table and one vec0 table, joined by rowid."""
    db = bare.connect(path)
    names = list(data.schema().fields)
    bare.create_vec0(db, data.dim)
    bare.create_rows(db, names)
    first = 1
    for batch in data.batches(_BATCH):
        rowids = range(first, first + batch.num_rows)
        bare.insert_vectors(db, "vec", rowids, data.vectors[first - 1 : first - 1 + len(rowids)])
        columns = [batch.column(name).to_pylist() for name in ("id", *names)]
        db.execute("BEGIN")
        bare.insert_rows(db, rowids, columns)
        db.execute("COMMIT")
        first += batch.num_rows
    db.close()
