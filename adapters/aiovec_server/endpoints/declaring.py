"""How an endpoint is declared: what it takes, what it answers, and its place in the router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from aiovec import VectorStore
from aiovec.errors import AiovecError

from ..call import Call
from ..kinds import Keys
from ..once import WriteKeys
from ..problems import RequestError, response_of

Handler = Callable[[Call], Awaitable[Response]]
NO_KEYS = Keys(())


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. Its documentation is the handler's docstring."""

    method: str
    path: str
    handler: Handler
    body: Keys | None = None
    query: Keys = NO_KEYS
    status: int = 200
    answers: Mapping[str, Any] = field(default_factory=dict)
    """The example of an answer for each media type."""


class Endpoints:
    """The endpoints of a module, in the order in which a request's path is compared with theirs."""

    def __init__(self) -> None:
        self.all: list[Endpoint] = []

    def add(
        self,
        method: str,
        path: str,
        *,
        body: Keys | None = None,
        query: Keys = NO_KEYS,
        status: int = 200,
        answers: Mapping[str, Any] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Declare the function below as an endpoint."""

        def declare(handler: Handler) -> Handler:
            self.all.append(Endpoint(method, path, handler, body, query, status, answers or {}))
            return handler

        return declare


def add_to(router: APIRouter, endpoints: Sequence[Endpoint], store: VectorStore | None) -> None:
    """Add endpoints to a router. Without a store, requests find that of their app's lifespan."""
    keys = WriteKeys()
    for endpoint in endpoints:
        router.add_api_route(
            endpoint.path,
            _answering(keys.once(endpoint.handler), store),
            methods=[endpoint.method],
            name=endpoint.handler.__name__,
            response_model=None,
            status_code=endpoint.status,
        )


def _answering(handler: Handler, store: VectorStore | None) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        try:
            return await handler(Call(request, store))
        except (AiovecError, RequestError) as exc:
            return response_of(exc)

    return answer
