"""Declarations of endpoints: what each takes and answers, and its place in the router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aiovec import VectorStore
from aiovec.errors import AiovecError

from ..asgi import encoded_slash_problem
from ..call import Call
from ..kinds import Keys
from ..media import JSON
from ..once import WriteKeys
from ..problems import RequestError, problem_response, response_of
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


def routes_of(endpoints: Sequence[Endpoint], store: VectorStore | None) -> list[Route]:
    """Return the routes of endpoints. Without a store they serve that of their app's lifespan."""
    keys = WriteKeys()
    return [
        Route(
            endpoint.path,
            answering(keys.once(endpoint.handler), store, endpoint),
            methods=[endpoint.method],
        )
        for endpoint in endpoints
    ]


def answering(
    handler: Handler, store: VectorStore | None, endpoint: Endpoint
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers the requests to an endpoint."""

    async def answer(request: Request) -> Response:
        request.scope["route"] = endpoint  # by whose path it is logged and counted
        call = Call(request, store)
        problem = encoded_slash_problem(request.scope)  # for apps without the server's own checks
        if problem is not None:
            return problem_response(problem)
        try:
            call.read_query(endpoint.query)
            return await handler(call)
        except (AiovecError, RequestError) as exc:
            return response_of(exc, call.store_or_none)

    return answer
