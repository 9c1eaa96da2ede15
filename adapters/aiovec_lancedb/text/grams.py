"""Keyword search for parts of words: a clause is a substring, also across words.

Lance's tokenizer "ngram" makes a token of every three characters, and then puts it in lower case
without accents. Each query with more characters matches rows that hold any of its grams, so every
third gram of a clause is a condition of its own. That selects a few rows too many, which are told
by their texts here. A clause of one or two characters has no gram: without another clause to
select by, the whole table is read.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from aiovec.backend import Schema, TextClause
from aiovec.backend.contract import Columns, TextQuery
from aiovec.backend.threads import hop

from ..driver import FullTextQuery
from ..reads import MOST as ALL
from ..reads import filtered
from ..session import Opened, Session
from .query import (
    MORE,
    MOST,
    SCORE,
    TIMES,
    Conditions,
    all_of,
    ask,
    fields_of,
    none_left_out,
    ranking,
    text_fields,
    words_query,
)  # fmt: skip

_GRAM = 3
# Grams of one clause that select. More would hardly leave out another row.
_MOST_GRAMS = 8
_SCAN_BATCH = 1024
# Bytes of text that take as long to search as one value takes to copy.
_BYTES_A_VALUE = 64
# Clauses that count for the rank of a row where the table is read: the longest, which few rows
# hold. All of them select.
_RANKED = 16
# More occurrences in a row hardly raise its score.
_MOST_COUNTED = 2**16 - 1
# Of BM25, as Lance and most others have them.
_K1, _B = 1.2, 0.75


class _Folding(dict[int, str]):
    """Return a character as the index has it: in lower case, and Latin without accent."""

    def __missing__(self, code: int) -> str:
        lower = chr(code).lower()
        base = unicodedata.normalize("NFD", lower)[0]
        self[code] = found = base if base.isascii() and base.isalpha() else lower
        return found


_FOLDING = _Folding()


def folded(text: str) -> str:
    """Return the text as it is compared."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", text).translate(_FOLDING)


def letters(text: str) -> str:
    """Return the text letter by letter as the index has it; accents of their own stay."""
    return text.lower() if text.isascii() else text.translate(_FOLDING)


def folding(char: str) -> str:
    """Return what one character of a composed text is compared as."""
    return _FOLDING[ord(char)]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A clause, as it is compared, and the fields where it is looked for."""

    text: str
    fields: tuple[str, ...]
    excluded: bool

    def count(self, texts: dict[str, str]) -> int:
        return sum(texts[name].count(self.text) for name in self.fields if name in texts)


@dataclass(slots=True)
class Matching:
    """Tells which rows match a query, by their texts."""

    wanted: Sequence[_Wanted]
    any: bool
    fields: Sequence[str]

    @classmethod
    def of(cls, schema: Schema, query: TextQuery) -> Matching:
        wanted = [
            _Wanted(folded(clause.text), tuple(fields_of(clause, schema)), clause.excluded)
            for clause in query.clauses
        ]
        return cls([one for one in wanted if one.text], query.any, text_fields(schema))

    @property
    def positive(self) -> list[_Wanted]:
        return [one for one in self.wanted if not one.excluded]

    def effort(self, rows: pa.Table | pa.RecordBatch) -> int:
        """The work of searching the rows for each clause, in values to copy."""
        return int(rows.nbytes // _BYTES_A_VALUE + rows.num_rows) * len(self.wanted)

    def texts(self, rows: pa.Table | pa.RecordBatch) -> Iterator[dict[str, str]]:
        """The texts of each row, as they are compared."""
        columns = [rows.column(name).to_pylist() for name in self.fields]
        for values in zip(*columns, strict=True):
            found = zip(self.fields, values, strict=True)
            yield {name: folded(value) for name, value in found if value is not None}

    def matches(self, texts: dict[str, str]) -> bool:
        if any(one.count(texts) for one in self.wanted if one.excluded):
            return False
        found = (bool(one.count(texts)) for one in self.positive)
        return any(found) if self.any else all(found)

    def matching(self, rows: pa.Table) -> pa.Table:
        """Those of the rows that match."""
        return rows.filter(
            pa.array([self.matches(texts) for texts in self.texts(rows)], pa.bool_())
        )


async def search(session: Session, table: Opened, query: TextQuery, where: str | None) -> pa.Table:
    """Return the ids and scores of rows that match, the best among them."""
    matching = await hop(
        sum(len(clause.text) for clause in query.clauses), Matching.of, table.schema, query
    )
    if not matching.positive:
        return ranking([], [])
    conditions = _conditions(table.schema, query)
    if conditions is None:
        return await _by_scan(session, table, matching, where)
    columns = Columns(tuple(matching.fields))
    asked = min(query.limit + MORE, ALL)
    while True:
        rows = await ask(session, table, conditions.whole(), columns, where, asked)
        effort = matching.effort(rows)
        matches = await hop(effort, matching.matching, rows)
        if await hop(effort, none_left_out, rows, matches, query.limit, asked):
            return ranking(matches.column("id"), matches.column(SCORE))
        asked = min(asked * TIMES, ALL)


def _conditions(schema: Schema, query: TextQuery) -> Conditions | None:
    """Return conditions that every matching row fulfils; None where grams can tell none."""
    groups: list[tuple[FullTextQuery, ...]] = []
    for clause in query.clauses:
        if clause.excluded:
            continue
        group = _group(clause, schema)
        if group:
            groups.append(group)
        elif query.any:
            return None
    if not groups:
        return None
    if query.any:
        one = tuple(query for group in groups for query in group)
        return Conditions((one,)) if len(one) <= MOST // _MOST_GRAMS else None
    # Every group leaves rows out, so some of them will do.
    taken: list[tuple[FullTextQuery, ...]] = []
    count = 0
    for group in groups:
        if taken and count + len(group) > MOST // _MOST_GRAMS:
            break
        taken.append(group)
        count += len(group)
    return Conditions(tuple(taken))


def _group(clause: TextClause, schema: Schema) -> tuple[FullTextQuery, ...]:
    """Queries of which each matching row matches one; none for a clause that is too short."""
    composed, apart = (unicodedata.normalize(form, clause.text) for form in ("NFC", "NFD"))
    forms = dict.fromkeys((composed, apart, clause.text))
    if min(map(len, forms)) < _GRAM:
        return ()
    return tuple(
        all_of([words_query(gram, name, "AND") for gram in _grams(form)])
        for name in fields_of(clause, schema)
        for form in forms
    )


def _grams(text: str) -> list[str]:
    """Grams that cover the text, as far as they are not too many."""
    last = len(text) - _GRAM
    starts = [*range(0, last, max(_GRAM, math.ceil(last / (_MOST_GRAMS - 1)))), last]
    return list(dict.fromkeys(text[start : start + _GRAM] for start in starts))


@dataclass(frozen=True, slots=True)
class _Matches:
    """Rows of a batch that match, and how often each of them holds which clauses."""

    ids: pa.Array
    lengths: np.ndarray
    # Of each row in turn: how many clauses it holds, which ones, and how often.
    held: np.ndarray
    clauses: np.ndarray
    counts: np.ndarray

    def scores(self, rarity: np.ndarray, mean_length: float) -> np.ndarray:
        rows = np.repeat(np.arange(len(self.held)), self.held)
        shares = self.lengths[rows] / mean_length
        weights = self.counts * (_K1 + 1) / (self.counts + _K1 * (1 - _B + _B * shares))
        return np.bincount(rows, weights * rarity[self.clauses], minlength=len(self.held))


@dataclass(slots=True)
class _Scan:
    """Rows that match, on the way through a table, and the figures that BM25 needs."""

    matching: Matching
    found: list[_Matches] = field(default_factory=list)
    rows: int = 0
    length: int = 0

    def take(self, batch: pa.RecordBatch) -> None:
        ranked = sorted(self.matching.positive, key=lambda one: -len(one.text))[:_RANKED]
        places: list[int] = []
        lengths: list[int] = []
        held: list[int] = []
        clauses: list[int] = []
        counts: list[int] = []
        for place, texts in enumerate(self.matching.texts(batch)):
            length = sum(map(len, texts.values()))
            self.rows += bool(texts)
            self.length += length
            if self.matching.matches(texts):
                found = [clause.count(texts) for clause in ranked]
                own = [number for number, count in enumerate(found) if count]
                clauses += own
                counts += [min(found[number], _MOST_COUNTED) for number in own]
                places.append(place)
                lengths.append(length)
                held.append(len(own))
        if places:
            ids = batch.column("id").take(pa.array(places))
            small = (np.array(numbers, np.uint16) for numbers in (held, clauses, counts))
            self.found.append(_Matches(ids, np.array(lengths, np.float64), *small))

    def ranked(self) -> pa.Table:
        if not self.found:
            return ranking([], [])
        holding = sum(np.bincount(one.clauses, minlength=_RANKED) for one in self.found)
        rarity = np.log1p((self.rows - holding + 0.5) / (holding + 0.5))
        mean_length = max(1.0, self.length / max(1, self.rows))
        scores = [one.scores(rarity, mean_length) for one in self.found]
        return ranking(pa.chunked_array([one.ids for one in self.found]), np.concatenate(scores))


async def _by_scan(
    session: Session, table: Opened, matching: Matching, where: str | None
) -> pa.Table:
    scan = _Scan(matching)
    reading = table.lance.query().select(["id", *matching.fields])
    reading = await filtered(reading, where)
    batches = await session.run(reading.to_batches(max_batch_length=_SCAN_BATCH))
    with session.guarded():
        async for batch in batches:
            await hop(matching.effort(batch), partial(scan.take, batch))
    return await hop(scan.rows, scan.ranked)
