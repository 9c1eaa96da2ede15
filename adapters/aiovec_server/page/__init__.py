"""The web page at ``/``: its static files, and the endpoints under ``/page`` that only it uses."""

from __future__ import annotations

import asyncio
import mimetypes
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

import aiovec
from aiovec import VectorStore
from aiovec._http.problems import problem_of
from aiovec._internals import StoreInternals
from aiovec.backend.server import ServerSettings
from aiovec.backend.threads import together
from aiovec.errors import AiovecError
from aiovec.plot import MAX_ROWS, label_field, map_points

from ..bodies import camel_case
from ..call import Call
from ..endpoints.declaring import Endpoint
from ..endpoints.tables import TABLES_AT_ONCE
from ..models import Model

# The Windows registry may call JavaScript plain text, which browsers refuse to run.
mimetypes.add_type("text/javascript", ".js")
_STATIC = StaticFiles(packages=[(__name__, "static")])
_PATHS = ("/", "/assets/{name}")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No script of the page turns text into markup, so the browser can forbid it altogether.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Browsers revalidate on each load, so they never show an old version; ETags save the bytes.
    "cache-control": "no-cache",
}

_PER_OVERVIEW = 25
"""Maximum number of tables in one overview. For more, the page makes several requests."""
# A map of the largest sample takes 0.1 s of one core and 32 MB.
_MAPS_AT_ONCE = 2
_NO_COLOR = "-"


class _From(Model):
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0


class _Map(Model):
    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 1000
    color: str | None = None


def page_endpoints(settings: ServerSettings) -> list[Endpoint]:
    """Return the endpoints for the page's files, which contain no data, and for its data.

    With ``page_writes``, the page offers to delete rows and to optimize tables. It sends these
    requests to the server's endpoints, which check the API key.
    """
    maps = asyncio.Semaphore(_MAPS_AT_ONCE)

    async def about(call: Call, options: dict[str, Any]) -> Any:
        return {
            "version": aiovec.__version__,
            "backend": call.store.backend_name,
            "writes": settings.page_writes and not call.store.read_only,
        }

    async def overview(call: Call, options: dict[str, Any]) -> Any:
        names = await call.store.tables()
        start = options.get("offset", 0)

        async def facts(name: str) -> dict[str, Any]:
            try:
                return await _table_facts(call.store, name)
            except AiovecError as error:  # one damaged table must not hide the others
                return {"name": name, "detail": problem_of(error).detail}

        shown = names[start : start + _PER_OVERVIEW]
        tables = await together([partial(facts, name) for name in shown], TABLES_AT_ONCE)
        return {**await about(call, {}), "tables": tables, "total": len(names)}

    async def table(call: Call, options: dict[str, Any]) -> Any:
        return await _table_facts(call.store, call.table)

    async def sample_map(call: Call, options: dict[str, Any]) -> Any:
        if options.get("color") == _NO_COLOR:
            options = {**options, "color": False}
        async with maps:
            began = time.perf_counter()
            points = await map_points(call.store, call.table, **options)
            seconds = round(time.perf_counter() - began, 6)
        return {**asdict(replace(points, values=[])), "rows": len(points.ids), "seconds": seconds}

    return [
        *(Endpoint("GET", path, _send, query=None, open=True) for path in _PATHS),
        Endpoint("GET", "/page/about", about),
        Endpoint("GET", "/page/overview", overview, query=_From),
        Endpoint("GET", "/page/tables/{table}", table),
        Endpoint("GET", "/page/tables/{table}/map", sample_map, query=_Map),
    ]


async def _table_facts(store: VectorStore, name: str) -> dict[str, Any]:
    """Return the facts and actions that the page shows for a table."""
    schema = await store.schema(name)
    stats = await store.stats(name)
    indexes = await store.indexes(name) if store.supports("indexes") else []
    of_vectors = [info for info in indexes if info.column == schema.vector]
    recalls = [info.recall for info in of_vectors if info.recall is not None]
    texts = [field for field, facts in schema.fields.items() if facts.text]
    return {
        **camel_case(stats),
        "name": name,
        "recall": min(recalls, default=None),
        "approximate": bool(of_vectors),
        "indexes": [asdict(info) for info in indexes],
        "schema": schema.to_dict(),
        "label": label_field(schema),
        "can": {
            "words": bool(texts) and store.supports("text"),
            "meaning": await StoreInternals(store).can_embed(schema),
            "optimize": not store.read_only,
        },
    }


async def _send(call: Call, options: dict[str, Any]) -> Response:
    name = call.request.path_params.get("name", "index.html")
    answer = await _STATIC.get_response(name, call.request.scope)
    answer.headers.update(_HEADERS)
    return answer
