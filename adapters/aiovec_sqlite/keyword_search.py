"""Find the best rows by keywords, with word lists in memory, with FTS5, or by reading the texts.

Every word is a quoted string in an FTS5 query, so nothing that a user types is an operator.

FTS5 scores each matching row, so for a word in half of the rows it scores half of the table. FTS5
is used only if no lists are in memory, or the lists cannot answer a query.
"""

from __future__ import annotations

import heapq
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from aiovec.backend import (
    Float32Array,
    Float64Array,
    FusedHit,
    Int64Array,
    Metric,
    TextClause,
    all_words_first,
    ends_in_letter,
    least,
    part_snippets,
    word_snippets,
)
from aiovec.backend.contract import (
    Columns,
    Found,
    Query,
    Snippets,
    TableHandle,
)
from aiovec.backend.hybrid import found, fused
from aiovec.backend.rows import Batch

from .connection import Ticket
from .driver import load_driver
from .errors import CORRUPT, TextDamageError, code_of, names_text_index
from .layout import TableLayout, current_table, quoted
from .reads import by_rowids, condition_of, split
from .sql.folding import folded
from .stems import stems
from .text_index import (
    TextIndex,
    being_built,
    indexes_of,
    serving,
    wanted_fields,
)
from .tokens import Tokenizer
from .vectors import MissingRowsError

# FTS5's BM25 parameters.
K1, B, LEAST_WEIGHT = 1.2, 0.75, 1e-6

Scored = list[tuple[int, float]]
"""Rowids with their scores, best first."""
ReadVectors = Callable[[Int64Array], Float32Array]
"""Returns the vectors of rows, with NaN for a row without a vector."""
Measured = Callable[[Float32Array, Float32Array, Metric], Float64Array]
"""Returns the distances from vectors to a point."""


def weight_of(rows: int, having: int) -> float:
    """Return the BM25 weight of a word; ``having`` is the number of rows that contain it."""
    return max(LEAST_WEIGHT, math.log((rows - having + 0.5) / (having + 0.5)))


class IndexClause(NamedTuple):
    """A query clause in the form that the index needs."""

    text: str
    """The words as the index stores them."""
    prefix: bool
    columns: tuple[str, ...]
    """The index columns to search; empty means all."""


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """A query of a text index, in a snapshot of the file."""

    db: sqlite3.Connection
    ticket: Ticket
    table: TableLayout
    wanted: Sequence[IndexClause]
    unwanted: Sequence[IndexClause]
    query: Query


class Lists(Protocol):
    """The rows that match each clause of a query."""

    @property
    def weight(self) -> float:
        """The sum of the BM25 weights of the clauses."""

    def best(self, *, some: bool) -> Scored:
        """Return the best rows that match all clauses, or, with ``some``, at least one clause."""


class SnapshotWords(Protocol):
    """A table's indexed words, in memory, as of a snapshot."""

    @property
    def index(self) -> TextIndex:
        """The index that answers searches in this snapshot."""

    def lists(self, request: IndexQuery) -> Lists | None:
        """Return the lists for a query, or None if FTS5 must find the rows."""


# The ngram index cannot find parts of words with fewer characters than this.
_GRAM = 3
# For a longer part, FTS5 would visit a row once for each trigram that the part and the row share.
_LONGEST_PART = 128
# Rows between two checks for cancellation.
_BLOCK = 1_000


def search_text(
    db: sqlite3.Connection,
    ticket: Ticket,
    handle: TableHandle,
    query: Query,
    words: SnapshotWords | None = None,
) -> Found:
    table = current_table(db, handle)
    best, _, maker = _ranked(db, ticket, table, query, words)
    rows = _rows(db, ticket, table, [rowid for rowid, _ in best], query.columns)
    return Found(rows, scores=[score for _, score in best], snippets=maker)


@dataclass(frozen=True, slots=True)
class HybridHits:
    """A hybrid query's hits by rowid. Their rows have not been read yet."""

    query: Query
    hits: Sequence[FusedHit[int]]
    snippets: Snippets | None


def hybrid_hits(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    query: Query,
    nearest: Sequence[int],
    far: Sequence[float],
    words: SnapshotWords | None = None,
) -> HybridHits:
    """Search for the query's words, and fuse the hits with the nearest rows."""
    best, weight, maker = _ranked(db, ticket, table, query, words)
    near = [*zip(far, nearest, strict=True)]
    known: dict[int, str] = {}

    def ids_of(rowids: Sequence[int]) -> dict[int, str]:
        """Return ids by rowid. Ids are cached, because a row may be in several lists."""
        if lacking := [rowid for rowid in rowids if rowid not in known]:
            known.update(_ids(db, table, lacking))
        return known

    return HybridHits(query, fused(query, table.schema.metric, near, best, weight, ids_of), maker)


def found_by_both(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    searches: Sequence[HybridHits],
    read: ReadVectors,
    measured: Measured,
) -> list[Found]:
    """Return the results of hybrid queries that request the same columns.

    Computes the distances of hits that only the keyword search found.
    """
    metric, columns = table.schema.metric, searches[0].query.columns
    rows = _rows(db, ticket, table, [hit.key for each in searches for hit in each.hits], columns)
    lacking = [[hit for hit in each.hits if hit.distance is None] for each in searches]
    # If the columns include the vector, ``found`` computes the distances.
    if any(lacking) and not columns.vector:
        rowids = np.array([hit.key for hits in lacking for hit in hits], dtype=np.int64)
        vectors, start = read(rowids), 0
        for each, hits in zip(searches, lacking, strict=True):
            part, start = vectors[start : start + len(hits)], start + len(hits)
            distances = measured(part, each.query.vector, metric).tolist() if hits else ()
            for hit, distance in zip(hits, distances, strict=True):
                if distance == distance:  # NaN means no vector
                    hit.distance = distance
    return [
        found(each.query, metric, each.hits, part, each.snippets)
        for each, part in zip(
            searches, split(rows, [len(each.hits) for each in searches]), strict=True
        )
    ]


def _ranked(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    query: Query,
    words: SnapshotWords | None,
) -> tuple[Scored, float, Snippets | None]:
    """Return the rowids of the best rows with their scores.

    Also return the sum of the clauses' weights, for a hybrid search, and the function that makes
    snippets.
    """
    index = serving(db, table) if words is None else words.index
    terms = _Terms(db, table, index, query.clauses)

    def matching(*, any: bool) -> Scored:
        ticket.check()
        if terms.scanned:
            return _by_scan(db, ticket, table, index, terms, query, any=any)
        if not terms.indexed:
            return []
        if lists is not None:
            return lists.best(some=any)
        matches = _matching(table, index, terms.match(any=any), query)
        return _best(db, table, *matches, query.limit)

    with _as_index_damage(table.name):
        lists = None
        if words is not None and terms.indexed and not terms.scanned:
            request = IndexQuery(db, ticket, table, terms.indexed, terms.without, query)
            lists = words.lists(request)
        best = matching(any=query.match == "any")
        weight = _weight(db, index, terms, lists) if query.by_both else 0.0
        if query.match == "best" and query.wanted > 1 and len(best) < query.limit:
            having = {rowid for rowid, _ in best}
            others = [match for match in matching(any=True) if match[0] not in having]
            room = query.limit - len(best)
            if len(others) > room:  # the limit may fall between rows with equal scores
                more = least(
                    [(-score, row) for row, score in others], room, partial(_ids, db, table)
                )
                others = [(row, -value) for value, row in more]
            best = all_words_first(best, others, query.limit)
    ticket.check()
    return best, weight, _snippets(index, query)


def _weight(db: sqlite3.Connection, index: TextIndex, terms: _Terms, lists: Lists | None) -> float:
    """Return the sum of the weights of a query's words; 0 if clauses are parts of words."""
    if lists is not None:
        return lists.weight
    if index.analyzer == "ngram":
        return 0.0
    (rows,) = db.execute(f"SELECT count(*) FROM {index.shadow('docsize')}").fetchone()
    having = f"SELECT count(*) FROM {index.table} WHERE {index.table} MATCH ?"
    return sum(
        weight_of(rows, db.execute(having, (expression_of(clause),)).fetchone()[0])
        for clause in terms.indexed
        if any(map(str.isalnum, clause.text))  # otherwise FTS5 ignores it
    )


@contextmanager
def _as_index_damage(name: str) -> Iterator[None]:
    """Raise TextDamageError if the block fails because the index is damaged."""
    try:
        yield
    except load_driver().DatabaseError as exc:
        if code_of(exc) == CORRUPT or names_text_index(str(exc)):
            raise TextDamageError(name, str(exc)) from exc
        raise


class _Terms:
    """A query's clauses, divided into clauses for FTS5 and clauses that need a scan."""

    def __init__(
        self,
        db: sqlite3.Connection,
        table: TableLayout,
        index: TextIndex,
        clauses: Sequence[TextClause],
    ) -> None:
        self._grams = index.analyzer == "ngram"
        wanted = wanted_fields(table.schema)
        self.fields = [name for name in index.fields if name in wanted]
        for clause in clauses:
            needed = wanted if clause.field is None else [clause.field]
            if not set(needed).issubset(self.fields):
                raise being_built(table.name, indexes_of(db, table.name)[-1])
        self._index = index
        # With ngrams, ignore a clause from which folding removes every character.
        self.clauses = [c for c in clauses if not self._grams or folded(c.text)]
        self.positive = [c for c in self.clauses if not c.excluded]
        self.scanned = [c for c in self.clauses if self._is_scanned(c)] if self.positive else []
        rest = [c for c in self.clauses if not self._is_scanned(c)]
        self.indexed = [self._in_index(c) for c in rest if not c.excluded]
        self.without = [self._in_index(c) for c in rest if c.excluded]

    def _is_scanned(self, clause: TextClause) -> bool:
        return self._grams and not _GRAM <= len(folded(clause.text)) <= _LONGEST_PART

    def _in_index(self, clause: TextClause) -> IndexClause:
        text = stems(self._index.stemming, clause.text, whole=False)
        # Pairs do not contain a single letter, but begin with it.
        prefix = clause.prefix or (self._index.analyzer == "cjk" and ends_in_letter(clause.text))
        fields = self.fields_of(clause)
        every = len(fields) == len(self._index.fields)
        columns = () if every else tuple(map(self._index.column_of, fields))
        return IndexClause(text or "", prefix and not self._grams, columns)

    def match(self, *, any: bool) -> str:
        """Return the FTS5 query. Requires at least one indexed clause."""
        # Join words with a space, because AND finds nothing if one of the words has no token.
        expression = (" OR " if any else " ").join(map(expression_of, self.indexed))
        return f"({expression}) NOT ({self.unwanted})" if self.without else expression

    @property
    def unwanted(self) -> str:
        return " OR ".join(map(expression_of, self.without))

    def fields_of(self, clause: TextClause) -> list[str]:
        return self.fields if clause.field is None else [clause.field]


def expression_of(clause: IndexClause) -> str:
    """Return a clause in FTS5's query syntax."""
    words = '"' + clause.text.replace('"', '""') + '"'
    if clause.prefix:
        words += " *"
    return f"{{{' '.join(clause.columns)}}} : {words}" if clause.columns else words


def _best(
    db: sqlite3.Connection, table: TableLayout, sql: str, values: Sequence[Any], limit: int
) -> Scored:
    """Return a statement's best rows. At the limit, ids decide between equal scores."""
    rows = db.execute(f"{sql} ORDER BY score LIMIT ?", (*values, limit + 1)).fetchall()
    if len(rows) > limit and rows[limit][1] == rows[limit - 1][1]:
        # The inner LIMIT makes SQLite compute all scores first, and look up only the ids it needs.
        rows = db.execute(
            f"SELECT f.number, f.score FROM ({sql} LIMIT -1) AS f "
            f"LEFT JOIN {table.rows} AS r ON r._rowid = f.number "
            "WHERE f.score <= ? ORDER BY f.score, r.id LIMIT ?",
            (*values, rows[limit - 1][1], limit),
        ).fetchall()
    return [(rowid, -score) for rowid, score in rows[:limit]]


def _matching(
    table: TableLayout, index: TextIndex, match: str, query: Query
) -> tuple[str, list[Any]]:
    """Return SQL for the rows that match the query and its filter, with bm25() as ``score``."""
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
) -> Batch:
    numbers = np.array(rowids, dtype=np.int64)
    try:
        return by_rowids(db, ticket, table, numbers, columns)
    except MissingRowsError as exc:
        raise TextDamageError(table.name, "rows that it names do not exist") from exc


def _ids(db: sqlite3.Connection, table: TableLayout, rowids: Sequence[int]) -> dict[int, str]:
    """Return the ids of rows by rowid, read in one step of one statement."""
    (text,) = db.execute(
        f"SELECT json_group_array(r.id) FROM json_each(?) AS j CROSS JOIN {table.rows} AS r "
        "ON r._rowid = j.value",
        (json.dumps(rowids),),
    ).fetchone()
    ids: list[str] = json.loads(text)
    if len(ids) != len(rowids):
        raise TextDamageError(table.name, "rows that it names do not exist")
    return dict(zip(rowids, ids, strict=True))


# Clauses too short or too long for the index


def _by_scan(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    index: TextIndex,
    terms: _Terms,
    query: Query,
    *,
    any: bool,
) -> Scored:
    """Return the best rows for a query with clauses that only a scan of the texts can find."""
    wanted = [clause for clause in terms.scanned if not clause.excluded]
    by_index: dict[int, float] = {}
    if terms.indexed:
        sql, values = _matching(table, index, terms.match(any=any), query)
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
    needs_index = bool(terms.indexed) and not any
    scanned = characters = 0
    kept: list[tuple[int, str, int, list[int]]] = []
    having = [0] * len(wanted)
    for rowid, id, length, *clause_counts in db.execute(
        f"SELECT r._rowid, r.id, {lengths}, {', '.join(counts)} FROM {table.rows} AS r "
        f"WHERE ({condition}){excluded}",
        (*bound, *values),
    ):
        scanned += 1
        characters += length
        if scanned % _BLOCK == 0:
            ticket.check()
        positive = [clause_counts[n] for n in good]
        for place, count in enumerate(positive):
            having[place] += count > 0
        if sum(clause_counts[n] for n in bad) or (needs_index and rowid not in by_index):
            continue
        if (sum(positive) or rowid in by_index) if any else all(positive):
            kept.append((rowid, id, length, positive))
    mean = characters / scanned if characters else 1.0
    weights = [weight_of(scanned, rows) for rows in having]

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
        return lambda _, texts: part_snippets(texts, clauses, folded, marks)
    tokens_of = partial(_tokens, index)
    return lambda _, texts: word_snippets(texts, clauses, index.analyzer, tokens_of, marks)


def _tokens(index: TextIndex, text: str) -> list[str]:
    """Return a text's tokens in order, in the form that the index stores."""
    return Tokenizer(index.analyzer).of_texts([stems(index.stemming, text) or ""])[0]
