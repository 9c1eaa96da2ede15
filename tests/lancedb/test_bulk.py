"""Filling a new table, as a migration does: no id twice within the load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aiovec import Schema
from aiovec.backend.contract import BulkLoad
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


async def test_a_load_adds_each_id_once(tmp_path: Path) -> None:
    async with backend_on(tmp_path / "s") as backend, opened(tmp_path / "s") as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": "early", "embedding": [1] * 4}])
        load = backend.bulk_load(await backend.open_table("notes"))
        assert isinstance(load, BulkLoad)
        with pytest.raises(DuplicateIdError):
            await load.add(rows("x", "early"))
        await load.add(rows("a", "b"))
        await load.add(rows())
        for again in (("b", "x"), ("x", "a")):
            with pytest.raises(DuplicateIdError) as refused:
                await load.add(rows(*again))
            assert set(refused.value.ids) == {"a", "b"} & set(again)
        await load.add(rows("x", "c"))
        found = await store.find("notes")
        assert {record.id: record["n"] for record in found} == {
            "early": None, "a": 0, "b": 1, "x": 0, "c": 1,
        }  # fmt: skip
        with pytest.raises(DuplicateIdError):  # it is a table like any other
            await store.insert("notes", [{"id": "a", "embedding": [1] * 4}])
