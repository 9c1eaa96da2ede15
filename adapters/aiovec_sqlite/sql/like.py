"""LIKE patterns for SQLite: ranges that an index serves, its own functions, and one in Python.

SQLite's own LIKE ignores the case of ASCII letters. Its GLOB ends at a NUL, takes U+FFFD, U+FFFE
and U+FFFF for the same, and takes as long as text and pattern multiplied, so only short patterns
without these characters go to it.

Patterns here are marked: their wildcards are ``ANY_TEXT`` and ``ANY_CHARACTER``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from aiovec.backend import ANY_CHARACTER, ANY_TEXT, fold_case, same_letter

_FUNCTION, _FOLDING_FUNCTION = "aiovec_like", "aiovec_ilike"

# Bytes of the longest pattern for GLOB.
_LONGEST_GLOB = 32
# GLOB ends at a NUL, and reads the other three as U+FFFD in pattern and text. A pattern without
# them is right on texts that hold them.
_NOT_FOR_GLOB = re.compile("[\0\ufffd\ufffe\uffff]")
_GLOB = {ANY_TEXT: "*", ANY_CHARACTER: "?", "*": "[*]", "?": "[?]", "[": "[[]"}

# The wildcards of a pattern are lone surrogates.
_MARKS = "surrogatepass"

_WILDCARD = re.compile(f"[{ANY_TEXT}{ANY_CHARACTER}]")


def register(connection: Any) -> None:
    """Give ``connection``, a DB-API connection to SQLite, the functions that conditions call."""
    connection.create_function(_FUNCTION, 2, _matches_bytes, deterministic=True)
    connection.create_function(_FOLDING_FUNCTION, 2, _matches_folded_bytes, deterministic=True)


def call(text_sql: str, mark: str, *, ignore_case: bool) -> str:
    """SQL that matches the text against the parameter at ``mark``: ``argument(pattern)``."""
    # pysqlite3 hands a function its text only up to a NUL, but a BLOB whole.
    name = _FOLDING_FUNCTION if ignore_case else _FUNCTION
    return f"{name}(CAST({text_sql} AS BLOB), {mark})"


def argument(pattern: str, *, ignore_case: bool) -> bytes:
    return (fold_case(pattern) if ignore_case else pattern).encode("utf-8", _MARKS)


def matches(text: str, pattern: str) -> bool:
    """LIKE as the filters mean it, exact on code points, NUL and newlines too."""
    return _matcher(pattern)(text)


def _matches_bytes(text: bytes | None, pattern: bytes) -> bool | None:
    return None if text is None else matches(text.decode(), pattern.decode("utf-8", _MARKS))


def _matches_folded_bytes(text: bytes | None, pattern: bytes) -> bool | None:
    folded = pattern.decode("utf-8", _MARKS)
    return None if text is None else matches(fold_case(text.decode()), folded)


def end_of_prefix(prefix: str) -> str | None:
    """The least text above all texts that begin with ``prefix``; None where there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if last == 0xD800 else last)  # no text holds a surrogate


def literal_prefix(pattern: str) -> str:
    """Return the text that every match of ``pattern`` begins with."""
    return _WILDCARD.split(pattern, maxsplit=1)[0]


def as_literal(pattern: str) -> tuple[str, bool] | None:
    """The text of ``%text%`` and ``%text``, and whether it is at the end; None for others."""
    if not pattern.startswith(ANY_TEXT) or ANY_CHARACTER in pattern:
        return None
    text = pattern.strip(ANY_TEXT)
    return None if ANY_TEXT in text else (text, not pattern.endswith(ANY_TEXT))


def as_glob(pattern: str, *, ignore_case: bool) -> str | None:
    """``pattern`` for GLOB; None where GLOB cannot tell."""
    if _NOT_FOR_GLOB.search(pattern) or len(pattern) > _LONGEST_GLOB:
        return None
    globs = [_GLOB.get(character, character) for character in pattern]
    if len("".join(globs).encode()) > _LONGEST_GLOB:
        return None
    return "".join(map(_either_case, globs) if ignore_case else globs)


def _either_case(glob: str) -> str:
    letters = same_letter(glob) if len(glob) == 1 else ""
    return f"[{letters}]" if len(letters) > 1 else glob


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Match the parts between the ``%`` one behind the other, each as early as it fits.

    A regular expression would go back and forth without end on some texts, and hold the interpreter
    meanwhile.
    """
    first, *others = map(_Part, pattern.split(ANY_TEXT))
    if not others:
        return lambda text: len(text) == first.length and first.stands_at(text, 0)
    *middle, last = others

    def match(text: str) -> bool:
        end = len(text) - last.length
        if end < first.length or not first.stands_at(text, 0) or not last.stands_at(text, end):
            return False
        place = first.length
        for part in middle:
            found = part.find(text, place, end)
            if found < 0:
                return False
            place = found + part.length
        return True

    return match


class _Part:
    """The part between two ``%``: runs of literal text, each with its offset, and ``_``."""

    def __init__(self, text: str) -> None:
        self.length = len(text)
        runs = re.finditer(f"[^{ANY_CHARACTER}]+", text)
        # The longest first: it is found at the fewest places.
        self._runs = sorted(((run.start(), run.group()) for run in runs), key=_by_length)

    def stands_at(self, text: str, place: int) -> bool:
        """Return whether it matches there; the text must be long enough."""
        return all(text.startswith(run, place + offset) for offset, run in self._runs)

    def find(self, text: str, start: int, end: int) -> int:
        """Where it first matches between ``start`` and ``end``, or -1."""
        if not self._runs:
            return start if start + self.length <= end else -1
        (offset, run), *others = self._runs
        last = end - self.length + offset + len(run)
        place = text.find(run, start + offset, last)
        while place >= 0 and others and not self.stands_at(text, place - offset):
            place = text.find(run, place + 1, last)
        return place - offset if place >= 0 else -1


def _by_length(run: tuple[int, str]) -> int:
    return -len(run[1])
