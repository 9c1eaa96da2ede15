"""A process that has just opened the store: its memory, its first answer, its copy's loading."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import Check, Result, interleaved
from ..options import Options
from .corpus import Corpus

_ROUNDS = 5
_SEARCHES = 100
_QUERIES = "queries.npy"
# What a copy may take beside its codes, for each row.
_BESIDE = 24


async def run(path: Path, corpus: Corpus, options: Options) -> Result:
    rounds, searches = options.rounds(_ROUNDS), options.rounds(_SEARCHES)
    queries = save_queries(options.folder, corpus.queries)
    told: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}

    def way(who: str, count: int) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            told[who].append(await probe(path, queries, who, count))
            return float(told[who][-1]["first_ms"])

        return measure

    await interleaved({"ours": way("ours", searches), "theirs": way("theirs", 1)}, rounds)
    ours = told["ours"]
    allowed = len(corpus) * (corpus.dim + _BESIDE)
    first = _median(ours, "first_ms")
    their_first = _median(told["theirs"], "first_ms")
    above = float(np.median([one["after"] - one["before"] for one in ours]))
    loaded = float(np.median([one["loaded"] - one["before"] for one in ours]))
    ready = _median(ours, "ready_s")
    note = (
        f"memory above that of the process that opened the store: {loaded / 2**20:.1f} MiB when "
        f"the copy is ready, {above / 2**20:.1f} MiB after {searches} searches; the copy itself "
        f"{_median(ours, 'copy') / 2**20:.1f} MiB"
    )
    return Result(
        "search, opening",
        f"fresh processes that open {corpus} (median of {rounds})",
        "ms",
        {
            "aiovec, from opening to the first answer": first,
            "sqlite-vec, from opening to the first answer": their_first,
            "aiovec, from the first search until the copy is ready": ready * 1000,
        },
        [
            Check("first answer, aiovec / sqlite-vec", first / their_first, 1.5, at_most=True),
            Check("the copy is ready after", ready, 1.0, at_most=True, unit=" s"),
            Check(
                f"memory that searching takes / rows x (dim + {_BESIDE})", above / allowed, 1.15,
                at_most=True,
            ),
        ],
        [note],
    )  # fmt: skip


def save_queries(folder: Path, queries: np.ndarray) -> Path:
    path = folder / _QUERIES
    np.save(path, queries)
    return path


async def probe(path: Path, queries: Path, who: str, searches: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.searching.probe", str(path), str(queries), who]
    done = await asyncio.to_thread(
        subprocess.run, [*command, str(searches)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the process that searched failed:\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _median(told: list[dict[str, Any]], name: str) -> float:
    return float(np.median([one[name] for one in told]))
