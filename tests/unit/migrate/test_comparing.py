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
import pyarrow as pa
import pytest
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import MigrationError, VectorStore
from aiovec.backend.place import find_place
from aiovec_migrate.compare import Comparison
from aiovec_migrate.tables import OpenTable
from aiovec_migrate.work import Limits

MUCH, TIGHT = Limits(), Limits(compared_rows=30)


class Pair:
    """Two SQLite files with a table each, as an app and as the migrator opens them."""

    def __init__(self, source: VectorStore, target: VectorStore, tables: list[OpenTable]) -> None:
        self.source, self.target, self.tables = source, target, tables

    async def comparison(self, limits: Limits = MUCH) -> Comparison:
        return await Comparison.of(*self.tables, limits)

    async def compared(self, most: int = 100, limits: Limits = MUCH) -> Any:
        comparison = await self.comparison(limits)
        return await comparison.named(await comparison.unlike(), most)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        stores, tables = [], []
        for name in ("a.db", "b.db"):
            store = await stack.enter_async_context(aiovec.connect(tmp_path / name))
            await store.create_table("notes", SMALL)
            backend = (await asyncio.to_thread(find_place, tmp_path / name)).create()
            stack.push_async_callback(backend.close)
            await backend.open()
            stores.append(store)
            tables.append(await OpenTable.open(backend, "notes"))
        yield Pair(*stores, tables)


async def test_a_comparison_names_what_a_plain_one_does(pair: Pair) -> None:
    """A comparison of dictionaries is the truth, with much memory and with little."""
    drawn = random.Random(3)
    source = {row["id"]: row for row in small_rows(200)}
    target = dict(source)
    for store in (pair.source, pair.target):
        await store.insert("notes", drawn.sample([*source.values()], 200))
    for _ in range(2):
        for rows, store in ((source, pair.source), (target, pair.target)):
            gone = drawn.sample(sorted(rows), 10)
            await store.delete("notes", gone)
            written = small_rows(15, start=drawn.randrange(240), name=drawn.choice("ab"))
            await store.upsert("notes", written)
            for id in gone:
                del rows[id]
            rows.update((row["id"], row) for row in written)
        unlike = {
            id for id in source.keys() & target if values_of(source[id]) != values_of(target[id])
        }
        expected = (source.keys() - target.keys(), target.keys() - source.keys(), unlike)
        for limits in (MUCH, TIGHT):
            difference = await pair.compared(most=1_000, limits=limits)
            named = (difference.missing_ids, difference.extra_ids, difference.different_ids)
            assert tuple(map(set, named)) == expected
            assert difference.total == len(difference.ids)
        few = await pair.compared(most=2, limits=TIGHT)
        assert few.total == difference.total
        assert len(few.missing_ids) == 2
        named_ids = await (await pair.comparison()).unlike_among([*source, *target, "nowhere"])
        assert set(named_ids) == set().union(*expected)
    comparison = await pair.comparison(TIGHT)
    await comparison.bring_over(await comparison.unlike(), unchanged)
    assert (await pair.compared()).total == 0


def values_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*np.asarray(row["embedding"]).tolist(), row["name"], row["year"])


async def unchanged(rows: pa.Table) -> pa.Table:
    return rows


@pytest.mark.parametrize("differing", [3, 900])
async def test_few_differing_rows_are_looked_up_and_many_are_copied_again(
    pair: Pair, differing: int
) -> None:
    await pair.source.insert("notes", small_rows(1_000))
    await pair.target.insert("notes", small_rows(1_000 - differing, start=differing))
    comparison = await pair.comparison()
    await comparison.bring_over(await comparison.unlike(), unchanged)
    difference = await pair.compared()
    assert (difference.total, difference.target_rows) == (0, 1_000)


async def test_a_comparison_that_is_cancelled_or_altered_leaves_both_stores_usable(
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
