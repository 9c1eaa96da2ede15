"""The words of a table in memory: for each one that searches ask for, the rows that have it.

FTS5 keeps the words, and cannot find the best rows without a look at all. So the rows of a word, or
of a phrase or a prefix, are read from FTS5's index when a search first asks for them, as sorted
numbers with the counts of matches, and kept. Native code finds the best rows in such lists
(``docs/internals/keywords.md``).

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float64Array, Int64Array
from aiovec.backend.contract import Columns, Query

from ..connection import Ticket
from ..keyword_search import Asked, Lists, Scored, Sought, weight_of
from ..layout import TableLayout, newest_change, quoted
from ..sql.values import numbers_in
from ..text_index import TextIndex, serving
from ..tokens import Tokenizer
from .copy import Masks, OlderSnapshotError, changes_since, selected_among
from .kernel.library import address, library
from .segments import among, positions_of

UInt32Array = npt.NDArray[np.uint32]
UInt8Array = npt.NDArray[np.uint8]
_Tokens = Mapping[Sought, Sequence[str]]

# FTS5 is as fast where fewer rows have text.
_FEWEST = 500
# Bytes of a row's id, its length, and whether it is gone.
_ROW_BYTES = 13
# Rows that may change before the lists are begun again: so many, or a share of all.
_MOST_CHANGED, _SHARE_CHANGED = 4096, 1 / 16
# Characters of texts that are brought in while searches wait, which takes some 150 ms: so many, or
# so many for each row. With more, the lists are begun again, while FTS5 answers.
_MOST_CHARACTERS, _CHARACTERS_A_ROW = 1_000_000, 4
# The share of the memory that the words of changed rows may take.
_FOR_CHANGED = 1 / 4
# Lists that are read again when they are begun again, the most recently used ones.
_READ_AGAIN = 100
# The share of the memory that masks of filters may take.
_FOR_MASKS = 1 / 4
# A filter runs on the rows that the words have, if these are at most so many, else on all rows.
_FEW = 4096
# FTS5 looks for phrases of more words, and for longer texts of a clause.
_LONGEST_PHRASE, _LONGEST_TEXT = 16, 200
# Places of a word that are read at a time, which takes about 35 bytes for each. FTS5 looks for
# phrases with a word that has more: all places of a phrase's words are needed together.
_PLACES = 2**23
_WHERE = ", group_concat(substr(col, 2)), group_concat(offset)"
# Texts whose tokens are kept, and lists of changed rows.
_MOST_KNOWN, _MOST_OF_CHANGED = 10_000, 1_000
# Approximate bytes of a list without its numbers: a word that no row has costs so much. And of a
# word of changed rows, and of each of its places.
_LIST_BYTES = 1_000
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
    too_long: bool = False
    """True for a phrase that FTS5 has to look for."""
    record: bytes = b""
    """The first part of its record."""

    def __post_init__(self) -> None:
        self.record = _LIST.pack(
            address(self.rows), address(self.counts), len(self.rows), self.counts.itemsize,
            float(self.counts.max()) if len(self.counts) else 0.0,
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.counts.nbytes + _LIST_BYTES


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

    def numbers(self, rowids: Int64Array) -> tuple[Int64Array, BoolArray]:
        """Return the rows with these ids, and which of the ids are among them."""
        if not self.count:
            return rowids[:0], np.zeros(len(rowids), dtype=np.bool_)
        places = np.minimum(np.searchsorted(self.rowids, rowids), self.count - 1)
        present: BoolArray = self.rowids[places] == rowids
        return places[present], present


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


class Words:
    """The words of one table's text index, in one process, within ``most_bytes``."""

    def __init__(self, table: TableLayout, index: TextIndex, most_bytes: int) -> None:
        self.index = index
        self.lost = False
        """True once it cannot be used any more."""
        self._table = table
        self._most_bytes = most_bytes
        self._masks = Masks(int(most_bytes * _FOR_MASKS))
        self._lock = threading.Lock()
        self._lists: dict[Sought, _List] = {}  # the least recently used one first
        self._bytes = 0
        # The newest number of each changed row.
        self._changed: dict[int, int] = {}
        # The rows of the first part that are gone, in the order of going.
        self._gone: list[int] = []
        # The places of each word in the second part's rows, as ``_keys`` numbers them. They rise.
        self._places: dict[str, array[int]] = {}
        self._places_bytes = 0
        self._tokenizer = Tokenizer(index.analyzer, len(index.columns))
        self._tokens: dict[str, list[str]] = {}

    @classmethod
    def loaded(
        cls,
        db: sqlite3.Connection,
        ticket: Ticket,
        table: TableLayout,
        most_bytes: int,
        clauses: Sequence[Sought] = (),
    ) -> Words | None:
        """Return the words as of the connection's snapshot, with the lists of these clauses; None
        if FTS5 is as good.
        """
        index = serving(db, table)
        (rows,) = db.execute(f"SELECT count(*) FROM {index.shadow('docsize')}").fetchone()
        if index.analyzer == "ngram" or rows < _FEWEST or rows * _ROW_BYTES > most_bytes // 2:
            return None
        words = cls(table, index, most_bytes)
        try:
            words._load(db)
            query = Query(limit=0, where=None, columns=Columns(()))
            words.lists(words._state, Asked(db, ticket, table, clauses, (), query))
        except BaseException:
            words.close()
            raise
        return words

    def close(self) -> None:
        """End this, behind the searches that read changed rows. FTS5 answers later ones."""
        with self._lock:
            self.lost = True
            self._tokenizer.close()

    def clauses(self) -> list[Sought]:
        """Return the clauses whose lists were used last."""
        with self._lock:
            return list(self._lists)[-_READ_AGAIN:]

    def _load(self, db: sqlite3.Connection) -> None:
        """Read which rows the index has, and their lengths."""
        ids, sizes = db.execute(
            "SELECT group_concat(id), group_concat(hex(sz), '') "
            f"FROM (SELECT id, sz FROM {self.index.shadow('docsize')} ORDER BY id)"
        ).fetchone()
        columns = _varints(bytes.fromhex(sizes or "")).reshape(-1, len(self.index.columns))
        rowids, lengths = numbers_in(ids), columns.sum(axis=1).astype(np.uint32)
        part = _Part(
            object(),
            rowids,
            lengths,
            np.zeros(len(rowids), np.uint8),
            float(lengths.min()),
            ordered=True,
        )
        self._state = _State(
            newest_change(db), (part, _no_rows()), len(rowids), int(lengths.sum(dtype=np.int64))
        )

    @property
    def nbytes(self) -> int:
        rows = sum(part.count for part in self._state.segments)
        return self._bytes + self._masks.nbytes + _ROW_BYTES * rows + self._places_bytes

    @property
    def worn(self) -> bool:
        """True if enough has changed to begin again, before this cannot be used any more."""
        full = self._places_bytes > self._most_bytes * _FOR_CHANGED
        return self.lost or full or self._changed_rows > self._most_changed // 2

    @property
    def _changed_rows(self) -> int:
        return max(len(self._gone), self._state.segments[1].count)

    @property
    def _most_changed(self) -> int:
        return max(_MOST_CHANGED, int(self._state.segments[0].count * _SHARE_CHANGED))

    # A search

    def at(self, db: sqlite3.Connection, ticket: Ticket) -> WordsAt | None:
        """Return the words at the connection's snapshot; None if they cannot be used any more.

        OlderSnapshotError if another search has brought in newer changes.
        """
        replaced = serving(db, self._table) != self.index
        with self._lock:
            self.lost |= replaced
            return WordsAt(self, self._state) if self._advance(db, ticket) else None

    def lists(self, state: _State, asked: Asked) -> Lists | None:
        """Return the lists of a query at a state; None if FTS5 has to answer."""
        if any(len(clause.text) > _LONGEST_TEXT for clause in (*asked.wanted, *asked.unwanted)):
            return None
        # Mostly no row has changed: then the second part has none.
        parts = [part for part in state.segments if part.count]
        read: dict[Sought, _List] = {}
        while True:
            with self._lock:
                if self.lost:
                    return None
                tokens = {one: self._tokens_of(one) for one in (*asked.wanted, *asked.unwanted)}
                if any(len(each) > _LONGEST_PHRASE for each in tokens.values()):
                    return None
                # As in FTS5, a clause without a token is ignored.
                wanted = [clause for clause in asked.wanted if tokens[clause]]
                clauses = [*wanted, *(clause for clause in asked.unwanted if tokens[clause])]
                missing = [one for one in clauses if one not in read and self._lacks(state, one)]
                if not missing:
                    known = [
                        [self._list(state, part, clause, tokens, read) for clause in clauses]
                        for part in parts
                    ]
                    self._evict()  # not before all lists of the query were taken
                    break
            for clause in missing:  # without the lock, because a common word takes long
                read[clause] = self._read(asked, state, clause, tokens[clause])
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
            self._bytes += known.nbytes
        self._lists[clause] = known
        seen, having = known.seen, known.having
        if seen > state.gone:  # a newer search has counted
            seen, having = 0, len(known.rows)
        if seen < state.gone:
            gone = np.sort(np.array(self._gone[seen : state.gone], dtype=np.uint32))
            having -= len(positions_of(known.rows, gone))
            if known.seen < state.gone:
                known.seen, known.having = state.gone, having
        return known, having

    def _evict(self) -> None:
        """Remove the least recently used lists that the memory has no room for."""
        while self._bytes > self._most_bytes and self._lists:
            self._bytes -= self._lists.pop(next(iter(self._lists))).nbytes

    def _read(self, asked: Asked, state: _State, clause: Sought, tokens: Sequence[str]) -> _List:
        """Return the first part's list of a clause, from the index's places of words."""
        asked.ticket.check()
        words, part = f"temp.{quoted(f'{self.index.fts} words')}", state.segments[0]
        asked.db.execute(
            f"CREATE VIRTUAL TABLE IF NOT EXISTS {words} "
            f"USING fts5vocab(main, {self.index.table}, instance)"
        )
        phrase = len(tokens) > 1
        rows, counts, keys = (np.empty(0, dtype=np.int64) for _ in range(3))
        for place, token in enumerate(tokens):
            condition, values = "term = ?", [token]
            if clause.prefix and place == len(tokens) - 1:
                condition, values = "term >= ? AND term <= ?", [token, f"{token}\U0010ffff"]
            if clause.columns:
                condition += f" AND col IN ({', '.join('?' * len(clause.columns))})"
                values += clause.columns
            for start in count(0, _PLACES):
                docs, *where = asked.db.execute(
                    f"SELECT group_concat(doc){_WHERE if phrase else ''} FROM (SELECT "
                    f"doc{', col, offset' if phrase else ''} FROM {words} WHERE {condition} "
                    f"LIMIT {_PLACES} OFFSET {start})",
                    values,
                ).fetchone()
                found = numbers_in(docs)
                full = len(found) == _PLACES
                if full and phrase:
                    return _List(*_no_matches(), state.gone, too_long=True)
                found, present = part.numbers(found)
                if phrase:
                    column, offset = (numbers_in(text)[present] for text in where)
                    found = self._keys(found, column, offset) - place
                    keys = found if not place else np.intersect1d(keys, found, assume_unique=True)
                else:
                    rows, counts = _added(rows, counts, *np.unique(found, return_counts=True))
                if not full:
                    break
        if phrase:
            rows, counts = np.unique(self._rows_of(keys), return_counts=True)
        return _list_of(rows, counts, state.gone, len(rows))

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

    def _tokens_of(self, clause: Sought) -> list[str]:
        """Return the tokens of a clause as the index has them."""
        known = self._tokens.get(clause.text)
        if known is None:
            known = self._tokenizer.of_text(clause.text)
            if len(self._tokens) >= _MOST_KNOWN:
                self._tokens.clear()
            self._tokens[clause.text] = known
        return known

    # Changes

    def _advance(self, db: sqlite3.Connection, ticket: Ticket) -> bool:
        """Bring in what changed up to the snapshot; return False if that is too much."""
        state, change = self._state, newest_change(db)
        if self.lost or state.change == change:
            return not self.lost
        if state.change > change:
            raise OlderSnapshotError
        first, second = state.segments
        left = max(0, self._most_changed - self._changed_rows)
        changes = changes_since(db, self._table, state.change, left)
        if changes is None:
            self.lost = True
            return False
        if not len(changes[1]):  # another table changed
            self._state = replace(state, change=change)
            return True
        ticket.check()
        self.lost = True  # unless all of the following is done
        changed = np.unique(changes[1])
        rows, tokens = state.rows, state.tokens
        gone = first.numbers(changed)[0]
        gone = gone[first.gone[gone] == 0]
        old = [self._changed.pop(row) for row in changed.tolist() if row in self._changed]
        marked, marked_later = first.gone.copy(), second.gone.copy()
        marked[gone], marked_later[old] = 1, 1
        self._gone += gone.tolist()
        rows -= len(gone) + len(old)
        tokens -= int(first.lengths[gone].sum(dtype=np.int64))
        tokens -= int(second.lengths[old].sum(dtype=np.int64))
        brought = self._bring_in(db, changed, second.count)
        if brought is None:
            return False
        rowids, lengths = brought
        self._changed |= {row: number for number, row in enumerate(rowids.tolist(), second.count)}
        self._state = _State(
            change,
            (
                replace(first, gone=marked),
                _Part(
                    second.mark,
                    np.concatenate([second.rowids, rowids]),
                    np.concatenate([second.lengths, lengths]),
                    np.concatenate([marked_later, np.zeros(len(rowids), np.uint8)]),
                    shortest=0.0,
                    ordered=False,
                ),
            ),
            rows + len(rowids),
            tokens + int(lengths.sum(dtype=np.int64)),
            len(self._gone),
        )
        self.lost = False
        return True

    def _bring_in(
        self, db: sqlite3.Connection, changed: Int64Array, start: int
    ) -> tuple[Int64Array, UInt32Array] | None:
        """Keep the words of the changed rows that have text, under the next numbers.

        Return the rows and their lengths; None if they are too long.
        """
        rowids: list[int] = []
        texts: list[tuple[str | None, ...]] = []
        left = max(_MOST_CHARACTERS, _CHARACTERS_A_ROW * self._state.segments[0].count)
        for rowid, *row in db.execute(
            f"SELECT v._rowid, {', '.join(f'v.{name}' for name in self.index.columns)} "
            f"FROM json_each(?) AS j CROSS JOIN {self.index.view} AS v ON v._rowid = j.value",
            (json.dumps(changed.tolist()),),
        ):
            rowids.append(rowid)
            texts.append(tuple(row))
            left -= sum(len(text or "") for text in row)
            if left < 0:
                return None
        tokens = self._tokenizer.of_rows((n, *row) for n, row in enumerate(texts, start))
        keys, before = self._keys(tokens.rows, tokens.columns, tokens.places), len(self._places)
        for term, key in zip(tokens.terms, keys.tolist(), strict=True):
            places = self._places.get(term)
            if places is None:
                places = self._places[term] = array("q")
            places.append(key)
        self._places_bytes += _WORD_BYTES * (len(self._places) - before) + _PLACE_BYTES * len(keys)
        lengths = np.bincount(tokens.rows - start, minlength=len(rowids)).astype(np.uint32)
        return np.array(rowids, dtype=np.int64), lengths


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


def _list_of(rows: Int64Array, counts: Int64Array, gone: int, having: int) -> _List:
    kind = np.uint8 if not len(counts) or counts.max() < 256 else np.uint32
    return _List(rows.astype(np.uint32), counts.astype(kind), gone, having)


def _no_matches() -> tuple[UInt32Array, UInt8Array]:
    return np.zeros(0, np.uint32), np.zeros(0, np.uint8)


def _no_rows() -> _Part:
    return _Part(object(), np.zeros(0, np.int64), *_no_matches(), shortest=0.0, ordered=False)


def _added(
    rows: Int64Array, counts: Int64Array, more: Int64Array, more_counts: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Return sorted rows and their counts with those of the next places."""
    if not len(rows):
        return more, more_counts
    every, places = np.unique(np.concatenate([rows, more]), return_inverse=True)
    sums = np.bincount(places, np.concatenate([counts, more_counts]))
    return every, sums.astype(np.int64)


def _varints(data: bytes) -> Int64Array:
    """Return numbers of SQLite's format: seven bits to a byte, the highest first."""
    octets = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(octets < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    numbers = np.zeros(len(ends), dtype=np.int64)
    place = 0
    while len(inside := np.flatnonzero(starts + place <= ends)):
        numbers[inside] = (numbers[inside] << 7) | (octets[starts[inside] + place] & 127)
        place += 1
    return numbers


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
                address(part.lengths), part.shortest, self._mean, wanted, address(heap),
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
