"""Rows of an answer that are read in steps, so that a large answer is refused before it is read.

An answer of a few rows is read at once. Of more, the ids come first, and then the rows a few at a
time: the sum of their bytes stops the reading. Where the table was written to meanwhile, they are
read once more and at once, for an answer is of one moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from typing import Any, TypeVar

from aiovec import Counts, Hit, Record, Results
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight

from .bodies import bytes_of, bytes_of_values
from .bounds import BOUNDS, bounded, check_answer, check_found
from .call import Call

_T = TypeVar("_T")
_R = TypeVar("_R", Hit, Record)

_AT_ONCE = 32
"""Rows that are read at once whatever they hold: of those that came in JSON, at most 512 MiB."""

_STEP = 8 * 1024 * 1024
"""Bytes that the rows of a step should have, as far as those before tell."""

_GROWTH = 8


async def rows_of(call: Call, ids: Any, **options: Any) -> Results[Record]:
    """Return the rows with these ids, in their order, of which absent ones are left out."""

    async def at_once() -> Results[Record]:
        return await call.store.get(call.table, ids, **options)

    async def in_steps() -> Results[Record]:
        return await _rows_in_steps(call, ids, options)

    return await _of_one_moment(call, len(ids), in_steps, at_once)


async def found_by(
    call: Call,
    arguments: Mapping[str, Any],
    search: Callable[[Mapping[str, Any]], Awaitable[list[Results[_R]]]],
    queries: int = 1,
) -> list[Results[_R]]:
    """Return what so many searches with these arguments find."""
    options = bounded(arguments, queries)

    async def at_once() -> list[Results[_R]]:
        answers = await search(options)
        check_found(answers)
        return answers

    async def in_steps() -> list[Results[_R]]:
        answers = await search({**options, "select": [], "include_vector": False})
        check_found(answers)
        count = sum(map(len, answers))
        each = chain.from_iterable(answers)
        ids = await hop(count, lambda: list(dict.fromkeys(one.id for one in each)))
        wanted = {"select": None, "include_vector": False}
        wanted |= {name: options[name] for name in wanted.keys() & options.keys()}
        rows = await _rows_in_steps(call, ids, wanted)

        def filled() -> list[Results[_R]]:
            by_id = {row.id: row for row in rows}
            return [one._with_rows(rows, by_id) for one in answers]

        return await hop(count + len(rows), filled)

    most = queries * options["limit"] * options.get("per_group", 1)
    return await _of_one_moment(call, most, in_steps, at_once)


async def values_of(count: Callable[[int], Awaitable[Counts]], limit: int) -> Counts:
    """Return the most frequent values of a field, at most so many, with their numbers of rows."""
    step = limit if _is_small(limit) else _AT_ONCE
    while True:
        found = await count(min(step, limit))
        nbytes = await hop(weight(found), bytes_of_values, found)
        check_answer(nbytes)
        if len(found) < step or step >= limit:
            return found
        step = max(2 * step, _next_step(step, step, nbytes))


async def _of_one_moment(
    call: Call,
    rows: int,
    in_steps: Callable[[], Awaitable[_T]],
    at_once: Callable[[], Awaitable[_T]],
) -> _T:
    """Return what is read in steps, or else what is read at once, whose bytes are known then."""
    if _is_small(rows):
        return await at_once()
    before = await call.store._change_number(call.table)
    found = await in_steps()
    if before is not None and await call.store._change_number(call.table) == before:
        return found
    return await at_once()


async def _rows_in_steps(call: Call, ids: Any, options: dict[str, Any]) -> Results[Record]:
    found: Results[Record] | None = None
    start, step, nbytes = 0, _AT_ONCE, 0
    while found is None or start < len(ids):
        part = await call.store.get(call.table, ids[start : start + step], **options)
        nbytes += await hop(weight(part), bytes_of, part)
        check_answer(nbytes)
        if found is None:
            found = part
        else:
            found += part
        start += step
        step = max(_AT_ONCE, _next_step(step, start, nbytes))
    return found


def _is_small(rows: int) -> bool:
    """Return whether an answer of so many rows is read at once."""
    return BOUNDS.get() is None or rows <= _AT_ONCE


def _next_step(step: int, rows: int, nbytes: int) -> int:
    """Return how many rows to read next, after so many of so many bytes."""
    return min(_GROWTH * step, _STEP * rows // max(1, nbytes))
