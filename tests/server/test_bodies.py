"""Request bodies with rows as JSON, lines and Arrow, and exports of many rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pyarrow as pa
from tests.harness.handovers import counted_handovers
from tests.harness.waiting import until
from tests.server.apps import ARROW, JSON, LINES, Client, Connection, Wrapped, ipc, notes, serving

import aiovec
from aiovec_server import create_app

RECORDS = "/tables/notes/records"


def vectors(count: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ones(3 * count, np.float32)), 3)


async def test_each_kind_of_body_is_stored_whole_or_refused_whole() -> None:
    matrix = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    rows: list[dict[str, Any]] = [
        {"id": str(n), "embedding": vector, "year": n, "body": "},{" * (n % 5)}
        for n, vector in enumerate(matrix.tolist())
    ]

    def arrow(rows: list[dict[str, Any]]) -> bytes:
        kinds = {"embedding": pa.list_(pa.float32()), "year": pa.float64()}
        names = ("id", "embedding", "year", "body")
        return ipc(pa.table({
            name: pa.array([row[name] for row in rows], kinds.get(name)) for name in names
        }))  # fmt: skip

    kinds: list[tuple[Any, dict[str, str]]] = [
        (lambda rows: json.dumps(rows), JSON),
        (lambda rows: "\r\n".join(map(json.dumps, rows)) + "\n\n", LINES),
        (arrow, ARROW),
    ]
    bad = {"id": "x", "embedding": [1.0] * 16, "year": 1.5, "body": ""}
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        for encode, headers in kinds:
            await store.create_table("notes", aiovec.Schema(16, fields={"year": int}))
            # Although most rows are good, none is kept.
            body = encode([*rows, bad])
            document = await client.problem("POST", RECORDS, 422, content=body, headers=headers)
            facts = document["facts"]
            assert (facts["row"], facts["id"], facts["field"]) == (500, "x", "year")
            assert await store.count("notes") == 0
            body = encode(rows)
            document = await client.ok("POST", RECORDS, content=body, headers=headers)
            assert document == {"count": 500}
            await client.problem("POST", RECORDS, 409, content=body, headers=headers)
            (row,) = await store.get("notes", ["123"])
            assert (row["year"], row["body"]) == (123, "},{" * 3)
            assert row.vector is not None
            assert np.array_equal(row.vector, matrix[123])
            await store.drop_table("notes")


async def test_a_json_body_above_8_mib_is_refused_and_lines_may_be_longer() -> None:
    row = json.dumps({"id": "long", "embedding": [1, 0, 0], "text": "x" * 2**20})
    rows = [row.replace("long", f"long-{n}") for n in range(9)]
    async with notes() as client:
        document = await client.problem(
            "POST", RECORDS, 413, content=f"[{','.join(rows)}]", headers=JSON
        )
        assert LINES["content-type"] in document["detail"]
        assert ARROW["content-type"] in document["detail"]
        assert await client.ok("GET", "/tables/notes/count") == {"count": 5}
        lines = "\n".join(rows)
        assert await client.ok("POST", RECORDS, content=lines, headers=LINES) == {"count": 9}
        many = f'{{"vector": [{"[]," * 500_000}[]]}}'
        await client.problem("POST", "/tables/notes/search", 413, content=many, headers=JSON)


async def test_a_number_beyond_float64_is_refused() -> None:
    """It would become an infinity, which JSON has no number for."""
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        await store.create_table("notes", aiovec.Schema(2, fields={"f": float, "lf": list[float]}))
        for name, number in (("f", "1e400"), ("f", "-1e999"), ("lf", "[0.5, 1e400]")):
            row = f'{{"id": "a", "embedding": [1, 0], "{name}": {number}}}'
            change = f'{{"set": {{"{name}": {number}}}, "where": "TRUE"}}'
            for path, headers, body in (
                ("records", JSON, f"[{row}]"), ("records", LINES, row), ("update", JSON, change),
            ):  # fmt: skip
                url = f"/tables/notes/{path}"
                await client.problem("POST", url, 422, content=body, headers=headers)
        assert await store.count("notes") == 0


async def test_a_repeated_key_is_refused_at_every_depth_size_and_spelling() -> None:
    """The last one would win, and most of these delete every row."""
    many = json.dumps([f"note-{n}" for n in range(20_000)])
    spaces = " " * 70_000
    row = '{"id": "a", "embedding": [1, 0, 0], "meta": {"k": 1, "k": 2}}'
    async with notes() as client:
        for method, path, text in (
            ("DELETE", "records", '{"where": "year = 1", "where": "TRUE"}'),
            ("DELETE", "records", r'{"where": "year = 1", "wher\u0065": "TRUE"}'),
            ("DELETE", "records", rf'{{"where": "year = 1",{spaces} "wh\u0065re": "TRUE"}}'),
            # As many colons as the values that are left have.
            (
                "DELETE",
                "records",
                r'{"where": "year = 1", "wh\u0065re": "body != \u0027\u003A\u0027"}',
            ),
            ("DELETE", "records", f'{{"where": "year = 1", "ids": {many}, "where": "TRUE"}}'),
            ("DELETE", "records", f'{{"ids": {many}, "ids": ["note-1"]}}'),
            ("POST", "update", '{"set": {"year": 1, "body": "b", "year": 2}, "where": "TRUE"}'),
            ("POST", "update", f'{{"set": {{"year": 1,{spaces} "year": 2}}, "where": "TRUE"}}'),
            ("POST", "records", f"[{row}]"),
        ):
            problem = await client.problem(
                method, f"/tables/notes/{path}", 422, content=text, headers=JSON
            )
            assert "twice" in problem["detail"], text[:100]
        lines = '{"id": "b", "embedding": [1, 0, 0]}\n' + row
        problem = await client.problem("POST", RECORDS, 422, content=lines, headers=LINES)
        assert problem["detail"] == "line 2 has the key 'k' twice in one object; send it once"
        assert await client.ok("GET", "/tables/notes/count") == {"count": 5}
        # Colons, also as escapes, and names of arguments, in values.
        body = {"ids": ["where", "a:b", *json.loads(many)], "where": "body != 'x:\"where\": 1'"}
        text = json.dumps(body).replace("a:b", r"a\u003ab\\u003ab")
        document = await client.ok("DELETE", RECORDS, content=text, headers=JSON)
        assert document == {"deleted": 5}


async def test_an_arrow_body_that_repeats_an_argument_is_refused() -> None:
    ids = [pa.array(["note-0"]), pa.array(["note-1"])]
    where = [(b"aiovec.body", b'{"where": "year = 1"}'), (b"aiovec.body", b'{"where": "TRUE"}')]
    metadata = pa.KeyValueMetadata(where)
    async with notes() as client:
        for table in (
            pa.table(ids, names=["ids", "ids"]),
            pa.table(ids[:1], schema=pa.schema([("ids", pa.utf8())], metadata=metadata)),
        ):
            document = await client.problem(
                "DELETE", RECORDS, 422, content=ipc(table), headers=ARROW
            )
            assert "twice" in document["detail"]
        assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


async def test_infinities_have_the_same_form_in_every_answer() -> None:
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        await store.create_table("notes", aiovec.Schema(2, fields={"f": float, "lf": list[float]}))
        inf = float("inf")
        for id, values in (("a", [inf, 1.5]), ("b", [-inf])):
            row = {"id": id, "embedding": [1, 0], "f": values[0], "lf": values}
            await store.insert("notes", [row])
        wanted = [("Infinity", ["Infinity", 1.5]), ("-Infinity", ["-Infinity"])]
        for path, body, name in (
            ("get", {"ids": ["a", "b"]}, "records"), ("find", {}, "records"),
            ("search", {"vector": [1, 0]}, "hits"),
        ):  # fmt: skip
            document = await client.ok("POST", f"/tables/notes/{path}", json=body)
            assert [(row["f"], row["lf"]) for row in document[name]] == wanted, path
        assert [(row["f"], row["lf"]) for row in await lines_of(client)] == wanted
        document = await client.ok("POST", "/tables/notes/bounds", json={"field": "f"})
        assert document == {"min": "-Infinity", "max": "Infinity"}
        document = await client.ok("POST", "/tables/notes/distinct", json={"field": "f"})
        assert sorted(each["value"] for each in document["values"]) == ["-Infinity", "Infinity"]


async def test_an_arrow_body_that_is_damaged_or_unpacks_to_more_is_refused() -> None:
    plain = pa.table({"id": ["a"], "embedding": vectors(1)})
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x" * 1000]))
    good = ipc(plain)
    bad = [
        ipc(plain, compression="zstd"),
        ipc(plain.append_column("d", pa.array(["x"]).dictionary_encode())),
        ipc(plain.append_column("r", runs)),
        b"ARROW1", good[:-30], b"\xff\xff\xff\xff" * 9, good[8:], good.replace(b"id", b"\xffd"),
        good + good, good + b"x",  # the bytes after the end would be lost
    ]  # fmt: skip
    async with notes() as client:
        for number, body in enumerate(bad):
            answer = await client.post(f"{RECORDS}?mode=upsert", content=body, headers=ARROW)
            assert answer.status_code in (400, 422), number
        offsets = pa.py_buffer(np.array([0, 2], np.int32))
        text = pa.Array.from_buffers(pa.utf8(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])
        body = ipc(pa.table({"id": ["b"], "embedding": vectors(1), "body": text}))
        document = await client.problem("POST", RECORDS, 422, content=body, headers=ARROW)
        assert "UTF-8" in document["detail"]


async def test_vectors_sent_as_arrow_are_set() -> None:
    async with notes() as client:
        path = "/tables/notes/set_vectors"
        body = ipc(pa.table({"vectors": vectors(2), "ids": ["note-0", "none"]}))
        assert await client.ok("POST", path, content=body, headers=ARROW) == {"updated": 1}


async def test_a_small_arrow_body_is_read_without_a_thread() -> None:
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        await client.ok("POST", "/tables", 201, json={"name": "notes", "schema": {"dim": 3}})
        row = pa.table({"id": ["a"], "embedding": vectors(1)})
        query = pa.table({"vectors": vectors(1)})

        async def by_arrow() -> None:
            await client.ok("POST", f"{RECORDS}?mode=upsert", content=ipc(row), headers=ARROW)
            headers = {**ARROW, "accept": ARROW["content-type"]}
            path = "/tables/notes/search_many"
            answer = await client.post(path, content=ipc(query), headers=headers)
            assert pa.ipc.open_stream(answer.content).read_all()["id"].to_pylist() == ["a"]

        async def in_the_process() -> None:
            await store.upsert("notes", row)
            assert len((await store.search_many("notes", [[1, 1, 1]]))[0]) == 1

        counts = []
        for call in (in_the_process, by_arrow, in_the_process, by_arrow):
            with counted_handovers() as handed:
                await call()
            counts.append(len(handed))
        assert counts[2] == counts[3]  # after the preparations of each kind's first call


async def lines_of(client: Client, query: str = "") -> list[Any]:
    answer = await client.get(RECORDS + query)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_an_export_continues_after_a_cursor() -> None:
    async with notes() as client:
        whole = await lines_of(client)
        assert [row["id"] for row in whole] == [f"note-{n}" for n in range(5)]
        assert (whole[1]["at"], whole[1]["kind"]) == ("2024-01-02T00:00:00Z", "x")
        lines = await lines_of(client, "?batchSize=2&cursors=true&select=year")
        assert [set(line) for line in lines if "id" in line] == [{"id", "year"}] * 5
        (first, *_) = (line["cursor"] for line in lines if "cursor" in line)
        rest = await lines_of(client, f"?after={first}&batchSize=2")
        assert [row["id"] for row in rest] == ["note-2", "note-3", "note-4"]
        filtered = await lines_of(client, "?where=year%20%3E%202022&select=embedding,payload")
        assert [set(row) for row in filtered] == [{"id", "embedding", "kind"}] * 2
        answer = await client.get(
            f"{RECORDS}?batchSize=2", headers={"accept": ARROW["content-type"]}
        )
        reader = pa.ipc.open_stream(answer.content)
        assert aiovec.Schema.from_arrow(reader.schema).dim == 3
        assert [batch.num_rows for batch in reader] == [2, 2, 1]
        # Back again.
        lines = "\n".join(json.dumps(row) for row in whole)
        await client.ok("POST", f"{RECORDS}?mode=upsert", content=lines, headers=LINES)
        assert await lines_of(client) == whole
        for query in ("after=x", "after=AAAA", "batchSize=0", "batchSize=x", "cursors=2",
                      "filter=(", "select=none", "batch_size=1"):  # fmt: skip
            await client.problem("GET", f"{RECORDS}?{query}", 422)


async def test_an_export_has_its_columns_without_rows_and_null_without_a_vector() -> None:
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        await store.create_table("notes", aiovec.Schema(2, vector_nullable=True))
        assert await lines_of(client) == []
        answer = await client.get(RECORDS, headers={"accept": ARROW["content-type"]})
        table = pa.ipc.open_stream(answer.content).read_all()
        assert (table.num_rows, table.schema.names) == (0, ["id", "embedding", "payload"])
        await store.insert("notes", [{"id": "a"}, {"id": "b", "embedding": [1, 2]}])
        assert [row["embedding"] for row in await lines_of(client)] == [None, [1, 2]]


async def test_an_export_waits_for_a_slow_client_and_ends_when_it_leaves() -> None:
    batches, ended = 0, asyncio.Event()

    async def counted(*args: Any, **options: Any) -> AsyncIterator[pa.RecordBatch]:
        nonlocal batches
        try:
            async for batch in store.export(*args, **{**options, "batch_size": 50}):
                batches += 1
                yield batch
        finally:
            ended.set()

    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(8))
        ids = [str(n) for n in range(3000)]
        await store.insert("notes", {"id": ids, "embedding": np.ones((3000, 8), np.float32)})
        app = create_app(store=Wrapped(store, export=counted))  # type: ignore[arg-type]
        connection = Connection(app, "GET", RECORDS, slow=True)
        for _ in range(4):
            connection.reads.release()
        await until(lambda: len(connection.body) == 4)
        await asyncio.sleep(0.2)  # time to run ahead
        assert batches < 12
        connection.gone.set()
        await ended.wait()
        await connection.status()
        assert batches < 12
        await store.insert("notes", [{"id": "after", "embedding": [1] * 8}])


async def test_an_error_during_an_export_cuts_the_answer_off() -> None:
    async def failing(*args: Any, **options: Any) -> AsyncIterator[pa.RecordBatch]:
        async for batch in store.export(*args, **{**options, "batch_size": 2}):
            yield batch
            raise aiovec.CorruptStoreError("/secret", "damaged")

    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(1))
        await store.insert("notes", [{"id": str(n), "embedding": [1]} for n in range(9)])
        app = create_app(store=Wrapped(store, export=failing))  # type: ignore[arg-type]
        connection = Connection(app, "GET", RECORDS)
        assert await connection.status() == 200
        assert not connection.whole
        assert b"secret" not in b"".join(connection.body)


async def test_a_patch_changes_records_by_their_own_values() -> None:
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        schema = aiovec.Schema(3, fields={"year": int, "label": str})
        await store.create_table("notes", schema)
        rows = [{"id": id, "embedding": [1, 2, 3], "year": 1, "seen": {"at": 1}} for id in "abc"]
        await store.insert("notes", rows)
        changes = [
            {"id": "a", "year": 2, "_remove": ["payload.seen.at", "gone"]},
            {"id": "b", "label": "x", "payload.seen.by": "me", "embedding": [3, 2, 1]},
            {"id": "z", "year": 2},
        ]
        for text, kind in (
            (json.dumps(changes[:1]), JSON),
            ("\n".join(map(json.dumps, changes[1:])), LINES),
            (ipc(pa.table({"id": ["c"], "year": [None], "label": ["y"]})), ARROW),
        ):
            assert await client.ok("PATCH", RECORDS, content=text, headers=kind) == {"updated": 1}
        found = await store.get("notes", ["a", "b", "c"])
        a, b, c = (dict(row.fields) for row in found)
        assert a == {"year": 2, "label": None, "seen": {}}
        assert b == {"year": 1, "label": "x", "seen": {"at": 1, "by": "me"}}
        assert c == {"year": None, "label": "y", "seen": {"at": 1}}
        assert [list(row.vector) for row in found] == [[1, 2, 3], [3, 2, 1], [1, 2, 3]]  # type: ignore[arg-type]
        both = [{"id": "a", "x": 1, "_remove": ["x"]}]
        for body in (
            both,
            [{"id": "a", "_remove": "x"}],
            [{"id": "a", "year": "x"}],
            [{"year": 1}],
        ):
            await client.problem("PATCH", RECORDS, 422, json=body)
        removing = ipc(pa.table({"id": ["a"], "_remove": [["seen"]]}))
        await client.problem("PATCH", RECORDS, 422, content=removing, headers=ARROW)
        strict = f"{RECORDS}?strict=true"
        problem = await client.problem("PATCH", strict, 422, json=changes[1:])
        assert problem["error"] == "InvalidRowError"
        assert await store.get("notes", ["a", "b", "c"]) == found
