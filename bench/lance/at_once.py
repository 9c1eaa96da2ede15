"""Many flat searches at once: the memory they take with and without turns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiovec
from aiovec.backend.memory import default_budget

from ..measure import Check, Result
from ..options import Options
from ..searching.corpus import TABLE, Corpus
from ..searching.store import Ask
from . import direct
from .memory import Peak
from .searching import through_aiovec

_SEARCHES = 30
# Less than that cannot be seen.
_LEAST = 0.1


async def run(folder: Path, corpus: Corpus, options: Options) -> list[Result]:
    count = max(2, options.rounds(_SEARCHES))
    table = await (await direct.connect(folder)).open_table(TABLE)
    async with aiovec.connect(f"lancedb://{folder}") as store:
        ours = through_aiovec(store, corpus, exact=True)
        theirs = direct.ask(table, corpus.queries, flat=1)
        for ask in (ours, theirs):
            await ask(0)
        # Those that take more come later: the allocator keeps some of what it had.
        found = {
            "aiovec, one search": await _peak(ours, 1),
            f"aiovec, {count} at once": await _peak(ours, count),
            "lancedb, one search": await _peak(theirs, 1),
            f"lancedb, {count} at once": await _peak(theirs, count),
        }
    at_once = found[f"aiovec, {count} at once"]
    size = len(corpus) * corpus.dim * 4 / 2**20
    return [
        Result(
            "lancedb, memory",
            f"exact searches of {corpus}, whose vectors are {size:,.0f} MiB: the most beyond what "
            "the process had before",
            "MiB",
            found,
            [Check("at once", at_once, default_budget() / 2**20, at_most=True, unit=" MiB")],
        )
    ]


async def _peak(ask: Ask, count: int) -> float:
    with Peak() as peak:
        await asyncio.gather(*(ask(query) for query in range(count)))
    return max(peak.mib, _LEAST)
