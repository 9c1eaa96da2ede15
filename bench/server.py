"""Compare searches, upserts and exports over HTTP with a store in the same process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pyarrow as pa

import aiovec
from aiovec import VectorStore

from .data import LIMIT, ROWS, TABLE, Data, load, row_number
from .measure import (
    Options,
    Result,
    Way,
    clean_environment,
    fresh,
    interleaved,
    medians,
    rate,
    ratios,
)
from .stores import by_aiovec, exporting, fill, until_loaded

CLIENTS = 64
INSIDE, REMOTE = f"in the process, {CLIENTS} tasks", f"remote backend, {CLIENTS} tasks"
HTTP = f"POST /search, JSON, {CLIENTS} clients"

_ROUNDS, _SECONDS = 3, 5.0
_KEPT = 200  # answers in a run that are compared with the truth
_TIMED = 10_000  # the last answers of a run, whose median and 99th percentile times are shown


async def run(options: Options) -> list[Result]:
    data = load(options.rows(ROWS), options.data)
    path = options.folder / "a.db"
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aiovec.connect(path))
        await fill(store, data)
        server, url = await stack.enter_async_context(_serving(path))
        remote = await stack.enter_async_context(aiovec.connect(url))
        for each in (store, remote):
            await until_loaded(each, data.queries[0])
        searches = await _searches(store, remote, url, data, options)
        memory = server.memory_info().rss / 2**20
        searches.notes.append(f"memory of the server: {memory:.0f} MiB")
        upserts = await _upserts(store, url, data, options)
        return [searches, upserts, await _export(store, remote, url, data, options)]


class _Clients:
    """Clients in a separate process, and their results for each kind of request."""

    def __init__(self, url: str, options: Options) -> None:
        self._url = url
        self._options = options
        self.results: dict[str, dict[str, Any]] = {}

    def way(self, name: str, path: str, bodies: Sequence[object], count: int = CLIENTS) -> Way:
        """Return a way that measures the answers per second that ``count`` clients get."""
        file = self._options.folder / name.replace("/", "-")
        file.write_text("\n".join(map(json.dumps, bodies)), encoding="utf-8")
        settings = {
            "bodies": str(file), "clients": count, "seconds": self._options.seconds(_SECONDS),
            "url": f"{self._url}/tables/{TABLE}/{path}",
        }  # fmt: skip

        async def measure() -> float:
            self.results[name] = await fresh("server", settings)
            return float(self.results[name]["rate"])

        return measure

    def times(self, name: str) -> str:
        result = self.results[name]
        return f"{name}: an answer takes {result['p50']:.1f} ms (p50), {result['p99']:.1f} ms (p99)"


async def _searches(
    store: VectorStore, remote: VectorStore, url: str, data: Data, options: Options
) -> Result:
    seconds = options.seconds(_SECONDS)
    clients = _Clients(url, options)
    bodies = [{"vector": query.tolist(), "limit": LIMIT} for query in data.queries]
    ways: dict[str, Way] = {
        name: partial(rate, by_aiovec(each, data), CLIENTS, seconds)
        for name, each in {INSIDE: store, REMOTE: remote}.items()
    }
    ways[HTTP] = clients.way(HTTP, "search", bodies)
    one_client = "POST /search, JSON, 1 client"
    ways[one_client] = clients.way(one_client, "search", bodies, 1)
    rates = await interleaved(ways, options.rounds(_ROUNDS))
    answers = clients.results[HTTP]["answers"]
    recall = data.recall(
        [
            (int(query), [row_number(hit["id"]) for hit in json.loads(body)["hits"]])
            for query, body in answers.items()
        ]
    )
    return Result(
        "server, searches",
        f"the 10 nearest of {data} with their fields, aiovec serve on SQLite, clients in a "
        f"separate process (median of {seconds:g} s each)",
        "searches/s", medians(rates), ratios(rates, HTTP, INSIDE) | ratios(rates, REMOTE, INSIDE),
        [*map(clients.times, clients.results)],
        [f"recall over HTTP {recall:.4f}"] if recall < 1 else [],
    )  # fmt: skip


async def _upserts(store: VectorStore, url: str, data: Data, options: Options) -> Result:
    """Measure upserts with one row per request, each durable when it is answered."""
    numbers = range(min(len(data), 2_000))
    rows = [{**data.row(number), "embedding": data.vectors[number].tolist()} for number in numbers]
    batches = [data.batch([number]) for number in numbers]
    clients = _Clients(url, options)

    async def inside(turn: int) -> None:
        await store.upsert(TABLE, batches[turn % len(batches)])

    http = f"POST /records, JSON, {CLIENTS} clients"
    ways: dict[str, Way] = {
        INSIDE: partial(rate, inside, CLIENTS, options.seconds(_SECONDS)),
        http: clients.way(http, "records?mode=upsert", [[row] for row in rows]),
    }
    rates = await interleaved(ways, options.rounds(_ROUNDS))
    return Result(
        "server, upserts",
        f"one row of {data} a request (median of {options.seconds(_SECONDS):g} s each)",
        "upserts/s", medians(rates), ratios(rates, http, INSIDE), [clients.times(http)],
    )  # fmt: skip


async def _export(
    store: VectorStore, remote: VectorStore, url: str, data: Data, options: Options
) -> Result:
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    asked = urllib.request.Request(f"{url}/tables/{TABLE}/records", headers=accept)

    def over_http() -> int:
        with urllib.request.urlopen(asked) as answer:
            return sum(int(batch.num_rows) for batch in pa.ipc.open_stream(answer))

    async def through_http() -> float:
        began = time.perf_counter()
        assert await asyncio.to_thread(over_http) == len(data)
        return len(data) / (time.perf_counter() - began)

    name = "GET /records, Arrow"
    ways = {
        name: through_http,
        "remote backend": exporting(remote, data),
        "in the process": exporting(store, data),
    }
    rates = await interleaved(ways, options.rounds(_ROUNDS))
    return Result(
        "server, export", f"{data}, whole rows with vectors (median)", "rows/s", medians(rates),
        ratios(rates, name, "in the process"),
    )  # fmt: skip


@asynccontextmanager
async def _serving(path: Path) -> AsyncIterator[tuple[psutil.Process, str]]:
    """Run ``aiovec serve`` with its defaults on a free port; yield the process and its URL."""
    command = [sys.executable, "-m", "aiovec", "serve", "-s", str(path), "--port", "0", "--json"]
    process = await asyncio.to_thread(
        psutil.Popen, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise RuntimeError("aiovec serve did not start")
        yield process, json.loads(line)["url"]
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)


# The process of the clients


async def in_process(settings: dict[str, Any]) -> dict[str, Any]:
    """Send the bodies in a file in turn; each client sends the next when it gets its answer."""
    bodies = (await asyncio.to_thread(Path(settings["bodies"]).read_bytes)).splitlines()
    took: deque[float] = deque(maxlen=_TIMED)
    answers: dict[int, str] = {}
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:

        async def ask(turn: int) -> None:
            number = turn % len(bodies)
            began = time.perf_counter()
            async with session.post(settings["url"], data=bodies[number]) as answer:
                text = await answer.text()
            took.append(1000 * (time.perf_counter() - began))
            if answer.status >= 300:
                raise RuntimeError(f"the answer is {answer.status}: {text[:500]}")
            if len(answers) < _KEPT:
                answers[number] = text

        await rate(ask, settings["clients"], settings["seconds"] / 5)  # warm up
        took.clear()
        answered = await rate(ask, settings["clients"], settings["seconds"])
    p50, p99 = np.percentile(took, (50, 99))
    return {"rate": answered, "p50": p50, "p99": p99, "answers": answers}
