"""Where the headers, keys and values of a TOML text stand.

For text that ``tomllib`` has accepted. Python has no parser that keeps positions, and this one
needs no values, so it is small: it must only know where strings, comments and brackets end.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

Path = tuple[str, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
# Up to two quotes may stand before the closing three.
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL)
_PLAIN_VALUE = re.compile(r"[^,\]}#\n\r]*[^,\]}#\n\r \t]")
_PLAIN_IN_ARRAY = re.compile(r"[^\[\]{}\"'#]+")


@dataclass(frozen=True, slots=True)
class Header:
    """``[a.b]``, or ``[[a.b]]`` where it is one of an ``array``."""

    path: Path
    start: int
    end: int
    array: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value: the whole ``path``, where the key begins, and the value's span.

    ``at_root`` tells that no header stands before it.
    """

    path: Path
    key: int
    start: int
    end: int
    at_root: bool


def scan(text: str, *, inside: Path) -> Iterator[Header | Entry]:
    """The headers and entries in their order; also those within the inline table ``inside``.

    ValueError where the text is not understood.
    """
    prefix: Path = ()
    at, at_root = 0, True
    while True:
        at = _after(_BLANK, text, at)
        if at == len(text):
            return
        if text[at] == "[":
            header = _header(text, at)
            prefix, at, at_root = header.path, header.end, False
            yield header
            continue
        entry = _entry(text, at, prefix, at_root)
        yield entry
        if entry.path == inside and text[entry.start] == "{":
            yield from _within(text, entry)
        at = entry.end


def _header(text: str, at: int) -> Header:
    array = text.startswith("[[", at)
    brackets = 2 if array else 1
    path, end = _key(text, at + brackets)
    closing = _after(_SPACE, text, end)
    if not text.startswith("]" * brackets, closing):
        raise ValueError(f"no end of the header at character {at}")
    return Header(path, at, closing + brackets, array)


def _within(text: str, table: Entry) -> Iterator[Entry]:
    at, last = table.start + 1, table.end - 1
    while True:
        at = _after(_BLANK, text, at)
        if at >= last:
            return
        if text[at] == ",":
            at += 1
            continue
        entry = _entry(text, at, table.path, table.at_root)
        yield entry
        at = entry.end


def _entry(text: str, at: int, prefix: Path, at_root: bool) -> Entry:
    path, end = _key(text, at)
    equals = _after(_SPACE, text, end)
    if not text.startswith("=", equals):
        raise ValueError(f"no = after the key at character {at}")
    start = _after(_SPACE, text, equals + 1)
    return Entry((*prefix, *path), at, start, _value_end(text, start), at_root)


def _key(text: str, at: int) -> tuple[Path, int]:
    parts: list[str] = []
    while True:
        at = _after(_SPACE, text, at)
        end = _string_end(text, at)
        if end is None:
            bare = _BARE_KEY.match(text, at)
            if bare is None:
                raise ValueError(f"no key at character {at}")
            parts.append(bare[0])
            end = bare.end()
        else:
            parts.append(str(tomllib.loads(f"key = {text[at:end]}")["key"]))
        dot = _after(_SPACE, text, end)
        if not text.startswith(".", dot):
            return tuple(parts), end
        at = dot + 1


def _value_end(text: str, at: int) -> int:
    end = _string_end(text, at)
    if end is not None:
        return end
    if text[at : at + 1] not in ("[", "{"):
        plain = _PLAIN_VALUE.match(text, at)
        if plain is None:
            raise ValueError(f"no value at character {at}")
        return plain.end()
    depth = 0
    while at < len(text):
        end = _string_end(text, at)
        if end is not None:
            at = end
        elif text[at] in "[{":
            depth, at = depth + 1, at + 1
        elif text[at] in "]}":
            depth, at = depth - 1, at + 1
            if depth == 0:
                return at
        elif text[at] == "#":
            at = _after(_BLANK, text, at)
        else:
            at = _after(_PLAIN_IN_ARRAY, text, at)
    raise ValueError("an array or an inline table does not end")


def _string_end(text: str, at: int) -> int | None:
    """The end of the string that begins here; None where none does."""
    for opening, pattern in (
        ('"""', _LONG_BASIC), ("'''", _LONG_LITERAL), ('"', _BASIC), ("'", _LITERAL),
    ):  # fmt: skip
        if text.startswith(opening, at):
            found = pattern.match(text, at)
            if found is None:
                raise ValueError(f"no end of the string at character {at}")
            return found.end()
    return None


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
