"""Upkeep of a table whose rows have tags of their own, beside LanceDB's own ``optimize``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

import aiovec
from aiovec import Field, Schema

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from ..searching.corpus import TABLE
from . import direct

_ROWS, _DIM = 100_000, 16
_APPENDS, _APPENDED = 20, 10
_ROUNDS = 2


async def run(options: Options) -> list[Result]:
    """The files and indexes are the same for both, and so is what has to be rewritten."""
    count = options.rows(_ROWS)
    made = options.folder / "to-tidy"
    await _fill(made, count)
    ways = {"aiovec, optimize": _by_aiovec, "lancedb, optimize": _by_lancedb}

    def in_a_copy(way: Callable[[Path], Awaitable[float]]) -> Callable[[], Awaitable[float]]:
        async def timed() -> float:
            folder = options.folder / "tidied"
            shutil.copytree(made, folder)
            try:
                return await way(folder)
            finally:
                shutil.rmtree(folder)

        return timed

    rounds = options.rounds(_ROUNDS)
    found = medians(await interleaved({n: in_a_copy(w) for n, w in ways.items()}, rounds))
    ours, theirs = found.values()
    return [
        Result(
            "lancedb, upkeep",
            f"{count:,} rows that have two tags each and an owner, all different, and "
            f"{_APPENDS} small appends (median of {rounds} interleaved rounds)",
            "s", found,
            [Check(" / ".join(found), ours / theirs, 1.0, at_most=True)],
        )
    ]  # fmt: skip


async def _fill(folder: Path, count: int) -> None:
    fields = {"owner": Field(str, index="bitmap"), "tags": list[str]}
    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table(TABLE, Schema(_DIM, fields=fields))
        await store.insert(TABLE, _columns(0, count))
        await store.optimize(TABLE)
        for start in range(count, count + _APPENDS * _APPENDED, _APPENDED):
            await store.insert(TABLE, _columns(start, _APPENDED))


def _columns(start: int, count: int) -> dict[str, Any]:
    numbers = range(start, start + count)
    vectors = np.random.default_rng(start).standard_normal((count, _DIM), dtype=np.float32)
    return {
        "id": [f"row-{n:08d}" for n in numbers],
        "embedding": vectors,
        "owner": [f"owner {n}" for n in numbers],
        "tags": [[f"tag {n}", f"label {n}"] for n in numbers],
    }


async def _by_aiovec(folder: Path) -> float:
    async with aiovec.connect(f"lancedb://{folder}") as store:
        began = time.perf_counter()
        await store.optimize(TABLE)
        return time.perf_counter() - began


async def _by_lancedb(folder: Path) -> float:
    table = await (await direct.connect(folder)).open_table(TABLE)
    began = time.perf_counter()
    await table.optimize(cleanup_older_than=timedelta(days=1))
    return time.perf_counter() - began
