"""A sample of a table's vectors in two dimensions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from aiovec.backend.threads import in_thread
from aiovec.errors import InvalidArgumentError

if TYPE_CHECKING:
    from aiovec import Record, Results, Schema, VectorStore

MAX_ROWS = 2_000
# What a map holds at most, in numbers of its vectors: 2,000 rows of 1,024 dimensions, 8 MB.
_MAX_NUMBERS = 2_048_000
WALKED = 1_000_000
"""Rows of a table that a sample is spread over; of a larger table, the first ones. SQLite walks
300,000 rows in a second."""
_BATCH = 2_000
# Power iteration: this many directions for the two that are asked for, so that it converges soon.
_DIRECTIONS = 8
_ROUNDS = 16
_GROUPS = 7
"""Values that have a colour of their own; the others share one."""
_LABEL = 120
NO_COLOR = "-"


async def map_of(
    store: VectorStore, table: str, *, rows: int, color: str | None = None
) -> dict[str, Any]:
    """Return the places of a sample of rows, with what their points show.

    ``color`` is the field whose most frequent values get a group each, ``NO_COLOR`` none. By
    default it is the first field that has a few values.
    """
    began = time.perf_counter()
    schema = await store.schema(table)
    if color not in (None, NO_COLOR) and color not in schema.fields:
        expected = "a field of the table: " + (", ".join(schema.fields) or "it has none")
        raise InvalidArgumentError("color", color, expected)
    total = await store.count(table)
    label = label_field(schema)
    colors = [color] if color is not None else _colors(schema, label)
    names = dict.fromkeys((label, *colors))
    select = [name for name in names if name is not None and name != NO_COLOR]
    size = max(1, min(rows, MAX_ROWS, _MAX_NUMBERS // schema.dim))
    found = await _sample(store, table, size, total, select)
    if color is None:
        color = next((name for name in colors if _has_few_values(found, name)), NO_COLOR)
    color = None if color == NO_COLOR else color
    answer = await in_thread(_layout, found, schema.metric, label, color)
    return {**answer, "total": total, "of": min(total, WALKED), "label": label, "color": color,
            "seconds": round(time.perf_counter() - began, 6)}  # fmt: skip


def label_field(schema: Schema) -> str | None:
    """Return the field that says most of a row: one for keyword search, else the first text."""
    texts = [name for name, field in schema.fields.items() if field.type is str]
    return next((name for name in texts if schema.fields[name].text), next(iter(texts), None))


def _colors(schema: Schema, label: str | None) -> list[str]:
    """Return the fields that may have few values."""
    kinds = (str, bool, int, list[str])
    return [
        name for name, field in schema.fields.items()
        if name != label and field.type in kinds and not field.text
    ]  # fmt: skip


def _has_few_values(found: Results[Record], name: str) -> bool:
    values = {_group_of(record[name]) for record in found if record[name] is not None}
    return 1 < len(values) <= min(_GROUPS, len(found) // 2)


async def _sample(
    store: VectorStore, table: str, size: int, total: int, select: list[str]
) -> Results[Record]:
    """Return rows of chance from all over the table, the same each time.

    The ids alone are walked: that is fast in either backend, where an offset into a large table is
    not. Rows that are deleted meanwhile are left out.
    """
    among = range(min(total, WALKED))
    places = np.sort(Random(0).sample(among, min(size, len(among))))
    ids: list[str] = []
    walked = 0
    export = store.export(table, select=[], batch_size=_BATCH)
    async with aclosing(export) as batches:
        async for batch in batches:
            if len(ids) == len(places):
                break
            within = places[len(ids) : np.searchsorted(places, walked + batch.num_rows)]
            ids += batch["id"].take(within - walked).to_pylist()
            walked += batch.num_rows
    return await store.get(table, ids, select=select, include_vector=True)


def _layout(
    found: Results[Record], metric: str, label: str | None, color: str | None
) -> dict[str, Any]:
    placed = [record for record in found if record.vector is not None]
    places, explained = principal_components(
        [one.vector for one in placed], unit=metric == "cosine"
    )
    groups, members = _groups(placed, color)
    return {
        "rows": len(placed),
        "without": len(found) - len(placed),
        "explained": explained.round(4).tolist(),
        "ids": [record.id for record in placed],
        "x": places[:, 0].round(4).tolist(),
        "y": places[:, 1].round(4).tolist(),
        "labels": [None if label is None else _short(record[label]) for record in placed],
        "groups": groups,
        "members": members,
    }


def principal_components(vectors: Sequence[Any], *, unit: bool) -> tuple[Any, Any]:
    """Return each vector's place along the two directions in which they differ most, and which
    share of their variance each direction has.

    Places lie between -1 and 1. The same vectors get the same places. With ``unit``, vectors are
    scaled to length one before, for their lengths do not count.
    """
    places, explained = np.zeros((len(vectors), 2)), np.zeros(2)
    if not vectors:
        return places, explained
    data = np.array(vectors, np.float64)  # the squares of float32 numbers cannot overflow there
    dim = data.shape[1]
    if unit:
        data /= np.maximum(np.linalg.norm(data, axis=1, keepdims=True), 1e-300)
    least = 1e-12 * float(np.einsum("ij,ij->", data, data))
    data -= data.mean(axis=0)
    variance = float(np.einsum("ij,ij->", data, data))
    if variance <= least:
        return places, explained  # they are all the same
    start = np.random.default_rng(7).normal(size=(dim, min(_DIRECTIONS, dim)))
    directions, _ = np.linalg.qr(start)
    for _ in range(_ROUNDS):
        directions, _ = np.linalg.qr(data.T @ (data @ directions))
    # The best two within the space that was found.
    left, values, _ = np.linalg.svd(data @ directions, full_matrices=False)
    found = min(2, len(values))
    axes = left[:, :found] * values[:found]
    places[:, :found] = axes / max(float(np.abs(axes).max()), 1e-300)
    explained[:found] = values[:found] ** 2 / variance
    return places, explained


def _groups(placed: list[Record], color: str | None) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Return the groups, the largest first, and for each record the number of its group."""
    if color is None:
        return [], []
    texts = [_group_of(record[color]) for record in placed]
    counts = sorted(Counter(texts).items(), key=lambda one: (-one[1], one[0]))
    numbers = {text: min(n, _GROUPS) for n, (text, _) in enumerate(counts)}
    groups: list[Mapping[str, Any]] = [{"name": name, "rows": n} for name, n in counts[:_GROUPS]]
    if others := counts[_GROUPS:]:
        rows = sum(n for _, n in others)
        groups.append({"name": None, "values": len(others), "rows": rows})
    return groups, [numbers[text] for text in texts]


def _group_of(value: object) -> str:
    if value is None:
        return "(null)"
    if isinstance(value, list):
        return ", ".join(map(str, value))[:_LABEL] or "(empty)"
    return str(value)[:_LABEL]


def _short(value: object) -> str | None:
    return None if value is None else str(value)[:_LABEL]
