"""Large JSON texts, parsed in pieces.

A parser of JSON holds up every other thread while it runs, and with them the event loop. So none
gets a text that takes it long: a long list is cut, and what cannot be cut is refused.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

PIECE = 128 * 1024
"""Bytes that are parsed at once: about a millisecond, and seven for a text of brackets alone."""

LONGEST = 16 * 2**20
"""Bytes of a text that cannot be cut, such as one long text."""

MOST_WORK = 200_000
"""Work of a text that cannot be cut: ten milliseconds. See ``work_of``."""

_TRIES = 3
"""Commas that are tried, for one may lie within an item."""

_MOST_LISTS = 8
"""Lists that are looked at. One that is no value of the outermost object is not cut."""

_FARTHEST = 16 * PIECE
"""Bytes in which the end of an item is looked for."""

# The long lists of bodies, with the end of an item and the comma behind it.
_LISTS = re.compile(rb'"(vectors|ids|texts|filter)"\s*:\s*\[')
_COMMAS = {
    "vectors": re.compile(rb"\]\s*,"),
    "ids": re.compile(rb'"\s*,'),
    "texts": re.compile(rb'"\s*,'),
    "filter": re.compile(rb'["l]\s*,'),  # a text or null
}

Text = bytes | bytearray
Parser = Callable[[Text], Any]
"""Returns the value of a JSON text; ValueError if it is none."""


class TooMuchAtOnceError(Exception):
    """A text that a parser would take long for, and that cannot be cut. Never reaches a user."""


def work_of(text: Text) -> int:
    """Return how long a parser takes for a text: as for so many numbers.

    It counts marks. Those within texts count too; that is the price of not parsing.
    """
    return text.count(b",") + 2 * text.count(b":") + 4 * (text.count(b"[") + text.count(b"{"))


def _work_beside_texts(text: Text, most: int) -> int:
    """Return the work without the marks within texts, or more than ``most``.

    Step by step, so that other threads get their turn.
    """
    work = place = 0
    while work <= most:
        opening = text.find(b'"', place)
        work += 1 + work_of(text[place : len(text) if opening < 0 else opening])
        closing = opening
        escaped = opening >= 0
        while escaped and work <= most:
            start = closing + 1
            closing = text.find(b'"', start)
            before = text[start : max(closing, start)]
            escaped = bool((len(before) - len(before.rstrip(b"\\"))) % 2) and closing >= 0
            work += 1
        if opening < 0 or closing < 0:
            break
        place = closing + 1
    return work


def check_at_once(text: Text, most: int = MOST_WORK) -> None:
    """Raise TooMuchAtOnceError if a parser would take long for the text."""
    if len(text) > LONGEST or (
        len(text) > PIECE and work_of(text) > most and _work_beside_texts(text, most) > most
    ):
        raise TooMuchAtOnceError


def load_in_pieces(
    text: Text,
    parse: Parser,
    *,
    item: Callable[[Any], Any] | None = None,
    count: Callable[[int, str], None] | None = None,
) -> Any:
    """Return the value of a JSON text. The long lists of an object are parsed in pieces.

    A comma ends an item of a list exactly if what stands before it, within ``[`` and ``]``, is
    JSON: a parser has one state at each place of a text. A mark stays in the place of the items
    that were cut out. If it is gone from the value, the key came again, and the last one counts.

    ``item`` is made of each item of a list, ``count`` is called with the length of a list and its
    name. A text that cannot be cut raises TooMuchAtOnceError.
    """
    cuts: dict[str, tuple[str, list[Any]]] = {}
    place = 0
    for _ in range(_MOST_LISTS):
        if len(text) <= PIECE:
            break
        begin = _LISTS.search(text, place, place + _FARTHEST)
        if begin is None or (name := begin[1].decode()) in cuts:
            break
        place = begin.end()
        if not _is_list_of_object(text[:place], parse):
            continue
        items, rest = _cut(text, place, _COMMAS[name], parse)
        if items:
            cuts[name] = mark, _ = secrets.token_hex(16), list(map(item, items)) if item else items
            text = text[:place] + b'"%b",' % mark.encode() + text[rest:]
            if count is not None:
                count(len(items), name)
    check_at_once(text)
    value = parse(text)
    for name, (mark, items) in cuts.items():
        found = value.get(name)
        if type(found) is list and found and found[0] == mark:
            found[:1] = items
    return value


def _is_list_of_object(head: Text, parse: Parser) -> bool:
    """Return whether a list that begins behind ``head`` is a value of the outermost object."""
    check_at_once(head)
    try:
        return type(parse(head + b"]}")) is dict
    except ValueError:
        return False


def _cut(text: Text, place: int, comma: re.Pattern[bytes], parse: Parser) -> tuple[list[Any], int]:
    """Return items of the list that begins at a place, and where the rest of them begins."""
    items: list[Any] = []
    start = place + PIECE
    tries = _TRIES
    while tries and (found := comma.search(text, start, start + _FARTHEST)) is not None:
        piece = b"[" + text[place : found.start() + 1] + b"]"
        check_at_once(piece)
        try:
            items += parse(piece)
        except ValueError:
            start, tries = found.start() + 1, tries - 1
        else:
            place, tries = found.end(), _TRIES
            start = place + PIECE
    return items, place
