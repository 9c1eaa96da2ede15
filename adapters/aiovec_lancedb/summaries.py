"""Counts of each value, and the least and the greatest, of a field, the id or a payload key.

Lance has no aggregates, so the one column is read batch by batch, and Arrow adds the batches up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

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
            held = [await hop(rows, partial(_added, held))]
            rows = held[0].num_rows
    if not held:
        return []
    effort = sum(map(_effort, held))
    return await hop(effort, partial(_most_frequent, held, limit, in_payload=bool(ref.path)))


def _effort(values: pa.Array | pa.Table) -> int:
    """Return how many values it takes to go through these, of which few may be long."""
    return len(values) + int(values.nbytes) // _BYTES_A_VALUE


async def bounds(
    session: Session, table: Opened, ref: Ref, where: Expr | None
) -> tuple[Value, Value] | None:
    ends: list[pa.Table] = []
    async for values in _batches(session, table, ref, where):
        work = partial(_ends, pa.table({"value": values}), ends, in_payload=bool(ref.path))
        ends = [await hop(_effort(values), work)]
    if not ends or not ends[0].num_rows:
        return None
    found = _values(ends[0])
    return found[0], found[-1]


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


def _added(tables: Sequence[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables)
    more = [("is_int", "max")] if "is_int" in table.column_names else []
    added = table.group_by(_keys(table)).aggregate([("count", "sum"), *more])
    names = {"count_sum": "count", "is_int_max": "is_int"}
    return added.rename_columns([names.get(column, column) for column in added.column_names])


def _most_frequent(
    held: list[pa.Table], limit: int | None, *, in_payload: bool
) -> list[tuple[Value, int]]:
    """The most frequent values and their counts, equally frequent ones in their order."""
    counts = _added(held)
    if in_payload:  # 1 and 1.0 are one value
        counts = _added(_compared(counts))
    order = [("count", "descending"), *((key, "ascending") for key in _keys(counts))]
    places = pc.sort_indices(counts, sort_keys=order)
    first = counts.take(places if limit is None else places.slice(0, min(limit, len(places))))
    return list(zip(_values(first), first.column("count").to_pylist(), strict=True))


def _ends(rows: pa.Table, before: list[pa.Table], *, in_payload: bool) -> pa.Table:
    """The least and the greatest value of all."""
    rows = rows.filter(pc.field("value").is_valid())
    table = pa.concat_tables([*before, *(_compared(rows) if in_payload else [rows])])
    places = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in _keys(table)])
    if len(places) > 2:
        places = pa.array([places[0].as_py(), places[-1].as_py()], pa.uint64())
    return table.take(places)


def _keys(table: pa.Table) -> list[str]:
    """The columns by which the values of a table are compared."""
    return [name for name in table.column_names if name not in ("count", "is_int")]


def _compared(rows: pa.Table) -> list[pa.Table]:
    """Rows with columns by which Arrow compares them in place of the JSON texts of scalars."""
    parsed = []
    for start in range(0, max(1, rows.num_rows), _PARSED_AT_ONCE):
        part = rows.slice(start, _PARSED_AT_ONCE)
        texts = part.column("value").to_pylist()
        is_int = [not ("." in text or "e" in text or "E" in text) for text in texts]
        columns = dict(zip(_PARTS, parts_of(texts), strict=True))
        columns["is_int"] = pa.array(is_int, pa.bool_())
        columns |= {name: part.column(name) for name in part.column_names if name != "value"}
        parsed.append(pa.table(columns).filter(pc.field("type").is_valid()))
    return parsed


def _values(table: pa.Table) -> Sequence[Value]:
    if "is_int" not in table.column_names:
        return python_values(table.column("value"))
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
