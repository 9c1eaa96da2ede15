"""``import aiovec`` against the two packages that nobody can do without here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

from .measure import Check, Result, interleaved, medians
from .options import Options

_TIMED = """
import time
began = time.perf_counter()
import {modules}
print((time.perf_counter() - began) * 1000)
"""


async def run(options: Options) -> list[Result]:
    rounds = options.rounds(25)
    ours, theirs = "import aiovec", "import numpy, aiosqlite"

    def fresh(modules: str) -> Callable[[], Awaitable[float]]:
        async def timed() -> float:
            command = [sys.executable, "-c", _TIMED.format(modules=modules)]
            done = await asyncio.to_thread(
                subprocess.run, command, check=True, capture_output=True, text=True
            )
            return float(done.stdout)

        return timed

    ways = {ours: fresh("aiovec"), theirs: fresh("numpy, aiosqlite")}
    for warm_up in ways.values():  # so that neither reads from a cold disk or compiles
        await warm_up()
    times = medians(await interleaved(ways, rounds))
    return [
        Result(
            "import",
            f"in a fresh process (median of {rounds} interleaved rounds)",
            "ms",
            times,
            [Check(f"{ours} / {theirs}", times[ours] / times[theirs], 1.5, at_most=True)],
        )
    ]
