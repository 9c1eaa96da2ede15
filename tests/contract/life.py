"""Contract tests for opening and closing stores, and for the facts that they report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.contract.tables import CALLS
from tests.harness.values import SMALL, assert_same_rows, ids_of, small_rows, vectors

import aiovec
from aiovec import TableStats, VectorStore
from aiovec.errors import AiovecError, StoreClosedError, UnsupportedError


class LifeContract(ContractBase):
    """``close``, ``ping``, ``supports``, missing abilities, and maintenance."""

    async def test_a_store_is_a_context_manager(self, tmp_path: Path) -> None:
        async with self.connect(tmp_path) as store:
            assert isinstance(store, VectorStore)
            await store.ping()
            await store.create_table("notes", SMALL)
        with pytest.raises(StoreClosedError):
            await store.tables()

    @pytest.mark.core
    async def test_every_call_after_close_says_so(self, notes: VectorStore) -> None:
        await asyncio.gather(*(notes.close() for _ in range(4)))
        await notes.close()  # it may be called any number of times
        for name, call in CALLS.items():
            with case(name):
                with pytest.raises(StoreClosedError) as caught:
                    await call(notes, "notes")
                assert caught.value.target == notes.target

    @pytest.mark.core
    async def test_close_waits_for_the_writes_that_were_accepted(self, tmp_path: Path) -> None:
        self.need_persistence()
        for turns in (0, 2, 5, 30):
            path = tmp_path / str(turns)
            await asyncio.to_thread(path.mkdir)
            async with self.connect(path) as store:
                await store.create_table("notes", SMALL)
                writes = [
                    asyncio.ensure_future(store.insert("notes", small_rows(5, start=10 * n)))
                    for n in range(20)
                ]
                for _ in range(turns):
                    await asyncio.sleep(0)
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            async with self.connect(path) as store:
                for n, outcome in enumerate(outcomes):
                    count = await store.count("notes", f"year >= {10 * n} AND year < {10 * n + 5}")
                    if outcome != 5:
                        assert isinstance(outcome, StoreClosedError), outcome
                    assert count == (5 if outcome == 5 else 0)

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_reads_under_way_end_when_the_store_closes(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(2_000))
        query = vectors(1)[0]
        reads = [
            asyncio.ensure_future(store.search("notes", query, limit=2_000)) for _ in range(20)
        ]
        export = store.export("notes", batch_size=10)
        first = await anext(export)
        assert first.num_rows == 10
        await store.close()
        for outcome in await asyncio.gather(*reads, return_exceptions=True):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, StoreClosedError), repr(outcome)
            else:
                assert len(outcome) == 2_000
        with pytest.raises(StoreClosedError):
            async for _ in export:
                pass

    # Abilities

    async def test_calls_of_a_missing_ability_are_refused_by_name(
        self, notes: VectorStore, tmp_path: Path
    ) -> None:
        query = vectors(1)[0]
        calls: dict[str, list[Callable[[], Awaitable[Any]]]] = {
            "text": [
                lambda: notes.search_text("notes", "words"),
                lambda: notes.search_hybrid("notes", "words", query),
            ],
            "indexes": [
                lambda: notes.create_index("notes"),
                lambda: notes.indexes("notes"),
                lambda: notes.drop_index("notes", "index"),
            ],
            "snapshots": [lambda: notes.versions("notes"), lambda: notes.revert("notes", 1)],
            "backup": [lambda: notes.backup(tmp_path / "copy")],
        }
        if not notes.supports("indexes"):
            calls["questions"] = [
                lambda: notes.create_index("notes", questions=[query]),
                lambda: notes.optimize("notes", questions=[query]),
            ]
        for ability, uses in calls.items():
            if ability != "questions" and notes.supports(ability):
                continue
            for use in uses:
                with pytest.raises(UnsupportedError) as caught:
                    await use()
                assert caught.value.ability == ability
                # Over HTTP, it is the server's backend or the client's.
                assert caught.value.backend in {notes.backend_name, getattr(self, "kind", "")}

    # Upkeep

    @pytest.mark.core
    async def test_stats_count_rows_and_bytes(self, notes: VectorStore) -> None:
        stats = await notes.stats("notes")
        assert isinstance(stats, TableStats)
        assert (stats.table, stats.backend, stats.rows) == ("notes", notes.backend_name, 10)
        assert stats.bytes >= 0
        assert isinstance(stats.index, str)
        assert 0 <= stats.unindexed_rows <= 10
        assert stats.scan_memory >= 0
        await notes.delete("notes", "r0000")
        assert (await notes.stats("notes")).rows == 9
        await notes.optimize("notes")
        after = await notes.stats("notes")
        assert after.rows == 9
        if after.last_optimize is not None:
            assert after.last_optimize.utcoffset() is not None

    async def test_optimize_changes_no_row(self, store: VectorStore) -> None:
        rows = small_rows(800)
        await filled(store, SMALL, rows)
        await store.delete("notes", where="year < 700")
        await store.upsert("notes", small_rows(10, start=650))
        rows = [*small_rows(10, start=650), *rows[700:]]
        for _ in range(2):
            await store.optimize("notes")
            assert await store.count("notes") == 110
            assert_same_rows(await store.get("notes", [r["id"] for r in rows]), rows, SMALL)
            for row in rows[::20]:
                (hit,) = await store.search("notes", row["embedding"], limit=1)
                assert hit.id == row["id"]

    @pytest.mark.core
    async def test_reads_and_writes_go_on_while_it_optimizes(self, store: VectorStore) -> None:
        await filled(store, SMALL, small_rows(600))
        await store.delete("notes", where="year < 500")

        async def work(n: int) -> None:
            await store.insert("notes", small_rows(2, start=1_000 + 2 * n))
            hits = await store.search("notes", vectors(1)[0], limit=5_000)
            assert len(hits) >= 102
            await store.delete("notes", f"r{1_000 + 2 * n:04}")

        await asyncio.gather(store.optimize("notes"), *map(work, range(20)))
        await asyncio.gather(store.optimize("notes"), store.optimize("notes"))
        assert await store.count("notes") == 120

    @pytest.mark.core
    async def test_a_backup_opens_as_a_store_with_the_rows_of_its_moment(
        self, notes: VectorStore, tmp_path: Path
    ) -> None:
        self.need(notes, "backup")
        target = tmp_path / "copy.db"
        expected = await notes.find("notes", select=["embedding", "name", "year", "payload"])
        await notes.backup(target)
        with pytest.raises(AiovecError):
            await notes.backup(target)
        await notes.delete("notes", where="TRUE")
        async with aiovec.connect(f"{notes.backend_name}://{target}") as copy:
            matches = await copy.find("notes", select=["embedding", "name", "year", "payload"])
            assert matches == expected
            (hit,) = await copy.search("notes", small_rows(10)[3]["embedding"], limit=1)
            assert hit.id == "r0003"
            assert ids_of(await notes.find("notes")) == []
