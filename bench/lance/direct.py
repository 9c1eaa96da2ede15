"""A store written by hand with lancedb's own client."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..searching.corpus import LIMIT, TABLE, row_number
from ..searching.store import Ask

COLUMNS = ("id", "pick", "text")


async def connect(folder: Path) -> Any:
    lancedb = importlib.import_module("lancedb")
    return await lancedb.connect_async(folder)


async def create(folder: Path, batch: pa.RecordBatch) -> Any:
    """An empty table for such batches."""
    db = await connect(folder)
    return await db.create_table(TABLE, schema=batch.schema)


async def upsert(table: Any, batch: pa.RecordBatch) -> None:
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    await merge.execute(pa.Table.from_batches([batch]))


def ask(table: Any, queries: Any, **effort: int) -> Ask:
    """Searches with the same effort, for the same fields; ``flat=1``: without an index."""

    async def search(query: int) -> list[int]:
        built = table.query().nearest_to(queries[query]).distance_type("cosine")
        if "nprobes" in effort:
            built = built.nprobes(effort["nprobes"])
        if "refine" in effort:
            built = built.refine_factor(effort["refine"])
        if "ef" in effort:
            built = built.ef(effort["ef"])
        if "flat" in effort:
            built = built.bypass_vector_index()
        found = await built.select([*COLUMNS, "_distance"]).limit(LIMIT).to_arrow()
        return [row_number(id) for id in found.column("id").to_pylist()]

    return search
