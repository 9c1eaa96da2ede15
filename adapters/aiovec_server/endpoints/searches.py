"""Searches: by vector, by text, by both, by a row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from starlette.responses import Response

from aiovec import RRF, Hit, Results, Tuning, Weighted
from aiovec.errors import InvalidArgumentError, InvalidVectorError

from ..bodies import hit_json, results_response, rows_response
from ..call import Call
from ..decode import arguments_in
from ..models import Search, SearchHybrid, SearchLike, SearchMany, SearchText
from ..problems import RequestError
from ..steps import hits_of
from .declaring import Endpoints
from .document import HITS, HITS_OF_MANY

ENDPOINTS = Endpoints()
_T = TypeVar("_T", Tuning, RRF, Weighted)

_EXAMPLE = {"vector": [0.6, 0.8, 0.0], "topK": 5, "filter": "year >= 2024"}


@ENDPOINTS.add(
    "POST", "/tables/{table}/search", HITS, body=Search, body_needed=True, example=_EXAMPLE
)
async def search(call: Call) -> Response:
    """Search by vector.

    Returns the rows nearest to a vector, best first.
    """
    options = _options(await arguments_in(call, Search))
    vector = _one_of(options, "vector", "text")
    with _explaining(vector):
        return await _answer(call, options, partial(call.store.search, call.table, vector))


@ENDPOINTS.add(
    "POST", "/tables/{table}/search_many", HITS_OF_MANY, body=SearchMany, body_needed=True,
    example={"vectors": [[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], "topK": 5},
)  # fmt: skip
async def search_many(call: Call) -> Response:
    """Search by several vectors.

    All searches see the same state of the table. The results stand in the order of the vectors.
    In JSON Lines each vector has a line with its hits; in Arrow, `_query` is the number of a row's
    vector.
    """
    options = _options(await arguments_in(call, SearchMany))
    vectors: Any = _one_of(options, "vectors", "texts")

    async def search(chosen: Mapping[str, Any]) -> list[Results[Hit]]:
        return await call.store.search_many(call.table, vectors, **chosen)

    with _explaining(next((one for one in vectors if type(one) is str), None)):
        found = await hits_of(call, options, search, len(vectors))
    return await results_response(call, found)


@ENDPOINTS.add(
    "POST", "/tables/{table}/search_text", HITS, body=SearchText,
    example={"query": "walk sea", "topK": 5, "highlight": True},
)  # fmt: skip
async def search_text(call: Call) -> Response:
    """Search by keywords.

    Returns the best rows by BM25. All words have to match, unless `any` is true.
    """
    options = _options(await arguments_in(call, SearchText))
    return await _answer(call, options, partial(call.store.search_text, call.table))


@ENDPOINTS.add(
    "POST", "/tables/{table}/search_hybrid", HITS, body=SearchHybrid,
    example={"query": "walk sea", "vector": [0.6, 0.8, 0.0], "topK": 5},
)  # fmt: skip
async def search_hybrid(call: Call) -> Response:
    """Search by keywords and by vector.

    Both lists are fused into one. Each hit has its `ranks` in them.
    """
    options = _options(await arguments_in(call, SearchHybrid))
    if "text" in options:
        _one_of(options, "vector", "text", keep=True)
    if "fusion" in options:
        options["fusion"] = _fusion_of(options["fusion"])
    with _explaining(options.get("vector")):
        return await _answer(call, options, partial(call.store.search_hybrid, call.table))


@ENDPOINTS.add(
    "POST",
    "/tables/{table}/search_like",
    HITS,
    body=SearchLike,
    example={"id": "note-1", "topK": 5},
)
async def search_like(call: Call) -> Response:
    """Search by a row.

    Returns the rows nearest to it, without the row itself.
    """
    options = _options(await arguments_in(call, SearchLike))
    return await _answer(call, options, partial(call.store.search_like, call.table))


def _options(options: dict[str, Any]) -> dict[str, Any]:
    if "tuning" in options:
        options["tuning"] = _made(Tuning, "tuning", options["tuning"])
    if isinstance(options.get("highlight"), list):
        options["highlight"] = tuple(options["highlight"])
    return options


def _one_of(options: dict[str, Any], name: str, other: str, *, keep: bool = False) -> Any:
    """Take one of two arguments out of the options; with ``keep``, put it back as the first."""
    if (name in options) == (other in options):
        raise RequestError(422, f"the body needs {name!r} or {other!r}, and not both")
    found = options.pop(name if name in options else other)
    if keep:
        options[name] = found
    return found


@contextmanager
def _explaining(vector: object) -> Iterator[None]:
    """Say why a text is refused in the place of a vector."""
    try:
        yield
    except InvalidVectorError as exc:
        if not isinstance(vector, str):
            raise
        expected = "left out: the table has no embedder, so pass a vector"
        raise InvalidArgumentError("text", vector, expected) from exc


def _fusion_of(value: dict[str, Any]) -> RRF | Weighted:
    kind = value.get("type")
    options = {key: number for key, number in value.items() if key != "type"}
    if kind == "rrf":
        return _made(RRF, "fusion", options)
    if kind == "weighted":
        return _made(Weighted, "fusion", options)
    raise InvalidArgumentError("fusion.type", kind, "'rrf' or 'weighted'")


def _made(cls: type[_T], name: str, options: Mapping[str, Any]) -> _T:
    known = [field.name for field in fields(cls)]
    for key in options:
        if key not in known:
            raise InvalidArgumentError(f"the keys of {name}", key, f"among {', '.join(known)}")
    return cls(**options)  # what they may be is checked there, or by the store


async def _answer(
    call: Call, options: Mapping[str, Any], search: Callable[..., Awaitable[Results[Hit]]]
) -> Response:
    async def searched(chosen: Mapping[str, Any]) -> list[Results[Hit]]:
        return [await search(**chosen)]

    (hits,) = await hits_of(call, options, searched)
    return await rows_response(call, "hits", hits, hit_json)
