"""Each writing call, done by a server that is killed before its answer goes out: done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.migrate.support import migrated, rolled_back, write_toml
from tests.server.process import serving
from tests.server.test_faults import PLACES, restarted

import aiovec
from aiovec import Field, Schema, VectorStore
from aiovec_migrate import Options

DIM = 4
SCHEMA = Schema(DIM, fields={"name": str, "year": int})
INDEXED = Schema(DIM, fields={"name": Field(str, index="btree"), "year": int})

Call = Callable[[VectorStore, str], Awaitable[Any]]


def rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n}", "embedding": [1.0, n, 0.5, 0.25], "name": f"n{n}", "year": n}
        for n in range(start, start + count)
    ]


VECTORS = [[2.0] * DIM] * 2

# Calls that, done a second time, would fail, or give or change something else, with what they
# return, and what another client writes before they are repeated.
CALLS: dict[str, tuple[Call, Any, Call]] = {
    "insert": (
        lambda store, table: store.insert(table, rows(3, start=20)),
        3,
        lambda store, table: store.delete(table, ["r20"]),
    ),
    "insert-skip": (
        lambda store, table: store.insert(table, rows(3, start=8), on_conflict="skip"),
        1,
        lambda store, table: store.delete(table, ["r10"]),
    ),
    "upsert": (
        lambda store, table: store.upsert(table, rows(3, start=8)),
        3,
        lambda store, table: store.update(table, {"name": "later"}, where="TRUE"),
    ),
    "update": (
        lambda store, table: store.update(table, {"name": "new", "more": 1}, where="year < 4"),
        4,
        lambda store, table: store.update(table, {"name": "later", "year": 9}, where="TRUE"),
    ),
    "set_vectors": (
        lambda store, table: store.set_vectors(table, ["r1", "r99"], VECTORS),
        1,
        lambda store, table: store.set_vectors(table, ["r1"], [[3.0] * DIM]),
    ),
    "delete": (
        lambda store, table: store.delete(table, ["r1", "r99"]),
        1,
        lambda store, table: store.upsert(table, rows(3)),
    ),
    "delete_where": (
        lambda store, table: store.delete_where(table, "year < 4"),
        4,
        lambda store, table: store.upsert(table, rows(6)),
    ),
    "create_table": (
        lambda store, table: store.create_table(f"{table}-new", SCHEMA),
        None,
        lambda store, table: store.insert(f"{table}-new", rows(2)),
    ),
    "drop_table": (
        lambda store, table: store.drop_table(table),
        None,
        lambda store, table: store.create_table(table, SCHEMA),
    ),
    "rename_table": (
        lambda store, table: store.rename_table(table, f"{table}-new"),
        None,
        lambda store, table: store.create_table(table, SCHEMA),
    ),
    "add_field": (
        lambda store, table: store.add_field(table, "lang", str),
        None,
        lambda store, table: store.update(table, {"lang": "de"}, where="TRUE"),
    ),
    "add_field-text": (
        lambda store, table: store.add_field(table, "body", Field(str, text=True)),
        None,
        lambda store, table: store.update(table, {"body": "words"}, where="TRUE"),
    ),
    "rename_field": (
        lambda store, table: store.rename_field(table, "name", "title"),
        None,
        lambda store, table: store.add_field(table, "name", str),
    ),
    "drop_field": (
        lambda store, table: store.drop_field(table, "name"),
        None,
        lambda store, table: store.add_field(table, "name", int),
    ),
    "create_field_index": (
        lambda store, table: store.create_field_index(table, "year", "btree"),
        None,
        lambda store, table: store.drop_field_index(table, "year"),
    ),
    "drop_field_index": (
        lambda store, table: store.drop_field_index(table, "name"),
        None,
        lambda store, table: store.create_field_index(table, "name", "btree"),
    ),
}
OF_LANCEDB: dict[str, tuple[Call, Any, Call]] = {
    "restore": (
        lambda store, table: store.restore(table, 1),
        None,
        lambda store, table: store.insert(table, rows(2, start=30)),
    ),
}
_HELD = {name.partition("-")[0].replace("delete_where", "delete") for name in CALLS} | {"restore"}


class HoldingProxy:
    """Passes requests on, and keeps the answers to writes for itself while it is told to."""

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._most = most
        self._answered = 0
        self.holding = False
        self.all_done = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __aenter__(self) -> HoldingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = None
        with suppress(OSError, asyncio.IncompleteReadError):
            answers, behind = await asyncio.open_connection("127.0.0.1", self._port)
            while True:
                asked = await _message(reader)
                behind.write(asked)
                answer = await _message(answers)
                call = asked.split(b" ", 2)[1].rpartition(b"/")[2].decode()
                if self.holding and call in _HELD:
                    assert answer.startswith(b"HTTP/1.1 200 "), answer
                    self._answered += 1
                    if self._answered == self._most:
                        self.all_done.set()
                    await self.let_go.wait()
                    break
                writer.write(answer)
                await writer.drain()
        for one in (behind, writer):
            if one is not None:
                one.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    sizes = [line.partition(":")[2] for line in lines if line.startswith("content-length:")]
    return head + await reader.readexactly(int(sizes[0]))


async def _made(
    store: VectorStore,
    proxy: HoldingProxy,
    calls: Mapping[str, tuple[Call, Any, Call]],
    tables: Mapping[str, str],
) -> dict[str, asyncio.Future[Any]]:
    """Make the calls; return them when the server has done all, and nobody has an answer."""
    proxy.holding = True
    made = {
        name: asyncio.ensure_future(call(store, tables[name]))
        for name, (call, _, _) in calls.items()
    }
    done = asyncio.ensure_future(proxy.all_done.wait())
    await asyncio.wait([done, *made.values()], return_when=asyncio.FIRST_COMPLETED)
    assert [name for name, one in made.items() if one.done()] == []
    return made


async def content(store: VectorStore) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in await store.tables():
        listed = await store.find(name, limit=100, include_vector=True)
        found[name] = (await store.schema(name)).to_json(), [row.to_dict() for row in listed]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
async def test_each_writing_call(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__RECONNECT_TIMEOUT", "90")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__CONNECTIONS", "64")
    target = str(tmp_path / "a.db") if place == "sqlite" else f"lancedb://{tmp_path}/a"
    calls = CALLS | (OF_LANCEDB if place == "lancedb" else {})
    tables = {name: f"t-{name.replace('_', '-')}" for name in calls}
    async with aiovec.connect(target) as store:
        for table in tables.values():
            await store.create_table(table, INDEXED)
            await store.insert(table, rows(10))
    async with (
        restarted(target) as server,
        HoldingProxy(server.served.port, len(calls)) as proxy,
        aiovec.connect(proxy.url) as store,
    ):
        made = await _made(store, proxy, calls, tables)
        port = server.served.port
        await server.kill()
        await server.start(port)
        async with aiovec.connect(server.served.url) as other:
            for name, (_, _, between) in calls.items():
                await between(other, tables[name])
            before = await content(other)
            proxy.holding = False
            proxy.let_go.set()
            found = await asyncio.gather(*made.values(), return_exceptions=True)
            assert dict(zip(made, found, strict=True)) == {
                name: outcome for name, (_, outcome, _) in calls.items()
            }
            assert await content(other) == before


# Whose rows or schema tell that they were done, so that a store to which a cut-over has led can
# give the same outcome without having their keys.
_SHOWN = tuple(name for name in CALLS if name not in ("insert-skip", "delete", "delete_where"))
_ROWS = ("insert", "upsert", "update", "set_vectors")
_SWITCH = Options(switch=True, index=False, pause_limit=60)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["there", "back"])
async def test_each_writing_call_around_a_cut_over(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that a repeat meets has neither its key nor the tables in the state it names."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__RECONNECT_TIMEOUT", "90")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__CONNECTIONS", "64")
    config = write_toml(tmp_path, "sqlite")
    # Until a migration is finished, its tables keep their schemas.
    calls = {name: CALLS[name] for name in (_ROWS if way == "back" else _SHOWN)}
    tables = {name: f"t-{name.replace('_', '-')}" for name in calls}
    async with aiovec.connect(config=config) as store:
        for table in tables.values():
            await store.create_table(table, INDEXED)
            await store.insert(table, rows(10))
    with serving("--config", str(config)) as served:
        if way == "back":
            await migrated(None, "lancedb", config=config, options=_SWITCH)
        async with (
            HoldingProxy(served.port, len(calls)) as proxy,
            aiovec.connect(proxy.url) as store,
        ):
            made = await _made(store, proxy, calls, tables)
            async with aiovec.connect(config=config) as other:
                before = await content(other)
            if way == "back":
                await rolled_back(config=config)
            else:
                await migrated(None, "lancedb", config=config, options=_SWITCH)
            proxy.holding = False
            proxy.let_go.set()
            found = await asyncio.gather(*made.values(), return_exceptions=True)
            assert dict(zip(made, found, strict=True)) == {
                name: outcome for name, (_, outcome, _) in calls.items()
            }
            assert await content(store) == before
