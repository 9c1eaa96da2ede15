"""The change feed where the history of a table ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec.errors import ChangesPrunedError

from .support import backend_on, opened


async def ids_of(backend: Any, since: int) -> tuple[list[str], list[str]]:
    """Return the ids of what was written and deleted after a change number."""
    page = await backend.changes(await backend.open_table("notes"), since)
    assert page.complete
    return sorted(page.upserted.column("id").to_pylist()), sorted(page.deleted)


async def test_a_return_to_an_earlier_version_ends_the_numbers(tmp_path: Path) -> None:
    """What it changed back has no number, so nobody may go on behind an older one."""
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as backend:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(5))
        version = (await store.versions("notes"))[-1]["version"]
        await store.update("notes", {"year": 9}, ids=["r0001"])
        number = await backend.change_number(await backend.open_table("notes"))
        await store.revert("notes", version)
        with pytest.raises(ChangesPrunedError) as caught:
            await ids_of(backend, number)
        assert number < caught.value.floor
        await store.delete("notes", "r0002")
        assert await ids_of(backend, caught.value.floor) == ([], ["r0002"])
        assert await ids_of(backend, 0) == (["r0000", "r0001", "r0003", "r0004"], [])


async def test_numbers_of_a_dropped_table_and_of_a_copy_are_not_mistaken(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as backend:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(5))
        number = await backend.change_number(await backend.open_table("notes"))
        await store.backup(tmp_path / "copy")
        await store.drop_table("notes")
        await store.create_table("notes", SMALL)
        for n in range(5):
            await store.upsert("notes", small_rows(1, start=n))
        with pytest.raises(ChangesPrunedError):
            await ids_of(backend, number)
    async with backend_on(tmp_path / "copy") as copy:
        with pytest.raises(ChangesPrunedError):
            await ids_of(copy, number)


async def test_numbers_end_where_one_backup_is_restored_twice(tmp_path: Path) -> None:
    """Both times the same history goes on, each in a way of its own."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(5))
        await store.backup(tmp_path / "copy")
    address = f"lancedb://{tmp_path / 's'}"
    await aiovec.restore(tmp_path / "copy", address, overwrite=True)
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as backend:
        await store.update("notes", {"year": 9}, ids=["r0001"])
        number = await backend.change_number(await backend.open_table("notes"))
    await aiovec.restore(tmp_path / "copy", address, overwrite=True)
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as backend:
        await store.update("notes", {"year": 8}, ids=["r0002"])
        with pytest.raises(ChangesPrunedError):
            await ids_of(backend, number)


async def test_an_open_migration_keeps_the_versions_that_its_changes_need(tmp_path: Path) -> None:
    settings = {"keep_versions": "0 seconds", "max_versions": 1}
    async with opened(tmp_path / "s", **settings) as store, backend_on(tmp_path / "s") as backend:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(5))
        await backend.begin_move("r1")
        number = await backend.change_number(await backend.open_table("notes"))
        await store.delete("notes", "r0002")
        await store.optimize("notes")
        assert await ids_of(backend, number) == ([], ["r0002"])
        await backend.end_move("r1")
        await store.delete("notes", "r0003")
        await store.optimize("notes")
        with pytest.raises(ChangesPrunedError):
            await ids_of(backend, number)
