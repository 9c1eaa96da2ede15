"""The measurement behind docs/adr/0001: one search by sqlite-vec, by BLOBs, by a service."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiosqlite
import numpy as np

from . import bare
from .data import Dataset, load
from .measure import Result, interleaved, medians
from .options import Options
from .stores import fill_bare

_LIMIT = 10

# A service that does nothing: it reads a query and answers ten hits that it has at hand. What it
# takes comes on top of any search.
_SERVICE = """
import asyncio, json, sys
ANSWER = json.dumps({"hits": [{"id": f"row-{i:08d}", "score": 0.5, "text": "x" * 200}
                              for i in range(10)]}).encode()
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
async def serve(reader, writer):
    while line := await reader.readline():
        length = 0
        while (header := await reader.readline()).strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        json.loads(await reader.readexactly(length))
        writer.write(HEAD % len(ANSWER) + ANSWER)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


async def run(options: Options) -> list[Result]:
    data = load(options.rows(100_000), None, options.data)
    rounds = options.rounds(20)
    path = options.folder / "bare.db"
    fill_bare(path, data)
    _add_blobs(path, data)
    turn = 0

    def query() -> np.ndarray:
        nonlocal turn
        turn += 1
        return data.queries[turn % len(data.queries)]

    async with (
        aiosqlite.Connection(lambda: bare.connect(path), 64) as db,
        _service() as ask,
    ):

        async def vec0() -> float:
            began = time.perf_counter()
            sql = "SELECT rowid, distance FROM vec WHERE vector MATCH ? AND k = ?"
            rows = await db.execute_fetchall(sql, (query().tobytes(), _LIMIT))
            assert len(list(rows)) == _LIMIT
            return (time.perf_counter() - began) * 1000

        async def blobs() -> float:
            began = time.perf_counter()
            rows = list(await db.execute_fetchall("SELECT rowid, vector FROM blobs", ()))
            matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float32)
            scores = matrix.reshape(len(rows), -1) @ query()
            nearest = np.argpartition(scores, -_LIMIT)[-_LIMIT:]
            assert len(nearest) == _LIMIT
            return (time.perf_counter() - began) * 1000

        async def service() -> float:
            began = time.perf_counter()
            answer = await ask(json.dumps({"vector": query().tolist()}).encode())
            assert len(json.loads(answer)["hits"]) == _LIMIT
            return (time.perf_counter() - began) * 1000

        ways: dict[str, Callable[[], Awaitable[float]]] = {
            "sqlite-vec's KNN in the file": vec0,
            "BLOBs read with SQL, NumPy's product": blobs,
            "a service that does nothing, on loopback": service,
        }
        found = medians(await interleaved(ways, rounds))
    return [
        Result(
            "choices",
            f"the {_LIMIT} nearest of {len(data):,} rows of {data.dim} dims ({data.origin}; "
            f"median of {rounds})",
            "ms",
            found,
            notes=[f"{path.stat().st_size / len(data) / 2:,.0f} bytes a row in the file, each way"],
        )
    ]


def _add_blobs(path: object, data: Dataset) -> None:
    db = bare.connect(path)  # type: ignore[arg-type]
    db.execute("CREATE TABLE blobs (rowid INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO blobs VALUES (?, ?)", ((i, bytes(row)) for i, row in enumerate(data.vectors))
    )
    db.execute("COMMIT")
    db.close()


@asynccontextmanager
async def _service() -> AsyncIterator[Callable[[bytes], Awaitable[bytes]]]:
    """A process that answers on loopback, with one connection kept open; ends with its input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SERVICE,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def ask(body: bytes) -> bytes:
            head = f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            length = 0
            await reader.readline()
            while (header := await reader.readline()).strip():
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            return await reader.readexactly(length)

        yield ask
        writer.close()
    finally:
        process.stdin.close()
        await process.wait()
