"""The most that one request may bring, and that its answer may hold, in rows and in bytes.

The server sets it for each of its requests; endpoints in a user's own app have none.

A large answer is refused before it is read. One of a few rows is read at once; of more, the ids
come first, and then the rows a few at a time: the sum of their bytes stops the reading. Where the
table changes during the reading, all rows are read again in one call: an answer is one snapshot.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from aiovec import Counts, Hit, Record, Results, VectorStore
from aiovec._internals import StoreInternals
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight
from aiovec.errors import InvalidArgumentError

from .problems import RequestError

_T = TypeVar("_T")
_R = TypeVar("_R", Hit, Record)

_MOST_COMPARED = 10_000
"""Rows whose vectors are compared with each other for diversity, at most."""

_AT_ONCE = 32
"""Rows that one read may return whatever they hold: at most 512 MiB of rows that came as JSON."""

_STEP = 8 * 1024 * 1024
"""Bytes that the rows of a step should have, as far as those before tell."""


class Room:
    """Bytes that the bodies, or the answers, in progress may take together."""

    def __init__(self, nbytes: int) -> None:
        self._free = nbytes
        self._lock = threading.Lock()  # large answers are made in threads

    def take(self, nbytes: int) -> bool:
        """Take some of it. Return False if there is not so much left."""
        with self._lock:
            if nbytes > self._free:
                return False
            self._free -= nbytes
            return True

    def give(self, nbytes: int) -> None:
        with self._lock:
            self._free += nbytes


@dataclass(slots=True)
class Bounds:
    """Those of one request."""

    rows: int
    nbytes: int
    room: Room
    held: int = 0
    """Bytes of the room that the answer takes."""


_UNBOUNDED = Bounds(sys.maxsize, sys.maxsize, Room(0))
BOUNDS = ContextVar("aiovec_server_bounds", default=_UNBOUNDED)


def check_rows(count: int, name: str = "rows") -> None:
    """Refuse more of the rows, or of the items of an argument, than a request may have."""
    most = BOUNDS.get().rows
    if count > most:
        raise InvalidArgumentError(
            name, count, f"at most {most:,}",
            reason=f"{name}: {count:,} is more than {most:,}, the limit of this server. Use "
            "several requests, or an export.",
        )  # fmt: skip


def check_answer(nbytes: int) -> None:
    """Refuse to gather an answer that has grown to more bytes than a body may have.

    It also holds these bytes of what all answers may take together, until the request has ended.
    """
    bounds = BOUNDS.get()
    if nbytes > bounds.nbytes:
        raise RequestError(
            413,
            f"the answer takes more than {bounds.nbytes // 2**20:,} MiB, the most on this server; "
            "ask for fewer rows at once, or for fewer of their fields",
        )
    more = nbytes - bounds.held
    if more > 0 and bounds.nbytes < sys.maxsize:
        if not bounds.room.take(more):
            raise RequestError(503, "the answers to other requests take the memory; try again")
        bounds.held = nbytes


async def rows_of(store: VectorStore, table: str, ids: Any, **options: Any) -> Results[Record]:
    """Return the rows with these ids, in their order, without absent ones."""

    return await _of_one_moment(
        store,
        table,
        len(ids),
        lambda: _rows_in_steps(store, table, ids, options),
        lambda: store.get(table, ids, **options),
    )


async def found_by(
    search: Callable[..., Awaitable[list[Results[_R]]]],
    store: VectorStore,
    table: str,
    options: Mapping[str, Any],
    queries: int = 1,
) -> list[Results[_R]]:
    """Return what so many searches of a table with these options find."""
    options = {**options, "limit": _cut(options.get("limit", 10), queries)}
    most = queries * options["limit"] * options.get("per_group", 1)
    if "group_by" in options:
        check_rows(most, "limit times perGroup")
    check_rows(offset := options.get("offset", 0), "offset")
    fetched = options.get("fetch_k", 0)
    compared = fetched or 4 * (offset + options["limit"])
    if not options.get("diversity"):
        check_rows(compared if options.get("boost") else fetched, "fetchK")
    elif compared > _MOST_COMPARED and BOUNDS.get().rows < sys.maxsize:
        expected = f"at most {_MOST_COMPARED:,} with diversity on this server"
        raise InvalidArgumentError("fetchK", compared, expected)

    async def found(**more: Any) -> list[Results[_R]]:
        answers = await search(table, **options | more)
        each = BOUNDS.get().rows // max(1, len(answers))
        if any(len(one) > each for one in answers):
            raise _too_many(each)
        return answers

    async def in_steps() -> list[Results[_R]]:
        answers = await found(select=[], include_vector=False)
        count = sum(map(len, answers))
        each = chain.from_iterable(answers)
        ids = await hop(count, lambda: list(dict.fromkeys(hit.id for hit in each)))
        wanted = {name: options[name] for name in ("select", "include_vector") if name in options}
        rows = await _rows_in_steps(store, table, ids, {"include_vector": False, **wanted})

        def filled() -> list[Results[_R]]:
            by_id = {row.id: row for row in rows}
            return [hits._with_rows(rows, by_id) for hits in answers]

        return await hop(count + len(rows), filled)

    return await _of_one_moment(store, table, most, in_steps, found)


async def values_of(
    count: Callable[..., Awaitable[Counts]],
    table: str,
    *,
    limit: int = sys.maxsize,
    **options: Any,
) -> Counts:
    """Return the most frequent values of a field, at most so many, with their numbers of rows."""
    limit = _cut(limit)
    step = limit if _is_small(limit) else _AT_ONCE
    while True:
        values = await count(table, limit=min(step, limit), **options)
        if len(values) > BOUNDS.get().rows:
            raise _too_many(BOUNDS.get().rows, "values", "")
        nbytes = await hop(weight(values), _bytes_of_values, values)
        check_answer(nbytes)
        if len(values) < step or step >= limit:
            return values
        step = max(2 * step, _next_step(step, step, nbytes))


def bytes_of(rows: Iterable[Hit | Record]) -> int:
    """Return about how many bytes the rows hold."""
    nbytes = 0
    for row in rows:
        nbytes += len(row.id) + (0 if row.vector is None else 4 * len(row.vector))
        nbytes += _bytes_of_values(row.fields.values())
    return nbytes


def _cut(limit: int, queries: int = 1) -> int:
    """Return the rows to look for: one more than an answer may have, if more are asked for."""
    return min(limit, BOUNDS.get().rows // max(1, queries) + 1)


def _too_many(most: int, what: str = "rows", cure: str = ", or export them") -> Exception:
    reason = f"The answer has more than {most:,} {what}, the limit of this server. Ask for fewer"
    return InvalidArgumentError("limit", None, f"at most {most:,}", reason=f"{reason}{cure}.")


async def _of_one_moment(
    store: VectorStore,
    table: str,
    rows: int,
    in_steps: Callable[[], Awaitable[_T]],
    at_once: Callable[[], Awaitable[_T]],
) -> _T:
    """Return what is read in steps, or else what is read at once, whose bytes are known then."""
    if _is_small(rows):
        return await at_once()
    before = await StoreInternals(store).change_number(table)
    answer = await in_steps()
    if before is not None and await StoreInternals(store).change_number(table) == before:
        return answer
    return await at_once()


async def _rows_in_steps(
    store: VectorStore, table: str, ids: Any, options: dict[str, Any]
) -> Results[Record]:
    start, step, nbytes = 0, _AT_ONCE, 0
    rows: Results[Record] | None = None
    while rows is None or start < len(ids):
        part = await store.get(table, ids[start : start + step], **options)
        nbytes += await hop(weight(part), bytes_of, part)
        check_answer(nbytes)
        if rows is None:
            rows = part
        else:
            rows += part
        start += step
        step = max(_AT_ONCE, _next_step(step, start, nbytes))
    return rows


def _is_small(rows: int) -> bool:
    """Return whether an answer of so many rows is read at once."""
    return rows <= _AT_ONCE or BOUNDS.get().rows == sys.maxsize


def _next_step(step: int, rows: int, nbytes: int) -> int:
    """Return how many rows to read next, after so many of so many bytes."""
    return min(8 * step, _STEP * rows // max(1, nbytes))


def _bytes_of_values(given: Iterable[Any]) -> int:
    """Return about how many bytes these values hold."""
    nbytes = 0
    values = list(given)
    for value in values:  # which grows
        if type(value) is str:
            nbytes += len(value)
        elif type(value) is dict:
            values += [*value, *value.values()]
        elif type(value) is list:
            values += value
        nbytes += 8
    return nbytes
