"""Parses filter text into a tree, by recursive descent without backtracking."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NoReturn, TypeVar, cast

from .._tools.messages import shown
from ..errors import FilterError
from . import literals, patterns
from .operators import FieldRef
from .tree import (
    MAX_DEPTH,
    Compare,
    Const,
    Contains,
    EqualsList,
    Expr,
    In,
    IsNull,
    Like,
    Operator,
    Ref,
    Value,
    all_of,
    any_of,
    check_literals,
    is_true,
    negated,
)

_OPERATORS: dict[str, Operator] = {
    "=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_MIRRORED: dict[Operator, Operator] = {"=": "=", "!=": "!=", "<": ">", "<=": ">="}
_MIRRORED |= {">": "<", ">=": "<="}

_END = "end"
_A_CONDITION = "a field, a literal, NOT or '('"
_COMPARED = "one of = != < <= > >="
_A_LITERAL = "a number, 'text', TRUE, FALSE or TIMESTAMP '...'"
# Keywords before a text without wildcards.
_OF_TEXT = {"CONTAINS_TEXT": FieldRef.contains_text, "STARTSWITH": FieldRef.startswith}
_PREDICATES = ("IN", "BETWEEN", "LIKE", "ILIKE", "CONTAINS", *_OF_TEXT)
_A_PREDICATE_AFTER_NOT = f"{', '.join(_PREDICATES[:-1])} or {_PREDICATES[-1]}"
_A_PREDICATE = f"= != < <= > >= IS {' '.join(_PREDICATES)}"

_NO_FUNCTIONS = "a filter has no functions; compute the value first, times as TIMESTAMP '...'"
# The arguments that replace SQL clauses.
_CLAUSES = {"ORDER": "order_by=", "LIMIT": "limit=", "OFFSET": "offset=", "GROUP": "group_by="}
# Replacements for operators of other languages.
_ELSEWHERE = {"&": "AND", "|": "OR", "!": "NOT or !="} | dict.fromkeys(
    "?:{%$@", "a value (a filter has no parameters: F.year == value takes a variable)"
)

_T = TypeVar("_T")
_R = TypeVar("_R")


def where(text: str) -> Expr:
    """Parse filter text into one condition, which can be combined with conditions made with ``F``.

    The text is parsed separately: an OR or a parenthesis in it cannot affect the rest, so
    ``(F.tenant == tenant) & aiovec.where(text)`` is safe with any user input. Comparisons
    of numbers are exact, even of an int field with a fraction or of a float field with a large
    whole number. A FilterError has the position of the error and the input expected there.
    """
    if not isinstance(text, str):
        raise FilterError(
            "a filter must be text, an expression of F such as F.year == 2024, a mapping of fields "
            f"to values, or a list of these, not {shown(text)}"
        )
    if not text.strip():
        raise FilterError("the filter is empty", text=text, position=0, expected=_A_CONDITION)
    return _Parser(text).whole()


# Possessive quantifiers (*+) never backtrack, so an unclosed quote costs one pass.
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


@dataclass(frozen=True, slots=True)
class _Token:
    """A token: a piece of the filter text.

    ``kind`` is number, text, timestamp, quoted, name, symbol or end. ``word`` is a name in upper
    case, for comparing with keywords, and empty for other kinds. ``value`` is the text within the
    quotes, or the name.
    """

    kind: str
    position: int
    text: str
    word: str = ""
    value: str = ""

    @property
    def starts_name(self) -> bool:
        return self.kind == "quoted" or (self.kind == "name" and self.word not in literals.RESERVED)

    @property
    def starts_literal(self) -> bool:
        return self.kind in ("number", "text", "timestamp") or self.word in ("TRUE", "FALSE")

    def literal(self) -> str | int | float | bool | datetime | None:
        """Return the literal's value; None if this is not a literal."""
        if self.kind == "text":
            return literals.checked_text(self.value)
        if self.kind == "number":
            return _number(self.text)
        if self.kind == "timestamp":
            return literals.timestamp(self.value)
        return {"TRUE": True, "FALSE": False}.get(self.word)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.next = self._cut(0)
        self.literals = 0
        self.open = 0

    def whole(self) -> Expr:
        expr = self._any_of(0)
        if (argument := _CLAUSES.get(self.next.word)) is not None:
            fault = f"a filter has no {self.next.word}; {argument} is an argument of the call"
            self._refuse(fault, self.next.position, "AND, OR or the end")
        if self.next.kind != _END:
            self._fail("AND, OR or the end")
        return expr

    def _any_of(self, position: int) -> Expr:
        """Parse conditions with AND and OR; ``position`` is where their parenthesis begins."""
        terms = []
        while True:
            factors = [self._term(position)]
            while self._take_word("AND"):
                factors.append(self._term(position))
            terms.append(self._build(all_of, factors, position))
            if not self._take_word("OR"):
                return self._build(any_of, terms, position)

    def _term(self, position: int) -> Expr:
        """Parse a condition, perhaps in parentheses, after any number of NOTs."""
        negate = False
        while self._take_word("NOT"):
            negate = not negate
        opening = self._take("(")
        expr = self._condition() if opening is None else self._in_parentheses(opening.position)
        return self._build(negated, expr, position) if negate else expr

    def _in_parentheses(self, position: int) -> Expr:
        """Parse the rest of a condition in parentheses, and any IS [NOT] TRUE or FALSE after it."""
        if self.open == MAX_DEPTH:
            fault = f"more than {MAX_DEPTH} parentheses are open"
            self._refuse(fault, position, "fewer parentheses")
        self.open += 1
        expr = self._any_of(position)
        self.open -= 1
        self._need(")", "AND, OR or ')'")
        if not self._take_word("IS"):
            return expr
        isnot = self._take_word("NOT")
        truth = self._truth()
        if truth is None:
            self._fail("TRUE or FALSE" if isnot else "TRUE, FALSE, NOT TRUE or NOT FALSE")
        if not truth:
            expr = self._build(negated, expr, position)
        expr = self._build(is_true, expr, position)
        return self._build(negated, expr, position) if isnot else expr

    def _truth(self) -> bool | None:
        """Move on and return the value if TRUE or FALSE is next; otherwise return None."""
        if self._take_word("TRUE"):
            return True
        return False if self._take_word("FALSE") else None

    def _build(
        self, make: Callable[[_T], _R], of: _T, position: int, expected: str = "a smaller filter"
    ) -> _R:
        """Return ``make(of)``; add the position and the expected input to a FilterError that
        ``make`` raises."""
        try:
            return make(of)
        except FilterError as exc:
            raise FilterError(
                exc.args[0], text=self.text, position=position, expected=expected
            ) from None

    def _condition(self) -> Expr:
        start = self.next
        if start.starts_name:
            return self._predicate(start, self._ref())
        if not start.starts_literal:
            self._fail(_A_CONDITION)
        value = self._literal()
        operator = _OPERATORS.get(self.next.text) if self.next.kind == "symbol" else None
        if operator is None:
            if isinstance(value, bool):
                return Const(value)
            if self.next.word == "IN":
                fix = "a list is on the left, as in tags CONTAINS 'wool'"
                self._refuse(f"no IN follows a literal: {fix}", self.next.position, _COMPARED)
            self._fail(_COMPARED)
        self._advance()
        name = self.next
        if not name.starts_name:
            self._fail("a field; one side of a comparison must be a field")
        return self._positioned(
            Compare(self._ref(), _MIRRORED[operator], value), name.position, start.position
        )

    def _predicate(self, start: _Token, ref: Ref) -> Expr:
        """Parse the condition on ``ref``; a bool field without an operator means ``= TRUE``."""
        token = self.next
        if token.kind == "symbol" and token.text in _OPERATORS:
            self._advance()
            operator, position = _OPERATORS[token.text], self.next.position
            if operator in ("=", "!=") and self._take("["):
                values, positions = self._literals("]")
                condition = self._positioned(EqualsList(ref, values), start.position, *positions)
                return negated(condition) if operator == "!=" else condition
            value = self._literal()
            return self._positioned(Compare(ref, operator, value), start.position, position)
        if token.word == "IS":
            self._advance()
            isnot = self._take_word("NOT")
            if self._take_word("NULL"):
                condition = self._positioned(IsNull(ref), start.position)
            elif self._take_word("EMPTY"):
                condition = self._positioned(EqualsList(ref, ()), start.position)
            elif (truth := self._truth()) is not None:
                flag = self._positioned(Compare(ref, "=", True), start.position, start.position)
                condition = is_true(flag if truth else negated(flag))
            else:
                self._fail(f"{'' if isnot else 'NOT, '}NULL, EMPTY, TRUE or FALSE")
            return negated(condition) if isnot else condition
        if token.word == "NOT":
            self._advance()
            return negated(self._named_predicate(start.position, ref, _A_PREDICATE_AFTER_NOT))
        if token.word in _PREDICATES:
            return self._named_predicate(start.position, ref, _A_PREDICATE)
        if token.kind == _END or token.text == ")" or token.word in ("AND", "OR"):
            return self._positioned(Compare(ref, "=", True), start.position, start.position)
        if token.text == "(":
            self._refuse(_NO_FUNCTIONS, start.position, _A_CONDITION)
        if token.text == "[":
            self._refuse("a key of the payload follows a dot", token.position, f"{ref}.<key>")
        self._fail(f"{_A_PREDICATE}, AND, OR or the end")

    def _named_predicate(self, at: int, ref: Ref, expected: str) -> Expr:
        if self._take_word("IN"):
            self._need("(", "'(' and a list of literals")
            values, positions = self._literals(")")
            return self._positioned(In(ref, values), at, *positions) if values else Const(False)
        if self._take_word("BETWEEN"):
            low_at = self.next.position
            low = self._positioned(Compare(ref, ">=", self._literal()), at, low_at)
            if not self._take_word("AND"):
                self._fail("AND")
            high_at = self.next.position
            return all_of((low, self._positioned(Compare(ref, "<=", self._literal()), at, high_at)))
        for word in ("LIKE", "ILIKE"):
            if self._take_word(word):
                return self._like(at, ref, ignore_case=word == "ILIKE")
        if self._take_word("CONTAINS"):
            value_at = self.next.position
            return self._positioned(Contains(ref, self._literal()), at, value_at)
        for word, make in _OF_TEXT.items():
            if self._take_word(word):
                value_at = self.next.position
                return self._positioned(make(FieldRef(ref), self._text()), at, value_at)
        self._fail(expected)

    def _like(self, at: int, ref: Ref, *, ignore_case: bool) -> Expr:
        value_at = self.next.position
        pattern = self._text()
        escape = None
        if self._take_word("ESCAPE"):
            escape_at = self.next.position
            escape = self._text()
            expected = "one character in single quotes, such as '\\\\'"
            self._build(patterns.checked_escape, escape, escape_at, expected)
        whole = "a pattern with a character after each escape"
        marked = self._build(partial(patterns.marked, escape=escape), pattern, value_at, whole)
        return self._positioned(Like(ref, marked, ignore_case), at, value_at)

    def _literals(self, closing: str) -> tuple[tuple[Value, ...], list[int]]:
        """Parse the literals up to the closing bracket; return them and their positions."""
        values: list[Value] = []
        positions: list[int] = []
        if self._take(closing):
            return (), positions
        while True:
            positions.append(self.next.position)
            values.append(self._literal())
            if self._take(closing):
                return tuple(values), positions
            self._need(",", f"',' or '{closing}'")

    def _positioned(self, leaf: Expr, at: int, *values: int) -> Expr:
        object.__setattr__(leaf, "source", (self.text, (at, *values)))
        return leaf

    def _ref(self) -> Ref:
        """Parse a field and, after dots, the keys within it."""
        names = [self._name(any_word=False)]
        while self._take("."):
            names.append(self._name(any_word=True))
        return Ref(names[0], tuple(names[1:]))

    def _name(self, *, any_word: bool) -> str:
        token = self.next
        if not (token.starts_name or (any_word and token.kind == "name")):
            self._fail("a key of the payload" if any_word else "a field")
        unicode = "a name of valid Unicode"
        name = self._build(literals.checked_text, token.value, token.position, unicode)
        self._advance()
        return name

    def _text(self) -> str:
        if self.next.kind != "text":
            self._fail("'text' in single quotes")
        return str(self._literal())

    def _literal(self) -> Value:
        token = self.next
        self.literals = self._build(check_literals, self.literals + 1, token.position)
        value = self._build(_Token.literal, token, token.position, _A_LITERAL)
        if value is None:
            self._fail_literal(token)
        self._advance()
        return value

    def _fail_literal(self, token: _Token) -> NoReturn:
        problem = ""
        if token.word == "NULL":
            problem = "a comparison with NULL is never true; use IS NULL or IS NOT NULL"
        elif token.starts_name and self._cut(token.position + len(token.text)).text == "(":
            problem = _NO_FUNCTIONS
        elif token.starts_name:
            problem = "a field can be compared with a literal only; put text in single quotes"
        if problem:
            self._refuse(problem, token.position, _A_LITERAL)
        self._fail(_A_LITERAL)

    # Tokens: ``next`` is the current token

    def _advance(self) -> _Token:
        """Move on to the token after ``next``; return the previous token."""
        token = self.next
        self.next = self._cut(token.position + len(token.text))
        return token

    def _take(self, symbol: str) -> _Token | None:
        """If ``symbol`` is next, move on and return its token; otherwise return None."""
        return self._advance() if self.next.kind == "symbol" and self.next.text == symbol else None

    def _need(self, symbol: str, expected: str) -> None:
        """Move on if ``symbol`` is next, else raise FilterError."""
        if not self._take(symbol):
            self._fail(expected)

    def _take_word(self, word: str) -> bool:
        """Move on if the keyword ``word`` is next, and return whether it was."""
        if self.next.word != word:
            return False
        self._advance()
        return True

    def _fail(self, expected: str) -> NoReturn:
        """Raise a FilterError for the unexpected token ``next``."""
        token = self.next
        fault = (
            "the filter ends too early" if token.kind == _END else f"unexpected {shown(token.text)}"
        )
        if token.kind == "name" and self.text[: token.position].endswith("'"):
            fault += " (a quote within a text is written twice, as in 'O''Neil')"
        self._refuse(fault, token.position, expected)

    def _refuse(self, fault: str, position: int, expected: str) -> NoReturn:
        raise FilterError(fault, text=self.text, position=position, expected=expected)

    def _cut(self, start: int) -> _Token:
        text = self.text
        space = _SPACE.match(text, start)
        position = space.end() if space else start
        if position == len(text):
            return _Token(_END, position, "")
        match = _TOKEN.match(text, position)
        if match is None:
            self._fail_unknown(position)
        kind, written = match.lastgroup or "", match.group()
        if kind == "name":
            return _Token(kind, position, written, written.upper(), written)
        if kind == "timestamp":
            return _Token(kind, position, written, value=match["moment"])
        if kind in ("text", "quoted"):
            quote = written[0]
            return _Token(kind, position, written, value=written[1:-1].replace(quote * 2, quote))
        if kind == "number" and text[match.end() : match.end() + 1].isidentifier():
            expected = "a space or an operator after a number"
            self._refuse("a number ends in a letter", match.end(), expected)
        return _Token(kind, position, written)

    def _fail_unknown(self, position: int) -> NoReturn:
        character = self.text[position]
        if character in "'\"":
            fault = f"this {'text' if character == chr(39) else 'name'} does not end"
            self._refuse(fault, position, f"a closing {character}")
        expected = _ELSEWHERE.get(character, "a name, a literal, an operator or a parenthesis")
        self._refuse(f"unexpected {character!r}", position, expected)


def _number(text: str) -> int | float:
    digits = text.lstrip("+-")
    if not digits.isdecimal():
        return cast(float, literals.checked_value(float(text)))
    # int() takes quadratic time, and 64 bits need fewer than 25 digits.
    number = int((digits.lstrip("0") or "0")[:25])
    return cast(int, literals.checked_value(-number if text.startswith("-") else number))
