"""A write that waits for nobody does not fail for time, however slow the machine is."""

from __future__ import annotations

import asyncio
import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiovec import Schema, VectorStore, connect

# A call that may wait for 0 s waits for 0.25 s at least.
LONGER = 0.4


@pytest.fixture(params=["sqlite", "lancedb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    if request.param == "lancedb":
        pytest.importorskip("lancedb")
    config = tmp_path / "aiovec.toml"
    settings = f'[retrieval]\nbackend = "{request.param}"\n[retrieval.{request.param}]\n'
    await to_thread(config.write_text, f"{settings}busy_timeout = 0\n")
    async with connect(config=config) as opened:
        await opened.create_table("t", Schema(2))
        yield opened


async def test_a_lone_write_on_a_machine_that_stands_still(store: VectorStore) -> None:
    for rounds in (1, 3, 6):
        row: dict[str, Any] = {"id": f"r{rounds}", "embedding": [1, rounds]}
        write = asyncio.ensure_future(store.insert("t", [row]))
        for _ in range(rounds):
            await asyncio.sleep(0)
        until = time.monotonic() + LONGER
        while time.monotonic() < until:
            pass  # the event loop, and all that waits for it
        await write
    assert await store.count("t") == 3
