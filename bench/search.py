"""Searching, with and without a filter, through aiovec and by sqlite-vec's own KNN."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable

import aiosqlite

import aiovec

from . import bare
from .data import load
from .measure import Result, interleaved, medians
from .options import Options
from .stores import TABLE, fill, fill_bare

_LIMIT = 10
# The filter selects a quarter of the rows.
_WHERE = "source_type = 'web'"


async def run(options: Options) -> list[Result]:
    data = load(options.rows(100_000), None, options.data)
    rounds = options.rounds(30)
    path, bare_path = options.folder / "a.db", options.folder / "bare.db"
    fill_bare(bare_path, data)
    sql = "SELECT rowid, distance FROM vec WHERE vector MATCH ? AND k = ?"
    sql_where = f"{sql} AND rowid IN (SELECT rowid FROM rows WHERE {_WHERE})"
    turn = 0

    def reader() -> sqlite3.Connection:
        return bare.connect(bare_path)

    async with (
        aiovec.connect(path) as store,
        aiosqlite.Connection(reader, 64) as db,
    ):
        await fill(store, data)

        def through_aiovec(where: str | None) -> Callable[[], Awaitable[float]]:
            async def timed() -> float:
                nonlocal turn
                turn += 1
                began = time.perf_counter()
                hits = await store.search(
                    TABLE, data.queries[turn % len(data.queries)], limit=_LIMIT, where=where
                )
                took = time.perf_counter() - began
                assert len(hits) == _LIMIT
                return took * 1000

            return timed

        def by_hand(statement: str) -> Callable[[], Awaitable[float]]:
            async def timed() -> float:
                nonlocal turn
                turn += 1
                query = data.queries[turn % len(data.queries)].tobytes()
                began = time.perf_counter()
                async with db.execute(statement, (query, _LIMIT)) as cursor:
                    rows = await cursor.fetchall()
                took = time.perf_counter() - began
                assert len(list(rows)) == _LIMIT
                return took * 1000

            return timed

        found = await interleaved(
            {
                "aiovec, with fields": through_aiovec(None),
                "aiosqlite and sqlite-vec, rowids only": by_hand(sql),
                "aiovec, with fields, filtered": through_aiovec(_WHERE),
                "aiosqlite and sqlite-vec, rowids only, filtered": by_hand(sql_where),
            },
            rounds,
        )
    return [
        Result(
            "search",
            f"the {_LIMIT} nearest of {len(data):,} rows of {data.dim} dims, exact, one query "
            f"after the other ({data.origin}; median of {rounds}; no target yet)",
            "ms",
            medians(found),
        )
    ]
