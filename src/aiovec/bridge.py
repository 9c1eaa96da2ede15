"""Shared parts of the bridges to other frameworks, such as ``aiovec_langchain``.

A bridge keeps its rows in one table, which its first write creates, and serves code with and
without ``await``. This module also reads filters in MongoDB's syntax, converts metadata of any type
for storage, and returns a table name for every collection name.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import operator
import os
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence, Set
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import partial, wraps
from typing import Any, Literal, ParamSpec, Self, TypeAlias, TypeVar, cast
from uuid import UUID

from . import sync
from ._filters.operators import F, FieldRef
from ._filters.tree import And, Const, Expr, IsTrue, Not, Or, Ref
from ._filters.tree import all_of as all_of
from ._filters.tree import any_of as any_of
from ._input.types import Where
from ._model.records import Hit, Record
from ._model.schema import Field, Metric, Schema
from ._search.query import text_fields
from ._store.rank import seconds_of as seconds_of
from ._store.store import Table, VectorStore
from ._tools.messages import shown as shown
from ._tools.redaction import redacted
from .backend.paths import PathText
from .errors import (
    AiovecError,
    EmbeddingError,
    FilterError,
    InvalidArgumentError,
    TableNotFoundError,
)
from .sync.store import open_store, runs_in, wait_for

__all__ = [
    "Bridge",
    "Closable",
    "DocumentBridge",
    "StoreOrTarget",
    "blocking",
    "in_store",
    "metadata_filter",
    "refuse_options",
    "relevance",
    "storable",
    "table_name",
    "table_without_vectors",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M")
_F = TypeVar("_F", bound=Callable[..., Coroutine[Any, Any, Any]])

StoreOrTarget: TypeAlias = VectorStore | sync.VectorStore | PathText


class Bridge:
    """One table of a store, for code with and without ``await``. The first write creates it.

    ``store`` is a store from ``aiovec.sync.connect``; a store from ``aiovec.connect``, which serves
    only code with ``await`` on its event loop; or a target such as ``"notes.db"``. A target is
    opened at the first call with the ``options`` of ``connect``, and ``close`` closes it.
    ``schema`` takes the length of the first vector, and returns the schema of a new table.
    """

    _taken: frozenset[str] = frozenset()  # names of columns that are not metadata

    def __init__(
        self,
        store: StoreOrTarget,
        table: str,
        schema: Callable[[int], Schema],
        **options: Any,
    ) -> None:
        self.table: str = table_name(table)
        self.dim: int | None = None
        self._schema = schema
        self._options = options
        self._opening = threading.Lock()
        self._store: VectorStore | sync.VectorStore | None = None
        self._target: PathText | None = None
        if isinstance(store, VectorStore | sync.VectorStore):
            self._store = store
        else:
            self._target = store
        self._note_schema(None)

    @property
    def target(self) -> str:
        """The store's target, without its secrets."""
        if self._target is not None:
            return redacted(os.fspath(self._target))
        return "" if self._store is None else self._store.target

    def run(self, call: Callable[[Table], Awaitable[_R]]) -> _R:
        """Run ``call`` with the table, block until it is done, and return its result."""
        return wait_for(self._opened(), lambda inner: self._call(inner, call))

    async def aio(self, call: Callable[[Table], Awaitable[_R]]) -> _R:
        """Run ``call`` with the table on the store's event loop, and return its result.

        Nested calls stay in the same thread.
        """
        store = self._store
        if isinstance(store, VectorStore):
            return await self._call(store, call)
        # A nested call stays in its caller's store, even while ``close`` waits for this thread.
        if store is None or (self._opening.locked() and not runs_in(store)):
            store = await asyncio.to_thread(self._opened)
        return await sync.aio(store, lambda inner: self._call(inner, call))

    async def _call(self, store: VectorStore, call: Callable[[Table], Awaitable[_R]]) -> _R:
        table = store.table(self.table)
        if not self._seen:
            with suppress(TableNotFoundError):
                self._note_schema(await table.schema())
        return await call(table)

    def _note_schema(self, schema: Schema | None) -> None:
        """Record the schema of the existing table; None makes the next call read it."""
        self._seen = schema is not None
        self.metric: Metric = (schema or self._schema(1)).metric

    async def write(self, dim: int | None, act: Callable[[Table], Awaitable[_R]]) -> _R:
        """Await a write to the table; if the table is missing, create it and write again.

        ``dim`` is the length of the vectors, or None or 0 if no row has a vector.
        """

        async def attempt(table: Table) -> _R:
            try:
                return await act(table)
            except TableNotFoundError:
                columns = self._taken
                self._note_schema(None)
                if self._taken != columns:
                    raise  # the rows were made for a table that was dropped
                length = self.dim or dim
                if not length:
                    reason = (
                        f"no row has a vector, and the table {self.table!r} does not exist yet: "
                        "write a row with a vector first, or pass the length of the vectors to the "
                        "bridge"
                    )
                    raise InvalidArgumentError("dim", dim, reason=reason) from None
                await table.create(self._schema(length), exist_ok=True)
                return await act(table)

        return await self.aio(attempt)

    async def read(self, act: Callable[[Table], Awaitable[_R]], missing: _M) -> _R | _M:
        """Await a read or a delete; return ``missing`` if the table does not exist."""
        try:
            return await self.aio(act)
        except TableNotFoundError:
            self._note_schema(None)
            return missing

    async def drop(self) -> None:
        """Drop the table. The next write creates it again."""
        await self.aio(lambda table: table.drop(missing_ok=True))
        self._note_schema(None)

    def close(self) -> None:
        """Close the store if the bridge opened it. The next call opens it again."""
        with self._opening:
            if self._target is not None and isinstance(self._store, sync.VectorStore):
                self._store.close()
                self._store = None
                self._note_schema(None)

    def _opened(self) -> sync.VectorStore:
        with self._opening:
            if isinstance(self._store, VectorStore):
                raise AiovecError(
                    "a store of aiovec.connect() serves methods with await only; give the bridge a "
                    "store of aiovec.sync.connect(), or a target such as 'notes.db'"
                )
            if self._store is None:
                self._store = open_store(self._target, **self._options)
            return self._store


class Closable:
    """A base class for objects with a ``_bridge``; ``with`` and ``async with`` close the object."""

    _bridge: Bridge

    def close(self) -> None:
        """Close the store if this object opened it. The next call opens it again."""
        self._bridge.close()

    async def aclose(self) -> None:
        """Close the store as ``close`` does, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def in_store(method: _F) -> _F:
    """Make a coroutine method of a ``Closable`` run where its store runs.

    A store from ``aiovec.connect`` runs on the caller's event loop, any other store in its own
    thread. Decorate methods that make rows or filters, which need the fields of the table and must
    not block the caller's loop, and methods that call the bridge several times.
    """

    @wraps(method)
    async def call(self: Closable, /, *args: Any, **kwargs: Any) -> Any:
        return await self._bridge.aio(lambda _: method(self, *args, **kwargs))

    return cast("_F", call)


def blocking(
    method: Callable[_P, Awaitable[_R]],
) -> Callable[[Callable[..., object]], Callable[_P, _R]]:
    """Replace the decorated method of a ``Closable`` with a blocking form of a coroutine method.

    Only the name comes from the decorated method. The arguments, result and docstring come from the
    coroutine method::

        async def acount(self, where: Where = None) -> int: ...

        @blocking(acount)
        def count(self) -> Any:
            '''Like ``acount``.'''
    """

    def decorate(named: Callable[..., object]) -> Callable[_P, _R]:
        @wraps(method)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            bridge = cast("Closable", args[0])._bridge
            return bridge.run(lambda _: method(*args, **kwargs))

        call.__name__, call.__qualname__ = named.__name__, named.__qualname__
        return call

    return decorate


class DocumentBridge(Bridge):
    """A bridge whose rows are documents: a text, metadata, and a vector.

    Metadata is stored flat in the row, so that filters, the command line and other programs can use
    it like any field. A key that is a column of the row, such as "id", is stored with a "_"
    appended.

    ``schema`` is the schema of a new table, for example with indexed fields for metadata keys. By
    default, a new table has a text field with keyword search, everything else in the payload, and
    vectors of the length ``dim``, or else of the first vector's length. An existing table keeps its
    schema, which the first call reads, so make rows and filters in ``in_store`` methods. If an
    existing table has no field ``text``, its texts are in the field that ``embed`` names, or in its
    only field with keyword search.

    With ``zero_as_none``, a vector of zeros, which the metric "cosine" refuses, is stored as None.
    """

    def __init__(
        self,
        store: StoreOrTarget,
        table: str,
        *,
        schema: Schema | None = None,
        metric: Metric = "cosine",
        text: str = "text",
        dim: int | None = None,
        vector_nullable: bool = False,
        zero_as_none: bool = False,
        **options: Any,
    ) -> None:
        def new(length: int) -> Schema:
            return schema or Schema(
                dim=length,
                metric=metric,
                fields={text: Field(str, text=True)},
                vector_nullable=vector_nullable or zero_as_none,
            )

        self._text = text
        super().__init__(store, table, new, **options)
        self.dim: int | None = dim if schema is None else schema.dim
        self._zero_as_none = zero_as_none

    def _note_schema(self, schema: Schema | None) -> None:
        super()._note_schema(schema)
        known = schema or self._schema(1)
        self.text: str = _text_of(known, self._text)
        self._vector = known.vector
        self._declared = {name: f.kind for name, f in known.fields.items() if name != self.text}
        self._taken = frozenset({"id", self.text, known.vector})

    def row(
        self, id: str, text: str | None, vector: Any, metadata: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Return a document as a row."""
        row = {
            self._stored(key): item if key in self._declared else storable(item, f"metadata.{key}")
            for key, item in (metadata or {}).items()
        }
        if self._zero_as_none:
            vector = without_zeros(vector)
        return {**row, "id": id, self.text: text, self._vector: vector}

    def metadata(self, row: Record | Hit) -> dict[str, Any]:
        """Return the metadata of a row."""
        return {
            key[:-1] if key.endswith("_") and key.rstrip("_") in self._taken else key: value
            for key, value in row.fields.items()
            if key != self.text and not (value is None and key in self._declared)
        }

    def where(self, wanted: Mapping[str, Any] | Where) -> Where:
        """Convert a mapping for ``metadata_filter`` to a filter, and return any other filter
        unchanged. Returns None for a mapping that matches every row, such as ``{}``."""
        if callable(wanted):
            raise FilterError("a filter must be a mapping, a condition or its text, not a function")
        if not isinstance(wanted, Mapping):
            return wanted
        return unless_true(metadata_filter(wanted, self.fields))

    def fields(self, key: str) -> list[FieldRef]:
        """Return the fields that a filter's key can mean; its dots may separate nested keys."""
        first, *inner = key.split(".")
        nested = inner and self._stored(first) not in self._declared
        return [self.field(key), *([self.field(first, *inner)] if nested else [])]

    def _stored(self, key: object) -> str:
        name = str(key)
        return f"{name}_" if name.rstrip("_") in self._taken else name

    def field(self, key: str, *path: str) -> FieldRef:
        """Return the field of a metadata key, or of a nested key at ``path``, for filters."""
        name = self._stored(key)
        if name in self._declared:
            return _Declared(name, self._declared[name])
        field = F.payload[name]
        for inner in path:
            field = field[inner]
        return field


def _text_of(schema: Schema, wanted: str) -> str:
    """Return the name of the field with the documents' texts.

    The name can differ from ``wanted``, for example in a table of imported files.
    """
    if wanted in schema.fields:
        return wanted
    names = text_fields(schema) if schema.embed is None else [schema.embed.field]
    return names[0] if len(names) == 1 else wanted


def table_name(name: str) -> str:
    """Return the name of the table for a collection.

    A name that is not allowed for tables becomes lower-case, with "-" for other characters and a
    short hash of the name at the end, so that different collections get different tables.
    """
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError("table", name, "a name")
    if re.fullmatch("[a-z][a-z0-9_-]{0,62}", name):
        return name
    suffix = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    words = re.sub("[^a-z0-9_-]+", "-", name.lower()).strip("-")
    return f"{words if words[:1].isalpha() else f't-{words}'}"[:54].rstrip("-") + f"-{suffix}"


def keys_below(root: FieldRef, key: str) -> list[FieldRef]:
    """Return the fields below ``root`` that a filter's key can mean; its dots may separate keys."""
    nested = root
    for part in key.split("."):
        nested = nested[part]
    return [root[key], nested] if "." in key else [nested]


def table_without_vectors(fields: Mapping[str, Any]) -> Schema:
    """Return the schema of a table whose rows have fields and no vector."""
    return Schema(dim=1, vector_nullable=True, fields=fields)


async def create_memory(table: Table, schema: Schema) -> None:
    """Create a table with ``embed``, or without vectors if the store has no embedder."""
    try:
        await table.create(schema, exist_ok=True)
    except EmbeddingError as exc:
        if exc.retryable or exc.model is not None:  # an embedder exists, and it failed
            raise
        await table.create(table_without_vectors(schema.fields), exist_ok=True)


def without_zeros(vector: Any) -> Any:
    """Return a vector, or None for a vector of zeros, which has no direction."""
    return None if vector is None or not any(vector) else vector


def best_search(schema: Schema) -> Literal["text", "vector", "hybrid"]:
    """Return the best way to search a table for a text: by its words, its vector, or both."""
    if schema.embed is None:
        return "text"
    return "hybrid" if text_fields(schema) else "vector"


def refuse_options(options: Mapping[str, Any], **instead: str) -> None:
    """Raise TypeError for an option that has another name in the framework.

    ``refuse_options(options, where="filter")``, for example, refuses a filter passed as ``where``.
    """
    for name in sorted(options.keys() & instead.keys()):
        raise TypeError(f"unexpected keyword argument {name!r}: pass {instead[name]} instead")


def relevance(score: float, metric: Metric) -> float:
    """Return a vector search's score as a relevance from 0 to 1.

    Under "cosine" it is the cosine similarity, or 0 if that is negative; under "l2" the score,
    ``1/(1+distance)``; under "dot" the logistic function of the product. A higher score never has a
    lower relevance.
    """
    if metric == "dot":
        return 0.5 + 0.5 * math.tanh(score / 2)
    return min(max(score, 0.0), 1.0)


def storable(value: Any, name: str = "metadata", *, large: type[str] | None = None) -> Any:
    """Return a metadata value in a form that a payload can store.

    Naive datetimes, times of day, paths and the keys of mappings become text. Decimals become
    numbers, NaN and infinity become None, and sets, tuples and arrays become lists. Raises
    InvalidArgumentError for a value that cannot be stored, such as an integer beyond 64 bits; with
    ``large=str``, an integer of that size becomes text.
    """
    try:
        return _stored(value, name, large)
    except RecursionError:
        reason = f"{name} is nested too deeply"
        raise InvalidArgumentError(name, type(value).__name__, reason=reason) from None


def _stored(value: Any, name: str, large: type[str] | None) -> Any:
    stored = partial(_stored, large=large)
    match value:
        case None | bool() | str() | UUID() | Enum():
            return value
        case int():
            if -(2**63) <= value < 2**63:
                return value
            if large is not None:
                return large(value)
            reason = f"{name} is an integer beyond 64 bits; store it as text, str(value)"
            raise InvalidArgumentError(name, value, reason=reason)
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return value if value.tzinfo is not None else value.isoformat()
        case date():
            return value
        case time():
            return value.isoformat()
        case Decimal():
            return stored(float(value), name)
        case Mapping():
            return {str(key): stored(item, f"{name}.{key}") for key, item in value.items()}
        case bytes() | bytearray() | memoryview():
            pass
        case Sequence():
            return [stored(item, name) for item in value]
        case Set():
            return [stored(item, name) for item in sorted(value, key=str)]
    if hasattr(value, "__fspath__"):
        return str(value)
    if callable(listed := getattr(value, "tolist", None)):  # NumPy's
        return stored(listed(), name)
    if callable(dumped := getattr(value, "model_dump", None)):
        return stored(dumped(mode="json"), name)
    raise InvalidArgumentError(
        name, value, "text, a number, a boolean, a date, a path, or lists and mappings of these"
    )


class _Declared(FieldRef):
    """A field that the schema declares, so its type is known."""

    __slots__ = ("kind",)

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(Ref(name))
        self.kind = kind


def _shapes(field: FieldRef) -> tuple[bool, bool]:
    """Return whether a field can contain lists, and whether it can contain text."""
    if not isinstance(field, _Declared):
        return True, True
    return field.kind.startswith("list"), field.kind == "text"


def empty(field: FieldRef) -> Expr:
    """Return the condition that a field is null, an empty list or an empty text."""
    lists, texts = _shapes(field)
    conditions = [field.is_null()]
    if lists:
        conditions.append(field.is_empty())
    if texts:
        conditions.append(field == "")
    return any_of(conditions)


_Meant: TypeAlias = Callable[[str], FieldRef | Sequence[FieldRef]]


def _in_payload(key: str) -> list[FieldRef]:
    return keys_below(F.payload, key)


def unless_true(where: Expr) -> Expr | None:
    """Return a condition, or None if it is true for every row."""
    return None if _constant(where) is True else where


def _constant(where: Expr) -> bool | None:
    """Return True or False if the condition has this value for every row, otherwise None."""
    match where:
        case Const(value):
            return value
        case Not(item):
            truth = _constant(item)
            return None if truth is None else not truth
        case IsTrue(item):
            return _constant(item)
        case And(items) | Or(items):
            truths, decisive = {_constant(item) for item in items}, isinstance(where, Or)
            return decisive if decisive in truths else None if None in truths else not decisive
    return None


def metadata_filter(wanted: Mapping[str, Any], field: _Meant = _in_payload) -> Expr:
    """Return a filter from a mapping in MongoDB's syntax.

    All entries of ``{"year": {"$gte": 2020}, "lang": "en"}`` must match. A plain value means
    equality. The operators are ``$eq $ne $gt $gte $lt $lte $in $nin $exists $not`` and, not in
    MongoDB, ``$between $like $ilike $contains $not_contains``. ``$and``, ``$or`` and ``$nor`` take
    a non-empty list of mappings, ``$not`` takes one mapping. As in MongoDB, a negation also matches
    rows without the key, and dots lead into nested objects. NaN equals nothing, and nothing is
    above or below NaN or None. An integer beyond 64 bits counts as the nearest float. ``field``
    returns the field of a key, or several fields, one of which must match; by default it returns
    payload keys.
    """
    if not isinstance(wanted, Mapping):
        raise FilterError(f"a filter must be a mapping, not {type(wanted).__name__}")
    try:
        return all_of([_entry(key, value, field) for key, value in wanted.items()])
    except RecursionError:
        raise FilterError("the filter is nested too deeply") from None


def _entry(key: str, value: Any, field: _Meant) -> Expr:
    match key:
        case "$and" | "$or" | "$nor":
            parts = [metadata_filter(operand, field) for operand in _operands(key, value)]
            if not parts:  # an empty "$and" would select every row, even in a delete
                raise FilterError(f"{key} takes a list of one filter or more")
            joined = all_of(parts) if key == "$and" else any_of(parts)
            return joined.is_not_true() if key == "$nor" else joined
        case "$not":
            return metadata_filter(value, field).is_not_true()
    if not isinstance(key, str) or key.startswith("$"):
        raise FilterError(f"the filter has no operator {key!r}; expected $and, $or, $nor or $not")
    meant = field(key)
    return _conditions([meant] if isinstance(meant, FieldRef) else meant, value)


def _conditions(fields: Sequence[FieldRef], value: Any) -> Expr:
    if not isinstance(value, Mapping):
        return comparison(fields, "$eq", value)
    if not value:
        raise FilterError(f"{fields[0]} has no operator; expected one of {_KNOWN}")
    return all_of([comparison(fields, name, operand) for name, operand in value.items()])


def comparison(fields: Sequence[FieldRef], operator: str, value: Any) -> Expr:
    """Return the condition that an operator with this value is true for any of the fields.

    NaN equals nothing. Nothing is above or below NaN or None.
    """
    if operator == "$not":
        return _conditions(fields, value).is_not_true()
    if operator == "$exists":
        exists = any_of([field.is_not_null() for field in fields])
        return exists if value else exists.is_not_true()
    if operator in _NEGATED:
        return comparison(fields, _NEGATED[operator], value).is_not_true()
    if operator not in (*_OPERATORS, *_OTHERS):
        raise FilterError(f"{fields[0]} has no operator {operator!r}; expected one of {_KNOWN}")
    if operator == "$eq" and value is None:
        return all_of([field.is_null() for field in fields])
    if operator == "$in":
        literals = [_literal(item) for item in _operands(operator, value)]
        finite = [item for item in literals if item not in (None, math.inf, -math.inf)]
        among = any_of([field.in_(finite) for field in fields])
        return any_of([among, comparison(fields, "$eq", None)]) if None in value else among
    if operator == "$between":
        if len(ends := _operands(operator, value)) != 2:
            raise FilterError(f"{fields[0]}: $between takes a list of two values")
        least, most = ends
        return any_of(
            [comparison([f], "$gte", least) & comparison([f], "$lte", most) for f in fields]
        )
    literal = _literal(value)
    if literal == math.inf or literal == -math.inf:
        # No stored number is infinite.
        every = operator in (("$lt", "$lte") if literal > 0 else ("$gt", "$gte"))
        numbers = [field.between(-sys.float_info.max, sys.float_info.max) for field in fields]
        return any_of(numbers if every else ())
    if literal is None:
        return any_of(())
    return any_of([_OPERATORS[operator](field, literal) for field in fields])


def _contains(field: FieldRef, value: Any) -> Expr:
    """Return the condition that a list has the value as an item, or a text contains it."""
    lists, texts = _shapes(field)
    conditions = []
    if lists or not texts:  # other fields get the error that explains CONTAINS
        conditions.append(field.contains(value))
    if texts and isinstance(value, str):
        conditions.append(field.contains_text(value))
    return any_of(conditions)


_OPERATORS: dict[str, Callable[[FieldRef, Any], Expr]] = {
    "$eq": operator.eq,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$like": FieldRef.like,
    "$ilike": FieldRef.ilike,
    "$contains": _contains,
}
_NEGATED = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}
_OTHERS = ("$in", "$between", "$exists", "$not")
_KNOWN = ", ".join([*_OPERATORS, *_NEGATED, *_OTHERS])


def _operands(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise FilterError(f"{name} takes a list, not {type(value).__name__}")
    return list(value)


def _literal(value: Any) -> Any:
    """Return a filter's value in the form of stored metadata; None for NaN."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, float) and math.isinf(value):
        return value
    return storable(value, "filter")
