"""Searches as requests to aiovec's server, and the row numbers of its answers."""

from __future__ import annotations

import http.client
import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from aiovec._http.wire import ARROW, PROTOCOL, PROTOCOL_HEADER, Message, pack, unpack
from aiovec.backend import from_matrix
from aiovec.backend.contract import Columns

from ..searching.corpus import LIMIT, TABLE, Corpus, row_number
from .client import request

_JSON = "application/json"
_PROTOCOL = {PROTOCOL_HEADER: PROTOCOL}


def in_json(corpus: Corpus) -> list[bytes]:
    bodies = ({"vector": query.tolist(), "topK": LIMIT} for query in corpus.queries)
    path = f"/tables/{TABLE}/search"
    return [request("POST", path, _JSON, json.dumps(body).encode()) for body in bodies]


def rows_in_json(body: bytes) -> list[int]:
    return [row_number(hit["id"]) for hit in json.loads(body)["hits"]]


def in_arrow(port: int, corpus: Corpus) -> list[bytes]:
    """The same searches as a remote backend asks for them. Blocking."""
    schema = corpus.schema()
    facts: dict[str, Any] = {
        "table": TABLE, "state": _state(port), "which": [0],
        "columns": asdict(Columns(tuple(schema.fields), payload=True)),
        "kinds": [{"limit": LIMIT, "where": None, "exact": False, "tuning": None}],
    }  # fmt: skip
    requests = []
    for query in range(len(corpus.queries)):
        vector = from_matrix(corpus.queries[query : query + 1])
        kind, body = pack(Message(facts, pa.table({schema.vector: vector})))
        requests.append(request("POST", "/backend/search", kind, bytes(body), _PROTOCOL))
    return requests


def rows_in_arrow(body: bytes) -> list[int]:
    rows = unpack(ARROW, body).rows
    assert rows is not None
    return [row_number(id) for id in rows.column("id").to_pylist()]


def _state(port: int) -> str:
    """The state of the table that the calls are made for."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    kind, body = pack(Message({"table": TABLE}))
    headers = {**_PROTOCOL, "Content-Type": kind}
    connection.request("POST", "/backend/open_table", bytes(body), headers)
    answer = connection.getresponse()
    told = unpack(answer.headers["Content-Type"], answer.read())
    connection.close()
    return str(told.facts["state"])
