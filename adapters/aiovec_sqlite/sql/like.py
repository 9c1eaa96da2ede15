"""LIKE patterns for SQLite: ranges that an index serves, its own functions, and one in Python.

SQLite's own LIKE ignores the case of ASCII letters. Its GLOB ends at a NUL, takes U+FFFD, U+FFFE
and U+FFFF for the same, and takes as long as text and pattern multiplied, so only short patterns
without these characters go to it.

Patterns here are marked: their wildcards are ``ANY_TEXT`` and ``ANY_CHARACTER``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import ANY_CHARACTER, ANY_TEXT, fold_case, same_letter

_FUNCTION, _FOLDING_FUNCTION = "aiovec_like", "aiovec_ilike"

# Bytes of the longest pattern for GLOB.
_LONGEST_GLOB = 32
# GLOB ends at a NUL, and reads the other three as U+FFFD in pattern and text. A pattern without
# them is right on texts that hold them.
_NOT_FOR_GLOB = re.compile("[\0\ufffd\ufffe\uffff]")

# Characters of the longest part that a regular expression finds: what it may compare in vain for
# each place of the text.
_SHORT = 32
# Characters between two looks whether any place is left, and bits of characters that are kept.
_BETWEEN_LOOKS, _MOST_KEPT = 32, 256

# The wildcards of a pattern are lone surrogates.
_MARKS = "surrogatepass"

UInt8Array = npt.NDArray[np.uint8]

_WILDCARD = re.compile(f"[{ANY_TEXT}{ANY_CHARACTER}]")
_RUN = re.compile(f"[^{ANY_CHARACTER}]+")
_GLOB = {ANY_TEXT: "*", ANY_CHARACTER: "?", "*": "[*]", "?": "[?]", "[": "[[]"}


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

    The time grows with the text, and with the pattern hardly: a regular expression would go back
    and forth without end on some texts, and hold the interpreter meanwhile.
    """
    first, *others = map(_Part.of, pattern.split(ANY_TEXT))
    if not others:
        return lambda text: len(text) == first.length and first.stands_at(text, 0)
    *middle, last = others

    def match(text: str) -> bool:
        if len(text) < first.length or not first.stands_at(text, 0):
            return False
        place = first.length
        positions = _Positions(text)
        for part in middle:
            found = part.find(positions, place)
            if found < 0:
                return False
            place = found + part.length
        begin = len(text) - last.length
        return begin >= place and last.stands_at(text, begin)

    return match


@dataclass(frozen=True, slots=True)
class _Part:
    """The part between two ``%``: runs of literal text, each with its offset, and ``_``."""

    length: int
    runs: tuple[tuple[int, str], ...]
    pattern: re.Pattern[str] | None
    """Finds a short one."""

    @classmethod
    def of(cls, text: str) -> _Part:
        runs = tuple((found.start(), found.group()) for found in _RUN.finditer(text))
        short = None
        if len(runs) > 1 and len(text) <= _SHORT:
            short = re.compile(re.escape(text).replace(ANY_CHARACTER, "."), re.DOTALL)
        return cls(len(text), runs, short)

    def stands_at(self, text: str, place: int) -> bool:
        """Return whether it matches there; the text must be long enough."""
        return all(text.startswith(run, place + offset) for offset, run in self.runs)

    def find(self, positions: _Positions, start: int) -> int:
        """Where it first matches from ``start`` on, or -1."""
        last = len(positions.text) - self.length
        if start > last:
            return -1
        if not self.runs:
            return start
        if len(self.runs) == 1:
            ((offset, run),) = self.runs
            end = last + offset + len(run)
            return max(-1, positions.text.find(run, start + offset, end) - offset)
        if self.pattern is not None:
            found = self.pattern.search(positions.text, start)
            return -1 if found is None else found.start()
        return positions.find(self.runs, start, last)


class _Positions:
    """Where a text has a character: a bit for each place, eight in a byte, the lowest the first.

    All places of a text are compared with a character of the pattern by one AND of such bits.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._codes: npt.NDArray[np.uint32] | None = None
        self._known: dict[tuple[str, int], UInt8Array] = {}

    def find(self, runs: Sequence[tuple[int, str]], start: int, last: int) -> int:
        """The first place from ``start`` to ``last`` with these runs at their offsets, or -1."""
        whole, rest = divmod(last - start + 1, 8)
        fits = np.full(whole + bool(rest), 255, dtype=np.uint8)
        if rest:
            fits[-1] = (1 << rest) - 1
        for number, (place, character) in enumerate(
            (start + offset + i, character)
            for offset, run in runs
            for i, character in enumerate(run)
        ):
            byte, shift = divmod(place, 8)
            fits &= self._of(character, shift)[byte : byte + len(fits)]
            if number % _BETWEEN_LOOKS == 0 and not fits.any():
                return -1
        found = np.flatnonzero(fits)
        if not len(found):
            return -1
        first, bits = int(found[0]), int(fits[found[0]])
        return start + 8 * first + (bits & -bits).bit_length() - 1

    def _of(self, character: str, shift: int) -> UInt8Array:
        """The bits without the first ``shift``."""
        known = self._known.get((character, shift))
        if known is None:
            if self._codes is None:
                self._codes = np.frombuffer(self.text.encode("utf-32-le"), dtype="<u4")
            if len(self._known) == _MOST_KEPT:
                self._known.clear()
            known = np.packbits(self._codes[shift:] == ord(character), bitorder="little")
            self._known[character, shift] = known
        return known
