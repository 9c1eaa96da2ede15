"""A simple, slow model of the contract, with Python dicts and float64 arithmetic.

Tests compare the backends with it. It shares no code with the path of a real row, and evaluates
filter trees with ``tests.harness.evaluate``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from tests.harness.evaluate import counted, ends_of, in_order, truth, within
from tests.harness.values import assert_same_fields

from aiovec import REMOVE, Counts, Field, Hit, Schema
from aiovec.backend import Expr, Float32Array, Float64Array, Ref, Value, pa
from aiovec.backend.contract import Order
from aiovec.errors import (
    AiovecError,
    DimensionMismatchError,
    DuplicateIdError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidRowError,
    InvalidVectorError,
    ModelMismatchError,
    SchemaMismatchError,
    TableExistsError,
    TableNotFoundError,
)

Where = Expr | None


@dataclass
class OracleRow:
    """A row: its vector, its declared fields, and its payload."""

    id: str
    vector: Float32Array | None
    fields: dict[str, Any]
    payload: dict[str, Any]

    def flat(self) -> dict[str, Any]:
        """Return the fields as a user gets them; a field hides a payload key of its name."""
        return {**self.payload, **self.fields}


def _value_in(row: OracleRow, ref: Ref) -> object:
    if ref.path:
        return within(row.payload, ref.path)
    return row.id if ref.name == "id" else row.fields[ref.name]


_NAME = re.compile(r'"((?:[^"]|"")*)"|([^.]+)')


def _ref(name: str) -> Ref:
    """Parse the name of a field or of a payload key."""
    first, *path = (quoted.replace('""', '"') or plain for quoted, plain in _NAME.findall(name))
    return Ref(first, tuple(path))


def _order(order_by: str | Sequence[str] | None, descending: bool) -> list[Order]:
    keys = [order_by] if isinstance(order_by, str) else list(order_by or ["id"])
    order = [Order(_ref(k.removeprefix("-")), k.startswith("-") != descending) for k in keys]
    return [*order, Order(Ref("id"))]


@dataclass(frozen=True)
class OracleHit:
    """A row that a search could return. ``scale`` is the size of the numbers in its distance."""

    row: OracleRow
    distance: float
    score: float
    scale: float


@dataclass(frozen=True)
class OracleHits:
    """All rows that the filter selects, nearest first, and the limit of the search."""

    candidates: list[OracleHit]
    limit: int


@dataclass
class OracleTable:
    schema: Schema
    rows: dict[str, OracleRow] = field(default_factory=dict)


class Oracle:
    """Tables and their rows, with the methods of ``VectorStore`` and its errors."""

    def __init__(self) -> None:
        self.held: dict[str, OracleTable] = {}

    # Tables

    def create_table(self, table: str, schema: Schema, *, exist_ok: bool = False) -> Schema:
        held = self.held.get(table)
        if held is None:
            held = self.held[table] = OracleTable(schema)
        elif not exist_ok:
            raise TableExistsError(table)
        elif held.schema != schema:
            if Schema.from_json({**schema.to_dict(), "model": held.schema.model}) == held.schema:
                raise ModelMismatchError(table, held.schema.model, schema.model)
            raise SchemaMismatchError(table, ["another schema"])
        return held.schema

    def add_field(self, table: str, name: str, field: Field) -> None:
        held = self._table(table)
        taken = {"id", "payload", held.schema.vector.lower(), *map(str.lower, held.schema.fields)}
        if name.lower() in taken:
            raise InvalidNameError(name, "field", "it is taken")
        held.schema = held.schema.with_field(name, field)
        for row in held.rows.values():
            row.fields[name] = None

    def drop_field(self, table: str, field: str) -> None:
        held = self._table(table)
        self._check_field(held, field)
        held.schema = held.schema.without_field(field)
        for row in held.rows.values():
            del row.fields[field]

    def rename_field(self, table: str, old: str, new: str) -> None:
        held = self._table(table)
        self._check_field(held, old)
        held.schema = held.schema.with_renamed_field(old, new)
        for row in held.rows.values():
            row.fields[new] = row.fields.pop(old)

    def rename_table(self, old: str, new: str) -> None:
        self.held[new] = self.held.pop(old)

    def drop_table(self, table: str, *, missing_ok: bool = False) -> None:
        if not missing_ok:
            self._table(table)
        self.held.pop(table, None)

    def tables(self) -> list[str]:
        return sorted(self.held)

    def schema(self, table: str) -> Schema:
        return self._table(table).schema

    # Writing

    def insert(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        on_conflict: str = "fail",
        model: str | None = None,
    ) -> int:
        if on_conflict == "replace":
            return self.upsert(table, rows, model=model)
        held = self._table(table)
        added = self._checked(table, rows, model)
        if on_conflict == "skip":
            new = {row.id: row for row in reversed(added) if row.id not in held.rows}
            held.rows |= new
            return len(new)
        ids = [row.id for row in added]
        if len(set(ids)) != len(ids):
            repeated = sorted({id for id in ids if ids.count(id) > 1})
            raise DuplicateIdError(table, repeated, within_call=True)
        if known := [id for id in ids if id in held.rows]:
            raise DuplicateIdError(table, known)
        held.rows |= {row.id: row for row in added}
        return len(added)

    def upsert(
        self, table: str, rows: Sequence[Mapping[str, Any]], *, model: str | None = None
    ) -> int:
        held = self._table(table)
        added: dict[str, OracleRow] = {}
        for row in self._checked(table, rows, model):
            added.pop(row.id, None)
            added[row.id] = row
        for id, row in added.items():
            now = held.rows.get(id, row).fields
            for name, declared in held.schema.fields.items():
                if declared.partition and now[name] != row.fields[name]:
                    raise InvalidRowError("in another partition", id=id, field=name)
        held.rows |= added
        return len(added)

    def update(
        self,
        table: str,
        fields: Mapping[str, Any],
        *,
        ids: Iterable[str] | None = None,
        where: Where = None,
    ) -> int:
        if ids is None and where is None:
            raise InvalidArgumentError(
                "ids or where", None, "given; to update every row pass where='TRUE'"
            )
        held = self._table(table)
        schema = held.schema
        values = {
            name: _value(name, schema.fields[name], value, None, None)
            for name, value in fields.items()
            if name in schema.fields
        }
        payload = {
            (_ref(name).path if name.startswith("payload.") else (name,)): value
            for name, value in fields.items()
            if name not in schema.fields
        }
        if payload and not schema.payload:
            raise InvalidRowError("not declared", field=next(iter(payload))[0])
        wanted = None if ids is None else {ids} if isinstance(ids, str) else set(ids)
        selected = [r for r in self._selected(held, where) if wanted is None or r.id in wanted]
        changed = [_changed(row.payload, payload, row.id) for row in selected]
        for row, new in zip(selected, changed, strict=True):
            row.fields |= values
            row.payload = new
        return len(selected)

    def update_rows(
        self, table: str, rows: Sequence[Mapping[str, Any]], *, strict: bool = False
    ) -> int:
        """Make one update for each row, or change nothing."""
        held = self._table(table)
        ids = [row["id"] for row in rows]
        if len(set(ids)) < len(ids):
            raise InvalidRowError("twice", id=next(id for id in ids if ids.count(id) > 1))
        before = {id: replace(row, fields=dict(row.fields)) for id, row in held.rows.items()}
        own = {"id", held.schema.vector}
        try:
            for row in rows:
                fields = {key: value for key, value in row.items() if key not in own}
                self.update(table, fields, ids=[row["id"]])
            if strict and (missing := set(ids) - held.rows.keys()):
                raise InvalidRowError(f"missing: {missing}")
        except AiovecError:
            held.rows = before
            raise
        given = [row for row in rows if held.schema.vector in row]
        vectors = [row[held.schema.vector] for row in given]
        self.set_vectors(table, [row["id"] for row in given], vectors)
        return len(set(ids) & held.rows.keys())

    def set_vectors(
        self,
        table: str,
        ids: Sequence[str],
        vectors: Sequence[Any],
        *,
        model: str | None = None,
    ) -> int:
        held = self._table(table)
        _check_model(table, held.schema, model)
        if len(ids) != len(vectors):
            expected = f"a sequence of {len(ids)} vectors, one for each id"
            raise InvalidArgumentError("vectors", len(vectors), expected)
        given = zip(ids, vectors, strict=True)
        new = {id: _vector(v, held.schema, n, id) for n, (id, v) in enumerate(given)}
        result = [held.rows[id] for id in new if id in held.rows]
        for row in result:
            row.vector = new[row.id]
        return len(result)

    def delete(
        self, table: str, ids: str | Iterable[str] | None = None, *, where: Expr | None = None
    ) -> int:
        held = self._table(table)
        selected = self._selected(held, where)
        if ids is not None:
            wanted = {ids} if isinstance(ids, str) else set(ids)
            selected = [row for row in selected if row.id in wanted]
        for row in selected:
            del held.rows[row.id]
        return len(selected)

    # Reading

    def exists(self, table: str, ids: Iterable[str]) -> set[str]:
        return set(ids) & self._table(table).rows.keys()

    def get(self, table: str, ids: str | Iterable[str]) -> list[OracleRow]:
        held = self._table(table)
        wanted = [ids] if isinstance(ids, str) else list(ids)
        return [held.rows[id] for id in wanted if id in held.rows]

    def find(
        self,
        table: str,
        where: Where = None,
        *,
        order_by: str | Sequence[str] | None = None,
        descending: bool = False,
        limit: int = 100,
        offset: int = 0,
    ) -> list[OracleRow]:
        held = self._table(table)
        rows = in_order(self._selected(held, where), _order(order_by, descending), _value_in)
        return rows[offset : offset + limit]

    def search(
        self,
        table: str,
        vector: Any,
        *,
        limit: int = 10,
        where: Where = None,
        model: str | None = None,
    ) -> OracleHits:
        held = self._table(table)
        _check_model(table, held.schema, model)
        query = _vector(vector, held.schema, None, None).astype(np.float64)
        rows = [row for row in self._selected(held, where) if row.vector is not None]
        hits = [_hit(held.schema.metric, query, row) for row in rows]
        hits.sort(key=lambda hit: (hit.distance, hit.row.id))
        return OracleHits(hits, limit)

    def distinct(
        self, table: str, field: str, where: Where = None, limit: int | None = None
    ) -> Counts:
        held = self._table(table)
        ref = self._summarized(held.schema, field, lists=True)
        return Counts(counted(self._selected(held, where), ref, _value_in)[:limit])

    def bounds(self, table: str, field: str, where: Where = None) -> tuple[Value, Value] | None:
        held = self._table(table)
        ref = self._summarized(held.schema, field, lists=False)
        return ends_of(self._selected(held, where), ref, _value_in)

    def count(self, table: str, where: Where = None) -> int:
        return len(self._selected(self._table(table), where))

    def rows(self, table: str, where: Where = None) -> dict[str, OracleRow]:
        """Return the rows of an export by id."""
        return {row.id: row for row in self._selected(self._table(table), where)}

    # Inside

    def _table(self, name: str) -> OracleTable:
        if name not in self.held:
            raise TableNotFoundError(name, self.tables())
        return self.held[name]

    def _checked(
        self, table: str, rows: Sequence[Mapping[str, Any]], model: str | None
    ) -> list[OracleRow]:
        schema = self._table(table).schema
        _check_model(table, schema, model)
        return [checked_row(row, schema, number) for number, row in enumerate(rows)]

    @staticmethod
    def _check_field(table: OracleTable, name: str) -> None:
        if name not in table.schema.fields:
            raise InvalidArgumentError("field", name, "a field of the table")

    @staticmethod
    def _summarized(schema: Schema, name: str, *, lists: bool) -> Ref:
        ref = _ref(name)
        if ref.path and not schema.payload:
            raise InvalidArgumentError("field", name, "a field of the table")
        if not lists and not ref.path and name != "id" and schema.fields[name].is_list:
            raise InvalidArgumentError("field", name, "a field with an order")
        return ref

    @staticmethod
    def _selected(table: OracleTable, where: Where) -> list[OracleRow]:
        rows = list(table.rows.values())
        if where is None:
            return rows
        condition = where.as_condition()
        return [row for row in rows if truth(condition, partial(_value_in, row)) is True]


def arrow_table(rows: Sequence[Mapping[str, Any]], schema: Schema) -> pa.Table:
    """Convert valid rows to a table with the layout of ``schema.to_arrow()``."""
    known = {"id", schema.vector, *schema.fields}
    payloads = [{key: row[key] for key in row if key not in known} for row in rows]
    layout = schema.to_arrow()
    columns: list[Any] = []
    for column in layout:
        if column.name == schema.vector:
            given = [row.get(schema.vector) for row in rows]
            whole = [[0.0] * schema.dim if vector is None else vector for vector in given]
            values = pa.array([float(np.float32(x)) for v in whole for x in v], pa.float32())
            mask = pa.array([vector is None for vector in given], pa.bool_())
            columns.append(pa.FixedSizeListArray.from_arrays(values, schema.dim, mask=mask))
        elif column.name == "payload":
            texts = [json.dumps(payload) if payload else None for payload in payloads]
            storage = pa.array(texts, pa.utf8())
            columns.append(pa.ExtensionArray.from_storage(column.type, storage))
        else:
            columns.append(pa.array([row.get(column.name) for row in rows], column.type))
    return pa.Table.from_arrays(columns, schema=layout)


# Checks of the arguments


def _check_model(table: str, schema: Schema, model: str | None) -> None:
    if model is not None and schema.model is not None and model != schema.model:
        raise ModelMismatchError(table, schema.model, model)


def checked_row(row: Mapping[str, Any], schema: Schema, number: int) -> OracleRow:
    """Return a row as it is stored, or raise the error that says why it cannot be."""
    id = row.get("id")
    if not isinstance(id, str) or not 1 <= len(id.encode()) <= 512 or "\0" in id:
        known = id if isinstance(id, str) else None
        raise InvalidRowError("no id", row=number, id=known, field="id")
    given = row.get(schema.vector)
    vector = None
    if given is not None or not schema.vector_nullable:
        vector = _vector(given, schema, number, id)
    fields = {
        name: _value(name, field, row.get(name), number, id)
        for name, field in schema.fields.items()
    }
    payload = {
        key: value
        for key, value in row.items()
        if key not in ("id", schema.vector) and key not in schema.fields
    }
    if payload and not schema.payload:
        raise InvalidRowError("not declared", row=number, id=id, field=next(iter(payload)))
    return OracleRow(id, vector, fields, payload)


def _changed(
    payload: Mapping[str, Any], changes: Mapping[tuple[str, ...], Any], id: str
) -> dict[str, Any]:
    """Return a copy of a payload with keys set or removed at any depth."""
    new = dict(payload)
    for (key, *deeper), value in changes.items():
        held = new.get(key)
        if deeper and value is REMOVE:
            if isinstance(held, dict):
                new[key] = _changed(held, {tuple(deeper): value}, id)
        elif deeper:
            if not isinstance(held, dict | None):
                raise InvalidRowError("no object", id=id, field=".".join(["payload", key, *deeper]))
            new[key] = _changed(held or {}, {tuple(deeper): value}, id)
        elif value is REMOVE:
            new.pop(key, None)
        else:
            new[key] = value
    return new


def _vector(value: Any, schema: Schema, row: int | None, id: str | None) -> Float32Array:
    if value is None:
        raise InvalidVectorError("is missing", row=row, id=id)
    exact = np.asarray(value, dtype=np.float64)
    if len(exact) != schema.dim:
        raise DimensionMismatchError(schema.dim, len(exact), row=row, id=id)
    if not (np.abs(exact) <= np.finfo(np.float32).max).all():  # a NaN is neither
        raise InvalidVectorError("is not finite", row=row, id=id)
    vector = exact.astype(np.float32)
    if schema.metric == "cosine" and not vector.any():
        raise InvalidVectorError("is zero", row=row, id=id)
    return vector


_FITS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "datetime": (datetime,),
    "list[text]": (list,),
    "list[int]": (list,),
    "list[float]": (list,),
}


def _value(name: str, field: Field, value: Any, row: int | None, id: str | None) -> Any:
    if value is None:
        if not field.nullable:
            raise InvalidRowError("must not be null", row=row, id=id, field=name)
        return None
    fits = isinstance(value, _FITS[field.kind])
    if isinstance(value, bool) and field.kind != "bool":
        fits = False
    if isinstance(value, float) and np.isnan(value):
        fits = False
    if isinstance(value, int) and field.kind == "int" and not -(2**63) <= value < 2**63:
        fits = False
    if isinstance(value, datetime) and value.utcoffset() is None:
        fits = False
    if not fits:
        raise InvalidRowError("is of another type", row=row, id=id, field=name)
    if field.kind == "float":
        return float(value)
    if field.kind == "datetime":
        return value.astimezone(UTC)
    if field.is_list:
        item = Field(field.item_kind, nullable=False)
        return [_value(name, item, each, row, id) for each in value]
    return value


# Distances


def _hit(metric: str, query: Float64Array, row: OracleRow) -> OracleHit:
    assert row.vector is not None
    vector = row.vector.astype(np.float64)
    product = float(query @ vector)
    norms = float(np.linalg.norm(query) * np.linalg.norm(vector))
    if metric == "cosine":
        similarity = product / norms
        return OracleHit(row, 1 - similarity, similarity, 1.0)
    if metric == "l2":
        distance = float(np.linalg.norm(query - vector))
        size = float(np.linalg.norm(query) + np.linalg.norm(vector))
        return OracleHit(row, distance, 1 / (1 + distance), max(size, 1.0))
    return OracleHit(row, -product, product, max(norms, 1.0))


def assert_same_hits(hits: Sequence[Hit], oracle_hits: OracleHits, tolerance: float = 1e-5) -> None:
    """Check that hits are as near as the oracle's, best first, and equal ones sorted by id.

    If equal rows straddle the limit, any of them is right. Distances may differ by ``tolerance``
    times the size of the numbers behind them, because backends compute in float32.
    """
    candidates = {hit.row.id: hit for hit in oracle_hits.candidates}
    ids = [hit.id for hit in hits]
    assert len(set(ids)) == len(ids), f"an id came twice among {ids}"
    strangers = [id for id in ids if id not in candidates]
    assert not strangers, f"the filter does not select {strangers}"
    wanted = min(oracle_hits.limit, len(candidates))
    assert len(hits) == wanted, f"{len(hits)} hits came, not {wanted}"
    for hit in hits:
        expected = candidates[hit.id]
        slack = tolerance * expected.scale
        assert hit.distance is not None, f"{hit.id!r} has no distance"
        assert abs(hit.distance - expected.distance) <= slack, (
            f"{hit.id!r} has the distance {hit.distance}, not {expected.distance}"
        )
        assert abs(hit.score - expected.score) <= slack, (
            f"{hit.id!r} has the score {hit.score}, not {expected.score}"
        )
    for better, worse in itertools.pairwise(hits):
        assert better.score >= worse.score, f"{better.id!r} stands before {worse.id!r}"
        if better.score == worse.score and better.distance == worse.distance:
            assert better.id < worse.id, f"equal: {better.id!r} stands before {worse.id!r}"
    if hits:
        # No row that was left out may be nearer than the farthest hit.
        chosen = set(ids)
        farthest = max(candidates[id].distance for id in ids)
        for left_out in oracle_hits.candidates:
            if left_out.row.id in chosen:
                continue
            slack = 2 * tolerance * left_out.scale
            assert left_out.distance >= farthest - slack, (
                f"{left_out.row.id!r} at {left_out.distance} was left out for one at {farthest}"
            )
            break


def assert_same_hit_fields(hits: Sequence[Hit], oracle_hits: OracleHits) -> None:
    """Check that each hit has the fields of its row."""
    rows = {hit.row.id: hit.row for hit in oracle_hits.candidates}
    for hit in hits:
        assert_same_fields(hit.fields, rows[hit.id].flat(), f"hit {hit.id!r}")
