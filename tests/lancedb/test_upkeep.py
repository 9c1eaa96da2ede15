"""Tables stay small by themselves, and nobody who reads or writes is the worse for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from tests.harness.cancel import STOPS, stopped_at
from tests.harness.cases import case
from tests.harness.marks import fill
from tests.harness.processes import output_of, start_code
from tests.harness.values import SMALL, small_rows
from tests.harness.waiting import until

from aiovec import AiovecError, Field, Schema, StoreBusyError, VectorStore

from .buckets import Bucket, s3_server
from .indexed import ROWS, filled, rows
from .support import backend_on, details, ids_in, lance_calls, listed, opened

# Exports a table in a process of its own: prints a line when it has the first batch, and the number
# of rows when it was told to go on.
EXPORT = """
import asyncio, sys, aiovec

async def main():
    async with aiovec.connect("lancedb://" + sys.argv[1]) as store:
        rows = 0
        async for batch in store.export("notes", batch_size=10):
            if not rows:
                print("reading", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
            rows += len(batch)
        print(rows, flush=True)

asyncio.run(main())
"""

# Calls a store again and again beside the build of a graph and beside a compaction, on two cores.
# Prints of each kind of call the number, and the most reads by id that ended during one of them.
BESIDE = """
import asyncio, json, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import numpy as np
from tests.lancedb.support import opened
from aiovec import Field, Schema

SCHEMA = Schema(64, fields={"body": Field(str, text=True), "number": Field(int, index="btree")})
chance = np.random.default_rng(0)

def rows(first, count):
    return {
        "id": [f"r{n}" for n in range(first, first + count)],
        "embedding": chance.standard_normal((count, 64), dtype=np.float32),
        "body": [f"word{n}" for n in chance.integers(0, 300, count)],
        "number": np.arange(count),
    }

async def main(url):
    async with opened(url, index="none", upkeep="elsewhere") as store:
        vector = np.ones(64)
        calls = {
            "vector": lambda: store.search("notes", vector),
            "filtered": lambda: store.search("notes", vector, where="number > 100"),
            "keywords": lambda: store.search_text("notes", "word7"),
            "hybrid": lambda: store.search_hybrid("notes", "word7", vector),
            "get": lambda: store.get("notes", ["r7"]),
            "find": lambda: store.find("notes", where="number = 7"),
            "count": lambda: store.count("notes", where="body LIKE '%7'"),
        }

        async def beside(work):
            task, ended = asyncio.ensure_future(work), dict.fromkeys(calls, 0)
            longest = dict(ended)

            async def again(name):
                while not task.done():
                    began = ended["get"]
                    await calls[name]()
                    ended[name] += 1
                    longest[name] = max(longest[name], ended["get"] - began)

            await asyncio.gather(task, *map(again, calls))
            return {name: (ended[name], longest[name]) for name in calls}

        await store.create_table("notes", SCHEMA)
        await store.insert("notes", rows(0, 5000))
        await store.optimize("notes")
        for call in calls.values():
            await call()
        build = await beside(store.create_index("notes", "hnsw_sq"))
        for n in range(20):
            await store.insert("notes", rows(5000 + 300 * n, 300))
        compaction = await beside(store.optimize("notes"))
        print(json.dumps({"build": build, "compaction": compaction}))

asyncio.run(main("lancedb://" + sys.argv[1]))
"""


async def insert_singly(store: VectorStore, count: int, start: int = 0) -> None:
    for row in small_rows(count, start=start):
        await store.insert("notes", [row])


def tasks_in_memory() -> int:
    gc.collect()
    return sum(isinstance(each, asyncio.Task) for each in gc.get_objects())


async def test_optimize_leaves_one_file_and_the_versions_to_keep(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    async with opened(tmp_path / "s", keep_versions="0 seconds") as store:
        await store.create_table("notes", SMALL)
        await insert_singly(store, 30)
        await store.optimize("notes")
        at = (await store.stats("notes")).last_optimize
        assert at is not None
        assert began <= at <= datetime.now(UTC)
        assert await details(store, "fragments") == 1
        assert await ids_in(store) == [row["id"] for row in small_rows(30)]

        async def few() -> bool:  # what somebody may just be reading is kept for a moment
            await store.optimize("notes")
            return len(await store.versions("notes")) < 5

        await until(few)
        before = tasks_in_memory()
        for _ in range(10):
            await store.optimize("notes")
        assert tasks_in_memory() < before + 5
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as mover:
        await store.insert("notes", small_rows(3, start=500))
        await fill(mover, "r1", "/a")  # only the run may write rows, but upkeep changes none
        kept = [version["version"] for version in await store.versions("notes")]
        await store.optimize("notes")
        assert [v["version"] for v in await store.versions("notes")][: len(kept)] == kept


@pytest.mark.soak(minutes=1)
async def test_single_rows_leave_few_files_and_then_upkeep_rests(tmp_path: Path) -> None:
    """Of versions made within a moment it removes none or all, and does not try again for ever."""
    async with opened(tmp_path / "s", max_versions=20) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(1000, start=1000))
        await insert_singly(store, 200)
        with lance_calls() as calls:
            await until(lambda: calls["list_versions"])  # a removal reads them

            async def few() -> bool:
                return bool(
                    await details(store, "fragments") <= 20
                    and await details(store, "versions") <= 150
                )

            await until(few)
            await asyncio.sleep(7)  # a look at the versions that were still too new
            removals = calls["list_versions"]
            await asyncio.sleep(14)
            assert calls["list_versions"] == removals
        assert await ids_in(store) == [f"r{n:04}" for n in [*range(200), *range(1000, 2000)]]


async def test_a_pass_without_work_opens_the_table_once(tmp_path: Path) -> None:
    """And it reads no manifest of an earlier version."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", replace(SMALL, fields={"kind": Field(str, text=True)}))
        await store.insert("notes", [{"id": f"r{n}", "embedding": [1, 2, 3, n]} for n in range(50)])
        await store.optimize("notes")
    async with opened(tmp_path / "s") as store:
        await store.count("notes")
        with lance_calls() as calls:
            await until(lambda: calls["list_indices"])  # the pass begins after a second
            await asyncio.sleep(0.3)
    assert (calls["schema"], calls["list_indices"], calls["list_versions"]) == (1, 1, 0)


async def test_a_compaction_opens_the_table_for_the_call_its_upkeep_and_its_turn_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step hands on the version that it has made."""
    open_table, times = lancedb.AsyncConnection.open_table, 0

    async def counted(connection: Any, name: str, **options: Any) -> Any:
        nonlocal times
        times += 1
        return await open_table(connection, name, **options)

    async with opened(tmp_path / "s", upkeep="elsewhere", keep_versions="0 seconds") as store:
        await store.create_table("notes", replace(SMALL, fields={"kind": Field(str, text=True)}))
        for n in range(30):
            await store.insert("notes", [{"id": f"r{n}", "embedding": [1, 2, 3, n], "kind": "a"}])
        await store.count("notes")
        monkeypatch.setattr(lancedb.AsyncConnection, "open_table", counted)
        await store.optimize("notes")
        assert times <= 3
        assert await details(store, "fragments") == 1


async def test_a_tag_of_another_program_keeps_its_version_and_stops_no_upkeep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"keep_versions": "0 seconds", "max_versions": 1, "upkeep": "elsewhere"}
    async with opened(tmp_path / "s", **settings) as store:
        await store.create_table("notes", SMALL)
        await insert_singly(store, 5)
        await asyncio.sleep(0.5)  # versions made within a moment are removed together
        await insert_singly(store, 1, start=5)
        other = await lancedb.connect_async(tmp_path / "s")
        table = await other.open_table("notes")
        tagged = await table.version()
        await table.tags.create("release", tagged)

        async def optimized() -> list[int]:
            await store.insert("notes", small_rows(1, start=await store.count("notes")))
            await store.optimize("notes")
            return [version["version"] for version in await store.versions("notes")]

        assert (await optimized())[0] == tagged
        # A tag that upkeep has not seen: Lance refuses to remove the version.
        with monkeypatch.context() as unseen, caplog.at_level("WARNING", logger="aiovec.lancedb"):

            async def none(_: Any) -> dict[str, Any]:
                return {}

            unseen.setattr(type(table.tags), "list", none)
            for _ in range(3):
                await store.optimize("notes")
                assert await details(store, "fragments") == 1
        assert ["tag" in record.message for record in caplog.records] == [True]
        assert (await optimized())[0] == tagged
        await table.tags.delete("release")
        assert tagged not in await optimized()


async def test_a_branch_of_another_program_keeps_its_rows(tmp_path: Path) -> None:
    settings = {"keep_versions": "0 seconds", "max_versions": 1, "upkeep": "elsewhere"}
    async with opened(tmp_path / "s", **settings) as store:
        await store.create_table("notes", SMALL)
        await insert_singly(store, 3)
        other = await lancedb.connect_async(tmp_path / "s")
        branch = await (await other.open_table("notes")).branches.create("trial")
        await asyncio.sleep(0.5)  # versions made within a moment are removed together
        for row in small_rows(3):
            await store.delete("notes", row["id"])
            await store.insert("notes", small_rows(1, start=400 + int(row["id"][1:])))
            await store.optimize("notes")
        assert (await branch.query().select(["id"]).to_arrow()).num_rows == 3
        assert await details(store, "fragments") == 1


@pytest.mark.slow
async def test_the_next_store_that_opens_a_table_compacts_it(tmp_path: Path) -> None:
    """Also a store that only reads; it makes the vector index that is due, too."""
    for part in range(0, ROWS, 100):
        async with opened(tmp_path / "s", index_from=1500) as store:
            if part:
                await store.insert("notes", rows(part, part + 100))
            else:
                await filled(store, 100)
    async with opened(tmp_path / "s", index_from=1500) as store:
        assert await details(store, "fragments") == 20
        await store.search("notes", [1.0] * 32)

        async def done() -> bool:
            kinds = [info.kind for info in await store.indexes("notes")]
            return len(kinds) == 1 and await details(store, "fragments") <= 16

        await until(done)
        assert await store.count("notes") == ROWS


async def test_a_version_stays_while_an_export_reads_it(tmp_path: Path) -> None:
    """While it lasts and not longer, whether it comes to its end, is left or is cancelled."""
    async with opened(tmp_path / "s", keep_versions="0 seconds", max_versions=1) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(100))
        first = (await store.versions("notes"))[-1]
        export = aiter(store.export("notes", batch_size=10))
        seen = len(await anext(export))
        async with contextlib.aclosing(store.export("notes", batch_size=10)) as left:  # type: ignore[type-var]
            await anext(left)
        for at in range(1, 20):
            await stopped_at(ids_in(store), at, STOPS["once"])
        await asyncio.sleep(0.5)  # versions made within a moment are removed together
        await store.insert("notes", small_rows(1, start=400))
        later = aiter(store.export("notes", batch_size=10))
        await anext(later)
        for n in range(5):
            await store.delete("notes", [f"r{n:04}"])
            await store.insert("notes", small_rows(3, start=500 + 3 * n))
            await store.optimize("notes")
        assert first in await store.versions("notes")
        async for batch in export:
            seen += len(batch)
        assert seen == 100
        await later.aclose()  # type: ignore[attr-defined]

        async def few() -> bool:
            await store.optimize("notes")
            return len(await store.versions("notes")) <= 2

        await until(few)
        assert await store.count("notes") == 111
        assert await listed(tmp_path / "s" / ".aiovec" / "readers" / "notes") == []


@pytest.mark.parametrize(
    "dies",
    [pytest.param(False, marks=pytest.mark.soak), pytest.param(True, marks=pytest.mark.slow)],
)
async def test_a_version_stays_while_another_process_reads_it(tmp_path: Path, dies: bool) -> None:
    """It is kept while that process reads it, and no longer: not when it was killed either."""
    async with opened(tmp_path / "s", keep_versions="0 seconds", max_versions=1) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(100))
        process = await start_code(EXPORT, str(tmp_path / "s"))
        await store.delete("notes", [f"r{n:04}" for n in range(50)])
        await insert_singly(store, 5, start=500)
        await store.optimize("notes")
        assert len(await store.versions("notes")) > 5
        if dies:
            process.kill()
            await process.wait()
        else:
            output, _ = await process.communicate(b"\n")
            assert output.split() == [b"100"]

        async def few() -> bool:
            await store.optimize("notes")
            return len(await store.versions("notes")) <= 2

        await until(few)


async def test_no_call_fails_because_of_a_compaction(tmp_path: Path) -> None:
    """Writes and reads of two stores while a third compacts without a pause."""
    fields = {**SMALL.fields, "owner": Field(str, index="bitmap"), "tags": list[str]}
    async with (
        opened(tmp_path / "s", max_versions=5) as first,
        opened(tmp_path / "s", max_versions=5) as second,
        opened(tmp_path / "s", max_versions=5) as third,
    ):
        await first.create_table("notes", replace(SMALL, fields=fields))
        await first.insert("notes", small_rows(200, owner="o", tags=["t"]))
        over = False

        async def write(store: VectorStore, start: int) -> dict[str, int]:
            kept: dict[str, int] = {}
            for n in range(start, start + 3):
                [row] = small_rows(1, start=n)
                await store.insert("notes", [row])
                await store.upsert("notes", [{**row, "year": -n}])
                kept[row["id"]] = -n
                if n % 3 == 0:
                    await store.update("notes", {"year": 7}, ids=[row["id"]])
                    kept[row["id"]] = 7
                elif n % 3 == 1:
                    assert await store.delete("notes", [row["id"]]) == 1
                    del kept[row["id"]]
            return kept

        async def read(store: VectorStore) -> None:
            while not over:
                assert len(await store.search("notes", [1, 5, 2, 3], limit=5)) == 5
                assert len(await ids_in(store)) >= 200
                assert await store.count("notes", "owner = 'o'") == 200

        async def tidy() -> None:
            while not over:
                await third.optimize("notes")

        others = [asyncio.ensure_future(work) for work in (read(first), read(second), tidy())]
        try:
            done = await asyncio.gather(write(first, 1000), write(second, 2000), write(first, 3000))
        finally:
            over = True
            await asyncio.gather(*others)
        wanted = {f"r{n:04}": n for n in range(200)}
        for kept in done:
            wanted |= kept
        records = await second.find("notes", limit=10_000)
        assert {record.id: record["year"] for record in records} == wanted


@pytest.mark.slow
async def test_a_table_is_dropped_while_it_is_tidied(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        for _ in range(4):
            await store.create_table("notes", SMALL)
            await insert_singly(store, 12)
            tidying = asyncio.ensure_future(store.optimize("notes"))
            await asyncio.sleep(0)
            await store.drop_table("notes")
            (ended,) = await asyncio.gather(tidying, return_exceptions=True)
            assert ended is None or isinstance(ended, AiovecError)
        await store.create_table("notes", SMALL)
        assert await store.count("notes") == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the test takes two cores of many")
async def test_every_search_goes_on_beside_a_build_and_a_compaction(tmp_path: Path) -> None:
    """None waits for most of it, as keyword searches did until a graph was built. Reads by id,
    which wait for nothing, are the clock."""
    printed = await asyncio.to_thread(output_of, "-c", BESIDE, tmp_path / "s")
    for work, calls in json.loads(printed).items():
        reads, _ = calls["get"]
        for name, (count, longest) in calls.items():
            with case(f"{name} beside a {work} and {reads} reads"):
                assert count >= 3
                assert longest < reads / 3


@pytest.mark.slow
async def test_a_store_whose_upkeep_is_elsewhere_does_none_by_itself(tmp_path: Path) -> None:
    """A store that leaves it to others does only what it is asked for."""
    async with opened(tmp_path / "s", upkeep="elsewhere", index_from=256) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(300))
        await insert_singly(store, 30, start=300)
        await asyncio.sleep(1.5)  # upkeep would begin behind 16 commits, and in a second's quiet
        assert await details(store, "fragments") == 31
        assert await store.indexes("notes") == []
        await store.optimize("notes")
        assert await details(store, "fragments") == 1
        assert len(await store.indexes("notes")) == 1


async def lease(bucket: Bucket, url: str, **content: object) -> None:
    """Write the object that says who looks after the table ``notes``."""
    await asyncio.to_thread(bucket.put, url, ".aiovec/notes.upkeep", json.dumps(content).encode())


@pytest.mark.slow
async def test_one_process_at_a_time_looks_after_a_table_in_a_bucket(tmp_path: Path) -> None:
    with s3_server() as bucket:
        url, settings = bucket.new_url(), {"storage_options": bucket.options, "index": "none"}
        async with opened(url, **settings, upkeep="elsewhere") as store:
            await store.create_table("notes", SMALL)
            await insert_singly(store, 20)
        await lease(bucket, url, owner="another", until=time.time() + 1000)
        async with opened(url, **settings, busy_timeout=0.5) as store:
            with pytest.raises(StoreBusyError, match="another process is doing the upkeep"):
                await store.optimize("notes")
            await asyncio.sleep(2.5)  # its own upkeep would have begun
            assert await details(store, "fragments") == 20
            assert await store.insert("notes", small_rows(1, start=20)) == 1
            # One that was killed holds nobody off for long.
            await lease(bucket, url, owner="another", until=time.time() - 1)
            await store.optimize("notes")
            assert await details(store, "fragments") == 1
        # It is given back, and what nobody can read holds nobody off.
        async with opened(url, **settings, busy_timeout=0.0) as store:
            await store.optimize("notes")
            await lease(bucket, url, owner=7)
            await store.optimize("notes")


@pytest.mark.slow
async def test_a_large_table_is_compacted_beside_its_writers(tmp_path: Path) -> None:
    """One of more than 64 MiB. No write is lost, and none fails."""
    count, dim = 2200, 8192
    async with opened(tmp_path / "s", index="none", upkeep="elsewhere") as store:
        await store.create_table("notes", Schema(dim, fields={"year": int}))
        ids = [f"r{n:04}" for n in range(count)]
        await store.insert("notes", {"id": ids, "embedding": np.ones((count, dim), np.float32)})
        for n in range(20):
            await store.update("notes", {"year": n}, ids=ids[n])
        optimizing = asyncio.ensure_future(store.optimize("notes"))
        written = 20
        while not optimizing.done():
            assert await store.update("notes", {"year": written}, ids=ids[written]) == 1
            written += 1
        await optimizing
        assert written > 20
        years = {record.id: record["year"] for record in await store.find("notes", limit=count)}
        assert years == {id: n if n < written else None for n, id in enumerate(ids)}
        await store.optimize("notes")
        assert await details(store, "fragments") == 1
