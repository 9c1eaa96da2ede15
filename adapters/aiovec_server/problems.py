"""Errors of a request itself, and how every error is answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pydantic_core
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aiovec import VectorStore
from aiovec._http.problems import Problem, problem_of
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError

LOG = logging.getLogger("aiovec.server")
_SERVER_ERROR = 500
_PASSING = frozenset({429, 503})
_RETRY_SECONDS = 1


class RequestError(Exception):
    """A request that cannot be answered for a reason that lies in HTTP.

    ``accepted`` lists the media types that would do.
    """

    def __init__(self, status: int, detail: str, *, accepted: Sequence[str] = ()) -> None:
        self.status = status
        self.detail = detail
        self.accepted = accepted
        super().__init__(detail)


def response_of(error: AiovecError | RequestError, store: VectorStore | None = None) -> Response:
    """Return the answer to an error, as problem+json (RFC 9457)."""
    if isinstance(error, AiovecError):
        found = problem_of(error, () if store is None else (store.target,))
        if found.status >= _SERVER_ERROR:
            return _LoggedResponse(found, error)
        return problem_response(found)
    again = _RETRY_SECONDS if error.status in _PASSING else None
    problem = Problem.plain(error.status, error.detail, retry_after=again)
    if not error.accepted:
        return problem_response(problem)
    headers = {"accept": ", ".join(error.accepted)} if error.status == 415 else {}
    return problem_response(problem, {"accepted": list(error.accepted)}, headers)


def problem_response(
    problem: Problem,
    more: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a problem, and with these further members and headers."""
    body = problem.body() if more is None else pydantic_core.to_json({**problem.to_dict(), **more})
    return Response(body, problem.status, {**problem.headers(), **(headers or {})})


class _LoggedResponse(Response):
    """The answer to an error of the server, which is logged first: the answer hides its cause."""

    def __init__(self, problem: Problem, error: AiovecError) -> None:
        super().__init__(problem.body(), problem.status, problem.headers())
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In a thread, for a log may be a file or a pipe.
        await in_thread(self._log, scope.get("state", {}).get("request_id", ""))
        await super().__call__(scope, receive, send)

    def _log(self, request: str) -> None:
        name = type(self._error).__name__
        LOG.error(
            "request %s: status %d, %s", request, self.status_code, name, exc_info=self._error
        )
