"""The server's app: its routers, and the middlewares around them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import FastAPI
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
from .keys import keys_of
from .limits import Limits
from .logs import log_requests
from .metrics import Metrics, metrics_router
from .observing import Observing
from .page import page_router
from .security import Security


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
    metrics = Metrics() if chosen.metrics else None
    if chosen.access_log:
        log_requests()
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
        # A request is observed, then admitted, then limited: a refused one is in the log, and
        # takes no turn of those that are served.
        middleware=[
            Middleware(Observing, metrics=metrics, logs=chosen.access_log),
            Middleware(Security, settings=chosen, keys=keys_of(chosen)),
            Middleware(Limits, settings=chosen),
        ],
    )
    if store is not None:
        setattr(app.state, KEY, store)
    add_endpoints(app, store)
    calls = BackendCalls(store)
    app.include_router(backend_router(calls))
    app.user_middleware.append(Middleware(Direct, routes=app.router.routes, calls=calls))
    app.include_router(page_router(store, chosen))
    if metrics is not None:
        app.include_router(metrics_router(store, metrics))
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


__all__ = ["create_app"]
