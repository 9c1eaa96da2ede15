"""LIKE patterns for SQLite: ranges that an index serves, GLOB, and a Python function.

SQLite's own LIKE ignores the case of ASCII letters, and its GLOB ends at a NUL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

FUNCTION = "aiovec_like"

# SQLite refuses patterns of more than 50,000 bytes, and its stack grows with every `*`.
_LONGEST_GLOB = 2_000

_WILDCARD = re.compile("[%_]")
_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}


def register(connection: Any) -> None:
    """Give ``connection``, a DB-API connection to SQLite, the function that conditions call."""
    connection.create_function(FUNCTION, 2, _matches_bytes, deterministic=True)


def call(text_sql: str, mark: str) -> str:
    """SQL that matches the text against the parameter at ``mark``: ``argument(pattern)``."""
    # pysqlite3 hands a function its text only up to a NUL, but a BLOB whole.
    return f"{FUNCTION}(CAST({text_sql} AS BLOB), {mark})"


def argument(pattern: str) -> bytes:
    return pattern.encode()


def matches(text: str, pattern: str) -> bool:
    """LIKE as the filters mean it, exact on code points, NUL and newlines too."""
    return _matcher(pattern)(text)


def _matches_bytes(text: bytes | None, pattern: bytes) -> bool | None:
    return None if text is None else matches(text.decode(), pattern.decode())


def end_of_prefix(prefix: str) -> str | None:
    """The least text above all texts that begin with ``prefix``; None where there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if last == 0xD800 else last)  # no text holds a surrogate


def literal_prefix(pattern: str) -> str:
    """What every match of ``pattern`` begins with."""
    return _WILDCARD.split(pattern, maxsplit=1)[0]


def as_glob(pattern: str) -> str | None:
    """``pattern`` for GLOB; None where GLOB cannot tell."""
    if "\0" in pattern:
        return None
    glob = "".join(_GLOB.get(character, character) for character in pattern)
    return glob if len(glob.encode()) <= _LONGEST_GLOB else None


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Match the parts between the ``%`` one behind the other, each as early as it fits.

    A regular expression with many ``.*`` would go back and forth without end on some texts.
    """
    first, *others = (
        re.compile("".join("." if c == "_" else re.escape(c) for c in part), re.DOTALL)
        for part in pattern.split("%")
    )
    if not others:
        return lambda text: first.fullmatch(text) is not None
    *middle, last = others
    length_of_last = len(pattern) - pattern.rfind("%") - 1

    def match(text: str) -> bool:
        found = first.match(text)
        for part in middle:
            if found is None:
                return False
            found = part.search(text, found.end())
        if found is None:
            return False
        begin = len(text) - length_of_last
        return begin >= found.end() and last.match(text, begin) is not None

    return match
