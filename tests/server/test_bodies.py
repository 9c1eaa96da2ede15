"""Bodies of many rows: in pieces, as lines, as Arrow; and exports of many rows."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.server.apps import Client, notes, serving

import aiovec
from aiovec._http import large_json
from aiovec._http.arguments import patch_in
from aiovec.backend import ServerSettings
from aiovec.errors import InvalidArgumentError
from aiovec_server import create_app, pieces
from aiovec_server.bodies import arrow_parts
from aiovec_server.bounds import BOUNDS, Bounds
from aiovec_server.pieces import JsonArray, JsonLines, rows_in
from aiovec_server.problems import RequestError

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


async def parts_of(text: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def hostile_row(rng: random.Random, depth: int = 0) -> Any:
    """A value whose text has every kind of bracket, quote and comma within it."""
    kind = rng.randrange(8 if depth < 4 else 5)
    if kind == 0:
        return "".join(rng.choice('}{][",\\: \n1eé\u2028') for _ in range(rng.randrange(12)))
    if kind == 1:
        return rng.choice([0, -1, 10**18, True, False, None])
    if kind == 2:
        return rng.uniform(-1, 1) * 10 ** rng.randrange(-300, 300)
    if kind in (3, 4):
        return "},{"
    if kind == 5:
        return [hostile_row(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(n): hostile_row(rng, depth + 1) for n in range(rng.randrange(4))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 12))]
)
async def test_a_list_in_pieces_is_the_same_as_at_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(large_json, "PIECE", rng.choice([10, 60, 300]))
    rows = [
        {"id": str(n), "v": hostile_row(rng), "w": [rng.random() for _ in range(20)]}
        for n in range(rng.randrange(60))
    ]
    spaces = rng.choice([(",", ":"), (" ,\n ", ": "), (",\t", ":")])
    text = json.dumps(rows, separators=spaces, ensure_ascii=rng.random() < 0.5).encode()
    text = b" \n" + text + b"\n"
    size = rng.choice([1, 7, 1000])
    found = await rows_in(parts_of(text, size), JsonArray())
    for row in found:
        assert isinstance(row["w"], np.ndarray)
        row["w"] = row["w"].tolist()
    assert found == rows
    lines = b"".join(
        json.dumps(row).encode() + rng.choice([b"\n", b"\r\n", b"\n\n"]) for row in rows
    )
    found = await rows_in(parts_of(lines, size), JsonLines())
    assert [row["id"] for row in found] == [row["id"] for row in rows]


@pytest.mark.parametrize("seed", range(6))
async def test_a_damaged_list_is_refused_wherever_the_damage_is(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_json, "PIECE", 40)
    rng = random.Random(seed)
    whole = json.dumps([{"id": str(n), "v": hostile_row(rng)} for n in range(20)]).encode()
    for _ in range(60):
        text = bytearray(whole)
        place = rng.randrange(len(text))
        how = rng.randrange(3)
        if how == 0:
            del text[place:]
        elif how == 1:
            text[place] = rng.choice(b'{}[]",x\\')
        else:
            text[place:place] = rng.choice([b",", b"}", b"]", b'"', b"},{", b"\x00", b"],["])
        try:
            wanted = json.loads(text)
        except ValueError:
            with pytest.raises(RequestError):
                await rows_in(parts_of(bytes(text), 9), JsonArray())
        else:
            assert await rows_in(parts_of(bytes(text), 9), JsonArray()) == wanted


async def test_numbers_are_read_as_python_reads_them() -> None:
    rng = random.Random(1)
    numbers = [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-310, 300) for _ in range(3000)]
    texts = [repr(x) for x in numbers] + [
        "5e-324",
        "0.1e1",
        "1E5",
        "-0.0",
        "2.2250738585072014e-308",
    ]
    texts += [
        f"{rng.randrange(10**16)}{rng.randrange(10**16):016d}.{rng.randrange(10**9)}"
        for _ in range(500)
    ]
    assert pieces.load(f"[{','.join(texts)}]".encode()) == [json.loads(text) for text in texts]


@pytest.mark.parametrize("number", ["1e400", "-1e999", "[0.5, 1e400]", f"[{'0.5, ' * 50}1e400]"])
async def test_numbers_beyond_float64_are_refused(number: str) -> None:
    """They became infinities, which no answer can tell: it had null in their place."""
    name = "lf" if "[" in number else "f"
    row = f'{{"id": "a", "embedding": [1, 0], "{name}": {number}}}'
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2, fields={"f": float, "lf": list[float]}))
        async with serving(create_app(store=store)) as client:
            for kind, body in (
                ("application/json", f"[{row}]"),
                ("application/json", f"[{row}, {', '.join(['{}'] * 30_000)}]"),
                ("application/x-ndjson", row),
            ):
                headers = {"content-type": kind}
                found = await client.problem(
                    "POST", "/tables/notes/records", 422, content=body, headers=headers
                )
                assert "float64" in found["detail"]
        assert await store.count("notes") == 0


async def test_numbers_beyond_float64_in_other_bodies() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2, fields={"f": float, "lf": list[float]}))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0], "f": 1.0}])
        async with serving(create_app(store=store)) as client:
            for name, number in (("f", "1e400"), ("lf", "[1.5, -1e400]")):
                body = f'{{"set": {{"{name}": {number}}}, "filter": "TRUE"}}'
                headers = {"content-type": "application/json"}
                await client.problem(
                    "POST", "/tables/notes/update", 422, content=body, headers=headers
                )
        assert (await store.get("notes", "a"))[0].fields == {"f": 1.0, "lf": None}


@pytest.mark.parametrize("length", [1, 30_000])
async def test_a_key_that_comes_twice_is_refused(length: int) -> None:
    """The last one counted, so a filter could become another one: also that of a deletion."""
    text = "a: b, {}" * length
    rows = [
        '{"id": "b", "embedding": [1, 0], "k": 1, "k": 2}',
        '{"id": "b", "embedding": [1, 0], "k": {"n": [{"x": 1, "x": ": "}]}}',
        '{"id": "b", "id": "c", "embedding": [1, 0]}',
        '{"id": "b", "embedding": [1, 0], "t": "::::", "\\u0074": ""}',
    ]
    bodies = [("delete", "json", '{"filter": "id = \'x\'", "filter": "TRUE"}')]
    bodies += [("search", "json", '{"vector": [1, 0], "topK": 1, "vector": [0, 1]}')]
    many = ",".join(["1"] * 50_001)  # of numbers there may be many
    bodies += [("update", "json", f'{{"ids": [{many}], "set": {{"k": 1}}, "set": {{"k": 2}}}}')]
    bodies += [("records", "json", f'[{{"id": "b", "embedding": [1, 0], "k": 1, "k": [{many}]}}]')]
    for row in rows:
        bodies += [("records", "json", f"[{row}]"), ("records", "x-ndjson", row)]
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2))
        async with serving(create_app(store=store)) as client:
            for path, kind, body in bodies:
                if path == "records":  # and rows of many colons
                    sound = f'{{"id": "s", "embedding": [1, 0], "text": "{text}"}}'
                    body = f"[{sound}, {body[1:]}" if kind == "json" else f"{sound}\n{body}"
                headers = {"content-type": f"application/{kind}"}
                found = await client.problem(
                    "POST", f"/tables/notes/{path}", 422, content=body, headers=headers
                )
                assert "twice" in found["detail"]
            assert await store.count("notes") == 0
            row = {"id": "s", "embedding": [1, 0], "\\": {"t:": 1, "u": {"t:": 2}}, "text": text}
            await client.ok("POST", "/tables/notes/records", json=[row])


async def test_arrow_makes_nothing_of_rows_that_are_too_much_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It took three gigabytes for a thousand times the same megabyte, which were then refused."""
    row = {"id": "a", "embedding": [1, 0], "k": [{"deep": ["x" * 500]}]}
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2))
        await store.insert("notes", [row])
        rows = await store.get("notes", ["a"] * 10_000)
    token = BOUNDS.set(Bounds(hits=10, rows=10, nbytes=2_000_000))
    try:
        assert sum(map(len, arrow_parts(rows[:3_000]))) < 2_000_000
        monkeypatch.setattr(type(rows), "to_arrow", lambda rows: pytest.fail("it was begun"))
        with pytest.raises(RequestError) as caught:
            arrow_parts(rows)
        assert caught.value.status == 413
    finally:
        BOUNDS.reset(token)


def test_changes_of_a_payload_that_cannot_be_read() -> None:
    """Without any it was an error of the server; of a key that came twice the last one counted."""
    schema = aiovec.Schema(2, fields={"n": int})
    for facts in ({}, {"payload": 1}, {"payload": "["}, {"payload": '[[["a"],{"b":1,"b":2}]]'}):
        with pytest.raises(InvalidArgumentError) as caught:
            patch_in({"values": {"n": 1}, **facts}, schema)
        assert caught.value.argument == "payload"


async def test_a_trailing_comma_and_a_body_of_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "PIECE", 20)
    rows = b",".join(b'{"id":"%d"}' % n for n in range(9))
    for text, status in (
        (b"[" + rows + b",]", 400), (b"[" + rows, 400), (rows, 422), (b"[" + rows + b"]]", 400),
        (b'{"id": "a"}', 422), (b'"' + b"x" * 99 + b'"', 422), (b"", 400), (b"  ", 400),
    ):  # fmt: skip
        with pytest.raises(RequestError) as caught:
            await rows_in(parts_of(text, 10), JsonArray())
        assert caught.value.status == status, text


async def test_a_row_without_end_is_refused_before_it_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large_json, "LONGEST", 2000)
    monkeypatch.setattr(large_json, "PIECE", 100)
    read = 0

    async def endless(start: bytes, more: bytes) -> AsyncIterator[bytes]:
        nonlocal read
        yield start
        for _ in range(1000):
            read += len(more)
            yield more

    for start, more, splitter in (
        (b'[{"id": "', b"},{" * 30, JsonArray()),
        (b"[", b"[" * 90, JsonArray()),
        (b'{"id": "', b"}" * 90, JsonLines()),
    ):
        read = 0
        with pytest.raises(RequestError) as caught:
            await rows_in(endless(start, more), splitter)
        assert caught.value.status == 413
        assert read < 9000


async def test_many_rows_by_each_kind_of_body() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((2000, 64)).astype(np.float32)
    rows = [
        {"id": str(n), "embedding": vector, "year": n, "body": "},{" * (n % 5)}
        for n, vector in enumerate(matrix.tolist())
    ]
    table = pa.table(
        {"id": [row["id"] for row in rows], "embedding": list(matrix), "year": range(2000)}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    bodies = [
        (json.dumps(rows).encode(), JSON),
        ("\n".join(map(json.dumps, rows)).encode(), LINES),
        (sink.getvalue().to_pybytes(), ARROW),
    ]
    async with aiovec.connect(":memory:") as store:
        schema = aiovec.Schema(64, fields={"year": int})
        async with serving(create_app(store=store)) as client:
            for n, (body, headers) in enumerate(bodies):
                await store.create_table(f"t{n}", schema)
                path = f"/tables/t{n}/records"
                found = await client.ok("POST", path, content=body, headers=headers)
                assert found == {"count": 2000}
                again = await client.problem("POST", path, 409, content=body, headers=headers)
                assert again["error"] == "DuplicateIdError"
                (row,) = await store.get(f"t{n}", ["1234"])
                assert row["year"] == 1234
                assert np.array_equal(row.vector, matrix[1234])
            # Half of the rows are good, and none is kept.
            await store.create_table("none", schema)
            broken = json.dumps(rows).encode()[:-1] + b',{"id": "x", "embedding": [1]}]'
            found = await client.problem(
                "POST", "/tables/none/records", 422, content=broken, headers=JSON
            )
            assert (found["error"], found["facts"]["id"]) == ("DimensionMismatchError", "x")
            assert await store.count("none") == 0


def ipc(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def vectors(count: int) -> pa.Array:
    flat = pa.array(np.ones(3 * count, dtype=np.float32))
    return pa.FixedSizeListArray.from_arrays(flat, 3)


async def test_arrow_bodies_that_would_fill_the_memory_or_are_damaged() -> None:
    plain = pa.table({"id": ["a"], "embedding": vectors(1)})
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x" * 1000]))
    bombs = [
        ipc(plain, compression="zstd"),
        ipc(plain.append_column("d", pa.array(["x"]).dictionary_encode())),
        ipc(plain.append_column("r", runs)),
        ipc(plain.append_column("v", pa.array(["x"], pa.string_view()))),
        b"", b"ARROW1", ipc(plain)[:-30], b"\xff\xff\xff\xff" * 9, ipc(plain)[8:],
        ipc(plain) + ipc(plain), ipc(plain) + b"x",  # what is behind the end would be lost
    ]  # fmt: skip
    whole = len(bombs)
    rng = random.Random(3)
    good = ipc(plain)
    for _ in range(150):
        damaged = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        bombs.append(bytes(damaged))
    async with notes() as client:
        for place, body in enumerate(bombs):
            answer = await client.post("/tables/notes/records", content=body, headers=ARROW)
            assert answer.status_code < 500, (place, answer.text)
            if place < whole and body:
                assert answer.status_code in (400, 422), (place, answer.text)
        bad_text = pa.Array.from_buffers(
            pa.utf8(),
            1,
            [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")],
        )
        body = ipc(pa.table({"id": ["b"], "embedding": vectors(1), "body": bad_text}))
        found = await client.problem(
            "POST", "/tables/notes/records", 422, content=body, headers=ARROW
        )
        assert "UTF-8" in found["detail"]


def arrow_streams() -> list[bytes]:
    vectors = pa.array([[0.5, 0.25, 1.0]] * 9, pa.list_(pa.float32(), 3))
    ids = pa.array([f"n{n}" for n in range(9)])
    nested = {"at": pa.array([1] * 9, pa.timestamp("us", "UTC")), "tags": [["x", "y"]] * 9}
    nested |= {"other": [{"a": [1], "b": "c"}] * 9, "map": pa.array([[(1, 2)]] * 9, pa.map_(
        pa.int8(), pa.int8()))}  # fmt: skip
    found = []
    for table in (
        pa.table({"id": ids, "embedding": vectors}),
        pa.table({"id": ids, "embedding": vectors, **nested}),
    ):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        found.append(sink.getvalue().to_pybytes())
    return found


def damaged_stream(chance: random.Random, stream: bytes) -> bytes:
    data = bytearray(stream)
    wrong = [-1, 0, 1, 2, 7, 2**31 - 1, -(2**31), len(data), 2 * len(data), 2**32, 2**62, 2**63 - 1]
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        place = chance.randrange(len(data) - 8)
        match chance.randrange(4):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                data[place & ~7 : (place & ~7) + 8] = struct.pack("<q", chance.choice(wrong))
            case 2:
                number = struct.pack("<q", chance.choice(wrong))[:4]
                data[place & ~3 : (place & ~3) + 4] = number
            case _:
                del data[place : place + chance.randrange(64)]
    return bytes(data)


async def _arrow_of_chance(seed: int, count: int) -> None:
    chance = random.Random(seed)
    streams = arrow_streams()
    calls = ["tables/notes/records?mode=upsert", "tables/notes/set_vectors", "backend/upsert"]
    async with notes() as client:
        for _ in range(count):
            data = damaged_stream(chance, chance.choice(streams))
            headers = {**ARROW, "aiovec-protocol": "1"}
            answer = await client.post(f"/{chance.choice(calls)}", content=data, headers=headers)
            assert answer.status_code in (200, 400, 422), (seed, data, answer.text)


async def test_arrow_bodies_of_chance() -> None:
    await _arrow_of_chance(1, 150)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 8))
async def test_many_arrow_bodies_of_chance(seed: int) -> None:
    await _arrow_of_chance(seed, 3000)


@pytest.mark.parametrize("name", [b"embedding", b"tags", b"UTC"])
async def test_arrow_names_that_are_no_text(name: bytes) -> None:
    data = arrow_streams()[1].replace(name, b"\xff" + name[1:])
    async with notes() as client:
        for path in ("records", "set_vectors"):
            found = await client.problem("POST", f"/tables/notes/{path}", 400, content=data,
                                         headers=ARROW)  # fmt: skip
            assert "Arrow" in found["detail"]


async def test_vectors_by_arrow() -> None:
    async with notes() as client:
        body = ipc(pa.table({"v": vectors(2), "id": ["note-0", "none"]}))
        found = await client.ok("POST", "/tables/notes/set_vectors", content=body, headers=ARROW)
        assert found == {"updated": 1}
        body = ipc(pa.table({"id": ["note-0"]}))
        await client.problem("POST", "/tables/notes/set_vectors", 422, content=body, headers=ARROW)


async def lines_of(client: Client, path: str, **options: Any) -> list[Any]:
    answer = await client.get(path, **options)
    assert answer.status_code == 200, answer.text
    assert "content-length" not in answer.headers
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_an_export_goes_on_from_a_cursor() -> None:
    async with notes() as client:
        path = "/tables/notes/records"
        whole = await lines_of(client, path)
        assert [row["id"] for row in whole] == [f"note-{n}" for n in range(5)]
        assert whole[1]["at"] == "2024-01-02T00:00:00Z"
        assert whole[1]["kind"] == "x"
        some = await lines_of(client, path + "?batch_size=2&cursors=true&select=year")
        assert [set(line) for line in some if "id" in line] == [{"id", "year"}] * 5
        (first, *_) = (line["cursor"] for line in some if "cursor" in line)
        rest = await lines_of(client, f"{path}?after={first}&batch_size=2")
        assert [row["id"] for row in rest] == ["note-2", "note-3", "note-4"]
        arrow = await client.get(f"{path}?batch_size=2", headers={"accept": ARROW["content-type"]})
        reader = pa.ipc.open_stream(arrow.content)
        assert aiovec.Schema.from_arrow(reader.schema).dim == 3
        batch, metadata = next(reader.iter_batches_with_custom_metadata())
        assert batch.num_rows == 2
        import base64

        assert base64.urlsafe_b64decode(first) == dict(metadata)[b"aiovec.cursor"]
        filtered = await lines_of(
            client, path + "?filter=year%20%3E%202022&select=embedding,payload"
        )
        assert [set(row) for row in filtered] == [{"id", "embedding", "kind"}] * 2
        # Back again
        lines = "\n".join(json.dumps(row) for row in whole)
        await client.ok("POST", path + "?mode=upsert", content=lines, headers=LINES)
        assert await lines_of(client, path) == whole
        for query in ("after=x", "after=AAAA", "after=%F0%9F%8E%89", "batch_size=0",
                      "batch_size=1_0", "batch_size=%202", "batch_size=%EF%BC%92", "cursors=1",
                      "filter=(", "select=none", "batchSize=1"):  # fmt: skip
            await client.problem("GET", f"{path}?{query}", 422)
        await client.problem("GET", "/tables/none/records", 404)


async def test_an_export_of_nothing_has_its_columns() -> None:
    async with notes() as client:
        await client.ok("POST", "/tables/notes/delete", json={"filter": "TRUE"})
        assert await lines_of(client, "/tables/notes/records") == []
        for query, names in (
            ("", ["id", "embedding", "year", "at", "tags", "body", "payload"]),
            ("?select=year", ["id", "year"]),
        ):
            answer = await client.get(
                f"/tables/notes/records{query}", headers={"accept": ARROW["content-type"]}
            )
            table = pa.ipc.open_stream(answer.content).read_all()
            assert (table.num_rows, table.schema.names) == (0, names)


async def test_a_row_without_a_vector_is_exported_with_null() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", aiovec.Schema(2, vector_nullable=True))
        await store.insert("t", [{"id": "a"}, {"id": "b", "embedding": [1, 2]}])
        async with serving(create_app(store=store)) as client:
            rows = await lines_of(client, "/tables/t/records")
            assert [row["embedding"] for row in rows] == [None, [1, 2]]
            found = await client.ok("POST", "/tables/t/get", json={"ids": ["a", "b"]})
            assert [row.get("embedding") for row in found["records"]] == [None, [1, 2]]


class _Connection:
    """An ASGI connection whose client reads as slowly as the test wants."""

    def __init__(self, app: Any, path: str) -> None:
        self.parts: list[bytes] = []
        self.whole = False
        self.may_read = asyncio.Semaphore(0)
        self.gone = asyncio.Event()
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "headers": [(b"host", b"localhost:4002")],
            "client": ("127.0.0.1", 1), "server": ("localhost", 4002), "state": {},
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await self.may_read.acquire()
            self.parts.append(message.get("body", b""))
            self.whole = not message.get("more_body", False)


async def test_a_slow_client_is_waited_for_and_one_that_goes_ends_the_export(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = 0
    ended = asyncio.Event()
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", aiovec.Schema(8))
        await store.insert(
            "t", {"id": [str(n) for n in range(5000)], "embedding": np.ones((5000, 8), np.float32)}
        )
        export = store.export

        async def counted(*args: Any, **options: Any) -> AsyncIterator[pa.RecordBatch]:
            nonlocal batches
            try:
                async for batch in export(*args, batch_size=50, **options):
                    batches += 1
                    yield batch
            finally:
                ended.set()

        monkeypatch.setattr(store, "export", counted)
        app = create_app(store=store)
        connection = _Connection(app, "/tables/t/records")
        for reads in (0, 1, 5):
            for _ in range(reads):
                connection.may_read.release()
            await asyncio.sleep(0.2)
            assert batches <= len(connection.parts) + 3
        connection.gone.set()
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.wait([connection.task], timeout=10)
        assert connection.task.done()
        assert batches < 20
        await store.insert("t", [{"id": "after", "embedding": [1] * 8}])


async def test_an_error_in_the_midst_of_an_export_breaks_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", aiovec.Schema(1))
        await store.insert("t", [{"id": str(n), "embedding": [1]} for n in range(9)])
        export = store.export

        async def failing(*args: Any, **options: Any) -> AsyncIterator[pa.RecordBatch]:
            async for batch in export(*args, batch_size=2, **options):
                yield batch
                raise aiovec.CorruptStoreError("/secret", "damaged")

        monkeypatch.setattr(store, "export", failing)
        connection = _Connection(create_app(store=store), "/tables/t/records")
        for _ in range(9):
            connection.may_read.release()
        await asyncio.wait([connection.task], timeout=10)
        assert connection.task.done()
        assert connection.parts
        assert not connection.whole
        assert b"secret" not in b"".join(connection.parts)


@pytest.mark.parametrize("depth", [33, 90, 99])
async def test_payloads_as_deep_as_a_row_may_have_come_back_in_every_form(depth: int) -> None:
    deep: Any = 1
    for n in range(depth):
        deep = [deep] if n % 40 else {"k": deep}
    lists: Any = "x"
    for _ in range(depth):
        lists = [lists]
    async with notes() as client:
        row = {"id": "deep", "embedding": [1, 0, 0], "deep": deep, "lists": lists}
        await client.ok("POST", "/tables/notes/records", json=[row])
        for path, body in (
            ("get", {"ids": ["deep"]}),
            ("search", {"vector": [1, 0, 0], "filter": "id = 'deep'"}),
        ):
            found = await client.ok("POST", f"/tables/notes/{path}", json=body)
            (one,) = found.get("records") or [hit["fields"] for hit in found["hits"]]
            assert (one["deep"], one["lists"]) == (deep, lists)
            answer = await client.post(
                f"/tables/notes/{path}", json=body, headers={"accept": ARROW["content-type"]}
            )
            (one,) = pa.ipc.open_stream(answer.content).read_all().to_pylist()
            assert (json.loads(one["deep"]), json.loads(one["lists"])) == (deep, lists)
        rows = await lines_of(client, "/tables/notes/records?filter=id%20%3D%20%27deep%27")
        assert rows[0]["lists"] == lists


def plain(value: Any) -> Any:
    """The value with lists in the place of arrays."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [
            plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)
        ]
    return value


@pytest.mark.parametrize("seed", range(8))
def test_a_long_list_of_vectors_in_pieces_is_the_same_as_at_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_json, "PIECE", 90)
    rng = random.Random(seed)

    def vector() -> Any:
        return rng.choice(
            [[rng.random() for _ in range(rng.choice([3, 20]))], "],[", hostile_row(rng), [[], [1]]]
        )

    for _ in range(40):
        body: dict[str, Any] = {"topK": 3} if rng.random() < 0.3 else {}
        if rng.random() < 0.1:
            body["query"] = 'a "vectors": [ [1],[2'
        body["vectors"] = [vector() for _ in range(rng.randrange(30))]
        if rng.random() < 0.5:
            body["filter"] = ["],[", hostile_row(rng), [[1], [2]]]
        separators = rng.choice([(",", ":"), (", ", " : "), (",\n", ":")])
        text = json.dumps(body, separators=separators).encode()
        assert plain(pieces.load_large(bytearray(text))) == body
        for _ in range(5):
            damaged = bytearray(text)
            place = rng.randrange(len(damaged))
            damaged[place : place + rng.randrange(2)] = rng.choice(
                [b"]", b"[", b'"', b",", b"}", b""]
            )
            try:
                wanted = json.loads(damaged)
            except ValueError:
                with pytest.raises(RequestError):
                    pieces.load_large(damaged)
            else:
                assert plain(pieces.load_large(damaged)) == wanted


# As many values as fit into a few bytes: what holds up the threads of a process while it is read.
MANY = b"[" + b",".join([b"[]"] * 300_000) + b"]"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("search", b'{"vector":%b}'),
        ("update", b'{"ids":["note-1"],"set":{"a":%b}}'),
        ("get", b'{"ids":%b}'),
        ("search_many", b'{"vectors":[[1,0,0]],"filter":%b}'),
        ("records", b'[{"id":"x","embedding":[1,0,0],"a":%b}]'),
        ("records", b'[{"id":"x","embedding":[1,0,0],"a":%b},{"id":"y"}]'),
        ("records", b"%b"),
    ],
)
async def test_what_a_parser_would_take_long_for_is_refused(path: str, body: bytes) -> None:
    async with notes() as client:
        answer = await client.problem(
            "POST", f"/tables/notes/{path}", 413, content=body % MANY, headers=JSON
        )
        assert "than can be read at once" in answer["detail"]
        if body.startswith(b"[{"):
            line = (body % MANY)[1:-1].partition(b"},{")[0]
            await client.problem("POST", "/tables/notes/records", 413, content=line, headers=LINES)
        assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


async def test_calls_of_remote_backends_are_refused_alike() -> None:
    async with notes() as client:
        headers = {**JSON, "aiovec-protocol": "1"}
        for body in (b'{"ids":%b}', b'{"ids":[]}\n["ids",%b]'):
            answer = await client.problem(
                "POST", "/backend/get", 413, content=body % MANY, headers=headers
            )
            assert "too large to be read at once" in answer["detail"]


async def test_rows_that_hold_far_more_than_their_vectors_are_refused() -> None:
    """Each is read quickly, and all of them would fill the memory."""
    row = b'{"id":"x","embedding":[1,0,0],"a":[' + b",".join([b"[]"] * 20_000) + b"]}"
    rows = [row] * 12
    settings = ServerSettings(max_rows=2000)
    async with notes(settings=settings) as client:
        for many, kind in (
            (b"[%b]" % b",".join(rows), JSON),
            (b"\n".join(rows), LINES),
        ):
            answer = await client.problem(
                "POST", "/tables/notes/records", 413, content=many, headers=kind
            )
            assert "too many values" in answer["detail"]
        assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 300_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
async def test_a_long_row_before_many_short_ones(size: int) -> None:
    """The short ones are too many to be read at once with the long one."""
    long = [
        {"id": "long", "text": ('"},{' + "x" * 45) * (size // 50)},
        {"id": "b", "a": [[], {"b": "},"}]},
    ]
    rows = [*long, *({"id": str(n), "a": [[]] * 4} for n in range(40_000)), *long]
    text = json.dumps(rows, separators=(",", ":")).encode()
    assert await rows_in(parts_of(text, 65536), JsonArray()) == rows
    assert await rows_in(parts_of(text, len(text)), JsonArray()) == rows


def test_long_lists_of_ids_are_read_in_pieces() -> None:
    ids = [f'note-{n}",' for n in range(60_000)]
    texts = ["é😀" * (n % 3) for n in range(60_000)]
    for value in (
        {"ids": ids, "set": {"ids": [1, 2], "vectors": [[1]]}},
        {"set": {"ids": ids[:9]}, "filter": "TRUE", "ids": ids},
        {"vectors": [[0.5] * 20] * 9000, "ids": ids},
        {"texts": texts, "filter": [None, "a = 1"] * 30_000},
    ):
        text = json.dumps(value).encode()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(large_json, "PIECE", 4000)
            patch.setattr(large_json, "MOST_WORK", 8000)
            assert plain(pieces.load_large(bytearray(text))) == value


def test_vectors_that_stand_elsewhere_are_left_to_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large_json, "PIECE", 20)
    many = ",".join(["[1.5,2.5,3.5]"] * 20)
    for text in (
        f'{{"a":{{"vectors":[{many}]}}}}',
        f'[{{"vectors":[{many}]}}]',
        f'{{"vectors":[{many}],"a":"\\"vectors\\":["}}',
    ):
        assert pieces.load_large(bytearray(text.encode())) == json.loads(text)
    for text in (
        f'{{"vectors":[{many},]}}', f'{{"vectors":[{many}]', f'"vectors":[{many}]',
        f'{{"vectors":[{many}],"vectors":[[1]]}}', f'{{"vectors":[{many}],"\\u0076ectors":5}}',
    ):  # fmt: skip
        with pytest.raises(RequestError):
            pieces.load_large(bytearray(text.encode()))
