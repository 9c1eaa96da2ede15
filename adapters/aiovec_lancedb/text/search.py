"""Keyword search: Lance selects and ranks the rows that match."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Schema, TextClause
from aiovec.backend.contract import Columns, Found, TextQuery
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight

from ..index.fields import text_columns
from ..reads import MOST as ALL
from ..reads import condition_of, filtered, rows_by_id, rows_of
from ..session import Opened, Session
from ..sql.values import name, text
from . import grams
from .grams import letters
from .highlight import highlighted
from .query import (
    MORE,
    MOST,
    SCORE,
    TIMES,
    Conditions,
    ask,
    conditions_of,
    fields_of,
    none_left_out,
    ranking,
    text_fields,
)

# For ``hop``: a clause takes as long to turn into Lance's form as so many values to copy.
_EFFORT = 32
_IDS = Columns(())
_SCAN_BATCH = 4096
_WORD = re.compile(r"[^\W_]+")
# Words for which one beginning stands at most. 10,000 took Lance 5 s, and two such ones minutes.
_MOST_WORDS = 200
# Letters of a beginning by which Lance passes texts on. A regular expression of 2,000 takes it
# seconds to compile, and one of 10,000 is an error.
_MOST_LETTERS = 32
# Letters that may be Latin ones with an accent.
_LATIN = "\u00c0-\u024f\u1e00-\u1eff"
# Ids that are asked for beside what a search has a share of the memory for.
_MOST_BESIDE = 10_000


class LacksTextIndexError(Exception):
    """Never reaches a user: the columns have to get their text index first."""


class ManyEqualError(Exception):
    """Never reaches a user: more rows have the score of the last hit than the search may hold."""


async def lacking_columns(session: Session, table: Opened, query: TextQuery) -> list[str]:
    """Return the fields of the query that have no text index yet."""
    wanted = {name for clause in query.clauses for name in fields_of(clause, table.schema)}
    return sorted(wanted.difference(text_columns(await session.indices(table))))


def reads_every_row(schema: Schema, query: TextQuery) -> bool:
    """Return whether the search may read all rows, or hold their ids at once."""
    many = len(query.clauses) * len(text_fields(schema)) > MOST
    return schema.analyzer == "ngram" or many or any(one.prefix for one in query.clauses)


async def search_text(
    session: Session,
    table: Opened,
    query: TextQuery,
    *,
    whole: bool,
) -> Found:
    """Return the best rows by BM25, with their highlights; ``whole`` may hold the ids of all."""
    if await lacking_columns(session, table, query):
        raise LacksTextIndexError
    where = await condition_of(query.where)
    conditions = None
    if table.schema.analyzer != "ngram":
        words = {
            clause: await _beginning_with(session, table, clause, where)
            for clause in query.clauses
            if clause.prefix
        }
        effort = _EFFORT * (len(query.clauses) + sum(map(len, words.values())))
        conditions = await hop(effort, conditions_of, table.schema, query, words)
    if conditions is not None and 0 < conditions.count <= MOST and conditions.groups:
        rows = await _first(session, table, query, conditions, where, whole=whole)
    else:
        if conditions is None:
            ranked = await grams.search(session, table, query, where)
        else:
            ranked = await _in_parts(session, table, conditions, where)
        ranked = await hop(ranked.num_rows, _best, ranked, query.limit)
        rows = await _with_columns(session, table, query, ranked)
    found = await hop(weight(rows), partial(_found, table, query, rows))
    if query.highlight is None:
        return found
    return await highlighted(table.schema, query, rows, found)


async def _beginning_with(
    session: Session, table: Opened, clause: TextClause, where: str | None
) -> list[str]:
    """Return the words of the clause's fields that begin with its prefix.

    Lance looks up whole words, so the texts are read: Lance passes on those in which the prefix may
    be. Of a phrase only the last word is a prefix. Of very many words it takes the most frequent.
    """
    wanted = letters(clause.text)
    exact = re.compile(r"(?<![^\W_])" + r"[\W_]+".join(_WORD.findall(wanted)) + r"[^\W_]*")
    parts = _WORD.findall(wanted[:_MOST_LETTERS])
    loosely = (r"[^\p{L}\p{N}]+").join("".join(map(_loosely, part)) for part in parts)
    loose = text(r"(?i)(^|[^\p{L}\p{N}])" + loosely)
    found: Counter[str] = Counter()

    def look(batch: pa.RecordBatch) -> None:
        for value in batch.column("value").to_pylist():
            found.update(exact.findall(letters(value)))

    for field in fields_of(clause, table.schema):
        matches = f"regexp_like({name(field)}, {loose})"
        condition = matches if where is None else f"({where}) AND {matches}"
        query = table.lance.query().select({"value": name(field)})
        query = await filtered(query, condition)
        batches = await session.run(query.to_batches(max_batch_length=_SCAN_BATCH))
        with session.guarded():
            async for batch in batches:
                await hop(weight(batch), partial(look, batch))
    return [word for word, _ in found.most_common(_MOST_WORDS)]


def _loosely(letter: str) -> str:
    """Return a regular expression of Rust for a letter, with or without an accent."""
    return f"[{letter}{_LATIN}]" if letter.isascii() and letter.isalpha() else letter


def columns_of(schema: Schema, query: TextQuery) -> Columns:
    """The columns to read: for highlights also the texts."""
    if query.highlight is None:
        return query.columns
    return replace(query.columns, fields=(*query.columns.fields, *text_fields(schema)))


async def _first(
    session: Session,
    table: Opened,
    query: TextQuery,
    conditions: Conditions,
    where: str | None,
    *,
    whole: bool,
) -> pa.Table:
    """The best rows with their columns. Of those with the score of the last, Lance gives any."""
    limit, asked = query.limit, min(query.limit + MORE, ALL)
    columns = columns_of(table.schema, query)
    rows = await ask(session, table, conditions.whole(), columns, where, asked)
    if await hop(rows.num_rows, none_left_out, rows, rows, limit, asked):
        return await hop(weight(rows), _best, rows, limit)
    while True:
        asked = min(asked * TIMES, ALL)
        if asked > _MOST_BESIDE and not whole:
            raise ManyEqualError
        rows = await ask(session, table, conditions.whole(), _IDS, where, asked)
        if await hop(rows.num_rows, none_left_out, rows, rows, limit, asked):
            ranked = await hop(rows.num_rows, _best, rows, limit)
            return await _with_columns(session, table, query, ranked)


async def _in_parts(
    session: Session, table: Opened, conditions: Conditions, where: str | None
) -> pa.Table:
    """Select as one query would that has more conditions than Lance can plan."""
    found: Any = None
    for part in conditions.parts():
        matches = [await ask(session, table, query, _IDS, where, ALL) for query in part]
        effort = sum(rows.num_rows for rows in matches)
        found = await hop(effort, _merged, found, matches)
        if not found.num_rows:
            break
    if found is None:
        return ranking([], [])
    for query in conditions.excluding():
        gone = await ask(session, table, query, _IDS, where, ALL)
        found = await hop(gone.num_rows, _without, found, gone)
    return found


def _merged(found: pa.Table | None, matches: list[pa.Table]) -> pa.Table:
    """The rows of any of the matches that were found before, with the sum of their scores."""
    summed = pa.concat_tables(matches).group_by("id").aggregate([(SCORE, "sum")])
    ids, scores = summed.column("id"), summed.column(f"{SCORE}_sum")
    if found is not None:
        places = pc.index_in(ids, value_set=found.column("id"))
        scores = pc.add(scores, found.column(SCORE).take(places))
        there = pc.is_valid(places)
        ids, scores = ids.filter(there), scores.filter(there)
    return ranking(ids, scores)


def _without(found: pa.Table, gone: pa.Table) -> pa.Table:
    return found.filter(pc.invert(pc.is_in(found.column("id"), value_set=gone.column("id"))))


def _best(ranked: pa.Table, limit: int) -> pa.Table:
    if ranked.num_rows <= limit:
        return ranked
    order = [(SCORE, "descending"), ("id", "ascending")]
    return ranked.take(pc.select_k_unstable(ranked, k=limit, sort_keys=order))


async def _with_columns(
    session: Session, table: Opened, query: TextQuery, ranked: pa.Table
) -> pa.Table:
    """The same rows with the columns that the query asks for."""
    ids = await hop(ranked.num_rows, ranked.column("id").to_pylist)
    rows = await rows_by_id(session, table, ids, columns_of(table.schema, query))

    def scored() -> pa.Table:
        places = pc.index_in(rows.column("id"), value_set=ranked.column("id"))
        return rows.append_column(SCORE, ranked.column(SCORE).take(places))

    return await hop(rows.num_rows, scored)


def _found(table: Opened, query: TextQuery, rows: pa.Table) -> Found:
    scores = rows.column(SCORE).to_pylist()
    return Found(rows_of(rows, query.columns, table.schema.vector), scores)
