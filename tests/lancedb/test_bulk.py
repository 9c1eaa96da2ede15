"""Filling a new table, as a migration does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aiovec import Schema
from aiovec.errors import DuplicateIdError

from .support import backend_on, opened

SCHEMA = Schema(4, fields={"n": int})


def rows(*ids: str) -> pa.Table:
    vectors = np.arange(1, 4 * len(ids) + 1, dtype=np.float32)
    columns = {
        "id": ids,
        "n": list(range(len(ids))),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4),
        "payload": pa.array([None] * len(ids), pa.json_(pa.utf8())),
    }
    return pa.Table.from_pydict(columns, schema=SCHEMA.to_arrow())


async def test_rows_are_added_to_a_table_like_any_other(tmp_path: Path) -> None:
    async with backend_on(tmp_path / "s") as backend, opened(tmp_path / "s") as store:
        await store.create_table("notes", SCHEMA)
        table = await backend.open_table("notes")
        for ids in (("a", "b"), ("c",)):
            await backend.bulk_add(table, rows(*ids))
        found = await store.find("notes")
        assert {record.id: record["n"] for record in found} == {"a": 0, "b": 1, "c": 0}
        with pytest.raises(DuplicateIdError):
            await store.insert("notes", [{"id": "a", "embedding": [1] * 4}])
