"""Answers to errors in apps of FastAPI, Starlette and Litestar, without importing these."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from ..backend.threads import in_thread
from ..errors import AiovecError, InvalidArgumentError
from .problems import problem_of

LOG = logging.getLogger("aiovec.asgi")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

_SERVER_ERROR = 500
_INTERNAL_ERROR = 1011  # of web sockets, by RFC 6455


class ProblemResponse:
    """A problem as a response: the ASGI app that Starlette wants, and that Litestar asks it for."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.problem = problem_of(error)
        self.status_code = self.problem.status

    def to_asgi_response(self, *_: object, **__: object) -> ProblemResponse:
        return self

    async def __call__(self, scope: MutableMapping[str, Any], receive: object, send: Send) -> None:
        if self.status_code >= _SERVER_ERROR:
            await _log(self.error, self.status_code)  # the answer hides what a developer needs
        body = self.problem.body()
        headers = {**self.problem.headers(), "content-length": str(len(body))}
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )
        head = scope.get("method") == "HEAD"
        await send({"type": "http.response.body", "body": b"" if head else body})


def _response(_: object, error: Exception) -> ProblemResponse:
    return ProblemResponse(error)


async def _response_later(connection: Any, error: Exception) -> ProblemResponse | None:
    if connection.scope["type"] != "websocket":
        return ProblemResponse(error)
    await _log(error, _INTERNAL_ERROR)
    with contextlib.suppress(Exception):  # the handler has closed it already, or the client has
        await connection.close(code=_INTERNAL_ERROR, reason=problem_of(error).title)
    return None


async def _log(error: Exception, status: int) -> None:
    """Log an error, in a thread: handlers of an app may write to a file or a pipe."""
    write = partial(LOG.error, "%s: status %d", type(error).__name__, status, exc_info=error)
    await in_thread(write)


def add_error_handlers(app: object) -> None:
    """Give a FastAPI, Starlette or Litestar app the server's answers to aiovec's errors.

    Each is an ``application/problem+json`` by RFC 9457 with the error's name and facts, and the
    status that fits: 404 for a missing table, 409 for an id that exists, 422 for a wrong vector,
    row or filter, 503 with Retry-After for a busy store. No path, target or traceback is in it;
    errors of the server are logged by ``aiovec.asgi``. A web socket of FastAPI or Starlette is
    closed with code 1011; Litestar asks no handler about those, and closes them itself.

    Call it once, before the app serves. A handler of your own for one of the classes goes first.
    """
    add = getattr(app, "add_exception_handler", None)
    if callable(add):  # Starlette and FastAPI
        add(AiovecError, _response_later)
        return
    handlers = getattr(app, "exception_handlers", None)
    if not isinstance(handlers, MutableMapping):
        raise InvalidArgumentError("app", app, "an app of FastAPI, Starlette or Litestar")
    handlers.setdefault(AiovecError, _response)
