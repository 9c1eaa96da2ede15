"""Small writes that wait beside each other are done in one go, and apart where that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

import aiovec
from aiovec import DuplicateIdError, Schema, VectorStore
from aiovec_sqlite import SqliteBackend

SCHEMA = Schema(4, fields={"n": int, "tenant": aiovec.Field(str, partition=True)})


def row(id: str, n: int = 0) -> dict[str, object]:
    return {"id": id, "embedding": np.full(4, n + 1, np.float32), "n": n, "tenant": f"t{n % 3}"}


async def ready(store: VectorStore) -> VectorStore:
    """The store with a table that it has opened, so that calls are queued in their order."""
    await store.create_table("notes", SCHEMA)
    await store.insert("notes", [row("there")])
    return store


async def savepoints(store: VectorStore) -> list[str]:
    """Each savepoint of the writing connection from now on."""
    seen: list[str] = []

    def note(statement: str) -> None:
        if statement.startswith("SAVEPOINT"):
            seen.append(statement)

    backend = store._follower.engine.backend
    assert isinstance(backend, SqliteBackend)
    assert backend._connection is not None
    await backend._connection.set_trace_callback(note)
    return seen


async def test_inserts_that_wait_together_need_few_savepoints(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "a.db") as store:
        await ready(store)
        seen = await savepoints(store)
        await asyncio.gather(*(store.insert("notes", [row(f"a{n}", n)]) for n in range(100)))
        assert len(seen) < 25
        assert await store.count("notes") == 101
        for record in await store.get("notes", [f"a{n}" for n in range(100)]):
            n = int(record.id[1:])
            assert (record["n"], record["tenant"]) == (n, f"t{n % 3}")
            assert record.vector is not None
            assert (record.vector == n + 1).all()


async def test_a_clash_fails_one_call_and_no_other(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "a.db") as store:
        await ready(store)
        ids = [f"a{n}" for n in range(40)]
        ids[10] = "there"
        ids[20] = "a5"
        outcomes = await asyncio.gather(
            *(store.insert("notes", [row(id)]) for id in ids), return_exceptions=True
        )
        failed = {n: error for n, error in enumerate(outcomes) if error != 1}
        assert failed.keys() == {10, 20}
        for n, error in failed.items():
            assert isinstance(error, DuplicateIdError)
            assert error.ids == (ids[n],) or error.ids == [ids[n]]
        assert await store.count("notes") == 39


async def test_upserts_of_one_id_take_effect_in_their_order(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "a.db") as store:
        await ready(store)
        for id in ("there", "new"):
            await asyncio.gather(*(store.upsert("notes", [row(id, n)]) for n in range(50)))
            [record] = await store.get("notes", id)
            assert record["n"] == 49
            assert record.vector is not None
            assert (record.vector == 50).all()
        assert await store.count("notes") == 2


async def test_a_call_that_is_cancelled_is_there_wholly_or_not_at_all(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "a.db") as store:
        await ready(store)
        calls = [asyncio.ensure_future(store.insert("notes", [row(f"a{n}")])) for n in range(60)]
        for n, call in enumerate(calls):
            await asyncio.sleep(0)
            if n % 3 == 0:
                call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        there = {record.id for record in await store.find("notes", limit=100)}
        for n, outcome in enumerate(outcomes):
            assert outcome == 1 or isinstance(outcome, asyncio.CancelledError)
            if outcome == 1:
                assert f"a{n}" in there
        hits = await store.search("notes", np.ones(4), limit=100)
        assert {hit.id for hit in hits} == there
