"""Export: in the order in which rows lie, or in that of ids; and what comes behind a cursor."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.sqlite.support import run_code

from aiovec import InvalidArgumentError, VectorStore
from aiovec_lancedb import export
from aiovec_lancedb.limits import ExportLimits, Limits

from .support import SMALL, ids_in, numbered, opened

# A cursor before every id: what earlier releases gave, and an export whose version has gone.
BY_IDS = b"+"


def ids_of(batches: list[pa.RecordBatch]) -> list[str]:
    return [id for batch in batches for id in batch.column("id").to_pylist()]


def cursor_of(batch: pa.RecordBatch) -> bytes:
    cursor: bytes = batch.schema.metadata[b"aiovec.cursor"]
    return cursor


def shuffled(count: int) -> list[dict[str, Any]]:
    rows = numbered(count)
    random.Random(5).shuffle(rows)
    return rows


async def batches_of(store: VectorStore, **options: Any) -> list[pa.RecordBatch]:
    return [batch async for batch in store.export("notes", **options)]


@pytest.mark.slow
@pytest.mark.parametrize("after", [None, BY_IDS], ids=["as they lie", "by ids"])
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.soak), 7, 64, 1000])
async def test_a_large_table_goes_in_parts(
    tmp_path: Path, batch_size: int, after: bytes | None
) -> None:
    """Parts, blocks and batches each end somewhere else."""
    limits = Limits(
        export=ExportLimits(sorted_ids=60, sample=20, block_bytes=17 * (512 + 16), looked_up=13)
    )
    rows = shuffled(501)
    inserted = [row["id"] for row in rows]
    order = inserted if after is None else sorted(inserted)
    async with opened(tmp_path / "s", limits) as store:
        await store.create_table("notes", SMALL)
        for start in range(0, 501, 120):
            await store.insert("notes", rows[start : start + 120])
        batches = await batches_of(store, batch_size=batch_size, after=after)
        ids = ids_of(batches)
        assert ids == order
        assert {batch.num_rows for batch in batches[:-1]} <= {batch_size}
        years = [year for batch in batches for year in batch.column("year").to_pylist()]
        assert years == [int(id[1:]) for id in order]
        for place in {0, len(batches) // 2, len(batches) - 1}:
            cursor = cursor_of(batches[place])
            rest = await batches_of(store, batch_size=batch_size, after=cursor)
            assert ids_of(rest) == ids[(place + 1) * batch_size :]
            if 0 < batch_size < 64 and place + 1 < len(batches):
                assert cursor_of(rest[0]) == cursor_of(batches[place + 1])
        filtered = await batches_of(store, where="year >= 490", select=["year"], after=after)
        years = [year for b in filtered for year in b.column("year").to_pylist()]
        assert years == [int(id[1:]) for id in order if id >= "r00490"]


@pytest.mark.parametrize("after", [None, BY_IDS], ids=["as they lie", "by ids"])
async def test_ids_of_every_kind(tmp_path: Path, after: bytes | None) -> None:
    """Their order is that of code points, in Lance and in Arrow."""
    ids = ["'", '"', "\\", "%", "a", "A", "é", "z", "\uffff", "\U0001f600", "x" * 512, "--", "\n"]
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", [{"id": id, "embedding": [1, 2, 3, 4]} for id in ids])
        seen: list[str] = []
        cursor = after
        while batches := await batches_of(store, batch_size=2, after=cursor):
            seen += batches[0].column("id").to_pylist()
            cursor = cursor_of(batches[0])
        assert seen == (ids if after is None else sorted(ids))


# What may happen to a table between an export and the one behind its cursor.

Change = Callable[[VectorStore], Awaitable[Any]]


async def _compacted(store: VectorStore) -> None:
    await store.optimize("notes")


async def _all_updated(store: VectorStore) -> None:
    await store.update("notes", {"owner": "new"}, where="TRUE")


async def _some_updated(store: VectorStore) -> None:
    await store.update("notes", {"owner": "new"}, where="year < 60")
    await store.upsert("notes", [{**row, "owner": "new"} for row in numbered(40, start=300)])


async def _some_replaced(store: VectorStore) -> None:
    await store.delete("notes", [f"r{n:05}" for n in range(200, 250)])
    await store.insert("notes", [{**row, "owner": "new"} for row in numbered(50, start=200)])


async def _more_inserted(store: VectorStore) -> None:
    await store.insert("notes", [{**row, "owner": "new"} for row in numbered(50, start=500)])


async def _a_field_added(store: VectorStore) -> None:
    await store.add_field("notes", "lang", str)
    await store.update("notes", {"lang": "en"}, where="year < 50")


async def _all_of_it(store: VectorStore) -> None:
    for change in (_some_updated, _compacted, _more_inserted, _a_field_added, _some_replaced):
        await change(store)
    await _compacted(store)


CHANGES = [
    _compacted, _all_updated, _some_updated, _some_replaced, _more_inserted, _a_field_added,
    _all_of_it,
]  # fmt: skip


@pytest.mark.parametrize("where", [None, "year >= 100"])
@pytest.mark.parametrize("change", CHANGES)
async def test_behind_a_cursor_each_row_comes_once_as_it_is_now(
    tmp_path: Path, change: Change, where: str | None
) -> None:
    """Whatever moved rows meanwhile; and those that are new come as well."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        rows = shuffled(400)
        for start in range(0, 400, 80):
            await store.insert("notes", rows[start : start + 80])
        given = (await batches_of(store, where=where, batch_size=37))[:4]
        await change(store)
        rest = await batches_of(store, where=where, batch_size=41, after=cursor_of(given[-1]))
        ids = ids_of(given) + ids_of(rest)
        assert len(ids) == len(set(ids))
        found = await store.find("notes", where=where, limit=1000)
        assert sorted(ids) == sorted(record.id for record in found)
        now = {record.id: record.fields for record in found}
        for batch in rest:
            for id, owner in zip(ids_of([batch]), batch.column("owner").to_pylist(), strict=True):
                assert owner == now[id]["owner"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_pages_of_a_table_that_is_written_to(tmp_path: Path, seed: int) -> None:
    """Each page by an export of its own, with writes before the next: rows that stay come once."""
    chance = random.Random(seed)
    async with opened(tmp_path / "s", keep_versions="1 hour") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", shuffled(150))
        gone: set[str] = set()
        seen: list[str] = []
        cursor, new = None, 1000
        for step in range(200):
            batches = await batches_of(store, batch_size=11, after=cursor)
            if not batches:
                break
            seen += ids_of(batches[:1])
            cursor = cursor_of(batches[0])
            if step > 12:
                continue  # or new rows would come for ever
            match chance.randrange(5):
                case 0:
                    victims = [f"r{n:05}" for n in chance.sample(range(150), 5)]
                    gone |= set(victims)
                    await store.delete("notes", victims)
                case 1:
                    await store.insert("notes", numbered(3, start=(new := new + 10)))
                case 2:
                    await store.update("notes", {"owner": f"{step}"}, where="year < 70")
                case 3:
                    await store.optimize("notes")
        else:
            pytest.fail("it never ends")
        staying = [f"r{n:05}" for n in range(150) if f"r{n:05}" not in gone]
        assert sorted(id for id in seen if id in set(staying)) == staying
        assert set(await ids_in(store)) <= set(seen)


@pytest.mark.parametrize("where", [None, "year >= 100"])
async def test_behind_the_cursor_of_a_version_that_has_gone_all_rows_come(
    tmp_path: Path, where: str | None
) -> None:
    """Nothing tells which were given. From there on it goes by ids, whose cursors hold for ever."""
    async with opened(tmp_path / "s", keep_versions="0 seconds") as store:
        await store.create_table("notes", SMALL)
        rows = shuffled(300)
        for start in range(0, 300, 60):
            await store.insert("notes", rows[start : start + 60])
        cursor = cursor_of((await batches_of(store, where=where, batch_size=50))[1])
        await store.update("notes", {"owner": "new"}, where="year < 10")
        await store.optimize("notes")
        assert len(await store.versions("notes")) == 1
        every = [f"r{n:05}" for n in range(0 if where is None else 100, 300)]
        batches = await batches_of(store, where=where, batch_size=30, after=cursor)
        assert ids_of(batches) == every
        await store.update("notes", {"owner": "newer"}, where="TRUE")
        await store.optimize("notes")
        cursor = cursor_of(batches[2])
        rest = await batches_of(store, where=where, batch_size=40, after=cursor)
        assert ids_of(rest) == every[90:]


async def test_the_cursor_of_another_filter_or_table_loses_no_row(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", shuffled(60))
        cursor = cursor_of((await batches_of(store, where="year >= 10", batch_size=20))[1])
        rest = await batches_of(store, where="year < 30", after=cursor)
        assert ids_of(rest) == [f"r{n:05}" for n in range(30)]
        await store.drop_table("notes")
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(60, start=100))
        rest = await batches_of(store, where="year >= 10", after=cursor)
        assert ids_of(rest) == [f"r{n:05}" for n in range(100, 160)]


async def test_a_cursor_in_a_copy_of_the_store_loses_no_row(tmp_path: Path) -> None:
    """A copy counts its versions anew, so the cursor's number may be that of another one."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", shuffled(60))
        await store.update("notes", {"owner": "new"}, where="year < 30")
        batches = await batches_of(store, batch_size=20)
        await store.backup(tmp_path / "copy")
    async with opened(tmp_path / "copy") as copy:
        for n in range(12):
            await copy.delete("notes", [f"r{n:05}"])
            for batch in batches[:2]:
                rest = ids_of(await batches_of(copy, after=cursor_of(batch)))
                given = ids_of(batches[: batches.index(batch) + 1])
                assert set(rest) | set(given) >= set(await ids_in(copy))


@pytest.mark.parametrize(
    "cursor",
    [b"@", b"@{}", b"@[]", b"@[1,2,3,4,5,6]", b'@["","",1,-1,"",null]', b'@["","",1,1,"",true]',
        b'@["","",1e3,1,"",3]', b'@["","",9223372036854775808,1,"",3]',
     b"@" + b"[" * 100_000, b"@\xff", b"+\xff", b"?"],
)  # fmt: skip
async def test_what_is_no_cursor(tmp_path: Path, cursor: bytes) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        with pytest.raises(InvalidArgumentError):
            await batches_of(store, after=cursor)


@pytest.mark.parametrize(
    "cursor", [b'@["","",1,1,"",null]', b'@["","",9223372036854775807,9999999999,"",3]']
)
async def test_a_cursor_of_nothing_loses_no_row(tmp_path: Path, cursor: bytes) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(3))
        assert ids_of(await batches_of(store, after=cursor)) == ["r00000", "r00001", "r00002"]
        [own] = await batches_of(store)
        parts = json.loads(cursor_of(own)[1:])
        for place, value in ((2, 2**63 - 1), (3, 2**63 - 1), (3, 4), (4, "0"), (5, 2**62)):
            changed = [*parts[:place], value, *parts[place + 1 :]]
            cursor = b"@" + json.dumps(changed).encode()
            assert ids_of(await batches_of(store, after=cursor)) == ["r00000", "r00001", "r00002"]


async def test_compaction_during_an_export(tmp_path: Path) -> None:
    """Every row is moved into new files while they are read."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        for start in range(0, 400, 40):
            await store.insert("notes", numbered(40, start=start))
        seen = []
        async for batch in store.export("notes", batch_size=50):
            seen += batch.column("id").to_pylist()
            await store.update("notes", {"owner": f"{len(seen)}"}, where="TRUE")
            await store.optimize("notes")
        assert seen == [f"r{n:05}" for n in range(400)]
        assert await ids_in(store) == seen


async def test_blocks_of_large_rows_are_as_large_as_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B16: whatever lies beside the vector, and however small Lance's files of it are."""
    sizes: list[int] = []
    after = export._BlockSize.after

    def noted(size: Any, block: pa.Table) -> pa.Table:
        sizes.append(block.nbytes)
        return after(size, block)

    limits = Limits(export=ExportLimits(first_rows=8, block_bytes=2**18))
    monkeypatch.setattr(export._BlockSize, "after", noted)
    rows = [{**row, "owner": "o" * 10_000, "more": "m" * 10_000} for row in numbered(200)]
    async with opened(tmp_path / "s", limits) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", rows)
        assert await ids_in(store) == [row["id"] for row in rows]
        assert 20 * 10_000 < max(sizes) < 2**18 + 2 * 20_000
        sizes.clear()
        [_] = [b async for b in store.export("notes", select=["year"])]
        assert len(sizes) == 3, "small rows go many at once"


MEMORY = """
import asyncio, resource, sys
import numpy as np
from aiovec import Schema
from tests.lancedb.support import opened

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def main(path):
    async with opened(path) as store:
        vectors = np.random.default_rng(0).standard_normal((5_000, 1024), dtype=np.float32)
        await store.create_table("notes", Schema(1024))
        for n in range(24):
            ids = [f"{n:02}{i:06}" for i in range(5_000)]
            await store.insert("notes", {"id": ids, "embedding": vectors})
        before = peak()
        rows = 0
        async for batch in store.export("notes", batch_size=1_000):
            rows += batch.num_rows
        assert rows == 120_000, rows
        print(peak() - before)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no peak of memory this way")
def test_memory_stays_within_some_blocks(tmp_path: Path) -> None:
    """470 MiB of vectors leave in a fraction of that."""
    done = run_code(MEMORY, str(tmp_path / "s"), fresh=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) < 350, f"{done.stdout} MiB more"


async def test_garbled_cursors_are_refused_or_go_on_where_they_say(tmp_path: Path) -> None:
    """A cursor comes from outside: whatever it is, no row comes twice, and no raw error."""
    sequence = random.Random(1)
    numbers = [b"-1", b"0", b"1", b"2147483648", b"18446744073709551616", b"9" * 30]
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(60))
        cursors = [cursor_of(batch) for batch in await batches_of(store, batch_size=7)]
        refused = 0
        for _ in range(200):
            cursor = bytearray(sequence.choice(cursors))
            place = sequence.randrange(len(cursor))
            end = place + sequence.randrange(3)
            cursor[place:end] = sequence.choice([*numbers, b"", b"\xff", b'"'])
            try:
                ids = ids_of(await batches_of(store, after=bytes(cursor)))
            except InvalidArgumentError:
                refused += 1
            else:
                assert len(ids) == len(set(ids)) <= 60, bytes(cursor)
        assert refused > 20
