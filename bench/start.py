"""Measure the time and memory that a process needs until its first answer.

Each time is a new process's, and includes the start of the interpreter.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence

from .measure import Options, Result, Way, interleaved, medians, output

_ROUNDS = 7
_ANSWER = """
import asyncio, sys, aiovec

ROWS = [{"id": str(n), "embedding": [n + 1.0] * 8, "year": n} for n in range(10)]

async def main():
    target, *writes = sys.argv[1:]
    async with aiovec.connect(target) as store:
        if writes:
            await store.create_table("t", aiovec.Schema(dim=8, fields={"year": int}), exist_ok=True)
            await store.upsert("t", ROWS)
        assert len(await store.search("t", [1.0] * 8)) == 10

asyncio.run(main())
"""
# Other packages that a searching process imports: the part of its start that is not aiovec's.
_PACKAGES_OF_A_SEARCH = "import aiosqlite, asyncio, numpy"
_MEMORY = "print(int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) / 1024)"


async def run(options: Options) -> list[Result]:
    python = sys.executable
    answers = {
        "SQLite": str(options.folder / "start.db"),
        "LanceDB": f"lancedb://{options.folder / 'start'}",
    }
    runs: dict[str, Sequence[str]] = {
        "Python, nothing": (python, "-c", "pass"),
        "import numpy": (python, "-c", "import numpy"),
        "import aiovec": (python, "-c", "import aiovec"),
        "aiovec count": (python, "-m", "aiovec", "count", "t", "-s", answers["SQLite"]),
        "the packages that a search imports": (python, "-c", _PACKAGES_OF_A_SEARCH),
        "10 rows found, SQLite": (python, "-c", _ANSWER, answers["SQLite"]),
    }
    await output(python, "-c", _ANSWER, answers["SQLite"], "write")
    for name, target in answers.items():
        runs[f"10 rows written and found, {name}"] = (python, "-c", _ANSWER, target, "write")
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    ways: dict[str, Way] = {name: _measured(command, cpu[name]) for name, command in runs.items()}
    took = medians(await interleaved(ways, options.rounds(_ROUNDS)))
    most = {
        f"{name} (MiB)": float(await output(python, "-c", _ANSWER + _MEMORY, target, "write"))
        for name, target in answers.items()
    }
    return [
        Result("start, time", "new processes, files in the system's cache (median)", "ms", took),
        Result("start, processor time", "of the same", "ms", medians(cpu)),
        Result("start, memory", "the most that a process takes", "", most),
    ]


def _measured(command: Sequence[str], cpu: list[float]) -> Way:
    """Return a way that measures the milliseconds of a new process; add its CPU time to ``cpu``."""

    async def measure() -> float:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        await output(*command)
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu.append(used * 1000)
        return took * 1000

    return measure
