"""What few rows hold, and many fields, are no work for the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.loop_time import own_work, watched_loop
from tests.lancedb.support import opened

from aiovec import Schema, VectorStore

Call = Callable[[VectorStore], Awaitable[Any]]

LONG = ["x" * 100_000] * 200
CALLS: dict[str, Call] = {
    "the items of a list": lambda store: store.distinct("notes", "numbers"),
    "long texts of the payload": lambda store: store.distinct("notes", "payload.k", limit=3),
    "the ends of long texts": lambda store: store.bounds("notes", "payload.k"),
    "an order by long texts": lambda store: store.find("notes", order_by="payload.k", select=[]),
    "a list of long texts": lambda store: store.update("notes", {"tags": LONG}, ids="a"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
async def test_few_rows_that_hold_much(tmp_path: Path, name: str) -> None:
    schema = Schema(2, fields={"numbers": list[int], "tags": list[str]})
    with own_work():
        first = {"id": "a", "embedding": [1, 0], "numbers": list(range(300_000))}
        others = [
            {"id": f"b{n}", "embedding": [1, 0], "k": str(n) + "é" * 100_000} for n in range(200)
        ]
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", schema)
        await store.insert("notes", [first, *others])
        with watched_loop() as found:
            await CALLS[name](store)
        found.check()


async def test_the_schema_of_many_fields(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", Schema(2, fields={f"f{n}": int for n in range(500)}))
    async with opened(tmp_path / "s") as store:
        with watched_loop() as found:
            assert len((await store.schema("notes")).fields) == 500
        found.check()
