"""Measure a table that many workers load and index and many processes read, on disk or in a bucket.

The benchmark needs ``aiovec[ray]``. On two cores, more workers or readers gain nothing. The cost
model in docs/explanation/scale.md uses the requests, bytes and CPU time that are measured here.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
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
_WORKERS, _READERS = (1, 2), (1, 2, 4)
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
        target = ""
        for workers in _WORKERS:
            place = options.folder / f"store{workers}"
            target = f"lancedb://{place}" if bucket is None else bucket.new_url()
            cluster = Cluster(Path(options.folder), nodes=workers)
            stack.callback(cluster.close)
            await asyncio.to_thread(cluster.start)
            load = ("import", files / "*.parquet", "--table", TABLE)
            for step in (load, ("index", TABLE)):
                counts.clear()
                code, said = await asyncio.to_thread(
                    cluster.run, *step, "-s", target, "--config", config, "--json",
                    patience=_PATIENCE,
                )  # fmt: skip
                if code:
                    raise RuntimeError(said)
                label = f"{step[0]}, {workers} workers"
                facts, _ = json.JSONDecoder().raw_decode(said, said.index("{"))
                measured[f"{label} (s)"] = facts["seconds"]
                measured |= counts.figures(label)
            await asyncio.to_thread(cluster.close)
        queries = options.folder / "queries.npy"
        await asyncio.to_thread(np.save, queries, data.queries[:200])
        for readers in _READERS:
            counts.clear()
            settings = {
                "target": target, "config": str(config), "seconds": options.seconds(_SECONDS),
                "queries": str(queries),
            }  # fmt: skip
            results = await asyncio.gather(*(fresh("scale", settings) for _ in range(readers)))
            searches, cpu = (sum(result[key] for result in results) for key in ("searches", "cpu"))
            label = f"{readers} readers"
            measured[f"{label} (searches/s)"] = sum(result["rate"] for result in results)
            measured[f"{label}, cpu of a search (ms)"] = 1e3 * cpu / searches
            measured |= counts.figures(label, searches)
    await asyncio.to_thread(shutil.rmtree, options.folder / "ray", True)
    compared = f"{data} in {_FILES} files, loaded, then compacted and indexed, then read"
    return Result(f"scale, {name}", compared, "", {key: v for key, v in measured.items() if v})


class Counts(Counter[str]):
    """Counts the requests and bytes that pass a proxy, and delays each request."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self._delay = delay

    def watch(self, proxy: Proxy) -> None:

        async def meddle(
            request: Request, ask: Callable[[], Awaitable[bytes]], client: asyncio.StreamWriter
        ) -> bool:
            proxy.arm(meddle)  # for the next request
            proxy.requests.clear()
            await asyncio.sleep(self._delay)
            answer = await ask()
            self["requests"] += 1
            self["bytes up"] += len(request.data)
            self["bytes down"] += len(answer)
            client.write(answer)
            return True

        proxy.arm(meddle)

    def figures(self, label: str, each: float = 1) -> dict[str, float]:
        return {f"{label}, {name}": count / each for name, count in sorted(self.items())}


async def in_process(settings: dict[str, Any]) -> dict[str, float]:
    """Search for the seconds in the settings. ``fresh`` calls this in a separate process."""
    store = aiovec.connect(settings["target"], config=settings["config"], read_only=True)
    async with store as reader:
        queries = await asyncio.to_thread(np.load, settings["queries"])
        await reader.search(TABLE, queries[0])
        began, used = time.perf_counter(), time.process_time()
        searches = await rate(
            lambda turn: reader.search(TABLE, queries[turn % len(queries)]),
            _TASKS,
            settings["seconds"],
        )
        took, cpu = time.perf_counter() - began, time.process_time() - used
        return {"rate": searches, "searches": searches * took, "cpu": cpu}
