"""The change feed: applied to an empty mapping it gives the table, however it is paged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.contract.base import ContractBase
from tests.harness.values import DIM, EVERY_KIND, SMALL, python_rows, rows_of_every_kind, small_rows

from aiovec import VectorStore
from aiovec.backend import Backend, ChangeFeed, ChangesPrunedError, RetrievalSettings

Call = Callable[[], Awaitable[Any]]


class Follower:
    """A copy of a table, kept fresh from the feed alone."""

    def __init__(self, backend: Backend, table: str) -> None:
        assert isinstance(backend, ChangeFeed)
        self._backend: Any = backend
        self._table = table
        self.rows: dict[str, dict[str, Any]] = {}
        self.number = 0

    async def follow(self, limit: int = 10_000, since: int | None = None) -> None:
        number = self.number if since is None else since
        while True:
            handle = await self._backend.open_table(self._table)
            page = await self._backend.changes(handle, number, limit=limit)
            ids = page.upserted.column("id").to_pylist()
            assert len(set(ids)) == len(ids), "a page brings a row twice"
            assert page.number >= number, "the numbers go back"
            assert page.complete or page.number > number, "a page brings nothing, and is not last"
            for id in page.deleted:
                self.rows.pop(id, None)
            for row in python_rows(page.upserted):
                self.rows[row["id"]] = row
            number = page.number
            if page.complete:
                self.number = number
                return


async def _content(store: VectorStore, table: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row async for batch in store.export(table) for row in python_rows(batch)}


class ChangesContract(ContractBase):
    """``ChangeFeed``, where the backend offers it."""

    @pytest_asyncio.fixture
    async def feed(self, tmp_path: Path) -> AsyncIterator[tuple[VectorStore, Backend]]:
        """A store and the backend that it speaks to."""
        backend = self.make_backend(tmp_path)
        async with await self._over(backend) as store:
            self.need(store, "changes")
            yield store, backend

    async def test_the_feed_tells_every_change(self, feed: tuple[VectorStore, Backend]) -> None:
        store, backend = feed
        await store.create_table("notes", EVERY_KIND)
        follower = Follower(backend, "notes")
        await follower.follow()
        assert (follower.rows, follower.number) == ({}, 0)
        await store.insert("notes", rows_of_every_kind(30))
        await follower.follow()
        assert follower.rows == await _content(store, "notes")
        await store.update("notes", {"name": "new", "more": 1}, where="year < 2010")
        await store.upsert("notes", [{"id": "r0003", "embedding": [1.0] * DIM}])
        await store.delete("notes", ["r0001", "r0002"])
        await store.delete_where("notes", "year > 2025")
        await follower.follow()
        assert follower.rows == await _content(store, "notes")
        await store.insert("notes", [{"id": "r0001", "embedding": [2.0] * DIM}])
        await follower.follow()
        assert follower.rows == await _content(store, "notes")
        assert follower.rows["r0001"]["embedding"] == [2.0] * DIM

    @pytest.mark.parametrize("limit", [1, 3, 1_000])
    async def test_pages_of_every_size(self, feed: tuple[VectorStore, Backend], limit: int) -> None:
        store, backend = feed
        await store.create_table("notes", SMALL)
        chance = random.Random(limit)
        often, seldom = Follower(backend, "notes"), Follower(backend, "notes")
        for step in range(40):
            ids = chance.sample(range(25), k=chance.randrange(1, 6))
            rows: list[dict[str, Any]] = [
                {"id": f"r{n:04}", "embedding": [1.0, step, n, 1], "year": step} for n in ids
            ]
            match chance.randrange(4):
                case 0 | 1:
                    await store.upsert("notes", rows)
                case 2:
                    await store.delete("notes", [row["id"] for row in rows])
                case _:
                    names = [row["id"] for row in rows]
                    await store.update("notes", {"name": str(step)}, ids=names)
            await often.follow(limit)
            assert often.rows == await _content(store, "notes"), f"step {step}"
            if step % 13 == 12:
                await seldom.follow(limit)
                assert seldom.rows == often.rows
        late = Follower(backend, "notes")
        await late.follow(limit)
        assert late.rows == await _content(store, "notes")
        assert late.number >= often.number

    async def test_numbers_rise_and_stay(self, feed: tuple[VectorStore, Backend]) -> None:
        store, backend = feed
        assert isinstance(backend, ChangeFeed)
        await store.create_table("notes", SMALL)
        seen = [await backend.change_number(await backend.open_table("notes"))]
        assert seen == [0]
        writes: tuple[Call, ...] = (
            lambda: store.insert("notes", small_rows(3)),
            lambda: store.update("notes", {"year": 5}, where="TRUE"),
            lambda: store.delete("notes", "r0002"),
            lambda: store.delete_where("notes", "TRUE"),
            lambda: store.insert("notes", small_rows(1)),
        )
        for write in writes:
            await write()
            number = await backend.change_number(await backend.open_table("notes"))
            assert number > seen[-1]
            seen.append(number)
        await store.delete("notes", "absent")
        await store.update("notes", {"year": 5}, where="FALSE")
        page = await backend.changes(await backend.open_table("notes"), seen[-1])
        assert (page.upserted.num_rows, list(page.deleted), page.complete) == (0, [], True)

    async def test_a_call_that_failed_changes_nothing(
        self, feed: tuple[VectorStore, Backend]
    ) -> None:
        store, backend = feed
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(3))
        follower = Follower(backend, "notes")
        await follower.follow()
        for n in range(5):
            with pytest.raises(ValueError, match="r0001"):
                await store.insert("notes", small_rows(3, start=n % 2))
        before = follower.number
        await follower.follow()
        assert follower.rows == await _content(store, "notes")
        page = await follower._backend.changes(await backend.open_table("notes"), before)
        assert (page.upserted.num_rows, list(page.deleted)) == (0, [])

    async def test_following_while_others_write(self, feed: tuple[VectorStore, Backend]) -> None:
        store, backend = feed
        await store.create_table("notes", SMALL)
        follower = Follower(backend, "notes")

        async def write(n: int) -> None:
            for step in range(8):
                rows = small_rows(3, start=10 * n, name=str(step))
                await store.upsert("notes", rows)
                if step % 3 == 2:
                    await store.delete("notes", rows[step % 2]["id"])

        writers = asyncio.gather(*map(write, range(10)))
        while not writers.done():
            await asyncio.sleep(0)
            await follower.follow(7)
        await writers
        await follower.follow(7)
        assert follower.rows == await _content(store, "notes")

    async def test_the_feed_goes_on_after_reopening(self, tmp_path: Path) -> None:
        self.need_persistence()
        numbers = []
        follower: Follower | None = None
        for step in range(3):
            backend = self.make_backend(tmp_path)
            async with await self._over(backend) as store:
                self.need(store, "changes")
                await store.create_table("notes", SMALL, exist_ok=True)
                next_follower = Follower(backend, "notes")
                if follower is not None:
                    next_follower.rows, next_follower.number = follower.rows, follower.number
                follower = next_follower
                await store.upsert("notes", small_rows(5, start=step))
                await store.delete("notes", f"r{step:04}")
                await follower.follow(2)
                assert follower.rows == await _content(store, "notes")
                await store.optimize("notes")
                numbers.append(follower.number)
        assert numbers == sorted(set(numbers))

    async def test_changes_that_are_not_kept_are_told(self, tmp_path: Path) -> None:
        backend = self.make_forgetful_backend(tmp_path)
        if backend is None:
            pytest.skip("the backend under test offers no feed that forgets soon")
        async with await self._over(backend) as store:
            self.need(store, "changes")
            assert isinstance(backend, ChangeFeed)
            await store.create_table("notes", SMALL)
            await store.insert("notes", small_rows(300))
            early = Follower(backend, "notes")
            await early.follow()
            for n in range(290):
                await store.delete("notes", f"r{n:04}")
            await store.optimize("notes")
            handle = await backend.open_table("notes")
            with pytest.raises(ChangesPrunedError) as caught:
                await backend.changes(handle, early.number)
            floor = caught.value.floor
            assert early.number < floor <= await backend.change_number(handle)
            # From the floor on everything is kept.
            fresh = Follower(backend, "notes")
            fresh.rows, fresh.number = await _content(store, "notes"), floor
            await store.upsert("notes", small_rows(2, start=500))
            await store.delete("notes", "r0299")
            await fresh.follow(3)
            assert fresh.rows == await _content(store, "notes")

    @staticmethod
    async def _over(backend: Backend) -> VectorStore:
        await backend.open()
        return VectorStore(backend, RetrievalSettings())
