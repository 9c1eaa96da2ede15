"""Calls of up to 10,000 rows leave the event loop to others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case

import aiovec
from aiovec import F, Field, Schema

ROWS = 10_000
MOST_SECONDS = 0.1
"""A coarse bound of a callback's own CPU time: five times what the docs promise."""

SCHEMA = Schema(
    4,
    fields={
        "name": Field(str, text=True), "year": int, "tags": list[str],
        "until": Field(datetime, expires=True),
    },
)  # fmt: skip


@pytest.mark.slow
async def test_no_callback_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"r{n:05}" for n in range(ROWS)]
    columns: dict[str, Any] = {
        "id": ids, "embedding": np.random.default_rng(7).normal(size=(ROWS, 4)),
        "name": [f"name {n}" for n in range(ROWS)], "year": list(range(ROWS)),
        "tags": [["a", "b"]] * ROWS, "extra": [{"n": n} for n in range(ROWS)],
    }  # fmt: skip
    rows = [{name: column[n] for name, column in columns.items()} for n in range(ROWS)]
    query = columns["embedding"][0]
    filters = [(F.year >= n) & (F.name == f"name {n}") for n in range(ROWS)]
    megabyte = {"name": "long text " * 100_000, "items": list(range(100_000))}
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "insert": lambda: store.insert("notes", columns),
        "upsert": lambda: store.upsert("notes", rows),
        "get": lambda: store.get("notes", ids),
        "find": lambda: store.find("notes", limit=ROWS),
        "search": lambda: store.search("notes", query, limit=ROWS),
        "search_many": lambda: store.search_many("notes", columns["embedding"][:500], limit=10),
        "a filter each": lambda: store.search_many("notes", columns["embedding"], where=filters),
        "search_text": lambda: store.search_text("notes", "name", limit=5_000, highlight=True),
        "search_hybrid": lambda: store.search_hybrid("notes", "name", query, limit=5_000),
        "diversity": lambda: store.search("notes", query, limit=300, diversity=0.5),
        "a filter": lambda: store.count("notes", F.id.in_(ids)),
        "update": lambda: store.update("notes", {"year": 1, "more": 2}, ids=ids),
        "a large row": lambda: store.upsert("notes", [{"id": "x", "embedding": query, **megabyte}]),
        "delete": lambda: store.delete("notes", ids),
    }
    longest = 0.0
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        nonlocal longest
        began = time.thread_time()
        run(handle)
        longest = max(longest, time.thread_time() - began)

    async with aiovec.connect(tmp_path / "store.db") as store:
        await store.create_table("notes", SCHEMA)
        monkeypatch.setattr(asyncio.Handle, "_run", measured)
        for name, call in calls.items():
            longest = 0.0
            with case(name):
                kept = await call()  # what it gives is freed outside of the measure
                assert longest < MOST_SECONDS
                del kept
