"""Collections of points, each with an id, a vector and a payload: an older interface to stores.

A collection is a table with a vector named ``vector`` and everything else in the payload, so the
other interfaces can read and filter it. The payload keys ``id`` and ``vector`` are stored with an
underscore in front, and keys such as ``_id`` with one more underscore.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._filters import F
from ._filters.literals import names_in
from ._filters.tree import Expr, all_of
from ._input.arguments import is_iterable
from ._input.types import JsonValue, Vector
from ._model.schema import Schema
from .backend.paths import PathText
from .errors import (
    InvalidArgumentError,
    InvalidRowError,
    ModelMismatchError,
    SchemaMismatchError,
    TableNotFoundError,
)
from .sync.store import open_store

_VECTOR = "vector"
_TAKEN = re.compile(r"_*(id|vector)\Z")
_STORED = re.compile(r"_+(id|vector)\Z")

__all__ = ["FieldCondition", "Filter", "VectorFilter", "VectorStore", "to_uuid"]


@dataclass(frozen=True)
class FieldCondition:
    """A condition that the payload's ``key`` equals ``value``; dots separate nested keys.

    A value of None selects the points in which the key is missing or null.
    """

    key: str
    value: str | int | float | bool | None


@dataclass(frozen=True)
class VectorFilter:
    """A filter that requires all conditions of ``must``."""

    must: Sequence[FieldCondition] = field(default_factory=tuple)


Filter = VectorFilter


def to_uuid(id: str) -> str:
    """Return a UUID for a string, always the same one: version 5 in the URL namespace."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, id))


class VectorStore:
    """Collections in one store. Creating an object opens the store; close it, or use ``with``.

    ``path`` is a file, a directory, ``":memory:"`` or any other target of ``aiovec.connect``.
    """

    def __init__(self, path: PathText) -> None:
        self._store = open_store(path)

    def __enter__(self) -> VectorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<compat.VectorStore {self._store.target}>"

    def close(self) -> None:
        """Close the store. May be called twice."""
        self._store.close()

    def ensure_collection(self, name: str, dim: int, *, model: str | None = None) -> None:
        """Create the collection if it is missing.

        Raises SchemaMismatchError if it exists with vectors of another length, and
        ModelMismatchError if ``model`` is passed and the collection has another model.
        """
        wanted = Schema(dim, model=model, vector=_VECTOR)
        try:
            self._store.create_table(name, wanted, exist_ok=True)
        except (SchemaMismatchError, ModelMismatchError):
            # A table that other code created may have other fields and options.
            existing = self._store.schema(name)
            if (existing.dim, existing.vector, existing.payload) != (dim, _VECTOR, True):
                raise
            if model is not None and existing.model != model:
                raise ModelMismatchError(name, existing.model, model) from None

    def upsert(
        self,
        collection: str,
        *,
        id: str,
        vector: Vector,
        payload: Mapping[str, JsonValue] | None = None,
        model: str | None = None,
    ) -> None:
        """Add a point, or replace the one with this id."""
        self._store.upsert(collection, [_row(id, vector, payload)], model=model)

    def upsert_batch(
        self,
        collection: str,
        points: Iterable[Mapping[str, object]],
        *,
        model: str | None = None,
    ) -> int:
        """Add or replace points, and return the number of distinct ids. A point is a mapping with
        ``id``, ``vector`` and ``payload``.

        Adds all points or none. If an id is repeated, its last point counts.
        """
        if not is_iterable(points):
            raise InvalidRowError(f"points must be an iterable of mappings, not {points!r:.60}")
        rows = []
        for number, point in enumerate(points):
            names = point.keys() if isinstance(point, Mapping) else set()
            if not {"id", _VECTOR} <= names <= {"id", _VECTOR, "payload"}:
                raise InvalidRowError(
                    f"a point must be a mapping with id, vector and payload, not {point!r:.60}",
                    row=number,
                )
            rows.append(_row(point["id"], point[_VECTOR], point.get("payload"), number))
        return self._store.upsert(collection, rows, model=model)

    def search(
        self,
        collection: str,
        query_vector: Vector,
        *,
        limit: int = 5,
        filter_: VectorFilter | None = None,
        model: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return the nearest points, best first: dicts with ``id``, ``score`` and ``payload``."""
        where = None if filter_ is None else _where(filter_, self._store.schema(collection))
        hits = self._store.search(collection, query_vector, limit=limit, where=where, model=model)
        points = []
        for hit in hits:
            fields = hit.fields.items()
            payload = {key[1:] if _STORED.match(key) else key: value for key, value in fields}
            points.append({"id": hit.id, "score": hit.score, "payload": payload})
        return points

    def delete(self, collection: str, ids: str | Iterable[str]) -> int:
        """Delete the points with these ids, and return how many existed."""
        return self._store.delete(collection, ids)

    def count(self, collection: str) -> int:
        """Return the number of points; 0 if the collection is missing."""
        try:
            return self._store.count(collection)
        except TableNotFoundError:
            return 0


def _row(id: object, vector: object, payload: object, number: int | None = None) -> dict[str, Any]:
    if payload is not None and not isinstance(payload, Mapping):
        why = f"must be a mapping or None, not {payload!r:.60}"
        raise InvalidRowError(why, row=number, field="payload")
    keys = {_as_stored(key): value for key, value in (payload or {}).items()}
    return {**keys, "id": id, _VECTOR: vector}


def _as_stored(key: Any) -> Any:
    return f"_{key}" if isinstance(key, str) and _TAKEN.match(key) else key


def _where(filter_: VectorFilter, schema: Schema) -> Expr:
    if not isinstance(filter_, VectorFilter):
        raise InvalidArgumentError("filter_", filter_, "a VectorFilter or None")
    must = filter_.must
    if not isinstance(must, (list, tuple)) or not all(
        isinstance(item, FieldCondition) and isinstance(item.key, str) and item.key for item in must
    ):
        expected = "a list of FieldCondition(key=..., value=...)"
        raise InvalidArgumentError("must", must, expected)
    return all_of([_condition(item, schema) for item in must])


def _condition(item: FieldCondition, schema: Schema) -> Expr:
    if item.key in schema.fields:
        return F[item.key] == item.value
    first, *inner = names_in(item.key)
    field_ = F.payload[_as_stored(first)]
    for key in inner:
        field_ = field_[key]
    return field_ == item.value
