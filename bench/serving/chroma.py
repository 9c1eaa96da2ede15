"""Chroma's server, as a peer: filled and searched over its own HTTP API."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..searching.corpus import LIMIT, TABLE, Corpus, row_number
from .client import request
from .process import Server, free_port, running

_COLLECTIONS = "/api/v2/tenants/default_tenant/databases/default_database/collections"
_JSON = "application/json"
_BATCH = 1_000
_PATIENCE = 60.0


class NoChromaError(Exception):
    """There is no Chroma to compare with."""


@asynccontextmanager
async def chroma(folder: Path, corpus: Corpus) -> AsyncIterator[tuple[Server, list[bytes]]]:
    """Run Chroma with the rows of the corpus, and give the requests for its queries."""
    command = shutil.which("chroma")
    if command is None:
        raise NoChromaError("no command chroma is on the PATH (pip install chromadb)")
    port = free_port()
    run = [command, "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    async with running(run, ANONYMIZED_TELEMETRY="False") as process:
        collection = await asyncio.to_thread(_fill, process, port, corpus)
        path = f"{_COLLECTIONS}/{collection}/query"
        include = ["documents", "metadatas", "distances"]
        asked = [
            {"query_embeddings": [query.tolist()], "n_results": LIMIT, "include": include}
            for query in corpus.queries
        ]
        requests = [request("POST", path, _JSON, json.dumps(body).encode()) for body in asked]
        yield Server(process, port), requests


def rows_of(body: bytes) -> Sequence[int]:
    """The numbers of the rows of an answer."""
    return [row_number(id) for id in json.loads(body)["ids"][0]]


def _fill(process: subprocess.Popen[bytes], port: int, corpus: Corpus) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            _call(connection, "GET", "/api/v2/heartbeat")
            break
        except OSError:
            connection.close()
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("chroma run did not start") from None
            time.sleep(0.1)
    told = _call(connection, "GET", "/api/v2/pre-flight-checks")
    short = bool(told.get("supports_base64_encoding"))
    size = min(_BATCH, int(told["max_batch_size"]))
    made = {"name": TABLE, "configuration": {"hnsw": {"space": "cosine"}}}
    collection: str = _call(connection, "POST", _COLLECTIONS, made)["id"]
    for start in range(0, len(corpus), size):
        rows = corpus.batch(slice(start, start + size))
        vectors = corpus.vectors[start : start + size]
        body = {
            "ids": rows.column("id").to_pylist(),
            "embeddings": [base64.b64encode(one.tobytes()).decode() for one in vectors]
            if short
            else vectors.tolist(),
            "documents": rows.column("text").to_pylist(),
            "metadatas": [{"pick": pick} for pick in rows.column("pick").to_pylist()],
        }
        _call(connection, "POST", f"{_COLLECTIONS}/{collection}/add", body)
    connection.close()
    return collection


def _call(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": _JSON})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"Chroma answers {method} {path} with {answer.status}: {text[:300]!r}")
    return json.loads(text)
