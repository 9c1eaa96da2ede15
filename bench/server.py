"""The store over HTTP beside the same store in the process: searches, exports, memory."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import aiovec
from aiovec import VectorStore

from .data import generate
from .measure import Check, Result, interleaved, medians, number
from .options import Options
from .searching.corpus import LIMIT, TABLE, Corpus
from .searching.store import Ask, fill, through_aiovec, until_ready
from .serving import client, searches
from .serving.chroma import NoChromaError, chroma, rows_of
from .serving.process import Server, serving, told_by, watched

CLIENTS = 64
INSIDE = f"in the process, {CLIENTS} tasks"
OVER_HTTP = f"POST /search, JSON, {CLIENTS} clients"
IN_ARROW = f"the call of remote backends, Arrow, {CLIENTS} clients"
REMOTE = f"remote backend, {CLIENTS} tasks"
CHROMA = f"Chroma, {CLIENTS} clients"

# The shape of the real set that the figures in the docs come from.
_ROWS, _DIM = 117_659, 384
_ROUNDS = 3
_SECONDS = 5.0
_WARM_UP = 0.2  # of the seconds, before them
_EXPORT_ROUNDS = 5
_LARGE_ROWS = 1_000_000
_FILL = 50_000
_WAIT, _READING = 5.0, 60.0  # seconds that the slow client reads nothing, and that it reads
_MOST_GROWTH = 48  # MiB
_MIB = 2**20


Searching = Callable[[float], Awaitable[dict[str, Any]]]
"""Searches for so many seconds; what it came to."""


@dataclass
class Way:
    """One way of searching, and what its rounds came to."""

    run: Searching
    server: Server | None = None
    rows_of: Callable[[bytes], Sequence[int]] | None = None
    """Reads the answers that clients in a process of their own got."""
    told: list[dict[str, Any]] = field(default_factory=list)

    async def measure(self, seconds: float) -> float:
        here = time.process_time()
        there = self.server.cpu() if self.server else 0.0
        found = await self.run(seconds)
        found["here"] = (time.process_time() - here) / found["all"]
        found["there"] = (self.server.cpu() - there) / found["all"] if self.server else 0.0
        self.told.append(found)
        return float(found["rate"])

    def median(self, name: str) -> float:
        return float(np.median([one[name] for one in self.told]))

    def answers(self) -> list[tuple[int, Sequence[int]]]:
        if self.rows_of is None:
            return [pair for one in self.told for pair in one["answers"]]
        return [
            (int(query), self.rows_of(base64.b64decode(body)))
            for one in self.told
            for query, body in one["answers"].items()
        ]

    def __str__(self) -> str:
        text = f"p50 {number(self.median('p50'))} ms, p99 {number(self.median('p99'))} ms; "
        costs = []
        if self.rows_of is None:
            costs.append(f"{number(1000 * self.median('here'))} ms in the process")
        if self.server is not None:
            costs.append(f"{number(1000 * self.median('there'))} ms in the server")
        text += f"processor time of a search {' and '.join(costs)}"
        if self.rows_of is not None:
            text += f"; the clients take {self.median('cpu'):.2f} of a core"
        return text


async def run(options: Options) -> list[Result]:
    corpus = Corpus.load(options.rows(_ROWS), _DIM, options.data)
    path = options.folder / "a.db"
    await fill(path, corpus)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aiovec.connect(path))
        server = await stack.enter_async_context(serving(path))
        remote = await stack.enter_async_context(aiovec.connect(server.url))
        await until_ready(store, corpus.queries[0])
        results = [
            await _searches(stack, store, server, remote, corpus, options),
            await _exports(store, server, remote, corpus, options),
        ]
    path.unlink()
    results.append(await _memory(options, corpus.dim))
    return results


# Searches


async def _searches(
    stack: AsyncExitStack, store: VectorStore, server: Server, remote: VectorStore, corpus: Corpus,
    options: Options,
) -> Result:  # fmt: skip
    inside, outside = through_aiovec(store, corpus), through_aiovec(remote, corpus)
    queries = len(corpus.queries)
    json_file = client.save(options.folder / "json", searches.in_json(corpus))
    asked = await asyncio.to_thread(searches.in_arrow, server.port, corpus)
    arrow_file = client.save(options.folder / "arrow", asked)
    in_json = searches.rows_in_json
    ways = {
        INSIDE: Way(_tasks(inside, queries, CLIENTS)),
        OVER_HTTP: Way(_clients(json_file, server, CLIENTS), server, in_json),
        IN_ARROW: Way(_clients(arrow_file, server, CLIENTS), server, searches.rows_in_arrow),
        REMOTE: Way(_tasks(outside, queries, CLIENTS), server),
        "in the process, 1 task": Way(_tasks(inside, queries, 1)),
        "POST /search, JSON, 1 client": Way(
            _clients(json_file, server, 1), server, searches.rows_in_json
        ),
        "remote backend, 1 task": Way(_tasks(outside, queries, 1), server),
    }
    notes: list[str] = []
    if options.peers:
        try:
            peer, asked = await stack.enter_async_context(chroma(options.folder / "chroma", corpus))
        except NoChromaError as exc:
            notes.append(f"skipped: Chroma: {exc}")
        else:
            file = client.save(options.folder / "chroma.requests", asked)
            ways[CHROMA] = Way(_clients(file, peer, CLIENTS), peer, rows_of)
            ways["Chroma, 1 client"] = Way(_clients(file, peer, 1), peer, rows_of)
    rounds, seconds = options.rounds(_ROUNDS), _SECONDS * min(1.0, options.repeat)
    for way in ways.values():  # copies in memory, connections, imports
        await way.run(seconds / 2)

    def measure(way: Way) -> Callable[[], Awaitable[float]]:
        return lambda: way.measure(seconds)

    found = await interleaved({name: measure(way) for name, way in ways.items()}, rounds)
    rates = medians(found)

    def ratio(one: str, other: str) -> float:
        return float(np.median(np.divide(found[one], found[other])))

    notes += [f"{name}: {way}" for name, way in ways.items()]
    notes += [f"{one} / {INSIDE}: {ratio(one, INSIDE):.2f}" for one in (IN_ARROW, REMOTE)]
    recalls = {name: corpus.recall(way.answers()) for name, way in ways.items()}
    if CHROMA in ways:
        notes.append(f"{OVER_HTTP} / {CHROMA}: {ratio(OVER_HTTP, CHROMA):.2f}")
        notes.append(f"recall of Chroma: {recalls[CHROMA]:.4f}")
    ours = min(recall for name, recall in recalls.items() if "Chroma" not in name)
    return Result(
        "server",
        f"the {LIMIT} nearest with their fields, whole rows, against aiovec serve on SQLite, "
        f"{corpus}; clients in a process of their own that keep their connections (median of "
        f"{rounds} interleaved rounds of {seconds:g} s)",
        "searches/s",
        rates,
        [
            Check(f"{OVER_HTTP} / {INSIDE}", ratio(OVER_HTTP, INSIDE), 0.4),
            Check("recall of aiovec", ours, 1.0),
        ],
        notes,
    )


def _tasks(ask: Ask, queries: int, tasks: int) -> Searching:
    async def run(seconds: float) -> dict[str, Any]:
        took: list[float] = []
        answers: list[tuple[int, list[int]]] = []
        until = time.perf_counter() + seconds

        async def task(number: int) -> None:
            for query in count(number * 31):
                began = time.perf_counter()
                rows = await ask(query % queries)
                ended = time.perf_counter()
                took.append(ended - began)
                if len(answers) < LIMIT * CLIENTS:
                    answers.append((query % queries, rows))
                if ended >= until:
                    break

        began = time.perf_counter()
        await asyncio.gather(*map(task, range(tasks)))
        elapsed = time.perf_counter() - began
        p50, p99 = np.percentile(took, (50, 99)) * 1000
        rate = len(took) / elapsed
        return {"rate": rate, "p50": p50, "p99": p99, "all": len(took), "answers": answers}

    return run


def _clients(file: Path, server: Server, clients: int) -> Searching:
    async def run(seconds: float) -> dict[str, Any]:
        asked = {"requests": str(file), "port": server.port, "clients": clients}
        times = {"warm_up": _WARM_UP * seconds, "seconds": seconds}
        return await told_by("bench.serving.client", {**asked, **times})

    return run


# Exports


async def _exports(
    store: VectorStore, server: Server, remote: VectorStore, corpus: Corpus, options: Options
) -> Result:
    cpu: dict[str, list[float]] = {"the server": [], "the client": []}

    async def over_http() -> float:
        before = server.cpu()
        told = await told_by("bench.serving.reading", {"port": server.port, "table": TABLE})
        assert told["rows"] == len(corpus)
        cpu["the server"].append((server.cpu() - before) / len(corpus))
        cpu["the client"].append(told["cpu"] / len(corpus))
        return float(told["rows"] / told["seconds"])

    def through(one: VectorStore) -> Callable[[], Awaitable[float]]:
        async def read() -> float:
            began, rows = time.perf_counter(), 0
            async for batch in one.export(TABLE):
                rows += batch.num_rows
            assert rows == len(corpus)
            return rows / (time.perf_counter() - began)

        return read

    name = "GET /records, Arrow"
    ways = {name: over_http, "remote backend": through(remote), "in the process": through(store)}
    rounds = options.rounds(_EXPORT_ROUNDS)
    rates = medians(await interleaved(ways, rounds))
    used = (f"{1e6 * float(np.median(took)):.3g} us of {who}'s" for who, took in cpu.items())
    return Result(
        "server, export",
        f"whole rows with vectors, from the server to an Arrow reader in a process of its own, "
        f"{corpus} (median of {rounds} interleaved rounds)",
        "rows/s",
        rates,
        [Check("rows streamed over HTTP each second", rates[name], 50_000)],
        [f"processor time of {name}, a row: {'; '.join(used)}"],
    )


# Memory


async def _memory(options: Options, dim: int) -> Result:
    rows = options.rows(_LARGE_ROWS)
    path = options.folder / "large.db"
    await _fill_large(path, rows, dim)
    scale = min(1.0, options.repeat)
    pace = rows / (_READING * scale)
    asked = {"port": 0, "table": TABLE, "wait": _WAIT * scale, "pace": pace}
    async with serving(path) as server:
        # The first export brings what every other one needs, and fills SQLite's cache of pages.
        fast = {"port": server.port, "table": TABLE}
        start = server.memory()
        async with watched(server) as quickly:
            await told_by("bench.serving.reading", fast)
        before = server.memory()
        async with watched(server) as seen:
            told = await told_by("bench.serving.reading", {**asked, "port": server.port})
        assert told["rows"] == rows
    path.unlink()
    growth = (max(seen) - before) / _MIB
    return Result(
        "server, memory",
        f"the server's memory while a client reads an export of {rows:,} rows of {dim} dims in "
        f"{told['seconds']:.3g} s, at first not at all",
        "MiB",
        {
            "before the first export": start / _MIB,
            "most in an export that is read at once": max(quickly) / _MIB,
            "before the slow client": before / _MIB,
            "most while the slow client reads": max(seen) / _MIB,
        },
        [Check("growth by the slow client", growth, _MOST_GROWTH, at_most=True, unit=" MiB")],
    )


async def _fill_large(path: Path, rows: int, dim: int) -> None:
    """The same vectors again and again, under ids of their own."""
    data = generate(min(rows, _FILL), dim, 1)
    async with aiovec.connect(path) as store:
        schema = aiovec.Schema(dim, fields={"text": str})
        await store.create_table(TABLE, schema)
        for start in range(0, rows, len(data)):
            size = min(len(data), rows - start)
            ids = [f"row-{row:08d}" for row in range(start, start + size)]
            part = {"id": ids, "embedding": data.vectors[:size], "text": data.texts[:size]}
            await store.insert(TABLE, part)
