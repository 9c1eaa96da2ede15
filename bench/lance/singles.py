"""Rows that come one by one: what they leave behind, and what that does to a search."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiovec
from aiovec import VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from ..searching.corpus import LIMIT, TABLE, Corpus
from ..searching.store import block
from .searching import through_aiovec

_ROWS, _TASKS = 10_000, 50
_FILES, _FRAGMENTS = 600, 5
# Those that are kept by default, and as many as upkeep lets gather.
_VERSIONS = 100 + 16 + 4
_PATIENCE = 120.0
_ROUNDS, _SECONDS = 12, 0.2


async def run(corpus: Corpus, options: Options) -> list[Result]:
    count = min(len(corpus), options.rows(_ROWS))
    singly, whole = options.folder / "singly", options.folder / "whole"
    async with (
        aiovec.connect(f"lancedb://{singly}") as one_by_one,
        aiovec.connect(f"lancedb://{whole}") as at_once,
    ):
        for store in (one_by_one, at_once):
            await store.create_table(TABLE, corpus.schema())
        took = await _insert_singly(one_by_one, corpus, count)
        files_then = await asyncio.to_thread(_files_in, singly)
        waited = await _until_small(one_by_one)
        files = await asyncio.to_thread(_files_in, singly)
        await at_once.insert(TABLE, corpus.batch(slice(0, count)))
        await at_once.optimize(TABLE)
        found = medians(
            await interleaved(
                {
                    "rows that came one by one": _timed(one_by_one, corpus, options),
                    "the same rows, freshly optimized": _timed(at_once, corpus, options),
                },
                options.rounds(_ROUNDS),
            )
        )
    ours, fresh = found.values()
    note = (
        f"{count:,} rows by {_TASKS} tasks, {count / took:,.0f} rows/s; {files_then:,} files then, "
        f"{files:,} after {waited:.0f} s more"
    )
    return [
        Result(
            "lancedb, single rows",
            f"the {LIMIT} nearest of {count:,} rows of {corpus.dim} dims, each inserted by itself",
            "ms", found,
            [
                Check("one by one / optimized", ours / fresh, 1.5, at_most=True),
                Check("files", files, _FILES, at_most=True),
            ],
            [note],
        )
    ]  # fmt: skip


async def _insert_singly(store: VectorStore, corpus: Corpus, count: int) -> float:
    numbers = iter(range(count))

    async def insert() -> None:
        for number in numbers:
            await store.insert(TABLE, corpus.batch(slice(number, number + 1)))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_TASKS):
            group.create_task(insert())
    return time.perf_counter() - began


async def _until_small(store: VectorStore) -> float:
    """Wait for what the store does by itself; how long it took.

    Versions go some seconds after they were replaced, for somebody may be reading them.
    """
    began = time.perf_counter()
    while time.perf_counter() - began < _PATIENCE:
        details = (await store.stats(TABLE)).details
        if details["fragments"] <= _FRAGMENTS and details["versions"] <= _VERSIONS:
            break
        await asyncio.sleep(0.1)
    return time.perf_counter() - began


def _files_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _timed(store: VectorStore, corpus: Corpus, options: Options) -> Callable[[], Awaitable[float]]:
    ask = through_aiovec(store, corpus)

    async def measure() -> float:
        return await block(ask, len(corpus.queries), 0, _SECONDS * min(1.0, options.repeat))

    return measure
