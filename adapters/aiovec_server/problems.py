"""Errors of HTTP requests, and the response to every error."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pydantic_core
from starlette.responses import Response

from aiovec import VectorStore
from aiovec._http.problems import Problem, log_error, problem_of
from aiovec.backend.context import TableChangedError

LOG = logging.getLogger("aiovec.server")
_PASSING = frozenset({429, 503})
_CHANGED = (
    "the table is not in the state that If-Match names; read it again, and then repeat the call"
)


class RequestError(Exception):
    """An error in the HTTP request or in the server itself, not in the store.

    ``accepted`` lists the accepted media types; ``headers`` go into the response.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        accepted: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.detail = detail
        self.accepted = accepted
        self.headers = headers
        super().__init__(detail)


async def response_of(error: Exception, request: str, store: VectorStore | None = None) -> Response:
    """Return the response to any error, as problem+json (RFC 9457).

    Faults of the server are logged with the request's id.
    """
    if isinstance(error, TableChangedError):
        error = RequestError(412, _CHANGED)
    if not isinstance(error, RequestError):
        answer = problem_of(error, () if store is None else (store.target,))
        if answer.status >= 500:
            await log_error(LOG, error, answer.status, f"request {request}: ")
        return problem_response(answer)
    again = 1 if error.status in _PASSING else None
    problem = Problem.plain(error.status, error.detail, retry_after=again)
    more = {"accepted": list(error.accepted)} if error.accepted else None
    return problem_response(problem, more, error.headers)


def problem_response(
    problem: Problem,
    more: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as a response, with additional members and headers."""
    body = problem.body() if more is None else pydantic_core.to_json({**problem.to_dict(), **more})
    return Response(body, problem.status, {**problem.headers(), **(headers or {})})
