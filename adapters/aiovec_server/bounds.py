"""The most that one request may bring, and that its answer may hold, in rows and in bytes.

The server sets it for each of its requests; endpoints in a user's own app have none. The store
counts the bytes of rows while it reads them, so that a large answer ends before it is read whole.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from aiovec.errors import InvalidArgumentError

from .problems import RequestError

_MOST_COMPARED = 10_000
"""Rows whose vectors are compared with each other for diversity, at most."""


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
    held: int | None = 0
    """Bytes of the room that the answer takes; None after the request."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check_bytes(self, nbytes: int) -> None:
        """Refuse to gather an answer that has grown to more bytes than a body may have.

        It also holds these bytes of what all answers may take together, until the request has
        ended. A thread may read on after that, for others; this takes nothing.
        """
        if nbytes > self.nbytes:
            raise RequestError(
                413,
                "the rows or values read for the answer take more than "
                f"{self.nbytes // 2**20:,} MiB, the most on this server; ask for fewer rows at "
                "once, fewer of their fields, or a smaller offset or fetchK",
            )
        with self._lock:
            if self.held is None or nbytes <= self.held:
                return
            if not self.room.take(nbytes - self.held):
                words = "the answers to other requests take the memory; try again"
                raise RequestError(503, words)
            self.held = nbytes

    def end(self) -> None:
        """Give the room back, and take no more: the request has ended."""
        with self._lock:
            self.room.give(self.held or 0)
            self.held = None


_UNBOUNDED = Bounds(sys.maxsize, sys.maxsize, Room(sys.maxsize))
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


def cut(limit: int, queries: int = 1) -> int:
    """Return the rows to look for: one more than an answer may have, if more are asked for."""
    return min(limit, BOUNDS.get().rows // max(1, queries) + 1)


def check_answered(count: int, queries: int = 1, unit: str = "rows", cure: str = "") -> None:
    """Refuse an answer that has more rows, or values, than it may have for each query."""
    most = BOUNDS.get().rows // max(1, queries)
    if count > most:
        reason = f"The answer has more than {most:,} {unit}, the limit of this server. Ask for "
        raise InvalidArgumentError(
            "limit", None, f"at most {most:,}", reason=f"{reason}fewer{cure}."
        )


def bounded(options: Mapping[str, Any], queries: int = 1) -> dict[str, Any]:
    """Return the options of so many searches, or of a find, with a limit that the server allows."""
    limit = cut(options.get("limit", 10), queries)
    if "group_by" in options:
        check_rows(queries * limit * options.get("per_group", 1), "limit times perGroup")
    check_rows(offset := options.get("offset", 0), "offset")
    fetched = options.get("fetch_k", 0)
    compared = fetched or 4 * (offset + limit)
    if not options.get("diversity"):
        check_rows(compared if options.get("rerank") else fetched, "fetchK")
    elif compared > _MOST_COMPARED and BOUNDS.get().rows < sys.maxsize:
        expected = f"at most {_MOST_COMPARED:,} with diversity on this server"
        raise InvalidArgumentError("fetchK", compared, expected)
    return {**options, "limit": limit}
