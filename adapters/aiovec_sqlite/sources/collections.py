"""Collections of points: ``vec_{name}``, ``payload_{name}`` and ``_collection_meta``."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiovec.backend import Metric, Schema, read_json
from aiovec.backend.foreign import Chunk, ForeignTable, Reject, legal_table_name

from ..layout import quoted
from .blobs import batches, matrix_of
from .catalog import Catalog
from .tables import as_id

META = "_collection_meta"
_PAYLOAD = {"orig_id", "payload_json"}
_METRICS: dict[str, Metric] = {"cosine": "cosine", "l2": "l2"}

# As aiovec.sync.VectorStore names its vectors, so that it reads them.
_VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Collection:
    vec: str
    payload: str
    key: str
    column: str
    dtype: str


def collections(db: sqlite3.Connection, catalog: Catalog, taken: set[str]) -> list[ForeignTable]:
    """The collections whose two tables are there."""
    if META not in catalog.ordinary:
        return []
    names = [column.name for column in catalog.columns(META)]
    if "name" not in names:
        return []
    model = '"model"' if "model" in names else "NULL"
    found = []
    for name, made_by in db.execute(f"SELECT name, {model} FROM {META} ORDER BY 1").fetchall():
        vec, payload = f"vec_{name}", f"payload_{name}"
        declared = catalog.vec0(vec) if vec in catalog else None
        if declared is None or payload not in catalog or len(declared.vectors) != 1:
            continue
        if not {column.name for column in catalog.columns(payload)} >= _PAYLOAD:
            continue  # called so by chance
        vector = declared.vectors[0]
        if vector.element == "bit":
            continue
        table = legal_table_name(name, taken)
        taken.add(table)
        notes = []
        if vector.metric not in _METRICS:
            notes.append(f"the metric {vector.metric} is unknown to aiovec; the table gets l2")
        schema = Schema(
            vector.dim, metric=_METRICS.get(vector.metric, "l2"), model=made_by or None,
            vector=_VECTOR,
        )  # fmt: skip
        part = Collection(vec, payload, declared.key, vector.name, vector.element)
        found.append(
            ForeignTable(
                table, name, "collection", catalog.count(vec), schema, tuple(notes), part=part
            )
        )
    return found


def read(db: sqlite3.Connection, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
    """The points of a collection, and as rejects those of which one half is missing."""
    part: Collection = table.part
    key = "rowid" if part.key == "rowid" else quoted(part.key)
    sql = (
        f"SELECT v.{key}, v.{quoted(part.column)}, p.orig_id, p.payload_json, p.rowid "
        f"FROM {quoted(part.vec)} v LEFT JOIN {quoted(part.payload)} p ON p.rowid = v.{key}"
    )
    for found in batches(db, sql, (), size):
        yield _chunk(part, found, schema)
    sql = (
        f"SELECT rowid, orig_id FROM {quoted(part.payload)} "
        f"WHERE rowid NOT IN (SELECT {key} FROM {quoted(part.vec)})"
    )
    for lonely in batches(db, sql, (), size):
        yield Chunk(
            [], [], [Reject(rowid, _shown(id), "the vector is missing") for rowid, id in lonely]
        )


def _chunk(part: Collection, found: list[tuple[Any, ...]], schema: Schema) -> Chunk:
    matrix, good, faults = matrix_of([row[1] for row in found], schema.dim, part.dtype)
    rejects = [Reject(found[i][0], _shown(found[i][2]), why) for i, why in faults.items()]
    rows: list[dict[str, Any]] = []
    places: list[int | str] = []
    chosen = (row for row, right in zip(found, good.tolist(), strict=True) if right)
    # Such keys get a ``_`` more, as aiovec.sync.VectorStore stores and reads them.
    reserved = re.compile(rf"_*(id|{_VECTOR}|{schema.vector})\Z")
    for (rowid, _, id, text, there), vector in zip(chosen, matrix, strict=True):
        if there is None:
            rejects.append(Reject(rowid, None, f"it has no row in {part.payload}"))
            continue
        try:
            payload = read_json(text.decode() if isinstance(text, bytes) else text) if text else {}
        except (ValueError, TypeError, RecursionError) as exc:
            rejects.append(Reject(rowid, _shown(id), f"the payload is not JSON: {exc}"))
            continue
        if not isinstance(payload, dict):
            rejects.append(Reject(rowid, _shown(id), "the payload is not a JSON object"))
            continue
        row = {f"_{key}" if reserved.match(key) else key: value for key, value in payload.items()}
        rows.append({**row, "id": as_id(id), schema.vector: vector})
        places.append(rowid)
    return Chunk(rows, places, rejects)


def _shown(value: Any) -> str | None:
    return None if value is None or isinstance(value, bytes) else str(value)
