"""Comparing two tables with so little memory that every step has to be taken, and making them the
same while they are written to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import MigrationError, VectorStore
from aiovec.backend.origin import Origin
from aiovec_migrate.ends import OpenTable
from aiovec_migrate.host import RealHost
from aiovec_migrate.verifying.compare import Sides, differing_ids, sync, verify_ids
from aiovec_migrate.verifying.hashes import LIMITS, Limits

TIGHT = Limits(buckets=8, kept=3, collected=10)


class Pair:
    """Two SQLite files with a table each, as an app and as the migrator opens them."""

    def __init__(self, one: VectorStore, other: VectorStore, tables: list[OpenTable]) -> None:
        self.source, self.target, self.tables = one, other, tables

    async def compared(self, **options: Any) -> Any:
        return await differing_ids(*self.tables, host=RealHost(), **options)

    async def sides(self) -> Sides:
        return await Sides.of(*self.tables, host=RealHost(), vector=True)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        stores, tables = [], []
        for name in ("a.db", "b.db"):
            store = await stack.enter_async_context(aiovec.connect(tmp_path / name))
            await store.create_table("notes", SMALL)
            resolved = await asyncio.to_thread(Origin(str(tmp_path / name), None).resolve)
            stack.push_async_callback(resolved.backend.close)
            await resolved.backend.open()
            stores.append(store)
            tables.append(await OpenTable.open(resolved.backend, "notes"))
        yield Pair(*stores, tables)


async def test_random_edits_against_a_plain_comparison(pair: Pair) -> None:
    """What is found is what dictionaries say, with much memory and with little."""
    drawn = random.Random(3)
    mine = {row["id"]: row for row in small_rows(200)}
    theirs = dict(mine)
    for store in (pair.source, pair.target):
        await store.insert("notes", drawn.sample([*mine.values()], 200))
    for _ in range(2):
        for rows, store in ((mine, pair.source), (theirs, pair.target)):
            gone = drawn.sample(sorted(rows), 10)
            await store.delete("notes", gone)
            written = small_rows(15, start=drawn.randrange(240), name=drawn.choice("ab"))
            await store.upsert("notes", written)
            for id in gone:
                del rows[id]
            rows.update((row["id"], row) for row in written)
        unlike = {id for id in mine.keys() & theirs.keys() if told(mine[id]) != told(theirs[id])}
        expected = (mine.keys() - theirs.keys(), theirs.keys() - mine.keys(), unlike)
        for limits in (LIMITS, TIGHT):
            found = await pair.compared(most=1_000, limits=limits)
            named = (found.missing_ids, found.extra_ids, found.different_ids)
            assert tuple(map(set, named)) == expected
            assert found.total == len(found.ids)
        few = await pair.compared(most=2, limits=TIGHT)
        assert few.total == found.total
        assert len(few.missing_ids) == 2
        asked = await verify_ids(*pair.tables, [*mine, *theirs, "nowhere"], host=RealHost())
        assert set(asked) == set().union(*expected)
    found = await sync(*pair.tables, host=RealHost(), limits=TIGHT)
    assert found.copied == len(expected[0] | expected[2])
    assert found.deleted == len(expected[1])
    assert (await pair.compared()).total == 0


def told(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*np.asarray(row["embedding"]).tolist(), row["name"], row["year"])


async def test_what_the_source_gets_and_loses_meanwhile_is_left_alone(pair: Pair) -> None:
    await pair.source.insert("notes", small_rows(20))
    await pair.target.insert("notes", [*small_rows(18), *small_rows(3, start=50)])
    sides = await pair.sides()
    found = await sides.compared(LIMITS)
    assert len(found.extra) == 3
    await pair.source.insert("notes", small_rows(2, start=50))
    await pair.source.delete("notes", ["r0019"])
    assert await sides.delete_extra(found) == 1
    assert await sides.copy(found) == 1
    assert (await pair.compared()).total == 0


async def test_a_table_that_is_altered_meanwhile_and_a_comparison_that_is_cancelled(
    pair: Pair,
) -> None:
    """Each ends it, and leaves both stores usable."""
    for store in (pair.source, pair.target):
        await store.insert("notes", small_rows(1_000))
    for _ in range(3):
        comparing = asyncio.create_task(pair.compared())
        for _ in range(20):
            await asyncio.sleep(0)
        comparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await comparing
    assert (await pair.compared()).total == 0
    await pair.target.add_field("notes", "late", str)
    with pytest.raises(MigrationError, match="changed during the migration"):
        await pair.compared()
    await pair.source.drop_table("notes")
    await pair.target.drop_table("notes")
