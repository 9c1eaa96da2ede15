"""Rows of an answer that are read in steps, so that a large answer is refused before it is read.

An answer of a few rows is read at once. Of more, the ids come first, and then the rows a few at a
time: the sum of their bytes stops the reading. Where the table was written to meanwhile, they are
read once more and at once, for an answer is of one moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiovec import Hit, Record, Results
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight

from .bodies import bytes_of, bytes_of_values
from .bounds import BOUNDS, bounded, check_answer, check_found
from .call import Call

_T = TypeVar("_T")

_AT_ONCE = 32
"""Rows that are read at once whatever they hold: of those that came in JSON, at most 512 MiB."""

_STEP = 8 * 1024 * 1024
"""Bytes that the rows of a step should have, as far as those before tell."""

_GROWTH = 8


def is_small(rows: int) -> bool:
    """Return whether an answer of so many rows is read at once."""
    return BOUNDS.get() is None or rows <= _AT_ONCE


async def of_one_moment(
    call: Call, in_steps: Callable[[], Awaitable[_T]], at_once: Callable[[], Awaitable[_T]]
) -> _T:
    """Return what is read in steps, or else what is read at once, whose bytes are known then."""
    before = await call.store._change_number(call.table)
    found = await in_steps()
    if before is not None and await call.store._change_number(call.table) == before:
        return found
    return await at_once()


async def rows_with_ids(
    call: Call, ids: Any, select: list[str] | None, *, include_vector: bool
) -> Results[Record]:
    """Return the rows with these ids, in their order, of which absent ones are left out."""

    def at_once() -> Awaitable[Results[Record]]:
        return call.store.get(call.table, ids, select=select, include_vector=include_vector)

    def in_steps() -> Awaitable[Results[Record]]:
        return rows_in_steps(call, ids, select, include_vector=include_vector)

    if is_small(len(ids)):
        return await at_once()
    return await of_one_moment(call, in_steps, at_once)


async def rows_in_steps(
    call: Call, ids: Any, select: list[str] | None, *, include_vector: bool
) -> Results[Record]:
    """Return the rows with these ids, of which each step is of a moment of its own."""
    found: Results[Record] | None = None
    start = nbytes = 0
    step = _AT_ONCE
    while found is None or start < len(ids):
        part = await call.store.get(
            call.table, ids[start : start + step], select=select, include_vector=include_vector
        )
        nbytes += await hop(weight(part), bytes_of, part)
        check_answer(nbytes)
        if found is None:
            found = part
        else:
            found += part
        start += step
        fitting = _STEP * start // max(1, nbytes)
        step = max(_AT_ONCE, min(_GROWTH * step, fitting))
    return found


async def hits_of(
    call: Call,
    arguments: Mapping[str, Any],
    search: Callable[[Mapping[str, Any]], Awaitable[list[Results[Hit]]]],
    queries: int = 1,
) -> list[Results[Hit]]:
    """Return what so many searches with these arguments find."""
    options = bounded(arguments, queries)
    most = queries * options["limit"] * options.get("per_group", 1)
    if is_small(most):
        return await search(options)

    async def in_steps() -> list[Results[Hit]]:
        answers = await search({**options, "select": [], "include_vector": False})
        check_found(answers)
        most = sum(map(len, answers))
        ids = await hop(most, lambda: list(dict.fromkeys(hit.id for one in answers for hit in one)))
        rows = await rows_in_steps(
            call, ids, options.get("select"), include_vector=options.get("include_vector", False)
        )

        def filled() -> list[Results[Hit]]:
            by_id = {row.id: row for row in rows}
            return [hits._with_rows(rows, by_id) for hits in answers]

        return await hop(most + len(rows), filled)

    async def at_once() -> list[Results[Hit]]:
        answers = await search(options)
        check_found(answers)
        return answers

    return await of_one_moment(call, in_steps, at_once)


async def values_of(
    count: Callable[[int], Awaitable[dict[Any, int]]], limit: int
) -> dict[Any, int]:
    """Return the most frequent values of a field, at most so many, with their numbers of rows."""
    step = limit if is_small(limit) else _AT_ONCE
    while True:
        found = await count(min(step, limit))
        nbytes = await hop(weight(found), bytes_of_values, found)
        check_answer(nbytes)
        if len(found) < step or step >= limit:
            return found
        fitting = _STEP * step // max(1, nbytes)
        step = max(2 * step, min(_GROWTH * step, fitting))
