"""A store logs once, beside its searches, that another backend would serve a table better."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import Schema, TableStats, VectorStore
from aiovec._core.advice import Advisor
from aiovec._settings.load import AdviseSettings
from aiovec.backend import RetrievalSettings, TableHandle
from aiovec_sqlite.settings import SqliteSettings
from aiovec_sqlite.store import SqliteBackend

ROWS = [{"id": str(n), "embedding": [n, 1.0]} for n in range(20)]
ALWAYS = AdviseSettings(rows=0, p95_ms=1e-6)


class CountingBackend(SqliteBackend):
    """Counts the looks at a table."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SqliteSettings())
        self.looks = 0

    async def stats(self, table: TableHandle) -> TableStats:
        self.looks += 1
        return await super().stats(table)


@asynccontextmanager
async def opened(
    path: Path, limits: AdviseSettings, *, every: int = 8, **advising: Any
) -> AsyncIterator[tuple[VectorStore, CountingBackend]]:
    settings = RetrievalSettings(advise=limits)
    backend = CountingBackend(path)
    await backend.open()
    async with VectorStore(backend, settings) as store:
        store._advisor = Advisor(store._threads, searches=every, **advising)
        await store.create_table("notes", Schema(2), exist_ok=True)
        await store.upsert("notes", ROWS)
        yield store, backend


async def search(store: VectorStore, times: int, table: str = "notes") -> None:
    for _ in range(times):
        await store.search(table, [1.0, 0.5])


async def settled(store: VectorStore) -> None:
    """Until no look is under way."""
    await store._advisor._looks.wait()


async def test_it_tells_once_when_a_threshold_is_crossed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db", ALWAYS, pause=0) as (store, backend):
        await search(store, 7)
        await settled(store)
        assert (backend.looks, caplog.records) == (0, [])
        await search(store, 1)
        await settled(store)
        assert len(caplog.records) == 1
        await search(store, 80)
        await settled(store)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("aiovec", logging.WARNING)
    message = record.getMessage()
    assert message.startswith(
        "table notes: lancedb would serve it better now: 20 rows are searched"
    )
    assert "aiovec advise" in message
    assert backend.looks == 1  # once it is told, nothing is looked at


async def test_another_store_of_the_process_does_not_tell_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        async with opened(tmp_path / "a.db", ALWAYS, pause=0) as (store, _backend):
            await search(store, 24)
            await settled(store)
    assert len(caplog.records) == 1
    async with opened(tmp_path / "b.db", ALWAYS, pause=0) as (store, _backend):
        await search(store, 8)
        await settled(store)
    assert len(caplog.records) == 2  # another file


async def test_the_backend_names_the_one_that_follows_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountingBackend, "successor", "larger")
    async with opened(tmp_path / "a.db", ALWAYS, pause=0) as (store, _backend):
        assert store.supports("advice")
        await search(store, 8)
        await settled(store)
    assert "table notes: larger would serve it better now" in caplog.text


async def test_a_look_follows_the_one_before_after_the_pause(tmp_path: Path) -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    async with opened(tmp_path / "a.db", AdviseSettings(), now=lambda: clock[0]) as (
        store,
        backend,
    ):
        looks = []
        for seconds in (0, 599, 1, 599, 1):
            clock[0] += timedelta(seconds=seconds)
            await search(store, 8)
            await settled(store)
            looks.append(backend.looks)
    assert looks == [1, 1, 2, 2, 3]


async def test_each_table_has_advice_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db", ALWAYS, pause=0) as (store, _backend):
        await store.create_table("others", Schema(2))
        await store.insert("others", ROWS)
        for table in ("notes", "others"):
            await search(store, 8, table)
        await settled(store)
    assert sorted(record.getMessage().split(":")[0] for record in caplog.records) == [
        "table notes",
        "table others",
    ]


async def test_below_the_thresholds_nothing_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db", AdviseSettings(), pause=0) as (store, backend):
        await search(store, 32)
        await settled(store)
        assert backend.looks >= 1
    assert caplog.records == []


async def test_searches_ask_the_backend_for_nothing_between_two_looks(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", AdviseSettings(), pause=3600) as (store, backend):
        await search(store, 100)
        await settled(store)
        assert backend.looks == 1
        assert len(store._advisor._tables["notes"].seconds) == 8  # the last ones


async def test_growth_that_the_process_has_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    # 20 rows now, and the point is at 10,001; 6,000 more come in two days.
    limits = AdviseSettings(rows=10_000, p95_ms=1e-6, rows_a_day=2_999, days=30)
    async with opened(tmp_path / "a.db", limits, pause=0, now=lambda: clock[0]) as (store, _):
        await search(store, 8)
        await settled(store)
        assert caplog.records == []  # it was made a moment ago
        more = [{"id": f"more-{n}", "embedding": [n, 2.0]} for n in range(6_000)]
        await store.insert("notes", more)
        clock[0] += timedelta(days=2)
        await search(store, 8)
        await settled(store)
    (record,) = caplog.records
    assert "it has 6,020 rows and grows by 3,000 a day (seen by this process in 2 days)" in (
        record.getMessage()
    )


async def test_it_is_logged_in_a_thread(tmp_path: Path) -> None:
    """A log may be a file."""
    threads: list[threading.Thread] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            threads.append(threading.current_thread())

    handler = Noting()
    logging.getLogger("aiovec").addHandler(handler)
    try:
        async with opened(tmp_path / "a.db", ALWAYS, pause=0) as (store, _):
            await search(store, 8)
            await settled(store)
    finally:
        logging.getLogger("aiovec").removeHandler(handler)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_look_that_fails_harms_no_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "a.db", ALWAYS, pause=0) as (store, backend):

        async def failing(table: TableHandle) -> TableStats:
            backend.looks += 1
            raise aiovec.StoreBusyError("a test", 0.0)

        backend.stats = failing  # type: ignore[method-assign]
        await search(store, 16)
        await settled(store)
        assert backend.looks == 2
    assert caplog.records == []


async def test_closing_ends_a_look_that_is_under_way(tmp_path: Path) -> None:
    begun = asyncio.Event()
    ended = asyncio.Event()
    async with opened(tmp_path / "a.db", ALWAYS, pause=0) as (store, backend):

        async def endless(table: TableHandle) -> TableStats:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        backend.stats = endless  # type: ignore[method-assign]
        await search(store, 8)
        await begun.wait()
    assert ended.is_set()


async def test_a_store_whose_backend_gives_no_advice_is_not_watched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__ADVISE__ROWS", "0")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__ADVISE__P95_MS", "0.000001")
    async with aiovec.connect(f"lancedb://{tmp_path / 'a'}") as store:
        store._advisor = Advisor(store._threads, searches=2, pause=0)
        await store.create_table("notes", Schema(2))
        await store.insert("notes", ROWS)
        await search(store, 6)
        assert not store._advisor._tables
        assert not store.supports("advice")
    assert not [record for record in caplog.records if "advise" in record.getMessage()]


async def test_a_store_follows_its_toml_and_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "a.db"\n', "utf-8")
    async with aiovec.connect(config=config) as store:
        for name in ("a.db", "b.db"):
            config.write_text(f'[retrieval]\nsqlite_path = "{name}"\n', "utf-8")
            await store._follower.look(now=True)
            await store.create_table("notes", Schema(2))
            await store.insert("notes", ROWS)
            await search(store, 3)
            assert store._advisor._tables["notes"].searches == 3


async def test_tables_without_end_are_not_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", AdviseSettings(), every=1000) as (store, _):
        handle = await store._follower.engine.open_table("notes")
        for number in range(1000):
            other = TableHandle(f"t{number}", handle.schema, handle.token)
            store._advisor.searched(store._follower.engine, other, 0.001)
        assert len(store._advisor._tables) == 256


async def test_a_store_opened_by_connect_watches_by_the_settings_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it comes, with no part replaced."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__ADVISE__ROWS", "0")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__ADVISE__P95_MS", "0.000001")
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(2))
        await store.insert("notes", ROWS)
        await search(store, 511)
        await settled(store)
        assert caplog.records == []
        await search(store, 1)
        await settled(store)
    assert "lancedb would serve it better now" in caplog.text
