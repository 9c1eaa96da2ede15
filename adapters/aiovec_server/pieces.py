"""Rows of a JSON body, parsed piece by piece while it comes.

A parser of JSON holds up every other thread while it runs, so none gets a whole body. And rows of
Python's floats take five times the room of their text, so their vectors become arrays at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from typing import Any, Protocol

import numpy as np
import pydantic_core

from aiovec._http import large_json
from aiovec._http.large_json import TooMuchAtOnceError, check_at_once, load_in_pieces, work_of
from aiovec.backend import LossyJsonError, read_json
from aiovec.backend.threads import in_thread
from aiovec.errors import InvalidArgumentError

from .bounds import check_rows, check_work
from .problems import RequestError

# Lists of so many floats become arrays.
_MANY = 16
# Ends of a row that are tried before more of the body is waited for, or before a row is refused.
_TRIES = 3
_HALVINGS = 30
# A text in which keys that come twice are looked for: that takes ten milliseconds.
_LONGEST_LOOKED_AT, _MOST_KEYS = 512 * 1024, 15_000
_COMMA = re.compile(rb"\s*,")
_KEY_END = re.compile(rb'"\s*:')

Rows = list[Any]


def load(text: bytes | bytearray) -> Any:
    """Return the value of a JSON text that is small."""
    try:
        return _parse(text)
    except ValueError as exc:
        raise RequestError(400, f"the body is not JSON: {exc}") from exc


def load_large(text: bytearray) -> Any:
    """Return the value of a JSON text, whose long lists are parsed in pieces."""
    try:
        return load_in_pieces(text, _parse, item=_compact, count=check_rows)
    except InvalidArgumentError:
        raise
    except ValueError as exc:
        raise RequestError(400, f"the body is not JSON: {exc}") from exc
    except TooMuchAtOnceError:
        raise RequestError(413, f"the body {_TOO_MUCH}") from None


def _parse(text: bytes | bytearray) -> Any:
    value = pydantic_core.from_json(text, allow_inf_nan=False)
    _check_kept(text, value)
    return value


def _check_kept(text: bytes | bytearray, value: Any) -> None:
    """Refuse what a parser does not keep: a key that came twice, a number such as 1e400.

    In a text of one large row a second key is not looked for: that would hold up other threads.
    """
    keys = 0
    waiting = [value]
    for item in waiting:
        parts = item
        if type(item) is dict:
            keys += len(item)
            parts = item.values()
        elif type(item) is not list:
            parts = [item]
        kinds = set(map(type, parts))
        if float in kinds and (math.inf in parts or -math.inf in parts):
            raise RequestError(422, "the body has a number beyond those of float64")
        if dict in kinds or list in kinds:
            waiting += [part for part in parts if type(part) is dict or type(part) is list]
    # As many keys as ends of keys are proof that none was lost. A text may hold such an end, too.
    if len(text) > _LONGEST_LOOKED_AT or keys > _MOST_KEYS:
        return
    if keys != len(_KEY_END.findall(text)):
        try:
            read_json(text.decode())
        except LossyJsonError as exc:
            raise RequestError(422, f"the body is ambiguous: {exc}") from None


_TOO_MUCH = (
    f"takes more than {large_json.LONGEST:,} bytes, or holds more values than can be read at once; "
    "send it in parts"
)


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
        self._wanted = large_json.PIECE
        self._count = 0
        self._work = 0
        self._begun = False

    @property
    def waits(self) -> bool:
        return len(self._text) < self._wanted

    def feed(self, data: bytes) -> None:
        self._text += data
        if self._wanted > large_json.LONGEST and not self.waits:
            raise self._too_large()

    def rows(self, *, last: bool) -> Rows:
        found: Rows = []
        self._begin(last=last)
        while len(self._text) > large_json.PIECE:
            if last:
                self._wanted = min(self._wanted, len(self._text))
            if self.waits:
                break
            rows = self._first_rows()
            if last and not rows and self._wanted > len(self._text):
                break
            found += rows
        return found + self._last() if last else found

    def _begin(self, *, last: bool) -> None:
        if not self._begun:
            text = self._text.lstrip(b" \t\r\n")
            if not text.startswith(b"["):
                if last:
                    load(self._text[: large_json.PIECE])  # it may be no JSON at all
                raise RequestError(422, "the body has to be a list of records: [{...}, ...]")
            self._text = text[1:]
            self._begun = True

    def _first_rows(self) -> Rows:
        """Return the first rows of the text, or none, and then more of it is waited for.

        The end of a row is looked for from behind. If too much stands before it, it is looked for
        in the middle of what is left: a long row may stand before many short ones.
        """
        low = self._wanted // 2 if self._wanted > large_json.PIECE else 0
        high = place = self._wanted
        tries, halving = _TRIES, False
        while tries:
            end = self._text.rfind(b"}", low, place)
            if end < 0:
                low = place
            elif _COMMA.match(self._text, end + 1) is None:
                place, tries = end, tries - 1
                continue
            else:
                piece = b"[" + self._text[: end + 1] + b"]"
                if is_too_much(piece):
                    tries, halving, high = tries if halving else _HALVINGS, True, end
                else:
                    try:
                        rows = _parse(piece)
                    except ValueError:
                        low, place = (end + 1, place) if halving else (low, end)
                    else:
                        return self._taken(rows, end)
            tries -= 1
            if halving:
                place = (low + high) // 2
            elif end < 0:
                break
        if halving:
            raise self._too_large()
        # Far more is waited for, so that all tries together take no longer than twice the text.
        self._wanted *= 2
        return []

    def _taken(self, rows: Rows, end: int) -> Rows:
        comma = _COMMA.match(self._text, end + 1)
        self._work += work_of(self._text[: end + 1])
        del self._text[: end + 1 if comma is None else comma.end()]
        self._wanted = large_json.PIECE
        self._count += len(rows)
        return self._compact(rows)

    def _last(self) -> Rows:
        if self._text.lstrip(b" \t\r\n")[:1] == b"]" and self._count:
            raise RequestError(400, "the body is not JSON: a comma stands before the last ]")
        if is_too_much(self._text):
            raise self._too_large()
        try:
            rows = _parse(b"[" + self._text)
        except ValueError as exc:
            raise RequestError(
                400, f"the body is not JSON, from the record at place {self._count} on: {exc}"
            ) from exc
        self._work += work_of(self._text)
        return self._compact(rows)

    def _compact(self, rows: Rows) -> Rows:
        self._work -= compact(rows)
        check_work(self._work)
        return rows

    def _too_large(self) -> RequestError:
        return RequestError(
            413,
            f"the record at place {self._count} takes more than {large_json.LONGEST:,} bytes, or "
            "holds more values than can be read at once, or the body is no list of records",
        )


class JsonLines:
    """Splits JSON Lines: an object on each line. Empty lines are passed over."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._number = 0
        self._work = 0

    @property
    def waits(self) -> bool:
        return len(self._text) < large_json.PIECE

    def feed(self, data: bytes) -> None:
        self._text += data
        if len(self._text) > large_json.LONGEST and self._text.rfind(b"\n") < 0:
            raise self._too_large(self._number + 1)

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
            if is_too_much(line):
                raise self._too_large(self._number)
            try:
                row = _parse(line)
            except ValueError as exc:
                raise RequestError(400, f"line {self._number} is not JSON: {exc}") from exc
            if type(row) is not dict:
                raise RequestError(422, f"line {self._number} is no JSON object")
            self._work += work_of(line)
            found.append(row)
        self._work -= compact(found)
        check_work(self._work)
        return found

    @staticmethod
    def _too_large(number: int) -> RequestError:
        return RequestError(
            413,
            f"line {number} takes more than {large_json.LONGEST:,} bytes, or holds more values "
            "than can be read at once",
        )


def is_too_much(text: bytes | bytearray) -> bool:
    """Return whether a parser would hold up other threads for long."""
    try:
        check_at_once(text)
    except TooMuchAtOnceError:
        return True
    return False


def compact(rows: Rows) -> int:
    """Put arrays in the place of long lists of floats. Return how many floats they hold."""
    floats = 0
    for row in rows:
        if type(row) is dict:
            for name, value in row.items():
                row[name] = made = _compact(value)
                if made is not value:
                    floats += len(made)
    return floats


def _compact(value: Any) -> Any:
    # Whole numbers stay: in the payload they are not floats.
    if type(value) is list and len(value) >= _MANY and set(map(type, value)) == {float}:
        return np.array(value, dtype=np.float64)
    return value
