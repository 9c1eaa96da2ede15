"""Declarations of endpoints: what each takes and answers, and its place in the router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from aiovec import VectorStore
from aiovec._http.ipc import ARROW
from aiovec.asgi import get_store
from aiovec.backend.context import TableChangedError
from aiovec.backend.server import ServerSettings
from aiovec.errors import AiovecError

from ..bodies import dump
from ..call import JSON, JSON_LINES, Call
from ..keys import Access
from ..limits import Limits
from ..models import Model, NewRecords
from ..once import WriteKeys
from ..problems import RequestError, response_of
from ..security import Security

Handler = Callable[[Call, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One endpoint. Its handler gets the arguments of the query and of the body.

    It returns what JSON is made of, None for status 204, or a response. Its docstring is the
    description.
    """

    method: str
    path: str
    handler: Handler
    answer: type[BaseModel] | None = None
    kinds: Sequence[str] = (JSON,)
    """The media types of the answer."""
    query: type[Model] | None = Model
    """The model of the query string; None ignores it."""
    body: Any = None
    """The model of a JSON body. ``NewRecords`` are given to the handler as ``rows``."""
    example: Any = None
    """One of a JSON body."""
    status: int = 200
    reads: bool = False
    """It reads, though its method is not GET."""
    open: bool = False
    """Anyone may ask, without a key."""
    long: bool = False
    """It takes as long as the table is large: no timeout ends it, but its client going away."""

    @property
    def access(self) -> Access:
        if self.open:
            return Access.NONE
        return Access.READ if self.reads or self.method == "GET" else Access.WRITE

    def body_kinds(self) -> Sequence[str]:
        """Return the media types of the body."""
        if self.body is NewRecords:
            return JSON, JSON_LINES, ARROW
        return (JSON, ARROW) if self.body.takes_columns() else (JSON,)

    async def act(self, store: VectorStore, keys: WriteKeys, request: Request) -> Response:
        """Answer a request, once its headers have been read."""
        call = Call(request, store, keys)
        options = {} if self.query is None else call.query(self.query)
        if self.body is NewRecords:
            options["rows"] = await call.rows(self.body_kinds())
        elif self.body is not None:
            options |= await call.body(self.body, self.body_kinds())
        answer = await self.handler(call, options)
        if isinstance(answer, Response):
            return answer
        if answer is None:
            return Response(status_code=204)
        return Response(dump(answer), self.status, media_type=JSON)


ENDPOINTS: list[Endpoint] = []
"""Those of the API, in the order in which a request's path is compared with theirs."""


def endpoint(
    method: str, path: str, answer: type[BaseModel] | None = None, **options: Any
) -> Callable[[Handler], Handler]:
    """Declare the function below as an endpoint."""
    if answer is None and "kinds" not in options:
        options["status"] = 204

    def declare(handler: Handler) -> Handler:
        ENDPOINTS.append(Endpoint(method, path, handler, answer, **options))
        return handler

    return declare


class _Path:
    """The ASGI app of a path, which chooses the endpoint by the method."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.methods: dict[str, Endpoint] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        scope["route"] = self.methods["GET" if method == "HEAD" else method]
        await self._app(scope, receive, send)


def routes_of(
    endpoints: Sequence[Endpoint],
    store: VectorStore | None,
    settings: ServerSettings | None = None,
) -> list[Route]:
    """Return a route for each path, with limits and security where there are settings.

    Without a store they serve the store of their app's lifespan.
    """
    security = None if settings is None else Security(settings)
    app = request_response(partial(_answer, store, WriteKeys(), security))
    if settings is not None:
        app = Limits(app, settings)
    paths: dict[str, _Path] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, _Path(app)).methods[endpoint.method] = endpoint
    return [Route(path, entry, methods=list(entry.methods)) for path, entry in paths.items()]


async def _answer(
    given: VectorStore | None, keys: WriteKeys, security: Security | None, request: Request
) -> Response:
    endpoint: Endpoint = request.scope["route"]
    store = given
    try:
        if security is not None:
            security.check(request, endpoint.access)
        _check_slashes(request)
        store = get_store(request) if given is None else given
        writes = endpoint.access is Access.WRITE
        return await keys.answer(request, partial(endpoint.act, store, keys), writes=writes)
    except (AiovecError, RequestError, TableChangedError) as exc:
        id = request.scope.get("state", {}).get("request_id", "")
        return await response_of(exc, id, store)


def _check_slashes(request: Request) -> None:
    """Refuse an encoded slash anywhere but in the id of a record, which ends its path.

    A proxy in front that keeps rules for paths, such as "no DELETE of /tables/*", may not decode
    it, and would have let another path through than this server answers.
    """
    path: str = request.scope["path"]
    raw = (request.scope.get("raw_path") or quote(path).encode()).partition(b"?")[0]
    if path.count("/") - raw.count(b"/") > request.path_params.get("id", "").count("/"):
        raise RequestError(404, "there is nothing at this path: it has an encoded slash in it")
