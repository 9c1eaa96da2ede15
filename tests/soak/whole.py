"""The whole of a table against the oracle, while nobody writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from tests.harness.oracle import Oracle, assert_same_hit_fields, assert_same_hits
from tests.soak.world import BASE, TOLERANCE, State, World, row_of, vector_of

from aiovec import F, VectorStore


async def check_whole(
    store: VectorStore, world: World, table: str, rows: Mapping[str, State], chance: random.Random
) -> None:
    """``rows`` are all that are not the base's. Every row is compared, and whole answers."""
    schema = world.schemas[table]
    base = world.base[table]
    written = {id: row_of(id, state, schema) for id, state in rows.items()}
    oracle = Oracle()
    oracle.create_table(table, schema)
    oracle.upsert(table, [*base.rows, *written.values()])
    total = oracle.count(table)
    assert await store.count(table) == total
    await _check_export(store, table, schema.vector, {**_by_id(base.rows), **written})
    owner = chance.choice(list(world.clients))
    bound = chance.randrange(1, 400)
    filters: list[Any] = [
        None,
        F.owner != BASE,
        F.owner.in_([BASE, owner]) | (F.touched >= bound),
        f"touched BETWEEN {bound // 2} AND {bound} OR version = {bound % 90}",
    ]
    for where in filters:
        some = chance.sample(base.ids, min(1, len(base.ids)))
        seeds = [*some, f"query/{chance.random()}"]
        queries = [vector_of(id, world.base[table].states.get(id, State(1, 0)).version, schema.dim)
                   for id in seeds]  # fmt: skip
        limit = chance.choice([10, 60, total + 1]) if where is None else chance.choice([5, 40])
        # At once, so that they are answered together.
        found = await asyncio.gather(
            *(
                store.search(table, query, limit=limit, where=where, exact=world.exact)
                for query in queries
            )
        )
        for query, hits in zip(queries, found, strict=True):
            truth = oracle.search(table, query, limit=limit, where=where)
            assert_same_hits(hits, truth, TOLERANCE)
            assert_same_hit_fields(hits, truth)
            world.counts["whole answers compared"] += 1


async def _check_export(
    store: VectorStore, table: str, vector: str, wanted: Mapping[str, Mapping[str, Any]]
) -> None:
    """Every row that is there is one that must be, to the bit, and none is missing."""
    seen: set[str] = set()
    async for batch in store.export(table):
        vectors = batch.column(vector)
        # A batch may be a slice of a longer one.
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        bits = np.ascontiguousarray(flat.reshape(len(vectors), -1))
        columns = batch.select(["id", "owner", "version", "touched"]).to_pydict()
        for place, id in enumerate(columns["id"]):
            assert id in wanted, f"{id} should not be there"
            assert id not in seen, f"{id} came twice"
            seen.add(id)
            row = wanted[id]
            told = {name: columns[name][place] for name in columns}
            assert told == {name: row[name] for name in told}, f"{told} of {row}"
            assert bits[place].tobytes() == row[vector].tobytes(), f"{id} has another vector"
    missing = wanted.keys() - seen
    assert not missing, f"{sorted(missing)[:5]} and {len(missing)} in all are missing"


def _by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows}
