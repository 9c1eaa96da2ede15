"""No request holds the event loop for long, whatever its size."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.harness.loop_time import own_work, watched_loop

import aiovec
from aiovec._http.wire import effort_of_rows
from aiovec.backend import (
    LITTLE,
    PROTOCOL,
    VALUES_A_COLUMN,
    Columns,
    Message,
    StoredRows,
    VectorQuery,
    bind,
    in_thread,
    pack,
    unpack,
)
from aiovec_remote.backend import RemoteBackend
from aiovec_remote.settings import RemoteSettings
from aiovec_server import create_app

ROWS, DIM = 6000, 64
ARROW = "application/vnd.apache.arrow.stream"


async def call(app: Any, method: str, path: str, body: bytes = b"", **headers: str) -> list[bytes]:
    """Make a request whose body comes in parts, and read its answer part by part."""
    with own_work():
        parts = [body[start : start + 65536] for start in range(0, len(body), 65536)] or [b""]
        parts.reverse()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop()
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "client": ("127.0.0.1", 1), "server": ("localhost", 4002), "state": {},
        "headers": [
            (b"host", b"localhost:4002"), (b"content-length", str(len(body)).encode()),
            *((name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()),
        ],
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent[:2]
    answer = [message.get("body", b"") for message in sent[1:]]
    length = dict(sent[0]["headers"]).get(b"content-length")
    assert length is None or int(length) == sum(map(len, answer))
    return answer


@pytest.mark.slow
async def test_few_rows_that_hold_much_leave_the_event_loop_to_others() -> None:
    with own_work():
        rows = [{"id": str(n), "embedding": [1, n], "much": [[]] * 20_000} for n in range(20)]
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", aiovec.Schema(2))
        await store.insert("t", rows)
        app = create_app(store=store)
        with watched_loop() as found:
            for path, body in (
                ("find", b"{}"),
                ("search", b'{"vector":[1,0],"topK":20}'),
                ("search_many", b'{"vectors":[[1,0],[0,1]],"topK":10}'),
            ):
                answer = await call(
                    app, "POST", f"/tables/t/{path}", body, content_type="application/json"
                )
                with own_work():
                    assert b"".join(answer).count(b"[]") == 400_000
        found.check()


def test_few_rows_that_hold_much_are_packed_off_the_loop() -> None:
    few = StoredRows(["a"], {"tags": [["x"]]}, ["{}"])
    lists = StoredRows(["a"], {"tags": [["x"] * 60_000]}, ["{}"])
    texts = StoredRows(["a"], {"tags": [["x"]]}, ["x" * 1_000_000])
    wide = StoredRows(["a"], {f"f{n}": [1.0] for n in range(100)}, ["{}"])
    assert effort_of_rows([few]) < VALUES_A_COLUMN + 10
    assert min(map(effort_of_rows, ([lists], [texts], [wide]))) > LITTLE


async def test_a_filter_for_each_of_many_queries_leaves_the_event_loop_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the way from the remote backend to the store behind the server, too."""
    count = 1_500
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", aiovec.Schema(2, fields={"n": int}))
        await store.insert("t", [{"id": "a", "embedding": [1, 0], "n": 7}])
        app = create_app(store=store)
        backend = RemoteBackend("http://localhost:4002", RemoteSettings())

        async def ask(read: Any, name: str, facts: Any, rows: Any = None, **_: Any) -> Any:
            kind, body = await in_thread(pack, Message(facts, rows))
            parts = await call(
                app, "POST", f"/backend/{name}", bytes(body), content_type=kind,
                aiovec_protocol=PROTOCOL,
            )  # fmt: skip
            return await in_thread(lambda: read(unpack(kind, bytearray(b"".join(parts)))))

        monkeypatch.setattr(backend, "_ask", ask)
        schema = await store.schema("t")
        handle = await backend.open_table("t")
        with own_work():
            wheres = [bind(f"n >= {n} AND n IN (7, {n})", schema) for n in range(count)]
            queries = [
                VectorQuery(np.ones(2, np.float32), 1, where, Columns(()), True, None)
                for where in wheres
            ]
        with watched_loop() as found:
            hits = await backend.search(handle, queries)
        assert sum(len(one.rows.ids) for one in hits) == 8
        found.check()
        await backend.close()


@pytest.fixture(scope="module")
def matrix() -> Any:
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


async def test_large_requests_leave_the_event_loop_to_others(matrix: Any) -> None:
    with own_work():
        rows = [
            {"id": str(n), "embedding": vector, "year": n, "tags": ["a"], "k": {"x": n}}
            for n, vector in enumerate(matrix.tolist())
        ]
        as_list = json.dumps(rows).encode()
        as_lines = "\n".join(map(json.dumps, rows)).encode()
        sink = pa.BufferOutputStream()
        table = pa.table({"id": [row["id"] for row in rows], "embedding": list(matrix)})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        as_arrow = sink.getvalue().to_pybytes()
        ids = [row["id"] for row in rows]
        vector = matrix[0].tolist()
        del rows
    kind = "application/json"
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", aiovec.Schema(DIM, fields={"year": int, "tags": list[str]}))
        app = create_app(store=store)
        with watched_loop() as found:
            await call(app, "POST", "/tables/t/records", as_list, content_type=kind)
            await store.delete_where("t", "TRUE")
            await call(
                app, "POST", "/tables/t/records", as_lines, content_type="application/x-ndjson"
            )
            await store.delete_where("t", "TRUE")
            await call(app, "POST", "/tables/t/records", as_arrow, content_type=ARROW)
            with own_work():
                vectors = matrix.tolist()
            for path, body in (
                ("search", {"vector": vector, "topK": ROWS, "includeVector": True}),
                ("search_many", {"vectors": vectors[:300], "topK": 20}),
                ("get", {"ids": ids}),
                ("find", {"limit": ROWS, "includeVector": True}),
                ("exists", {"ids": ids}),
                ("distinct", {"field": "id"}),
                ("set_vectors", {"ids": ids, "vectors": vectors}),
                ("delete", {"ids": ids[:-9]}),
            ):
                with own_work():
                    text = json.dumps(body).encode()
                answer = await call(app, "POST", f"/tables/t/{path}", text, content_type=kind)
                with own_work():
                    json.loads(b"".join(answer))
                    if path == "find":
                        assert len(answer) > 3
                if path in ("search", "get"):
                    for accept in (ARROW, "application/x-ndjson"):
                        await call(
                            app, "POST", f"/tables/t/{path}", text, content_type=kind, accept=accept
                        )
                if path == "distinct":
                    for accept in (ARROW, "application/x-ndjson"):
                        await call(app, "GET", "/tables/t/records", accept=accept)
        found.check()
