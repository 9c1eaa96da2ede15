"""Measure a table that many workers load and index and many processes read, on disk or in a bucket.

The benchmark needs ``aiovec[ray]``. On two cores, more workers or readers gain nothing. The cost
model in docs/internals/lancedb.md uses the requests, bytes and CPU time that are measured here.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.harness.proxy import Proxy, Request
from tests.lancedb import buckets
from tests.ray.cluster import Cluster, missing

import aiovec

from .data import TABLE, Data, load
from .measure import Options, Result, fresh, rate

_ROWS, _FILES = 1_000_000, 16
_WORKERS, _READERS = 2, (1, 2, 4)
_WARMING = 30  # searches that fill a reader's caches
_SECONDS, _TASKS = 30.0, 4
_PATIENCE = 3600.0  # time limit in seconds for a command; the bucket's server is slow
_PLACES = {"a folder": None, "a bucket": 0.0, "a bucket with 20 ms a request": 0.02}


async def run(options: Options) -> list[Result]:
    if lacking := missing():
        raise SystemExit(f"needs {', '.join(lacking)}: pip install 'aiovec[ray]'")
    data = load(options.rows(_ROWS), options.data)
    files = options.folder / "parts"
    await asyncio.to_thread(_write, data, files)
    return [await _place(name, delay, data, files, options) for name, delay in _PLACES.items()]


def _write(data: Data, files: Path) -> None:
    files.mkdir()
    step = -(-len(data) // _FILES)
    for start in range(0, len(data), step):
        table = pa.Table.from_batches([data.batch(slice(start, start + step))])
        pq.write_table(table, files / f"{start:09}.parquet")


async def _place(
    name: str, delay: float | None, data: Data, files: Path, options: Options
) -> Result:
    measured: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        counts = Counts(delay or 0.0)
        config = options.folder / "aiovec.toml"
        bucket = None
        if delay is not None:
            bucket = stack.enter_context(buckets.s3_server())
            proxy = await stack.enter_async_context(Proxy(bucket.endpoint))
            counts.watch(proxy)
            storage = {**bucket.options, "aws_endpoint": proxy.url, "timeout": "300s"}
            listed = ", ".join(f'{key} = "{value}"' for key, value in storage.items())
            config.write_text(f"[retrieval.lancedb]\nstorage_options = {{ {listed} }}\n")
        else:
            config.write_text("")
        place = options.folder / "store"
        target = f"lancedb://{place}" if bucket is None else bucket.new_url()
        cluster = Cluster(Path(options.folder), nodes=_WORKERS)
        stack.callback(cluster.close)
        await asyncio.to_thread(cluster.start)
        for step in (("import", files / "*.parquet", "--table", TABLE), ("index", TABLE)):
            counts.clear()
            code, said = await asyncio.to_thread(
                cluster.run, *step, "-s", target, "--config", config, "--json", patience=_PATIENCE
            )
            if code:
                raise RuntimeError(said)
            facts, _ = json.JSONDecoder().raw_decode(said, said.index("{"))
            measured[f"{step[0]} (s)"] = facts["seconds"]
            measured |= counts.figures(step[0])
        await asyncio.to_thread(cluster.close)
        queries = options.folder / "queries.npy"
        await asyncio.to_thread(np.save, queries, data.queries[:200])
        settings = {
            "target": target, "config": str(config), "seconds": options.seconds(_SECONDS),
            "queries": str(queries),
        }  # fmt: skip
        for readers in _READERS if bucket is None else (1,):
            counts.clear()
            results = await asyncio.gather(*(fresh("scale", settings) for _ in range(readers)))
            searches, cpu = (sum(result[key] for result in results) for key in ("searches", "cpu"))
            label, (first, *_) = f"{readers} readers", results
            measured[f"{label} (searches/s)"] = sum(result["rate"] for result in results)
            measured[f"{label}, cpu of a search (ms)"] = 1e3 * cpu / searches
            measured[f"{label}, first search (s)"] = first["took"]
            measured |= counts.figures("first search", until=first["found"])
            measured |= counts.figures("a later search", searches, since=first["warm"])
    await asyncio.to_thread(shutil.rmtree, options.folder / "ray", True)
    compared = f"{data} in {_FILES} files, loaded, then compacted and indexed, then read"
    return Result(f"scale, {name}", compared, "", {key: v for key, v in measured.items() if v})


class Counts:
    """Counts the requests and bytes that pass a proxy, and delays each request."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._passed: list[tuple[float, int, int]] = []

    def clear(self) -> None:
        self._passed.clear()

    def watch(self, proxy: Proxy) -> None:

        async def meddle(
            request: Request, ask: Callable[[], Awaitable[bytes]], client: asyncio.StreamWriter
        ) -> bool:
            proxy.arm(meddle)  # for the next request
            proxy.requests.clear()
            await asyncio.sleep(self._delay)
            answer = await ask()
            self._passed.append((time.time(), len(request.data), len(answer)))
            client.write(answer)
            return True

        proxy.arm(meddle)

    def figures(
        self, label: str, each: float = 1, since: float = 0.0, until: float = math.inf
    ) -> dict[str, float]:
        """Return the counts of requests in a period, divided by ``each``."""
        passed = [request for request in self._passed if since <= request[0] < until]
        _, up, down = map(sum, zip(*passed, strict=True)) if passed else (0, 0, 0)
        counts = {"requests": len(passed), "bytes up": up, "bytes down": down}
        return {f"{label}, {name}": count / each for name, count in counts.items()}


async def in_process(settings: dict[str, Any]) -> dict[str, float]:
    """Fill the caches, then search for the seconds in the settings, in a separate process."""
    store = aiovec.connect(settings["target"], config=settings["config"], read_only=True)
    async with store as reader:
        queries = await asyncio.to_thread(np.load, settings["queries"])

        async def search(turn: int) -> None:
            await reader.search(TABLE, queries[turn % len(queries)])

        began = time.perf_counter()
        await search(-1)
        took, found = time.perf_counter() - began, time.time()
        for turn in range(-_WARMING, -1):
            await search(turn)
        warm, began, used = time.time(), time.perf_counter(), time.process_time()
        searches = await rate(search, _TASKS, settings["seconds"])
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        return {
            "took": took, "found": found, "warm": warm,
            "rate": searches, "searches": searches * seconds, "cpu": cpu,
        }  # fmt: skip
