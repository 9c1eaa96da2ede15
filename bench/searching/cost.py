"""The cost of a search by rows and dimensions: time, bytes on disk, bytes in memory."""

from __future__ import annotations

from contextlib import suppress
from itertools import product

import aiovec

from ..measure import Result, interleaved, medians
from ..options import Options
from .corpus import Corpus
from .peers import SQLITE_VEC, faiss_flat, sqlite_vec
from .single import AIOVEC, timed
from .store import Ask, copy_bytes, fill, through_aiovec, until_ready

ROWS = (1_000, 10_000, 100_000)
DIMS = (384, 768, 1_536)
FAISS = "faiss flat"

_ROUNDS = 6


async def run(options: Options) -> list[Result]:
    """Four results: three of the cost, and one of other ways for the picture."""
    took: dict[str, float] = {}
    on_disk: dict[str, float] = {}
    in_memory: dict[str, float] = {}
    others: dict[str, float] = {}
    for wanted, dim in product(ROWS, DIMS):
        corpus = Corpus.generate(options.rows(wanted), dim)
        name = f"{wanted:,} x {dim:,}"
        path = options.folder / f"cost-{wanted}-{dim}.db"
        await fill(path, corpus)
        on_disk[name] = path.stat().st_size / len(corpus)
        async with aiovec.connect(path) as store:
            await until_ready(store, corpus.queries[0])
            in_memory[name] = copy_bytes(store) / len(corpus)
            asking: dict[str, Ask] = {AIOVEC: through_aiovec(store, corpus)}
            with sqlite_vec(path, corpus) as knn:
                asking[SQLITE_VEC] = knn
                if options.peers:
                    with suppress(ImportError):  # said where one client is measured
                        asking[FAISS] = faiss_flat(corpus)
                found = await interleaved(
                    {way: timed(ask, corpus, options) for way, ask in asking.items()},
                    options.rounds(_ROUNDS),
                )
        for way, value in medians(found).items():
            if way == AIOVEC:
                took[name] = value
            else:
                others[f"{way}: {name}"] = value
        path.unlink()
    shape = "generated rows x dims, with an int and a text field"
    subject = "search, cost"
    return [
        Result(f"{subject}: time", f"one client's median, {shape}", "ms", took),
        Result(f"{subject}: disk", f"the whole file, {shape}", "bytes a row", on_disk),
        Result(f"{subject}: memory", f"the resident copy, {shape}", "bytes a row", in_memory),
        Result(f"{subject}: others", f"the same searches by others, {shape}", "ms", others),
    ]
