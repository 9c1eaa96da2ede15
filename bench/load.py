"""Hundreds and thousands of tasks with mixed calls on one store: what an app feels of it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from typing import Any

from .measure import Check, Result
from .options import Options

_TASKS = (64, 500, 5000)
_SECONDS = 60.0
_ROWS = 20_000
_DIM = 384
_TARGETS = {"SQLite": "{}/load.db", "LanceDB": "lancedb://{}/load.lance"}


async def run(options: Options) -> list[Result]:
    results = []
    for backend, target in _TARGETS.items():
        for tasks in sorted({max(8, int(n * min(1.0, options.scale))) for n in _TASKS}):
            found = await _measured(options, backend, target, tasks)
            results.append(_told(backend, tasks, options, found))
    return results


async def _measured(options: Options, backend: str, target: str, tasks: int) -> dict[str, Any]:
    folder = await asyncio.to_thread(tempfile.mkdtemp, dir=options.folder)
    asked = {
        "target": target.format(folder),
        "tasks": tasks,
        "rows": options.rows(_ROWS),
        "dim": options.dim or _DIM,
        "data": options.data,
        "seconds": _SECONDS * options.repeat,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.loading.process", json.dumps(asked),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{backend} with {tasks} tasks ended with {process.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found


def _told(backend: str, tasks: int, options: Options, found: dict[str, Any]) -> Result:
    seconds = _SECONDS * options.repeat
    return Result(
        f"load, {backend}, {tasks:,} tasks",
        f"{tasks:,} tasks with mixed calls for {seconds:g} s, {options.rows(_ROWS):,} rows; memory "
        "of the process before, at most, and some seconds after",
        "ms, MiB",
        {
            "lag of the event loop, p50": found["lag_p50"],
            "lag of the event loop, p99": found["lag_p99"],
            "lag of the event loop, most": found["lag_most"],
            "slowest call": found["slowest"] * 1000,
            "memory before": found["before"],
            "memory at most": found["most"],
            "memory after": found["after"],
        },
        [
            Check("lag of the event loop, p99", found["lag_p99"], 10, at_most=True, unit=" ms"),
            Check("lag of the event loop, most", found["lag_most"], 50, at_most=True, unit=" ms"),
            Check("memory after / before", found["after"] / found["before"], 1.2, at_most=True),
        ],
        [
            f"{found['rate']:,.0f} calls a second, {found['refused']:,} refused as busy",
            f"the slowest was a call of {found['slowest_call']}",
        ],
    )
