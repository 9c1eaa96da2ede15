"""A long text, list or payload beside many rows that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiovec import Schema, VectorStore, connect

SCHEMA = Schema(2, fields={"text": str, "tags": list[str]})
NULLS = 3_000
# Beside so many nulls, an array in which each took as much room would pass 2 GiB.
TEXT = "long text " * 100_000
LONG: dict[str, dict[str, Any]] = {
    "text": {"text": TEXT},
    "items": {"tags": [TEXT, TEXT]},
    "payload": {"note": TEXT},
}


async def check(store: VectorStore, long: dict[str, Any]) -> None:
    records = await store.find("notes", limit=NULLS + 1)
    assert len(records) == NULLS + 1
    found_long = [row for row in records if row["id"] == "long"]
    assert [{name: row.get(name) for name in long} for row in found_long] == [long]
    others = (row for row in records if row["id"] != "long")
    assert all(row.get(name) is None for row in others for name in ("text", "tags", "note"))


@pytest.mark.parametrize("where", list(LONG))
async def test_a_long_value_beside_many_nulls(tmp_path: Path, where: str) -> None:
    long = LONG[where]
    async with await connect(f"lancedb://{tmp_path}/store") as store:
        await store.create_table("notes", SCHEMA)
        rows: list[dict[str, Any]] = [{"id": f"r{n}", "embedding": [1, n]} for n in range(NULLS)]
        rows.insert(NULLS // 2, {"id": "long", "embedding": [0, 1], **long})
        await store.insert("notes", rows)
        await check(store, long)
        await store.optimize("notes")
        await store.delete("notes", ["r0"])
        await store.upsert("notes", [rows[0]])
        await store.optimize("notes")
        await check(store, long)
        assert sum([batch.num_rows async for batch in store.export("notes")]) == NULLS + 1
        (got,) = await store.get("notes", ["long"])
        assert got is not None
        assert {name: got[name] for name in long} == long
        hits = await store.search("notes", [0, 1], limit=NULLS)
        assert len(hits) == NULLS
        await store.backup(tmp_path / "copy")
    async with await connect(f"lancedb://{tmp_path}/copy") as copy:
        await check(copy, long)
