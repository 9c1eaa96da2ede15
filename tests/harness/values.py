"""Rows, vectors, names and texts for tests of backends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from aiovec import Hit, Record, Schema
from aiovec.backend import Float32Array, pa, python_values

DIM = 4
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

EVERY_KIND = Schema(
    DIM,
    fields={
        "name": str,
        "year": int,
        "score": float,
        "seen": datetime,
        "live": bool,
        "tags": list[str],
    },
)
"""A schema with one field of each kind."""

SMALL = Schema(DIM, fields={"name": str, "year": int})

# Each could break something: quoting, LIKE, JSON, NUL-terminated strings, collation, UTF-16 order,
# normalisation, or trimming.
HOSTILE_TEXTS = (
    "", " ", "'", "''", '"', "`", "\\", "\\'", "%", "_", "a%b_c", "*?[a]",
    "'; DROP TABLE notes; --", '"; DELETE FROM "notes', "NULL", "null", "true", "0", "1e3",
    "nan", "{}", '{"a": 1}', "$.a", "${x}", "{0}", "%s", "?", ":name", "a\nb", "a\r\nb", "\t",
    "a\0b", "\0", "\x01\x1f\x7f", "\u200b", "\ufeff", "\u202e", "é", "e\u0301", "ß", "İ", "ﬁ",
    "日本語", "\uffff", "😀", "👩‍👩‍👧", "\U0010ffff", "x" * 5_000,
)  # fmt: skip

# Valid ids: 1 to 512 bytes without NUL.
HOSTILE_IDS = (
    *(text for text in HOSTILE_TEXTS if text and "\0" not in text and len(text.encode()) <= 512),
    *("A", "a", "a ", " a", "1", "01", "1.0", "-", "..", "/", "a/b", "a.b", "x" * 512, "é" * 256),
)

# Valid field names that are words of SQL or vec0, or likely names in a table's layout.
HOSTILE_NAMES = (
    "select", "SELECT_", "from", "where", "order", "group", "by", "limit", "index", "table",
    "values", "null", "true", "and", "or", "not", "in", "is", "like", "between", "contains",
    "startswith", "timestamp", "rowid", "oid", "rank", "distance", "score", "k", "match",
    "rows", "vec", "vector_bit", "data", "key", "value", "type", "atom", "parent", "fullkey",
    "path", "json", "root", "ids", "r", "item", "j", "count", "length", "case", "cast",
    "element", "rowaddr", "seq", "main", "excluded", "Upper", "x" * 63,
)  # fmt: skip


def vectors(count: int, dim: int = DIM, *, seed: int = 7) -> Float32Array:
    """Return normally distributed vectors, the same ones for the same seed."""
    drawn = np.random.default_rng(seed).standard_normal((count, dim))
    return drawn.astype(np.float32)


def rows_of_every_kind(count: int, *, seed: int = 7) -> list[dict[str, Any]]:
    """Return rows for ``EVERY_KIND``, with every fifth field null, and with payload keys."""
    made = []
    for i, vector in enumerate(vectors(count, seed=seed)):
        row: dict[str, Any] = {
            "id": f"r{i:04}",
            "embedding": vector,
            "name": f"name {i % 7}",
            "year": 2000 + i % 30,
            "score": i / 8 - 3,
            "seen": EPOCH + timedelta(days=i * 100, microseconds=i),
            "live": i % 3 == 0,
            "tags": [f"t{i % 4}", f"t{i % 6}"],
            "kind": "x" if i % 2 else "y",
            "nested": {"number": i, "list": [i, "a", None]},
        }
        for n, name in enumerate(("name", "year", "score", "seen", "live", "tags")):
            if (i + n) % 5 == 0:
                row[name] = None
        made.append(row)
    return made


def small_rows(count: int, *, start: int = 0, seed: int = 7, **fields: Any) -> list[dict[str, Any]]:
    """Return rows for ``SMALL`` with the ids ``r0000``, ``r0001`` and so on."""
    return [
        {"id": f"r{start + i:04}", "embedding": vector, "name": "n", "year": start + i, **fields}
        for i, vector in enumerate(vectors(count, seed=seed + start))
    ]


def in_forms(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the same rows in the forms that differ most: mappings, columns and Arrow."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {"mappings": rows, "columns": columns, "Arrow": pa.table(dict(columns))}


def python_rows(rows: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """Convert Arrow rows to mappings, without a time-zone lookup, which would block the loop."""
    columns = [python_values(column) for column in rows.columns]
    names = rows.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def ids_of(matches: Iterable[Record | Hit]) -> list[str]:
    return [item.id for item in matches]


def flat(row: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Return a row's fields as the store returns them: all declared fields, and the payload."""
    own = {key: value for key, value in row.items() if key not in ("id", schema.vector)}
    return dict.fromkeys(schema.fields) | own


def same_value(one: Any, other: Any) -> bool:
    """Return whether values are equal; 1, 1.0 and True differ, at every depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same_value(one[k], other[k]) for k in one)
    if isinstance(one, datetime):
        return bool(one == other and one.utcoffset() == other.utcoffset())
    return bool(one == other)


def assert_same_fields(
    given: Mapping[str, Any], expected: Mapping[str, Any], label: str = "row"
) -> None:
    """Fail if fields are missing or not expected, or with the first field that differs."""
    absent, extra = expected.keys() - given.keys(), given.keys() - expected.keys()
    assert not absent, f"{label}: absent {sorted(absent)}"
    assert not extra, f"{label}: too many {sorted(extra)}"
    for name, value in expected.items():
        assert same_value(given[name], value), (
            f"{label}: field {name!r} is {given[name]!r:.200}, not {value!r:.200}"
        )


def assert_same_rows(
    matches: Sequence[Record], expected: Sequence[Mapping[str, Any]], schema: Schema
) -> None:
    """Check that these are the same rows in the same order, with the same vectors and fields."""
    assert ids_of(matches) == [row["id"] for row in expected]
    for record, row in zip(matches, expected, strict=True):
        assert_same_fields(record.fields, flat(row, schema), f"row {record.id!r}")
        vector = np.asarray(row[schema.vector], dtype=np.float32)
        assert record.vector is not None, f"row {record.id!r} came without its vector"
        assert record.vector.dtype == np.float32
        assert np.array_equal(record.vector, vector), f"row {record.id!r}: another vector"
