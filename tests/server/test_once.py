"""Requests with ``Idempotency-Key``: a repeated one is done once and gets the same response."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.harness.values import SMALL, small_rows
from tests.server.apps import Wrapped, serving

import aiovec
from aiovec_server import create_app

RECORDS = "/tables/notes/records"


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def rows(*numbers: int) -> list[dict[str, Any]]:
    made = [row for number in numbers for row in small_rows(1, start=number)]
    return [{**row, "embedding": row["embedding"].tolist()} for row in made]


async def test_a_repeated_write_is_done_once(tmp_path: Path) -> None:
    async with (
        aiovec.connect(tmp_path / "a.db") as store,
        serving(create_app(store=store)) as client,
    ):
        await store.create_table("notes", SMALL)
        for _ in range(3):
            body = rows(1, 2)
            assert await client.ok("POST", RECORDS, json=body, headers=keyed("k")) == {"count": 2}
        await store.delete("notes", ["r0001"])
        assert await client.ok("POST", RECORDS, json=body, headers=keyed("k")) == {"count": 2}
        assert await store.count("notes") == 1
        await client.problem("POST", RECORDS, 409, json=rows(2), headers=keyed("new"))
        for _ in range(2):
            path = f"{RECORDS}/r0002"
            assert await client.ok("DELETE", path, headers=keyed("d")) == {"deleted": 1}
            await store.upsert("notes", rows(2))
        document = await asyncio.gather(
            *(client.ok("POST", RECORDS, json=rows(7), headers=keyed("m")) for _ in range(10))
        )
        assert document == [{"count": 1}] * 10
        assert await store.count("notes") == 2
        table = {"name": "more", "schema": SMALL.to_dict()}
        for _ in range(2):
            await client.ok("POST", "/tables", 201, json=table, headers=keyed("c"))
        for _ in range(2):
            await client.ok("DELETE", "/tables/more?confirm=more", 204, headers=keyed("x"))
            await store.create_table("more", SMALL, exist_ok=True)
        assert await store.tables() == ["more", "notes"]


async def test_a_key_is_free_again_after_a_busy_store_refused_its_write(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    fcntl = pytest.importorskip("fcntl")
    config = tmp_path / "aiovec.toml"
    config.write_text("[retrieval.lancedb]\nbusy_timeout = 0.2\n")
    target = f"lancedb://{tmp_path}/a"
    async with (
        aiovec.connect(target, config=config) as store,
        serving(create_app(store=store)) as client,
    ):
        await store.create_table("notes", SMALL)
        with (tmp_path / "a" / ".aiovec" / "notes.lock").open("ab") as file:
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
            for _ in range(2):
                await client.problem("POST", RECORDS, 503, json=rows(1), headers=keyed("k"))
        assert await client.ok("POST", RECORDS, json=rows(1), headers=keyed("k")) == {"count": 1}
        await client.problem("POST", RECORDS, 409, json=rows(1), headers=keyed("k"))


async def test_a_read_neither_waits_for_a_key_nor_takes_it(tmp_path: Path) -> None:
    """A write under the same key is then no repetition."""
    pytest.importorskip("lancedb")
    async with aiovec.connect(f"lancedb://{tmp_path}/a") as store:
        await store.create_table("notes", SMALL)
        begun, let = asyncio.Event(), asyncio.Event()

        async def insert(*args: Any, **options: Any) -> int:
            begun.set()
            await let.wait()
            return await store.insert(*args, **options)

        app = create_app(store=Wrapped(store, insert=insert))  # type: ignore[arg-type]
        async with serving(app) as client:
            count = "/tables/notes/count"
            assert await client.ok("GET", count, headers=keyed("k")) == {"count": 0}
            body = rows(1)
            write = asyncio.ensure_future(client.ok("POST", RECORDS, json=body, headers=keyed("k")))
            await begun.wait()
            for method, options in (("GET", {}), ("POST", {"json": {}})):
                document = await client.ok(method, count, headers=keyed("k"), **options)
                assert document == {"count": 0}
            let.set()
            assert await write == {"count": 1}


async def test_keys_that_cannot_be() -> None:
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        await store.create_table("notes", SMALL)
        await client.ok("POST", RECORDS, json=rows(1), headers=keyed("~" * 200))
        for path, body in ((RECORDS, rows(2)), (f"{RECORDS}?mode=upsert", rows(1))):
            # The same key with another request.
            document = await client.problem("POST", path, 422, json=body, headers=keyed("~" * 200))
            assert "another write" in document["detail"]
        path, other = f"{RECORDS}/r0001", keyed("~" * 200)
        await client.problem("DELETE", path, 422, headers=other)
        for key in ("", "k" * 201, "a b", "ä", "a\tb"):
            headers: Any = [("Idempotency-Key", key.encode())]
            document = await client.problem("POST", RECORDS, 422, json=rows(2), headers=headers)
            assert "visible ASCII" in document["detail"]
        twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        await client.problem("DELETE", path, 422, headers=twice)
        answer = await client.get("/tables/notes/count", headers=keyed("~" * 200))
        assert answer.json() == {"count": 1}  # reading under a key reads
