"""Measure the time until a search finds a change in a watched table, also during a bulk load, and
the cost of the triggers to the app."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import aiovec

from .measure import Options, Result, number, timed

_TEXT = "keys and locks of a house by the sea "
_LOOKS = 60
_Write = Callable[[sqlite3.Connection, int], object]


def _app(path: Path, rows: int) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=wal")
    db.execute("PRAGMA synchronous=normal")
    db.execute("CREATE TABLE articles (id INTEGER PRIMARY KEY, title TEXT, body TEXT, author INT)")
    db.execute("CREATE INDEX by_author ON articles (author)")
    _load(db, 0, rows)
    return db


def _load(db: sqlite3.Connection, first: int, rows: int) -> None:
    made = ((n, f"t{n}", f"{n} {_TEXT * 10}", n % 7) for n in range(first, first + rows))
    db.execute("BEGIN")
    db.executemany("INSERT INTO articles VALUES (?, ?, ?, ?)", made)
    db.execute("COMMIT")


async def run(options: Options) -> list[Result]:
    results = [await _costs(options)]
    sizes = [options.asked_rows] if options.asked_rows else [1_000, options.rows(100_000)]
    return [*results, *[await _delays(options.folder / f"watch-{n}", n, options) for n in sizes]]


async def _delays(folder: Path, rows: int, options: Options) -> Result:
    folder.mkdir(parents=True)  # noqa: ASYNC240
    text, took = ["title"], {}
    with closing(_app(folder / "app.db", rows)) as db:
        async with (
            aiovec.connect(folder / "s.db", embedder="demo") as store,
            aiovec.watch(store, folder / "app.db#articles", embed="body", text=text) as watching,
        ):
            took["first copy (s)"] = await timed(watching.caught_up)() / 1000
            late = await _found(db, store, options.rounds(_LOOKS), rows)
            took |= {"commit to found, median": late[0], "commit to found, worst": late[1]}
            more = options.rows(100_000)
            await asyncio.to_thread(_load, db, rows, more)
            began = time.perf_counter()
            asked = []
            caught_up = asyncio.ensure_future(watching.caught_up())
            while not caught_up.done():
                asked.append(await timed(partial(store.search_text, "articles", "t7", limit=1))())
                await asyncio.sleep(0.01)
            name = f"a commit of {number(more)} rows, until all are found (s)"
            took[name] = time.perf_counter() - began
            took["a keyword search at the same time, worst"] = max(asked)
            lacking = rows + more - await store.count("articles")
    wrong = [f"{lacking} rows are missing"] if lacking else []
    return Result("watch", f"a table of {number(rows)} rows", "ms", took, wrong=wrong)


async def _found(
    db: sqlite3.Connection, store: aiovec.VectorStore, rounds: int, rows: int
) -> tuple[float, float]:
    """Return the median and the worst time from a commit to the search that finds it."""
    late = []
    for turn in range(rounds):
        word = f"w{time.perf_counter_ns()}"
        await asyncio.to_thread(
            db.execute, "UPDATE articles SET title = ? WHERE id = ?", (word, turn * 7 % rows)
        )
        began = time.perf_counter()
        while not await store.search_text("articles", word, limit=1):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        late.append((time.perf_counter() - began) * 1000)
    return statistics.median(late), max(late)


async def _costs(options: Options) -> Result:
    """Compare the CPU time of an app's writes with and without the triggers, which stay after
    the watch ends."""
    rows = options.rows(20_000)
    plain, noted = options.folder / "plain.db", options.folder / "noted.db"
    ways = {"without": _app(plain, rows), "with": _app(noted, rows)}
    async with (
        aiovec.connect(options.folder / "cost.db", embedder="demo") as store,
        aiovec.watch(store, f"{noted}#articles", embed="body") as watching,
    ):
        await watching.caught_up()
    writes: dict[str, _Write] = {
        "an insert a commit": lambda db, n: db.execute(
            "INSERT INTO articles (title, body) VALUES ('t', ?)", (f"{n} {_TEXT * 10}",)
        ),
        "an update a commit": lambda db, n: db.execute(
            "UPDATE articles SET body = ? WHERE id = ?", (f"{n} {_TEXT * 9}", n * 37 % rows)
        ),
        "a delete a commit": lambda db, n: db.execute(
            "DELETE FROM articles WHERE id = ?", (n * 41 % rows,)
        ),
        "2,000 updates a commit": lambda db, n: None if n % 300 else _bulk(db, n),
    }
    measured = {}
    for name, write in writes.items():
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(options.rounds(9)):
            for way, db in ways.items():
                began = time.process_time()
                for n in range(300):
                    write(db, turn * 300 + n)
                times[way].append(time.process_time() - began)
        pairs = zip(times["with"], times["without"], strict=True)
        measured[name] = statistics.median(with_ / without for with_, without in pairs)
    for db in ways.values():
        db.close()
    about = "CPU of an app's writes with the triggers, without them 1"
    return Result("watch, triggers", about, "", measured)


def _bulk(db: sqlite3.Connection, turn: int) -> None:
    db.execute("BEGIN")
    changed = ((f"{turn} {n} {_TEXT * 9}", n) for n in range(2000))
    db.executemany("UPDATE articles SET body = ? WHERE id = ?", changed)
    db.execute("COMMIT")
