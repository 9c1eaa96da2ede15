"""The most that one request may ask for, in hits, and rows or ids or queries, and may bring back.

The server sets it for each of its requests; the endpoints in an app of one's own have none.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiovec.errors import InvalidArgumentError

from .problems import RequestError

_HITS = frozenset({"limit", "per_group", "fetch_k", "batch_size"})
_DEFAULT_HITS = 10
_LISTS = frozenset({"ids", "vectors", "texts", "where"})


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
    hits: int
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


def check_argument(name: str, argument: str, value: object) -> None:
    """Refuse a number of hits, or a list of ids or queries, beyond the server's bounds."""
    bounds = BOUNDS.get()
    if bounds is None:
        return
    if argument in _HITS and isinstance(value, int) and value > bounds.hits:
        raise InvalidArgumentError(name, value, f"at most {bounds.hits:,} on this server")
    if argument in _LISTS and isinstance(value, list):
        check_rows(len(value), name)


def most_hits(arguments: Mapping[str, Any]) -> int:
    """Return how many hits a search with these arguments may have."""
    hits: int = arguments.get("limit", _DEFAULT_HITS)
    grouped = arguments.get("group_by") is not None
    return hits * (arguments.get("per_group") or 1) if grouped else hits


def check_hits(arguments: Mapping[str, Any]) -> None:
    """Refuse a search by groups that asks for more hits than one without may, and queries that
    ask for more hits in all than a request may bring rows."""
    hits = most_hits(arguments)
    if hits != arguments.get("limit", _DEFAULT_HITS):
        check_argument("topK times perGroup", "limit", hits)
    for name in ("vectors", "texts"):
        if isinstance(queries := arguments.get(name), list):
            check_rows(len(queries) * hits, f"hits of all {name}")


def check_rows(count: int, name: str = "rows in a request") -> None:
    """Refuse more rows than a request may bring."""
    bounds = BOUNDS.get()
    if bounds is not None and count > bounds.rows:
        raise InvalidArgumentError(
            name, count, f"at most {bounds.rows:,} on this server; send them in several requests"
        )


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
