"""This tree against another version of aiovec: ``python -m bench.against OTHER_PYTHON``.

OTHER_PYTHON is the interpreter of an environment in which the other version is installed. Both run
the same workloads in turn, so that a busy moment of the machine hits both; the medians' ratio is
printed. Above 1 this tree is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

import aiovec
from aiovec import Schema

_DIM = 384
_ROWS = 20_000
_TASKS = 64


def _dicts(random: np.random.Generator, first: int, count: int) -> list[dict[str, object]]:
    vectors = random.standard_normal((count, _DIM), dtype=np.float32).tolist()
    return [
        {"id": f"r{first + n}", "embedding": vector, "year": 1990 + n % 30, "title": f"title {n}"}
        for n, vector in enumerate(vectors)
    ]


async def measure(backend: str, scale: float, folder: Path) -> dict[str, float]:
    """Return the calls or rows a second of each workload."""
    stored, inserted = max(200, int(_ROWS * scale)), max(200, int(10_000 * scale))
    random = np.random.default_rng(0)
    schema = Schema(_DIM, fields={"year": int, "title": str})
    queries = random.standard_normal((_TASKS, _DIM), dtype=np.float32)
    target = folder / "a.db" if backend == "sqlite" else f"lancedb://{folder}/a"
    single = 600 if backend == "sqlite" else 128
    async with aiovec.connect(target) as store:
        await store.create_table("t", schema)
        await store.create_table("w", schema)
        vectors = random.standard_normal((stored, _DIM), dtype=np.float32)
        await store.insert(
            "t",
            {
                "id": [f"r{n}" for n in range(stored)],
                "embedding": vectors,
                "year": [1990 + n % 30 for n in range(stored)],
                "title": [f"title {n}" for n in range(stored)],
            },
        )
        for query in queries:  # loads the table and warms the caches
            await store.search("t", query, limit=10)

        async def rate(count: int, work: Callable[[], Awaitable[object]]) -> float:
            began = time.perf_counter()
            await work()
            return count / (time.perf_counter() - began)

        async def alone() -> None:
            for n in range(200):
                await store.search("t", queries[n % _TASKS], limit=10)

        async def together() -> None:
            async def client(n: int) -> None:
                for _ in range(12):
                    await store.search("t", queries[n], limit=10)

            await asyncio.gather(*map(client, range(_TASKS)))

        async def gets() -> None:
            for n in range(200):
                await store.get("t", [f"r{n}"])

        lone_rows, many_rows = _dicts(random, 0, 100), _dicts(random, 100, single)
        large = _dicts(random, 10_000, inserted)

        async def lone_upserts() -> None:
            for row in lone_rows[: 100 if backend == "sqlite" else 20]:
                await store.upsert("w", [row])

        async def upserts() -> None:
            async def client(n: int) -> None:
                for row in many_rows[n::_TASKS]:
                    await store.upsert("w", [row])

            await asyncio.gather(*map(client, range(_TASKS)))

        found = {
            "lone search": await rate(200, alone),
            "search by 64 tasks": await rate(12 * _TASKS, together),
            "lone get": await rate(200, gets),
            "lone upsert": await rate(100 if backend == "sqlite" else 20, lone_upserts),
            "single upserts by 64 tasks": await rate(single, upserts),
            "insert of dicts": await rate(inserted, lambda: store.insert("w", large)),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("other", help="the interpreter of the other version's environment")
    parser.add_argument("--backend", default="sqlite", choices=["sqlite", "lancedb"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of rows")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        with tempfile.TemporaryDirectory(prefix="aiovec-bench-") as folder:
            print(json.dumps(asyncio.run(measure(asked.backend, asked.scale, Path(folder)))))
        return 0
    script = str(Path(__file__).resolve())
    found: dict[str, list[dict[str, float]]] = {"other": [], "this": []}
    pythons = {"other": asked.other, "this": sys.executable}
    for number in range(asked.rounds):
        for name in sorted(pythons, reverse=bool(number % 2)):
            # -P: the other version imports nothing from this folder.
            command = [
                pythons[name], "-P", script, "-", "--measure", "--backend", asked.backend,
                "--scale", str(asked.scale),
            ]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout))
    print(f"{'':28}{'other/s':>10}{'this/s':>10}{'this/other':>12}")
    for work in found["this"][0]:
        other, this = (
            statistics.median(one[work] for one in found[name]) for name in ("other", "this")
        )
        print(f"{work:28}{other:>10,.0f}{this:>10,.0f}{this / other:>12.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
