"""Searches with a filter over an indexed field that selects few rows, or many."""

from __future__ import annotations

import numpy as np

from aiovec import VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from .corpus import LIMIT, PICKS, TOLERANCE, Corpus
from .single import timed
from .store import Ask, through_aiovec

NO_FILTER = "no filter"
SHARES = (0.1, 1, 10, 50, 90)

_ROUNDS = 12
_CHECKED = 32
# A filter that was never asked before: its rows have to be found first.
_FRESH = "1 %, another filter each time"


def shown(share: float) -> str:
    return f"{share:g} % of the rows"


async def run(store: VectorStore, corpus: Corpus, options: Options) -> Result:
    rounds = options.rounds(_ROUNDS)
    most = {shown(share): round(share * PICKS / 100) for share in SHARES}
    asking = {
        NO_FILTER: through_aiovec(store, corpus),
        **{name: through_aiovec(store, corpus, f"pick < {n}") for name, n in most.items()},
        _FRESH: _fresh(store, corpus),
    }
    found = medians(
        await interleaved({n: timed(ask, corpus, options) for n, ask in asking.items()}, rounds)
    )
    missing, worse = 0, 0
    for name, n in most.items():
        queries = range(min(_CHECKED, len(corpus.queries)))
        for query, truth in zip(queries, corpus.nearest(queries, n), strict=True):
            rows = await asking[name](query)
            missing += max(0, len(truth) - len(rows))
            worse += _worse(corpus, query, rows, truth)
    checks = [
        Check(f"{name} / no filter", found[name] / found[NO_FILTER], 1.5, at_most=True)
        for name in most
    ]
    checks.append(Check("hits missing", missing, 0, at_most=True))
    checks.append(Check("hits that are not the nearest", worse, 0, at_most=True))
    return Result(
        "search, filters",
        f"the {LIMIT} nearest that a filter over an indexed int field selects, of {corpus} "
        f"(median of {rounds} rounds of blocks)",
        "ms", found, checks,
    )  # fmt: skip


def _fresh(store: VectorStore, corpus: Corpus) -> Ask:
    turn = 0

    async def ask(query: int) -> list[int]:
        nonlocal turn
        turn += 1
        first = turn * 7 % (PICKS - 10)
        # The last term is always true and makes the text another one.
        where = f"pick >= {first} AND pick < {first + 10} AND pick <> {-turn}"
        return await through_aiovec(store, corpus, where)(query)

    return ask


def _worse(corpus: Corpus, query: int, rows: list[int], truth: np.ndarray) -> int:
    scores = np.sort(corpus.vectors[rows].astype(np.float64) @ corpus.queries[query])
    best = np.sort(corpus.vectors[truth].astype(np.float64) @ corpus.queries[query])
    count = min(len(scores), len(best))
    return int(np.count_nonzero(scores[-count:] < best[-count:] - TOLERANCE)) if count else 0
