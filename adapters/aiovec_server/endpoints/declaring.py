"""Declarations of endpoints: what each takes and answers, and its place in the router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aiovec import VectorStore
from aiovec._http.ipc import ARROW
from aiovec.asgi import get_store
from aiovec.backend.context import TableChangedError
from aiovec.errors import AiovecError

from ..access import Access, access_of
from ..bodies import JsonBytes, dump
from ..call import JSON, JSON_LINES, Call
from ..models import Model, NewRecords, Nothing
from ..once import WriteKeys
from ..problems import RequestError, response_of

Handler = Callable[[Call, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
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
    query: type[Model] = Nothing
    body: Any = None
    """The model of a JSON body. ``NewRecords`` are given to the handler as ``rows``."""
    example: Any = None
    """One of a JSON body."""
    status: int = 200

    @property
    def access(self) -> Access:
        return access_of(self.method, self.path)

    def body_kinds(self) -> Sequence[str]:
        """Return the media types of the body."""
        if self.body is NewRecords:
            return JSON, JSON_LINES, ARROW
        return (JSON, ARROW) if self.body.takes_columns() else (JSON,)

    async def act(self, store: VectorStore, keys: WriteKeys, request: Request) -> Response:
        """Answer a request, once its headers have been read."""
        call = Call(request, store, keys)
        options = call.query(self.query)
        if self.body is NewRecords:
            options["rows"] = await call.rows(self.body_kinds())
        elif self.body is not None:
            options |= await call.body(self.body, self.body_kinds())
        else:
            await request.body()
        found = await self.handler(call, options)
        if isinstance(found, Response):
            return found
        return Response(status_code=204) if found is None else JsonBytes(dump(found), self.status)


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


def routes_of(endpoints: Sequence[Endpoint], store: VectorStore | None) -> list[Route]:
    """Return a route for each path. Without a store they serve that of their app's lifespan."""
    keys = WriteKeys()
    paths: dict[str, dict[str, Endpoint]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method] = one
    return [
        Route(path, _answering(methods, store, keys), methods=list(methods))
        for path, methods in paths.items()
    ]


def _answering(
    methods: Mapping[str, Endpoint], own: VectorStore | None, keys: WriteKeys
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        request.scope["route"] = endpoint  # by whose path it is logged and counted
        store = own
        try:
            _check_slashes(request)
            store = get_store(request) if own is None else own
            return await keys.answer(request, partial(endpoint.act, store, keys))
        except (AiovecError, RequestError, TableChangedError) as exc:
            id = request.scope.get("state", {}).get("request_id", "")
            return await response_of(exc, id, store)

    return answer


def _check_slashes(request: Request) -> None:
    """Refuse an encoded slash anywhere but in the id of a record, which ends its path.

    A proxy in front that keeps rules for paths, such as "no DELETE of /tables/*", may not decode
    it, and would have let another path through than this server answers.
    """
    path: str = request.scope["path"]
    raw = (request.scope.get("raw_path") or quote(path).encode()).partition(b"?")[0]
    if path.count("/") - raw.count(b"/") > request.path_params.get("id", "").count("/"):
        raise RequestError(404, "there is nothing at this path: it has an encoded slash in it")
