"""Tests that calls with up to 10,000 rows do not block the event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.callbacks import measured_callbacks

import aiovec
from aiovec import F, Field, Schema

ROWS = 10_000
SCHEMA = Schema(
    4,
    fields={
        "name": Field(str, text=True), "year": int, "tags": list[str],
        "until": Field(datetime, expires=True),
    },
)  # fmt: skip


COLUMNS: dict[str, Any] = {
    "id": [f"r{n:05}" for n in range(ROWS)],
    "embedding": np.random.default_rng(7).normal(size=(ROWS, 4)),
    "name": [f"name {n}" for n in range(ROWS)], "year": list(range(ROWS)),
    "tags": [["a", "b"]] * ROWS, "extra": [{"n": n} for n in range(ROWS)],
}  # fmt: skip
IDS, QUERY = COLUMNS["id"], COLUMNS["embedding"][0]


def rows() -> list[dict[str, Any]]:
    return [{name: column[n] for name, column in COLUMNS.items()} for n in range(ROWS)]


@pytest.mark.slow
async def test_no_callback_takes_long(tmp_path: Path) -> None:
    filters = [(F.year >= n) & (F.name == f"name {n}") for n in range(ROWS)]
    megabyte = {"name": "long text " * 100_000, "items": list(range(100_000))}
    many = COLUMNS["embedding"]
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "insert": lambda: store.insert("notes", COLUMNS),
        "upsert": lambda: store.upsert("notes", listed),
        "get": lambda: store.get("notes", IDS),
        "many ids": lambda: store.get("notes", [*map(str, range(200_000))]),
        "find": lambda: store.find("notes", limit=ROWS),
        "search": lambda: store.search("notes", QUERY, limit=ROWS),
        "search_many": lambda: store.search_many("notes", many[:500], limit=10),
        "a filter each": lambda: store.search_many("notes", many, each_where=filters),
        "search_text": lambda: store.search_text("notes", "name", limit=5_000, highlight=True),
        "search_hybrid": lambda: store.search_hybrid("notes", "name", QUERY, limit=5_000),
        "diversity": lambda: store.search("notes", QUERY, limit=300, diversity=0.5, fetch_k=1_200),
        "a filter": lambda: store.count("notes", F.id.in_(IDS)),
        "update": lambda: store.update("notes", {"year": 1, "more": 2}, ids=IDS),
        "a large row": lambda: store.upsert("notes", [{"id": "x", "embedding": QUERY, **megabyte}]),
        "delete": lambda: store.delete("notes", IDS),
    }
    listed = rows()
    async with aiovec.connect(tmp_path / "store.db") as store:
        await store.create_table("notes", SCHEMA)
        with measured_callbacks() as callbacks:
            for name, call in calls.items():
                with case(name):
                    await callbacks.check(call())


@pytest.mark.slow
async def test_no_callback_of_many_searches_takes_long_on_lancedb(tmp_path: Path) -> None:
    queries, few = COLUMNS["embedding"][:4_000], {name: COLUMNS[name][:300] for name in COLUMNS}
    async with aiovec.connect(f"lancedb://{tmp_path}") as store:
        await store.create_table("notes", Schema(4, fields={"year": int}))
        await store.insert("notes", few)
        with measured_callbacks() as callbacks:
            await callbacks.check(store.search_many("notes", queries, limit=1))
