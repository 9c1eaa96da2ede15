"""The two approximate ways, bit codes and prefixes, beside the exact one over the same file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiovec
from aiovec import Tuning, VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from .corpus import LIMIT, TABLE, Corpus, row_number
from .crowd import CLIENTS, rate
from .single import AIOVEC, timed
from .store import Ask, copy_bytes, fill, through_aiovec, until_ready

BITS = "bit codes"
BIT_OVERSAMPLES = (2, 4, 8, 16)
PREFIX_OVERSAMPLE = 4
# Parts of the dimension.
PREFIXES = (2, 3, 6)

_ROUNDS = 12
_FOR_RECALL = 300
_SECONDS = 5.0
_AT_ONCE = 64
_LEAST_RECALL = 0.95


async def run(options: Options, corpus: Corpus) -> list[Result]:
    path = options.folder / "bits.db"
    await fill(path, corpus, quantized="bit")
    async with aiovec.connect(path) as exact, _by_bits(path, options) as bits:
        await until_ready(exact, corpus.queries[0])
        await until_ready(bits, corpus.queries[0])
        results = await _compare(exact, bits, corpus, options)
    path.unlink()
    return results


@asynccontextmanager
async def _by_bits(path: Path, options: Options) -> AsyncIterator[VectorStore]:
    config = options.folder / "bits.toml"
    config.write_text('[retrieval.sqlite]\nscan = "bit"\n', encoding="utf-8")
    async with aiovec.connect(path, config=config) as store:
        yield store


def _tuned(store: VectorStore, corpus: Corpus, tuning: Tuning) -> Ask:
    async def ask(query: int) -> list[int]:
        hits = await store.search(TABLE, corpus.queries[query], limit=LIMIT, tuning=tuning)
        return [row_number(hit.id) for hit in hits]

    return ask


def _work(ask: Ask, queries: int) -> Callable[[], Awaitable[float]]:
    """Return the CPU time of a search, which other work on the machine hardly changes."""
    turn = 0

    async def measure() -> float:
        nonlocal turn
        turn += _AT_ONCE
        began = time.process_time()
        await asyncio.gather(*(ask((turn + i) % queries) for i in range(_AT_ONCE)))
        return (time.process_time() - began) * 1000 / _AT_ONCE

    return measure


async def _compare(
    exact: VectorStore, bits: VectorStore, corpus: Corpus, options: Options
) -> list[Result]:
    # Before any search by a prefix, which keeps four bytes more for each row.
    sizes = {AIOVEC: copy_bytes(exact) / len(corpus), BITS: copy_bytes(bits) / len(corpus)}
    asking: dict[str, Ask] = {AIOVEC: through_aiovec(exact, corpus)}
    default = f"{BITS}, as they are"
    asking[default] = through_aiovec(bits, corpus)
    for factor in BIT_OVERSAMPLES:
        asking[f"{BITS}, oversample {factor}"] = _tuned(bits, corpus, Tuning(oversample=factor))
    for part in PREFIXES:
        dims = max(1, corpus.dim // part)
        for factor in (PREFIX_OVERSAMPLE, 4 * PREFIX_OVERSAMPLE):
            name = f"the first {dims} components, oversample {factor}"
            asking[name] = _tuned(exact, corpus, Tuning(dims=dims, oversample=factor))
    ways = {name: timed(ask, corpus, options) for name, ask in asking.items()}
    found = medians(await interleaved(ways, options.rounds(_ROUNDS)))
    queries = range(min(options.rounds(_FOR_RECALL), len(corpus.queries)))
    recall = {
        name: corpus.recall([(query, await ask(query)) for query in queries])
        for name, ask in asking.items()
    }
    working = {name: _work(ask, len(corpus.queries)) for name, ask in asking.items()}
    work = medians(await interleaved(working, options.rounds(_ROUNDS)))
    told = await bits.stats(TABLE)
    seconds = _SECONDS * options.repeat
    rates = {name: await rate(asking[name], corpus, CLIENTS, seconds) for name in (AIOVEC, default)}
    subject, shape = "search, approximate", f"the {corpus.limit} nearest of {corpus}"
    checks = []
    if not corpus.origin.startswith("generated"):  # noise around centres is the worst for signs
        checks.append(Check(f"recall of {BITS}", recall[default], _LEAST_RECALL))
    said = [f"stats tells of {BITS}: {told.index}"]
    return [
        Result(subject, f"{shape}, one query after the other", "ms", found),
        Result(f"{subject}: work", f"{shape}, {_AT_ONCE} searches at once", "ms of CPU", work),
        Result(f"{subject}: recall", shape, "of the nearest", recall, checks, said),
        Result(f"{subject}: memory", f"the resident copy, {corpus}", "bytes a row", sizes),
        Result(f"{subject}: rate", f"{shape}, {CLIENTS} clients at once", "searches/s", rates),
    ]
