"""A stand-in for LanceDB's managed service, on loopback.

It answers the requests of lancedb's client in the form that this client reads. What the service
itself does with them it cannot show.
"""

from __future__ import annotations

import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

_TABLE = re.compile(r"/v1/table/([^/]+)/(.*)")


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Service:
    """The requests that it got, and the tables it holds; ``status`` makes it refuse everything."""

    host: str = ""
    status: int = 200
    hang: bool = False
    metadata: bool = True
    requests: list[Request] = field(default_factory=list)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    indexes: list[dict[str, Any]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: Request) -> tuple[int, str, bytes]:
        self.requests.append(request)
        if self.hang:
            self.over.wait()
        if self.status != 200:
            return self.status, "application/json", b'{"error": "no"}'
        if "/table/list" in request.path:
            return _json({"tables": sorted(self.tables)})
        found = _TABLE.match(request.path)
        if found is None:
            return _json({"error": "unknown"}, 404)
        return self._of_table(found[1], found[2], request.body)

    def _of_table(self, name: str, what: str, body: bytes) -> tuple[int, str, bytes]:
        if what.startswith("create/"):
            if name in self.tables:
                return _json({"error": f"Table {name} already exists"}, 400)
            self.tables[name] = pa.ipc.open_stream(body).read_all()
            return _json({"version": 1})
        if name not in self.tables:
            return _json({"error": f"Table {name} does not exist"}, 404)
        table = self.tables[name]
        if what == "describe/":
            return _json({"version": 1, "schema": _schema(table.schema, self.metadata)})
        if what == "count_rows/":
            return _json(table.num_rows)
        if what == "insert/":
            added = pa.ipc.open_stream(body).read_all()
            self.tables[name] = pa.concat_tables([table, added.cast(table.schema)])
            return _json({"version": 2})
        if what == "query/":
            return _arrow(_selected(table, json.loads(body)))
        if what == "create_index/":
            self.indexes.append(json.loads(body))
            return _json({})
        if what == "index/list/":
            listed = [
                {"index_name": made["name"], "index_uuid": "1", "columns": [made["column"]],
                 "index_status": "done"}
                for made in self.indexes
            ]  # fmt: skip
            return _json({"indexes": listed})
        if what.startswith("index/"):
            (made,) = [made for made in self.indexes if made["name"] == what.split("/")[1]]
            counts = {"num_indexed_rows": table.num_rows, "num_unindexed_rows": 0}
            return _json({**counts, "index_type": made["index_type"]})
        if what == "drop/":
            del self.tables[name]
            return _json({})
        return _json({"error": f"{what} is not part of this stand-in"}, 400)


def _selected(table: pa.Table, query: dict[str, Any]) -> pa.Table:
    """Every row with the columns asked for, or those of ``IN (…)``; distances are all 0."""
    asked = re.fullmatch(r"[`\"]id[`\"] IN \((.*)\)", query.get("filter") or "")
    if asked:
        ids = re.findall(r"'([^']*)'", asked[1])
        table = table.filter(pa.compute.is_in(table["id"], pa.array(ids)))
    columns = query.get("columns") or table.column_names
    picked = table.select([name for name in columns if name in table.column_names])
    if "_distance" in columns:
        zeros = pa.array([0.0] * table.num_rows, pa.float32())
        picked = picked.append_column("_distance", zeros)
    if "full_text_query" in query:
        ones = pa.array([1.0] * table.num_rows, pa.float32())
        picked = picked.append_column("_score", ones)
    return picked.slice(0, query["k"])


def _arrow(table: pa.Table) -> tuple[int, str, bytes]:
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return 200, "application/vnd.apache.arrow.file", out.getvalue()


def _json(value: Any, status: int = 200) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode()


def _schema(schema: pa.Schema, metadata: bool) -> dict[str, Any]:
    def texts(found: dict[bytes, bytes] | None) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in (found or {}).items()} if metadata else {}

    return {
        "fields": [
            {
                "name": column.name,
                "type": _type(column.type),
                "nullable": column.nullable,
                "metadata": texts(column.metadata),
            }
            for column in schema
        ],
        "metadata": texts(schema.metadata),
    }


def _type(kind: pa.DataType) -> dict[str, Any]:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        item = {"name": "item", "type": _type(kind.value_type), "nullable": True}
        return {"type": "fixed_size_list", "length": kind.list_size, "fields": [item]}
    return {"type": str(kind)}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def _answer(self) -> None:
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, kind, data = self.service.answer(Request(self.command, self.path, headers, body))
        with suppress(ConnectionError):  # a client that was cancelled has gone
            self.send_response(status)
            self.send_header("phalanx-version", "0.4.0")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def managed_service(**options: Any) -> Iterator[Service]:
    service = Service(**options)
    handler = type("Handler", (_Handler,), {"service": service})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        service.host = f"http://127.0.0.1:{server.server_port}"
        try:
            yield service
        finally:
            service.over.set()
            server.shutdown()
            thread.join()
