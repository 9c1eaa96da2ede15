"""The rows of all words of a text index, which lie in a scan file or in memory and never change.

``docs/internals/adr/0027-all-words-in-a-file.md`` describes the layout. Words are in the order of
their bytes, rows are numbered in the order of their rowids.
"""

from __future__ import annotations

import itertools
import mmap
import sqlite3
import sys
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Int64Array

from ..connection import Ticket
from ..layout import TableLayout, quoted
from ..sql.values import numbers_in
from ..text_index import TextIndex
from .scanfile import HEAD, NewFile, SpoiledFileError, digest_of, mapped

UInt32Array = npt.NDArray[np.uint32]
Counts = npt.NDArray[Any]
"""Of one byte each, or of four."""

# A change of the layout gets another number.
_LAYOUT = 1
# Places of words that are sorted at a time, which become a block.
_BLOCK = 8192
# Words that are read at a time.
_WORDS = 256
# A word of more places is read by itself; and the places that are read at a time, which takes about
# 35 bytes for each.
_LONG, _READ = 2**20, 2**22
# The last character, behind all words that begin in the same way.
_LAST = "\U0010ffff".encode()


class _Sizes(NamedTuple):
    """The sizes of all parts."""

    lists: int
    """Bytes of all blocks."""
    rows: int
    blocks: int
    words: int
    letters: int

    @property
    def arrays(self) -> Mapping[str, tuple[np.dtype[Any], int]]:
        """The types and lengths of the small arrays, in their order."""
        return {
            "rowids": (np.dtype("i8"), self.rows), "blocks": (np.dtype("i8"), 4 * self.blocks),
            "starts": (np.dtype("i8"), self.words + 1), "ends": (np.dtype("u4"), self.words + 1),
            "lengths": (np.dtype("u4"), self.rows), "letters": (np.dtype("u1"), self.letters),
        }  # fmt: skip

    @property
    def small(self) -> int:
        """Bytes of the small arrays."""
        return sum(kind.itemsize * count for kind, count in self.arrays.values())


class Postings:
    """The rows and their lengths in words, and for each word its rows and counts of matches."""

    def __init__(self, change: int, lists: Any, small: Any, sizes: _Sizes) -> None:
        self.change = change
        """The change number of the snapshot that they were made from."""
        self.mapped = isinstance(lists, mmap.mmap)
        self._lists = memoryview(lists)[HEAD if self.mapped else 0 :]
        arrays, start = dict[str, Any](), 0
        for name, (kind, count) in sizes.arrays.items():
            arrays[name] = np.frombuffer(small, kind, count, start)
            start += kind.itemsize * count
        self.rowids: Int64Array = arrays["rowids"]
        self.lengths: UInt32Array = arrays["lengths"]
        # Of each block: its first posting, its place, the bytes of a count, and its checksum.
        self._blocks: Int64Array = arrays["blocks"].reshape(-1, 4)
        self._first = np.append(self._blocks[:, 0], arrays["starts"][-1])
        # Each is looked at alone, which takes half as long in a view as in an array.
        self._starts, self._ends = memoryview(arrays["starts"]), memoryview(arrays["ends"])
        self._letters = memoryview(arrays["letters"])
        self._checked = bytearray(len(self._blocks))
        self._size = sizes.lists + sizes.small

    @property
    def nbytes(self) -> int:
        """Private bytes."""
        return 0 if self.mapped else self._size

    @property
    def size(self) -> int:
        """Bytes in the file or in memory."""
        return self._size

    def of_word(self, token: str) -> tuple[UInt32Array, Counts]:
        """Return the rows and counts of a word."""
        word = token.encode()
        place = self._place(word)
        if place == len(self._ends) - 1 or self._word(place) != word:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint8)
        return next(self._between(self._starts[place], self._starts[place + 1]))

    def of_prefix(self, token: str) -> tuple[UInt32Array, Counts]:
        """Return the same of all words that begin with it together."""
        first, last = self._place(token.encode()), self._place(token.encode() + _LAST)
        sums = np.zeros(len(self.rowids), dtype=np.uint32)
        for rows, counts in self._between(self._starts[first], self._starts[last]):
            np.add.at(sums, rows, counts)
        return _as_list(sums)

    def check(self) -> None:
        """Compare all blocks with their checksums."""
        for _ in self._between(0, int(self._first[-1])):
            pass

    def _word(self, place: int) -> bytes:
        return bytes(self._letters[self._ends[place] : self._ends[place + 1]])

    def _place(self, word: bytes) -> int:
        """Return the number of words before this one."""
        return bisect_left(range(len(self._ends) - 1), word, key=self._word)

    def _between(self, start: int, end: int) -> Iterator[tuple[UInt32Array, Counts]]:
        """Yield the postings between two places, block by block."""
        number = int(np.searchsorted(self._first, start, side="right")) - 1
        while start < end:
            first, place, width, checksum = self._blocks[number].tolist()
            count = int(self._first[number + 1]) - first
            block = self._lists[place : place + count * (4 + width)]
            if not self._checked[number]:
                if zlib.crc32(block) != checksum:
                    raise SpoiledFileError
                self._checked[number] = 1
            some = slice(start - first, min(end - first, count))
            rows = np.frombuffer(block, np.uint32, count)
            counts = np.frombuffer(block, np.uint8 if width == 1 else np.uint32, count, 4 * count)
            yield rows[some], counts[some]
            start, number = first + count, number + 1


def rows_of(db: sqlite3.Connection, index: TextIndex) -> tuple[Int64Array, UInt32Array]:
    """Return the rows of an index, and their lengths in words."""
    ids, sizes = db.execute(
        "SELECT group_concat(id), group_concat(hex(sz), '') "
        f"FROM (SELECT id, sz FROM {index.shadow('docsize')} ORDER BY id)"
    ).fetchone()
    columns = _varints(bytes.fromhex(sizes or "")).reshape(-1, len(index.columns))
    return numbers_in(ids), columns.sum(axis=1).astype(np.uint32)


def vocabulary(db: sqlite3.Connection, index: TextIndex, kind: str = "instance") -> str:
    """Return the name of a table of the index's words: all places, or one row for each word."""
    name = f"temp.{quoted(f'{index.fts} {kind}')}"
    db.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {name} USING fts5vocab(main, {index.table}, {kind})"
    )
    return name


def counted(
    db: sqlite3.Connection,
    ticket: Ticket,
    index: TextIndex,
    condition: str,
    values: Sequence[Any],
    rowids: Int64Array,
) -> tuple[UInt32Array, Counts]:
    """Return which of the rows have places that a condition selects, and how many each has."""
    sums = np.zeros(len(rowids), dtype=np.uint32)
    sql = (
        f"SELECT group_concat(doc) FROM (SELECT doc FROM {vocabulary(db, index)} "
        f"WHERE {condition} LIMIT {_READ} OFFSET ?)"
    )
    for start in itertools.count(0, _READ):
        ticket.check()
        docs = numbers_in(db.execute(sql, (*values, start)).fetchone()[0])
        np.add.at(sums, numbers_of(docs, rowids)[0], 1)
        if len(docs) < _READ:
            break
    return _as_list(sums)


def _as_list(sums: UInt32Array) -> tuple[UInt32Array, Counts]:
    rows = np.flatnonzero(sums).astype(np.uint32)
    counts = sums[rows]
    return rows, counts.astype(np.uint8) if counts.max(initial=0) < 256 else counts


def numbers_of(docs: Int64Array, rowids: Int64Array) -> tuple[Int64Array, BoolArray]:
    """Return the numbers of the rows with these ids, and which of the ids are among the rows."""
    if not len(rowids):
        return docs[:0], np.zeros(len(docs), dtype=np.bool_)
    numbers = np.minimum(np.searchsorted(rowids, docs), len(rowids) - 1)
    present: BoolArray = rowids[numbers] == docs
    return numbers[present], present


def in_memory(
    db: sqlite3.Connection,
    ticket: Ticket,
    index: TextIndex,
    change: int,
    rows: tuple[Int64Array, UInt32Array],
) -> Postings:
    """Make postings in private memory."""
    lists = bytearray()
    small, sizes = _write(db, ticket, index, rows, lists.extend)
    return Postings(change, bytes(lists), small, sizes)


def in_file(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    index: TextIndex,
    change: int,
    rows: tuple[Int64Array, UInt32Array],
    file: NewFile,
) -> Postings:
    """Make postings in a new scan file."""
    file.seek(HEAD)
    small, sizes = _write(db, ticket, index, rows, file.write)
    file.write(small)
    file.seal(_facts(table, index, change, sizes, digest_of(small)))
    return read_postings(file.number, file.token, table, index)


def read_postings(
    number: int, token: str, table: TableLayout, index: TextIndex, *, whole: bool = False
) -> Postings:
    """Return the postings in an open file; ValueError, for one, if it does not count."""
    area, facts = mapped(number, token)
    change, digest, sizes = facts["change"], facts["digest"], _Sizes(*facts["sizes"])
    if not all(type(fact) is int and fact >= 0 for fact in (change, *sizes)):
        raise ValueError("the change number or the sizes")
    if facts != _facts(table, index, change, sizes, digest):
        raise ValueError("another table or index")
    begin = HEAD + sizes.lists
    if len(area) != begin + sizes.small:
        raise ValueError("another length")
    small = memoryview(area)[begin:]
    if digest_of(small) != digest:
        raise ValueError("the small arrays")
    postings = Postings(change, area, small, sizes)
    if whole:
        postings.check()
    return postings


def _facts(
    table: TableLayout, index: TextIndex, change: int, sizes: _Sizes, digest: str
) -> dict[str, Any]:
    return {
        "holds": "words", "layout": _LAYOUT, "bytes": sys.byteorder, "epoch": table.epoch,
        "index": index.fts, "columns": len(index.columns), "change": change,
        "sizes": list(sizes), "digest": digest,
    }  # fmt: skip


def _write(
    db: sqlite3.Connection,
    ticket: Ticket,
    index: TextIndex,
    rows: tuple[Int64Array, UInt32Array],
    put: Callable[[bytes], object],
) -> tuple[bytes, _Sizes]:
    """Put all blocks; return the small arrays and the sizes."""
    rowids, lengths = rows
    letters, ends, sizes = bytearray(), [0], list[Int64Array]()
    blocks, place, postings = list[tuple[int, int, int, int]](), 0, 0
    for words, of_word, found, counts in _blocks(db, ticket, index, rowids):
        for word in words:
            letters += word
            ends.append(len(letters))
        sizes.append(np.bincount(of_word, minlength=len(words)))
        width = 1 if counts.max() < 256 else 4
        block = found.astype(np.uint32).tobytes()
        block += counts.astype(np.uint8 if width == 1 else np.uint32).tobytes()
        blocks.append((postings, place, width, zlib.crc32(block)))
        block += bytes(-len(block) % 4)
        put(block)
        place, postings = place + len(block), postings + len(found)
    if place % 8:  # the arrays behind them are of eight bytes each
        put(bytes(4))
        place += 4
    of_words = np.concatenate([*sizes, np.empty(0, np.int64)])
    if not (of_words.sum() == postings and len(letters) < 2**32):
        raise OverflowError("the words have too many letters")
    arrays: dict[str, Sequence[Any] | npt.NDArray[Any]] = {
        "rowids": rowids, "blocks": np.array(blocks, np.int64).reshape(-1),
        "starts": np.concatenate([[0], np.cumsum(of_words)]), "ends": ends,
        "lengths": lengths, "letters": np.frombuffer(letters, np.uint8),
    }  # fmt: skip
    parts = _Sizes(place, len(rowids), len(blocks), len(of_words), len(letters))
    small = (np.asarray(arrays[name], kind).tobytes() for name, (kind, _) in parts.arrays.items())
    return b"".join(small), parts


def _blocks(
    db: sqlite3.Connection, ticket: Ticket, index: TextIndex, rowids: Int64Array
) -> Iterator[tuple[list[bytes], Int64Array, Int64Array, Int64Array]]:
    """Yield words, and for each posting the word's number among these, the row, and its count."""
    by_word = vocabulary(db, index, "row")
    sql = f"SELECT term FROM {by_word} WHERE cnt > ?"
    long = [term for (term,) in db.execute(sql, (_LONG,)).fetchall()]
    doc = f"CASE WHEN term NOT IN ({', '.join('?' * len(long))}) THEN doc END" if long else "doc"
    cursor = db.execute(
        f"SELECT CAST(term AS BLOB), count({doc}), group_concat({doc}) "
        f"FROM {vocabulary(db, index)} GROUP BY term",
        (*long, *long),
    )
    words, numbers, docs, held = list[bytes](), list[int](), list[str](), 0
    while some := cursor.fetchmany(_WORDS):
        ticket.check()
        for word, number, text in some:
            if words and (not number or held + number > _BLOCK):
                yield words, *_postings(numbers, numbers_in(",".join(docs)), rowids)
                words, numbers, docs, held = [], [], [], 0
            if number:
                words.append(word)
                numbers.append(number)
                docs.append(text)
                held += number
            else:
                found, counts = counted(db, ticket, index, "term = ?", [word.decode()], rowids)
                of_word = np.zeros(len(found), np.int64)
                yield [word], of_word, found.astype(np.int64), counts.astype(np.int64)
    if words:
        yield words, *_postings(numbers, numbers_in(",".join(docs)), rowids)


def _postings(
    numbers: Sequence[int], docs: Int64Array, rowids: Int64Array
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the postings of words with so many places in these rows, as ``_blocks`` does."""
    words = np.repeat(np.arange(len(numbers)), numbers)
    rows, present = numbers_of(docs, rowids)
    if not present.all():
        raise LookupError("a word has a row that the index does not have")
    keys = words * len(rowids) + rows
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return words[first], rows[first], np.diff(np.append(first, len(keys)))


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
