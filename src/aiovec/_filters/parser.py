"""Filter text to a tree, by recursive descent without backtracking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import NoReturn, TypeVar

from ..errors import FilterError
from . import patterns
from . import text as words
from .tokens import END, Token, Tokens
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
    StartsWith,
    Value,
    all_of,
    any_of,
    check_literals,
    contains_text,
    is_true,
    negated,
)

_OPERATORS: dict[str, Operator] = {
    "=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_MIRRORED: dict[Operator, Operator] = {
    "=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<=",
}  # fmt: skip

_A_CONDITION = "a field, a literal, NOT or '('"
_A_LITERAL = "a number, 'text', TRUE, FALSE or TIMESTAMP '...'"
_PREDICATES = ("IN", "BETWEEN", "LIKE", "ILIKE", "CONTAINS", "CONTAINS_TEXT", "STARTSWITH")
_A_PREDICATE_AFTER_NOT = f"{', '.join(_PREDICATES[:-1])} or {_PREDICATES[-1]}"
_A_PREDICATE = f"= != < <= > >= IS {' '.join(_PREDICATES)}"


@dataclass(frozen=True, slots=True)
class Place:
    """The positions of a condition in its text: of its field, and of its literals."""

    field: int
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A tree, and the first position in ``text`` of each condition."""

    text: str
    expr: Expr
    places: Mapping[Expr, Place]


_T = TypeVar("_T")
_R = TypeVar("_R")


def parse(text: str) -> Expr:
    """Return the tree of a filter text, or raise FilterError with the position and what fits."""
    return parse_with_places(text).expr


def parse_with_places(text: object) -> Parsed:
    """Return the tree of a filter text with the positions of its conditions."""
    if not isinstance(text, str):
        raise FilterError(f"a filter is text or an expression of F, not {words.shown(text)}")
    if not text.strip():
        raise FilterError("the filter is empty", text=text, position=0, expected=_A_CONDITION)
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = Tokens(text)
        self.places: dict[Expr, Place] = {}
        self.literals = 0
        self.open = 0

    def parse(self) -> Parsed:
        expr = self._any_of(0)
        if self.tokens.next.kind != END:
            self.tokens.fail("AND, OR or the end")
        return Parsed(self.text, expr, self.places)

    def _any_of(self, position: int) -> Expr:
        """Parse conditions with AND and OR; ``position`` is that of the parenthesis around them."""
        terms = []
        while True:
            factors = [self._term(position)]
            while self.tokens.take_word("AND"):
                factors.append(self._term(position))
            terms.append(self._made(all_of, factors, position))
            if not self.tokens.take_word("OR"):
                return self._made(any_of, terms, position)

    def _term(self, position: int) -> Expr:
        """Parse a condition, or one in parentheses, with any number of NOT before it."""
        negate = False
        while self.tokens.take_word("NOT"):
            negate = not negate
        opening = self.tokens.take("(")
        expr = self._condition() if opening is None else self._in_parentheses(opening.position)
        return self._made(negated, expr, position) if negate else expr

    def _in_parentheses(self, position: int) -> Expr:
        """Parse what follows an open parenthesis, and an IS [NOT] TRUE or FALSE after it."""
        tokens = self.tokens
        if self.open == MAX_DEPTH:
            raise FilterError(
                f"more than {MAX_DEPTH} parentheses are open",
                text=self.text, position=position, expected="fewer parentheses",
            )  # fmt: skip
        self.open += 1
        expr = self._any_of(position)
        self.open -= 1
        if not tokens.take(")"):
            tokens.fail("AND, OR or ')'")
        if not tokens.take_word("IS"):
            return expr
        isnot = tokens.take_word("NOT")
        truth = self._truth()
        if truth is None:
            tokens.fail("TRUE or FALSE" if isnot else "TRUE, FALSE, NOT TRUE or NOT FALSE")
        if not truth:
            expr = self._made(negated, expr, position)
        expr = self._made(is_true, expr, position)
        return self._made(negated, expr, position) if isnot else expr

    def _truth(self) -> bool | None:
        """Move on if TRUE or FALSE is next, and return which."""
        if self.tokens.take_word("TRUE"):
            return True
        return False if self.tokens.take_word("FALSE") else None

    def _made(
        self, make: Callable[[_T], _R], of: _T, position: int, expected: str = "a smaller filter"
    ) -> _R:
        """Return ``make(of)``; its FilterError gets the position and what was expected."""
        try:
            return make(of)
        except FilterError as exc:
            raise FilterError(
                exc.args[0], text=self.text, position=position, expected=expected
            ) from None

    def _condition(self) -> Expr:
        tokens = self.tokens
        start = tokens.next
        if start.kind == "name" and start.word == "STARTSWITH" and tokens.after_next_is("("):
            return self._startswith_call()
        if start.starts_name:
            return self._predicate(start, self._ref())
        if not start.starts_literal:
            tokens.fail(_A_CONDITION)
        value = self._literal()
        operator = _OPERATORS.get(tokens.next.text) if tokens.next.kind == "symbol" else None
        if operator is None:
            if isinstance(value, bool):
                return Const(value)
            tokens.fail("one of = != < <= > >=")
        tokens.advance()
        name = tokens.next
        if not name.starts_name:
            tokens.fail("a field; one side of a comparison must be a field")
        return self._placed(
            Compare(self._ref(), _MIRRORED[operator], value), name.position, start.position
        )

    def _predicate(self, start: Token, ref: Ref) -> Expr:
        """Parse the condition on ``ref``; a bool field alone means that it is TRUE."""
        tokens = self.tokens
        token = tokens.next
        if token.kind == "symbol" and token.text in _OPERATORS:
            tokens.advance()
            operator, position = _OPERATORS[token.text], tokens.next.position
            if operator in ("=", "!=") and tokens.take("["):
                values, positions = self._literals("]")
                found = self._placed(EqualsList(ref, values), start.position, *positions)
                return negated(found) if operator == "!=" else found
            value = self._literal()
            return self._placed(Compare(ref, operator, value), start.position, position)
        if token.word == "IS":
            tokens.advance()
            isnot = tokens.take_word("NOT")
            if tokens.take_word("NULL"):
                found = self._placed(IsNull(ref), start.position)
            elif tokens.take_word("EMPTY"):
                found = self._placed(EqualsList(ref, ()), start.position)
            elif (truth := self._truth()) is not None:
                flag = self._placed(Compare(ref, "=", True), start.position, start.position)
                found = is_true(flag if truth else negated(flag))
            else:
                tokens.fail(f"{'' if isnot else 'NOT, '}NULL, EMPTY, TRUE or FALSE")
            return negated(found) if isnot else found
        if token.word == "NOT":
            tokens.advance()
            return negated(self._named_predicate(start, ref, _A_PREDICATE_AFTER_NOT))
        if token.word in _PREDICATES:
            return self._named_predicate(start, ref, _A_PREDICATE)
        if token.kind == END or token.text == ")" or token.word in ("AND", "OR"):
            return self._placed(Compare(ref, "=", True), start.position, start.position)
        tokens.fail(f"{_A_PREDICATE}, AND, OR or the end")

    def _named_predicate(self, start: Token, ref: Ref, expected: str) -> Expr:
        tokens = self.tokens
        at = start.position
        if tokens.take_word("IN"):
            return self._in_list(start, ref)
        if tokens.take_word("BETWEEN"):
            low_at = tokens.next.position
            low = self._placed(Compare(ref, ">=", self._literal()), at, low_at)
            if not tokens.take_word("AND"):
                tokens.fail("AND")
            high_at = tokens.next.position
            return all_of((low, self._placed(Compare(ref, "<=", self._literal()), at, high_at)))
        for word in ("LIKE", "ILIKE"):
            if tokens.take_word(word):
                return self._like(at, ref, ignore_case=word == "ILIKE")
        for word in ("CONTAINS_TEXT", "CONTAINS", "STARTSWITH"):
            if not tokens.take_word(word):
                continue
            value_at = tokens.next.position
            if word == "CONTAINS":
                found: Expr = Contains(ref, self._literal())
            else:
                make = contains_text if word == "CONTAINS_TEXT" else StartsWith
                found = make(ref, self._text())
            return self._placed(found, at, value_at)
        tokens.fail(expected)

    def _like(self, at: int, ref: Ref, *, ignore_case: bool) -> Expr:
        tokens = self.tokens
        value_at = tokens.next.position
        pattern = self._text()
        escape = None
        if tokens.take_word("ESCAPE"):
            escape_at = tokens.next.position
            escape = self._text()
            one = "one character in single quotes, such as '\\\\'"
            self._made(patterns.checked_escape, escape, escape_at, one)
        like = Like(ref, pattern, escape, ignore_case)
        whole = "a pattern with a character after each escape"
        self._made(attrgetter("marked"), like, value_at, whole)
        return self._placed(like, at, value_at)

    def _startswith_call(self) -> Expr:
        tokens = self.tokens
        tokens.advance()
        tokens.advance()
        start = tokens.next
        ref = self._ref()
        if not tokens.take(","):
            tokens.fail("','")
        value_at = tokens.next.position
        prefix = self._text()
        if not tokens.take(")"):
            tokens.fail("')'")
        return self._placed(StartsWith(ref, prefix), start.position, value_at)

    def _in_list(self, start: Token, ref: Ref) -> Expr:
        tokens = self.tokens
        if not tokens.take("("):
            tokens.fail("'(' and a list of literals")
        values, positions = self._literals(")")
        if not values:
            return Const(False)
        return self._placed(In(ref, values), start.position, *positions)

    def _literals(self, closing: str) -> tuple[tuple[Value, ...], list[int]]:
        """Parse the literals up to the closing bracket; return them and their positions."""
        tokens = self.tokens
        values: list[Value] = []
        positions: list[int] = []
        if tokens.take(closing):
            return (), positions
        while True:
            positions.append(tokens.next.position)
            values.append(self._literal())
            if tokens.take(closing):
                return tuple(values), positions
            if not tokens.take(","):
                tokens.fail(f"',' or '{closing}'")

    def _placed(self, leaf: Expr, at: int, *values: int) -> Expr:
        self.places.setdefault(leaf, Place(at, values))
        return leaf

    def _ref(self) -> Ref:
        """Parse a field, and after dots the keys within it."""
        names = [self._name(any_word=False)]
        while self.tokens.take("."):
            names.append(self._name(any_word=True))
        return Ref(names[0], tuple(names[1:]))

    def _name(self, *, any_word: bool) -> str:
        token = self.tokens.next
        if not (token.starts_name or (any_word and token.kind == "name")):
            self.tokens.fail("a key of the payload" if any_word else "a field")
        unicode = "a name of valid Unicode"
        name = self._made(words.checked_text, token.value, token.position, unicode)
        self.tokens.advance()
        return name

    def _text(self) -> str:
        if self.tokens.next.kind != "text":
            self.tokens.fail("'text' in single quotes")
        return str(self._literal())

    def _literal(self) -> Value:
        tokens = self.tokens
        token = tokens.next
        self.literals = self._made(check_literals, self.literals + 1, token.position)
        value = self._made(Token.literal, token, token.position, _A_LITERAL)
        if value is None:
            self._fail_literal(token)
        tokens.advance()
        return value

    def _fail_literal(self, token: Token) -> NoReturn:
        problem = ""
        if token.word == "NULL":
            problem = "a comparison with NULL is never true; use IS NULL or IS NOT NULL"
        elif token.starts_name:
            problem = "a field can be compared with a literal only; put text in single quotes"
        if problem:
            raise FilterError(problem, text=self.text, position=token.position, expected=_A_LITERAL)
        self.tokens.fail(_A_LITERAL)
