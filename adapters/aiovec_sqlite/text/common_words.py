"""The best rows by any of some words, without those that have nothing but common words.

FTS5 computes the score of each row that matches, so a word of half the rows costs as much as half
the table. A word adds at most ``(k1 + 1) * weight`` to a row's score, and the weight of a common
word is small. So where the rarer words alone give enough rows with more than all common words
together can add, no other row is among the best.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..connection import Ticket
from ..layout import TableLayout
from .index import TextIndex

# Of BM25, as FTS5 has them.
K1, B, LEAST_WEIGHT = 1.2, 0.75, 1e-6

# Rows that match, each counted for each of its words, from which on counting them first pays.
_WORTH_COUNTING = 5_000
# An attempt looks at this part of them at most, and the next one at so many times as many rows.
_PART = 4
# Common words hardly lift the last one of the best by more than so.
_LIKELY = 0.5
# What sums of a few floats may differ by.
_ROUNDING = 1e-9

Scored = list[tuple[int, float]]
"""Rowids with their scores, best first."""
Run = Callable[[str], Scored]
"""The best rows of a query in FTS5's language, as many as are wanted."""


def weight_of(rows: int, having: int) -> float:
    """Return the weight of a word, of whose rows there are so many."""
    return max(LEAST_WEIGHT, math.log((rows - having + 0.5) / (having + 0.5)))


@dataclass(frozen=True, slots=True)
class _Word:
    place: int
    expression: str
    rows: int
    most: float
    """The most that it adds to a score."""


def best_by_rare_words(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    index: TextIndex,
    expressions: Sequence[str],
    limit: int,
    run: Run,
) -> Scored | None:
    """Return the best rows that match any of the expressions; None where all have to be scored."""
    if len(expressions) < 2:
        return None
    counts = []
    for expression in expressions:
        ticket.check()
        counted = f"SELECT count(*) FROM {index.table} WHERE {index.table} MATCH ?"
        counts.append(db.execute(counted, (expression,)).fetchone()[0])
    if sum(counts) < _WORTH_COUNTING:
        return None
    # No rowid is used twice, so there are no more rows than this.
    (rows,) = db.execute(
        f"SELECT (SELECT max(_rowid) FROM {table.rows}) "
        f"- min(0, (SELECT min(_rowid) FROM {table.rows})) + 1"
    ).fetchone()
    words = [
        _Word(place, expression, count, (K1 + 1) * weight_of(max(rows or 0, count), count))
        for place, (expression, count) in enumerate(zip(expressions, counts, strict=True))
    ]
    words.sort(key=lambda word: word.rows)
    looked = 0
    for split in range(1, len(words)):
        rare, common = words[:split], words[split:]
        count = sum(word.rows for word in rare)
        if count * _PART > sum(counts):
            return None
        most = sum(word.most for word in common)
        hopeless = count < limit or most >= sum(word.most for word in rare)
        if hopeless or count < _PART * looked:
            continue
        looked = count
        ticket.check()
        best = _attempt(rare, common, most, limit, run)
        if len(best) == limit and best[-1][1] > most * (1 + _ROUNDING):
            return best
    return None


def _attempt(
    rare: Sequence[_Word], common: Sequence[_Word], most: float, limit: int, run: Run
) -> Scored:
    """Return the best of the rows that have a rare word; fewer where it would not do."""
    by_rare = run(_any(rare))
    if len(by_rare) < limit or by_rare[-1][1] < most * _LIKELY:
        return []
    both = run(f"({_any(rare)}) AND ({_any(common)})")
    # Rows that are in both lists lack in the first one what their common words add.
    known = {rowid for rowid, _ in both}
    alone = [row for row in by_rare if row[0] not in known]
    # One of them that has a common word too is behind all rows of the second list.
    best = sorted([*both, *alone], key=lambda row: -row[1])
    if len(best) > limit and best[limit][1] == best[limit - 1][1]:
        return []  # which of them is first by id is not known here
    return best[:limit]


def _any(words: Sequence[_Word]) -> str:
    return " OR ".join(word.expression for word in sorted(words, key=lambda word: word.place))
