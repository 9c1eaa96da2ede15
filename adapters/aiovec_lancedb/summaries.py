"""Count the values, or find the smallest and largest value, of a field, the id or a payload key.

Lance has no aggregates, so the column is read batch by batch.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from aiovec.backend import Expr, Ref, Value, python_values
from aiovec.backend.contract import Columns, TableHandle
from aiovec.backend.threads import hop

from .reads import MOST, condition_of
from .session import Batches, Snapshot
from .sorting import kind_of
from .sql.values import PayloadValue, name
from .table import Versions

# The number of rows or values processed at a time, which blocks every Python thread for about 1 ms.
BATCH = 2048
# The most distinct values that are counted with a small share of the memory. With more values, the
# share assumes that each row has a distinct value.
_FEW = 20_000
# The number of bytes of texts and lists that take as long to process as one short value.
BYTES_A_VALUE = 64

_Key = tuple[int, Any]
"""A sort key: the rank of the value's type in aiovec's order of types, and the value."""


async def value_counts(
    versions: Versions, handle: TableHandle, ref: Ref, where: Expr | None, limit: int | None
) -> list[tuple[Value, int]]:
    """Return the most frequent values and their counts. Values with equal counts are sorted."""
    columns = Columns((), payload=True) if ref.path else Columns((ref.name,))
    for most in (_FEW, MOST):
        async with versions.reading(handle, most, columns) as table:
            counts = await _value_counts(table, ref, where, limit, most)
        if counts is not None:
            break
    return counts or []


async def _value_counts(
    table: Snapshot, ref: Ref, where: Expr | None, limit: int | None, most: int
) -> list[tuple[Value, int]] | None:
    """Return the values and their counts; None if the column has more than ``most`` distinct
    values."""
    counts: Counter[_Key] = Counter()
    ints: set[_Key] = set()

    def add(values: pa.Array) -> None:
        keys = _keys(values, ref)
        counts.update(keys)
        # 1 and 1.0 are one value, which is an int if any of its occurrences is.
        ints.update(key for key in keys if type(key[1]) is int)

    column = PayloadValue(ref.path).as_items if ref.path else name(ref.name)
    async for batch in await _batches(table, column, where):
        await hop(_cost(batch), add, batch.column("value"))
        if len(counts) > most:
            return None

    def most_frequent() -> list[tuple[Value, int]]:
        pairs = [(-count, key) for key, count in counts.items()]
        sorted_parts = [sorted(pairs[n : n + BATCH]) for n in range(0, len(pairs), BATCH)]
        first = islice(heapq.merge(*sorted_parts), limit)
        return [(int(key[1]) if key in ints else key[1], -count) for count, key in first]

    return await hop(len(counts), most_frequent)


async def bounds(table: Snapshot, ref: Ref, where: Expr | None) -> tuple[Value, Value] | None:
    """Return the smallest and the largest value; None if no row has a value."""
    ends: list[_Key] = []

    def widen(values: pa.Array) -> list[_Key]:
        keys = [*ends, *_keys(values, ref)]
        return [min(keys), max(keys)] if keys else []

    column = PayloadValue(ref.path).as_scalar if ref.path else name(ref.name)
    async for batch in await _batches(table, column, where):
        ends = await hop(_cost(batch), widen, batch.column("value"))
    return (ends[0][1], ends[1][1]) if ends else None


def _cost(batch: pa.RecordBatch) -> int:
    """Return the cost of processing the batch, measured in short values."""
    return int(batch.num_rows + batch.get_total_buffer_size() // BYTES_A_VALUE)


async def _batches(table: Snapshot, column: str, where: Expr | None) -> Batches:
    """Start reading a column, given as SQL. Payload values are read as JSON text."""
    query = table.lance.query().select({"value": column})
    return await table.session.batches(query, BATCH, await condition_of(where))


def _keys(values: pa.Array, ref: Ref) -> list[_Key]:
    """Return a key for each value that is not null; for a list, one for each distinct item."""
    # Values of nested payload keys may be text views, from which Arrow cannot drop nulls.
    present = [value for value in python_values(values) if value is not None]
    if not ref.path:
        if pa.types.is_list(values.type):
            return [(0, item) for items in present for item in set(items)]
        return [(0, value) for value in present]
    keys: list[_Key] = []
    for value in json.loads(f"[{','.join(present)}]"):
        if isinstance(value, list):  # of 1 and 1.0, the set keeps the first
            keys += {*sorted(_scalars(value), key=lambda key: type(key[1]) is float)}
        else:
            keys += _scalars([value])
    return keys


def _scalars(values: Iterable[Any]) -> Iterator[_Key]:
    """Yield the keys of payload values, except null, lists and objects."""
    for value in values:
        if (kind := kind_of(value)) is not None:
            yield kind, value + 0.0 if isinstance(value, float) else value
