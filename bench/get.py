"""Compare reads by id from SQLite with a hand-written join through aiosqlite."""

from __future__ import annotations

from functools import partial

import aiosqlite
import numpy as np

import aiovec

from .data import TABLE, generate, row_id
from .measure import Options, Result, Way, interleaved, medians, ratios, timed
from .stores import JOIN, connect, fill, fill_by_hand

_ROWS, _DIM = 100_000, 768
_ROUNDS = 500


async def run(options: Options) -> list[Result]:
    data = generate(options.rows(_ROWS), _DIM)
    by_hand = options.folder / "by-hand.db"
    fill_by_hand(by_hand, data)
    random = np.random.default_rng(1)

    def some_ids(count: int) -> list[str]:
        return [row_id(int(n)) for n in random.choice(len(data), count, replace=False)]

    async with (
        aiovec.connect(options.folder / "a.db") as store,
        aiosqlite.Connection(lambda: connect(by_hand), 64) as db,
    ):
        await fill(store, data)

        async def ours(count: int) -> None:
            assert len(await store.get(TABLE, some_ids(count))) == count

        async def joined(count: int) -> None:
            marks = ", ".join("?" * count)
            async with db.execute(f"{JOIN} WHERE r.id IN ({marks})", some_ids(count)) as cursor:
                rows = [
                    (id, fields, np.frombuffer(vector, dtype=np.float32))
                    for id, *fields, vector in await cursor.fetchall()
                ]
            assert len(rows) == count

        async def nothing() -> None:
            async with db.execute("SELECT 1") as cursor:
                await cursor.fetchall()

        ways: dict[str, Way] = {"aiosqlite, SELECT 1": timed(nothing)}
        for count in (1, 30):
            ways[f"aiovec, {count} of the ids"] = timed(partial(ours, count))
            ways[f"aiosqlite, a join, {count} of the ids"] = timed(partial(joined, count))
        times = await interleaved(ways, options.rounds(_ROUNDS))
    one, thirty = (
        ratios(times, f"aiovec, {count} of the ids", f"aiosqlite, a join, {count} of the ids")
        for count in (1, 30)
    )
    about = f"rows by id, fields and vectors, of {data} (median)"
    return [Result("get", about, "ms", medians(times), one | thirty)]
