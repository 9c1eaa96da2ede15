"""Measure the cost and the recall of searches on both backends, with the same rows.

``--rows 100000 --dim 768`` measures another size. docs/explanation/scale.md and ``aiovec advise``
use these figures.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

import aiovec
from aiovec import VectorStore

from .data import TABLE, Data, load
from .measure import Options, Result, fresh, in_turn, medians, rate, ratio, shared
from .search import CLIENTS, held_together, recall_of
from .stores import by_aiovec, fill, until_loaded

_ROWS = 1_000_000
_CROWD_SECONDS, _WRITES = 10.0, 1_000


async def run(options: Options) -> list[Result]:
    data = load(options.rows(_ROWS), options.data, options.dim)
    measured: dict[str, float] = {}
    notes, size = list[str](), 4 * len(data) * data.dim
    times: dict[str, list[float]] = {}
    for backend in ("sqlite", "lancedb"):
        name = {"sqlite": "a.db", "lancedb": "lance"}[backend]
        target = f"{backend}://{options.folder / name}"
        began = time.perf_counter()
        async with aiovec.connect(target) as store:
            await fill(store, data)
            filled = time.perf_counter() - began
            await until_loaded(store, data.queries[0])
        ready = time.perf_counter() - began
        figures = await _fresh(target, data, options)
        async with aiovec.connect(target) as store:
            await until_loaded(store, data.queries[0])
            ask = by_aiovec(store, data)
            times |= await in_turn({backend: ask}, len(data.queries), options)
            recall = await recall_of(ask, data, options)
            searches = await rate(ask, CLIENTS, options.seconds(_CROWD_SECONDS))
            writes = await shared(_upsert(store, data), range(options.rounds(_WRITES)), CLIENTS)
        measured |= {
            f"{backend}: inserted and optimized (s)": filled,
            f"{backend}: at full speed (s)": ready,
            f"{backend}: first answer of a process": figures["first"],
            f"{backend}: one search": medians(times)[backend],
            f"{backend}: {CLIENTS} clients (searches/s)": searches,
            f"{backend}: upserts by {CLIENTS} tasks (rows/s)": writes,
            f"{backend}: memory of one process (MiB)": figures["one"],
            f"{backend}: memory of four processes (MiB)": figures["four"],
            f"{backend}: files / vectors (by bytes)": _bytes(options.folder, name) / size,
        }
        notes.append(f"recall: {backend} {recall:.4f}")
    return [
        Result(
            "sizes", f"both backends with {data}, 10 nearest", "ms", measured,
            {"one search, sqlite / lancedb": ratio(times, "sqlite", "lancedb")}, notes,
        )
    ]  # fmt: skip


def _bytes(folder: Path, name: str) -> int:
    """Return the total size of a store's files, including its scan file."""
    files = (file for top in folder.glob(f"{name}*") for file in [top, *top.rglob("*")])
    return sum(file.stat().st_size for file in files if file.is_file())


async def _fresh(target: str, data: Data, options: Options) -> dict[str, float]:
    queries = options.folder / "query.npy"
    np.save(queries, data.queries[:1])
    settings = {"queries": str(queries), "path": target}
    # The store writes its scan file after the first search.
    await fresh("search", {**settings, "keep": True})
    firsts = [await fresh("search", settings) for _ in range(options.rounds(3))]
    return {
        "first": float(np.median([result["first"] for result in firsts])),
        "one": float(np.median([result["share"] for result in firsts])),
        "four": await held_together(target, queries),
    }


def _upsert(store: VectorStore, data: Data) -> Callable[[int], Awaitable[object]]:
    return lambda turn: store.upsert(TABLE, [data.row(turn * 37 % len(data))])
