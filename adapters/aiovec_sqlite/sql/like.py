"""Match LIKE patterns in SQLite: by an index range, SQLite's functions, or a Python function.

SQLite's LIKE ignores the case of ASCII letters. Its GLOB stops at a NUL, reads U+FFFE and U+FFFF as
U+FFFD, and takes time proportional to the text's length times the pattern's, so only short patterns
without these characters use GLOB.

The wildcards of patterns in this module are ``ANY_TEXT`` and ``ANY_CHARACTER``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from aiovec.backend import ANY_CHARACTER, ANY_TEXT, fold_case, same_letter

_FUNCTION, _FOLDING_FUNCTION = "aiovec_like", "aiovec_ilike"

# The length limit of a GLOB pattern, in bytes.
_LONGEST_GLOB = 32
# GLOB stops at a NUL, and reads U+FFFE and U+FFFF as U+FFFD. A pattern without these characters
# still fails for texts with a NUL, so ``filters._like`` passes such texts to the function.
_NOT_FOR_GLOB = re.compile("[\0\ufffd\ufffe\uffff]")
_GLOB = {ANY_TEXT: "*", ANY_CHARACTER: "?", "*": "[*]", "?": "[?]", "[": "[[]"}

# The wildcards of a pattern are lone surrogates, which strict UTF-8 refuses.
_MARKS = "surrogatepass"

_WILDCARD = re.compile(f"[{ANY_TEXT}{ANY_CHARACTER}]")


def register(connection: Any) -> None:
    """Add the functions that conditions call to ``connection``, a DB-API connection to SQLite."""
    connection.create_function(_FUNCTION, 2, _matches_bytes, deterministic=True)
    connection.create_function(_FOLDING_FUNCTION, 2, _matches_folded_bytes, deterministic=True)


def call(text_sql: str, parameter: str, *, ignore_case: bool) -> str:
    """Return SQL that matches a text against ``argument(pattern)``, bound at ``parameter``."""
    # Some drivers cut a text argument at a NUL, but pass a BLOB whole.
    name = _FOLDING_FUNCTION if ignore_case else _FUNCTION
    return f"{name}(CAST({text_sql} AS BLOB), {parameter})"


def argument(pattern: str, *, ignore_case: bool) -> bytes:
    return (fold_case(pattern) if ignore_case else pattern).encode("utf-8", _MARKS)


def matches(text: str, pattern: str) -> bool:
    """Return whether a text matches a pattern; wildcards match any code point, even a newline."""
    return _matcher(pattern)(text)


def _matches_bytes(text: bytes | None, pattern: bytes) -> bool | None:
    return None if text is None else matches(text.decode(), pattern.decode("utf-8", _MARKS))


def _matches_folded_bytes(text: bytes | None, pattern: bytes) -> bool | None:
    folded = pattern.decode("utf-8", _MARKS)
    return None if text is None else matches(fold_case(text.decode()), folded)


def end_of_prefix(prefix: str) -> str | None:
    """Return the smallest text that sorts after every text with this prefix; None if none does."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if last == 0xD800 else last)  # texts cannot contain surrogates


def literal_prefix(pattern: str) -> str:
    """Return the text that every match of ``pattern`` begins with."""
    return _WILDCARD.split(pattern, maxsplit=1)[0]


def as_literal(pattern: str) -> tuple[str, bool] | None:
    """Return the text in ``%text%`` or ``%text``, and True for the latter; otherwise None."""
    if not pattern.startswith(ANY_TEXT) or ANY_CHARACTER in pattern:
        return None
    text = pattern.strip(ANY_TEXT)
    return None if ANY_TEXT in text else (text, not pattern.endswith(ANY_TEXT))


def as_glob(pattern: str, *, ignore_case: bool) -> str | None:
    """Return ``pattern`` as a GLOB pattern; None if GLOB would be wrong or too slow."""
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
    """Return a function that finds parts between ``%`` signs in turn, each as early as possible.

    A single regular expression would search long literals more slowly.
    """
    parts = pattern.split(ANY_TEXT)
    first, *others = map(_expression, parts)
    if not others:
        return lambda text: first.fullmatch(text) is not None
    *middle, last = others

    def match(text: str) -> bool:
        place, end = len(parts[0]), len(text) - len(parts[-1])
        if end < place or not first.match(text) or not last.match(text, end):
            return False
        for part in middle:
            match_of_part = part.search(text, place, end)
            if match_of_part is None:
                return False
            place = match_of_part.end()
        return True

    return match


def _expression(part: str) -> re.Pattern[str]:
    """Compile a part of a pattern. A part has no ``%``, so it matches only texts of one length."""
    return re.compile(".".join(map(re.escape, part.split(ANY_CHARACTER))), re.DOTALL)
