"""The most that one request may bring, and that its answer may hold, in rows and in bytes.

The server sets it for each of its requests; the endpoints in an app of one's own have none.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiovec.errors import InvalidArgumentError

from .problems import RequestError

# Rows whose vectors are compared with each other for diversity, at most.
_MOST_COMPARED = 10_000


class Room:
    """Bytes that the answers in progress may take together."""

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
    rows: int
    nbytes: int
    room: Room | None = None
    held: int = 0
    """Bytes of the room that the answer to this request takes."""

    def hold(self, nbytes: int) -> bool:
        """Hold room for an answer that has grown to so many bytes."""
        more = nbytes - self.held
        if more <= 0 or self.room is None:
            return True
        if not self.room.take(more):
            return False
        self.held = nbytes
        return True


BOUNDS: ContextVar[Bounds | None] = ContextVar("aiovec_server_bounds", default=None)


def check_rows(count: int, name: str = "rows in a request") -> None:
    """Refuse more rows than a request, or an answer, may have."""
    bounds = BOUNDS.get()
    if bounds is not None and count > bounds.rows:
        raise InvalidArgumentError(
            name, count, f"at most {bounds.rows:,} on this server; use several requests"
        )


def cut(limit: int, queries: int = 1) -> int:
    """Return the rows to look for: one more than an answer may have, if more are asked for."""
    bounds = BOUNDS.get()
    return limit if bounds is None else min(limit, bounds.rows // max(1, queries) + 1)


def check_found(answers: Sequence[Sequence[Any]]) -> None:
    """Refuse answers that were cut to what ``cut`` gives."""
    bounds = BOUNDS.get()
    if bounds is None:
        return
    most = bounds.rows // max(1, len(answers))
    if any(len(one) > most for one in answers):
        raise InvalidArgumentError(
            "rows of the answer", None,
            f"at most {most:,} on this server; ask for fewer, or export them",
        )  # fmt: skip


def bounded(arguments: Mapping[str, Any], queries: int = 1) -> dict[str, Any]:
    """Return the arguments of a search with their numbers of hits cut."""
    found = dict(arguments)
    limit = found["limit"] = cut(found.get("limit", 10), queries)
    if BOUNDS.get() is None:
        return found
    check_rows(offset := found.get("offset", 0), "offset")
    if "group_by" in found:
        check_rows(limit * found.get("per_group", 1), "limit times perGroup")
    if found.get("diversity"):
        compared = found.get("fetch_k", 4 * (offset + limit))
        if compared > _MOST_COMPARED:
            raise InvalidArgumentError(
                "fetchK", compared, f"at most {_MOST_COMPARED:,} with diversity on this server"
            )
    elif "fetch_k" in found:
        check_rows(found["fetch_k"], "fetchK")
    return found


def check_answer(nbytes: int) -> None:
    """Refuse to gather an answer that has grown to more bytes than a body may have.

    It also holds these bytes of what all answers may take together, until the request has ended.
    """
    bounds = BOUNDS.get()
    if bounds is None:
        return
    if nbytes > bounds.nbytes:
        raise RequestError(
            413,
            f"the answer takes more than {bounds.nbytes // 2**20:,} MiB, the most on this server; "
            "ask for fewer rows at once, or for fewer of their fields",
        )
    if not bounds.hold(nbytes):
        raise RequestError(503, "the answers to other requests take the memory; try again")
