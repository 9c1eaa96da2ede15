"""Keyword search: Lance selects and ranks the matching rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import TextClause, all_words_first
from aiovec.backend.contract import Columns, Found, FromEach, Query, TableHandle, stored_rows
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import hop, together
from aiovec.errors import UnsupportedError

from ..index.fields import GRAMS, text_columns
from ..layout import ROW, column_names
from ..memory import SCAN_BATCH, STREAM_BYTES
from ..reads import condition_of, rows_by_number
from ..session import Snapshot
from ..sql.values import name, text
from ..table import Versions
from . import grams
from .grams import letters
from .highlight import snippets_of
from .query import RANKING, SCORE, ask, fetch, fields_of, first, query_of, text_fields

_T = TypeVar("_T")

# For ``hop``: translating a clause for Lance takes as long as copying this many values.
_COST = 32
# If the limit separates rows with equal scores, the search ranks ``_MORE`` times as many rows, up
# to ``_MOST_EQUAL`` rows beyond the limit: ranking 100,000 rows took 0.6 s, and ranking 2,560 rows
# took three times as long as 40. Usually, few rows have the last hit's score.
_MORE, _MOST_EQUAL = 4, 10_000
# Lance does not tell how many rows have a word. So a hybrid search reads up to ``_FEW`` of them for
# each of ``_MOST_WEIGHED`` words. The weight of a more frequent word is about the best row's score
# divided by ``_OFTEN``: BM25 multiplies the weight by at most 2.2.
_FEW, _MOST_WEIGHED, _OFTEN = 100, 32, 1.8
# A row's scores in two queries may differ by rounding.
_SURELY_LESS = 1 - 1e-6
_WORD = re.compile(r"[^\W_]+")
# The most prefixes in one query, and the most words that replace them in total. 10,000 words for
# one prefix took Lance 5 s, and 10,000 words for each of two prefixes took minutes.
_MOST_PREFIXES, _MOST_WORDS = 16, 200
# The most letters of all prefixes in the regular expression with which Lance selects texts. With
# 2,000 letters, the expression takes seconds to compile; with 10,000, compiling fails.
_MOST_LETTERS = 32
# Ranges that contain the accented Latin letters.
_LATIN = "\u00c0-\u024f\u1e00-\u1eff"


async def search_text(
    versions: Versions, handle: TableHandle, query: Query, finish: FromEach[_T]
) -> _T:
    """Find the best rows by BM25, and return the result of ``finish`` for them."""
    columns = query.columns
    ranked_with = columns if columns.meter is None else Columns(())
    async with versions.reading(
        handle, query.limit, columns, beside=partial(bytes_of_texts, versions, query)
    ) as table:
        rows, _ = await ranked(table, query, ranked_with)
        if columns.meter is not None:
            rows = await _with_columns(table, rows, columns)
        return await hop(cost_of(rows), lambda: finish([_found(table, query, rows)]))


async def bytes_of_texts(versions: Versions, query: Query, table: Snapshot) -> int:
    """Return the estimated size in bytes of the texts that a search reads: the texts of unindexed
    rows or, for prefixes and parts of words, of all rows. The size is at most
    ``STREAM_BYTES``."""
    every = table.schema.analyzer in GRAMS or any(clause.prefix for clause in query.clauses)
    unindexed = text_columns(await table.indexes()).values()
    rows = await table.rows() if every else max(unindexed, default=0)
    return min(rows * await versions.row_bytes(table), STREAM_BYTES) if rows else 0


async def ranked(
    table: Snapshot, query: Query, columns: Columns, *, weigh: bool = False
) -> tuple[pa.Table, float]:
    """Return the best rows with these columns and their scores, best first.

    With ``weigh``, also return the sum of the clauses' weights, otherwise 0.
    """
    wanted = {name for clause in query.clauses for name in fields_of(clause, table.schema)}
    if wanted.difference(text_columns(await table.indexes())):
        hint = (
            f"table {table.name!r} has no keyword index yet; upkeep builds it. To build it now: "
            f"await store.optimize({table.name!r})"
        )
        raise UnsupportedError("text", "lancedb", hint)
    where = await condition_of(query.where)
    words = {} if table.schema.analyzer in GRAMS else await _beginnings(table, query, where)
    searching: Callable[[], Awaitable[Any]] = partial(_ranked, table, query, words, where, columns)
    if not weigh:
        return await searching(), 0.0
    weighing: Callable[[], Awaitable[Any]] = partial(_weight, table, query, words, where)
    rows, weight = await together([searching, weighing])
    return rows, weight


async def _weight(
    table: Snapshot, query: Query, words: Mapping[TextClause, Sequence[str]], where: str | None
) -> float:
    """Return the sum of the BM25 weights of a query's clauses, as ``fused`` takes it."""
    clauses = [clause for clause in query.clauses if not clause.excluded]
    if table.schema.analyzer in GRAMS or not clauses:
        return 0.0
    # While no row is indexed, Lance scores by the rows that match the filter, then by all rows.
    if min(text_columns(await table.indexes()).values()) < await table.rows():
        where = None
    count, cost = await table.rows(where), _cost_of(query, words)

    async def weight(clause: TextClause) -> float:
        alone = replace(query, clauses=(clause,))
        built = await hop(cost, partial(query_of, table.schema, alone, words, any=True))
        if built is None:
            return 0.0
        rows = await fetch(table, built, [], where, _FEW, cost)
        having = rows.num_rows
        most = math.log(1 + max(0, count - having + 0.5) / (having + 0.5))
        best = cast("float", pc.max(rows.column(SCORE)).as_py()) if having else 0.0
        return most if having < _FEW else min(most, best / _OFTEN)

    weighed = clauses[:_MOST_WEIGHED]
    weights: list[float] = await together(
        [
            partial(table.once, f"weight {clause} {where}", partial(weight, clause))
            for clause in weighed
        ]
    )
    return sum(weights) * len(clauses) / len(weighed)


async def _ranked(
    table: Snapshot,
    query: Query,
    words: Mapping[TextClause, Sequence[str]],
    where: str | None,
    columns: Columns,
) -> pa.Table:
    matching = partial(_matching, table, query, words, where, columns)
    if query.match != "best" or query.wanted < 2:
        return await matching(any=query.match == "any")
    # The few rows with all words are nearly always among the best rows with any of the words.
    having = await _having_all(table, query, words, where)
    more: pa.Table = None if having is None else await matching(any=True)
    whole: pa.Table = None
    if having is not None and more is not None:
        whole = await hop(more.num_rows, _among, more, having, query.limit)
    if whole is None:
        whole = await matching(any=False)
        if whole.num_rows >= query.limit:
            return whole
        more = await matching(any=True) if more is None else more

    # If no word begins with a prefix, the empty table is not from Lance, and its types may differ.
    ranks = [part for part in (whole, more) if part.num_rows] or [more]

    def combined() -> pa.Table:
        order = all_words_first(pairs(whole), pairs(more), query.limit)
        rows = pa.concat_tables(ranks)
        places = {id: n for n, id in reversed([*enumerate(rows.column("id").to_pylist())])}
        taken = rows.take(pa.array([places[id] for id, _ in order], pa.int64()))
        scores = pa.array([score for _, score in order], pa.float64())
        return taken.set_column(taken.schema.get_field_index(SCORE), SCORE, scores)

    return await hop(cost_of(whole, more), combined)


def pairs(rows: pa.Table) -> list[tuple[str, float]]:
    """Return the ids of ranked rows with their scores."""
    return list(zip(rows.column("id").to_pylist(), rows.column(SCORE).to_pylist(), strict=True))


async def _having_all(
    table: Snapshot, query: Query, words: Mapping[TextClause, Sequence[str]], where: str | None
) -> dict[int, float] | None:
    """Return the numbers and scores of all rows that match all clauses, including deleted rows that
    the indexes still contain; None if there are more such rows than the limit, or if no Lance query
    can find them.

    The query reads no column, because reading columns takes most of a query's time.
    """
    cost = _cost_of(query, words)
    if table.schema.analyzer in GRAMS:
        return None
    built = await hop(cost, partial(query_of, table.schema, query, words, any=False))
    if built is None:
        return None
    rows = await fetch(table, built, [], where, query.limit + 1, cost)
    if rows.num_rows > query.limit:
        return None
    return dict(zip(rows.column(ROW).to_pylist(), rows.column(SCORE).to_pylist(), strict=True))


def _among(rows: pa.Table, having: Mapping[int, float], limit: int) -> pa.Table | None:
    """Return the rows whose numbers are in ``having``, with the scores from ``having``, best first;
    None if ``rows`` lacks a number that is in ``having``."""
    if not having.keys() <= {*rows.column(ROW).to_pylist()}:
        return None
    rows = rows.filter(pc.is_in(rows.column(ROW), value_set=pa.array([*having], pa.uint64())))
    scores = pa.array([having[row] for row in rows.column(ROW).to_pylist()], pa.float32())
    return first(rows.set_column(rows.schema.get_field_index(SCORE), SCORE, scores), limit)


def _cost_of(query: Query, words: Mapping[TextClause, Sequence[str]]) -> int:
    return _COST * (len(query.clauses) + sum(map(len, words.values())))


async def _matching(
    table: Snapshot,
    query: Query,
    words: Mapping[TextClause, Sequence[str]],
    where: str | None,
    columns: Columns,
    *,
    any: bool,
) -> pa.Table:
    """Return the best rows that match all clauses, or any of them, best first."""
    if table.schema.analyzer in GRAMS:
        best = await grams.search(table, query, where, any=any)
        best = await hop(best.num_rows, first, best, query.limit)
        return await _with_columns(table, best, columns)
    cost = _cost_of(query, words)
    built = await hop(cost, partial(query_of, table.schema, query, words, any=any))
    if built is None:
        return await _with_columns(table, RANKING.empty_table(), columns)
    rows = await ask(table, built, columns, where, query.limit + 1, cost)
    if rows.num_rows > query.limit:
        ranks = partial(fetch, table, built, [], where, cost=cost)
        rows = await _cut(table, query, ranks, rows)
        return await _with_columns(table, rows, columns)
    return await hop(rows.num_rows, first, rows, query.limit)


async def _cut(
    table: Snapshot, query: Query, ranks: Callable[..., Awaitable[pa.Table]], rows: pa.Table
) -> pa.Table:
    """Return the best rows up to the limit; ``rows`` has one row more.

    Rows with equal scores are ordered by id, but Lance chooses among them arbitrarily. If the limit
    separates such rows, this function lets Lance rank more rows, without their columns, until it
    has all rows with the last score, up to a maximum. Deleted rows among them drop out when the ids
    are read.
    """
    limit, ranked = query.limit, rows
    *_, least, beyond = sorted(rows.column(SCORE).to_pylist(), reverse=True)
    if beyond < least:
        return await hop(rows.num_rows, first, rows, limit)
    more, least = limit, least * _SURELY_LESS
    while (
        more < limit + _MOST_EQUAL
        and ranked.num_rows >= more
        and pc.min(ranked.column(SCORE)).as_py() >= least
    ):
        more = min(more * _MORE, limit + _MOST_EQUAL)
        ranked = await ranks(limit=more)
    ranked = ranked.filter(pc.greater_equal(ranked.column(SCORE), least))
    ranked = await _read(table, ranked.select([ROW, SCORE]), Columns(()))
    return await hop(ranked.num_rows, first, ranked, limit)


async def _beginnings(
    table: Snapshot, query: Query, where: str | None
) -> dict[TextClause, list[str]]:
    """Return, for each clause with a prefix, the most frequent words with this prefix.

    Lance can look up only whole words, so this function lets Lance select the texts that may
    contain a prefix, and reads them. Only the last word of a phrase is a prefix. If the query has
    more than ``_MOST_PREFIXES`` prefixes, the others are searched as whole words.
    """
    clauses = [clause for clause in query.clauses if clause.prefix]
    words = {clause: [clause.text] for clause in clauses[_MOST_PREFIXES:]}
    clauses = clauses[:_MOST_PREFIXES]
    counts_of: dict[TextClause, Counter[str]] = {clause: Counter() for clause in clauses}
    for field in text_fields(table.schema):
        wanted = [clause for clause in clauses if field in fields_of(clause, table.schema)]
        if wanted:
            await _count_words(table, field, wanted, where, counts_of)
    most = max(1, _MOST_WORDS // max(1, len(clauses)))
    for clause, counter in counts_of.items():
        words[clause] = [word for word, _ in counter.most_common(most)]
    return words


async def _count_words(
    table: Snapshot,
    field: str,
    clauses: Sequence[TextClause],
    where: str | None,
    counts_of: Mapping[TextClause, Counter[str]],
) -> None:
    """For each clause, count a field's words with the clause's prefix, in one read of the texts.

    Words are compared without accents, but counted with them, because accents may change the stem.
    """
    prefixes = {clause: letters(clause.text) for clause in clauses}
    patterns = {
        clause: re.compile(r"(?<![^\W_])" + r"[\W_]+".join(_WORD.findall(text)) + r"[^\W_]*")
        for clause, text in prefixes.items()
    }

    def look(batch: pa.RecordBatch) -> None:
        for value in batch.column("value").to_pylist():
            folded = letters(value)  # each letter keeps its position
            for clause, pattern in patterns.items():
                words = (value[slice(*match.span())] for match in pattern.finditer(folded))
                counts_of[clause].update(map(_lower, words))

    matches = f"regexp_like({name(field)}, {_any_of(list(prefixes.values()))})"
    condition = matches if where is None else f"({where}) AND {matches}"
    reading = table.lance.query().select({"value": name(field)})
    async for batch in await table.session.batches(reading, SCAN_BATCH, condition):
        await hop(cost_of(batch) * len(clauses), look, batch)


def _lower(word: str) -> str:
    """Lowercase each letter of a word separately, as the index does, so that a capital sigma at the
    end is lowercased like any other."""
    if word.isascii():
        return word.lower()
    return "".join(letter if letter == "İ" else letter.lower() for letter in word)


def _any_of(prefixes: Sequence[str]) -> str:
    """Return a SQL literal: a regular expression that matches every text with any of the
    prefixes."""
    most = max(1, _MOST_LETTERS // len(prefixes))
    loosely = {
        r"[^\p{L}\p{N}]+".join(
            "".join(map(_loosely, part)) for part in _WORD.findall(prefix[:most])
        )
        for prefix in prefixes
    }
    return text(rf"(?i)(^|[^\p{{L}}\p{{N}}])({'|'.join(sorted(loosely))})")


def _loosely(letter: str) -> str:
    """Return a Rust regular expression for a letter, with or without an accent."""
    return f"[{letter}{_LATIN}]" if letter.isascii() and letter.isalpha() else letter


async def _with_columns(table: Snapshot, ranked: pa.Table, columns: Columns) -> pa.Table:
    """Return the ranked rows, in the same order, with these columns."""
    names = column_names(table.schema, columns)
    return ranked if set(names) <= {*ranked.column_names} else await _read(table, ranked, columns)


async def _read(table: Snapshot, ranked: pa.Table, columns: Columns) -> pa.Table:
    """Return the ranked rows that still exist, in the same order, with these columns."""
    numbers = await hop(ranked.num_rows, ranked.column(ROW).to_pylist)
    rows = await rows_by_number(table, numbers, columns)

    def scored() -> pa.Table:
        places = pc.index_in(ranked.column(ROW), value_set=rows.column(ROW))
        scores = ranked.column(SCORE).filter(pc.is_valid(places))
        return rows.take(places.drop_null()).append_column(SCORE, scores)

    return await hop(rows.num_rows, scored)


def _found(table: Snapshot, query: Query, rows: pa.Table) -> Found:
    scores = rows.column(SCORE).to_pylist()
    stored = stored_rows(rows, table.schema, query.columns)
    return Found(stored, scores=scores, snippets=snippets_of(table.schema, query))
