"""Filter text to a tree. Neither nesting nor length makes it recurse or backtrack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from ..errors import FilterError
from . import patterns
from . import text as words
from .tokens import END, Token, Tokens
from .tree import (
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

# An open parenthesis costs some 200 bytes and one copy of what stood in it; a megabyte of them
# must cost little.
_MOST_OPEN = 10_000

_A_CONDITION = "a field, a literal, NOT or '('"
_A_LITERAL = "a number, 'text', TRUE, FALSE or TIMESTAMP '...'"
_PREDICATES = ("IN", "BETWEEN", "LIKE", "ILIKE", "CONTAINS", "CONTAINS_TEXT", "STARTSWITH")
_A_PREDICATE_BEHIND_NOT = f"{', '.join(_PREDICATES[:-1])} or {_PREDICATES[-1]}"
_A_PREDICATE = f"= != < <= > >= IS {' '.join(_PREDICATES)}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a condition stands in its text: its field's first character, and its literals'."""

    field: int
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A tree, and where in ``text`` each condition of it stands first."""

    text: str
    expr: Expr
    places: Mapping[Expr, Place]


@dataclass(slots=True)
class _Open:
    """An expression not read to its end: OR of AND of conditions, and the NOTs that wait."""

    position: int
    ors: list[Expr] = field(default_factory=list)
    ands: list[Expr] = field(default_factory=list)
    negate: bool = False


def parse(text: str) -> Expr:
    """The tree that ``text`` means, or FilterError with the position and what was expected."""
    return parse_with_places(text).expr


def parse_with_places(text: object) -> Parsed:
    """As ``parse``, and tells where each condition stands."""
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

    def parse(self) -> Parsed:
        tokens = self.tokens
        stack = [_Open(0)]
        while True:
            # A condition stands here.
            while tokens.take_word("NOT"):
                stack[-1].negate = not stack[-1].negate
            if opening := tokens.take("("):
                if len(stack) > _MOST_OPEN:
                    raise FilterError(
                        f"more than {_MOST_OPEN:,} parentheses are open",
                        text=self.text, position=opening.position, expected="fewer parentheses",
                    )  # fmt: skip
                stack.append(_Open(opening.position))
                continue
            self._add(stack[-1], self._condition())
            # AND, OR, ) or the end stands here.
            while True:
                token = tokens.next
                if tokens.take_word("AND"):
                    break
                if tokens.take_word("OR"):
                    self._end_ands(stack[-1])
                    break
                if len(stack) > 1 and tokens.take(")"):
                    inner = stack.pop()
                    self._add(stack[-1], self._truth_of(self._end(inner), inner.position))
                    continue
                if len(stack) == 1 and token.kind == END:
                    return Parsed(self.text, self._end(stack.pop()), self.places)
                tokens.fail("AND, OR or ')'" if len(stack) > 1 else "AND, OR or the end")

    def _truth_of(self, inner: Expr, position: int) -> Expr:
        """Return the condition in parentheses, with an IS [NOT] TRUE or FALSE behind them."""
        if not self.tokens.take_word("IS"):
            return inner
        isnot = self.tokens.take_word("NOT")
        truth = self._truth()
        if truth is None:
            self.tokens.fail("TRUE or FALSE" if isnot else "TRUE, FALSE, NOT TRUE or NOT FALSE")
        try:
            found = is_true(inner if truth else negated(inner))
            return negated(found) if isnot else found
        except FilterError as exc:
            self._fail_at(position, exc)

    def _truth(self) -> bool | None:
        """Go on if TRUE or FALSE is next, and return which."""
        if self.tokens.take_word("TRUE"):
            return True
        return False if self.tokens.take_word("FALSE") else None

    def _add(self, to: _Open, expr: Expr) -> None:
        try:
            to.ands.append(negated(expr) if to.negate else expr)
        except FilterError as exc:
            self._fail_at(to.position, exc)
        to.negate = False

    def _end_ands(self, of: _Open) -> None:
        try:
            of.ors.append(all_of(of.ands))
        except FilterError as exc:
            self._fail_at(of.position, exc)
        of.ands = []

    def _end(self, of: _Open) -> Expr:
        self._end_ands(of)
        try:
            return any_of(of.ors)
        except FilterError as exc:
            self._fail_at(of.position, exc)

    def _fail_at(
        self, position: int, exc: FilterError, expected: str = "a smaller filter"
    ) -> NoReturn:
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
            return negated(self._named_predicate(start, ref, _A_PREDICATE_BEHIND_NOT))
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
        if tokens.take_word("CONTAINS_TEXT"):
            value_at = tokens.next.position
            return self._placed(contains_text(ref, self._text()), at, value_at)
        if tokens.take_word("CONTAINS"):
            value_at = tokens.next.position
            return self._placed(Contains(ref, self._literal()), at, value_at)
        if tokens.take_word("STARTSWITH"):
            value_at = tokens.next.position
            return self._placed(StartsWith(ref, self._text()), at, value_at)
        tokens.fail(expected)

    def _like(self, at: int, ref: Ref, *, ignore_case: bool) -> Expr:
        tokens = self.tokens
        value_at = tokens.next.position
        pattern = self._text()
        escape = None
        if tokens.take_word("ESCAPE"):
            escape_at = tokens.next.position
            escape = self._text()
            try:
                patterns.checked_escape(escape)
            except FilterError as exc:
                self._fail_at(escape_at, exc, "one character in single quotes, such as '\\\\'")
            try:
                patterns.marked(pattern, escape)
            except FilterError as exc:
                self._fail_at(value_at, exc, "a pattern with a character behind each escape")
        return self._placed(Like(ref, pattern, escape, ignore_case), at, value_at)

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
        """The literals up to the closing bracket, and where each stands."""
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
        """A field, and behind dots the keys within it."""
        names = [self._name(any_word=False)]
        while self.tokens.take("."):
            names.append(self._name(any_word=True))
        return Ref(names[0], tuple(names[1:]))

    def _name(self, *, any_word: bool) -> str:
        token = self.tokens.next
        if not (token.starts_name or (any_word and token.kind == "name")):
            self.tokens.fail("a key of the payload" if any_word else "a field")
        try:
            name = words.checked_text(token.value)
        except FilterError as exc:
            self._fail_at(token.position, exc, "a name of valid Unicode")
        self.tokens.advance()
        return name

    def _text(self) -> str:
        if self.tokens.next.kind != "text":
            self.tokens.fail("'text' in single quotes")
        return str(self._literal())

    def _literal(self) -> Value:
        tokens = self.tokens
        token = tokens.next
        try:
            check_literals(self.literals + 1)
        except FilterError as exc:
            self._fail_at(token.position, exc)
        try:
            value = token.literal()
        except FilterError as exc:
            self._fail_at(token.position, exc, _A_LITERAL)
        if value is None:
            self._fail_literal(token)
        self.literals += 1
        tokens.advance()
        return value

    def _fail_literal(self, token: Token) -> NoReturn:
        if token.word == "NULL":
            raise FilterError(
                "a comparison with NULL is never true; use IS NULL or IS NOT NULL",
                text=self.text, position=token.position, expected=_A_LITERAL,
            )  # fmt: skip
        if token.starts_name:
            raise FilterError(
                "a field can be compared with a literal only; text stands in single quotes",
                text=self.text, position=token.position, expected=_A_LITERAL,
            )  # fmt: skip
        self.tokens.fail(_A_LITERAL)
