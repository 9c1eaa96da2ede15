"""The server's app: its routers, and the middlewares around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from aiovec import Embedder, VectorStore, __version__
from aiovec._http.problems import Problem
from aiovec.asgi import KEY, add_error_handlers, lifespan
from aiovec.backend.server import ServerSettings
from aiovec.backend.threads import in_thread

from .asgi import path_of
from .bodies import JsonBytes, dump
from .calls import BackendCalls, backend_router
from .direct import Direct
from .endpoints import add_endpoints
from .endpoints.declaring import DirectRoute
from .endpoints.document import shortened
from .metrics import metrics_router
from .page import page_router
from .protection import limits, observing, security

RouterOf = Callable[[VectorStore | None, ServerSettings], APIRouter]
"""Makes a router. Without a store, its requests find one by ``aiovec.asgi.get_store``."""

MiddlewareOf = Callable[[ServerSettings], Middleware]
"""Makes a middleware, which is pure ASGI."""

ROUTERS: list[RouterOf] = [
    page_router,
    lambda store, settings: metrics_router(store, enabled=settings.metrics),
]
"""The app's routers beside the store's, in the order in which they get a request."""

MIDDLEWARES: list[MiddlewareOf] = [
    observing,
    security,
    limits,
]
"""The app's middlewares, the outermost first."""


def create_app(
    target: str | Path | None = None,
    *,
    config: str | Path | None = None,
    read_only: bool = False,
    embedders: Mapping[str, Embedder] | None = None,
    store: VectorStore | None = None,
    settings: ServerSettings | None = None,
) -> FastAPI:
    """Return the server as an ASGI app, which opens its store when it starts.

    The arguments are those of ``aiovec.connect``; or ``store`` is one that is open already, and
    that its owner closes.
    """
    chosen = settings or ServerSettings()
    app = FastAPI(
        title="aiovec",
        summary="A vector store over HTTP",
        version=__version__,
        openapi_url=None,  # FastAPI would build the document on the event loop
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        # Newer versions make spans of their own, which name paths and with them ids.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=None
        if store is not None
        else lifespan(
            target, config=config, read_only=read_only or chosen.read_only, embedders=embedders
        ),
        middleware=[make(chosen) for make in MIDDLEWARES],
    )
    if store is not None:
        setattr(app.state, KEY, store)
    add_endpoints(app, store)
    calls = BackendCalls(store)
    app.include_router(backend_router(calls))
    app.user_middleware.append(Middleware(Direct, routes=app.router.routes, calls=calls))
    for make in ROUTERS:
        app.include_router(make(store, chosen))
    openapi = app.openapi
    app.openapi = cache(lambda: shortened(openapi()))  # type: ignore[method-assign]
    app.add_route("/openapi.json", _openapi, ["GET"], include_in_schema=False)
    add_error_handlers(app)
    app.add_exception_handler(HTTPException, _problem)
    return app


async def _openapi(request: Request) -> Response:
    """Answer with the OpenAPI document, which the first request has built in a thread."""
    document = await in_thread(request.app.openapi)
    if root := request.scope.get("root_path", "").rstrip("/"):
        document = {**document, "servers": [{"url": root}]}
    return JsonBytes(await in_thread(dump, document))


def _problem(request: Request, error: Exception) -> Response:
    """Answer to a path or a method that does not exist."""
    if not isinstance(error, HTTPException):
        raise error
    headers, detail = dict(error.headers or {}), str(error.detail)
    if error.status_code == 404:
        detail = "there is nothing at this path; GET /openapi.json lists what there is"
        if request.scope["path"].endswith("/"):
            detail += ", and no path ends in a slash"
    elif error.status_code == 405:
        headers = {"allow": _allowed(request) or headers.get("Allow", "")}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        detail = f"the methods of this path are {headers['allow']}"
    found = Problem.plain(error.status_code, detail)
    return Response(found.body(), found.status, {**headers, **found.headers()})


def _allowed(request: Request) -> str:
    """Return the methods of an endpoint's path: each of them is a route of its own."""
    path = path_of(request.scope)
    found = {"OPTIONS"}
    for route in request.app.router.routes:
        if isinstance(route, DirectRoute) and route.path_regex.match(path):
            found |= route.methods or set()
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found)) if len(found) > 1 else ""


__all__ = ["MIDDLEWARES", "ROUTERS", "create_app"]
