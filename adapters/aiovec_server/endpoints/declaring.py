"""Declarations of endpoints: what each takes and answers, and its place in the router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from aiovec import VectorStore
from aiovec.errors import AiovecError

from ..asgi import encoded_slash_problem
from ..call import Call
from ..kinds import Keys
from ..media import JSON
from ..once import WriteKeys
from ..problems import RequestError, problem_response, response_of
from . import document
from .document import Answer

Handler = Callable[[Call], Awaitable[Response]]
NO_KEYS = Keys(())


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. Its handler's docstring is its description."""

    method: str
    path: str
    handler: Handler
    answer: Answer
    query: Keys = NO_KEYS
    """The query parameters; the handler finds them in ``call.query``. Any other is refused."""
    body: Mapping[str, Any] | None = None
    """The schema and the example of the body for each of its media types."""
    body_needed: bool = True
    status: int = 200
    writes: bool = False


class Endpoints:
    """The endpoints of a module, in the order in which a request's path is compared with theirs."""

    def __init__(self) -> None:
        self.all: list[Endpoint] = []

    def add(
        self,
        method: str,
        path: str,
        answer: Answer,
        *,
        body: Keys | Mapping[str, Any] | None = None,
        example: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Callable[[Handler], Handler]:
        """Declare the function below as an endpoint. ``example`` is that of a JSON body."""
        bodies: Mapping[str, Any] | None = None
        if isinstance(body, Keys):
            bodies = {JSON: {"schema": body.json_schema(), "example": example or {}}}
            options.setdefault("body_needed", any(key.required for key in body.keys))
        elif body is not None:
            bodies = body

        def declare(handler: Handler) -> Handler:
            self.all.append(Endpoint(method, path, handler, answer, body=bodies, **options))
            return handler

        return declare


class DirectRoute(APIRoute):
    """A route without dependencies, whose requests go to the endpoint and not by way of FastAPI's.

    That would take a third of a request's time. Only for a router that nobody includes, since those
    who do may add dependencies.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Take HEAD where GET is taken. In the OpenAPI document it would stand twice."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        return super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" and "GET" in (self.methods or ()):
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def add_to(
    router: APIRouter,
    endpoints: Sequence[Endpoint],
    store: VectorStore | None,
    route: type[APIRoute] = APIRoute,
) -> None:
    """Add endpoints to a router. Without a store, requests find that of their app's lifespan."""
    keys = WriteKeys()
    names: set[str] = set()
    for endpoint in endpoints:
        name = endpoint.handler.__name__
        summary, _, description = (endpoint.handler.__doc__ or name).partition("\n")
        if name in names:
            name = f"{name}_by_{endpoint.method.lower()}"
        names.add(name)
        router.add_api_route(
            endpoint.path,
            answering(keys.once(endpoint.handler), store, endpoint.query),
            methods=[endpoint.method],
            name=name,
            operation_id=name,
            summary=summary.rstrip("."),
            description="\n".join(line.strip() for line in description.strip().split("\n")),
            response_model=None,
            response_class=Response,
            status_code=endpoint.status,
            responses=document.responses(endpoint),
            openapi_extra=document.extra(endpoint),
            route_class_override=route,
        )


def answering(
    handler: Handler, store: VectorStore | None, query: Keys = NO_KEYS
) -> Callable[[Request], Any]:
    """Return what answers the requests to an endpoint with these query parameters."""

    async def answer(request: Request) -> Response:
        call = Call(request, store)
        problem = encoded_slash_problem(request.scope)  # for apps without the server's own checks
        if problem is not None:
            return problem_response(problem)
        try:
            call.read_query(query)
            return await handler(call)
        except (AiovecError, RequestError) as exc:
            return response_of(exc, call.store_or_none)

    return answer
