"""Searches and exports over HTTP, beside the same store in the process, and Chroma's server."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

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
_ARROW, _JSON = "application/vnd.apache.arrow.stream", "application/json"
_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"


async def run(options: Options) -> list[Result]:
    data = load(options.rows(ROWS), options.data)
    path = options.folder / "a.db"
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aiovec.connect(path))
        await fill(store, data)
        port = await stack.enter_async_context(_serving(path))
        remote = await stack.enter_async_context(aiovec.connect(f"http://127.0.0.1:{port}"))
        await until_loaded(store, data.queries[0])
        return [
            await _searches(stack, store, remote, port, data, options),
            await _export(store, remote, port, data, options),
        ]


async def _searches(
    stack: AsyncExitStack, store: VectorStore, remote: VectorStore, port: int, data: Data,
    options: Options,
) -> Result:  # fmt: skip
    seconds = options.seconds(_SECONDS)
    answers: dict[str, list[tuple[int, Sequence[int]]]] = {}
    bodies = [{"vector": query.tolist(), "topK": LIMIT} for query in data.queries]
    asked = [_json_request(f"/tables/{TABLE}/search", body) for body in bodies]
    file = save(options.folder / "json", asked)

    def tasks(one: VectorStore) -> Way:
        return lambda: rate(by_aiovec(one, data), CLIENTS, seconds)

    def clients(
        name: str, file: Path, port: int, count: int, rows_of: Callable[[Any], list[int]]
    ) -> Way:
        async def measure() -> float:
            told = await fresh(
                "http_clients",
                {"requests": str(file), "port": port, "clients": count, "seconds": seconds},
            )
            answers[name] = [
                (int(query), rows_of(json.loads(base64.b64decode(body))))
                for query, body in told["answers"].items()
            ]
            return float(told["rate"])

        return measure

    ways = {
        INSIDE: tasks(store), REMOTE: tasks(remote),
        HTTP: clients(HTTP, file, port, CLIENTS, _ids),
        "POST /search, JSON, 1 client": clients("one", file, port, 1, _ids),
    }  # fmt: skip
    notes = []
    command = shutil.which("chroma") if options.peers != "none" else None
    if command:
        other, asked = await stack.enter_async_context(_chroma(command, options.folder, data))
        file = save(options.folder / "chroma.requests", asked)
        ways[CHROMA] = clients(CHROMA, file, other, CLIENTS, _chroma_ids)
    else:
        notes.append("skipped: Chroma: there is no command chroma (pip install chromadb)")
    found = await interleaved(ways, options.rounds(_ROUNDS))
    recall = {name: data.recall(pairs) for name, pairs in answers.items()}
    notes.append("recall: " + "; ".join(f"{name} {value:.4f}" for name, value in recall.items()))
    return Result(
        "server, searches",
        f"the 10 nearest of {data} with their fields, aiovec serve on SQLite, clients in a "
        f"process of their own (median of {seconds:g} s each)",
        "searches/s", medians(found),
        ratios(found, HTTP, INSIDE, CHROMA) | ratios(found, REMOTE, INSIDE), notes,
        [f"recall over HTTP {recall[HTTP]:.4f}"] if recall[HTTP] < 1 else [],
    )  # fmt: skip


def _json_request(path: str, body: object) -> bytes:
    return request("POST", path, _JSON, json.dumps(body).encode())


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
async def _running(command: list[str]) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**clean_environment(), "ANONYMIZED_TELEMETRY": "False"},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)


@asynccontextmanager
async def _serving(path: Path) -> AsyncIterator[int]:
    """Run ``aiovec serve`` with its defaults on a free port."""
    command = [sys.executable, "-m", "aiovec", "serve", "-s", str(path), "--port", "0", "--json"]
    async with _running(command) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise RuntimeError("aiovec serve did not start")
        yield int(json.loads(line)["url"].rpartition(":")[2])


@asynccontextmanager
async def _chroma(command: str, folder: Path, data: Data) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run Chroma with the same rows; give its port and the requests for the queries."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = int(one.getsockname()[1])
    place = ["--path", str(folder / "chroma"), "--host", "127.0.0.1", "--port", str(port)]
    async with _running([command, "run", *place]):
        path = f"{_COLLECTIONS}/{await asyncio.to_thread(_fill_chroma, port, data)}/query"
        include = ["documents", "metadatas", "distances"]
        yield (
            port,
            [
                _json_request(
                    path, {"query_embeddings": [q.tolist()], "n_results": LIMIT, "include": include}
                )
                for q in data.queries
            ],
        )


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
        rows = batch.to_pylist()
        call(
            f"{_COLLECTIONS}/{made['id']}/add",
            {
                "ids": [row["id"] for row in rows],
                "embeddings": [row["embedding"] for row in rows],
                "documents": [row["text"] for row in rows],
                "metadatas": [{"pick": row["pick"], "place": row["place"]} for row in rows],
            },
        )
    connection.close()
    return str(made["id"])
