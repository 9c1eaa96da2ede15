"""Declarations of endpoints: what each takes and answers, and its place in the router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aiovec import VectorStore
from aiovec._http.ipc import ARROW
from aiovec._http.problems import Problem
from aiovec.backend.context import TableChangedError
from aiovec.errors import AiovecError

from ..asgi import encoded_slash_problem
from ..call import Call
from ..media import JSON
from ..models import Model, Nothing
from ..once import WriteKeys
from ..problems import RequestError, problem_response, response_of
from .document import BYTES, Answer, schema_of

Handler = Callable[[Call], Awaitable[Response]]
_CHANGED = Problem.plain(
    412,
    "the table is not in the state that If-Match names; read it again, and then repeat the call",
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. Its handler's docstring is its description."""

    method: str
    path: str
    handler: Handler
    answer: Answer
    query: type[Model] = Nothing
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
        body: type[Model] | Mapping[str, Any] | None = None,
        example: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Callable[[Handler], Handler]:
        """Declare the function below as an endpoint. ``example`` is that of a JSON body."""
        bodies: dict[str, Any] | None = None
        if isinstance(body, type):
            bodies = {JSON: {"schema": schema_of(body), "example": example or {}}}
            if body.takes_columns():
                bodies[ARROW] = {"schema": BYTES}
            needed = any(field.is_required() for field in body.model_fields.values())
            options.setdefault("body_needed", needed)
        elif body is not None:
            bodies = dict(body)

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
            answering(endpoint, store, keys),
            methods=[endpoint.method],
        )
        for endpoint in endpoints
    ]


def answering(
    endpoint: Endpoint, store: VectorStore | None, keys: WriteKeys
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers the requests to an endpoint."""

    async def handle(call: Call, request: Request) -> Response:
        call.request = request
        return await endpoint.handler(call)

    async def answer(request: Request) -> Response:
        request.scope["route"] = endpoint  # by whose path it is logged and counted
        call = Call(request, store, keys)
        problem = encoded_slash_problem(request.scope)  # for apps without the server's own checks
        if problem is not None:
            return problem_response(problem)
        try:
            call.read_query(endpoint.query)
            return await keys.answer(request, partial(handle, call))
        except TableChangedError:
            return problem_response(_CHANGED)
        except (AiovecError, RequestError) as exc:
            return response_of(exc, call.store_or_none)

    return answer
