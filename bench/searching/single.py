"""One client: a search after the other, aiovec and its peers in turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from aiovec import VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from .corpus import Corpus
from .peers import FAISS, SQLITE_VEC, exact_peers, sqlite_vec
from .store import Ask, block, through_aiovec

AIOVEC = "aiovec, whole rows"

_ROUNDS = 12
_SECONDS = 0.2  # of searches by one way, before the next one's turn
_FOR_RECALL = 100


async def run(
    store: VectorStore, path: Path, corpus: Corpus, options: Options,
    indexed: Mapping[str, Ask], told: list[str],
) -> Result:  # fmt: skip
    rounds, notes = options.rounds(_ROUNDS), list(told)
    asking: dict[str, Ask] = {AIOVEC: through_aiovec(store, corpus)}
    with sqlite_vec(path, corpus) as knn:
        asking[SQLITE_VEC] = knn
        if options.peers:
            exact, left_out = exact_peers(corpus)
            asking |= exact
            notes += left_out
        asking |= indexed
        ways = {name: timed(ask, corpus, options) for name, ask in asking.items()}
        found = medians(await interleaved(ways, rounds))
        # One asks for all that there are: recall of the exact way is the point.
        asked = {name: options.rounds(_FOR_RECALL) for name in asking}
        asked[AIOVEC] = len(corpus.queries) if options.repeat >= 1 else asked[AIOVEC]
        recall = {
            name: corpus.recall([(query, await ask(query)) for query in range(asked[name])])
            for name, ask in asking.items()
        }
    ours = found[AIOVEC]
    checks = [
        Check("recall of aiovec", recall[AIOVEC], 1.0),
        Check("aiovec / sqlite-vec", ours / found[SQLITE_VEC], 1 / 15, at_most=True),
    ]
    if FAISS in found:
        checks.append(Check("aiovec / faiss flat", ours / found[FAISS], 0.5, at_most=True))
    notes.append("recall: " + "; ".join(f"{name} {value:.4f}" for name, value in recall.items()))
    return Result(
        "search",
        f"the {corpus.limit} nearest of {corpus}, one query after the other (median of {rounds} "
        "rounds of blocks)",
        "ms", found, checks, notes,
    )  # fmt: skip


def timed(ask: Ask, corpus: Corpus, options: Options) -> Callable[[], Awaitable[float]]:
    """Blocks of searches, each going on with the next queries."""
    turn = 0

    async def measure() -> float:
        nonlocal turn
        turn += 50
        return await block(ask, len(corpus.queries), turn, _SECONDS * min(1.0, options.repeat))

    return measure
