"""Keyword search with the analyzers "ngram" (parts of words) and "cjk" (words without spaces).

Lance's tokenizer "ngram" makes a token (gram) of every three successive characters ("ngram") or two
("cjk"), in lower case and without accents. A longer query matches rows with any of its grams, so
some grams of a clause are separate conditions. These conditions also match a few other rows, so
this module checks the rows' texts. A shorter clause has no gram. So a search reads the whole table
if none of its clauses has a gram, or if one clause without a gram is enough to match a row.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from aiovec.backend import Schema, TextClause, pattern_of, runs_of, unified, variants
from aiovec.backend.contract import Columns, Query
from aiovec.backend.threads import hop

from ..driver import FullTextQuery, Occur
from ..index.fields import GRAMS
from ..layout import ROW
from ..reads import MOST as ALL
from ..session import Snapshot
from ..summaries import BYTES_A_VALUE
from .query import (
    MOST,
    RANKING,
    SCORE,
    Group,
    ask,
    fields_of,
    first,
    first_groups,
    joined,
    matching_all,
    text_fields,
    words_query,
)  # fmt: skip

# Between the grams of a query. Few texts contain this character.
_APART = "\x1f"
# The most grams of one clause in the query. More grams would exclude few additional rows.
_MOST_GRAMS = 8
_SCAN_BATCH = 1024
# BM25's constant k1, which limits how much repeated occurrences in a row add to its score.
_K1 = 1.2
# Rows requested beyond the limit because some may not match, and the factor for the next request if
# too few match.
_MORE, _TIMES = 64, 8


class _Folding(dict[int, str]):
    """Maps a character to its form in the index: lower case, and Latin letters without accents."""

    def __missing__(self, code: int) -> str:
        lower = chr(code).lower()
        base = unicodedata.normalize("NFD", lower)[0]
        self[code] = folded = base if base.isascii() and base.isalpha() else lower
        return folded


_FOLDING = _Folding()


def folded(text: str) -> str:
    """Return the text in lower case and without accents on Latin letters, for comparisons."""
    if text.isascii():
        return text.lower()
    return unified("ngram", text).translate(_FOLDING)


def letters(text: str) -> str:
    """Return the text in lower case, with Latin letters unaccented; combining accents stay."""
    return text.lower() if text.isascii() else text.translate(_FOLDING)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A clause, as a pattern for folded texts, and the fields to search."""

    pattern: re.Pattern[str]
    fields: tuple[str, ...]
    excluded: bool

    def count(self, texts: dict[str, str]) -> int:
        counts = (len(self.pattern.findall(texts[name])) for name in self.fields if name in texts)
        return sum(counts)


@dataclass(slots=True)
class Matching:
    """Decides from the rows' texts which rows match a query."""

    wanted: Sequence[_Wanted]
    any: bool
    fields: Sequence[str]

    @classmethod
    def of(cls, schema: Schema, query: Query, any: bool) -> Matching:
        wanted = [
            _Wanted(pattern, tuple(fields_of(clause, schema)), clause.excluded)
            for clause in query.clauses
            if (pattern := _pattern(schema.analyzer, clause)) is not None
        ]
        return cls(wanted, any, text_fields(schema))

    @property
    def positive(self) -> list[_Wanted]:
        return [clause for clause in self.wanted if not clause.excluded]

    def cost(self, rows: pa.Table | pa.RecordBatch) -> int:
        """Return the cost of searching the rows for every clause, for ``hop``."""
        return int(rows.nbytes // BYTES_A_VALUE + rows.num_rows) * len(self.wanted)

    def texts(self, rows: pa.Table | pa.RecordBatch) -> Iterator[dict[str, str]]:
        """Yield the texts of each row, folded for comparisons."""
        columns = [rows.column(name).to_pylist() for name in self.fields]
        for row in zip(*columns, strict=True):
            values = zip(self.fields, row, strict=True)
            yield {name: folded(value) for name, value in values if value is not None}

    def matches(self, texts: dict[str, str]) -> bool:
        if any(clause.count(texts) for clause in self.wanted if clause.excluded):
            return False
        hits = (bool(clause.count(texts)) for clause in self.positive)
        return any(hits) if self.any else all(hits)

    def matching(self, rows: pa.Table) -> pa.Table:
        """Return the rows that match."""
        return rows.filter(
            pa.array([self.matches(texts) for texts in self.texts(rows)], pa.bool_())
        )


def _pattern(analyzer: str, clause: TextClause) -> re.Pattern[str] | None:
    """Return the pattern of a clause in folded texts; None if nothing of it is left."""
    text = folded(clause.text)
    if analyzer == "cjk":
        return pattern_of(text, prefix=clause.prefix)
    return re.compile(re.escape(text)) if text else None


async def search(table: Snapshot, query: Query, where: str | None, *, any: bool) -> pa.Table:
    """Return the best rows that match all clauses, or any clause, with their scores."""
    cost = sum(len(clause.text) for clause in query.clauses)
    matching = await hop(cost, Matching.of, table.schema, query, any)
    if not matching.positive:
        return RANKING.empty_table()
    selecting = _selecting(table.schema, query, any=any)
    if selecting is None:
        return await _by_scan(table, matching, query, where)
    columns = Columns(tuple(matching.fields))
    requested = min(query.limit + _MORE, ALL)
    while True:
        rows = await ask(table, selecting, columns, where, requested, cost)
        matches = await hop(matching.cost(rows), matching.matching, rows)
        if rows.num_rows < requested or matches.num_rows >= query.limit:
            return matches.select(RANKING.names).cast(RANKING)
        requested = min(requested * _TIMES, ALL)


def _selecting(schema: Schema, query: Query, *, any: bool) -> FullTextQuery | None:
    """Return a query for a superset of the matching rows; None if every row must be read."""
    wanted = [_forms(schema.analyzer, clause) for clause in query.clauses if not clause.excluded]
    clauses = [clause for clause in query.clauses if not clause.excluded]
    forms = {clause: of for clause, of in zip(clauses, wanted, strict=True) if of}
    if not any:
        # Each clause only narrows the result, so some of the clauses are enough.
        groups = [_group(clause, of, schema) for clause, of in forms.items()]
        return matching_all(first_groups(groups, MOST // _MOST_GRAMS)) if groups else None
    if len(forms) < len(wanted) or not forms:
        return None
    # A question is cut into many clauses of one gram each, which are one condition together. If
    # there are many longer clauses too, rows with any of their grams are selected.
    long = [(clause, [each for each in of if len(each) > 1]) for clause, of in forms.items()]
    groups = [_group(clause, of, schema) for clause, of in long]
    most = 1 if sum(map(len, groups)) <= MOST // _MOST_GRAMS else _MOST_GRAMS
    single: dict[str, list[str]] = {}
    for clause, of in forms.items():
        grams = [gram for each in of if len(each) <= most for gram in each]
        for name in fields_of(clause, schema) if grams else ():
            single.setdefault(name, []).extend(grams)
    together = tuple(words_query(_APART.join(of), name, "OR") for name, of in single.items())
    apart = [query for group in groups for query in group] if most == 1 else []
    return matching_all([(*together, *apart)])


def _forms(analyzer: str, clause: TextClause) -> list[tuple[str, ...]]:
    """Return the grams of each form that a clause can have in the texts; none if it is short."""
    forms = [*dict.fromkeys(_grams(analyzer, form) for form in variants(clause.text))]
    return forms if all(forms) else []


def _group(clause: TextClause, forms: Sequence[tuple[str, ...]], schema: Schema) -> Group:
    """Return alternative queries: a row that contains the clause matches at least one of them."""
    return tuple(
        joined(Occur.MUST, [words_query(gram, name, "AND") for gram in grams])
        for name in fields_of(clause, schema)
        for grams in forms
    )


def _grams(analyzer: str, text: str) -> tuple[str, ...]:
    """Return at most ``_MOST_GRAMS`` grams, spread over the text."""
    size = GRAMS[analyzer]
    parts = runs_of(text) if analyzer == "cjk" else [text]
    starts = [(part, n) for part in parts for n in range(len(part) - size + 1)]
    step = max(1 if analyzer == "cjk" else size, math.ceil(len(starts) / (_MOST_GRAMS - 1)))
    spread = [*starts[:-1:step], *starts[-1:]]
    return tuple(dict.fromkeys(part[n : n + size] for part, n in spread))


async def _by_scan(
    table: Snapshot, matching: Matching, query: Query, where: str | None
) -> pa.Table:
    """Return the best rows, ranked by how often they contain each clause, similarly to BM25.

    Reads all rows that match ``where``.
    """
    best = RANKING.empty_table()

    def take(batch: pa.RecordBatch) -> pa.Table:
        ids: list[str] = []
        numbers: list[int] = []
        scores: list[float] = []
        rows = zip(batch.column("id").to_pylist(), batch.column(ROW).to_pylist(), strict=True)
        for (id, number), texts in zip(rows, matching.texts(batch), strict=True):
            if matching.matches(texts):
                counts = [clause.count(texts) for clause in matching.positive]
                ids.append(id)
                numbers.append(number)
                scores.append(sum(count / (count + _K1) for count in counts))
        ranked = pa.table({"id": ids, ROW: numbers, SCORE: scores}, schema=RANKING)
        return first(pa.concat_tables([best, ranked]), query.limit)

    reading = table.lance.query().select(["id", ROW, *matching.fields])
    async for batch in await table.session.batches(reading, _SCAN_BATCH, where):
        best = await hop(matching.cost(batch), take, batch)
    return best
