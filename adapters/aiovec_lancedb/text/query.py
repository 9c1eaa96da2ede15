"""Translate keyword searches into Lance's queries.

The translation depends on these properties of lancedb 0.40, which ``tests/lancedb/test_text.py``
checks:

- The tokenizer "simple" splits a text into runs of Unicode letters and digits. Then words are
  lowercased, then stemmed (english), then Latin letters lose their accents, and ß becomes "ss",
  æ "ae", ø "o", ł "l" and dotless i "i". A combining accent after a letter ends the word.
- A PhraseQuery finds its words next to each other, in one column. A MatchQuery finds rows with all
  words in one column (AND), or with any of them (OR). A BooleanQuery of such queries, over
  several columns, finds exactly the matching rows, whatever the limit, and adds their BM25 scores.
- A filter is applied first. Rows that an index does not cover are tokenized at each search by the
  index's rules, and no row is found by a text that it no longer has.
- A query without a word matches no row, so a conjunction with it matches no row either. This
  module leaves such queries out.
- Lance plans a BooleanQuery recursively: with a thousand conditions, its thread's stack can
  overflow, which ends the process. So words are joined into one MatchQuery if that means the
  same, and if there are more than ``MOST`` conditions, only those for the longest clauses are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import LANGUAGES, Schema, TextClause, spellings, unified, variants
from aiovec.backend.contract import Columns, Query
from aiovec.backend.threads import hop

from ..driver import BooleanQuery, FullTextQuery, MatchQuery, Occur, PhraseQuery, tokenize
from ..layout import ROW, column_names
from ..reads import MOST as ALL
from ..session import Snapshot

if TYPE_CHECKING:
    from lancedb.query import AsyncFTSQuery

Words = Mapping[TextClause, Sequence[str]]
"""For each clause with a prefix, the words to search for instead of the prefix."""

SCORE = "_score"
"""The column with BM25 scores, which Lance adds. Higher scores are better."""
MOST = 64
"""Maximum number of conditions in one query. Lance survived 200, each over eight columns."""


Group = tuple[FullTextQuery, ...]
"""Alternative queries: a row has to match at least one of them."""


def matching_all(groups: Sequence[Group], excluded: Group = ()) -> FullTextQuery:
    """Return one query for the rows that match every group, and none of ``excluded``."""
    wanted = [joined(Occur.SHOULD, group) for group in groups]
    if not excluded:
        return joined(Occur.MUST, wanted)
    unwanted = [(Occur.MUST_NOT, query) for query in excluded]
    return BooleanQuery([(Occur.MUST, query) for query in wanted] + unwanted)


def first_groups(groups: Iterable[Group], most: int) -> list[Group]:
    """Return the first groups with at most ``most`` queries in total, but at least one group."""
    taken: list[Group] = []
    count = 0
    for group in groups:
        count += len(group)
        if taken and count > most:
            break
        taken.append(group[:MOST])
    return taken


# The classes' type hints require arguments that have defaults.
_MATCH: Any = MatchQuery
_PHRASE: Any = PhraseQuery


def words_query(words: str, name: str, operator: Literal["AND", "OR"]) -> FullTextQuery:
    """Return a query for rows with all, or any, of these words in one field."""
    query: FullTextQuery = _MATCH(words, name, operator=operator)
    return query


def joined(occur: Occur, queries: Sequence[FullTextQuery]) -> FullTextQuery:
    """Join queries into one: with MUST, all must match; with SHOULD, at least one must."""
    if len(queries) == 1:
        return queries[0]
    return BooleanQuery([(occur, query) for query in queries])


def text_fields(schema: Schema) -> list[str]:
    """Return the names of the fields that keyword search covers."""
    return [name for name, field in schema.fields.items() if field.text]


def fields_of(clause: TextClause, schema: Schema) -> list[str]:
    return text_fields(schema) if clause.field is None else [clause.field]


def query_of(schema: Schema, query: Query, words: Words, *, any: bool) -> FullTextQuery | None:
    """Translate a query, for an index of words; return None if it matches nothing."""
    clauses = [clause for clause in query.clauses if _has_word(clause)]
    clauses.sort(key=lambda clause: -len(clause.text))
    positive = [clause for clause in clauses if not clause.excluded]
    excluded = _alternatives(schema, [clause for clause in clauses if clause.excluded], words)
    if any:
        groups = [_alternatives(schema, positive, words)[: MOST // 2]]
    else:
        # Words that are searched in a single field need only one query.
        groups = [
            (words_query(" ".join(words), name, "AND"),)
            for name, words in _words(schema, positive).items()
        ]
        groups += [
            _alternatives(schema, [clause], words)
            for clause in positive
            if _word(schema, clause) is None or len(fields_of(clause, schema)) > 1
        ]
    if not groups or not all(groups):  # no word begins with one of the prefixes
        return None
    return matching_all(first_groups(groups, MOST // 2), excluded[: MOST // 2])


def _has_word(clause: TextClause) -> bool:
    return any(map(str.isalnum, clause.text))


def _words(schema: Schema, clauses: Iterable[TextClause]) -> dict[str, list[str]]:
    """Return, for each field, the single words that are searched only in this field."""
    by_field: dict[str, list[str]] = {}
    for clause in clauses:
        word, names = _word(schema, clause), fields_of(clause, schema)
        if word is not None and len(names) == 1:
            by_field.setdefault(names[0], []).append(word)
    return by_field


def _alternatives(schema: Schema, clauses: Sequence[TextClause], words: Words) -> Group:
    """Return alternative queries. A row that matches any clause matches at least one query."""
    single: dict[str, list[str]] = {}
    phrases: list[FullTextQuery] = []
    for clause in clauses:
        texts = words[clause] if clause.prefix else forms_of(schema, clause.text)
        one_word = clause.prefix or len(texts) == 1
        for name in fields_of(clause, schema):
            for text in texts:
                if one_word and text.isalnum():
                    single.setdefault(name, []).append(text)
                else:
                    phrases.append(_PHRASE(text, name))
    alternatives = [words_query(" ".join(texts), name, "OR") for name, texts in single.items()]
    return (*alternatives, *phrases)


def _word(schema: Schema, clause: TextClause) -> str | None:
    """Return a clause's text if it is a single word for Lance; None for a phrase or a prefix."""
    forms = forms_of(schema, clause.text)
    return forms[0] if not clause.prefix and len(forms) == 1 and forms[0].isalnum() else None


def forms_of(schema: Schema, text: str) -> list[str]:
    """Return the forms that a text's words can have in stored texts, leaving out forms that Lance
    treats as equal.

    Lance compares letters as they are written, such as an accented letter as one character or as
    a letter and an accent. It stems words before it removes their accents, so each spelling with a
    different stem counts as another form.
    """
    return _distinct(schema.analyzer, [*variants(text), *spellings_of(schema, text)])


def spellings_of(schema: Schema, text: str) -> list[str]:
    """Return a text and the spellings of it that have other stems."""
    analyzer = schema.analyzer
    if analyzer in ("plain", "cjk"):
        return [text]
    texts = dict.fromkeys((text, unified(analyzer, text)))
    others = [other for each in texts for other in spellings(analyzer, each)]
    return _distinct(analyzer, [text, *others])


def _distinct(analyzer: str, forms: Sequence[str]) -> list[str]:
    """Return the first form of those that have the same tokens."""
    if len(forms) < 2:
        return list(forms)
    return [*{stem_of(analyzer, form): form for form in reversed(forms)}.values()][::-1]


@lru_cache(maxsize=10_000)
def stem_of(analyzer: str, text: str) -> tuple[str, ...]:
    return tuple(tokens_of(analyzer, text))


def tokens_of(analyzer: str, text: str) -> list[str]:
    """Return a text's tokens in order, as this analyzer's index contains them."""
    language = analyzer if analyzer in LANGUAGES else "english"
    tokens = tokenize(
        text, language=language.capitalize(),
        stem=analyzer not in ("plain", "cjk"), max_token_length=None, remove_stop_words=False,
    )  # fmt: skip
    return [token.text for token in tokens]


# A condition that is true for all existing rows. Lance checks it without an index or a column.
_EXISTING = f"{ROW} >= 0"


async def ask(
    table: Snapshot,
    query: FullTextQuery,
    columns: Columns,
    where: str | None,
    limit: int,
    cost: int,
) -> pa.Table:
    """Return the best matching rows, with their numbers and scores. ``cost`` is the query's cost,
    for ``hop``.

    Indexes contain deleted rows even after a compaction, and deleted rows count towards the limit,
    even with a filter that uses another index. So if Lance returns fewer rows than requested, this
    function requests one row more than it got, but without columns: then Lance also returns deleted
    rows. If it gets that row, deleted rows used up the limit, and it requests existing rows only.
    """
    names = column_names(table.schema, columns)
    rows = await fetch(table, query, names, where, limit, cost)
    if rows.num_rows < min(limit, ALL):
        ranked = await fetch(table, query, [], where, rows.num_rows + 1, cost)
        if ranked.num_rows > rows.num_rows:
            existing = _EXISTING if where is None else f"({where}) AND {_EXISTING}"
            rows = await fetch(table, query, names, existing, limit, cost)
    return rows


async def fetch(
    table: Snapshot,
    query: FullTextQuery,
    names: Sequence[str],
    where: str | None,
    limit: int,
    cost: int,
) -> pa.Table:
    """Return Lance's best rows with these columns; without columns, also return deleted rows."""

    def build() -> AsyncFTSQuery:
        with table.session.guarded:
            built = table.lance.query().nearest_to_text(query)
            return built.select([*names, ROW, SCORE]).limit(min(limit, ALL))

    # A query of a thousand words takes a while to encode as JSON.
    return await table.session.fetch(await hop(cost, build), where=where)


def first(ranked: pa.Table, limit: int) -> pa.Table:
    """Return the best rows up to the limit, by descending score and then by id."""
    if not ranked.num_rows:
        return ranked
    order = [(SCORE, "descending"), ("id", "ascending")]
    return ranked.take(pc.select_k_unstable(ranked, k=limit, sort_keys=order))


RANKING = pa.schema([
    pa.field("id", pa.utf8(), False), pa.field(ROW, pa.uint64()), pa.field(SCORE, pa.float32()),
])  # fmt: skip
"""The columns of ranked rows if no fields are requested."""
