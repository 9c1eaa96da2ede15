"""Stores that were opened from a TOML file go on, by themselves, where its line says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import Schema, TableNotFoundError, VectorStore

from .conftest import BACKENDS, Copy, TestClient

SCHEMA = Schema(3, model="m", fields={"by": int})
_PATIENCE = 60  # what may take a second takes longer on a machine that is busy


@pytest.fixture
def toml(example: Copy) -> Copy:
    """The example's TOML file, with the table ``notes`` in the stores of both backends."""

    async def make() -> None:
        for backend in reversed(BACKENDS):
            example.flip(backend)
            async with aiovec.connect(config=example.toml) as store:
                assert store.backend_name == backend
                await store.create_table("notes", SCHEMA)

    asyncio.run(make())
    return example


def wait_for_backend(client: Any, backend: str) -> None:
    until = time.monotonic() + _PATIENCE
    while client.get("/health").json().get("backend") != backend:
        assert time.monotonic() < until, f"the app did not go over to {backend}"
        time.sleep(0.05)


async def moved(store: VectorStore, backend: str) -> None:
    """Use the store until its backend is this one."""
    async with asyncio.timeout(_PATIENCE):
        while store.backend_name != backend:
            await store.tables()
            await asyncio.sleep(0.02)


def texts(client: Any) -> list[str]:
    hits = client.post("/search", json={"text": "a note"}).json()
    return [hit["text"] for hit in hits]


def test_a_running_app_follows_the_file(example: Copy, app: Any) -> None:
    for backend in reversed(BACKENDS):
        example.flip(backend)
        with TestClient(app) as client:
            note = {"id": "1", "text": f"a note in {backend}"}
            assert client.post("/notes", json=[note]).json() == {"count": 1}
    with TestClient(app) as client:
        assert texts(client) == ["a note in sqlite"]
        for backend in ("lancedb", "sqlite"):
            example.flip(backend)
            wait_for_backend(client, backend)
            assert texts(client) == [f"a note in {backend}"]
            client.post("/notes", json=[{"id": "2", "text": f"a note in {backend}"}])
            assert client.get("/count").json() == {"count": 2}


def test_a_backend_without_the_table_is_told_until_the_app_starts_again(
    example: Copy, app: Any
) -> None:
    with TestClient(app) as client:
        client.post("/notes", json=[{"id": "1", "text": "a note"}])
        example.flip("lancedb")
        until = time.monotonic() + _PATIENCE
        while client.get("/count").status_code != 404:
            assert time.monotonic() < until, "the app did not go over"
            time.sleep(0.05)
        assert client.get("/health").status_code == 404
    with TestClient(app) as client:
        assert client.get("/count").json() == {"count": 0}
        example.flip("sqlite")
        wait_for_backend(client, "sqlite")
        assert client.get("/count").json() == {"count": 1}


async def test_no_call_fails_and_no_row_is_lost_while_the_line_is_flipped(toml: Copy) -> None:
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def write(store: VectorStore, by: int) -> None:
        number = 0
        while not stop.is_set():
            id = f"{by}-{number}"
            row = {"id": id, "embedding": [1, by, number], "by": by}
            assert await store.insert("notes", [row], model="m") == 1
            acknowledged.append(id)
            number += 1

    async def read(store: VectorStore) -> None:
        while not stop.is_set():
            hits = await store.search("notes", [1, 0, 0], limit=3, where="by = 1", model="m")
            assert all(hit["by"] == 1 for hit in hits)

    async with aiovec.connect(config=toml.toml) as store:
        assert store.backend_name == "sqlite"
        async with asyncio.TaskGroup() as tasks:
            for by in range(4):
                tasks.create_task(write(store, by))
            tasks.create_task(read(store))
            for backend in ("lancedb", "sqlite", "lancedb"):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(toml.flip, backend)
                await moved(store, backend)
            stop.set()

    kept: list[str] = []
    for backend in BACKENDS:
        await asyncio.to_thread(toml.flip, backend)
        async with aiovec.connect(config=toml.toml) as store:
            rows = await store.find("notes", limit=1_000_000, select=["by"])
            assert rows, backend
            kept += [row.id for row in rows]
    assert sorted(kept) == sorted(acknowledged)


async def test_handles_and_schemas_are_those_of_the_new_backend(toml: Copy) -> None:
    async with aiovec.connect(config=toml.toml) as store:
        notes = store.table("notes")
        await notes.insert([{"id": "a", "embedding": [1, 0, 0], "by": 1}])
        assert store.supports("power-loss")
        await asyncio.to_thread(toml.flip, "lancedb")
        await moved(store, "lancedb")
        assert not store.supports("power-loss")
        assert store.supports("snapshots")
        assert Path(store.target).name == "notes.lance"
        assert await notes.count() == 0
        await store.add_field("notes", "extra", aiovec.Field(str))
        await notes.upsert([{"id": "b", "embedding": [0, 1, 0], "extra": "x"}])
        assert [hit["extra"] for hit in await notes.search([0, 1, 0], where="extra = 'x'")] == ["x"]
        await asyncio.to_thread(toml.flip, "sqlite")
        await moved(store, "sqlite")
        assert "extra" not in (await store.schema("notes")).fields
        assert [hit.id for hit in await notes.search([0, 1, 0])] == ["a"]


async def test_an_export_ends_where_it_began(toml: Copy) -> None:
    async with aiovec.connect(config=toml.toml) as store:
        rows = [{"id": f"{n:03}", "embedding": [1, n, 0]} for n in range(300)]
        await store.insert("notes", rows)
        ids: list[str] = []
        async for batch in store.export("notes", batch_size=100):
            ids += batch.column("id").to_pylist()
            if len(ids) == 100:
                await asyncio.to_thread(toml.flip, "lancedb")
                await moved(store, "lancedb")
        assert ids == [row["id"] for row in rows]
        assert await store.count("notes") == 0


async def test_an_empty_backend_gets_its_tables_from_whoever_makes_them(example: Copy) -> None:
    async with aiovec.connect(config=example.toml) as store:
        await store.create_table("notes", SCHEMA)
        await asyncio.to_thread(example.flip, "lancedb")
        await moved(store, "lancedb")
        with pytest.raises(TableNotFoundError):
            await store.search("notes", [1, 0, 0])
        await store.create_table("notes", SCHEMA, exist_ok=True)
        assert await store.search("notes", [1, 0, 0]) == []


def test_lancedb_is_imported_where_it_is_needed_and_off_the_loop(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys, threading, aiovec\n"
        "threads = []\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'lancedb':\n"
        "            threads.append(threading.current_thread())\n"
        "sys.meta_path.insert(0, Watch())\n"
        "async def main():\n"
        "    async with aiovec.connect('a.db'):\n"
        "        assert threads == []\n"
        "    async with aiovec.connect('lancedb://b'):\n"
        "        assert threads and threading.main_thread() not in threads\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
