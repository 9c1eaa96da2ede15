"""The server's app: its routers, and the middlewares around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from aiovec import Embedder, VectorStore, __version__
from aiovec._http.problems import Problem
from aiovec.asgi import KEY, lifespan
from aiovec.backend.server import ServerSettings
from aiovec.backend.threads import in_thread

from .call import Call
from .endpoints import ENDPOINTS
from .endpoints.declaring import Endpoint, openapi, routes_of
from .observing import METRICS, Metrics, Observing
from .page import page_endpoints
from .problems import problem_response
from .security import cors

_Embedder = Embedder | Mapping[str, object] | str


def create_app(
    target: str | Path | None = None,
    *,
    config: str | Path | None = None,
    read_only: bool = False,
    follow: bool = False,
    embedder: _Embedder | None = None,
    embedders: Mapping[str, _Embedder] | None = None,
    store: VectorStore | None = None,
    settings: ServerSettings | None = None,
) -> Starlette:
    """Return the server as an ASGI app, which opens its store when it starts.

    Pass the arguments of ``aiovec.connect``, or an open ``store``, which the caller closes. With
    the setting ``access_log``, each request is logged to ``aiovec.access`` at level INFO; the log
    record's ``facts`` describe the request.
    """
    chosen = settings or ServerSettings()
    metrics = Metrics() if chosen.metrics else None
    described = (*ENDPOINTS, METRICS) if chosen.metrics else tuple(ENDPOINTS)

    async def read_document(call: Call, options: dict[str, Any]) -> Any:
        document = await in_thread(openapi, described, __version__)
        root = call.request.scope.get("root_path", "").rstrip("/")
        return {**document, "servers": [{"url": root}]} if root else document

    document = Endpoint("GET", "/openapi.json", read_document)
    endpoints = [*described, document, *page_endpoints(chosen)]
    app = Starlette(
        routes=routes_of(endpoints, store, chosen),
        exception_handlers={HTTPException: _problem},
        lifespan=None
        if store is not None
        else lifespan(
            target,
            config=config,
            read_only=read_only or chosen.read_only,
            follow=follow,
            embedder=embedder,
            embedders=embedders,
        ),
        middleware=[Middleware(Observing, metrics=metrics, logs=chosen.access_log), *cors(chosen)],
    )
    app.router.redirect_slashes = False
    app.state.aiovec_metrics = metrics
    if store is not None:
        setattr(app.state, KEY, store)
    return app


def _problem(request: Request, error: Exception) -> Response:
    """Answer a request for a path or a method that does not exist."""
    if not isinstance(error, HTTPException):
        raise error
    headers, detail = dict(error.headers or {}), str(error.detail)
    if error.status_code == 404:
        detail = "no endpoint has this path; GET /openapi.json lists all"
        if request.scope["path"].endswith("/"):
            detail += ", and no path ends in a slash"
    elif error.status_code == 405:
        allowed = ", ".join(sorted({"OPTIONS", *headers["Allow"].split(", ")}))
        headers["Allow"] = allowed
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        detail = f"the methods of this path are {allowed}"
    return problem_response(Problem.plain(error.status_code, detail), headers=headers)


__all__ = ["create_app"]
