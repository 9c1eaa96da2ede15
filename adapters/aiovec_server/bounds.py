"""The most that one request may ask for: hits, and rows or ids or queries.

The server sets it for each of its requests; the endpoints in an app of one's own have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiovec.errors import InvalidArgumentError

from .problems import RequestError

_HITS = frozenset({"limit", "per_group", "fetch_k", "batch_size"})
_DEFAULT_HITS = 10
_WORK_A_ROW = 500
_LISTS = frozenset({"ids", "vectors", "texts", "where"})


@dataclass(frozen=True, slots=True)
class Bounds:
    hits: int
    rows: int


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


def check_hits(arguments: Mapping[str, Any]) -> None:
    """Refuse a search by groups that asks for more hits than one without may."""
    if arguments.get("group_by") is not None and (of_each := arguments.get("per_group")):
        hits = arguments.get("limit", _DEFAULT_HITS) * of_each
        check_argument("topK times perGroup", "limit", hits)


def check_rows(count: int, name: str = "rows in a request") -> None:
    """Refuse more rows than a request may bring."""
    bounds = BOUNDS.get()
    if bounds is not None and count > bounds.rows:
        raise InvalidArgumentError(
            name, count, f"at most {bounds.rows:,} on this server; send them in several requests"
        )


def check_work(work: int) -> None:
    """Refuse rows that hold far more than their vectors: ``[]`` takes thirty times its text.

    ``work`` is that of ``aiovec._http.large_json``, without the numbers of vectors.
    """
    bounds = BOUNDS.get()
    if bounds is not None and work > _WORK_A_ROW * bounds.rows:
        raise RequestError(
            413, "the records hold too many values for one request; send them in several"
        )
