"""Rows of a JSON body, parsed piece by piece while it comes.

A parser of JSON holds up every other thread while it runs, so none gets a whole body. And rows of
Python's floats take five times the room of their text, so their vectors become arrays at once.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, Protocol

import numpy as np
import pydantic_core

from aiovec.backend import in_thread

from .bounds import check_rows
from .problems import RequestError

# Bytes that are parsed at once: under a millisecond.
PIECE = 128 * 1024
# A row whose text is longer is refused. It would be parsed in one go.
LONGEST_ROW = 16 * 2**20
# Lists of so many floats become arrays.
_MANY = 16
# Ends of a row that are tried before more of the body is waited for.
_TRIES = 3

Rows = list[Any]


def load(text: bytes | bytearray) -> Any:
    """Return the value of a JSON text."""
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as exc:
        raise RequestError(400, f"the body is not JSON: {exc}") from exc


_VECTORS = re.compile(rb'"vectors"\s*:\s*\[')
_NEXT = re.compile(rb"\]\s*,\s*\[")


def load_large(text: bytearray) -> Any:
    """Return the value of a JSON text; a long list of ``vectors`` in it is parsed in pieces.

    A piece of the list ends where what was cut off is JSON within ``[`` and ``]``, as in
    ``JsonArray``. Anything that is not as expected is left to the parser as a whole.
    """
    begin = _VECTORS.search(text, 0, PIECE)
    if begin is None or text.find(b'"vectors"', begin.end()) >= 0:
        return load(text)
    head, place = text[: begin.end()], begin.end()
    found: Rows = []
    try:
        # The list is a value of the outermost object, and no part of a text.
        pydantic_core.from_json(head + b"]}", allow_inf_nan=False)
        while (cut := _NEXT.search(text, place + PIECE)) is not None:
            piece = b"[" + text[place : cut.start() + 1] + b"]"
            found += map(_compact, pydantic_core.from_json(piece, allow_inf_nan=False))
            place = cut.end() - 1
    except ValueError:
        return load(text)
    if not found or text.find(b"\\u", place) >= 0:  # the key once more, written in another way
        return load(text)
    value = load(head + text[place:])
    value["vectors"][:0] = found
    return value


class Splitter(Protocol):
    """Takes a body as it comes and gives the rows of it that are complete."""

    def feed(self, data: bytes) -> None: ...
    def rows(self, *, last: bool) -> Rows: ...
    @property
    def waits(self) -> bool: ...


async def rows_in(body: AsyncIterator[bytes], splitter: Splitter) -> Rows:
    """Return the rows of a body."""
    found: Rows = []
    async for data in body:
        splitter.feed(data)
        if not splitter.waits:
            found += await in_thread(lambda: splitter.rows(last=False))
            check_rows(len(found))
    found += await in_thread(lambda: splitter.rows(last=True))
    check_rows(len(found))
    return found


class JsonArray:
    """Splits the text of a JSON array of objects.

    A ``}`` before a comma may be the end of a row, or lie within one, or within a text. It is the
    end exactly if what stands before it, with ``[`` and ``]`` around it, is JSON: a parser has one
    state at each place of a text.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._wanted = PIECE
        self._count = 0
        self._begun = False

    @property
    def waits(self) -> bool:
        return len(self._text) < self._wanted

    def feed(self, data: bytes) -> None:
        self._text += data
        if self._wanted > LONGEST_ROW and not self.waits:
            raise RequestError(
                413,
                f"the record at place {self._count} takes more than {LONGEST_ROW:,} bytes, or the "
                "body is no list of records",
            )

    def rows(self, *, last: bool) -> Rows:
        if last:
            return self._last()
        self._begin()
        end = len(self._text)
        for _ in range(_TRIES):
            end = self._text.rfind(b"}", 0, end)
            if end < 0:
                break
            comma = end + 1
            while self._text[comma : comma + 1].isspace():
                comma += 1
            if self._text[comma : comma + 1] != b",":
                continue
            try:
                rows = pydantic_core.from_json(
                    b"[" + self._text[: end + 1] + b"]", allow_inf_nan=False
                )
            except ValueError:
                continue
            del self._text[: comma + 1]
            self._wanted = PIECE
            self._count += len(rows)
            return compact(rows)
        # Far more is waited for, so that all tries together take no longer than twice the text.
        self._wanted = 2 * len(self._text)
        return []

    def _begin(self) -> None:
        if not self._begun:
            text = self._text.lstrip(b" \t\r\n")
            if not text.startswith(b"["):
                raise RequestError(422, "the body has to be a list of records: [{...}, ...]")
            self._text = text[1:]
            self._begun = True

    def _last(self) -> Rows:
        if not self._begun:
            rows = load(self._text)
            if type(rows) is not list:
                raise RequestError(422, "the body has to be a list of records: [{...}, ...]")
            return compact(rows)
        if self._text.lstrip(b" \t\r\n")[:1] == b"]":
            raise RequestError(400, "the body is not JSON: a comma stands before the last ]")
        try:
            rows = pydantic_core.from_json(b"[" + self._text, allow_inf_nan=False)
        except ValueError as exc:
            raise RequestError(
                400, f"the body is not JSON, from the record at place {self._count} on: {exc}"
            ) from exc
        return compact(rows)


class JsonLines:
    """Splits JSON Lines: an object on each line. Empty lines are passed over."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._number = 0

    @property
    def waits(self) -> bool:
        return len(self._text) < PIECE

    def feed(self, data: bytes) -> None:
        self._text += data
        if len(self._text) > LONGEST_ROW and self._text.rfind(b"\n") < 0:
            raise RequestError(
                413, f"line {self._number + 1} takes more than {LONGEST_ROW:,} bytes"
            )

    def rows(self, *, last: bool) -> Rows:
        end = len(self._text) if last else self._text.rfind(b"\n") + 1
        lines = bytes(self._text[:end]).split(b"\n")
        if not last:
            lines.pop()
        del self._text[:end]
        found = []
        for line in lines:
            self._number += 1
            if not line or line.isspace():
                continue
            try:
                row = pydantic_core.from_json(line, allow_inf_nan=False)
            except ValueError as exc:
                raise RequestError(400, f"line {self._number} is not JSON: {exc}") from exc
            if type(row) is not dict:
                raise RequestError(422, f"line {self._number} is no JSON object")
            found.append(row)
        return compact(found)


def compact(rows: Rows) -> Rows:
    """Put arrays in the place of long lists of floats."""
    for row in rows:
        if type(row) is dict:
            for name, value in row.items():
                row[name] = _compact(value)
    return rows


def _compact(value: Any) -> Any:
    # Whole numbers stay: in the payload they are not floats.
    if type(value) is list and len(value) >= _MANY and set(map(type, value)) == {float}:
        return np.array(value, dtype=np.float64)
    return value
