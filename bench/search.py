"""Measure vector search on SQLite: opening, one client, filters, many clients, and during writes.

``--rows 1000`` and ``--rows 1000000`` show how the time of a search grows with the table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tests.harness.waiting import until

import aiovec
from aiovec import VectorStore

from .data import LIMIT, PICKS, ROWS, TABLE, Data, load
from .measure import (
    Ask,
    Options,
    Result,
    beside,
    block_of,
    fresh,
    in_turn,
    interleaved,
    lags,
    medians,
    rate,
    ratio,
    ratios,
)
from .stores import by_aiovec, by_sqlite_vec, connect, fill, fill_by_hand, until_loaded

AIOVEC = "aiovec, whole rows"
SQLITE_VEC = "sqlite-vec by hand, whole rows"
OTHER = "other"
CLIENTS = 64

_CROWD_SECONDS = 10.0
_RECALLED = 200  # queries whose answers are compared with the truth
_TOGETHER = 32  # queries in a call of search_many
_WRITTEN, _AT_ONCE = 500, 50  # rows per second, rows per call
_MIB = 2**20
_HELD = 3.0  # seconds after which four processes have reached the same point


async def run(options: Options) -> list[Result]:
    data = load(options.rows(ROWS), options.data)
    path, by_hand = options.folder / "a.db", options.folder / "by-hand.db"
    fill_by_hand(by_hand, data)
    async with aiovec.connect(path) as store:
        await fill(store, data)
    results = [await _opening(path, by_hand, data, options)]
    async with aiovec.connect(path) as store:
        await until_loaded(store, data.queries[0])
        results.append(await _one_client(store, by_hand, data, options))
        results.append(await _filters(store, data, options))
        results.append(await _crowds(store, data, options))
        results.append(await _writes_beside(store, data, options))
    return results


async def _opening(path: Path, by_hand: Path, data: Data, options: Options) -> Result:
    queries = options.folder / "query.npy"
    np.save(queries, data.queries[:1])
    settings = {"queries": str(queries)}
    openings: list[dict[str, Any]] = []
    # This run creates the scan file, if the table is large enough for one.
    made = await fresh("search", {**settings, "path": str(path), "keep": True})

    async def ours() -> float:
        openings.append(await fresh("search", {**settings, "path": str(path)}))
        return float(openings[-1]["first"])

    async def theirs() -> float:
        return float((await fresh("search", {**settings, "by_hand": str(by_hand)}))["first"])

    first, hand = "aiovec, to the first answer", "sqlite-vec by hand, to the first answer"
    times = await interleaved({first: ours, hand: theirs}, options.rounds(5))
    middle = {name: float(np.median([each[name] for each in openings])) for name in openings[0]}
    four = await held_together(str(path), queries)
    return Result(
        "search, opening",
        f"fresh processes that open {data}, after the imports (median)",
        "ms",
        {**medians(times), "aiovec, until the table is in memory": middle["loaded"],
         "the same, without a scan file": made["loaded"]},
        ratios(times, first, hand),
        [f"memory before the first search: {middle['before']:.0f} MiB",
         f"memory when the table is loaded: {middle['after']:.0f} MiB",
         f"memory of four processes together: {four:.0f} MiB"],
    )  # fmt: skip


async def held_together(target: str, queries: Path) -> float:
    """Return the total MiB of four processes that search a store at the same time."""
    settings = {"path": target, "queries": str(queries), "hold": _HELD}
    four = await asyncio.gather(*(fresh("search", settings) for _ in range(4)))
    return float(sum(process["share"] for process in four))


async def _one_client(store: VectorStore, by_hand: Path, data: Data, options: Options) -> Result:
    db = connect(by_hand)
    asking = {AIOVEC: by_aiovec(store, data), SQLITE_VEC: by_sqlite_vec(db, data)}
    times = await in_turn(asking, len(data.queries), options)
    recall = {name: await recall_of(ask, data, options) for name, ask in asking.items()}
    db.close()
    on_loop = await _on_loop(asking[AIOVEC], options)
    return Result(
        "search, one client",
        f"the 10 nearest of {data}, one search after the other (median)",
        "ms", medians(times), ratios(times, AIOVEC, SQLITE_VEC),
        ["recall: " + "; ".join(f"{name} {value:.4f}" for name, value in recall.items()),
         f"CPU time of the event loop's thread for a search by aiovec: {on_loop:.2f} ms"],
        [f"recall of aiovec {recall[AIOVEC]:.4f}"] if recall[AIOVEC] < 1 else [],
    )  # fmt: skip


async def recall_of(ask: Ask, data: Data, options: Options) -> float:
    queries = range(min(options.rounds(_RECALLED), len(data.queries)))
    return data.recall([(query, await ask(query)) for query in queries])


async def _on_loop(ask: Ask, options: Options) -> float:
    began, count = time.thread_time(), options.rounds(200)
    for query in range(count):
        await ask(query)
    return 1000 * (time.thread_time() - began) / count


async def _filters(store: VectorStore, data: Data, options: Options) -> Result:
    none, size = "no filter", len(data)
    filters, allowed = {}, {}
    for share in (0.1, 1, 10, 50, 90):
        name, most = f"{share:g} % of the rows, scattered", round(share * PICKS / 100)
        filters[name], allowed[name] = f"pick < {most}", np.flatnonzero(data.picks < most)
    for share in (1, 10):
        name, rows = f"{share:g} % of the rows, in a row", max(1, round(size * share / 100))
        first = size // 3
        filters[name] = f"place >= {first} AND place < {first + rows}"
        allowed[name] = first + np.arange(rows)
    asking = {name: by_aiovec(store, data, where=where) for name, where in filters.items()}
    ways = {
        none: by_aiovec(store, data), **asking,
        "diversity of 0.3": by_aiovec(store, data, diversity=0.3),
        "one row of each pick": by_aiovec(store, data, group_by="pick"),
    }  # fmt: skip
    times = await in_turn(ways, len(data.queries), options)
    wrong = []
    for name, ask in asking.items():
        answers = [(query, await ask(query)) for query in range(options.rounds(20))]
        if (recall := data.recall(answers, allowed[name])) < 1:
            wrong.append(f"{name}: recall {recall:.4f}")
    return Result(
        "search, filters",
        f"the 10 nearest of {data}: under filters over an int field, unlike, in groups (median)",
        "ms", medians(times),
        {f"{name} / {none}": ratio(times, name, none) for name in ways if name != none},
        wrong=wrong,
    )  # fmt: skip


async def _crowds(store: VectorStore, data: Data, options: Options) -> Result:
    seconds = options.seconds(_CROWD_SECONDS)
    two = f"{AIOVEC}, one of two tables at random"
    await fill(store, data, OTHER)
    await until_loaded(store, data.queries[0], OTHER)
    asking = {AIOVEC: by_aiovec(store, data), two: by_aiovec(store, data, (TABLE, OTHER))}
    measured = {name: await rate(ask, CLIENTS, seconds) for name, ask in asking.items()}
    for clients in (1, 8, 256):
        for name, ask in asking.items():
            measured[f"{name}; {clients} clients"] = await rate(ask, clients, seconds / 4)
    await store.drop_table(OTHER)

    async def many(turn: int) -> None:
        first = turn * _TOGETHER % (len(data.queries) - _TOGETHER)
        await store.search_many(TABLE, data.queries[first : first + _TOGETHER], limit=LIMIT)

    measured[f"aiovec, search_many of {_TOGETHER}"] = _TOGETHER * await rate(many, 1, seconds / 4)
    return Result(
        "search, crowds",
        f"{CLIENTS} clients at once for {seconds:g} s, {data}",
        "searches/s", measured,
        {f"{two} / {AIOVEC}": measured[two] / measured[AIOVEC]},
    )  # fmt: skip


async def _writes_beside(store: VectorStore, data: Data, options: Options) -> Result:
    seconds = options.seconds(_CROWD_SECONDS)
    answers: list[tuple[int, list[int]]] = []
    ask = by_aiovec(store, data)

    async def noted(query: int) -> None:
        rows = await ask(query)
        if len(answers) < _RECALLED:
            answers.append((query % len(data.queries), rows))

    alone = await rate(ask, CLIENTS, seconds)
    async with lags() as late, _writer(store, data) as written:
        began = time.perf_counter()
        busy = await rate(noted, CLIENTS, seconds)
        upserted = written[0] / (time.perf_counter() - began)
    p50, p99 = np.percentile(late, (50, 99))
    recall = data.recall(answers)
    block = block_of(ask, len(data.queries), options.seconds(1.0))
    quiet = await block()
    async with beside(fill(store, data, OTHER)):
        importing = await block()
    return Result(
        "search, writes beside",
        f"{CLIENTS} clients at once for {seconds:g} s while {_WRITTEN} rows a second are "
        f"upserted, {data}; then one client while as many rows are imported into another table",
        "searches/s",
        {f"{CLIENTS} clients, no writer": alone, f"{CLIENTS} clients, with the writer": busy,
         "one client (ms)": quiet, "one client, beside an import (ms)": importing},
        {"with the writer / without": busy / alone, "beside an import / alone": importing / quiet},
        [f"lag of the event loop: p50 {p50:.2f}, p99 {p99:.2f}, most {max(late):.1f} ms",
         f"rows written: {upserted:.0f} a second"],
        [f"recall with the writer {recall:.4f}"] if recall < 1 else [],
    )  # fmt: skip


@asynccontextmanager
async def _writer(store: VectorStore, data: Data) -> AsyncIterator[list[int]]:
    """Upsert rows at a constant rate, and count them. They do not change, so the truth is known."""
    written = [0]
    random, size = np.random.default_rng(7), min(_AT_ONCE, len(data))
    batches = [data.batch(random.choice(len(data), size, replace=False)) for _ in range(256)]

    async def write() -> None:
        began = time.perf_counter()
        while True:
            await store.upsert(TABLE, batches[written[0] // size % len(batches)])
            written[0] += size
            due = began + written[0] / _WRITTEN
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async with beside(write()):
        yield written


# The process that opens a file


async def _open(path: str, query: Any, keep: bool, hold: float) -> dict[str, float]:
    """Open a store and search. With ``keep``, wait for its scan file. ``hold`` is the length of two
    pauses in seconds, in which other processes reach the same point."""
    async with aiovec.connect(path):
        pass  # imports what a store needs
    began = time.perf_counter()
    async with aiovec.connect(path) as store:
        before = psutil.Process().memory_info().rss
        await store.search(TABLE, query)
        first = time.perf_counter() - began
        loaded = first + await until_loaded(store, query)
        after = psutil.Process().memory_info().rss
        if keep and (await store.stats(TABLE)).details.get("scan_file"):
            await until(lambda: asyncio.to_thread(_has_token, path))
        await asyncio.gather(*(store.search(TABLE, query) for _ in range(CLIENTS)))
        await asyncio.sleep(hold)
        share = getattr(psutil.Process().memory_full_info(), "pss", after)
        await asyncio.sleep(hold)
    return {
        "first": 1000 * first, "loaded": 1000 * loaded, "before": before / _MIB,
        "after": after / _MIB, "share": share / _MIB,
    }  # fmt: skip


def _has_token(path: str) -> bool:
    db = connect(Path(path.removeprefix("sqlite://")))
    token = db.execute("SELECT 1 FROM aiovec_state WHERE key LIKE 'scan:%'").fetchone()
    db.close()
    return token is not None


def _open_by_hand(path: str, query: Any) -> dict[str, float]:
    connect(Path(":memory:")).close()
    began = time.perf_counter()
    db = connect(Path(path))
    sql = "SELECT rowid FROM vec WHERE vector MATCH ? AND k = 10 ORDER BY distance"
    db.execute(sql, (query.tobytes(),)).fetchall()
    return {"first": 1000 * (time.perf_counter() - began)}


async def in_process(settings: dict[str, Any]) -> dict[str, float]:
    (query,) = np.load(settings["queries"])
    if "by_hand" in settings:
        return _open_by_hand(settings["by_hand"], query)
    return await _open(settings["path"], query, "keep" in settings, settings.get("hold", 0.0))
