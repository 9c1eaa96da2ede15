"""A server refuses damaged Arrow bodies, stays alive and shows nothing of its memory."""

from __future__ import annotations

import json
import random
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.harness.cases import Seeds
from tests.hostile.test_mutants import as_text, changed, columns, vectors
from tests.server.process import START, Served, serving

TYPE = "application/vnd.apache.arrow.stream"
DIM, ROWS = 4, 6
SCHEMA = {"dim": DIM, "fields": {"name": "text", "year": "int", "tags": "list[text]"}}
REFUSED = {400, 409, 413, 422}
ADDRESS = re.compile(rb"0x[0-9a-f]{6}", re.IGNORECASE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "aiovec.toml").write_text(
        '[retrieval]\nsqlite_path = "store.db"\n[retrieval.server]\naccess_log = false\n'
    )
    with serving("--config", folder / "aiovec.toml") as served:
        served.call("POST", "/tables", {"name": "notes", "schema": SCHEMA})
        rows = [{"id": f"row-{n}", "embedding": [1.0, n, 0, 0]} for n in range(3)]
        served.call("POST", "/tables/notes/records", rows)
        yield served
        assert served.stop() == 0


class Sender(HTTPConnection):
    """Sends bodies over one connection; the server must answer each of them."""

    def __init__(self, served: Served) -> None:
        super().__init__("127.0.0.1", served.port, timeout=START)
        self._served = served

    def send_body(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            self.request(method, f"/tables/notes/{path}", body, {"Content-Type": TYPE})
            answer = self.getresponse()
            text = answer.read()
        except OSError as exc:
            status = self._served.process.wait(START)
            raise AssertionError(f"no answer; the server's exit code is {status}") from exc
        assert answer.status in REFUSED or answer.status == 200, (answer.status, text)
        assert not ADDRESS.search(text), text
        return answer.status, text


def messages(table: pa.Table) -> list[bytearray]:
    """Return the messages of a stream and its end."""
    batches = table.combine_chunks().to_batches()
    parts = [table.schema.serialize(), *(batch.serialize() for batch in batches)]
    return [*(bytearray(part) for part in parts), bytearray(b"\xff\xff\xff\xff\0\0\0\0")]


def misled(column: pa.Array, name: str, offsets: list[int]) -> bytes:
    """Return a stream with two texts of three bytes, whose offsets point elsewhere."""
    stream = b"".join(messages(pa.table({name: column})))
    good = np.array([0, 3, 6], np.int32).tobytes()
    assert stream.count(good) == 1
    return stream.replace(good, np.array(offsets, np.int32).tobytes())


def unknown_first(name: str) -> bytes:
    """Return a stream whose first message is of a kind that Arrow does not know."""
    schema, *rest = messages(pa.table({name: ["row-1", "row-2"]}))
    (length,) = struct.unpack_from("<I", schema, 4)
    metadata = schema[8 : 8 + length]
    (table,) = struct.unpack_from("<I", metadata, 0)
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    (kind,) = struct.unpack_from("<H", metadata, vtable + 4 + 2)  # Message.header_type
    schema[8 + table + kind] = 0x7F
    (header,) = struct.unpack_from("<H", metadata, vtable + 4 + 4)
    place = 8 + table + header
    schema[place] = 0x9D  # its header begins elsewhere, which Arrow did not check either
    return b"".join([schema, *rest])


def test_an_invalid_body_is_neither_read_nor_shown(server: Served) -> None:
    text = pa.array(["abc", "def"])
    listed = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), text)
    bad = [(unknown_first(name), 400) for name in ("ids", "embedding")]
    for name in ("limit", "texts", "ids", "vectors", "where", "nothing"):
        bad += [
            (misled(column, name, offsets), 422) for column, offsets in (
                (text, [0, -(2**31) + 4, 6]), (text, [0, 2**30, 6]),
                (text.cast(pa.binary()), [100_000, 100_024, 100_048]),
                (listed, [0, -(2**31) + 4, 6]),
            )
        ]  # fmt: skip
    with closing(Sender(server)) as sender:
        for body, status in bad:
            for method, path in (*ENDPOINTS, ("POST", "records")):
                assert sender.send_body(method, path, body)[0] == status, path
        # The error for a column instead of a plain argument names its type and shows no value.
        body = b"".join(messages(pa.table({"limit": ["abc"], "vectors": [[1.0, 0, 0, 0]]})))
        status, answer = sender.send_body("POST", "search_many", body)
        assert status == 422
        assert b"ChunkedArray" in answer
        assert b"abc" not in answer


# Endpoints that take columns.
ENDPOINTS = (
    ("POST", "get"), ("POST", "exists"), ("POST", "update"), ("DELETE", "records"),
    ("POST", "set_vectors"), ("POST", "search_many"), ("POST", "search_like"),
)  # fmt: skip
ARGUMENTS: dict[str, dict[str, Any]] = {
    "update": {"set": {"year": 3}}, "search_many": {"limit": 2}, "search_like": {"limit": 2},
    "get": {"select": ["name"]},
}  # fmt: skip


def request(chance: random.Random) -> tuple[str, str, pa.Table]:
    """Return a good request, its columns in random layouts."""
    if chance.random() < 0.3:
        mode = chance.choice(["mode=upsert", "onConflict=skip", "onConflict=replace"])
        return "POST", f"records?{mode}", pa.table(columns(ROWS, chance))
    ids = as_text([f"row-{chance.randrange(9)}" for _ in range(ROWS)], chance)
    method, path = chance.choice(ENDPOINTS)
    names = {"set_vectors": ["ids", "vectors"], "search_many": ["vectors"]}.get(path, ["ids"])
    given = {name: vectors(ROWS, chance) if name == "vectors" else ids for name in names}
    if chance.random() < 0.2:  # an argument that is no column
        given[chance.choice(["limit", "texts", "where", "select", "other"])] = ids
    table = pa.table(given)
    if path in ARGUMENTS and chance.random() < 0.9:
        text = json.dumps({k: v for k, v in ARGUMENTS[path].items() if k not in given})
        table = table.replace_schema_metadata({"aiovec.body": text})
    return method, path, table


def damaged(parts: list[bytearray], chance: random.Random) -> bytes:
    """Change the metadata or the buffers of messages, or drop a part."""
    for _ in range(chance.choice([1, 1, 2, 3])):
        part = chance.choice(parts[:-1])
        end = 8 + struct.unpack_from("<I", part, 4)[0]
        start, end = chance.choice([(8, end), (0, len(part)), (min(end, len(part) - 8), len(part))])
        piece = part[start:end]
        if len(piece) >= 8:
            changed(piece, chance)
        part[start:end] = piece
    if (kind := chance.random()) < 0.05:
        parts.insert(chance.randrange(3), chance.choice(parts))
    elif kind < 0.1:
        del parts[chance.randrange(len(parts))]
    whole = b"".join(parts)
    return whole[: chance.randrange(len(whole))] if chance.random() < 0.05 else whole


def fuzz(served: Served, seeds: Iterable[int]) -> None:
    outcomes = Counter[int]()
    with closing(Sender(served)) as sender:
        for seed in seeds:
            chance = random.Random(seed)
            method, path, table = request(chance)
            try:
                body = damaged(messages(table), chance)
                outcomes[sender.send_body(method, path, body)[0]] += 1
            except AssertionError as exc:
                exc.add_note(f"seed {seed}: {method} {path}")
                raise
    assert {200, 400, 422} <= outcomes.keys()


@pytest.mark.slow
def test_a_damaged_body_is_refused_and_the_server_stays(server: Served) -> None:
    fuzz(server, range(4000))


@pytest.mark.soak(minutes=30)
@pytest.mark.timeout(7200)
def test_a_million_damaged_bodies_are_refused(server: Served, seeds: Seeds) -> None:
    fuzz(server, seeds(1_000_000))
