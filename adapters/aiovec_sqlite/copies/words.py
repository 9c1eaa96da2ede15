"""A table's words in memory, and for each word, the rows that contain it.

FTS5 stores the words, but has to score every match to find the best rows. The postings
(``postings.py``) list the rows of all words, as sorted row numbers with match counts. Other lists,
such as the rows of a phrase, are read from FTS5's index when a search needs them, and then kept.
Native code finds the best rows in these lists (``docs/internals/keywords.md``).

Rows are numbered as in the postings. When a row changes or is deleted, its number is marked as
gone. A changed row gets a new number after the existing ones, and its texts go into an index in
memory.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import sqlite3
import struct
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float64Array, Int64Array
from aiovec.errors import AiovecError

from ..connection import Ticket
from ..keyword_search import K1, B, IndexClause, IndexQuery, Lists, Scored, expression_of, weight_of
from ..layout import TableLayout, newest_change
from ..sql.values import numbers_in
from ..text_index import TextIndex, serving, size_of
from ..tokens import Tokenizer
from .copy import Masks, OlderSnapshotError, changes_since, selected_among
from .kernel.library import address, library
from .postings import (
    Counts,
    Postings,
    UInt32Array,
    narrowed,
    numbers_of,
    read_postings,
    rows_of,
    varints,
)
from .scanfile import ScanFiles, SpoiledFileError
from .segments import among, positions_of

UInt8Array = npt.NDArray[np.uint8]
_Tokens = Mapping[IndexClause, Sequence[str]]

# With fewer rows that have text, FTS5 is as fast.
_FEWEST = 500
# Bytes of a row's id, its length, and its mark.
_ROW_BYTES = 13
# Bytes of a posting: its row and its count.
_POSTING_BYTES = 5
# If more rows change than the postings have, and more than this number, FTS5 answers until the
# words have been reloaded. If more than this share of the rows changes, the words are reloaded, but
# still answer in the meantime.
_MOST_CHANGED, _WORN = 4096, 1 / 16
# The most characters of changed texts that are added while a search waits (about 150 ms): the first
# number, or the second number per row of the table, whichever is larger. If more have changed, they
# are added in the background, the first number of characters at a time, while FTS5 answers.
_MOST_CHARACTERS, _CHARACTERS_A_ROW = 1_000_000, 4
# Seconds that a search waits while another one adds changes.
_PATIENCE = 0.2
# The shares of the memory that the texts of changed rows and the filters' masks may take.
_FOR_CHANGED, _FOR_MASKS = 1 / 4, 1 / 4
# Bytes that a small index's lists can take. A larger index's lists can take twice its size.
_LEAST_MEMORY = 2**20
# If a query's lists have at most this many rows, its filter runs only on these rows.
_FEW = 4096
# FTS5 answers queries with a clause of more characters than this.
_LONGEST_TEXT = 200
# The most texts whose tokens are cached, and the most cached lists of changed rows.
_MOST_KNOWN, _MOST_OF_CHANGED = 10_000, 4_000
# Approximate size of an empty list in bytes.
_LIST_BYTES = 700

# A list as native code reads it (words.c): the addresses of the rows and the counts, their number,
# the size of a count in bytes, and the largest count. Then come the clause's weight, its place in
# the query, and room for the state of a search.
_LIST, _CLAUSE = struct.Struct("QQqqd"), struct.Struct("dq24x")


@dataclass(slots=True)
class _List:
    """The rows of one part that match a clause, in ascending order, with match counts."""

    rows: UInt32Array
    counts: Counts
    since: int
    """How many rows of the part were gone when the list was read; the list may lack these rows."""
    having: int
    """How many rows of the list were left when ``seen`` rows of the part were gone."""
    nbytes: int
    """The list's private memory in bytes."""
    seen: int = 0
    record: bytes = b""
    """The beginning of the record that native code reads; the clause's data follow."""

    def __post_init__(self) -> None:
        self.record = _LIST.pack(
            address(self.rows), address(self.counts), len(self.rows), self.counts.itemsize,
            float(self.counts.max()) if len(self.counts) else 0.0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows with consecutive numbers: the rows of the postings, or changed rows.

    A part never changes.
    """

    mark: object
    docs: Int64Array
    """The rows' ids in their text index, in ascending order."""
    rowids: Int64Array
    lengths: UInt32Array
    gone: UInt8Array
    shortest: float
    """A lower bound for the rows' lengths."""
    ordered: bool

    @property
    def count(self) -> int:
        return len(self.rowids)

    def among(self, rowids: Int64Array, start: int) -> BoolArray:
        return among(self.rowids[start:], rowids, ordered=self.ordered)


@dataclass(frozen=True, slots=True)
class _State:
    """A table's indexed rows at one change number, in two parts."""

    change: int
    segments: tuple[_Part, _Part]
    """First the rows of the postings, then the changed rows."""
    rows: int
    tokens: int
    gone: int = 0
    """The number of rows of the first part that are gone."""
    changed: dict[IndexClause, _List] = field(default_factory=dict)
    """The second part's lists, by clause."""


class TooFewRowsError(Exception):
    """The table has so few texts that FTS5 is as fast as lists in memory."""


def rows_to_keep(
    db: sqlite3.Connection, index: TextIndex, most_bytes: int
) -> tuple[tuple[Int64Array, UInt32Array], int]:
    """Return an index's rows with their lengths, and the approximate size of its postings in bytes.

    Raises TooFewRowsError if the index has too few rows, and AiovecError if only FTS5 can answer
    queries.
    """
    docs = index.shadow("docsize")
    few = f"SELECT count(*) FROM (SELECT 1 FROM {docs} LIMIT ?)"
    if db.execute(few, (_FEWEST,)).fetchone()[0] < _FEWEST:
        raise TooFewRowsError
    (count,) = db.execute(f"SELECT count(*) FROM {docs}").fetchone()
    if index.analyzer == "ngram" or count * _ROW_BYTES > most_bytes // 2:
        raise AiovecError("the words are not kept in memory")
    rows = rows_of(db, docs, len(index.columns))
    tokens = int(rows[1].sum(dtype=np.int64))
    return rows, _POSTING_BYTES * tokens + _ROW_BYTES * count


class Words:
    """The words of one table's text index in this process, in at most ``most_bytes`` of memory."""

    def __init__(
        self,
        db: sqlite3.Connection,
        table: TableLayout,
        index: TextIndex,
        most_bytes: int,
        postings: Postings,
    ) -> None:
        self.index = index
        self.begun_at = postings.change
        """The change number of the snapshot that the postings were made from."""
        self.file_bytes = postings.file_bytes
        self.lost = self.spoiled = False
        """``lost`` is True once the words are unusable, ``spoiled`` once their file turns out to
        be damaged."""
        self.behind = False
        """True if there are more changes than can be added while a search waits."""
        self._table, self._postings = table, postings
        self._most_bytes = most_bytes
        # At most twice the index's size, but at least ``_LEAST_MEMORY``.
        self._most_in_lists = min(most_bytes, max(_LEAST_MEMORY, 2 * size_of(db, index)))
        self._masks = Masks(int(most_bytes * _FOR_MASKS))
        self._lock = threading.Lock()
        # The first lock is held while changes are added, the second while the index of the changed
        # rows is used.
        self._following, self._using = threading.Lock(), threading.Lock()
        self._lists: dict[IndexClause, _List] = {}  # the least recently used one first
        self._bytes = 0
        # The newest number of each changed row.
        self._changed: dict[int, int] = {}
        # The rows of the first part that are gone, in the order in which they were marked.
        self._gone = array("I")
        # The text index of the second part; its rowids are the rows' numbers.
        self._texts = Tokenizer(index.analyzer, len(index.columns))
        self._texts_bytes = 0
        self._tokenizer = Tokenizer(index.analyzer)
        self._tokens: dict[str, list[str]] = {}
        rowids, lengths = postings.rowids, postings.lengths
        shortest, tokens = float(lengths.min(initial=2**32 - 1)), int(lengths.sum(dtype=np.int64))
        gone = np.zeros(len(rowids), np.uint8)
        part = _Part(object(), rowids, rowids, lengths, gone, shortest, ordered=True)
        self._state = _State(postings.change, (part, _no_rows()), len(rowids), tokens)

    @classmethod
    def mapped(
        cls, db: sqlite3.Connection, table: TableLayout, most_bytes: int, files: ScanFiles | None
    ) -> Words | None:
        """Return the words in the table's file; None if no file is valid in this snapshot."""
        index = serving(db, table)
        read = partial(read_postings, table=table, index=index)
        postings = None if files is None else files.find(db, table, "words", read)
        return None if postings is None else cls(db, table, index, most_bytes, postings)

    @property
    def nbytes(self) -> int:
        """The size of the private memory in bytes."""
        first, second = self._state.segments
        rows = first.count + _ROW_BYTES * second.count
        return self._postings.nbytes + self._bytes + self._masks.nbytes + rows + self._texts_bytes

    @property
    def worn(self) -> bool:
        """True if so much has changed that the words, though still usable, should be reloaded."""
        full = self._texts_bytes > self._most_bytes * _FOR_CHANGED / 2
        most = max(_MOST_CHANGED // 2, self._state.segments[0].count * _WORN)
        return full or self._changed_rows > most

    @property
    def _changed_rows(self) -> int:
        return max(len(self._gone), self._state.segments[1].count)

    # A search

    def at(self, db: sqlite3.Connection, ticket: Ticket) -> WordsAt | None:
        """Return the words at the connection's snapshot; None if FTS5 has to answer.

        Raises OlderSnapshotError if another search has added changes newer than the snapshot.
        """
        if self.lost or serving(db, self._table) != self.index:
            self.lost = True
            return None
        state, change = self._state, newest_change(db)
        if state.change > change:
            raise OlderSnapshotError
        if state.change < change:
            if self.behind or not self._following.acquire(timeout=_PATIENCE):
                return None
            try:
                most = max(_MOST_CHARACTERS, _CHARACTERS_A_ROW * state.segments[0].count)
                advanced = self._advance(db, ticket, change, most)
            finally:
                self._following.release()
            if advanced is None:
                return None
            state = advanced
        return WordsAt(self, state)

    def follow(self, db: sqlite3.Connection, ticket: Ticket) -> None:
        """Add all changes up to the snapshot; set ``lost`` if there are too many."""
        with self._following:
            with suppress(OlderSnapshotError):  # a search has added them
                self._advance(db, ticket, newest_change(db), None)
            self.behind = False

    def lists(self, state: _State, request: IndexQuery) -> Lists | None:
        """Return a query's lists at a ``state`` of the words; None if FTS5 has to answer."""
        requested = [*request.wanted, *request.unwanted]
        if any(len(clause.text) > _LONGEST_TEXT for clause in requested):
            return None
        tokens = self._tokens_of(requested)
        # Like FTS5, ignore a clause without a token.
        wanted = [clause for clause in request.wanted if tokens[clause]]
        clauses = [*wanted, *(clause for clause in request.unwanted if tokens[clause])]
        # Often no row has changed, and the second part is empty.
        parts = [part for part in state.segments if part.count]
        read: dict[tuple[object, IndexClause], _List] = {}
        while True:
            with self._lock:
                if self.lost:
                    return None
                missing = [
                    (part, clause)
                    for part in parts
                    for clause in clauses
                    if (part.mark, clause) not in read and self._lacks(state, part, clause)
                ]
                if not missing:
                    known = [
                        [self._list(state, part, clause, read) for clause in clauses]
                        for part in parts
                    ]
                    self._evict(state)  # only now, because the query needs its lists
                    break
            try:
                for part, clause in missing:  # without the lock: common words are slow
                    key = part.mark, clause
                    read[key] = self._read(request, state, part, clause, tokens[clause])
            except SpoiledFileError:
                self.lost = self.spoiled = True
        lists = [[each for each, _ in of_part] for of_part in known]
        having = [sum(of_part[n][1] for of_part in known) for n in range(len(wanted))]
        weights = [weight_of(state.rows, rows) for rows in having]
        mean = state.tokens / max(1, state.rows)
        masks = self._selected(request, state, parts, [each[: len(wanted)] for each in lists])
        parts_of_query = [
            _PartOfQuery(part, of_part, weights, mask, mean)
            for part, of_part, mask in zip(parts, lists, masks, strict=True)
        ]
        return _ListsOfQuery(request, parts_of_query if wanted else [], sum(weights))

    def _selected(
        self,
        request: IndexQuery,
        state: _State,
        parts: Sequence[_Part],
        lists: Sequence[Sequence[_List]],
    ) -> Sequence[BoolArray | None]:
        """Return each part's mask of the rows that the filter selects, or None without a filter."""
        where = request.query.where
        if where is None:
            return [None] * len(parts)
        if sum(len(each.rows) for of_part in lists for each in of_part) > _FEW:
            return self._masks.of(request.db, request.table, state, where)[: len(parts)]
        having = [
            part.rowids[each.rows]
            for part, of_part in zip(parts, lists, strict=True)
            for each in of_part
        ]
        rowids = np.unique(np.concatenate([np.empty(0, np.int64), *having]))
        selected = selected_among(request.db, request.table, where, rowids)
        return [part.among(selected, 0) for part in parts]

    # Lists

    def _lacks(self, state: _State, part: _Part, clause: IndexClause) -> bool:
        """Return whether a clause's list for a part has to be read."""
        if part is state.segments[1]:
            return clause not in state.changed
        known = self._lists.get(clause)
        return known is None or known.since > state.gone

    def _list(
        self,
        state: _State,
        part: _Part,
        clause: IndexClause,
        read: Mapping[tuple[object, IndexClause], _List],
    ) -> tuple[_List, int]:
        """Return a clause's list for a part, and how many of the list's rows are not gone.

        ``read`` has the lists that were read for this query.
        """
        if part is state.segments[1]:
            known = state.changed.get(clause)
            if known is None:
                known = state.changed[clause] = read[part.mark, clause]
            return known, known.having
        known = self._lists.pop(clause, None)
        if known is None or known.since > state.gone:
            self._bytes -= 0 if known is None else known.nbytes
            known = read[part.mark, clause]
            self._bytes += known.nbytes if len(known.rows) else 0
        if len(known.rows):
            self._lists[clause] = known
        seen, having = known.seen, known.having
        if seen > state.gone:  # counted by a newer search
            seen, having = 0, len(known.rows)
        if seen < state.gone:
            if len(known.rows) < _FEW:
                having = len(known.rows) - int(np.count_nonzero(part.gone[known.rows]))
            else:
                gone = np.sort(np.array(self._gone[seen : state.gone], dtype=np.uint32))
                having -= len(positions_of(known.rows, gone))
            if known.seen < state.gone:
                known.seen, known.having = state.gone, having
        return known, having

    def _evict(self, state: _State) -> None:
        """Remove the least recently used lists if the lists take too much memory together.

        Also remove all lists of changed rows if there are too many of them.
        """
        while self._bytes > self._most_in_lists and self._lists:
            self._bytes -= self._lists.pop(next(iter(self._lists))).nbytes
        if len(state.changed) > _MOST_OF_CHANGED:
            state.changed.clear()

    def _read(
        self,
        request: IndexQuery,
        state: _State,
        part: _Part,
        clause: IndexClause,
        tokens: Sequence[str],
    ) -> _List:
        """Read a clause's list for a part, from the postings or from the part's text index."""
        request.ticket.check()
        first = part is state.segments[0]
        if first and len(tokens) == 1 and not clause.columns:
            if not clause.prefix:
                rows, counts = self._postings.of_word(tokens[0])
                return _List(rows, counts, 0, len(rows), _LIST_BYTES)
            rows, counts = self._postings.of_prefix(tokens[0])
        elif first:
            index = self.index
            rows, counts = _matches(request.db, index.table, index.shadow("data"), clause, part)
        else:
            with self._using:
                rows, counts = _matches(self._texts.db, "texts", "texts_data", clause, part)
        having = len(rows) if first else int(np.count_nonzero(part.gone[rows] == 0))
        nbytes = _LIST_BYTES + rows.nbytes + counts.nbytes
        return _List(rows, counts, state.gone, having, nbytes)

    def _tokens_of(self, clauses: Sequence[IndexClause]) -> _Tokens:
        """Return each clause's tokens as the index stores them."""
        texts = {clause.text for clause in clauses}
        with self._lock:
            if len(self._tokens) >= _MOST_KNOWN:
                self._tokens.clear()
            if new := list(texts.difference(self._tokens)):
                self._tokens.update(zip(new, self._tokenizer.of_texts(new), strict=True))
            return {clause: self._tokens[clause.text] for clause in clauses}

    # Changes

    def _advance(
        self, db: sqlite3.Connection, ticket: Ticket, change: int, most: int | None
    ) -> _State | None:
        """Add the changes up to the snapshot; return None if there are too many.

        With ``most``, changes with more than about ``most`` characters of text are too many.
        ``_following`` must be held.
        """
        state = self._state
        if self.lost or state.change == change:
            return None if self.lost else state
        if state.change > change:
            raise OlderSnapshotError
        most_rows = max(_MOST_CHANGED, state.segments[0].count) - self._changed_rows
        changes = changes_since(db, self._table, state.change, max(0, most_rows))
        if changes is None:
            self.lost = True
            return None
        if not len(changes[1]):  # another table changed
            self._state = state = replace(state, change=change)
            return state
        ticket.check()
        changed = np.unique(changes[1])
        texts: Iterable[_Texts] = _texts(db, self.index, changed, most or _MOST_CHARACTERS)
        if most is not None:
            texts = list(itertools.islice(texts, 2))
            if len(texts) > 1:
                self.behind = True
                return None
        try:
            advanced = self._add(change, changed, texts)
        except BaseException:
            self.lost = True  # some of the changes may have been added
            raise
        self.lost = advanced is None
        return advanced

    def _add(self, change: int, changed: Int64Array, texts: Iterable[_Texts]) -> _State | None:
        """Add the texts of changed rows; return None if they take too much memory."""
        state = self._state
        first, second = state.segments
        added = list[int]()
        for rows in texts:
            numbered = ((n, *row[1:]) for n, row in enumerate(rows, second.count + len(added)))
            with self._using:
                self._texts_bytes = self._texts.keep(numbered)
            if self._texts_bytes > self._most_bytes * _FOR_CHANGED:
                return None
            added += [row[0] for row in rows]
        columns = len(self.index.columns)
        with self._using:
            _, lengths = rows_of(self._texts.db, "texts_docsize", columns, second.count)
        gone = numbers_of(changed, first.rowids)[0]
        gone = gone[first.gone[gone] == 0]
        old = [self._changed.pop(row) for row in changed.tolist() if row in self._changed]
        self._changed |= {row: number for number, row in enumerate(added, second.count)}
        tokens = state.tokens + int(lengths.sum(dtype=np.int64))
        tokens -= int(first.lengths[gone].sum(dtype=np.int64))
        tokens -= int(second.lengths[old].sum(dtype=np.int64))
        marked, marked_later = first.gone.copy(), second.gone.copy()
        marked[gone], marked_later[old] = 1, 1
        first = replace(first, gone=marked)
        second = replace(
            second,
            docs=np.arange(second.count + len(added)),
            rowids=np.concatenate([second.rowids, np.array(added, dtype=np.int64)]),
            lengths=np.concatenate([second.lengths, lengths]),
            gone=np.concatenate([marked_later, np.zeros(len(added), np.uint8)]),
        )
        with self._lock:
            self._gone.frombytes(gone.astype(np.uint32).tobytes())
            left = state.rows + len(added) - len(gone) - len(old)
            self._state = _State(change, (first, second), left, tokens, len(self._gone))
            return self._state


_Texts = list[tuple[Any, ...]]
"""Rows of the index: each has a rowid and the texts of the index's columns."""


def _texts(
    db: sqlite3.Connection, index: TextIndex, rowids: Int64Array, most: int
) -> Iterator[_Texts]:
    """Yield the texts of these rows from the index's view, about ``most`` characters at a time."""
    rows, characters = _Texts(), 0
    for row in db.execute(
        f"SELECT v._rowid, {', '.join(f'v.{name}' for name in index.columns)} "
        f"FROM json_each(?) AS j CROSS JOIN {index.view} AS v ON v._rowid = j.value",
        (json.dumps(rowids.tolist()),),
    ):
        rows.append(row)
        characters += sum(len(text or "") for text in row[1:])
        if characters > most:
            yield rows
            rows, characters = _Texts(), 0
    if rows:
        yield rows


@dataclass(frozen=True, slots=True)
class WordsAt:
    """The words at one change number."""

    words: Words
    state: _State

    @property
    def index(self) -> TextIndex:
        return self.words.index

    def lists(self, request: IndexQuery) -> Lists | None:
        return self.words.lists(self.state, request)


def _no_matches() -> tuple[UInt32Array, UInt8Array]:
    return np.zeros(0, np.uint32), np.zeros(0, np.uint8)


def _no_rows() -> _Part:
    none = np.zeros(0, np.int64)
    return _Part(object(), none, none, *_no_matches(), shortest=0.0, ordered=False)


def _matches(
    db: sqlite3.Connection, fts: str, data: str, clause: IndexClause, part: _Part
) -> tuple[UInt32Array, Counts]:
    """Return a part's rows that match a clause, with match counts, as FTS5 finds them.

    ``data`` is the table in which the FTS5 table ``fts`` keeps its data. FTS5 returns a score
    instead of a count, but a score for a single clause follows from the count and the row's length.
    The counts of rows that are gone may be wrong.
    """
    # As one row of text, because thousands of rows would make Python collect garbage.
    ids, texts = db.execute(
        "SELECT group_concat(doc), group_concat(score) FROM "
        f"(SELECT rowid AS doc, bm25({fts}) AS score FROM {fts} WHERE {fts} MATCH ? LIMIT -1)",
        (expression_of(clause),),
    ).fetchone()
    docs, scores = numbers_in(ids), np.fromstring(texts or "", sep=",")
    numbers, present = numbers_of(docs, part.docs)
    # The number of rows, and of tokens in each column, that FTS5's scores depend on.
    (record,) = db.execute(f"SELECT block FROM {data} WHERE id = 1").fetchone()
    total, *tokens = varints(record).tolist()
    base = K1 * (1 - B + B * part.lengths[numbers] * (total / max(1, sum(tokens))))
    # A score is weight * count * (K1 + 1) / (count + base).
    parts = -scores[present] / (weight_of(total, len(docs)) * (K1 + 1))
    counts = np.rint(parts * base / np.maximum(1 - parts, 2.0**-52)).clip(1, 2**31)
    return numbers.astype(np.uint32), narrowed(counts)


class _PartOfQuery:
    """A query's lists for one part, in the form that native code reads."""

    def __init__(
        self,
        part: _Part,
        lists: Sequence[_List],
        weights: Sequence[float],
        mask: BoolArray | None,
        mean: float,
    ) -> None:
        self.part, self._mean, self._gone = part, mean, part.gone
        wanted, unwanted = lists[: len(weights)], lists[len(weights) :]
        if unwanted or mask is not None:
            self._gone = self._gone.copy()
        for excluded in unwanted:
            self._gone[excluded.rows] = 1
        self._keep = lists  # native code has their addresses
        matches = [len(each.rows) for each in wanted]
        self._has_some, self._may_have_all = any(matches), all(matches)
        # Begin with the rarest clause: its rows have the best scores.
        order = sorted(range(len(weights)), key=lambda n: -weights[n])
        self._first = 0
        records, places = [(lists[n].record, weights[n]) for n in order], [0] * len(order)
        if mask is not None:
            self._chosen = np.flatnonzero(mask).astype(np.uint32)
            if len(self._chosen) < sum(matches):
                # The filter selects few rows, which are looked up in the lists.
                chosen = _LIST.pack(address(self._chosen), 0, len(self._chosen), 0, 0.0)
                records.insert(0, (chosen, 0.0))
                self._first = 1
            else:
                self._gone |= ~mask
        for place, n in enumerate(order, self._first):
            places[n] = place
        self._count = len(records)
        self._records = ctypes.create_string_buffer(
            b"".join(
                record + _CLAUSE.pack(weight, place)
                for (record, weight), place in zip(records, [0] * self._first + places, strict=True)
            )
        )

    def best(self, ticket: Ticket, limit: int, *, some: bool) -> tuple[Int64Array, Float64Array]:
        """Return the best rows, including ties with the worst of them, and their scores.

        The rows are in no particular order.
        """
        part, count = self.part, self._count
        if not (self._has_some if some else self._may_have_all):
            return part.rowids[:0], np.empty(0)
        required = self._first if some else count
        wanted = max(1, min(limit, part.count))
        heap, room = np.empty(wanted), 2 * wanted + 16
        while True:
            rows, scores = np.empty(room, np.uint32), np.empty(room)
            best = library().functions["words"](
                self._records, count, required, address(self._gone),
                address(part.lengths), part.count, part.shortest, self._mean, wanted, address(heap),
                ctypes.byref(ticket.stop), room, address(rows), address(scores),
            )  # fmt: skip
            if best <= room:
                return part.rowids[rows[:best]], scores[:best]
            room = best


@dataclass(frozen=True, slots=True)
class _ListsOfQuery:
    request: IndexQuery
    parts: Sequence[_PartOfQuery]
    weight: float

    def best(self, *, some: bool) -> Scored:
        request, limit = self.request, self.request.query.limit
        matches = [part.best(request.ticket, limit, some=some) for part in self.parts]
        request.ticket.check()
        if not matches:
            return []
        rowids = np.concatenate([rowids for rowids, _ in matches])
        scores = np.concatenate([scores for _, scores in matches])
        order = np.lexsort((rowids, -scores))
        rowids, scores = rowids[order], scores[order]
        if len(rowids) > limit and scores[limit - 1] == scores[limit]:
            equal = np.flatnonzero(scores == scores[limit - 1])
            first = int(equal[0])
            sql = (
                f"SELECT r._rowid FROM json_each(?) AS j CROSS JOIN {request.table.rows} AS r "
                "ON r._rowid = j.value ORDER BY r.id LIMIT ?"
            )
            parameters = json.dumps(rowids[equal].tolist()), limit - first
            rows = request.db.execute(sql, parameters).fetchall()
            rowids[first:limit] = np.array(rows).reshape(-1)
        return list(zip(rowids[:limit].tolist(), scores[:limit].tolist(), strict=True))
