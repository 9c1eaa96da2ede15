"""A store over HTTP as an app and a command line use it, and calls that no client would make."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pytest
from tests.contract.remote_server import Server, running_server
from tests.remote.fake import fake_server

import aiovec
import aiovec.sync
from aiovec import Field, Schema
from aiovec._cli import main
from aiovec.backend import (
    ARROW,
    JSON,
    PROTOCOL,
    PROTOCOL_HEADER,
    Message,
    ServedCalls,
    WireError,
    pack,
    unpack,
)
from aiovec.errors import AiovecError, ConfigError, InvalidArgumentError, UnsupportedError

SCHEMA = Schema(2, fields={"year": int, "body": Field(str, text=True), "tags": list[str]})
ROWS: list[dict[str, Any]] = [
    {"id": "a", "embedding": [1, 0], "year": 1, "body": "some words", "more": {"x": 1}},
    {"id": "b", "embedding": [0, 1], "year": 2, "body": "other words", "tags": ["t"]},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def url(server: Server, tmp_path: Path) -> Iterator[str]:
    yield server.url("sqlite", tmp_path)
    server.forget()


@pytest.fixture
async def notes(url: str) -> AsyncIterator[aiovec.VectorStore]:
    async with aiovec.connect(url) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", ROWS)
        yield store


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["aiovec", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert int(ended.value.code or 0) == code, captured.err
        return captured.out + captured.err

    return run


def test_a_migration_to_a_server_and_from_it(url: str, tmp_path: Path, run: Run) -> None:
    for path in ("here.db", "there.db"):
        with aiovec.sync.connect(tmp_path / path):
            pass
    with aiovec.sync.connect(tmp_path / "here.db") as store:
        store.create_table("notes", SCHEMA)
        store.insert("notes", ROWS)
    sides = [str(tmp_path / "here.db"), url, str(tmp_path / "there.db")]
    for n, (source, target) in enumerate(itertools.pairwise(sides)):
        told = run(
            "migrate", "run", "--from", source, "--to", target, "--journal", tmp_path / f"j{n}"
        )
        assert "every row is equal" in told
    with aiovec.sync.connect(tmp_path / "there.db") as store:
        assert [row["id"] for row in store.find("notes")] == ["a", "b"]


def test_the_commands(url: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "schema.json").write_text(SCHEMA.to_json())
    run("import", "rows.jsonl", url, "--table", "notes", "--schema", "schema.json")
    assert "notes" in run("tables", url)
    assert "some words" in run("rows", url, "notes")
    assert "other words" in run("search", url, "notes", "other", "--text")
    run("export", url, "notes", "out.parquet")
    run("import", "out.parquet", url, "--table", "again")
    assert json.loads(run("info", url, "--json"))["backend"] == "remote"
    assert "server's backend" in run("doctor", url)
    run("optimize", url, "notes")
    assert "does not support 'backup'" in run("backup", url, "copy.db", code=1)


def test_without_async(url: str) -> None:
    with aiovec.sync.connect(url) as store:
        store.create_table("notes", SCHEMA)
        assert store.insert("notes", ROWS) == 2
        assert [hit.id for hit in store.search("notes", [1.0, 0.0])] == ["a", "b"]
        assert sum(batch.num_rows for batch in store.export("notes")) == 2


async def test_for_reading_only(notes: aiovec.VectorStore) -> None:
    async with aiovec.connect(notes.target, read_only=True) as store:
        assert store.read_only
        assert await store.count("notes") == 2
        with pytest.raises(UnsupportedError, match="read_only"):
            await store.delete("notes", "a")


@pytest.mark.parametrize("backend", ["remote", "lancedb"])
async def test_by_the_toml_file_with_a_key_of_the_environment(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__API_KEY", "k3y-of-the-environment")
    file = tmp_path / "aiovec.toml"
    async with fake_server() as fake:
        file.write_text(f'[retrieval]\nbackend = "{backend}"\n{backend}_url = "{fake.url}"\n')
        async with aiovec.connect(config=file) as store:
            assert (store.backend_name, store.target) == ("remote", fake.url)
        assert fake.requests[0].headers["authorization"] == "Bearer k3y-of-the-environment"


async def test_another_client_changes_the_table(notes: aiovec.VectorStore) -> None:
    async with aiovec.connect(notes.target) as other:
        await other.add_field("notes", "lang", str)
        assert await notes.update("notes", {"lang": "de"}, ids=["a"]) == 1
        await other.drop_table("notes")
        with pytest.raises(aiovec.TableNotFoundError):
            await notes.search("notes", [1.0, 0.0])
        await other.create_table("notes", Schema(3))
        with pytest.raises(aiovec.DimensionMismatchError):
            await notes.search("notes", [1.0, 0.0])


async def test_a_server_that_stops_and_comes_back(tmp_path: Path) -> None:
    """Reads wait for it; a store that was opened before goes on."""

    def begin() -> tuple[Any, Server]:
        running = running_server()
        return running, running.__enter__()

    running, first = await asyncio.to_thread(begin)
    try:
        store = await aiovec.connect(first.url("sqlite", tmp_path))
        await store.create_table("notes", SCHEMA)
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
    try:
        store._follower.engine.backend._client.settings = (  # type: ignore[attr-defined]
            store._follower.engine.backend._client.settings.model_copy(  # type: ignore[attr-defined]
                update={"reconnect_timeout": 0.2}
            )
        )
        with pytest.raises(AiovecError, match="no server answers"):
            await store.tables()
    finally:
        await store.close()


# Calls that no client would make


async def _asked(
    session: aiohttp.ClientSession, url: str, call: str, body: bytes, kind: str = JSON
) -> tuple[int, str, str]:
    headers = {PROTOCOL_HEADER: PROTOCOL, "Content-Type": kind}
    async with session.post(f"{url}/backend/{call}", data=body, headers=headers) as answer:
        return answer.status, answer.content_type, await answer.text("utf-8", "replace")


_HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1.5, "", "x", "\0", "\ud800", "../..", "notes' --", [], [[]], [None],
    ["a", "a"], ["\ud800"], {}, {"x": {}}, {"fields": [1]}, {"fields": ["nosuch"]},
    {"fields": ["year", "year"], "payload": True, "vector": True}, "a" * 5_000, [[["payload"], 1]],
    [["payload", ""]], [["payload", *["k"] * 500]], ["payload"], ["id", "x"], ["payload", "\ud800"],
    {"name": "k", "digest": "zz"}, {"nprobes": -1}, {"recall": "x"}, {"$time": "x"},
)  # fmt: skip
_NAMES = (
    "table", "state", "ids", "where", "columns", "limit", "offset", "orderBy", "kinds", "which",
    "field", "name", "new", "kind", "values", "payload", "clauses", "highlight", "any", "options",
    "wait", "version", "batchSize", "after", "schema", "key", "skipExisting", "write",
)  # fmt: skip


async def test_facts_that_no_client_sends(notes: aiovec.VectorStore) -> None:
    """Each fact of each call in turn is something else: an error of the caller, never of ours."""
    handle = await notes._follower.engine.backend.open_table("notes")
    columns = {"fields": ["year"], "payload": False, "vector": False}
    sound: dict[str, Any] = {
        "table": "notes", "state": handle.token, "ids": ["a"], "where": "year > 0", "limit": 1,
        "columns": columns, "offset": 0, "orderBy": [[["id"], False]], "which": [0],
        "kinds": [{"limit": 1, "where": None, "exact": False, "tuning": None}], "field": ["year"],
        "values": {"year": 1}, "payload": "[]", "clauses": [["words", None, False, False]],
        "highlight": None, "any": False, "batchSize": 10, "after": None, "skipExisting": True,
    }  # fmt: skip
    table = pa.table({SCHEMA.vector: pa.array([[1, 0]], pa.list_(pa.float32(), 2))})
    taken = {
        "get": "ids columns", "find": "columns limit offset orderBy", "search": "kinds which",
        "search_text": "clauses highlight any limit where", "count": "table state where key",
        "value_counts": "field limit", "bounds": "field", "export": "batchSize after columns state",
        "delete": "ids where", "update": "values payload ids", "set_vectors": "ids",
        "insert": "skipExisting", "open_table": "table",
    }  # fmt: skip
    async with aiohttp.ClientSession() as session:
        for call, names in taken.items():
            for name, value in itertools.product(names.split(), _HOSTILE):
                facts = {**sound, name: value}
                rows = table if call in ("search", "set_vectors", "insert") else None
                body = json.dumps(facts).encode()
                kind = JSON
                if rows is not None:
                    try:
                        kind, packed = pack(Message(facts, rows))
                    except UnicodeEncodeError:
                        continue
                    body = bytes(packed)
                status, _, text = await _asked(session, notes.target, call, body, kind)
                assert status in (200, 400, 404, 412, 422), (call, name, value, status, text)
                assert status == 200 or "Traceback" not in text
    assert await notes.tables() == ["notes"]
    assert (await notes.schema("notes")) == SCHEMA


async def test_changes_of_payloads_that_no_client_sends(notes: aiovec.VectorStore) -> None:
    handle = await notes._follower.engine.backend.open_table("notes")
    bad: tuple[str, ...] = (
        "5", '{"a": 1}', "[[[", "[" * 100_000, "[[[1], 1]]", "[[]]", '[["a", 1]]',
        '[[["a"], 1, 2]]', '[[["a"], 1], [["a"], 2]]', '[[["a"], 1], [["a", "b"], 2]]',
        '[[["a"], NaN]]', '[[["a"], %s]]' % ("9" * 5_000), '[[["year"], 1]]',
        '[[["a"], %s]]' % ("[" * 900 + "]" * 900), json.dumps([[["a"] * 50_000, 1]]),
        json.dumps([[["a"] * 50_000]]), '[[["a"], "\\ud800"]]', '[[["\\ud800"], 1]]',
    )  # fmt: skip
    before = await notes.find("notes")
    async with aiohttp.ClientSession() as session:
        for changes in bad:
            facts = {"table": "notes", "state": handle.token, "ids": ["a", "b"], "values": {}}
            body = json.dumps({**facts, "payload": changes}).encode()
            status, _, text = await _asked(session, notes.target, "update", body)
            assert status == 422, (changes[:60], status, text)
            assert len(text) < 10_000
    assert await notes.find("notes") == before


async def test_calls_that_change_tables_with_other_facts(notes: aiovec.VectorStore) -> None:
    calls = ("create_table", "rename_table", "drop_table", "add_field", "create_field_index",
             "drop_field_index", "drop_field", "rename_field", "create_index", "drop_index",
             "restore", "cancel", "kept", "nosuch", "../tables", "", "__init__")  # fmt: skip
    handle = await notes._follower.engine.backend.open_table("notes")
    async with aiohttp.ClientSession() as session:
        for call, value in itertools.product(calls, _HOSTILE):
            facts = {name: value for name in _NAMES if name not in ("state", "table", "key")}
            body = json.dumps({**facts, "state": handle.token, "table": "notes"}).encode()
            if call == "rename_table" and value == "x":
                continue  # a name like any other
            if call == "drop_table":
                body = json.dumps({"table": value}).encode()
            status, _, text = await _asked(session, notes.target, call, body)
            expected = (200, 400, 404, 405, 409, 412, 422)
            assert status in expected, (call, value, status, text)
    assert [row["id"] for row in await notes.find("notes")] == ["a", "b"]


async def test_bodies_that_no_client_sends(notes: aiovec.VectorStore) -> None:
    kind, good = pack(Message({"table": "notes", "state": "s"}, pa.table({"id": ["x"]})))
    bodies = [
        (b"", JSON), (b"[]", JSON), (b"[" * 100_000, JSON), (b"\xff", JSON), (b"{}", "text/html"),
        (b"", ARROW), (b"x" * 100, ARROW), (b"{}", ""), (b'{"a": {"$time": "never"}}', JSON),
        *((bytes(good)[:end], kind) for end in range(0, len(good), 50)),
    ]  # fmt: skip
    async with aiohttp.ClientSession() as session:
        for call, (body, of) in itertools.product(("insert", "search", "export", "tables"), bodies):
            status, _, text = await _asked(session, notes.target, call, body, of)
            assert status in (200, 400, 412, 422), (call, body[:40], status, text)
        headers = {PROTOCOL_HEADER: PROTOCOL, "Idempotency-Key": "k" * 201}
        async with session.post(f"{notes.target}/backend/open", headers=headers) as answer:
            assert answer.status == 400
        headers = {PROTOCOL_HEADER: "999"}
        async with session.post(f"{notes.target}/backend/open", headers=headers) as answer:
            assert answer.status == 426
            assert "999" in await answer.text()


async def test_rows_that_no_client_sends(notes: aiovec.VectorStore) -> None:
    """The server checks rows by itself: a client may be anybody's."""
    handle = await notes._follower.engine.backend.open_table("notes")
    good = notes._follower.engine.backend
    vector = pa.array([[1, 0]], pa.list_(pa.float32(), 2))
    bad = [
        pa.table({"id": ["x"]}),
        pa.table({"id": ["x"], SCHEMA.vector: [[1.0, 2.0, 3.0]]}),
        pa.table({"id": ["x"], SCHEMA.vector: [[float("nan"), 1.0]]}),
        pa.table({"id": ["x\0"], SCHEMA.vector: vector}),
        pa.table({"id": [""], SCHEMA.vector: vector}),
        pa.table({"id": ["x"], SCHEMA.vector: vector, "year": ["no number"]}),
        pa.table({"id": ["x"], SCHEMA.vector: vector, "payload": ["[1]"]}),
        pa.table({"id": ["x", "x"], SCHEMA.vector: pa.concat_arrays([vector, vector])}),
    ]
    for rows in bad:
        with pytest.raises(AiovecError) as caught:
            await good.insert(handle, rows)
        assert isinstance(caught.value, ValueError), caught.value
    assert await notes.count("notes") == 2


async def test_every_call_of_the_backend_is_served(notes: aiovec.VectorStore) -> None:
    served = ServedCalls(notes)
    for call in ("open", "insert", "search", "cancel", "kept", "restore"):
        assert served.knows(call)
    assert not served.knows("export")
    assert not served.knows("_open")


_FORKING = """
import asyncio, gc, os, sys
import aiovec
from aiovec.errors import StoreClosedError

store = loop = None

async def main():
    global store, loop
    loop = asyncio.get_running_loop()
    store = await aiovec.connect(sys.argv[1])
    await store.tables()

def in_child():
    global store
    async def use():
        try:
            await store.tables()
        except StoreClosedError as exc:
            assert "forked" in str(exc)
            await store.close()
        else:
            raise AssertionError
    asyncio.run(use())
    if sys.argv[2] == "connector":  # in a cycle, the collector may begin with any of them
        store._follower.engine.backend._client._connections._value.session.connector.__del__()
    store = None
    gc.collect()

runner = asyncio.Runner()
runner.run(main())
child = os.fork()
if not child:
    asyncio.set_event_loop(None)
    loop.close = lambda: None  # at the end; it would take the parent's files out of their epoll
    in_child()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
connections = store._follower.engine.backend._client._connections._value
pool = connections.session.connector._conns
before = [protocol for kept in pool.values() for protocol, _ in kept]
assert len(before) == 1 and before[0].is_connected()

async def after():
    try:
        async with asyncio.timeout(10):
            assert await store.tables() == []
    except TimeoutError:
        with open(f"/proc/self/fdinfo/{loop._selector.fileno()}") as watched:
            raise AssertionError(f"{before} of {watched.read()}")
    connector = connections.session.connector
    assert [protocol for kept in connector._conns.values() for protocol, _ in kept] == before
    await store.close()

runner.run(after())
runner.close()
print("went on")
"""


_LEFT_OPEN = {
    "sync": "store = aiovec.sync.connect(sys.argv[1])\nprint(store.tables())",
    "async": (
        "async def main():\n"
        "    global store\n"
        "    store = await aiovec.connect(sys.argv[1])\n"
        "    print(await store.tables())\n"
        "asyncio.run(main())"
    ),
}


@pytest.mark.parametrize("script", list(_LEFT_OPEN))
def test_a_script_that_never_closes_its_store_ends_in_silence(url: str, script: str) -> None:
    code = f"import asyncio, sys, aiovec, aiovec.sync\n{_LEFT_OPEN[script]}"
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_long_lists_go_in_parts() -> None:
    """A parser of JSON holds up the event loop, also from another thread."""
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    counts = [[f"text {n}", n] for n in range(12_345)] + [[moment, 1], ["\n", 2]]
    for rows in (None, pa.table({"id": ["a"]})):
        facts = {"before": 1, "counts": counts, "ids": ["x"] * 5001, "few": [1], "after": None}
        asked = Message(facts, rows)
        kind, data = pack(asked)
        read = unpack(kind, data)
        assert read.facts == facts
        assert (read.rows is None) == (rows is None)
    lines = bytes(pack(Message({"counts": counts, "ids": ["x"]}))[1]).split(b"\n")
    assert [json.loads(line)[0] for line in lines[1:]] == ["counts"] * 50
    assert max(map(len, lines)) < 10_000
    assert json.loads(lines[0]) == {"counts": [], "ids": ["x"]}


async def test_ids_of_any_signs(notes: aiovec.VectorStore) -> None:
    """The server counts the marks of a call to know how long a parser would take for it."""
    ids = [f"{n:05d}" + "[" * 507 for n in range(3000)]
    assert await notes.delete("notes", [*ids, "a"]) == 1
    assert await notes.exists("notes", [*ids, "b"]) == {"b"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"ids":[]}\n["ids"]',
        b'{"ids":[]}\n["ids",{}]',
        b'{"ids":[]}\n["id",[]]',
        b'{"ids":1}\n["ids",[]]',
        b'{"ids":[]}\n[1,[]]',
        b'{"ids":[]}\n["ids",[]]\n',
        b'{"ids":[]}\n\n["ids",[]]',
        b'{"ids":[]}\n{"ids":["a"]}',
        b'[]\n["ids",[]]',
        b'["ids",[]]',
        b"\n" * 1_000_000,
        b"",
    ],
)
def test_parts_of_no_list(body: bytes) -> None:
    with pytest.raises(WireError):
        unpack(JSON, body)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("first", ["client", "connector"])
def test_a_fork_leaves_the_parents_connections(url: str, first: str) -> None:
    """Whichever of them a forked child collects first."""
    ended = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", _FORKING, url, first],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "went on\n"), ended.stderr
    assert "Unclosed" not in ended.stderr


async def test_the_metrics_know_the_calls_apart(notes: aiovec.VectorStore) -> None:
    await notes.search("notes", [1.0, 0.0])
    async with aiohttp.ClientSession() as session:
        await _asked(session, notes.target, "nosuch", b"{}")
        async with session.get(f"{notes.target}/metrics") as answer:
            told = await answer.text()
    assert 'route="/backend/search"' in told
    assert 'route="/backend/insert"' in told
    assert "nosuch" not in told


def test_an_address_where_nothing_is_served(url: str) -> None:
    root = url.rsplit("/", 1)[0]
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{root}/sqlite-zz/health", timeout=30)


async def test_a_store_needs_a_whole_address() -> None:
    with pytest.raises(ConfigError):
        await aiovec.connect("http://")


def test_a_loop_whose_first_call_is_an_export_closes_its_connections(url: str) -> None:
    async def begun() -> aiovec.VectorStore:
        store = await aiovec.connect(url)
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", ROWS)
        return store

    async def exported() -> None:
        assert [len(batch) async for batch in store.export("notes")] == [2]
        sessions.append(store._follower.engine.backend._client._connections().session)

    sessions: list[aiohttp.ClientSession] = []
    store = asyncio.run(begun())
    for _ in range(2):
        asyncio.run(exported())
    assert [session.closed for session in sessions] == [True, True]
    asyncio.run(store.close())


@pytest.mark.slow
async def test_large_texts_travel_whatever_stands_in_them(notes: aiovec.VectorStore) -> None:
    """Commas and brackets of a text are no work for a parser of JSON."""
    text = "[a], {b: 1}, " * 100_000 + '\\"' * 10_000
    assert await notes.update("notes", {"body": text, "more": text}, ids=["a"]) == 1
    (record,) = await notes.get("notes", "a")
    assert record["body"] == record["more"] == text
    assert await notes.count("notes", aiovec.F.body == text) == 1
    many = [aiovec.F.body.in_([text[n : n + 40_000], "other words"]) for n in range(300)]
    found = await notes.search_many("notes", [[1, 0]] * 300, where=many, select=[])
    assert [[hit.id for hit in hits] for hits in found] == [["b"]] * 300
    with pytest.raises(InvalidArgumentError, match="too large to be read at once; insert"):
        await notes.update("notes", {"tags": ["x"] * 500_000}, ids=["a"])
