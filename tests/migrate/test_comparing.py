"""Comparing two tables row by row, and making them the same."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.values import EVERY_KIND, SMALL, rows_of_every_kind, small_rows
from tests.migrate.pairs import PAIRS, Pair, all_rows, delete, pair_of, upsert

from aiovec import Field, MigrationError, Schema, StoreClosedError, TableNotFoundError
from aiovec._input.rows import to_table
from aiovec.backend import ChangeFeed
from aiovec_migrate.host import RealHost
from aiovec_migrate.verifying.compare import (
    Sides,
    differing_ids,
    sync,
    unaltered,
    verify_changes,
    verify_ids,
)
from aiovec_migrate.verifying.hashes import LIMITS, Digest, Hashes, Limits, in_parts, unlike

# So little is kept that every step has to be taken, some of them often.
TIGHT = Limits(buckets=8, kept=3, collected=10)
NOTHING = ((), (), ())

# A busy machine is no fault of the code.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


# Two stores of different kinds show each kind as source and as target, so two of the same kind run
# with the long tests.
_PARAMS = [
    pytest.param(pair, marks=[pytest.mark.soak] * (pair[0] == pair[1]), id="-".join(pair))
    for pair in PAIRS
]


@pytest.fixture(params=_PARAMS)
async def pair(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with pair_of(tmp_path, *request.param) as made:
        yield made


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two SQLite files, where the backends do not matter."""
    async with pair_of(tmp_path, "sqlite", "sqlite") as made:
        yield made


async def compare(pair: Pair, **options: Any) -> Any:
    return await differing_ids(*await pair.tables(), host=RealHost(), **options)


async def synced(pair: Pair, **options: Any) -> Any:
    return await sync(*await pair.tables(), host=RealHost(), **options)


async def verified(pair: Pair, ids: Sequence[str], **options: Any) -> list[str]:
    return await verify_ids(*await pair.tables(), ids, host=RealHost(), **options)


def changed(row: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**row, **values}


@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["kept", "tight"])
@pytest.mark.parametrize("count", [0, 1, 300])
async def test_equal_tables(pair: Pair, count: int, limits: Limits) -> None:
    rows = rows_of_every_kind(count)
    await pair.fill(EVERY_KIND, rows)
    read: list[int] = []
    found = await compare(pair, limits=limits, progress=read.append)
    assert (found.source_rows, found.target_rows, found.total) == (count, count, 0)
    assert (found.missing_ids, found.extra_ids, found.different_ids) == NOTHING
    assert sum(read) == 2 * count
    assert await verified(pair, [row["id"] for row in rows]) == []


@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["kept", "tight"])
async def test_every_kind_of_difference_is_named(pair: Pair, limits: Limits) -> None:
    rows = rows_of_every_kind(60)
    await pair.fill(EVERY_KIND, rows)
    vector = np.array(rows[1]["embedding"])
    vector.view(np.uint32)[2] ^= 1  # the lowest bit
    different = [
        changed(rows[1], embedding=vector),
        changed(rows[2], name=""),
        changed(rows[4], year=(rows[4]["year"] or 0) + 1),
        changed(rows[5], score=np.nextafter(rows[5]["score"] or 0.0, 9.0).item()),
        changed(rows[6], seen=None),
        changed(rows[7], live=not rows[7]["live"]),
        changed(rows[8], tags=list(reversed(rows[8]["tags"] or ["p", "q"]))),
        changed(rows[9], nested={**rows[9]["nested"], "number": 9.0}),
        changed(rows[10], late=None),
    ]
    await upsert(pair.target, different)
    missing, extra = ["r0020", "r0021", "r0055"], ["new", "r", "zz"]
    await delete(pair.target, missing)
    await upsert(pair.target, [changed(rows[0], id=id) for id in extra])
    found = await compare(pair, limits=limits)
    assert (found.source_rows, found.target_rows) == (60, 60)
    assert sorted(found.missing_ids) == missing
    assert sorted(found.extra_ids) == extra
    assert sorted(found.different_ids) == [row["id"] for row in different]
    assert (found.missing, found.extra, found.different) == (3, 3, 9)
    assert len(found.ids) == found.total
    assert found.total == len(found.ids) == 15
    asked = [*extra, *(row["id"] for row in rows), "absent", "new"]
    assert sorted(await verified(pair, asked)) == sorted(found.ids)


async def test_a_row_under_another_id(pair: Pair) -> None:
    """Two rows that are swapped, and one that is doubled, have the same values in all."""
    rows = small_rows(20)
    await pair.fill(SMALL, rows)
    await upsert(pair.target, [changed(rows[3], id="r0004"), changed(rows[4], id="r0003")])
    found = await compare(pair)
    assert (found.missing, found.extra) == (0, 0)
    assert sorted(found.different_ids) == ["r0003", "r0004"]


async def test_values_that_change_places_between_rows(files: Pair) -> None:
    """All columns hold what they held before, each in another row."""
    rows = small_rows(50)
    await files.fill(SMALL, rows)
    years = [row["year"] for row in rows]
    await upsert(
        files.target,
        [changed(row, year=years[i - 1]) for i, row in enumerate(rows)],
    )
    assert (await compare(files)).different == 50


@pytest.mark.slow
@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["kept", "tight"])
async def test_all_are_counted_and_the_first_named(pair: Pair, limits: Limits) -> None:
    await pair.fill(SMALL, small_rows(200))
    await delete(pair.target, [f"r{n:04}" for n in range(100)])
    await upsert(pair.target, small_rows(50, start=150, name="other"))
    await upsert(pair.target, small_rows(30, start=500))
    for most in (0, 1, 7, 30):
        found = await compare(pair, most=most, limits=limits)
        assert (found.missing, found.extra, found.different) == (100, 30, 50)
        assert [len(ids) for ids in (found.missing_ids, found.extra_ids, found.different_ids)] == [
            most
        ] * 3
        assert found.total == 180
        assert len(found.ids) < found.total
    found = await compare(pair, most=100, limits=limits)
    assert len(found.ids) == found.total


async def test_without_the_vectors(pair: Pair) -> None:
    rows = small_rows(30)
    await pair.fill(SMALL, rows)
    await upsert(pair.target, [changed(row, embedding=[9, 9, 9, 9]) for row in rows])
    assert (await compare(pair)).different == 30
    assert (await compare(pair, ignore_vector=True)).total == 0
    ids = [row["id"] for row in rows]
    assert await verified(pair, ids, ignore_vector=True) == []
    assert await verified(pair, ids) == ids
    await upsert(pair.target, [changed(rows[3], name="other")])
    assert (await compare(pair, ignore_vector=True)).different_ids == ("r0003",)


async def test_ids_that_are_given_twice_or_are_nowhere(files: Pair) -> None:
    await files.fill(SMALL, small_rows(5))
    await delete(files.target, ["r0001"])
    asked = ["nowhere", "r0001", "r0002", "r0001"]
    assert await verified(files, asked) == ["r0001"]
    assert await verified(files, []) == []


# Making them the same


@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["kept", "tight"])
async def test_sync_writes_only_what_differs(pair: Pair, limits: Limits) -> None:
    rows = rows_of_every_kind(300)
    await pair.fill(EVERY_KIND, rows)
    await upsert(pair.target, [changed(row, name="other") for row in rows[:5]])
    await delete(pair.target, ["r0007", "r0008"])
    await upsert(pair.target, [changed(rows[0], id="new")])
    target, before = pair.target, 0
    if isinstance(target, ChangeFeed):
        before = await target.change_number(await target.open_table("notes"))
    found = await synced(pair, limits=limits)
    assert (found.missing, found.extra, found.different) == (2, 1, 5)
    assert (found.copied, found.deleted) == (7, 1)
    if isinstance(target, ChangeFeed):
        changes = await target.changes(await target.open_table("notes"), before)
        written = changes.upserted.column("id").to_pylist()
        assert sorted(written) == sorted(found.missing_ids + found.different_ids)
        assert list(changes.deleted) == ["new"]
    assert _alike(await all_rows(target), await all_rows(pair.source))
    again = await synced(pair, limits=limits)
    assert (again.total, again.copied, again.deleted) == (0, 0, 0)


def _alike(one: pa.Table, other: pa.Table) -> bool:
    """Equal but for the order of keys in a payload, which LanceDB does not keep."""
    names = [name for name in one.column_names if name != "payload"]
    texts = [
        [None if text is None else json.loads(text) for text in table.column("payload").to_pylist()]
        for table in (one, other)
    ]
    return bool(one.select(names).equals(other.select(names))) and texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["kept", "tight"])
async def test_sync_of_many_rows(pair: Pair, limits: Limits) -> None:
    """Into an empty table, and where half of a table differs."""
    await pair.fill(SMALL, [])
    await upsert(pair.source, small_rows(5_000))
    found = await synced(pair, limits=LIMITS)
    assert (found.missing, found.copied) == (5_000, 5_000)
    await upsert(pair.source, small_rows(2_500, start=1_250, name="other"))
    await delete(pair.source, [f"r{n:04}" for n in range(1_000)])
    if limits is TIGHT:
        limits = Limits(buckets=64, kept=3, collected=1_000)
    found = await synced(pair, limits=limits)
    assert (found.missing, found.extra, found.different) == (0, 1_000, 2_500)
    assert (found.copied, found.deleted) == (2_500, 1_000)
    assert (await all_rows(pair.target)).equals(await all_rows(pair.source))


def large_rows(count: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [
        {"id": f"r{n:04}", "embedding": [1.0, 2.0], "text": chance.randbytes(50_000).hex()}
        for n in range(count)
    ]


@pytest.mark.slow
async def test_large_rows_are_read_a_few_at_once(pair: Pair) -> None:
    rows = large_rows(200)
    await pair.fill(Schema(2), rows)
    sides = await Sides.of(*await pair.tables(), host=RealHost(), vector=True)
    seen: list[int] = []
    await sides.compared(LIMITS, lambda batch: seen.append(batch.nbytes))
    # Some 100 KB each; LanceDB keeps them in half of that.
    assert sum(seen) > 200 * 100_000
    assert max(seen) <= 164 * 100_100
    await upsert(pair.source, [changed(one, text=one["text"][::-1]) for one in rows])
    taken = 0

    async def leave() -> None:
        nonlocal taken
        taken += 1

    assert (await synced(pair, leave=leave)).copied == 200
    assert taken > 1


async def test_sync_leaves_what_the_source_got_meanwhile(files: Pair) -> None:
    """Rows that were compared before they were written to the source are no extra ones."""
    rows = small_rows(20)
    await files.fill(SMALL, rows)
    await upsert(files.target, small_rows(3, start=50))
    sides = await Sides.of(*await files.tables(), host=RealHost(), vector=True)
    found = await sides.compared(LIMITS)
    assert len(found.extra) == 3
    await upsert(files.source, small_rows(2, start=50))
    assert await sides.delete_extra(found) == 1
    assert (await compare(files)).total == 0


async def test_sync_passes_over_what_the_source_lost_meanwhile(files: Pair) -> None:
    await files.fill(SMALL, small_rows(20))
    await delete(files.target, ["r0003", "r0004"])
    sides = await Sides.of(*await files.tables(), host=RealHost(), vector=True)
    found = await sides.compared(LIMITS)
    await delete(files.source, ["r0003"])
    assert await sides.copy(found) == 1
    assert (await compare(files)).total == 0


async def test_sync_with_vectors_of_another_model(files: Pair) -> None:
    rows = small_rows(40)
    other = Schema(2, model="other", fields=SMALL.fields)
    await files.source.create_table("notes", SMALL)
    await files.target.create_table("notes", other)
    await upsert(files.source, rows)

    async def embedded(table: pa.Table) -> pa.Table:
        years = table.column("year").to_numpy().astype(np.float32)
        pairs = np.stack([years, years + 1], axis=1).reshape(-1)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(pairs), 2)
        columns = [
            vectors if name == "embedding" else table.column(name) for name in table.column_names
        ]
        return pa.Table.from_arrays(columns, schema=other.to_arrow())

    assert (await synced(files, transform=embedded)).copied == 40
    assert (await synced(files, transform=embedded)).total == 0
    vectors = (await all_rows(files.target)).column("embedding").to_pylist()
    assert vectors[7] == [7.0, 8.0]
    with pytest.raises(MigrationError, match="dim is 2, not 4"):
        await compare(files)


# Under writes


@pytest.mark.slow
async def test_what_is_written_meanwhile_is_found_and_settles(pair: Pair) -> None:
    """Each comparison is of snapshots; what differs in them is looked at again afterwards."""
    await pair.fill(SMALL, small_rows(2_000))
    done = asyncio.Event()

    async def write() -> int:
        for n in range(30):
            rows = small_rows(3, start=37 * n, name=f"at {n}")
            await upsert(pair.source, rows)
            await upsert(pair.target, rows)
            await asyncio.sleep(0)
        done.set()
        return 90

    writing = asyncio.create_task(write())
    suspects: set[str] = set()
    while not done.is_set():
        found = await compare(pair, limits=Limits(buckets=256, kept=10, collected=500))
        assert len(found.ids) == found.total
        assert found.source_rows == found.target_rows == 2_000
        suspects.update(found.ids)
    assert await writing == 90
    assert suspects <= {f"r{37 * n + k:04}" for n in range(30) for k in range(3)}
    assert await verified(pair, sorted(suspects)) == []
    assert (await compare(pair)).total == 0


async def test_many_edits_against_a_plain_comparison(files: Pair) -> None:
    """Random edits on both sides; what is found is what dictionaries say."""
    drawn = random.Random(3)
    mine = {row["id"]: row for row in small_rows(400)}
    await files.fill(SMALL, list(mine.values()))
    theirs = dict(mine)
    for _ in range(6):
        for rows, backend in ((mine, files.source), (theirs, files.target)):
            gone = drawn.sample(sorted(rows), 10)
            await delete(backend, gone)
            for id in gone:
                del rows[id]
            written = [
                changed(row, name=drawn.choice("ab"))
                for row in small_rows(15, start=drawn.randrange(450))
            ]
            await upsert(backend, written)
            rows.update((row["id"], row) for row in written)
        shared = mine.keys() & theirs.keys()
        expected = (
            mine.keys() - theirs.keys(),
            theirs.keys() - mine.keys(),
            {id for id in shared if _told(mine[id]) != _told(theirs[id])},
        )
        for limits in (LIMITS, TIGHT):
            found = await compare(files, most=1_000, limits=limits)
            named = (found.missing_ids, found.extra_ids, found.different_ids)
            assert tuple(map(set, named)) == expected
        assert set(await verified(files, [*mine, *theirs])) == set().union(*expected)


def _told(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*np.asarray(row["embedding"]).tolist(), row["name"], row["year"])


# What cannot be compared


async def test_tables_of_other_shapes(files: Pair) -> None:
    await files.source.create_table("notes", SMALL)
    await files.target.create_table("notes", Schema(4, fields={"name": str, "year": float}))
    with pytest.raises(MigrationError, match=r"another schema.*'year'"):
        await compare(files)
    with pytest.raises(TableNotFoundError):
        await files.tables("absent")


async def test_options_of_fields_do_not_keep_rows_from_being_equal(files: Pair) -> None:
    indexed = Schema(4, model="m", fields={"name": Field(str, index="btree"), "year": int})
    for backend, schema in ((files.source, SMALL), (files.target, indexed)):
        await backend.create_table("notes", schema)
        await upsert(backend, small_rows(10))
    assert (await compare(files)).total == 0


async def test_a_table_that_is_altered_meanwhile(pair: Pair) -> None:
    await pair.fill(SMALL, small_rows(10))
    sides = await Sides.of(*await pair.tables(), host=RealHost(), vector=True)
    handle = await pair.target.open_table("notes")
    await pair.target.add_field(handle, "late", Field(str))
    with pytest.raises(MigrationError, match="altered"), unaltered("notes"):
        await sides.compared(LIMITS)


async def test_a_failing_side_raises_its_own_error_and_frees_the_other(tmp_path: Path) -> None:
    async with pair_of(tmp_path, "sqlite", "lancedb") as pair:
        await pair.fill(SMALL, small_rows(3_000))
        sides = await Sides.of(*await pair.tables(), host=RealHost(), vector=True)
        await pair.target.close()
        with pytest.raises(StoreClosedError):
            await sides.compared(LIMITS)
        await pair.source.drop_table("notes")


async def test_a_cancelled_comparison_leaves_the_stores_usable(pair: Pair) -> None:
    await pair.fill(SMALL, small_rows(3_000))
    for _ in range(5):
        comparing = asyncio.create_task(compare(pair))
        for _ in range(20):
            await asyncio.sleep(0)
        comparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await comparing
    assert (await compare(pair)).total == 0
    await pair.source.drop_table("notes")
    await pair.target.drop_table("notes")


# The sums themselves


def _hashes(rows: dict[int, int]) -> Hashes:
    ids = np.array(list(rows), dtype=np.uint64)
    return Hashes(ids, np.array(list(rows.values()), dtype=np.uint64))


numbers = st.dictionaries(st.integers(0, 40), st.integers(0, 2**64 - 1), max_size=20)


@UNHURRIED
@given(numbers, numbers)
def test_unlike_hashes(mine: dict[int, int], theirs: dict[int, int]) -> None:
    # A row's hash covers its id.
    mine = {id: row * 64 % 2**64 | id for id, row in mine.items()}
    theirs = {id: row * 64 % 2**64 | id for id, row in theirs.items()}
    missing, extra, different = unlike(_hashes(mine), _hashes(theirs))
    assert set(missing.tolist()) == mine.keys() - theirs.keys()
    assert set(extra.tolist()) == theirs.keys() - mine.keys()
    shared = mine.keys() & theirs.keys()
    assert set(different.tolist()) == {id for id in shared if mine[id] != theirs[id]}


@UNHURRIED
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 20))
def test_buckets_are_read_in_parts_of_few_rows(counts: list[int], most: int) -> None:
    rows = np.array(counts)
    chosen = rows > 0
    parts = list(in_parts(chosen, rows, most))
    assert np.array_equal(np.sum([chosen & False, *parts], axis=0), chosen)
    assert all(part.sum() == 1 or rows[part].sum() <= most for part in parts)


def test_a_digest_keeps_few_rows_and_all_sums() -> None:
    digest, whole = Digest(Limits(buckets=16, kept=100)), Digest(Limits(buckets=16))
    batch = pa.record_batch({"id": pa.array(["x"])})
    drawn = np.random.default_rng(1)
    for _ in range(30):
        hashes = Hashes(*drawn.integers(0, 2**64, (2, 50), dtype=np.uint64))
        digest.add(batch, hashes)
        whole.add(batch, hashes)
    assert digest.rows == digest.counts.sum() == 1_500
    assert digest.kept is None
    assert whole.kept is not None
    kept = whole.kept.all()
    assert len(kept.ids) == 1_500
    assert not digest.differing(whole).any()
    # In another order, and in one piece.
    order = drawn.permutation(1_500)
    again = Digest(Limits(buckets=16))
    again.add(batch, Hashes(kept.ids[order], kept.rows[order]))
    assert not again.differing(whole).any()
    again.add(batch, Hashes(kept.ids[:1], kept.rows[:1]))
    assert again.differing(whole).sum() == 1


async def test_changes_are_compared_as_they_were_not_as_the_source_is_now(pair: Pair) -> None:
    """So that what is written meanwhile never looks like a difference."""
    rows = rows_of_every_kind(30)
    await pair.fill(EVERY_KIND, rows)
    page = to_table(rows[:10], EVERY_KIND)
    gone = [row["id"] for row in rows[10:12]]
    await delete(pair.target, gone)
    await upsert(pair.source, [changed(row, year=-5) for row in rows[:10]])

    async def unlike_changes(page: pa.Table, deleted: Sequence[str]) -> list[str]:
        return await verify_changes((await pair.tables())[1], page, deleted, host=RealHost())

    assert await unlike_changes(page, gone) == []
    assert await unlike_changes(page, [*gone, rows[20]["id"]]) == [rows[20]["id"]]
    await delete(pair.target, [rows[3]["id"]])
    await upsert(pair.target, [changed(rows[4], year=-5)])
    assert sorted(await unlike_changes(page, gone)) == sorted(rows[n]["id"] for n in (3, 4))
