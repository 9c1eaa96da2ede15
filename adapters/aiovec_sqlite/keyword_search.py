"""The best rows by keywords: clauses as an FTS5 query, or looked for in the texts themselves.

Every word is a quoted string in the query, so nothing that a user types is an operator.

FTS5 computes the score of each matching row, so a word in half the rows costs as much as half the
table. A word adds at most ``(k1 + 1) * weight`` to a row's score, and the weight of a common word
is small. So if enough rows score higher by their rarer words alone than all common words together
can add, no other row is among the best.
"""

from __future__ import annotations

import heapq
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aiovec.backend import LANGUAGES, TextClause, filled, snippets, word_snippets
from aiovec.backend.contract import (
    Columns,
    Found,
    Query,
    Snippets,
    StoredRows,
    TableHandle,
)
from aiovec.backend.hybrid import columns_of, found, fused

from .connection import Ticket
from .driver import load_driver
from .errors import CORRUPT, TextDamageError, code_of, names_text_index
from .layout import TableLayout, current_table, quoted
from .reads import by_rowids, condition_of
from .sql.folding import folded, places_of
from .stems import stems
from .text_index import (
    TextIndex,
    being_built,
    indexes_of,
    serving,
    tokenizer_of,
    wanted_fields,
)
from .vectors import MissingRowsError

# The parameters of BM25 in FTS5.
K1, B, LEAST_WEIGHT = 1.2, 0.75, 1e-6

# Matching rows, counted once for each word, above which looking at rare words first pays.
_WORTH_COUNTING = 5_000
# An attempt looks at one part in this many at most, and the next at this many times as many rows.
_PART = 4
# Common words hardly ever lift the last of the best rows by more than this share.
_LIKELY = 0.5
# The relative rounding error of sums of a few floats.
_ROUNDING = 1e-9

Scored = list[tuple[int, float]]
"""Rowids with their scores, best first."""
Run = Callable[[str], Scored]
"""Returns the best rows of a query in FTS5's language, as many as wanted."""


def weight_of(rows: int, having: int) -> float:
    """Return the weight of a word that ``having`` of the rows have."""
    return max(LEAST_WEIGHT, math.log((rows - having + 0.5) / (having + 0.5)))


@dataclass(frozen=True, slots=True)
class _Word:
    place: int
    expression: str
    rows: int
    most: float
    """The most that the word adds to a score."""


def best_by_rare_words(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    index: TextIndex,
    expressions: Sequence[str],
    limit: int,
    run: Run,
) -> Scored | None:
    """Return the best rows that match any of the expressions; None if all have to be scored."""
    if len(expressions) < 2:
        return None
    counts = []
    for expression in expressions:
        ticket.check()
        counted = f"SELECT count(*) FROM {index.table} WHERE {index.table} MATCH ?"
        counts.append(db.execute(counted, (expression,)).fetchone()[0])
    if sum(counts) < _WORTH_COUNTING:
        return None
    # No rowid is used twice, so this is at least the number of rows.
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
    """Return the best of the rows with a rare word; fewer if they are not certainly the best."""
    by_rare = run(_any(rare))
    if len(by_rare) < limit or by_rare[-1][1] < most * _LIKELY:
        return []
    both = run(f"({_any(rare)}) AND ({_any(common)})")
    # In the first list, rows of both lists lack the scores of their common words.
    known = {rowid for rowid, _ in both}
    alone = [row for row in by_rare if row[0] not in known]
    # A row of the first list with a common word too ranks behind all rows of the second.
    best = sorted([*both, *alone], key=lambda row: -row[1])
    if len(best) > limit and best[limit][1] == best[limit - 1][1]:
        return []  # the order of equal rows by id is not known here
    return best[:limit]


def _any(words: Sequence[_Word]) -> str:
    return " OR ".join(word.expression for word in sorted(words, key=lambda word: word.place))


# The trigram tokenizer finds nothing shorter.
_GRAM = 3
# For a longer part, FTS5 would look at each row with one of its grams once for each gram.
_LONGEST_PART = 128
# Rows between two checks whether the caller has gone.
_BLOCK = 1_000


def search_text(db: sqlite3.Connection, ticket: Ticket, handle: TableHandle, query: Query) -> Found:
    table = current_table(db, handle)
    best, _, maker = _ranked(db, ticket, table, query)
    rows = _rows(db, ticket, table, [rowid for rowid, _ in best], query.columns)
    return Found(rows, scores=[score for _, score in best], snippets=maker)


def search_both(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    query: Query,
    nearest: Sequence[int],
    far: Sequence[float],
) -> Found:
    """Search for the query's words, and fuse the rows with the nearest ones and their distances."""
    best, whole, maker = _ranked(db, ticket, table, query)
    matching = [rowid for rowid, _ in best]
    rowids = [*dict.fromkeys([*nearest, *matching])]
    ids = _rows(db, ticket, table, rowids, Columns(())).ids
    id_of, rowid_of = dict(zip(rowids, ids, strict=True)), dict(zip(ids, rowids, strict=True))
    hits = fused(
        query,
        table.schema.metric,
        zip(far, [id_of[rowid] for rowid in nearest], strict=True),
        [(id_of[rowid], score) for rowid, score in best],
        whole,
    )
    shown = [rowid_of[hit.id] for hit in hits]
    rows = _rows(db, ticket, table, shown, columns_of(query, hits))
    return found(query, table.schema.metric, hits, rows, maker)


def _ranked(
    db: sqlite3.Connection, ticket: Ticket, table: TableLayout, query: Query
) -> tuple[Scored, int, Snippets | None]:
    """Return the rowids of the best rows with their scores, the number of the first ones that have
    all words, and what makes snippets."""
    index = serving(db, table)

    def matching(*, any: bool) -> Scored:
        terms = _Terms(db, table, index, query.clauses, any=any)
        ticket.check()
        if terms.scanned:
            return _by_scan(db, ticket, table, index, terms, query)
        return [] if terms.match is None else _by_index(db, ticket, table, index, terms, query)

    with _as_index_damage(table.name):
        best = matching(any=query.match == "any")
        whole = 0 if query.match == "any" else len(best)
        if query.match == "best" and query.wanted > 1 and len(best) < query.limit:
            best = filled(best, matching(any=True), query.limit)
    ticket.check()
    return best, whole, _snippets(index, query)


@contextmanager
def _as_index_damage(name: str) -> Iterator[None]:
    """Distinguish damage of the index from damage of the rows."""
    try:
        yield
    except load_driver().DatabaseError as exc:
        if code_of(exc) == CORRUPT or names_text_index(str(exc)):
            raise TextDamageError(name, str(exc)) from exc
        raise


class _Terms:
    """The clauses of a query as FTS5 takes them, and the clauses that only a scan finds."""

    def __init__(
        self,
        db: sqlite3.Connection,
        table: TableLayout,
        index: TextIndex,
        clauses: Sequence[TextClause],
        *,
        any: bool,
    ) -> None:
        self._grams = index.analyzer == "ngram"
        wanted = wanted_fields(table.schema)
        self.fields = [name for name in index.fields if name in wanted]
        for clause in clauses:
            needed = wanted if clause.field is None else [clause.field]
            if not set(needed).issubset(self.fields):
                raise being_built(table.name, indexes_of(db, table.name)[-1])
        self._index = index
        self._joint = " OR " if any else " "
        # A clause without a letter for the index is ignored.
        self.clauses = [c for c in clauses if not self._grams or folded(c.text)]
        self.positive = [c for c in self.clauses if not c.excluded]
        self.scanned = [c for c in self.clauses if self._is_scanned(c)] if self.positive else []
        rest = [c for c in self.clauses if not self._is_scanned(c)]
        self.indexed = [c for c in rest if not c.excluded]
        self.without = [c for c in rest if c.excluded]
        self.any = any

    def _is_scanned(self, clause: TextClause) -> bool:
        return self._grams and not _GRAM <= len(folded(clause.text)) <= _LONGEST_PART

    @property
    def match(self) -> str | None:
        """The query for FTS5; None without a word to look for."""
        if not self.indexed:
            return None
        # Words side by side: AND would find nothing if one of them has no token.
        expression = self._joint.join(self.expressions)
        return f"({expression}) NOT ({self.unwanted})" if self.without else expression

    @property
    def unwanted(self) -> str:
        return " OR ".join(map(self._expression, self.without))

    @property
    def expressions(self) -> list[str]:
        return [self._expression(clause) for clause in self.indexed]

    def _expression(self, clause: TextClause) -> str:
        text = stems(self._index.analyzer, clause.text) if self._index.stemmed else clause.text
        words = '"' + (text or "").replace('"', '""') + '"'
        if clause.prefix and not self._grams:
            words += " *"
        fields = self.fields_of(clause)
        if len(fields) == len(self._index.fields):
            return words
        return f"{{{' '.join(map(self._index.column_of, fields))}}} : {words}"

    def fields_of(self, clause: TextClause) -> list[str]:
        return self.fields if clause.field is None else [clause.field]


def _by_index(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    index: TextIndex,
    terms: _Terms,
    query: Query,
) -> Scored:
    """Return the rowids of the best rows with their scores."""
    limit = query.limit

    def run(match: str) -> Scored:
        ranked = _best(db, table, *_matching(table, index, match, query), limit)
        return [(rowid, -score) for rowid, score in ranked]

    # FTS5 leaves words out of some scores if an AND of words is within a NOT.
    if terms.any and not terms.without:
        best = best_by_rare_words(db, ticket, table, index, terms.expressions, limit, run)
        if best is not None:
            return best
    return run(terms.match or "")


def _best(
    db: sqlite3.Connection, table: TableLayout, sql: str, values: Sequence[Any], limit: int
) -> list[tuple[int, float]]:
    """Return the best of the statement's rows; of equal ones the first by id."""
    rows = db.execute(f"{sql} ORDER BY score LIMIT ?", (*values, limit + 1)).fetchall()
    if len(rows) <= limit or rows[limit][1] != rows[limit - 1][1]:
        return rows[:limit]
    # The inner limit makes SQLite compute the scores first, and look up ids only for these rows.
    return db.execute(
        f"SELECT f.number, f.score FROM ({sql} LIMIT -1) AS f "
        f"LEFT JOIN {table.rows} AS r ON r._rowid = f.number "
        "WHERE f.score <= ? ORDER BY f.score, r.id LIMIT ?",
        (*values, rows[limit - 1][1], limit),
    ).fetchall()


def _matching(
    table: TableLayout, index: TextIndex, match: str, query: Query
) -> tuple[str, list[Any]]:
    """Return SQL for the rows that match and that the filter selects, with bm25() as ``score``."""
    score = f"bm25({index.table}) AS score"
    if query.where is None:
        return f"SELECT rowid AS number, {score} FROM {index.table} WHERE {index.table} MATCH ?", [
            match
        ]
    condition, bound = condition_of(query.where, table)
    # With ``rowid IN (…)`` SQLite would run the whole query once for each rowid.
    sql = (
        f"SELECT r._rowid AS number, {score} FROM {index.table} AS t "
        f"CROSS JOIN {table.rows} AS r ON r._rowid = t.rowid "
        f"WHERE t.{index.table} MATCH ? AND ({condition})"
    )
    return sql, [match, *bound]


def _rows(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    rowids: Sequence[int],
    columns: Columns,
) -> StoredRows:
    numbers = np.array(rowids, dtype=np.int64)
    try:
        return by_rowids(db, ticket, table, numbers, columns)
    except MissingRowsError as exc:
        raise TextDamageError(table.name, "rows that it names do not exist") from exc


# Clauses too short or too long for the index


def _by_scan(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    index: TextIndex,
    terms: _Terms,
    query: Query,
) -> Scored:
    """Return the best rows when some clauses have to be looked for in the texts."""
    wanted = [clause for clause in terms.scanned if not clause.excluded]
    by_index: dict[int, float] = {}
    if terms.match is not None:
        sql, values = _matching(table, index, terms.match, query)
        by_index = {rowid: -score for rowid, score in db.execute(sql, values)}
    counts, bound = [], []
    for clause in terms.scanned:
        each = []
        for name in terms.fields_of(clause):
            each.append(f"aiovec_counts(?, CAST(r.{quoted(name)} AS BLOB))")
            bound.append(clause.text)
        counts.append(" + ".join(each))
    lengths = " + ".join(f"coalesce(length(r.{quoted(name)}), 0)" for name in terms.fields)
    condition, values = condition_of(query.where, table)
    excluded = ""
    if terms.without:
        excluded = (
            f" AND r._rowid NOT IN (SELECT rowid FROM {index.table} WHERE {index.table} MATCH ?)"
        )
        values = [*values, terms.unwanted]
    bad = [n for n, clause in enumerate(terms.scanned) if clause.excluded]
    good = [n for n, clause in enumerate(terms.scanned) if not clause.excluded]
    needs_index = bool(terms.indexed) and not terms.any
    looked = characters = 0
    kept: list[tuple[int, str, int, list[int]]] = []
    having = [0] * len(wanted)
    for rowid, id, length, *clause_counts in db.execute(
        f"SELECT r._rowid, r.id, {lengths}, {', '.join(counts)} FROM {table.rows} AS r "
        f"WHERE ({condition}){excluded}",
        (*bound, *values),
    ):
        looked += 1
        characters += length
        if looked % _BLOCK == 0:
            ticket.check()
        positive = [clause_counts[n] for n in good]
        for place, count in enumerate(positive):
            having[place] += count > 0
        if any(clause_counts[n] for n in bad) or (needs_index and rowid not in by_index):
            continue
        if (any(positive) or rowid in by_index) if terms.any else all(positive):
            kept.append((rowid, id, length, positive))
    mean = characters / looked if characters else 1.0
    weights = [weight_of(looked, rows) for rows in having]

    def score(rowid: int, length: int, counts: Sequence[int]) -> float:
        base = K1 * (1 - B + B * length / mean)
        return by_index.get(rowid, 0.0) + sum(
            weight * count * (K1 + 1) / (count + base)
            for weight, count in zip(weights, counts, strict=True)
        )

    scored = ((-score(rowid, length, counts), id, rowid) for rowid, id, length, counts in kept)
    best = heapq.nsmallest(min(query.limit, len(kept)), scored)
    return [(rowid, -value) for value, _, rowid in best]


# Snippets


def _snippets(index: TextIndex, query: Query) -> Snippets | None:
    if query.highlight is None:
        return None
    clauses, marks = query.clauses, query.highlight
    if index.analyzer == "ngram":
        return lambda _, texts: snippets(texts, clauses, places_of, marks)
    tokens_of = partial(_tokens, index.analyzer)
    return lambda _, texts: word_snippets(texts, clauses, tokens_of, marks)


def _tokens(analyzer: str, text: str) -> list[str]:
    """Return the tokens of a text in order, as an index of this analyzer has them."""
    stemmed = stems(analyzer, text) if analyzer in LANGUAGES else text
    with closing(load_driver().connect(":memory:")) as memory:
        memory.execute(
            f"CREATE VIRTUAL TABLE words USING fts5(text, tokenize='{tokenizer_of(analyzer)}')"
        )
        memory.execute("CREATE VIRTUAL TABLE tokens USING fts5vocab(words, instance)")
        memory.execute("INSERT INTO words VALUES (?)", (stemmed,))
        return [term for (term,) in memory.execute("SELECT term FROM tokens ORDER BY offset")]
