"""The same searches of a file and of ``:memory:``, by the CPU time that they take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiovec
from aiovec import VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from .corpus import Corpus
from .store import Ask, fill_open, through_aiovec, until_ready

_ROUNDS = 12
_SEARCHES = 64


async def run(file: VectorStore, corpus: Corpus, options: Options) -> Result:
    async with aiovec.connect(":memory:") as memory:
        await fill_open(memory, corpus)
        await until_ready(memory, corpus.queries[0])
        ways: dict[str, Callable[[], Awaitable[float]]] = {}
        for name, store in (("a file", file), (":memory:", memory)):
            ask = through_aiovec(store, corpus)
            ways[f"{name}, one client"] = _timed(ask, corpus, at_once=1)
            ways[f"{name}, {_SEARCHES} at once"] = _timed(ask, corpus, at_once=_SEARCHES)
        found = medians(await interleaved(ways, options.rounds(_ROUNDS)))
    checks = [
        Check(
            f":memory: / a file, {clients}",
            found[f":memory:, {clients}"] / found[f"a file, {clients}"],
            1.2,
            at_most=True,
        )
        for clients in ("one client", f"{_SEARCHES} at once")
    ]
    return Result(
        "search, :memory:",
        f"CPU time of a search, the {corpus.limit} nearest of {corpus}",
        "ms", found, checks,
    )  # fmt: skip


def _timed(ask: Ask, corpus: Corpus, *, at_once: int) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        await asyncio.sleep(0.02)  # until the threads of the way before have gone to sleep
        began = time.process_time()
        for start in range(0, _SEARCHES, at_once):
            numbers = range(start, start + at_once)
            await asyncio.gather(*(ask(number % len(corpus.queries)) for number in numbers))
        return (time.process_time() - began) / _SEARCHES * 1000

    return measure
