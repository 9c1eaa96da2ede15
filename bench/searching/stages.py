"""CPU time of one search of many that are answered together: on the event loop, and by stage."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Any

from aiovec import VectorStore
from aiovec.backend.contract import Columns, VectorQuery
from aiovec_sqlite.connection import Ticket
from aiovec_sqlite.copies.settle import STAGES, Snapshot, Timings
from aiovec_sqlite.layout import current_table

from ..measure import Result
from ..options import Options
from .corpus import LIMIT, TABLE, Corpus
from .store import Ask

TOGETHER = 64
_ROUNDS = 12
_SEARCHES = 20  # of each client
_WHOLE = "the process, in all"
_LOOP = "the event loop's thread"


async def run(
    store: VectorStore, ask: Ask, corpus: Corpus, options: Options, clients: int
) -> Result:
    """The least of some rounds, since whatever else runs only adds to it."""
    whole, loop = [], []
    for _ in range(options.rounds(_ROUNDS)):
        process, thread = time.process_time(), time.thread_time()
        await _ask_all(ask, corpus, clients, _SEARCHES)
        whole.append((time.process_time() - process) / (clients * _SEARCHES))
        loop.append((time.thread_time() - thread) / (clients * _SEARCHES))
    stages = await _stages(store, corpus, options.rounds(_ROUNDS))
    found = {_WHOLE: min(whole), _LOOP: min(loop)}
    found |= {f"a batch of {TOGETHER}: {name}": seconds for name, seconds in stages.items()}
    return Result(
        "search, CPU",
        f"CPU time of one search, {clients} clients at once, {corpus}; and by stage",
        "ms",
        {name: seconds * 1000 for name, seconds in found.items()},
    )


async def _ask_all(ask: Ask, corpus: Corpus, clients: int, searches: int) -> None:
    """Have clients at once ask so many times each."""

    async def client(number: int) -> None:
        for query in range(searches):
            await ask((number * 31 + query) % len(corpus.queries))

    await asyncio.gather(*(client(number) for number in range(clients)))


async def _stages(store: VectorStore, corpus: Corpus, rounds: int) -> dict[str, float]:
    """Seconds of CPU for each stage of a batch, on the one thread that answers it."""
    backend: Any = store._current.engine.backend
    resident = backend._resident
    copy = resident._tables[TABLE].copy
    handle = await backend.open_table(TABLE)
    columns = Columns(tuple(handle.schema.fields), payload=handle.schema.payload, vector=False)
    queries = [
        VectorQuery(corpus.queries[number % len(corpus.queries)], LIMIT, None, columns)
        for number in range(TOGETHER)
    ]
    timings = _OfThread(resident._place, TABLE)

    def answer(db: sqlite3.Connection, ticket: Ticket) -> None:
        with timings.stage("fresh"):
            state = copy.advance(db, ticket)
        snapshot = Snapshot(db, ticket, current_table(db, handle), state)
        copy.search_batch(snapshot, queries, timings)

    least: dict[str, float] = {}
    for _ in range(rounds):
        timings.took.clear()
        await resident._read(answer)
        least = {name: min(least.get(name, took), took) for name, took in timings.took.items()}
    return {name: least[name] / TOGETHER for name in STAGES if name in least}


class _OfThread(Timings):
    """Timings of one thread's CPU."""

    def __init__(self, place: Any, table: str) -> None:
        super().__init__(place, table, time.thread_time)
        self.took: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self.took[name] = self.took.get(name, 0.0) + seconds
