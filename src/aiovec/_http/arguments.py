"""Arguments of the remote backend's calls, as a server takes them: data from a stranger.

Each is checked by the code that checks a user's own, and raises the same errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from .._filters.tree import Ref
from .._input.arguments import check_tuning, count_of
from .._input.rows import check_ids, check_patch
from .._input.selection import order_keys, value_ref
from .._input.vectors import many_queries
from .._model.arrays import Float32Array
from .._model.json_text import read_json
from .._model.patch import REMOVE, PayloadPatch, path_text
from .._model.schema import Field, FieldIndex, Schema
from .._text.query import TextClause, text_fields
from ..backend.context import WriteKey
from ..backend.contract import Columns, Order, TextQuery, Tuning
from ..errors import InvalidArgumentError
from .wire import Message

_T = TypeVar("_T")

# As in a query that a user types.
_MOST_CLAUSES = 1_000
_MOST_CHARACTERS = 100_000
_LONGEST_STATE = 200
# More than a user can name, and the id.
_MOST_ORDERS = 40
LONGEST_KEY = 200
_HEX = re.compile("(?:[0-9a-f]{2}){1,64}")
_SURROGATE = re.compile("[\ud800-\udfff]")

Facts = Mapping[str, Any]


def one_of(facts: Facts, name: str, kind: type[_T]) -> _T:
    """Return a fact of exactly this type, or raise InvalidArgumentError."""
    value = facts.get(name)
    if type(value) is not kind:
        raise InvalidArgumentError(name, value, f"a JSON value of the type {kind.__name__}")
    return value


def optional(facts: Facts, name: str, kind: type[_T]) -> _T | None:
    """Return a fact of this type, or None where it is null or absent."""
    return None if facts.get(name) is None else one_of(facts, name, kind)


def state_in(facts: Facts) -> str:
    """Return the name of the state of the table that the call was made for."""
    state = one_of(facts, "state", str)
    if not 0 < len(state) <= _LONGEST_STATE:
        raise InvalidArgumentError("state", state, "the state of a table that was opened")
    return state


def limit_in(facts: Facts, name: str, *, least: int = 1) -> int:
    """Return a number of rows."""
    return min(count_of(name, facts.get(name), least=least), 2**62)


def key_in(facts: Facts) -> WriteKey | None:
    """Return the key that the client's own caller gave to a write, if there is one."""
    told = optional(facts, "key", dict)
    if told is None:
        return None
    name, digest = one_of(told, "name", str), one_of(told, "digest", str)
    if not 0 < len(name) <= LONGEST_KEY or not _HEX.fullmatch(digest):
        raise InvalidArgumentError("key", name, f"1 to {LONGEST_KEY} characters, with a digest")
    return WriteKey(name, bytes.fromhex(digest))


def cursor_in(facts: Facts) -> bytes | None:
    """Return the cursor behind which an export goes on; None for all of it."""
    after = optional(facts, "after", str)
    try:
        return None if after is None else bytes.fromhex(after)
    except ValueError as exc:
        raise InvalidArgumentError("after", after, "the cursor of a batch") from exc


def columns_in(facts: Facts, schema: Schema) -> Columns:
    """Return the columns to read, each of which the schema has."""
    given = one_of(facts, "columns", dict)
    names = one_of(given, "fields", list)
    if len(names) > len(schema.fields):
        raise InvalidArgumentError("columns", len(names), "distinct fields of the table")
    unknown = [name for name in names if type(name) is not str or name not in schema.fields]
    if unknown or len(set(names)) != len(names):
        raise InvalidArgumentError("columns", names, "distinct fields of the table")
    payload, vector = one_of(given, "payload", bool), one_of(given, "vector", bool)
    return Columns(tuple(names), payload=payload and schema.payload, vector=vector)


def ids_in(facts: Facts) -> list[str]:
    """Return distinct ids."""
    ids = check_ids(one_of(facts, "ids", list))
    if len(set(ids)) != len(ids):
        raise InvalidArgumentError("ids", ids, "distinct")
    return ids


def ref_in(given: object, schema: Schema, *, lists: bool) -> Ref:
    """Return a field, "id" or a key of the payload, of its name followed by the keys."""
    if type(given) is not list or not given or not all(type(part) is str for part in given):
        raise InvalidArgumentError("field", given, "a list of a name and keys of the payload")
    name, *path = given
    if path and name != "payload":
        raise InvalidArgumentError("field", given, "one of the table's; only a payload has keys")
    return value_ref(schema, path_text(tuple(path)) if path else name, "field", lists=lists)


def orders_in(facts: Facts, schema: Schema) -> list[Order]:
    """Return the keys to sort by, of which the last one tells all rows apart."""
    orders = []
    listed = one_of(facts, "orderBy", list)
    if len(listed) > _MOST_ORDERS:
        raise InvalidArgumentError("orderBy", len(listed), f"at most {_MOST_ORDERS} keys")
    for each in listed:
        if type(each) is not list or len(each) != 2 or type(each[1]) is not bool:
            raise InvalidArgumentError("orderBy", each, "a pair of a field and a flag")
        orders.append(Order(ref_in(each[0], schema, lists=False), each[1]))
    if not orders or orders[-1].ref.name != "id":
        raise InvalidArgumentError("orderBy", len(orders), "fields with the id as the last one")
    order_keys([order.ref.name for order in orders[:-1]])  # refuses too many; the last is the id
    return orders


def tuning_in(facts: Facts, dim: int) -> Tuning | None:
    """Return the effort of a search, of one on vectors of this length."""
    given = optional(facts, "tuning", dict)
    if given is None:
        return None
    try:
        tuning = Tuning(**given)
    except TypeError as exc:
        raise InvalidArgumentError("tuning", given, "an object with the keys of Tuning") from exc
    check_tuning(tuning, dim)
    return tuning


def vectors_in(message: Message, schema: Schema) -> list[Float32Array]:
    """Return the vectors of a message's one column, fit for searching."""
    return many_queries(_column(message, schema), schema, {})


def vector_in(message: Message, schema: Schema) -> Float32Array | None:
    """Return the new vector of an update; of NaN where the rows shall have none."""
    if message.rows is None:
        return None
    column = _column(message, schema)
    if schema.vector_nullable and len(column) == 1 and not column[0].is_valid:
        return np.full(schema.dim, np.nan, dtype=np.float32)
    found = many_queries(column, schema, {})
    if len(found) != 1:
        raise InvalidArgumentError("vector", len(found), "one vector")
    return found[0]


def _column(message: Message, schema: Schema) -> Any:
    if message.rows is None or message.rows.schema.names != [schema.vector]:
        raise InvalidArgumentError("vectors", None, f"rows of one column, {schema.vector!r}")
    return message.rows.column(0)


def patch_in(
    facts: Facts, schema: Schema, *, alone: bool = True
) -> tuple[dict[str, Any], PayloadPatch]:
    """Return the fields that an update sets, and its changes of the payload.

    There are some, if the update is to do nothing else.
    """
    changed = dict(one_of(facts, "values", dict))
    for name in changed:
        if name not in schema.fields:
            raise InvalidArgumentError("values", name, "a field of the table")
    text = one_of(facts, "payload", str)
    try:
        changes = read_json(text)
        if type(changes) is not list:
            raise TypeError(type(changes))
        for path, *value in changes:
            if type(path) is not list or len(value) > 1 or path_text(tuple(path)) in changed:
                raise ValueError(path)
            changed[path_text(tuple(path))] = value[0] if value else REMOVE
    except (ValueError, TypeError, RecursionError, AttributeError) as exc:
        raise InvalidArgumentError("payload", text, "changes of the payload") from exc
    if not changed and not alone:
        return {}, PayloadPatch()
    return check_patch(changed, schema)


def index_in(facts: Facts) -> FieldIndex:
    """Return the kind of an index over a field."""
    kind = one_of(facts, "kind", str)
    if kind not in ("btree", "bitmap", "text"):
        raise InvalidArgumentError("kind", kind, "'btree', 'bitmap' or 'text'")
    return kind  # type: ignore[return-value]  # it is one of those


def field_in(facts: Facts) -> Field:
    """Return a field that is to be added."""
    return Field.from_dict(facts.get("field"))


def text_query_in(facts: Facts, schema: Schema, columns: Columns, where: Any) -> TextQuery:
    """Return a keyword search; ``where`` is its filter, bound already."""
    searched = text_fields(schema)
    listed = one_of(facts, "clauses", list)
    clauses = tuple(_clause(each, searched) for each in listed[: _MOST_CLAUSES + 1])
    if not any(not clause.excluded for clause in clauses) or len(clauses) > _MOST_CLAUSES:
        raise InvalidArgumentError(
            "clauses", len(clauses), f"1 to {_MOST_CLAUSES:,}, of which one is not excluded"
        )
    if sum(len(clause.text) for clause in clauses) > 2 * _MOST_CHARACTERS:
        raise InvalidArgumentError("clauses", len(clauses), f"{_MOST_CHARACTERS:,} characters")
    marks = optional(facts, "highlight", list)
    if marks is not None and (len(marks) != 2 or not all(type(mark) is str for mark in marks)):
        raise InvalidArgumentError("highlight", marks, "a pair of texts")
    return TextQuery(
        clauses,
        limit_in(facts, "limit"),
        where,
        columns,
        any=one_of(facts, "any", bool),
        highlight=None if marks is None else (marks[0], marks[1]),
    )


def _clause(given: object, searched: Sequence[str]) -> TextClause:
    if type(given) is not list or len(given) != 4:
        raise InvalidArgumentError("clauses", given, "lists of text, field, prefix and excluded")
    text, field, prefix, excluded = given
    if type(text) is not str or not text or "\0" in text or _SURROGATE.search(text):
        raise InvalidArgumentError("clauses", text, "text")
    if field is not None and field not in searched:
        raise InvalidArgumentError("clauses", field, "a field that keyword search covers")
    if type(prefix) is not bool or type(excluded) is not bool:
        raise InvalidArgumentError("clauses", given, "with flags that are true or false")
    return TextClause(text, field, prefix=prefix, excluded=excluded)
