"""The endpoints under ``/page``: what the page shows and no other client asks for.

They are no part of the public API and may change with the page.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import aiovec
from aiovec._http.problems import problem_of
from aiovec.asgi import get_store
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError, InvalidArgumentError

from ..problems import RequestError, response_of
from .maps import MAX_ROWS, label_field, map_of

if TYPE_CHECKING:
    from aiovec import VectorStore

_PER_OVERVIEW = 25
"""Tables of one overview. The page asks for more."""
# Each may open files of a bucket: a few at once.
_AT_ONCE = 4
# A map of the largest sample takes a core for a tenth of a second and 32 MB.
_MAPS_AT_ONCE = 2

Answer = Callable[["VectorStore", Request], Awaitable[Any]]


def page_routes(own: VectorStore | None, *, page_writes: bool) -> list[Route]:
    """Return the routes of ``/page``, over a store of their own or that of the app."""
    maps = asyncio.Semaphore(_MAPS_AT_ONCE)

    async def overview(store: VectorStore, request: Request) -> Any:
        return await _overview(store, _number(request, "offset", 0, 0, 10**9), page_writes)

    async def table(store: VectorStore, request: Request) -> Any:
        return await table_facts(store, request.path_params["table"])

    async def sample_map(store: VectorStore, request: Request) -> Any:
        rows = _number(request, "rows", 1_000, 1, MAX_ROWS)
        async with maps:
            return await map_of(
                store,
                request.path_params["table"],
                rows=rows,
                color=request.query_params.get("color"),
            )

    async def about(store: VectorStore, request: Request) -> Any:
        return {
            "version": aiovec.__version__,
            "backend": store.backend_name,
            "writes": page_writes and not store.read_only,
        }

    def route(path: str, answer: Answer) -> Route:
        async def send(request: Request) -> Response:
            try:
                return await _json(await answer(own or get_store(request), request))
            except (AiovecError, RequestError) as error:
                return response_of(error)

        return Route(f"/page/{path}", send, methods=["GET"], include_in_schema=False)

    return [
        route("about", about),
        route("overview", overview),
        route("tables/{table}", table),
        route("tables/{table}/map", sample_map),
    ]


async def _overview(store: VectorStore, offset: int, page_writes: bool) -> dict[str, Any]:
    names = await store.tables()
    limit = asyncio.Semaphore(_AT_ONCE)

    async def facts(name: str) -> dict[str, Any]:
        async with limit:
            try:
                return await table_facts(store, name)
            except AiovecError as error:  # one damaged table does not hide the others
                return {"name": name, "detail": problem_of(error).detail}

    shown = names[offset : offset + _PER_OVERVIEW]
    return {
        "backend": store.backend_name,
        "writes": page_writes and not store.read_only,
        "tables": await asyncio.gather(*map(facts, shown)),
        "total": len(names),
    }


async def table_facts(store: VectorStore, name: str) -> dict[str, Any]:
    """Return what the page shows of a table, and what can be done with it."""
    schema = await store.schema(name)
    stats = await store.stats(name)
    indexes = await store.indexes(name) if store.supports("indexes") else []
    of_vectors = [info for info in indexes if info.column == schema.vector]
    recalls = [info.recall for info in of_vectors if info.recall is not None]
    texts = [field for field, facts in schema.fields.items() if facts.text]
    return {
        "name": name,
        "backend": stats.backend,
        "rows": stats.rows,
        "bytes": stats.bytes,
        "index": stats.index,
        "unindexedRows": stats.unindexed_rows,
        "scanMemory": stats.scan_memory,
        "lastOptimize": None if stats.last_optimize is None else stats.last_optimize.isoformat(),
        "recall": min(recalls, default=None),
        "approximate": bool(of_vectors),
        "indexes": [asdict(info) for info in indexes],
        "schema": json.loads(schema.to_json()),
        "label": label_field(schema),
        "can": {
            "words": bool(texts) and store.supports("text"),
            "meaning": schema.embed is not None,
            "optimize": not store.read_only,
        },
    }


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise InvalidArgumentError(name, text, f"a whole number from {least} to {most}")
    return int(text)


async def _json(answer: Any) -> Response:
    def dump() -> bytes:
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":"), default=str).encode(
            "utf-8", "surrogatepass"
        )

    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    body = await in_thread(dump)
    return Response(body, media_type="application/json", headers=headers)
