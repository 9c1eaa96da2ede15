"""Searches: by vector, by text, by both, by a row."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .. import models
from ..bodies import found_response, rows_response
from ..bounds import bounded
from ..call import OF_ROWS, Call
from ..problems import RequestError
from .declaring import endpoint

_VECTOR = [0.6, 0.8, 0.0]


@endpoint(
    "POST", "/tables/{table}/search", models.Hits, kinds=OF_ROWS, body=models.Search,
    example={"vector": _VECTOR, "limit": 5, "where": "year >= 2024"}, reads=True,
)  # fmt: skip
async def search(call: Call, options: dict[str, Any]) -> Response:
    """Search by vector.

    Returns the rows nearest to a vector, best first.
    """
    _choose(options, "vector", "text")
    return await found_response(call, options, "search")


@endpoint(
    "POST", "/tables/{table}/search_many", models.HitsOfMany, kinds=OF_ROWS,
    body=models.SearchMany, example={"vectors": [_VECTOR, [0.0, 0.0, 1.0]], "limit": 5}, reads=True,
)  # fmt: skip
async def search_many(call: Call, options: dict[str, Any]) -> Response:
    """Search by several vectors.

    All searches see the same state of the table. The results stand in the order of the vectors.
    In Arrow, `_query` is the number of a row's vector.
    """
    _choose(options, "vectors", "texts")
    options = bounded(options, queries=len(options["vectors"]))
    hits = await call.store.search_many(call.table, **options)
    return await rows_response(call, "hits", hits, of_many=True)


@endpoint(
    "POST", "/tables/{table}/search_text", models.Hits, kinds=OF_ROWS, body=models.SearchText,
    example={"query": "walk sea", "limit": 5, "highlight": True}, reads=True,
)  # fmt: skip
async def search_text(call: Call, options: dict[str, Any]) -> Response:
    """Search by keywords.

    Returns the best rows by BM25. Rows with all words come first. Where these are fewer than
    `limit`, rows with some of the words follow; with `"match": "all"` they do not.
    """
    return await found_response(call, options, "search_text")


@endpoint(
    "POST", "/tables/{table}/search_hybrid", models.Hits, kinds=OF_ROWS, body=models.SearchHybrid,
    example={"query": "walk sea", "vector": _VECTOR, "limit": 5}, reads=True,
)  # fmt: skip
async def search_hybrid(call: Call, options: dict[str, Any]) -> Response:
    """Search by keywords and by vector.

    Both lists are fused into one. Each hit has its `ranks` in them. Without a vector, the table's
    embedder makes one of the query.
    """
    if "text" in options:
        _choose(options, "vector", "text")
    return await found_response(call, options, "search_hybrid")


@endpoint(
    "POST", "/tables/{table}/search_like", models.Hits, kinds=OF_ROWS, body=models.SearchLike,
    example={"ids": ["note-1"], "limit": 5}, reads=True,
)  # fmt: skip
async def search_like(call: Call, options: dict[str, Any]) -> Response:
    """Search by rows.

    Returns the rows nearest to a row, or to the mean of several, without these. With `notLike`, the
    search leads away from other rows.
    """
    return await found_response(call, options, "search_like")


def _choose(options: dict[str, Any], name: str, other: str) -> None:
    """Put the one of two arguments that was given under the first one's name."""
    if (name in options) == (other in options):
        raise RequestError(422, f"the body needs {name!r} or {other!r}, and not both")
    if other in options:
        options[name] = options.pop(other)
