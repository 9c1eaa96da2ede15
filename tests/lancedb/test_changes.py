"""The change feed after a table's history has ended."""

from __future__ import annotations

import asyncio
import errno
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.changes import Follower
from tests.harness import syscalls
from tests.harness.marks import begin_move, end_move
from tests.harness.processes import run_python
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec.errors import ChangesPrunedError

from .support import backend_on, lance_calls, opened


async def ids_of(backend: Any, since: int) -> tuple[list[str], list[str]]:
    """Return the ids of the rows written and deleted after a change number."""
    page = await backend.changes(await backend.open_table("notes"), since)
    assert page.complete
    return sorted(page.upserted.column("id").to_pylist()), sorted(page.deleted)


async def test_revert_ends_the_change_numbers(tmp_path: Path) -> None:
    """The reverted changes have no numbers, so no reader may continue from an older number."""
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as backend:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(5))
        await backend.notes(await backend.open_table("notes"), {"mark": "early"})
        version = (await store.versions("notes"))[-1]["version"]
        await backend.notes(await backend.open_table("notes"), {"mark": "late"})
        await store.update("notes", {"year": 9}, ids=["r0001"])
        number = await backend.change_number(await backend.open_table("notes"))
        await store.revert("notes", np.int64(version))  # as a frame of the versions has it
        with pytest.raises(ChangesPrunedError) as caught:
            await ids_of(backend, number)
        assert number < caught.value.floor
        assert await backend.notes(await backend.open_table("notes")) == {"mark": "early"}
        await store.delete("notes", "r0002")
        assert await ids_of(backend, caught.value.floor) == ([], ["r0002"])
        assert await ids_of(backend, 0) == (["r0000", "r0001", "r0003", "r0004"], [])


# This reverts a table in one folder after another, with later and later faults, until none occurs.
# One process does all, because loading LanceDB takes long; if it is killed, the next continues.
REVERT = """
import asyncio, os, sys
from pathlib import Path
import aiovec
from tests.harness import syscalls

async def main(root, version, error, skips):
    faults = syscalls.Faults(Path(os.environ[syscalls.VARIABLE]))
    for skip in skips:
        async with aiovec.connect(f"lancedb://{root}/{skip}") as store:
            await store.count("notes")
            faults.arm(syscalls.CHANGES, "notes.lance/_versions", skip=skip, error=error)
            try:
                await store.revert("notes", version)
                outcome = "done"
            except aiovec.AiovecError:
                outcome = "failed"
            failed = faults.disarm()
        print(skip, outcome, flush=True)
        if not failed:
            break

root, *numbers = sys.argv[1:]
version, error, *skips = map(int, numbers)
asyncio.run(main(root, version, error, skips))
"""


async def reverts(root: Path, version: int, error: int, skips: list[int]) -> dict[int, str]:
    """Return each revert's outcome, by the calls before its fault: done, failed or killed."""
    environment = syscalls.environment(root, root / "control")
    outcomes: dict[int, str] = {}
    while left := skips[len(outcomes) :]:
        done = await asyncio.to_thread(
            run_python, "-c", REVERT, root, version, error, *left, env=environment
        )
        for line in done.stdout.splitlines():
            skip, outcome = line.split()
            outcomes[int(skip)] = outcome
        if done.returncode == 0:
            break
        assert (done.returncode, error) == (-signal.SIGKILL, syscalls.KILL), done
        outcomes[skips[len(outcomes)]] = "killed"
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOSPC, syscalls.KILL])
async def test_a_revert_that_fails_at_any_step_says_so_and_misleads_no_follower(
    tmp_path: Path, error: int
) -> None:
    """The caller gets the true outcome, and a follower has the table's rows or starts again."""
    followed, skips = {}, list(range(0, 30, 3))
    for skip in skips:
        folder = tmp_path / str(skip)
        async with opened(folder) as store, backend_on(folder) as backend:
            await store.create_table("notes", SMALL)
            await store.insert("notes", small_rows(3))
            version = (await store.versions("notes"))[-1]["version"]
            await store.update("notes", {"year": 9}, ids=["r0001"])
            await store.delete("notes", "r0002")
            follower = Follower(backend, "notes")
            await follower.follow()
            followed[skip] = (follower.rows, follower.number)
    outcomes = await reverts(tmp_path, version, error, skips)
    for skip, outcome in outcomes.items():
        folder = tmp_path / str(skip)
        async with opened(folder) as store, backend_on(folder) as backend:
            later = Follower(backend, "notes")
            later.rows, later.number = followed[skip]
            for _ in range(2):
                try:
                    await later.follow(1)
                except ChangesPrunedError:
                    later.rows, later.number = {}, 0
                    await later.follow(1)
                rows = {record.id: record["year"] for record in await store.find("notes")}
                assert {id: row["year"] for id, row in later.rows.items()} == rows, (skip, outcome)
                reverted = "r0002" in rows
                await store.upsert("notes", small_rows(1, start=7))
        assert outcome == "killed" or reverted == (outcome == "done"), (skip, outcome)
    assert len(outcomes) > 2
    assert [*outcomes.values()][-1] == "done"
    assert ("killed" in outcomes.values()) is (error == syscalls.KILL)


async def test_numbers_end_where_one_backup_is_restored_twice(tmp_path: Path) -> None:
    """The same history continues twice, in different ways."""
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
        await begin_move(backend, "r1")
        number = await backend.change_number(await backend.open_table("notes"))
        await store.delete("notes", "r0002")
        await store.optimize("notes")
        assert await ids_of(backend, number) == ([], ["r0002"])
        await end_move(backend, "r1")
        await store.delete("notes", "r0003")
        await store.optimize("notes")
        with pytest.raises(ChangesPrunedError):
            await ids_of(backend, number)


async def test_pages_are_planned_together(tmp_path: Path) -> None:
    """The cost of a page depends on its rows: one query plans many pages."""
    async with opened(tmp_path / "s", index="none") as store, backend_on(tmp_path / "s") as other:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(2000))
        handle = await other.open_table("notes")

        async def follow(number: int) -> tuple[int, list[str], list[str], int]:
            """Return the changes after a number, and the number of pages."""
            written: list[str] = []
            deleted: list[str] = []
            for pages in range(1, 100):
                page = await store.changes("notes", number, limit=50)
                number = page.number
                written += page.upserted.column("id").to_pylist()
                deleted += page.deleted
                if page.complete:
                    return number, written, deleted, pages
            raise AssertionError("the feed does not end")

        with lance_calls() as calls:
            number, written, _, pages = await follow(0)
        assert sorted(written) == [f"r{n:04}" for n in range(2000)]
        assert pages == 40
        assert calls["to_batches"] == 1  # what a page returns is taken by its row ids
        await store.update("notes", {"name": "new"}, where="year < 500")
        await store.delete("notes", where="year >= 1500")
        half = await store.changes("notes", number, limit=250)
        page = await other.changes(handle, half.number, limit=2000)  # as another process does
        with lance_calls() as calls:
            _, written, deleted, pages = await follow(number)
        assert sorted(written) == [f"r{n:04}" for n in range(500)]
        assert sorted(deleted) == [f"r{n:04}" for n in range(1500, 2000)]
        assert pages == 20
        assert calls["to_batches"] == 0  # the page above had all rows looked at
        assert [*half.deleted, *page.deleted] == deleted
        assert [*half.upserted["id"].to_pylist(), *page.upserted["id"].to_pylist()] == written
