"""The tokens of filter text, cut one at a time in linear time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from ..errors import FilterError
from . import text as words

END: Final = "end"

# Possessive quantifiers (*+) never go back, so an unclosed quote costs one pass.
_TOKEN = re.compile(
    r"""
      (?P<timestamp> timestamp \s*+ ' (?P<moment> [^']*+ ) ' )
    | (?P<number> [+-]? (?: [0-9]++ (?: \. [0-9]*+ )? | \. [0-9]++ ) (?: e [+-]? [0-9]++ )? )
    | (?P<text> ' [^']*+ (?: '' [^']*+ )*+ ' )
    | (?P<quoted> " [^"]*+ (?: "" [^"]*+ )*+ " )
    | (?P<name> [^\W\d] \w*+ )
    | (?P<symbol> <= | >= | != | <> | == | [=<>(),.\[\]] )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SPACE = re.compile(r"\s*+")
_MOST_INT_DIGITS = 25  # more digits than 64 bits need; int() is quadratic in them


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text.

    ``kind`` is number, text, timestamp, quoted, name, symbol or end. ``word`` is a name in upper
    case, for comparing with keywords; it is empty for the others. ``value`` is what the quotes
    hold, or the name itself.
    """

    kind: str
    position: int
    text: str
    word: str = ""
    value: str = ""

    @property
    def starts_name(self) -> bool:
        return self.kind == "quoted" or (self.kind == "name" and self.word not in words.RESERVED)

    @property
    def starts_literal(self) -> bool:
        return self.kind in ("number", "text", "timestamp") or self.word in ("TRUE", "FALSE")

    def literal(self) -> str | int | float | bool | datetime | None:
        """Return the literal's value; None if this is no literal."""
        if self.kind == "text":
            return words.checked_text(self.value)
        if self.kind == "number":
            return _number(self.text)
        if self.kind == "timestamp":
            return words.timestamp(self.value)
        return {"TRUE": True, "FALSE": False}.get(self.word)


class Tokens:
    """The tokens of a text; ``next`` is the current one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.next = self._cut(0)

    def advance(self) -> Token:
        """Move on to the token after ``next``; return the one left."""
        token = self.next
        self.next = self._cut(token.position + len(token.text))
        return token

    def take(self, symbol: str) -> Token | None:
        """Move on if ``symbol`` is next, and return its token."""
        return self.advance() if self.next.kind == "symbol" and self.next.text == symbol else None

    def take_word(self, word: str) -> bool:
        """Move on if the keyword ``word`` is next, and return whether it was."""
        if self.next.word != word:
            return False
        self.advance()
        return True

    def after_next_is(self, symbol: str) -> bool:
        """Return whether ``symbol`` follows ``next``."""
        return self._cut(self.next.position + len(self.next.text)).text == symbol

    def fail(self, expected: str) -> NoReturn:
        """Raise FilterError at ``next``."""
        token = self.next
        found = (
            "the filter ends too early"
            if token.kind == END
            else f"unexpected {words.shown(token.text)}"
        )
        raise FilterError(found, text=self._text, position=token.position, expected=expected)

    def _cut(self, start: int) -> Token:
        text = self._text
        space = _SPACE.match(text, start)
        position = space.end() if space else start
        if position == len(text):
            return Token(END, position, "")
        match = _TOKEN.match(text, position)
        if match is None:
            self._fail_unknown(position)
        kind, found = match.lastgroup or "", match.group()
        if kind == "name":
            return Token(kind, position, found, found.upper(), found)
        if kind == "timestamp":
            return Token(kind, position, found, value=match["moment"])
        if kind in ("text", "quoted"):
            if len(found) > 2 * words.MAX_TEXT + 2:  # however many of its quotes are doubled
                raise FilterError(words.too_long(len(found) - 2), text=text, position=position)
            quote = found[0]
            return Token(kind, position, found, value=found[1:-1].replace(quote * 2, quote))
        if kind == "number" and text[match.end() : match.end() + 1].isidentifier():
            raise FilterError(
                "a number ends in a letter", text=text, position=match.end(),
                expected="a space or an operator after a number",
            )  # fmt: skip
        return Token(kind, position, found)

    def _fail_unknown(self, position: int) -> NoReturn:
        character = self._text[position]
        if character in "'\"":
            raise FilterError(
                f"this {'text' if character == chr(39) else 'name'} does not end",
                text=self._text, position=position, expected=f"a closing {character}",
            )  # fmt: skip
        raise FilterError(
            f"unexpected {character!r}", text=self._text, position=position,
            expected="a name, a literal, an operator or a parenthesis",
        )  # fmt: skip


def _number(text: str) -> int | float:
    if text.lstrip("+-").isdecimal():
        # Zeros in front do not count for the size, but int() would still read them all.
        digits = text.lstrip("+-").lstrip("0") or "0"
        if len(digits) > _MOST_INT_DIGITS:
            digits = digits[:_MOST_INT_DIGITS]
        number = words.checked_value(int(digits) * (-1 if text.startswith("-") else 1))
    else:
        number = words.checked_value(float(text))
    if not isinstance(number, (int, float)):  # only for the types; a number stays one
        raise FilterError(f"{words.shown(text)} is not a number")
    return number
