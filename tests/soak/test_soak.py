"""Many clients and a second process on one store: every answer is right, and nothing grows."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.harness.scripts import KINDS, target_in
from tests.soak.client import TABLES, Client, clients_of

import aiovec
from aiovec import VectorStore

ROOT = Path(__file__).resolve().parents[2]


async def opened(target: str, base: int) -> VectorStore:
    """A store of rows that no client owns."""
    store = await aiovec.connect(target)
    for name, schema in TABLES.items():
        await store.create_table(name, schema)
    for client in clients_of(store, "base", len(TABLES) * (base // 40)):
        await client.run(4)
    return store


async def round_of(store: VectorStore, clients: list[Client], calls: int) -> None:
    """All clients work, and an ``optimize`` beside them; then each finds just its rows."""
    await asyncio.gather(
        *(client.run(calls) for client in clients), *(store.optimize(table) for table in TABLES)
    )
    for client in clients:
        await client.check_rows()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_some_rounds(tmp_path: Path, kind: str) -> None:
    store = await opened(target_in(tmp_path, kind), 40)
    clients = clients_of(store, "c", 9)
    for _ in range(2):
        await round_of(store, clients, 15 if kind == "sqlite" else 5)
    await store.close()


def held() -> tuple[int, int, int]:
    """The memory, open files and threads of this process."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss, process.num_fds(), process.num_threads()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
async def test_ten_minutes(tmp_path: Path, kind: str) -> None:
    target, seconds = target_in(tmp_path, kind), 600.0
    store = await opened(target, 2000)
    clients = clients_of(store, "c", 64 if kind == "sqlite" else 24)
    command = [sys.executable, "-m", "tests.soak.client", target, "near", "6", str(seconds)]
    neighbour = await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT)
    points = []
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until or len(points) < 6:
            await round_of(store, clients, 20)
            points.append(held())
        assert await asyncio.to_thread(neighbour.wait, 600) == 0
    finally:
        neighbour.kill()
    await store.close()
    print(points)  # noqa: T201 - for whoever looks at a failure
    # The first rounds are for caches that fill.
    third = len(points) // 3
    memory, files, threads = map(max, zip(*points[: 2 * third], strict=True))
    least = [min(kind) for kind in zip(*points[-third:], strict=True)]
    assert least[0] < 1.1 * memory
    assert least[1] <= files
    assert least[2] <= threads
