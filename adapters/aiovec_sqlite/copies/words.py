"""The words of a table in memory: for each one that searches ask for, the rows that have it.

FTS5 keeps the words, and cannot find the best rows without a look at all. The postings
(``postings.py``) have the rows of all words, as sorted numbers with the counts of matches. What
they do not have, such as the rows of a phrase, is read from FTS5's index when a search asks for it,
and kept. Native code finds the best rows in such lists (``docs/internals/keywords.md``).

Rows are numbered as they are in the index when this begins. A row that changes or goes is marked
as gone. What it becomes gets a number behind them, and the places of its words are kept.
"""

from __future__ import annotations

import ctypes
import json
import sqlite3
import struct
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float64Array, Int64Array
from aiovec.errors import UnsupportedError

from ..connection import Ticket
from ..keyword_search import Asked, Lists, Scored, Sought, weight_of
from ..layout import TableLayout, newest_change
from ..sql.values import numbers_in
from ..text_index import TextIndex, serving, size_of
from ..tokens import Tokenizer
from .copy import Masks, OlderSnapshotError, changes_since, selected_among
from .kernel.library import address, library
from .postings import (
    Postings,
    counted,
    in_file,
    in_memory,
    numbers_of,
    read_postings,
    rows_of,
    vocabulary,
)
from .scanfile import NewFile, ScanFiles, SpoiledFileError
from .segments import among, positions_of

UInt32Array = npt.NDArray[np.uint32]
UInt8Array = npt.NDArray[np.uint8]
_Tokens = Mapping[Sought, Sequence[str]]

# FTS5 is as fast where fewer rows have text.
_FEWEST = 500
# Bytes of a row's id, its length, and whether it is gone.
_ROW_BYTES = 13
# Bytes of a posting: its row and its count.
_POSTING_BYTES = 5
# Rows that may change before the words are begun again: so many, or a share of all. And the share
# from which on they are begun again while these go on.
_MOST_CHANGED, _SHARE_CHANGED, _WORN = 4096, 1, 1 / 16
# Characters of texts that are brought in while a search waits, which takes some 150 ms: so many, or
# so many for each row. More are brought in behind it, so many at a time, while FTS5 answers.
_MOST_CHARACTERS, _CHARACTERS_A_ROW = 1_000_000, 4
# Seconds that a search waits for others that bring in changes.
_PATIENCE = 0.2
# The share of the memory that the words of changed rows may take.
_FOR_CHANGED = 1 / 4
# The share of the memory that masks of filters may take.
_FOR_MASKS = 1 / 4
# The memory that the lists of a small index may take. Those of a larger one get twice its size.
_LEAST_MEMORY = 2**20
# A filter runs on the rows that the words have, if these are at most so many, else on all rows.
_FEW = 4096
# FTS5 looks for phrases of more words, and for longer texts of a clause.
_LONGEST_PHRASE, _LONGEST_TEXT = 16, 200
# FTS5 looks for phrases with a word of more places: all of a phrase's words are needed together,
# which takes about 35 bytes for each.
_PLACES = 2**23
# Texts whose tokens are kept, and lists of changed rows.
_MOST_KNOWN, _MOST_OF_CHANGED = 10_000, 4_000
# Approximate bytes of a list without its numbers. And of a word of changed rows, and of each of its
# places.
_LIST_BYTES = 700
_WORD_BYTES, _PLACE_BYTES = 250, 9
# Tokens of a text are numbered in so many bits: a text has at most a million characters.
_PLACE_BITS = 21

# A list in the form that native code reads (words.c): the addresses of rows and counts, their
# number, the bytes of a count, and the largest one; then the clause's weight and place in the
# query, and what a search keeps.
_LIST, _CLAUSE = struct.Struct("QQqqd"), struct.Struct("dq24x")


@dataclass(slots=True)
class _List:
    """The rows of one part that match a clause, rising, and how often each does."""

    rows: UInt32Array
    counts: npt.NDArray[Any]
    since: int
    """The number of rows of the part that were gone when it was read, which lacks their words."""
    having: int = 0
    """The rows that are not gone, of as many gone ones as ``seen``."""
    seen: int = 0
    nbytes: int = _LIST_BYTES
    """Its private bytes."""
    too_long: bool = False
    """True for a phrase that FTS5 has to look for."""
    record: bytes = b""
    """The first part of its record."""

    def __post_init__(self) -> None:
        self.record = _LIST.pack(
            address(self.rows), address(self.counts), len(self.rows), self.counts.itemsize,
            float(self.counts.max()) if len(self.counts) else 0.0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that are numbered together. It never changes."""

    mark: object
    rowids: Int64Array
    lengths: UInt32Array
    gone: UInt8Array
    shortest: float
    """No row is shorter."""
    ordered: bool

    @property
    def count(self) -> int:
        return len(self.rowids)

    def among(self, rowids: Int64Array, start: int) -> BoolArray:
        return among(self.rowids[start:], rowids, ordered=self.ordered)


@dataclass(frozen=True, slots=True)
class _State:
    """Both parts at one change number."""

    change: int
    segments: tuple[_Part, _Part]
    """The rows that the index had at first, and the changed ones."""
    rows: int
    tokens: int
    gone: int = 0
    """The number of rows of the first part that are gone."""
    changed: dict[Sought, _List] = field(default_factory=dict)
    """The lists of the second part."""


class TooFewRowsError(Exception):
    """The table has so few texts that FTS5 is as fast."""


class Words:
    """The words of one table's text index, in one process, within ``most_bytes``."""

    def __init__(
        self,
        table: TableLayout,
        index: TextIndex,
        most_bytes: int,
        most_in_lists: int,
        change: int,
        rows: tuple[Int64Array, UInt32Array],
        postings: Postings | None = None,
    ) -> None:
        self.index = index
        self.postings = postings
        """The rows of all words as at first, None until they are made."""
        self.lost = self.spoiled = False
        """True once it cannot be used any more, or its file is damaged."""
        self.behind = False
        """True if more has changed than can be brought in while a search waits."""
        self._table = table
        self._most_bytes, self._most_in_lists = most_bytes, most_in_lists
        self.change = change
        """The change number of the snapshot that they were begun in."""
        self._masks = Masks(int(most_bytes * _FOR_MASKS))
        self._lock = threading.Lock()
        # Held while changes are brought in.
        self._following = threading.Lock()
        self._lists: dict[Sought, _List] = {}  # the least recently used one first
        self._bytes = 0
        # The newest number of each changed row.
        self._changed: dict[int, int] = {}
        # The rows of the first part that are gone, in the order of going.
        self._gone = array("I")
        # The places of each word in the second part's rows, as ``_keys`` numbers them. They rise.
        self._places: dict[str, array[int]] = {}
        self._places_bytes = 0
        # One for searches, one for changed rows.
        self._tokenizer, self._splitter = (
            Tokenizer(index.analyzer, len(index.columns)) for _ in range(2)
        )
        self._tokens: dict[str, list[str]] = {}
        rowids, lengths = rows
        shortest, tokens = float(lengths.min(initial=2**32 - 1)), int(lengths.sum(dtype=np.int64))
        gone = np.zeros(len(rowids), np.uint8)
        part = _Part(object(), rowids, lengths, gone, shortest, ordered=True)
        self._state = _State(change, (part, _no_rows()), len(rowids), tokens)

    @classmethod
    def mapped(
        cls, db: sqlite3.Connection, table: TableLayout, most_bytes: int, files: ScanFiles | None
    ) -> Words | None:
        """Return the words of the table's file; None without one that counts in this snapshot."""
        index = serving(db, table)
        read = partial(read_postings, table=table, index=index)
        postings = None if files is None else files.find(db, table, "words", read)
        if postings is None:
            return None
        rows = postings.rowids, postings.lengths
        most = _most_in_lists(db, index, most_bytes)
        return cls(table, index, most_bytes, most, postings.change, rows, postings)

    @classmethod
    def numbered(cls, db: sqlite3.Connection, table: TableLayout, most_bytes: int) -> Words:
        """Return the words of this snapshot, without postings.

        TooFewRowsError if FTS5 is as good; UnsupportedError if only it can answer.
        """
        index = serving(db, table)
        docs = index.shadow("docsize")
        few = f"SELECT count(*) FROM (SELECT 1 FROM {docs} LIMIT ?)"
        (rows,) = db.execute(few, (_FEWEST,)).fetchone()
        if rows < _FEWEST:
            raise TooFewRowsError
        (count,) = db.execute(f"SELECT count(*) FROM {docs}").fetchone()
        if index.analyzer == "ngram" or count * _ROW_BYTES > most_bytes // 2:
            raise UnsupportedError("text", "sqlite", "its words are not kept in memory")
        most = _most_in_lists(db, index, most_bytes)
        return cls(table, index, most_bytes, most, newest_change(db), rows_of(db, index))

    @property
    def size(self) -> int:
        """The most bytes that postings take, without the words' letters."""
        return _POSTING_BYTES * self._state.tokens + _ROW_BYTES * self._state.rows

    def load(self, db: sqlite3.Connection, ticket: Ticket, file: NewFile | None) -> Postings:
        """Make the postings in the snapshot that these words were begun in."""
        part = self._state.segments[0]
        rows = part.rowids, part.lengths
        if file is None:
            return in_memory(db, ticket, self.index, self.change, rows)
        return in_file(db, ticket, self._table, self.index, self.change, rows, file)

    def use(self, postings: Postings) -> None:
        """Take the rows of words from these postings, and their numbers too."""
        with self._following, self._lock:
            first, second = self._state.segments
            first = replace(first, rowids=postings.rowids, lengths=postings.lengths)
            self._state = replace(self._state, segments=(first, second))
            self.postings = postings

    def close(self) -> None:
        """End this, behind the searches that read changed rows. FTS5 answers later ones."""
        self.lost = True
        with self._following, self._lock:
            self._splitter.close()
            self._tokenizer.close()

    @property
    def nbytes(self) -> int:
        """Private bytes."""
        postings, (first, second) = self.postings, self._state.segments
        rows = first.count if postings is not None else _ROW_BYTES * first.count
        rows += _ROW_BYTES * second.count + (0 if postings is None else postings.nbytes)
        return self._bytes + self._masks.nbytes + rows + self._places_bytes

    @property
    def file_bytes(self) -> int:
        """Bytes of the mapped file."""
        postings = self.postings
        return postings.size if postings is not None and postings.mapped else 0

    @property
    def worn(self) -> bool:
        """True if enough has changed to begin again, before this cannot be used any more."""
        full = self._places_bytes > self._most_bytes * _FOR_CHANGED / 2
        most = max(_MOST_CHANGED // 2, self._state.segments[0].count * _WORN)
        return full or self._changed_rows > most

    @property
    def _changed_rows(self) -> int:
        return max(len(self._gone), self._state.segments[1].count)

    @property
    def _most_changed(self) -> int:
        return max(_MOST_CHANGED, int(self._state.segments[0].count * _SHARE_CHANGED))

    # A search

    def at(self, db: sqlite3.Connection, ticket: Ticket) -> WordsAt | None:
        """Return the words at the connection's snapshot; None if FTS5 has to answer.

        OlderSnapshotError if another search has brought in newer changes.
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
                brought = self._advance(db, ticket, change, most)
            finally:
                self._following.release()
            if brought is None:
                return None
            state = brought
        return WordsAt(self, state)

    def follow(self, db: sqlite3.Connection, ticket: Ticket) -> None:
        """Bring in all changes up to the snapshot; if that is too much, ``lost`` becomes true."""
        with self._following:
            with suppress(OlderSnapshotError):  # a search has done it
                self._advance(db, ticket, newest_change(db), None)
            self.behind = False

    def lists(self, state: _State, asked: Asked) -> Lists | None:
        """Return the lists of a query at a state; None if FTS5 has to answer."""
        if any(len(clause.text) > _LONGEST_TEXT for clause in (*asked.wanted, *asked.unwanted)):
            return None
        tokens = self._tokens_of([*asked.wanted, *asked.unwanted])
        if tokens is None or any(len(each) > _LONGEST_PHRASE for each in tokens.values()):
            return None
        # As in FTS5, a clause without a token is ignored.
        wanted = [clause for clause in asked.wanted if tokens[clause]]
        clauses = [*wanted, *(clause for clause in asked.unwanted if tokens[clause])]
        # Mostly no row has changed: then the second part has none.
        parts = [part for part in state.segments if part.count]
        read: dict[Sought, _List] = {}
        while True:
            with self._lock:
                if self.lost:
                    return None
                missing = [one for one in clauses if one not in read and self._lacks(state, one)]
                if not missing:
                    known = [
                        [self._list(state, part, clause, tokens, read) for clause in clauses]
                        for part in parts
                    ]
                    self._evict()  # not before all lists of the query were taken
                    break
            try:
                for clause in missing:  # without the lock, because a common word takes long
                    read[clause] = self._read(asked, state, clause, tokens[clause])
            except SpoiledFileError:
                self.lost = self.spoiled = True
        lists = [[one for one, _ in of] for of in known]
        if any(one.too_long for of in lists for one in of):
            return None
        having = [sum(of[n][1] for of in known) for n in range(len(wanted))]
        weights = [weight_of(state.rows, rows) for rows in having]
        mean = state.tokens / max(1, state.rows)
        masks = self._selected(asked, state, parts, [of[: len(wanted)] for of in lists])
        made = [
            _PartOfQuery(part, of, weights, mask, mean)
            for part, of, mask in zip(parts, lists, masks, strict=True)
        ]
        return _ListsOfQuery(asked, made if wanted else [])

    def _selected(
        self,
        asked: Asked,
        state: _State,
        parts: Sequence[_Part],
        lists: Sequence[Sequence[_List]],
    ) -> Sequence[BoolArray | None]:
        """Return for each part a mask of the rows that the filter selects; None without one."""
        where = asked.query.where
        if where is None:
            return [None] * len(parts)
        if sum(len(one.rows) for of in lists for one in of) > _FEW:
            return self._masks.of(asked.db, asked.table, state, where)[: len(parts)]
        having = [
            part.rowids[one.rows] for part, of in zip(parts, lists, strict=True) for one in of
        ]
        rowids = np.unique(np.concatenate([np.empty(0, np.int64), *having]))
        selected = selected_among(asked.db, asked.table, where, rowids)
        return [part.among(selected, 0) for part in parts]

    # Lists

    def _lacks(self, state: _State, clause: Sought) -> bool:
        """Return whether the list of a clause has to be read from the file."""
        known = self._lists.get(clause)
        return known is None or known.since > state.gone

    def _list(
        self,
        state: _State,
        part: _Part,
        clause: Sought,
        tokens: _Tokens,
        read: Mapping[Sought, _List],
    ) -> tuple[_List, int]:
        """Return the list of a clause, and how many of its rows are not gone.

        ``read`` has the lists that were read from the file for this query.
        """
        if part is state.segments[1]:
            known = state.changed.get(clause)
            if known is None and self._is_of_none(clause, tokens[clause]):
                return _EMPTY, 0
            if known is None:
                known = self._of_changed(state, clause, tokens[clause])
                if len(state.changed) >= _MOST_OF_CHANGED:
                    state.changed.clear()
                state.changed[clause] = known
            return known, known.having
        known = self._lists.pop(clause, None)
        if known is None or known.since > state.gone:
            self._bytes -= 0 if known is None else known.nbytes
            known = read[clause]
            self._bytes += known.nbytes if len(known.rows) else 0
        if len(known.rows):
            self._lists[clause] = known
        seen, having = known.seen, known.having
        if seen > state.gone:  # a newer search has counted
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

    def _evict(self) -> None:
        """Remove the least recently used lists that the memory has no room for."""
        while self._bytes > self._most_in_lists and self._lists:
            self._bytes -= self._lists.pop(next(iter(self._lists))).nbytes

    def _read(self, asked: Asked, state: _State, clause: Sought, tokens: Sequence[str]) -> _List:
        """Return the first part's list of a clause, from the postings or the index."""
        asked.ticket.check()
        postings, part = self.postings, state.segments[0]
        if len(tokens) > 1:
            return self._read_phrase(asked, state, clause, tokens)
        if postings is not None and not clause.columns:
            of = postings.of_prefix if clause.prefix else postings.of_word
            rows, counts = of(tokens[0])
            own = rows.nbytes + counts.nbytes if clause.prefix else 0
            return _List(rows, counts, 0, len(rows), nbytes=_LIST_BYTES + own)
        condition, values = _condition(clause, tokens[0], last=True)
        rows, counts = counted(asked.db, asked.ticket, self.index, condition, values, part.rowids)
        own = _LIST_BYTES + rows.nbytes + counts.nbytes
        return _List(rows, counts, state.gone, len(rows), nbytes=own)

    def _read_phrase(
        self, asked: Asked, state: _State, clause: Sought, tokens: Sequence[str]
    ) -> _List:
        """Return the list of a phrase, from the places of its words in the index."""
        words, part = vocabulary(asked.db, self.index), state.segments[0]
        keys = np.empty(0, dtype=np.int64)
        for place, token in enumerate(tokens):
            condition, values = _condition(clause, token, last=place == len(tokens) - 1)
            columns = asked.db.execute(
                "SELECT group_concat(doc), group_concat(substr(col, 2)), group_concat(offset) FROM "
                f"(SELECT doc, col, offset FROM {words} WHERE {condition} LIMIT {_PLACES})",
                values,
            ).fetchone()
            docs, column, offset = map(numbers_in, columns)
            if len(docs) == _PLACES:
                return _List(*_no_matches(), state.gone, too_long=True)
            rows, present = numbers_of(docs, part.rowids)
            found = self._keys(rows, column[present], offset[present]) - place
            keys = found if not place else np.intersect1d(keys, found, assume_unique=True)
        rows, counts = np.unique(self._rows_of(keys), return_counts=True)
        return _list_of(rows, counts, state.gone, len(rows))

    def _is_of_none(self, clause: Sought, tokens: Sequence[str]) -> bool:
        """Return whether it is clear at once that no changed row matches a clause."""
        return not clause.prefix and any(token not in self._places for token in tokens)

    def _of_changed(self, state: _State, clause: Sought, tokens: Sequence[str]) -> _List:
        """Return the second part's list of a clause."""
        part, keys = state.segments[1], np.empty(0, dtype=np.int64)
        for place, token in enumerate(tokens):
            words = [token]
            if clause.prefix and place == len(tokens) - 1:
                words = [word for word in self._places if word.startswith(token)]
            places = [np.array(self._places[word]) for word in words if word in self._places]
            if not places:
                return _List(*_no_matches(), state.gone)
            found = np.concatenate(places) - place
            keys = found if not place else np.intersect1d(keys, found, assume_unique=True)
        if clause.columns:
            columns = [int(name[1:]) for name in clause.columns]
            keys = keys[np.isin((keys >> _PLACE_BITS) % self._width, columns)]
        rows, counts = np.unique(self._rows_of(keys), return_counts=True)
        present = rows < part.count  # the others are of a newer state
        rows, counts = rows[present], counts[present]
        having = int(np.count_nonzero(part.gone[rows] == 0))
        return _list_of(rows, counts, state.gone, having)

    @property
    def _width(self) -> int:
        return len(self.index.columns) + 1

    def _keys(self, rows: Int64Array, columns: Int64Array, places: Int64Array) -> Int64Array:
        """Return a number for each place of a word, which rises with the row."""
        return ((rows * self._width + columns) << _PLACE_BITS) + places

    def _rows_of(self, keys: Int64Array) -> Int64Array:
        return (keys >> _PLACE_BITS) // self._width

    def _tokens_of(self, clauses: Sequence[Sought]) -> _Tokens | None:
        """Return the tokens of clauses as the index has them; None if this has ended."""
        texts = {clause.text for clause in clauses}
        with self._lock:
            if self.lost:
                return None
            if len(self._tokens) >= _MOST_KNOWN:
                self._tokens.clear()
            if new := list(texts.difference(self._tokens)):
                self._tokens.update(zip(new, self._tokenizer.of_texts(new), strict=True))
            return {clause: self._tokens[clause.text] for clause in clauses}

    # Changes

    def _advance(
        self, db: sqlite3.Connection, ticket: Ticket, change: int, most: int | None
    ) -> _State | None:
        """Bring in what changed up to the snapshot; None if that is too much.

        With ``most``, at most so many characters. ``_following`` must be held.
        """
        state = self._state
        if self.lost or state.change == change:
            return None if self.lost else state
        if state.change > change:
            raise OlderSnapshotError
        left = max(0, self._most_changed - self._changed_rows)
        changes = changes_since(db, self._table, state.change, left)
        if changes is None:
            self.lost = True
            return None
        if not len(changes[1]):  # another table changed
            self._state = state = replace(state, change=change)
            return state
        ticket.check()
        changed = np.unique(changes[1])
        texts = _Texts(db, self.index, changed, most)
        if most is not None and not texts.read():
            self.behind = True
            return None
        try:
            brought = self._changed_to(change, changed, texts)
        except BaseException:
            self.lost = True  # it is not known what was brought in
            raise
        self.lost = brought is None
        return brought

    def _changed_to(self, change: int, changed: Int64Array, texts: _Texts) -> _State | None:
        """Bring in the texts of changed rows; None if they take too much memory."""
        state = self._state
        first, second = state.segments
        rowids, lengths = [np.empty(0, np.int64)], [np.empty(0, np.uint32)]
        start = second.count
        for some, of_rows in texts:
            rowids.append(np.array(some, dtype=np.int64))
            lengths.append(self._bring_in(of_rows, start))
            start += len(some)
            if self._places_bytes > self._most_bytes * _FOR_CHANGED:
                return None
        added, added_lengths = np.concatenate(rowids), np.concatenate(lengths)
        gone = numbers_of(changed, first.rowids)[0]
        gone = gone[first.gone[gone] == 0]
        old = [self._changed.pop(row) for row in changed.tolist() if row in self._changed]
        self._changed |= {row: place for place, row in enumerate(added.tolist(), second.count)}
        marked, marked_later = first.gone.copy(), second.gone.copy()
        marked[gone], marked_later[old] = 1, 1
        tokens = state.tokens + int(added_lengths.sum(dtype=np.int64))
        tokens -= int(first.lengths[gone].sum(dtype=np.int64))
        tokens -= int(second.lengths[old].sum(dtype=np.int64))
        with self._lock:
            self._gone.frombytes(gone.astype(np.uint32).tobytes())
            first = replace(self._state.segments[0], gone=marked)
            second = _Part(
                second.mark,
                np.concatenate([second.rowids, added]),
                np.concatenate([second.lengths, added_lengths]),
                np.concatenate([marked_later, np.zeros(len(added), np.uint8)]),
                shortest=0.0,
                ordered=False,
            )
            rows = state.rows + len(added) - len(gone) - len(old)
            self._state = _State(change, (first, second), rows, tokens, len(self._gone))
            return self._state

    def _bring_in(self, texts: Sequence[Sequence[str | None]], start: int) -> UInt32Array:
        """Keep the words of rows under the numbers from ``start`` on; return their lengths."""
        tokens = self._splitter.of_rows((n, *row) for n, row in enumerate(texts, start))
        keys = self._keys(tokens.rows, tokens.columns, tokens.places)
        with self._lock:
            before, at = len(self._places), 0
            for term, number in zip(tokens.terms, tokens.numbers.tolist(), strict=True):
                places = self._places.get(term)
                if places is None:
                    places = self._places[term] = array("q")
                places.frombytes(keys[at : at + number].tobytes())
                at += number
            added = len(self._places) - before
            self._places_bytes += _WORD_BYTES * added + _PLACE_BYTES * len(keys)
        return np.bincount(tokens.rows - start, minlength=len(texts)).astype(np.uint32)


class _Texts:
    """The texts of changed rows as the index has them, in parts; of all if ``most`` is None."""

    def __init__(
        self, db: sqlite3.Connection, index: TextIndex, rowids: Int64Array, most: int | None
    ) -> None:
        self._rows = db.execute(
            f"SELECT v._rowid, {', '.join(f'v.{name}' for name in index.columns)} "
            f"FROM json_each(?) AS j CROSS JOIN {index.view} AS v ON v._rowid = j.value",
            (json.dumps(rowids.tolist()),),
        )
        self._most = _MOST_CHARACTERS if most is None else most
        self._part: tuple[list[int], list[tuple[str | None, ...]]] = [], []

    def read(self) -> bool:
        """Read the next part; return True if it is the last one."""
        rowids, texts, left = list[int](), list[tuple[str | None, ...]](), self._most
        self._part = rowids, texts
        for rowid, *row in self._rows:
            rowids.append(rowid)
            texts.append(tuple(row))
            left -= sum(len(text or "") for text in row)
            if left < 0:
                return False
        return True

    def __iter__(self) -> Iterator[tuple[list[int], list[tuple[str | None, ...]]]]:
        """Yield all parts, first the one that was read already."""
        while self._part[0] or not self.read():
            yield self._part
            self._part = [], []
        if self._part[0]:
            yield self._part


@dataclass(frozen=True, slots=True)
class WordsAt:
    """The words at one change number."""

    words: Words
    state: _State

    @property
    def index(self) -> TextIndex:
        return self.words.index

    def lists(self, asked: Asked) -> Lists | None:
        return self.words.lists(self.state, asked)


def _most_in_lists(db: sqlite3.Connection, index: TextIndex, most_bytes: int) -> int:
    """Return the most bytes for lists: twice the size of the index, if that is less."""
    return min(most_bytes, max(_LEAST_MEMORY, 2 * size_of(db, index)))


def _list_of(rows: Int64Array, counts: Int64Array, gone: int, having: int) -> _List:
    kind = np.uint8 if not len(counts) or counts.max() < 256 else np.uint32
    own, counted = rows.astype(np.uint32), counts.astype(kind)
    return _List(own, counted, gone, having, nbytes=_LIST_BYTES + own.nbytes + counted.nbytes)


def _no_matches() -> tuple[UInt32Array, UInt8Array]:
    return np.zeros(0, np.uint32), np.zeros(0, np.uint8)


_EMPTY = _List(*_no_matches(), since=0)


def _no_rows() -> _Part:
    return _Part(object(), np.zeros(0, np.int64), *_no_matches(), shortest=0.0, ordered=False)


def _condition(clause: Sought, token: str, *, last: bool) -> tuple[str, list[Any]]:
    """Return SQL for the places of a clause's token, which is a prefix if it is the last one."""
    condition, values = "term = ?", [token]
    if clause.prefix and last:
        condition, values = "term >= ? AND term <= ?", [token, f"{token}\U0010ffff"]
    if clause.columns:
        condition += f" AND col IN ({', '.join('?' * len(clause.columns))})"
        values += clause.columns
    return condition, values


class _PartOfQuery:
    """The lists of a query over the rows of one part, in the form that native code reads."""

    def __init__(
        self,
        part: _Part,
        lists: Sequence[_List],
        weights: Sequence[float],
        mask: BoolArray | None,
        mean: float,
    ) -> None:
        self.part, self._mean, self._gone = part, mean, part.gone
        unwanted = lists[len(weights) :]
        if unwanted or mask is not None:
            self._gone = self._gone.copy()
        for one in unwanted:
            self._gone[one.rows] = 1
        self._keep = lists  # native code has their addresses
        found = [len(one.rows) > 0 for one in lists[: len(weights)]]
        self._has_some, self._may_have_all = any(found), all(found)
        # The rarest first: its rows have the best scores.
        order = sorted(range(len(weights)), key=lambda n: -weights[n])
        self._first = 0
        records, places = [(lists[n].record, weights[n]) for n in order], [0] * len(order)
        if mask is not None:
            self._chosen = np.flatnonzero(mask).astype(np.uint32)
            if len(self._chosen) < sum(len(one.rows) for one in lists[: len(weights)]):
                # The filter selects so few rows that these are looked up in the lists.
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
        """Return the best rows with their scores, in any order, and all that equal the last."""
        part, count_of = self.part, self._count
        if not (self._has_some if some else self._may_have_all):
            return part.rowids[:0], np.empty(0)
        required = self._first if some else count_of
        wanted = max(1, min(limit, part.count))
        heap, room = np.empty(wanted), 2 * wanted + 16
        while True:
            rows, scores = np.empty(room, np.uint32), np.empty(room)
            count = library().functions["words"](
                self._records, count_of, required, address(self._gone),
                address(part.lengths), part.count, part.shortest, self._mean, wanted, address(heap),
                ctypes.byref(ticket.stop), room, address(rows), address(scores),
            )  # fmt: skip
            if count <= room:
                return part.rowids[rows[:count]], scores[:count]
            room = count


@dataclass(frozen=True, slots=True)
class _ListsOfQuery:
    asked: Asked
    parts: Sequence[_PartOfQuery]

    def best(self, *, some: bool) -> Scored:
        asked, limit = self.asked, self.asked.query.limit
        matches = [part.best(asked.ticket, limit, some=some) for part in self.parts]
        asked.ticket.check()
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
                f"SELECT r._rowid FROM json_each(?) AS j CROSS JOIN {asked.table.rows} AS r "
                "ON r._rowid = j.value ORDER BY r.id LIMIT ?"
            )
            parameters = json.dumps(rowids[equal].tolist()), limit - first
            rows = asked.db.execute(sql, parameters).fetchall()
            rowids[first:limit] = np.array(rows).reshape(-1)
        return list(zip(rowids[:limit].tolist(), scores[:limit].tolist(), strict=True))
