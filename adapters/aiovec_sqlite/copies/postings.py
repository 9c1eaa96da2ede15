"""Postings: the rows of each word of a text index, in a scan file or in memory.

Postings never change.

``docs/internals/adr/0027-all-words-in-a-file.md`` describes the layout. Words are in the order of
their bytes, and rows are numbered in the order of their rowids.
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
from ..layout import TableLayout, newest_change, quoted
from ..sql.values import numbers_in
from ..text_index import TextIndex
from .scanfile import HEAD, NewFile, SpoiledFileError, digest_of, mapped

UInt32Array = npt.NDArray[np.uint32]
Counts = npt.NDArray[Any]
"""Match counts, of one or four bytes each."""

# Change this number when the layout changes.
_LAYOUT = 1
# The most word occurrences that are sorted together to make a block of several words.
_BLOCK = 8192
# The number of words read at a time.
_WORDS = 256
# A word with more occurrences than the first number is read separately; the second number is how
# many of its occurrences are read at a time, at about 35 bytes each.
_LONG, _READ = 2**20, 2**22
# The last Unicode character: a prefix followed by it sorts after all words with the prefix.
_LAST = "\U0010ffff".encode()


class _Sizes(NamedTuple):
    """The size of each part of the postings."""

    lists: int
    """The total size of the blocks in bytes."""
    rows: int
    blocks: int
    words: int
    letters: int

    @property
    def arrays(self) -> Mapping[str, tuple[np.dtype[Any], int]]:
        """The type and length of each small array, in file order."""
        return {
            "rowids": (np.dtype("i8"), self.rows), "blocks": (np.dtype("i8"), 4 * self.blocks),
            "starts": (np.dtype("i8"), self.words + 1), "ends": (np.dtype("u4"), self.words + 1),
            "lengths": (np.dtype("u4"), self.rows), "letters": (np.dtype("u1"), self.letters),
        }  # fmt: skip

    @property
    def small(self) -> int:
        """The total size of the small arrays in bytes."""
        return sum(kind.itemsize * count for kind, count in self.arrays.values())


class Postings:
    """The rows of each word, with match counts, and the length of each row in words."""

    def __init__(self, change: int, lists: Any, small: Any, sizes: _Sizes) -> None:
        self.change = change
        """The change number of the snapshot that the postings were made from."""
        self.mapped = isinstance(lists, mmap.mmap)
        self._lists = memoryview(lists)[HEAD if self.mapped else 0 :]
        arrays, start = dict[str, Any](), 0
        for name, (kind, count) in sizes.arrays.items():
            arrays[name] = np.frombuffer(small, kind, count, start)
            start += kind.itemsize * count
        self.rowids: Int64Array = arrays["rowids"]
        self.lengths: UInt32Array = arrays["lengths"]
        # Per block: the first posting's number, the offset, the bytes of a count, the checksum.
        self._blocks: Int64Array = arrays["blocks"].reshape(-1, 4)
        self._first = np.append(self._blocks[:, 0], arrays["starts"][-1])
        # Reading a single item takes half as long from a memoryview as from an array.
        self._starts, self._ends = memoryview(arrays["starts"]), memoryview(arrays["ends"])
        self._letters = memoryview(arrays["letters"])
        self._checked = bytearray(len(self._blocks))
        self._size = sizes.lists + sizes.small

    @property
    def nbytes(self) -> int:
        """The size of the private memory in bytes."""
        return 0 if self.mapped else self._size

    @property
    def file_bytes(self) -> int:
        """The size of the mapped file's contents in bytes; 0 without a file."""
        return self._size if self.mapped else 0

    def of_word(self, token: str) -> tuple[UInt32Array, Counts]:
        """Return a word's rows and match counts."""
        word = token.encode()
        place = self._place(word)
        if place == len(self._ends) - 1 or self._word(place) != word:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint8)
        return next(self._between(self._starts[place], self._starts[place + 1]))

    def of_prefix(self, token: str) -> tuple[UInt32Array, Counts]:
        """Return the rows of all words that begin with the token, and their total match counts."""
        first, last = self._place(token.encode()), self._place(token.encode() + _LAST)
        sums = np.zeros(len(self.rowids), dtype=np.uint32)
        for rows, counts in self._between(self._starts[first], self._starts[last]):
            np.add.at(sums, rows, counts)
        return as_list(sums)

    def check(self) -> None:
        """Compare all blocks with their checksums; raise SpoiledFileError if a checksum differs."""
        for _ in self._between(0, int(self._first[-1])):
            pass

    def _word(self, place: int) -> bytes:
        return bytes(self._letters[self._ends[place] : self._ends[place + 1]])

    def _place(self, word: bytes) -> int:
        """Return how many words sort before this word."""
        return bisect_left(range(len(self._ends) - 1), word, key=self._word)

    def _between(self, start: int, end: int) -> Iterator[tuple[UInt32Array, Counts]]:
        """Yield rows and match counts of the postings from ``start`` to ``end``, block by block."""
        number = int(np.searchsorted(self._first, start, side="right")) - 1
        while start < end:
            first, place, width, checksum = self._blocks[number].tolist()
            count = int(self._first[number + 1]) - first
            block = self._lists[place : place + count * (4 + width)]
            if not self._checked[number]:
                if zlib.crc32(block) != checksum:
                    raise SpoiledFileError
                self._checked[number] = 1
            part = slice(start - first, min(end - first, count))
            rows = np.frombuffer(block, np.uint32, count)
            counts = np.frombuffer(block, np.uint8 if width == 1 else np.uint32, count, 4 * count)
            yield rows[part], counts[part]
            start, number = first + count, number + 1


def rows_of(
    db: sqlite3.Connection, docsize: str, columns: int, start: int = -(2**63)
) -> tuple[Int64Array, UInt32Array]:
    """Return the ids in FTS5's docsize table from ``start`` on, and their rows' word counts."""
    ids, sizes = db.execute(
        "SELECT group_concat(id), group_concat(hex(sz), '') "
        f"FROM (SELECT id, sz FROM {docsize} WHERE id >= ? ORDER BY id)",
        (start,),
    ).fetchone()
    by_column = varints(bytes.fromhex(sizes or "")).reshape(-1, columns)
    return numbers_in(ids), by_column.sum(axis=1).astype(np.uint32)


def vocabulary(db: sqlite3.Connection, index: TextIndex, kind: str = "instance") -> str:
    """Return the name of an fts5vocab table of the index; create the table if necessary.

    The table has a row per occurrence of a word ("instance"), or per word ("row").
    """
    name = f"temp.{quoted(f'{index.fts} {kind}')}"
    db.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {name} USING fts5vocab(main, {index.table}, {kind})"
    )
    return name


def counted(
    db: sqlite3.Connection,
    ticket: Ticket,
    words: str,
    condition: str,
    values: Sequence[Any],
    docs: Int64Array,
) -> tuple[UInt32Array, Counts]:
    """Count word occurrences that meet a condition; return the rows that have any, and the counts.

    ``words`` is the fts5vocab table. ``docs`` has the rows' ids in that table, by row number.
    """
    sums = np.zeros(len(docs), dtype=np.int64)
    sql = (
        f"SELECT group_concat(doc) FROM "
        f"(SELECT doc FROM {words} WHERE {condition} LIMIT {_READ} OFFSET ?)"
    )
    for start in itertools.count(0, _READ):
        ticket.check()
        places = numbers_in(db.execute(sql, (*values, start)).fetchone()[0])
        if len(places):
            sums += np.bincount(numbers_of(places, docs)[0], minlength=len(docs))
        if len(places) < _READ:
            break
    return as_list(sums)


def as_list(sums: npt.NDArray[np.integer[Any]]) -> tuple[UInt32Array, Counts]:
    """Given the match counts of all rows, return the rows that have matches, and their counts."""
    (rows,) = sums.nonzero()
    return rows.astype(np.uint32), narrowed(sums[rows])


def narrowed(counts: npt.NDArray[Any]) -> Counts:
    """Return match counts in one byte each, or in four if a count needs more."""
    return counts.astype(np.uint8 if counts.max(initial=0) < 256 else np.uint32)


def numbers_of(docs: Int64Array, rowids: Int64Array) -> tuple[Int64Array, BoolArray]:
    """Return the positions in ``rowids`` of the ``docs`` found there, and a mask of these docs."""
    if not len(rowids):
        return docs[:0], np.zeros(len(docs), dtype=np.bool_)
    numbers = rowids.searchsorted(docs)
    present: BoolArray = rowids.take(numbers, mode="clip") == docs
    return numbers[present], present


def make_postings(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    index: TextIndex,
    rows: tuple[Int64Array, UInt32Array],
    file: NewFile | None,
) -> Postings:
    """Make postings of this snapshot in the new scan ``file`` or, without it, in private memory."""
    change, lists = newest_change(db), bytearray()
    if file is None:
        small, sizes = _write(db, ticket, index, rows, lists.extend)
        return Postings(change, bytes(lists), small, sizes)
    file.write(bytes(HEAD), 0)  # room for the head
    small, sizes = _write(db, ticket, index, rows, file.write)
    file.write(small)
    file.seal(_facts(table, index, change, sizes, digest_of(small)))
    return read_postings(file.number, file.token, table, index)


def read_postings(
    number: int, token: str, table: TableLayout, index: TextIndex, *, whole: bool = False
) -> Postings:
    """Return the postings in an open file.

    Raises an exception, such as ValueError, if the file is unusable.
    """
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
    """Write all blocks with ``put``; return the small arrays' bytes and all sizes."""
    rowids, lengths = rows
    letters, ends, sizes = bytearray(), [0], list[Int64Array]()
    blocks, place, postings = list[tuple[int, int, int, int]](), 0, 0
    for words, of_word, numbers, counts in _blocks(db, ticket, index, rowids):
        for word in words:
            letters += word
            ends.append(len(letters))
        sizes.append(np.bincount(of_word, minlength=len(words)))
        width = 1 if counts.max() < 256 else 4
        block = numbers.astype(np.uint32).tobytes()
        block += counts.astype(np.uint8 if width == 1 else np.uint32).tobytes()
        blocks.append((postings, place, width, zlib.crc32(block)))
        block += bytes(-len(block) % 4)
        put(block)
        place, postings = place + len(block), postings + len(numbers)
    if place % 8:  # the next arrays have items of eight bytes
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
    """Yield each block's words, and for each posting, its word's number in the block, its row and
    its match count."""
    instances = vocabulary(db, index)
    sql = f"SELECT term FROM {vocabulary(db, index, 'row')} WHERE cnt > ?"
    long = [term for (term,) in db.execute(sql, (_LONG,)).fetchall()]
    doc = f"CASE WHEN term NOT IN ({', '.join('?' * len(long))}) THEN doc END" if long else "doc"
    cursor = db.execute(
        f"SELECT CAST(term AS BLOB), count({doc}), group_concat({doc}) "
        f"FROM {instances} GROUP BY term",
        (*long, *long),
    )
    words, numbers, docs, places = list[bytes](), list[int](), list[str](), 0
    while batch := cursor.fetchmany(_WORDS):
        ticket.check()
        for word, number, text in batch:
            if words and (not number or places + number > _BLOCK):
                yield words, *_postings(numbers, numbers_in(",".join(docs)), rowids)
                words, numbers, docs, places = [], [], [], 0
            if number:
                words.append(word)
                numbers.append(number)
                docs.append(text)
                places += number
            else:
                rows, counts = counted(db, ticket, instances, "term = ?", [word.decode()], rowids)
                of_word = np.zeros(len(rows), np.int64)
                yield [word], of_word, rows.astype(np.int64), counts.astype(np.int64)
    if words:
        yield words, *_postings(numbers, numbers_in(",".join(docs)), rowids)


def _postings(
    numbers: Sequence[int], docs: Int64Array, rowids: Int64Array
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the postings of words in the form that ``_blocks`` yields.

    ``numbers`` has each word's number of occurrences, and ``docs`` the row id of each occurrence.
    """
    words = np.repeat(np.arange(len(numbers)), numbers)
    rows, present = numbers_of(docs, rowids)
    if not present.all():
        raise LookupError("a word has a row that the index does not have")
    keys = words * len(rowids) + rows
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return words[first], rows[first], np.diff(np.append(first, len(keys)))


def varints(data: bytes) -> Int64Array:
    """Decode SQLite's variable-length integers: seven bits per byte, most significant first."""
    octets = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(octets < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    numbers = np.zeros(len(ends), dtype=np.int64)
    place = 0
    while len(inside := np.flatnonzero(starts + place <= ends)):
        numbers[inside] = (numbers[inside] << 7) | (octets[starts[inside] + place] & 127)
        place += 1
    return numbers
