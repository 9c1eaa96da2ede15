"""The columns and metadata of a table, as docs/internals/lancedb.md describes them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.docs.blocks import blocks

import aiovec
from aiovec import CorruptStoreError, Field, Schema
from aiovec_lancedb.driver import lancedb
from aiovec_lancedb.layout import handle_of, new_table

SCHEMA = Schema(8, metric="dot", fields={"year": int, "tags": list[str], "Order": Field(str)})


async def lance_schema(folder: Path) -> Any:
    database = await lancedb.connect_async(folder)
    arrow_schema = await (await database.open_table("notes")).schema()
    database.close()  # type: ignore[no-untyped-call]
    return arrow_schema


async def test_a_table_has_the_documented_columns_and_metadata(tmp_path: Path) -> None:
    late = Field(str, index="btree")
    async with aiovec.connect(f"lancedb://{tmp_path}") as store:
        await store.create_table("notes", SCHEMA)
        before = await lance_schema(tmp_path)
        await store.add_field("notes", "late", late)
        await store.insert("notes", [{"id": "a", "embedding": [1.0] * 8, "late": "x", "free": 1}])
        after = await lance_schema(tmp_path)
        assert await store.schema("notes") == SCHEMA.with_field("late", late)
    layout = SCHEMA.to_arrow()
    assert before.names == layout.names
    assert after.names == [*layout.names, "late"]
    for column in layout:
        if column.name != "payload":
            assert after.field(column.name).equals(column)
    assert after.field("payload").metadata[b"ARROW:extension:name"] == b"lance.json"
    assert json.loads(after.metadata[b"aiovec.schema"]) == SCHEMA.to_dict()
    assert after.metadata[b"aiovec.layout"] == b"1"
    assert after.metadata[b"aiovec.table"] == before.metadata[b"aiovec.table"]
    assert json.loads(after.field("late").metadata[b"aiovec.field"]) == {
        "type": "text", "index": "btree",
    }  # fmt: skip


def test_a_newer_layout_and_other_columns_are_refused() -> None:
    arrow = new_table(SCHEMA)
    assert handle_of("notes", arrow, "here").schema == SCHEMA
    year = arrow.get_field_index("year")
    for wrong, says in (
        (arrow.with_metadata({**arrow.metadata, b"aiovec.layout": b"2"}), "newer"),
        (arrow.set(year, pa.field("year", pa.int32())), "year"),
    ):
        with pytest.raises(CorruptStoreError, match=says):
            handle_of("notes", wrong, "here")


async def test_the_page_reads_a_table(tmp_path: Path) -> None:
    async with aiovec.connect(f"lancedb://{tmp_path}") as store:
        await store.create_table("notes", SCHEMA)
        rows = [{"id": f"r{n}", "embedding": [float(n)] * 8, "year": 2020 + n} for n in range(9)]
        await store.insert("notes", rows)
    shown = blocks("docs/internals/lancedb.md", "python")
    [code] = [block for block in shown if "lancedb.connect(path)" in block]
    printed = io.StringIO()

    def run() -> None:
        with contextlib.redirect_stdout(printed):
            exec(code, {"path": str(tmp_path)})

    await asyncio.to_thread(run)
    assert printed.getvalue().count("'id'") == 3
