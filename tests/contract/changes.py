"""Contract tests for the change feed: applied to an empty mapping, it yields the table."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import ContractBase
from tests.harness.values import DIM, EVERY_KIND, python_rows, rows_of_every_kind, small_rows

import aiovec
from aiovec import DuplicateIdError, Field, InvalidArgumentError, VectorStore
from aiovec.backend.contract import Backend
from aiovec.errors import ChangesPrunedError


class Follower:
    """A copy of a table that is updated only from the feed."""

    def __init__(self, backend: Backend, table: str) -> None:
        assert backend.supports("changes")
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


def _row(id: str) -> dict[str, Any]:
    return {"id": id, "embedding": [1.0] * DIM}


class ChangesContract(ContractBase):
    """The change feed, if the backend supports it, read by a second backend object."""

    @asynccontextmanager
    async def feed(self, path: Path, **keys: Any) -> AsyncIterator[tuple[VectorStore, Backend]]:
        self.need_persistence()
        async with self.connect(path, keys=keys) as store:
            self.need(store, "changes")
            await store.create_table("notes", EVERY_KIND)
            async with self.opened_backend(path) as backend:
                yield store, backend

    @pytest.mark.arrow
    async def test_the_feed_tells_every_change(self, tmp_path: Path) -> None:
        async with self.feed(tmp_path) as (store, backend):
            assert backend.supports("changes")
            follower = Follower(backend, "notes")
            await follower.follow()
            assert follower.rows == {}
            await store.insert("notes", rows_of_every_kind(30))
            for change in (
                store.update("notes", {"name": "new", "more": 1}, where="year < 2010"),
                store.upsert("notes", [_row("r0003")]),
                store.set_vectors("notes", ["r0004", "absent"], [[3.0] * DIM] * 2),
                store.delete("notes", ["r0001", "r0002"]),
                store.delete("notes", where="year > 2025"),
                store.upsert("notes", [_row("tell\nlines"), _row('"é\u2028')]),
                store.insert("notes", [{"id": "r0001", "embedding": [2.0] * DIM}]),
            ):
                before = follower.number
                await change
                await follower.follow()
                assert follower.number > before
                assert follower.rows == await _content(store, "notes")
            assert follower.rows["r0001"]["embedding"] == [2.0] * DIM
            # A call that fails or changes nothing adds no change to the feed.
            await store.delete("notes", "absent")
            await store.update("notes", {"year": 5}, where="FALSE")
            with pytest.raises(DuplicateIdError):
                await store.insert("notes", small_rows(40))
            page = await backend.changes(await backend.open_table("notes"), follower.number)
            assert (page.upserted.num_rows, list(page.deleted), page.complete) == (0, [], True)
        async with self.connect(tmp_path) as store:
            await store.optimize("notes")
            await store.delete("notes", "r0001")
            async with self.opened_backend(tmp_path) as backend:
                later = Follower(backend, "notes")
                later.rows, later.number = follower.rows, follower.number
                await later.follow()
                assert later.rows == await _content(store, "notes")

    @pytest.mark.arrow
    async def test_a_store_pages_through_its_changes(self, notes: VectorStore) -> None:
        self.need(notes, "changes")
        rows, number = {}, 0
        for step in range(3):
            await notes.upsert("notes", small_rows(2, start=100 + step))
            await notes.delete("notes", ["r0100" if step else "r0001"])
            complete = False
            while not complete:
                page = await notes.changes("notes", number, limit=4)
                for id in page.deleted:
                    rows.pop(id, None)
                rows |= {row["id"]: row for row in python_rows(page.upserted)}
                number, complete = page.number, page.complete
            assert rows == await _content(notes, "notes")
        for wrong in ({"since": -1}, {"since": "1"}, {"limit": 0}):
            with pytest.raises(InvalidArgumentError):
                await notes.changes("notes", **wrong)

    @pytest.mark.parametrize("limit", [1, 3, 1_000])
    @pytest.mark.arrow
    async def test_pages_of_every_size_lead_to_the_table(self, tmp_path: Path, limit: int) -> None:
        async with self.feed(tmp_path) as (store, backend):
            chance = random.Random(limit)
            often = Follower(backend, "notes")
            for step in range(25):
                ids = [f"r{n:04}" for n in chance.sample(range(25), k=chance.randrange(1, 6))]
                match chance.randrange(4):
                    case 0 | 1:
                        rows = [{"id": id, "embedding": [1.0, step, 1, 1]} for id in ids]
                        await store.upsert("notes", rows)
                    case 2:
                        await store.delete("notes", ids)
                    case _:
                        await store.update("notes", {"name": str(step)}, ids=ids)
                await often.follow(limit)
                assert often.rows == await _content(store, "notes"), f"step {step}"
            late = Follower(backend, "notes")
            await late.follow(limit)
            assert late.rows == often.rows

    @pytest.mark.parametrize("limit", [1, 40])
    @pytest.mark.arrow
    async def test_a_page_has_at_most_twice_the_changes_of_its_limit(
        self, tmp_path: Path, limit: int
    ) -> None:
        """This includes deletes, each of which is reported once."""
        async with self.feed(tmp_path) as (store, backend):
            await store.insert("notes", small_rows(200))
            follower = Follower(backend, "notes")
            await follower.follow()
            await store.delete("notes", [f"r{n:04}" for n in range(100)])
            await store.upsert("notes", small_rows(50, start=180))
            handle = await backend.open_table("notes")
            changed: list[str] = []
            number, complete = follower.number, False
            while not complete:
                page = await backend.changes(handle, number, limit=limit)
                ids = [*page.deleted, *page.upserted.column("id").to_pylist()]
                assert len(ids) <= 2 * limit
                changed += ids
                number, complete = page.number, page.complete
            assert sorted(changed) == [f"r{n:04}" for n in (*range(100), *range(180, 230))]
            await follower.follow(limit)
            assert follower.rows == await _content(store, "notes")

    @pytest.mark.arrow
    async def test_a_field_added_between_two_pages_loses_no_row(self, tmp_path: Path) -> None:
        async with self.feed(tmp_path) as (store, backend):
            await store.insert("notes", small_rows(9))
            page = await backend.changes(await backend.open_table("notes"), 0, limit=4)
            assert not page.complete
            await store.add_field("notes", "more", Field(int))
            follower = Follower(backend, "notes")
            follower.rows = {row["id"]: row for row in python_rows(page.upserted)}
            try:
                await follower.follow(4, since=page.number)
            except ChangesPrunedError:
                await follower.follow(4, since=0)
            assert follower.rows.keys() == (await _content(store, "notes")).keys()

    @pytest.mark.arrow
    async def test_a_follower_beside_writers_ends_with_their_rows(self, tmp_path: Path) -> None:
        async with self.feed(tmp_path) as (store, backend):
            follower = Follower(backend, "notes")

            async def write(n: int) -> None:
                for step in range(6):
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

    @pytest.mark.arrow
    async def test_changes_that_are_no_longer_kept_raise_an_error(self, tmp_path: Path) -> None:
        if not self.forgetful:
            pytest.skip("this backend keeps changes as long as it likes")
        async with self.feed(tmp_path, **self.forgetful) as (store, backend):
            assert backend.supports("changes")
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
            # The feed keeps all changes from the floor on.
            fresh = Follower(backend, "notes")
            fresh.rows, fresh.number = await _content(store, "notes"), floor
            await store.upsert("notes", small_rows(2, start=500))
            await store.delete("notes", "r0299")
            await fresh.follow(3)
            assert fresh.rows == await _content(store, "notes")
            # A follower that starts now also reads the rows from below the floor in pages.
            late = Follower(backend, "notes")
            await late.follow(3)
            assert late.rows == fresh.rows

    @pytest.mark.arrow
    async def test_change_numbers_of_another_table_are_refused(self, tmp_path: Path) -> None:
        async with self.feed(tmp_path) as (store, backend):
            await store.insert("notes", small_rows(5))
            follower = Follower(backend, "notes")

            async def begins_anew() -> None:
                with pytest.raises(ChangesPrunedError):
                    await follower.follow()
                follower.rows, follower.number = {}, 0
                await follower.follow(2)
                assert follower.rows == await _content(store, "notes")
                await store.update("notes", {"name": "newer"}, where="TRUE")
                await store.delete("notes", where="id LIKE '%3'")
                await follower.follow(2)
                assert follower.rows == await _content(store, "notes")

            await follower.follow()
            for number in (2 * follower.number, 2**200):
                with pytest.raises(ChangesPrunedError):
                    await follower.follow(since=number)
            await store.drop_table("notes")
            await store.create_table("notes", EVERY_KIND)
            await store.insert("notes", small_rows(5, start=10))
            await begins_anew()
            if self.renames_tables:
                await store.create_table("others", EVERY_KIND)
                await store.insert("others", small_rows(5, start=20))
                await store.rename_table("notes", "old")
                await store.rename_table("others", "notes")
                await begins_anew()

    @pytest.mark.arrow
    async def test_change_numbers_from_before_a_restore_are_refused(self, tmp_path: Path) -> None:
        async with self.feed(tmp_path) as (store, backend):
            self.need(store, "restore")
            await store.insert("notes", small_rows(10))
            follower = Follower(backend, "notes")
            await follower.follow()
            await store.backup(tmp_path / "backup")
            await store.delete("notes", ["r0001", "r0002"])
            await store.update("notes", {"name": "later"}, where="TRUE")
            await store.insert("notes", small_rows(1, start=50))
            await follower.follow()
        await aiovec.restore(tmp_path / "backup", self.target(tmp_path), overwrite=True)
        for read_only in (True, False):
            async with self.connect(tmp_path, read_only=read_only) as store:
                with pytest.raises(ChangesPrunedError):
                    await store.changes("notes", follower.number)
        async with self.connect(tmp_path) as store, self.opened_backend(tmp_path) as backend:
            fresh = Follower(backend, "notes")
            await fresh.follow(3)
            assert fresh.rows == await _content(store, "notes")
