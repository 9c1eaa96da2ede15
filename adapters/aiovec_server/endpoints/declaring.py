"""Declarations of endpoints: arguments, responses, routes, and the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from aiovec import VectorStore
from aiovec._http.ipc import ARROW
from aiovec._http.problems import MEDIA_TYPE
from aiovec.asgi import get_store
from aiovec.backend.context import TableChangedError
from aiovec.backend.server import ServerSettings
from aiovec.errors import AiovecError

from ..bodies import values_response
from ..call import JSON, JSON_LINES, OF_ROWS, Call
from ..limits import Limits
from ..models import ANSWERS_OF_ROWS, Model, NewRecords, Problem, schemas_of
from ..once import HEADER, RETRY_HEADER, STATE_HEADER, WriteKeys
from ..problems import RequestError, response_of
from ..security import Access, Security

Handler = Callable[[Call, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One endpoint.

    The handler gets the arguments from the query string and the body. It returns a value to encode
    as JSON, None for status 204, or a response. The handler's docstring describes the endpoint.
    """

    method: str
    path: str
    handler: Handler
    answer: type[BaseModel] | None = None
    kinds: Sequence[str] = (JSON,)
    """The media types of the response."""
    query: type[Model] | None = Model
    """The model of the query string; with None, the query string is ignored."""
    body: Any = None
    """The model of a JSON body. The handler gets ``NewRecords`` as ``rows``."""
    example: Any = None
    """An example of a JSON body."""
    status: int = 200
    reads: bool = False
    """True if the endpoint only reads, though its method is not GET."""
    open: bool = False
    """True if the endpoint needs no API key."""
    long: bool = False
    """True if a call's time depends on the table's size: its timeout is 30 days, and it ends early
    only if the client disconnects."""

    @property
    def access(self) -> Access:
        if self.open:
            return Access.NONE
        return Access.READ if self.reads or self.method == "GET" else Access.WRITE

    def body_kinds(self) -> Sequence[str]:
        """Return the media types of the body."""
        if self.body is NewRecords:
            return JSON, JSON_LINES, ARROW
        # Lists of ids or vectors may be sent as Arrow columns.
        lists = {"ids", "vectors"} & self.body.model_fields.keys()
        return (JSON, ARROW) if lists else (JSON,)

    async def act(self, store: VectorStore, keys: WriteKeys, request: Request) -> Response:
        """Answer a request whose headers have been read."""
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
        return await values_response(answer, self.status, call.headers)


ENDPOINTS: list[Endpoint] = []
"""The endpoints of the API, in the order in which their paths are matched."""


def endpoint(
    method: str, path: str, answer: Any = None, body: Any = None, example: Any = None, **more: Any
) -> Callable[[Handler], Handler]:
    """Declare the decorated function as an endpoint.

    A path without a leading slash is relative to ``/tables/{table}``.
    """
    if not path.startswith("/"):
        path = f"/tables/{{table}}/{path}".rstrip("/")
    if answer in ANSWERS_OF_ROWS:
        more["kinds"] = OF_ROWS
    elif answer is None and "kinds" not in more:
        more["status"] = 204

    def declare(handler: Handler) -> Handler:
        made = Endpoint(method, path, handler, answer, body=body, example=example, **more)
        ENDPOINTS.append(made)
        return handler

    return declare


reads = partial(endpoint, "POST", reads=True)
"""Declare a function as a read-only endpoint. Its arguments are in a body, because they may be
long."""


class _Path:
    """The ASGI app of a path. It chooses the endpoint by the request's method."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.methods: dict[str, Endpoint] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        scope["route"] = self.methods["GET" if method == "HEAD" else method]
        await self._app(scope, receive, send)


def routes_of(
    endpoints: Sequence[Endpoint], store: VectorStore | None, settings: ServerSettings | None = None
) -> list[Route]:
    """Return a route for each path, with limits and access control if there are settings.

    Without a store, the routes serve the store of their app's lifespan.
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
    """Refuse an encoded slash, except in a record's id at the end of the path.

    A proxy in front of the server may have rules for paths, such as "no DELETE of /tables/*". If
    the proxy does not decode the slash, it checks a different path from the one that this server
    answers.
    """
    path: str = request.scope["path"]
    raw = (request.scope.get("raw_path") or quote(path).encode()).partition(b"?")[0]
    if path.count("/") - raw.count(b"/") > request.path_params.get("id", "").count("/"):
        raise RequestError(404, "no endpoint has this path, because it has an encoded slash in it")


# The OpenAPI document, generated from the endpoints and the models of their bodies and responses

_BYTES = {"type": "string", "format": "binary"}
_KEY = {"type": "string", "pattern": "^[!-~]{1,200}$"}
_SEGMENTS: dict[str, Any] = {
    "table": {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,62}$"},
    "id": {"type": "string", "minLength": 1, "maxLength": 512},
    "key": _KEY,
}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    HEADER: ("Names this write, so that it can be repeated without being done twice.", _KEY),
    RETRY_HEADER: (
        "1 if the request is repeated because its answer was lost.",
        {"type": "string", "enum": ["0", "1"]},
    ),
    STATE_HEADER: (
        "The ETag of GET /tables/{table}: the call is refused with 412 if the schema has changed.",
        {"type": "string", "maxLength": 200},
    ),
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


@cache
def openapi(endpoints: tuple[Endpoint, ...], version: str) -> dict[str, Any]:
    """Return the OpenAPI document, which callers must not change. Building it takes 50 ms."""
    models = [model for each in endpoints for model in (each.body, each.answer) if model]
    places, schemas = schemas_of([*dict.fromkeys(models), Problem])
    paths: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for endpoint in endpoints:
        path, method = re.sub(r":\w+", "", endpoint.path), endpoint.method.lower()
        name = endpoint.handler.__name__
        name = f"{name}_by_{method}" if name in names else name  # the handler serves two methods
        names.add(name)
        paths.setdefault(path, {})[method] = _operation(endpoint, name, places)
    problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": places[Problem]}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "aiovec", "summary": "A vector store over HTTP", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": problem},
            "securitySchemes": _KEYS,
        },
        # {} makes the API key optional, because a server may have no keys.
        "security": [*({name: []} for name in _KEYS), {}],
    }


def _operation(endpoint: Endpoint, name: str, places: dict[Any, Any]) -> dict[str, Any]:
    summary, _, description = (endpoint.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "summary": summary.rstrip("."),
        "description": "\n".join(line.strip() for line in description.strip().split("\n")),
        "operationId": name,
        "parameters": _parameters(endpoint),
        "responses": {
            str(endpoint.status): {"description": "Done"},
            "4XX": {"$ref": "#/components/responses/Problem"},
            "5XX": {"$ref": "#/components/responses/Problem"},
        },
    }
    if endpoint.access is Access.NONE:
        operation["security"] = []
    if endpoint.status != 204:
        schema = places.get(endpoint.answer)
        operation["responses"][str(endpoint.status)]["content"] = _contents(endpoint.kinds, schema)
    if (body := endpoint.body) is not None:
        contents = _contents(endpoint.body_kinds(), places[body], endpoint.example)
        needed = body is NewRecords or body.is_needed()
        operation["requestBody"] = {"required": needed, "content": contents}
    return operation


def _contents(kinds: Sequence[str], schema: Any, example: Any = None) -> dict[str, Any]:
    shown = {} if example is None else {"example": example}
    return {kind: {"schema": schema, **shown} if kind == JSON else {"schema": _BYTES}
            for kind in kinds}  # fmt: skip


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True,
         "schema": _SEGMENTS.get(name, {"type": "string"})}
        for name in re.findall(r"\{(\w+)", endpoint.path)
    ]  # fmt: skip
    query = {} if endpoint.query is None else endpoint.query.model_json_schema()
    for name, schema in query.get("properties", {}).items():
        # A list is one value, with commas.
        place = {"name": name, "in": "query", "required": name == "confirm", "explode": False}
        parameters.append({**place, "description": schema.pop("description", ""), "schema": schema})
    headers = [HEADER, RETRY_HEADER] if endpoint.access is Access.WRITE else []
    if "{table}" in endpoint.path:
        headers.append(STATE_HEADER)
    for name in headers:
        about, schema = _HEADERS[name]
        parameters.append({"name": name, "in": "header", "description": about, "schema": schema})
    return parameters
