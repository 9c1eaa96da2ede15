"""Counts of each value, and the least and the greatest, of a field, the id or a payload key.

Lance has no aggregates, so the one column is read batch by batch, and Arrow adds the batches up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Expr, Ref, Value, python_values
from aiovec.backend.threads import hop

from .reads import condition_of, filtered
from .session import Opened, Session
from .sorting import NUMBER_KIND, TEXT_KIND, parts_of
from .sql.values import PayloadValue, name

# Different values that are held beside those that were added up already.
MOST_HELD = 65_536
_BATCH = 8192
# Texts of JSON that are parsed at once, which holds up every thread meanwhile.
_PARSED_AT_ONCE = 1024
# Bytes of texts and lists that take as long to go through as one short value.
_BYTES_A_VALUE = 64
_PARTS = ("type", "number", "rest", "text")


async def value_counts(
    session: Session, table: Opened, ref: Ref, where: Expr | None, limit: int | None
) -> list[tuple[Value, int]]:
    held: list[pa.Table] = []
    rows = 0
    async for values in _batches(session, table, ref, where):
        held.append(await hop(_effort(values), partial(_counted, values)))
        rows += held[-1].num_rows
        if rows > MOST_HELD + held[0].num_rows:
            held = [await hop(rows, partial(_added, held, ["value"]))]
            rows = held[0].num_rows
    if not held:
        return []
    most_frequent = _most_frequent_in_payload if ref.path else _most_frequent
    return await hop(sum(map(_effort, held)), partial(most_frequent, held, limit))


def _effort(values: pa.Array | pa.Table) -> int:
    """Return how many values it takes to go through these, of which few may be long."""
    return len(values) + int(values.nbytes) // _BYTES_A_VALUE


async def bounds(
    session: Session, table: Opened, ref: Ref, where: Expr | None
) -> tuple[Value, Value] | None:
    ends_of = _ends_in_payload if ref.path else _ends
    ends: pa.Table | None = None
    async for values in _batches(session, table, ref, where):
        ends = await hop(_effort(values), partial(ends_of, values, ends))
    if ends is None or not ends.num_rows:
        return None
    values = _of_parts(ends) if ref.path else python_values(ends.column("value"))
    return values[0], values[-1]


async def _batches(
    session: Session, table: Opened, ref: Ref, where: Expr | None
) -> AsyncIterator[pa.Array]:
    """The values batch by batch; those of the payload as JSON text."""
    column = PayloadValue(ref.path).as_scalar if ref.path else name(ref.name)
    query = table.lance.query().select({"value": column})
    query = await filtered(query, await condition_of(where))
    batches = await session.run(query.to_batches(max_batch_length=_BATCH))
    with session.guarded():
        async for batch in batches:
            yield batch.column("value")


def _counted(values: pa.Array) -> pa.Table:
    """The different values of a batch and the number of rows that have each."""
    if pa.types.is_list(values.type):
        pairs = pa.table({"row": pc.list_parent_indices(values), "value": pc.list_flatten(values)})
        values = pairs.group_by(["row", "value"]).aggregate([]).column("value")
    counts = pc.value_counts(values.drop_null())
    if isinstance(counts, pa.ChunkedArray):
        counts = counts.combine_chunks()
    return pa.table({"value": counts.field("values"), "count": counts.field("counts")})


def _added(tables: Sequence[pa.Table], keys: list[str]) -> pa.Table:
    table = pa.concat_tables(tables)
    more = [("is_int", "max")] if "is_int" in table.column_names else []
    added = table.group_by(keys).aggregate([("count", "sum"), *more])
    names = {"count_sum": "count", "is_int_max": "is_int"}
    return added.rename_columns([names.get(column, column) for column in added.column_names])


def _first(table: pa.Table, keys: Sequence[str], limit: int | None) -> pa.Table:
    """The most frequent values, equally frequent ones in the order of ``keys``."""
    order = [("count", "descending"), *((key, "ascending") for key in keys)]
    places = pc.sort_indices(table, sort_keys=order)
    return table.take(places if limit is None else places.slice(0, min(limit, len(places))))


def _most_frequent(held: list[pa.Table], limit: int | None) -> list[tuple[Value, int]]:
    first = _first(_added(held, ["value"]), ["value"], limit)
    return _pairs(python_values(first.column("value")), first)


def _most_frequent_in_payload(held: list[pa.Table], limit: int | None) -> list[tuple[Value, int]]:
    counts = _added(held, ["value"])
    parsed = []
    for start in range(0, counts.num_rows, _PARSED_AT_ONCE):
        part = counts.slice(start, _PARSED_AT_ONCE)
        columns = _parted(part.column("value"))
        columns = columns.append_column("count", part.column("count"))
        parsed.append(columns.filter(pc.field("type").is_valid()))
    # 1 and 1.0 are one value.
    first = _first(_added(parsed, list(_PARTS)), _PARTS, limit) if parsed else counts
    return _pairs(_of_parts(first), first) if parsed else []


def _pairs(values: Sequence[Value], table: pa.Table) -> list[tuple[Value, int]]:
    return list(zip(values, cast("list[int]", table.column("count").to_pylist()), strict=True))


def _ends(values: pa.Array, before: pa.Table | None) -> pa.Table:
    found = pc.min_max(values)
    ends = pa.chunked_array([pa.array([found["min"], found["max"]], values.type).drop_null()])
    if before is not None:
        ends = pa.chunked_array([*before.column("value").chunks, *ends.chunks], values.type)
    found = pc.min_max(ends)
    return pa.table({"value": pa.array([found["min"], found["max"]], values.type).drop_null()})


def _ends_in_payload(values: pa.Array, before: pa.Table | None) -> pa.Table:
    parts = [] if before is None else [before]
    parts += [
        _parted(values.slice(start, _PARSED_AT_ONCE).drop_null())
        for start in range(0, len(values), _PARSED_AT_ONCE)
    ]
    table = pa.concat_tables(parts).filter(pc.field("type").is_valid())
    places = pc.sort_indices(table, sort_keys=[(part, "ascending") for part in _PARTS])
    if len(places) > 2:
        places = pa.array([places[0].as_py(), places[-1].as_py()], pa.uint64())
    return table.take(places)


def _parted(texts: Any) -> pa.Table:
    """JSON texts of scalars as columns by which Arrow compares them."""
    listed = texts.to_pylist()
    is_int = [not ("." in text or "e" in text or "E" in text) for text in listed]
    columns = dict(zip(_PARTS, parts_of(listed), strict=True))
    return pa.table({**columns, "is_int": pa.array(is_int, pa.bool_())})


def _of_parts(table: pa.Table) -> list[Value]:
    """The values of which ``_parted`` made columns."""
    values: list[Value] = []
    columns = [table.column(column).to_pylist() for column in (*_PARTS, "is_int")]
    for kind, number, rest, text, is_int in zip(*columns, strict=True):
        if kind == TEXT_KIND:
            values.append(text)
        elif kind == NUMBER_KIND:
            values.append(int(number) + rest if is_int else number)
        else:
            values.append(bool(number))
    return values
