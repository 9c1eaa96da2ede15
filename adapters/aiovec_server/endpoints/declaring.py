"""Declarations of endpoints: what each takes and answers, and its place in the router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aiovec import VectorStore
from aiovec._http.problems import Problem
from aiovec.asgi import get_store
from aiovec.backend.context import TableChangedError
from aiovec.errors import AiovecError

from ..asgi import encoded_slash_problem
from ..bodies import json_response
from ..call import Call
from ..decode import arguments_in
from ..media import JSON
from ..models import Model, Nothing
from ..once import WriteKeys
from ..problems import RequestError, problem_response, response_of

Handler = Callable[[Call, dict[str, Any]], Awaitable[Any]]
_CHANGED = Problem.plain(
    412,
    "the table is not in the state that If-Match names; read it again, and then repeat the call",
)


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
    body: type[Model] | None = None
    takes_rows: bool = False
    """The body is the rows of a write, which the handler reads."""
    example: Any = None
    """One of a JSON body."""
    status: int = 200
    writes: bool = False

    async def act(self, store: VectorStore, keys: WriteKeys, request: Request) -> Response:
        """Answer a request, once its headers have been read."""
        call = Call(request, store, keys)
        options = call.query_arguments(self.query)
        if self.body is not None:
            options |= await arguments_in(call, self.body)
        found = await self.handler(call, options)
        if isinstance(found, Response):
            return found
        return Response(status_code=204) if found is None else json_response(found, self.status)


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
        problem = encoded_slash_problem(request.scope)  # for apps without the server's own checks
        if problem is not None:
            return problem_response(problem)
        try:
            store = get_store(request) if own is None else own
            return await keys.answer(request, partial(endpoint.act, store, keys))
        except TableChangedError:
            return problem_response(_CHANGED)
        except (AiovecError, RequestError) as exc:
            id = request.scope.get("state", {}).get("request_id", "")
            return await response_of(exc, store, id)

    return answer
