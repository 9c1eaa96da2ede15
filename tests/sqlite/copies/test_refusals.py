"""Tables that could not be copied are tried again, not too often, and told of once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.sqlite.copies.support import (
    BY_CODES,
    answered,
    in_memory,
    opened,
    resident_of,
    rows_for,
)
from tests.sqlite.support import backend_of
from tests.waiting import until

from aiovec import Field, Schema, VectorStore
from aiovec.backend import TableHandle
from aiovec_sqlite.connection import Connection
from aiovec_sqlite.copies import CopyLimits, copy
from aiovec_sqlite.copies.search import Backoff
from aiovec_sqlite.driver import connect as raw_connect
from aiovec_sqlite.opening import open_reader
from aiovec_sqlite.pool import Read, reading_aside

DIM = 24
SCHEMA = Schema(DIM, fields={"n": int, "owner": str})
QUERY = np.ones(DIM, np.float32)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of tables that have no copy; a store may give advice besides."""
    messages = [record.getMessage() for record in caplog.records if record.name == "aiovec"]
    return [message for message in messages if "is searched from the file: " in message]


def loads(monkeypatch: pytest.MonkeyPatch, store: VectorStore) -> list[float]:
    """When loading began."""
    resident = resident_of(store)
    asked: list[float] = []
    aside = resident._aside

    def counted() -> AbstractAsyncContextManager[Read]:
        asked.append(time.monotonic())
        return aside()

    monkeypatch.setattr(resident, "_aside", counted)
    return asked


async def search_until(store: VectorStore, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            assert await store.search("t", QUERY, limit=1)
            await asyncio.sleep(0)


async def search_some(store: VectorStore, times: int = 100) -> None:
    """As often as it takes for a second load to begin, if there were one."""
    for _ in range(times):
        await store.search("t", QUERY, limit=1)
        await asyncio.sleep(0)


async def test_a_table_that_shrank_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    budget = 300 * (DIM + copy.BYTES_BESIDE)
    passed = 0.0

    def clock() -> float:
        return time.monotonic() + passed

    async with opened(
        tmp_path / "a.db", limits={**BY_CODES, "clock": clock}, scan_memory=str(budget)
    ) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows_for(rng, range(400), DIM))
        asked = loads(monkeypatch, store)
        await search_until(store, lambda: bool(told(caplog)))
        await search_some(store)
        assert len(asked) == 1  # five minutes lie before the next look

        async def five_minutes_later(condition: Callable[[], bool]) -> None:
            """Search until something is so, as often as it takes five minutes after the last."""

            def later() -> bool:
                nonlocal passed
                passed += 301.0
                return condition()

            await search_until(store, later)

        await five_minutes_later(lambda: len(asked) > 3)
        assert not in_memory(store, "t")
        await store.delete("t", [f"r{n:06}" for n in range(250)])
        await five_minutes_later(lambda: bool(answered(store, "t")))
        # It grows beyond the budget while it is there, and shrinks once more.
        await store.insert("t", rows_for(rng, range(1000, 1700), DIM))
        await five_minutes_later(lambda: not in_memory(store, "t"))
        count = len(asked)
        await five_minutes_later(lambda: len(asked) > count + 1)
        assert not in_memory(store, "t")
        await store.delete_where("t", "id >= 'r001000'")
        await five_minutes_later(lambda: in_memory(store, "t"))
        assert len(await store.search("t", QUERY, limit=1000)) == 150
    assert told(caplog) == ["table t is searched from the file: it is larger than scan_memory"]


async def test_a_load_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    async with opened(path, limits={"copies": CopyLimits(whole=0, first_pause=0.02)}) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows_for(np.random.default_rng(0), range(50), DIM))
        settings = backend_of(store)._settings
        resident = resident_of(store)
        right = resident._aside
        away = partial(open_reader, tmp_path / "absent" / "b.db", settings)
        failing = partial(reading_aside, lambda: Connection(away, "aiovec-sqlite-load"))
        monkeypatch.setattr(resident, "_aside", failing)
        asked = loads(monkeypatch, store)
        await search_until(store, lambda: len(asked) > 4)
        pauses = np.diff(asked)
        # Each is twice the one before; what runs beside it can only make them longer.
        assert all(pause >= 0.02 * 2**n for n, pause in enumerate(pauses))
        assert answered(store, "t") == 0
        monkeypatch.setattr(resident, "_aside", right)
        await search_until(store, lambda: bool(answered(store, "t")))
    (only,) = told(caplog)
    assert only.startswith("table t is searched from the file: loading it failed: ")


async def test_a_table_made_anew_need_not_wait(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    budget = 300 * (DIM + copy.BYTES_BESIDE)
    async with opened(tmp_path / "a.db", scan_memory=str(budget)) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows_for(rng, range(400), DIM))
        handle = await backend_of(store).open_table("t")
        await search_until(store, lambda: resident_of(store)._backoff.holds(handle))
        await store.drop_table("t")
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows_for(rng, range(100), DIM))
        await store.search("t", QUERY)
        await until(lambda: in_memory(store, "t"))


async def test_extreme_vectors_are_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"copies": CopyLimits(whole=0, longest_pause=0.01)}
    async with opened(tmp_path / "a.db", limits=limits) as store:
        await store.create_table("t", Schema(DIM, metric="l2", fields={"n": Field(int)}))
        await store.insert("t", [{"id": "far", "embedding": np.full(DIM, 1e30), "n": 1}])
        asked = loads(monkeypatch, store)
        with caplog.at_level(logging.WARNING, "aiovec"):
            await search_until(store, lambda: len(asked) > 4)
    assert told(caplog) == [
        (
            "table t is searched from the file: the table has vectors whose squares do not fit "
            "into float32"
        )
    ]


def test_nothing_grows() -> None:
    now = 1000.0
    kept = Backoff(clock=lambda: now)
    for number in range(2000):
        kept.add(TableHandle(f"t{number}", SCHEMA, number), "why", failed=bool(number % 2))
        now += 1.0
    assert len(kept._by_name) < 700
    table = TableHandle("t", SCHEMA, 1)
    pauses = []
    for _ in range(3000):
        kept.add(table, "why", failed=True)
        assert kept.holds(table)
        pauses.append(kept._by_name["t"].until - now)
        now += pauses[-1]
        assert not kept.holds(table)
    assert pauses[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(pauses[10:]) == {300}
    assert len(kept._by_name) <= 2
    # Once it was copied, the pauses begin anew, and the same reason is no news.
    kept.settle(table)
    assert not kept.holds(table)
    assert not kept.add(table, "why", failed=True)
    assert kept._by_name["t"].until - now == 1
    assert kept.add(table, "another", failed=True)
    assert kept.add(TableHandle("t", SCHEMA, 2), "another", failed=True)


async def test_a_vector_that_is_not_finite_leaves_the_table_to_the_file(tmp_path: Path) -> None:
    """As in a damaged file: in memory it would spoil the bound for the other rows."""
    rows = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
    ids = [f"{n:03}" for n in range(300)]
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("t", Schema(8))
        await store.insert("t", {"id": ids, "embedding": rows})
    with closing(raw_connect(str(tmp_path / "a.db"))) as db:
        (blob,) = db.execute('SELECT vectors FROM "t.vec_vector_chunks00"').fetchone()
        damaged = np.frombuffer(blob, dtype=np.float32).copy()
        damaged[0] = np.nan
        db.execute('UPDATE "t.vec_vector_chunks00" SET vectors = ?', (damaged.tobytes(),))
        db.commit()
    async with opened(tmp_path / "a.db") as store:
        await store.search("t", rows[5])
        async with asyncio.timeout(60):
            while (await store.stats("t")).details["searched"] != "from the file":
                await asyncio.sleep(0.01)
                await store.search("t", rows[5])
        (hit, *_) = await store.search("t", rows[5])
        assert hit.id == "005"
