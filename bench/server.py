"""Searches, upserts and exports over HTTP, beside the store in the process, and Chroma's server."""

from __future__ import annotations

import asyncio
import base64
import http.client
import itertools
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

import aiovec
from aiovec import VectorStore

from .data import LIMIT, ROWS, TABLE, Data, load, row_number
from .http_clients import request, save
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
CHROMA = f"Chroma, {CLIENTS} clients"

_ROUNDS, _SECONDS = 3, 5.0
_NUMBERS = itertools.count()
_ARROW, _JSON = "application/vnd.apache.arrow.stream", "application/json"
_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


async def run(options: Options) -> list[Result]:
    data = load(options.rows(ROWS), options.data)
    path = options.folder / "a.db"
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aiovec.connect(path))
        await fill(store, data)
        ours = await stack.enter_async_context(_serving(path))
        remote = await stack.enter_async_context(aiovec.connect(f"http://127.0.0.1:{ours.port}"))
        for one in (store, remote):
            await until_loaded(one, data.queries[0])
        command = shutil.which("chroma") if not options.alone else None
        chroma = None
        if command:
            chroma = await stack.enter_async_context(_chroma(command, options.folder, data))
        return [
            await _searches(store, remote, ours, chroma, data, options),
            await _upserts(store, ours, chroma, data, options),
            await _export(store, remote, ours.port, data, options),
        ]


@dataclass(frozen=True)
class Server:
    """A server that runs, and the paths of its searches and upserts."""

    process: subprocess.Popen[bytes]
    port: int
    search: str
    upsert: str

    def memory(self) -> str:
        mib = psutil.Process(self.process.pid).memory_info().rss / 2**20
        return f"{mib:.0f} MiB"


class _Clients:
    """Clients in a process of their own, and what they told of each kind of request."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.told: dict[str, dict[str, Any]] = {}

    def way(
        self, name: str, server: Server, path: str, bodies: Sequence[object], count: int = CLIENTS
    ) -> Way:
        """Return a way: the rate at which so many clients are answered."""
        requests = [request("POST", path, _JSON, json.dumps(body).encode()) for body in bodies]
        file = save(self._options.folder / f"{next(_NUMBERS)}.requests", requests)
        asked = {
            "requests": str(file), "port": server.port, "clients": count,
            "seconds": self._options.seconds(_SECONDS),
        }  # fmt: skip

        async def measure() -> float:
            self.told[name] = await fresh("http_clients", asked)
            return float(self.told[name]["rate"])

        return measure

    def times(self, name: str) -> str:
        told = self.told[name]
        return f"{name}: an answer takes {told['p50']:.1f} ms (p50), {told['p99']:.1f} ms (p99)"


async def _searches(
    store: VectorStore, remote: VectorStore, ours: Server, chroma: Server | None, data: Data,
    options: Options,
) -> Result:  # fmt: skip
    seconds = options.seconds(_SECONDS)
    clients = _Clients(options)
    bodies = [{"vector": query.tolist(), "limit": LIMIT} for query in data.queries]
    ways: dict[str, Way] = {
        name: partial(rate, by_aiovec(one, data), CLIENTS, seconds)
        for name, one in {INSIDE: store, REMOTE: remote}.items()
    }
    ways[HTTP] = clients.way(HTTP, ours, ours.search, bodies)
    one_client = "POST /search, JSON, 1 client"
    ways[one_client] = clients.way(one_client, ours, ours.search, bodies, 1)
    notes = []
    if chroma is not None:
        include = ["documents", "metadatas", "distances"]
        bodies = [
            {"query_embeddings": [query.tolist()], "n_results": LIMIT, "include": include}
            for query in data.queries
        ]
        ways[CHROMA] = clients.way(CHROMA, chroma, chroma.search, bodies)
    else:
        notes.append("skipped: Chroma: there is no command chroma (pip install chromadb)")
    found = await interleaved(ways, options.rounds(_ROUNDS))
    recall = {}
    for name, told in clients.told.items():
        rows_of = _chroma_ids if name == CHROMA else _ids
        recall[name] = data.recall(
            [
                (int(query), rows_of(json.loads(base64.b64decode(body))))
                for query, body in told["answers"].items()
            ]
        )
        notes.append(f"{clients.times(name)}, recall {recall[name]:.4f}")
    servers = {"aiovec": ours, "Chroma": chroma}
    notes += [f"memory of {name}: {one.memory()}" for name, one in servers.items() if one]
    return Result(
        "server, searches",
        f"the 10 nearest of {data} with their fields, aiovec serve on SQLite, clients in a "
        f"process of their own (median of {seconds:g} s each)",
        "searches/s", medians(found),
        ratios(found, HTTP, INSIDE, CHROMA) | ratios(found, REMOTE, INSIDE), notes,
        [f"recall over HTTP {recall[HTTP]:.4f}"] if recall[HTTP] < 1 else [],
    )  # fmt: skip


async def _upserts(
    store: VectorStore, ours: Server, chroma: Server | None, data: Data, options: Options
) -> Result:
    """Measure upserts of one row a request, each durable when it is answered."""
    numbers = range(min(len(data), 2_000))
    rows = [{**data.row(number), "embedding": data.vectors[number].tolist()} for number in numbers]
    batches = [data.batch([number]) for number in numbers]
    clients = _Clients(options)

    async def inside(turn: int) -> None:
        await store.upsert(TABLE, batches[turn % len(batches)])

    http = f"POST /records, JSON, {CLIENTS} clients"
    ways: dict[str, Way] = {
        INSIDE: partial(rate, inside, CLIENTS, options.seconds(_SECONDS)),
        http: clients.way(http, ours, ours.upsert, [[row] for row in rows]),
    }
    if chroma is not None:
        bodies = [_chroma_rows([row]) for row in rows]
        ways[CHROMA] = clients.way(CHROMA, chroma, chroma.upsert, bodies)
    found = await interleaved(ways, options.rounds(_ROUNDS))
    return Result(
        "server, upserts",
        f"one row of {data} a request (median of {options.seconds(_SECONDS):g} s each)",
        "upserts/s", medians(found), ratios(found, http, INSIDE, CHROMA),
        [clients.times(name) for name in clients.told],
    )  # fmt: skip


def _ids(answer: Any) -> list[int]:
    return [row_number(hit["id"]) for hit in answer["hits"]]


def _chroma_ids(answer: Any) -> list[int]:
    return [row_number(id) for id in answer["ids"][0]]


async def _export(
    store: VectorStore, remote: VectorStore, port: int, data: Data, options: Options
) -> Result:
    def over_http() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", f"/tables/{TABLE}/records", headers={"Accept": _ARROW})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read(500)
        count = sum(int(batch.num_rows) for batch in pa.ipc.open_stream(answer))
        connection.close()
        return count

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
    found = await interleaved(ways, options.rounds(_ROUNDS))
    return Result(
        "server, export", f"{data}, whole rows with vectors (median)", "rows/s", medians(found),
        ratios(found, name, "in the process"),
    )  # fmt: skip


@asynccontextmanager
async def _running(
    command: list[str], stdout: int = subprocess.DEVNULL
) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=stdout, stderr=subprocess.DEVNULL,
        env={**clean_environment(), "ANONYMIZED_TELEMETRY": "False"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)


@asynccontextmanager
async def _serving(path: Path) -> AsyncIterator[Server]:
    """Run ``aiovec serve`` with its defaults on a free port."""
    command = [sys.executable, "-m", "aiovec", "serve", "-s", str(path), "--port", "0", "--json"]
    async with _running(command, subprocess.PIPE) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise RuntimeError("aiovec serve did not start")
        port = int(json.loads(line)["url"].rpartition(":")[2])
        table = f"/tables/{TABLE}"
        yield Server(process, port, f"{table}/search", f"{table}/records?mode=upsert")


@asynccontextmanager
async def _chroma(command: str, folder: Path, data: Data) -> AsyncIterator[Server]:
    """Run Chroma with the same rows."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = int(one.getsockname()[1])
    place = ["--path", str(folder / "chroma"), "--host", "127.0.0.1", "--port", str(port)]
    async with _running([command, "run", *place]) as process:
        path = f"{_COLLECTIONS}/{await asyncio.to_thread(_fill_chroma, port, data)}"
        yield Server(process, port, f"{path}/query", f"{path}/upsert")


def _chroma_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ids": [row["id"] for row in rows],
        "embeddings": [row["embedding"] for row in rows],
        "documents": [row["text"] for row in rows],
        "metadatas": [{"pick": row["pick"], "place": row["place"]} for row in rows],
    }


def _fill_chroma(port: int, data: Data) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    until = time.monotonic() + 60

    def call(path: str, body: object) -> Any:
        connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": _JSON})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"Chroma answers {path} with {answer.status}: {text[:300]!r}")
        return json.loads(text)

    while True:
        try:
            made = call(
                _COLLECTIONS, {"name": TABLE, "configuration": {"hnsw": {"space": "cosine"}}}
            )
            break
        except OSError:
            connection.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    for batch in data.batches(1_000):
        call(f"{_COLLECTIONS}/{made['id']}/add", _chroma_rows(batch.to_pylist()))
    connection.close()
    return str(made["id"])
