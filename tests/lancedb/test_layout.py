"""What docs/LANCEDB.md says of tables and filters."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.docs.blocks import ROOT, blocks

from aiovec import CorruptStoreError, Field, Schema
from aiovec.backend import bind
from aiovec_lancedb.driver import lancedb
from aiovec_lancedb.layout import handle_of, new_table
from aiovec_lancedb.sql.filters import to_sql

from .support import SMALL, opened

SCHEMA = Schema(8, metric="dot", fields={"year": int, "tags": list[str], "Order": Field(str)})


async def lance_schema(path: Path) -> Any:
    database = await lancedb.connect_async(path)
    table = await database.open_table("notes")
    found = await table.schema()
    database.close()  # type: ignore[no-untyped-call]
    return found


async def test_columns_and_metadata(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SCHEMA)
        before = await lance_schema(tmp_path / "s")
        await store.add_field("notes", "late", Field(str, index="btree"))
        await store.insert("notes", [{"id": "a", "embedding": [1.0] * 8, "late": "x", "free": 1}])
        after = await lance_schema(tmp_path / "s")
        assert await store.schema("notes") == SCHEMA.with_field("late", Field(str, index="btree"))
        await store.insert("notes", [{"id": "b", "embedding": [1e-20] * 8}])
        extreme = await lance_schema(tmp_path / "s")
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
    assert not after.field("embedding").metadata
    assert b"aiovec.extreme" in extreme.field("embedding").metadata


def test_a_newer_layout_is_refused() -> None:
    arrow = new_table(SMALL)
    newer = arrow.with_metadata({**arrow.metadata, b"aiovec.layout": b"2"})
    assert handle_of("notes", arrow, "here").schema == SMALL
    with pytest.raises(CorruptStoreError, match="newer"):
        handle_of("notes", newer, "here")


def test_other_columns_are_refused() -> None:
    arrow = new_table(SMALL)
    for wrong in (
        arrow.remove(arrow.get_field_index("year")),
        arrow.set(arrow.get_field_index("year"), pa.field("year", pa.int32())),
    ):
        with pytest.raises(CorruptStoreError, match="year"):
            handle_of("notes", wrong, "here")


def test_a_column_that_is_missing_without_a_note_is_damage() -> None:
    arrow = new_table(SMALL)
    without = arrow.remove(arrow.get_field_index("year"))
    column = without.field("id")
    for note, fits in (
        ('["year"]', True), ('["name"]', False), ("5", False), ("[1]", False), ("{", False),
    ):  # fmt: skip
        noted = without.set(0, column.with_metadata({b"aiovec.gone": note.encode()}))
        if fits:
            assert "year" not in handle_of("notes", noted, "here").schema.fields
            continue
        with pytest.raises(CorruptStoreError):
            handle_of("notes", noted, "here")


async def test_the_page_reads_a_table(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SCHEMA)
        rows = [{"id": f"r{n}", "embedding": [float(n)] * 8, "year": 2020 + n} for n in range(9)]
        await store.insert("notes", rows)
    (code,) = blocks("docs/LANCEDB.md", "python")
    printed = io.StringIO()

    def run() -> None:
        with contextlib.redirect_stdout(printed):
            exec(code, {"path": str(tmp_path / "s")})

    await asyncio.to_thread(run)
    assert printed.getvalue().count("'id'") == 3


def test_the_page_shows_filters_as_they_are() -> None:
    schema = Schema(1, fields={"year": int, "name": str, "lang": str, "tags": list[str]})
    page = (ROOT / "docs/LANCEDB.md").read_text(encoding="utf-8")
    table = page.split("| filter | SQL |")[1].split("\n\n")[0]
    shown = [line.split(" | ") for line in table.splitlines()[2:]]
    assert len(shown) == 5
    for text, sql in shown:
        bound = bind(text.strip("| ").strip("`"), schema)
        assert bound is not None
        begin = sql.replace("`` ", "", 1).strip("` |").split(" ``")[0].split(" …")[0]
        assert begin in to_sql(bound), (begin, to_sql(bound))


@pytest.mark.parametrize("part", range(4))
async def test_json_comes_back_equal(part: int) -> None:
    """Every character, and numbers of all sizes: types and values, and the text form too."""
    chance = random.Random(part)
    points = [n for n in range(part, 0x11000, 4) if not 0xD800 <= n < 0xE000]
    values: list[Any] = [{"k": f"x{chr(n)}", chr(n): 1} for n in points]
    floats = [struct.unpack("d", chance.randbytes(8))[0] for _ in range(3_000)]
    floats += [chance.random() * 10.0 ** chance.randrange(-20, 25) for _ in range(3_000)]
    floats += [0.0, -0.0, 1e15, 1e16, 1e22, 5e-324, 1e-5, 1.7976931348623157e308, 2.0**60]
    values += [{"k": f} for f in floats if f == f and abs(f) != float("inf")]
    values += [{"k": chance.randrange(-(2**63), 2**63)} for _ in range(1_000)]
    texts = [json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in values]
    column = pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), pa.array(texts, pa.utf8()))
    database = await lancedb.connect_async("memory://")
    table = await database.create_table("t", pa.table({"n": range(len(values)), "payload": column}))
    query = table.query().select(
        {"n": "n", "payload": "payload", "k": "json_extract(json_get(payload, 'k'), '$')"}
    )
    found = (await query.to_arrow()).sort_by("n")
    database.close()  # type: ignore[no-untyped-call]
    for value, text, k in zip(
        values, found.column("payload").to_pylist(), found.column("k").to_pylist(), strict=True
    ):
        back = json.loads(text)
        assert back == value
        assert {key: repr(item) for key, item in back.items()} == {
            key: repr(item) for key, item in value.items()
        }
        if isinstance(value["k"], str):
            # The filters on payload keys rely on this.
            assert k == json.dumps(value["k"], ensure_ascii=False)
