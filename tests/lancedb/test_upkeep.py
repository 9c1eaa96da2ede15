"""Tables stay small by themselves, and nobody who reads or writes is the worse for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.clock import DrivenClock
from tests.waiting import until

from aiovec import Field, Schema, VectorStore
from aiovec._core import pool
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.limits import Limits, UpkeepLimits
from aiovec_lancedb.settings import LancedbSettings
from aiovec_lancedb.upkeep.retention import Pins, Retention, Version
from aiovec_lancedb.upkeep.schedule import Shape
from aiovec_lancedb.upkeep.tidy import Tidying

from .support import ROOT, SMALL, ids_in, numbered, opened

# Reads a table by an export in a process of its own: prints a line when it has the first batch, and
# the number of rows when it was told to go on.
EXPORT = """
import asyncio, sys
from tests.lancedb.support import opened

async def main():
    async with opened(sys.argv[1]) as store:
        rows = 0
        async for batch in store.export("notes", batch_size=10):
            if not rows:
                print("reading", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
            rows += len(batch)
        print(rows, flush=True)

asyncio.run(main())
"""


def files_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


async def insert_singly(store: VectorStore, count: int, start: int = 0) -> None:
    for row in numbered(count, start):
        await store.insert("notes", [row])


@pytest.mark.slow
async def test_single_rows_leave_few_files(tmp_path: Path) -> None:
    count = 300
    async with opened(tmp_path / "s", max_versions=20) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(1000, start=50_000))
        most = 0
        for start in range(0, count, 50):
            await insert_singly(store, 50, start)
            most = max(most, (await store.stats("notes")).details["fragments"])
        # While they come there are never as many files as were written.
        assert most < 240, f"{most} files"

        async def small() -> bool:
            details = (await store.stats("notes")).details
            few = details["fragments"] <= 5 and details["versions"] < 40
            # A manifest and a transaction for each version that is kept, and the data files that
            # the oldest of them still had; without upkeep there would be 900 and more.
            return bool(few and files_in(tmp_path / "s") < 260)

        await until(small)
        ids = [f"r{n:05}" for n in (*range(count), *range(50_000, 51_000))]
        assert await ids_in(store) == ids
        (hit,) = await store.search("notes", [1, 133, 2, 3], limit=1, exact=True)
        assert hit["year"] == 133


async def test_versions_that_may_be_read_yet_are_removed_later(tmp_path: Path) -> None:
    """They stayed for good where the last look found few files and only young versions."""
    async with opened(tmp_path / "s", Limits(upkeep=UpkeepLimits(quiet=0.2)), max_versions=5) as s:
        await s.create_table("notes", SMALL)
        await s.insert("notes", numbered(100))
        for n in range(40):
            await s.delete("notes", f"r{n:05}")
        assert (await s.stats("notes")).details["versions"] > 40

        async def few() -> bool:
            return bool((await s.stats("notes")).details["versions"] < 25)

        await until(few)


async def test_versions_that_an_export_held_are_removed_behind_it(tmp_path: Path) -> None:
    """They are all younger than what is read, so no look before its end can remove any."""
    async with opened(tmp_path / "s", Limits(upkeep=UpkeepLimits(quiet=0.2)), max_versions=5) as s:
        await s.create_table("notes", SMALL)
        await s.insert("notes", numbered(100))
        export = s.export("notes", batch_size=10)
        rows = (await anext(export)).num_rows
        for n in range(40):
            await s.delete("notes", f"r{n:05}")
        await asyncio.sleep(7)  # longer than versions are kept for those who may read them
        assert (await s.stats("notes")).details["versions"] > 40
        rows += sum([batch.num_rows async for batch in export])
        assert rows == 100

        async def few() -> bool:
            return bool((await s.stats("notes")).details["versions"] < 25)

        await until(few)


async def test_the_quiet_behind_a_look_is_looked_at_too(tmp_path: Path) -> None:
    """Where the last look came at once behind the last write, or during a rest."""
    limits = Limits(upkeep=UpkeepLimits(commits=1, quiet=0.3))
    async with opened(tmp_path / "s", limits) as store:
        await store.create_table("notes", SMALL)
        await insert_singly(store, 12)

        async def small() -> bool:
            return bool((await store.stats("notes")).details["fragments"] <= 5)

        await until(small, seconds=30)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tasks", [1, 50])
async def test_ten_thousand_single_rows(tmp_path: Path, tasks: int) -> None:
    """What that does to a search is measured by ``python -m bench lancedb``."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        share = 10_000 // tasks
        async with asyncio.TaskGroup() as group:
            for task in range(tasks):
                group.create_task(insert_singly(store, share, task * share))

        async def small() -> bool:
            details = (await store.stats("notes")).details
            return bool(details["fragments"] <= 5 and details["versions"] < 130)

        await until(small)
        assert files_in(tmp_path / "s") < 600
        assert await store.count("notes") == 10_000


# Upkeep at once, for very little, beside the writes, and without a rest.
EAGERLY = UpkeepLimits(commits=4, quiet=0.02, files=1, soon_done=-1, rest=0.0)
EAGER = Limits(upkeep=EAGERLY)


async def test_no_write_fails_for_it(tmp_path: Path) -> None:
    """Writes of every kind, from two stores, to files that are rewritten at the same moment."""
    settings = {"max_versions": 5}
    async with (
        opened(tmp_path / "s", EAGER, **settings) as one,
        opened(tmp_path / "s", EAGER, **settings) as two,
    ):
        # Indexes of both kinds that are filled anew each time.
        fields = {"owner": Field(str, index="bitmap"), "tags": list[str]}
        await one.create_table("notes", replace(SMALL, fields={**SMALL.fields, **fields}))
        await one.insert("notes", numbered(200))
        over = asyncio.Event()

        async def write(store: VectorStore, start: int) -> dict[str, int]:
            rows: dict[str, int] = {}
            for n in range(8):
                id = f"r{start + n:05}"
                await store.insert("notes", numbered(1, start=start + n))
                rows[id] = start + n
                await store.upsert("notes", [{**numbered(1, start=start)[0], "year": n}])
                rows[f"r{start:05}"] = n
                if n % 3 == 0:
                    await store.update("notes", {"year": 7}, ids=[id])
                    rows[id] = 7
                if n % 4 == 3:
                    assert await store.delete("notes", [id]) == 1
                    del rows[id]
            return rows

        async def read(store: VectorStore) -> int:
            reads = 0
            while not over.is_set():
                hits = await store.search("notes", [1, 5, 2, 3], limit=5)
                assert len(hits) == 5
                assert len(await ids_in(store)) >= 200
                reads += 1
            return reads

        readers = [asyncio.ensure_future(read(store)) for store in (one, two)]
        written = await asyncio.gather(
            write(one, 1000), write(two, 2000), write(one, 3000), write(two, 4000)
        )
        await one.optimize("notes")
        over.set()
        assert all(await asyncio.gather(*readers))
        await one.add_field("notes", "late", Field(str))
        wanted = {f"r{n:05}": n for n in range(200)}
        for rows in written:
            wanted |= rows
        found = await two.find("notes", limit=10_000)
        assert {record.id: record["year"] for record in found} == wanted
        assert (await one.stats("notes")).last_optimize is not None


async def test_what_an_export_reads_is_kept(tmp_path: Path) -> None:
    """In this process, in another one, and a backup: while it lasts, and not longer."""
    async with opened(tmp_path / "s", keep_versions="0 seconds", max_versions=1) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(100))
        export = aiter(store.export("notes", batch_size=10))
        seen = len(await anext(export))
        process = await other_export(tmp_path / "s")
        for n in range(5):
            await store.delete("notes", [f"r{n:05}"])
            await store.insert("notes", numbered(3, start=500 + 3 * n))
            await store.optimize("notes")
        assert len(await store.versions("notes")) > 5
        async for batch in export:
            seen += len(batch)
        assert seen == 100
        await store.optimize("notes")
        assert len(await store.versions("notes")) > 5  # for the other process
        told, _ = await process.communicate(b"\n")
        assert told.split() == [b"100"]
        await store.optimize("notes")
        assert len(await store.versions("notes")) <= 2
        assert await store.count("notes") == 110


async def test_a_process_that_died_keeps_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", keep_versions="0 seconds") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(100))
        process = await other_export(tmp_path / "s")
        process.kill()
        await process.wait()
        await insert_singly(store, 5, start=500)
        await store.optimize("notes")
        assert len(await store.versions("notes")) <= 2
        left = [path for path in (tmp_path / "s" / ".aiovec" / "readers").rglob("*")
                if path.is_file()]  # fmt: skip
        assert left == []


async def other_export(path: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", EXPORT, str(path), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"reading\n"
    return process


async def test_an_abandoned_export_keeps_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", keep_versions="0 seconds") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(100))
        async with contextlib.aclosing(store.export("notes", batch_size=10)) as export:  # type: ignore[type-var]
            await anext(export)
        task = asyncio.ensure_future(ids_in(store))
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait({task})
        await insert_singly(store, 5, start=500)
        await store.optimize("notes")
        assert len(await store.versions("notes")) <= 2


async def test_a_version_is_given_back_whenever_its_reader_is_cancelled(tmp_path: Path) -> None:
    pins = Pins("a place of this test", tmp_path)
    threads = pool.thread_limiter()
    busy = [object() for _ in range(int(threads.available_tokens))]
    reading, done = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        async with pins.held("notes", 7):
            reading.set()
            await done.wait()

    for cancel_twice in (False, True):
        reader = asyncio.ensure_future(read())
        await reading.wait()
        assert await asyncio.to_thread(pins.oldest, "notes") == 7
        # No thread is free at the moment when it ends.
        for one in busy:
            threads.acquire_on_behalf_of_nowait(one)
        done.set()
        await asyncio.sleep(0.01)
        reader.cancel()
        if cancel_twice:
            await asyncio.sleep(0.01)
            reader.cancel()
        await asyncio.sleep(0.01)
        for one in busy:
            threads.release_on_behalf_of(one)
        await asyncio.wait({reader})
        assert reader.cancelled()
        assert await asyncio.to_thread(pins.oldest, "notes") is None
        reading.clear()
        done.clear()


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    """While another has the table to itself, nothing is tidied; behind it everything is."""
    other = LancedbBackend(str(tmp_path / "s"), LancedbSettings(), EAGER)
    await other.open()
    clock = DrivenClock()
    async with (
        opened(tmp_path / "s", EAGER, clock) as store,
        VectorStore(other, RetrievalSettings()),
    ):
        await store.create_table("notes", SMALL)
        keeper = other._housekeeper
        assert keeper is not None
        async with keeper.alone("notes"):
            await insert_singly(store, 30)
            await clock.rounds(5)
            stats = await store.stats("notes")
            assert stats.details["fragments"] == 30
            assert stats.last_optimize is None
        await store.optimize("notes")
        assert (await store.stats("notes")).details["fragments"] == 1


@pytest.mark.slow
async def test_others_writes_are_no_quiet(tmp_path: Path) -> None:
    """A store that wrote a little leaves a table alone in which another goes on writing."""
    limits = Limits(upkeep=replace(EAGERLY, commits=10_000, files=10_000, quiet=0.5))
    async with opened(tmp_path / "s", limits) as one, opened(tmp_path / "s", limits) as two:
        await one.create_table("notes", SMALL)
        await insert_singly(one, 8)
        await insert_singly(two, 8, start=100)
        files = 16
        end = asyncio.get_running_loop().time() + 1.5
        while asyncio.get_running_loop().time() < end:
            await insert_singly(two, 1, start=100 + files)
            files += 1
        assert (await one.stats("notes")).details["fragments"] == files

        async def small() -> bool:
            return bool((await one.stats("notes")).details["fragments"] <= 5)

        await until(small)


async def test_a_table_rests_from_the_upkeep_of_any(tmp_path: Path) -> None:
    limits, clock = Limits(upkeep=replace(EAGERLY, rest=1e6)), DrivenClock()
    async with opened(tmp_path / "s", limits) as one, opened(tmp_path / "s", limits, clock) as two:
        await one.create_table("notes", SMALL)
        await one.insert("notes", numbered(100, start=1000))
        await one.optimize("notes")
        await insert_singly(two, 30)
        await clock.rounds(5)
        assert (await two.stats("notes")).details["fragments"] == 31
        await one.optimize("notes")
        assert (await two.stats("notes")).details["fragments"] == 1


async def test_the_last_optimize_is_told(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(5))
        assert (await store.stats("notes")).last_optimize is None
        await store.optimize("notes")
        at = (await store.stats("notes")).last_optimize
        assert at is not None
        assert began <= at <= datetime.now(UTC)
    async with opened(tmp_path / "s") as store:
        assert (await store.stats("notes")).last_optimize == at
        await store.drop_table("notes")
        await store.create_table("notes", SMALL)
        assert (await store.stats("notes")).last_optimize is None
    async with opened("memory://") as store:
        await store.create_table("notes", SMALL)
        await store.optimize("notes")
        assert (await store.stats("notes")).last_optimize is not None


async def test_closing_ends_it(tmp_path: Path) -> None:
    for _ in range(5):
        async with opened(tmp_path / "s", EAGER) as store:
            await store.create_table("notes", SMALL, exist_ok=True)
            rows = await store.count("notes")
            await insert_singly(store, 12, start=rows)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert not tasks, f"these go on: {tasks}"
    async with opened(tmp_path / "s", EAGER) as store:
        assert await ids_in(store) == [f"r{n:05}" for n in range(60)]


async def test_dropped_while_it_is_tidied(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", EAGER) as store:
        for _ in range(5):
            await store.create_table("notes", SMALL)
            await insert_singly(store, 12)
            await store.drop_table("notes")
        await store.create_table("notes", SMALL)
        assert await store.count("notes") == 0


async def test_new_rows_come_into_the_index(tmp_path: Path) -> None:
    limits = Limits(upkeep=UpkeepLimits(unindexed=50, unindexed_share=0.0))
    rng = np.random.default_rng(0)

    def columns(count: int, start: int) -> dict[str, Any]:
        return {
            "id": [f"r{n:05}" for n in range(start, start + count)],
            "embedding": rng.standard_normal((count, 16), dtype=np.float32),
        }

    async with opened(tmp_path / "s", limits) as store:
        await store.create_table("notes", Schema(16))
        await store.insert("notes", columns(2000, 0))
        await store.create_index("notes", "ivf_flat", wait=True)
        await store.insert("notes", columns(300, 5000))

        async def covered() -> bool:
            return all(index.rows_unindexed == 0 for index in await store.indexes("notes"))

        await until(covered)


@pytest.mark.parametrize("in_vain", [False, True])
async def test_indexes_by_value_are_filled_anew(tmp_path: Path, in_vain: bool) -> None:
    """They cover every row afterwards; where the rewriting was broken off, those that they did."""
    fields = {"owner": Field(str, index="bitmap"), "tags": list[str]}
    backend = LancedbBackend(str(tmp_path / "s"), LancedbSettings())
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        await store.create_table("notes", Schema(4, fields=fields))
        ids = [f"r{n:05}" for n in range(300)]
        rows = [
            {"id": id, "embedding": [1.0, 2.0, 3.0, 4.0], "owner": id, "tags": [id, "all"]}
            for id in ids
        ]
        await store.insert("notes", rows[:200])
        await store.optimize("notes")
        before = await store.indexes("notes")
        await store.insert("notes", rows[200:])
        if in_vain:
            keeper = backend._housekeeper
            assert keeper is not None
            handle = await backend.open_table("notes")
            tidying = Tidying(keeper.session, handle, keeper.retention, lambda: None)
            with pytest.raises(TimeoutError):
                await tidying.run(0.0)
        else:
            await store.optimize("notes")
        after = await store.indexes("notes")
        assert [(i.name, i.kind, i.column) for i in after] == [
            (i.name, i.kind, i.column) for i in before
        ]
        assert {i.kind for i in after} == {"bitmap", "label_list"}
        assert all(i.rows_unindexed == 0 for i in after)
        assert [hit.id for hit in await store.find("notes", "owner = 'r00250'")] == ["r00250"]
        assert [hit.id for hit in await store.find("notes", "tags CONTAINS 'r00150'")] == ["r00150"]
        assert await store.count("notes", "tags CONTAINS 'all'") == 300


async def test_indexes_by_value_over_few_rows_and_none(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", Schema(4, fields={"tags": list[str]}))
        await store.optimize("notes")
        rows = [{"id": id, "embedding": [1, 2, 3, 4], "tags": [id]} for id in ("a", "b", "c")]
        await store.insert("notes", rows[:2])
        await store.insert("notes", rows[2:])
        await store.optimize("notes")
        [index] = await store.indexes("notes")
        assert (index.kind, index.rows_indexed, index.rows_unindexed) == ("label_list", 3, 0)
        assert [hit.id for hit in await store.find("notes", "tags CONTAINS 'c'")] == ["c"]


# What is decided


def version(number: int, second: float) -> Version:
    return Version(number, datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=second))


NOW = version(0, 1000).created
KEPT = Retention(timedelta(seconds=500), 3, timedelta(seconds=5))


@pytest.mark.parametrize(
    ("created", "pinned", "first"),
    [
        ([100], None, None),  # the newest is never removed
        ([100, 200], None, 1),  # replaced 800 s ago
        ([100, 600], None, None),  # it was the newest until 400 s ago
        ([600, 700, 800], None, None),
        ([600, 700, 800, 900], None, 1),  # no more than three
        ([991, 992, 993, 994, 998, 999], None, 3),  # replaced within 5 s, and those behind
        ([100, 200, 300, 400], 2, 2),  # somebody reads it
        ([100, 200, 300, 400], 0, None),
    ],
)
def test_which_versions_are_kept(
    created: list[float], pinned: int | None, first: int | None
) -> None:
    versions = [version(number, second) for number, second in enumerate(created)]
    found = KEPT.first_kept(versions, NOW, pinned)
    assert found == (None if first is None else versions[first])


@given(
    seconds=st.lists(st.integers(0, 1000), min_size=1, max_size=40).map(sorted),
    pinned=st.none() | st.integers(0, 40),
    most=st.integers(1, 50),
    keep=st.integers(0, 1200),
    grace=st.integers(0, 100),
)
def test_the_versions_to_keep_are_kept(
    seconds: list[int], pinned: int | None, most: int, keep: int, grace: int
) -> None:
    versions = [version(number, second) for number, second in enumerate(seconds)]
    retention = Retention(timedelta(seconds=keep), most, timedelta(seconds=grace))
    first = retention.first_kept(versions, NOW, pinned)
    kept = versions if first is None else versions[versions.index(first) :]
    assert versions[-1] in kept
    for one, later in itertools.pairwise(versions):
        replaced = (NOW - later.created).total_seconds()
        in_use = (pinned is not None and one.number >= pinned) or replaced < min(grace, keep)
        wanted = replaced < keep and len(versions) - one.number <= most
        assert (one in kept) == (in_use or wanted) or one.number > kept[0].number


def shape(rows: int, files: int, size: int) -> Shape:
    lengths = {"num_fragments": files}
    return Shape.of({"num_rows": rows, "total_bytes": size, "fragment_stats": lengths})


def test_when_there_are_too_many_files() -> None:
    assert not shape(1000, 60, 2**20).too_many_files(UpkeepLimits(), quiet=False)
    assert shape(1000, 70, 2**20).too_many_files(UpkeepLimits(), quiet=False)
    assert shape(1000, 6, 2**20).too_many_files(UpkeepLimits(), quiet=True)
    # A large table costs more to rewrite, so that more files gather.
    assert not shape(900_000, 200, 3 * 2**30).too_many_files(UpkeepLimits(), quiet=False)
    assert not shape(900_000, 16, 3 * 2**30).too_many_files(UpkeepLimits(), quiet=True)
    # Full files are not rewritten.
    assert shape(100_000_000, 95, 300 * 2**30).bytes < 4 * 2**30
    assert not shape(100_000_000, 97, 300 * 2**30).too_many_files(UpkeepLimits(), quiet=True)
    assert shape(100_000_000, 130, 300 * 2**30).too_many_files(UpkeepLimits(), quiet=True)
