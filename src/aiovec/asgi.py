"""A store for web apps: opened and closed with the app, and available in each request.

    from aiovec.asgi import add_error_handlers, get_store, lifespan

    app = FastAPI(lifespan=lifespan(config="aiovec.toml"))
    add_error_handlers(app)

    @app.post("/search")
    async def search(query: Query, store: Annotated[VectorStore, Depends(get_store)]): ...

This module works with Starlette, FastAPI and Litestar (``Litestar(lifespan=[lifespan(...)])``), and
with every framework that passes on the ASGI scope. It imports no framework.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol

from ._embed.protocol import EmbedderOption
from ._http.problems import Problem, log_error, problem_of
from ._store.connect import connect
from ._store.store import VectorStore  # at run time too: Litestar resolves the annotations
from ._store.watch import Sources, sources_of, watching_all
from ._tools.hints import hints_arguments
from .backend.paths import PathText
from .errors import AiovecError, ConfigError, InvalidArgumentError

LOG = logging.getLogger("aiovec.asgi")

KEY = "aiovec_store"
"""The name of the store in the state of the app and of each request."""

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]


@hints_arguments
def lifespan(
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    read_only: bool = False,
    follow: bool = False,
    embedder: EmbedderOption | None = None,
    embedders: Mapping[str, EmbedderOption] | None = None,
    watch: Sources = (),
    wait: bool = False,
) -> Lifespan:
    """Return a ``lifespan`` for a framework.

    ``watch`` is one source that the store follows while the app runs, or several: each is a source
    for ``aiovec.watch``, or a mapping of its arguments, such as ``{"source": "app.db#articles",
    "embed": "body"}``. ``store.watching`` lists them. With ``wait``, the app serves requests only
    once each source has been copied. The other arguments are as in ``aiovec.connect``.

    The store opens when the app starts; if opening fails, the app does not start. When the app
    ends, the store finishes the accepted writes and closes. An app may start again later.

    In your own lifespan, an ``AsyncIterator[Mapping[str, Any]]``, write ``async with
    lifespan(...)(app) as state: yield state``. This function gives an app only one store; open
    others with ``aiovec.connect`` in your own lifespan.
    """
    opening = partial(
        connect,
        target,
        config=config,
        read_only=read_only,
        follow=follow,
        embedder=embedder,
        embedders=embedders,
    )
    opening()  # opens nothing yet, but refuses wrong arguments now
    watched = sources_of(watch)

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        state = getattr(app, "state", None)
        other = _in_state(state)
        if other is not None:  # handlers would always get the store that was opened last
            raise ConfigError(
                f"this app has a store already ({other.target}): open a second one with "
                "aiovec.connect in your own lifespan, and pass it to its handlers yourself",
                key="lifespan",
            )
        async with opening() as store, watching_all(store, watched, wait=wait):
            # Set in the app and in the scope: requests to mounted apps see only the scope's state,
            # which some servers and frameworks do not provide.
            if state is not None:
                setattr(state, KEY, store)
            try:
                yield {KEY: store}
            finally:
                if state is not None:
                    delattr(state, KEY)

    return run


class Scoped(Protocol):
    """A request, a web socket, or any other connection with an ASGI scope."""

    @property
    def scope(self) -> Any: ...


class _GetStore:
    """Return the store that the app's ``lifespan`` opened.

    Takes a request, a web socket, the ASGI scope or, in your own lifespan, ``{"app": app}``.
    Raises ConfigError if no lifespan ran.
    """

    # An object instead of a function, for FastAPI, which reads the signature of a dependency: only
    # a parameter annotated with Starlette's class gets the request or the web socket. So the
    # annotation is that class once Starlette is imported.
    __name__ = __qualname__ = "get_store"

    def __call__(self, request: Scoped | Mapping[str, Any]) -> VectorStore:
        scope = request if isinstance(request, Mapping) else request.scope
        # The innermost app comes first: a mounted app may have its own store.
        for key in ("app", "litestar_app"):
            store: VectorStore | None = _in_state(getattr(scope.get(key), "state", None))
            if store is not None:
                return store
        store = _in_state(scope.get("state"))
        if store is not None:
            return store
        raise ConfigError(
            "this app has no store: start it with lifespan=aiovec.asgi.lifespan(...), and let the "
            "lifespan run (a test client runs it inside its with block)",
            key="lifespan",
        )

    @property
    def __signature__(self) -> inspect.Signature:
        requests = sys.modules.get("starlette.requests")
        annotation = Any if requests is None else requests.HTTPConnection
        parameter = inspect.Parameter(
            "request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation
        )
        return inspect.Signature([parameter])

    def __repr__(self) -> str:
        return "<aiovec.asgi.get_store>"


def _in_state(state: Any) -> Any:
    if isinstance(state, Mapping):
        return state.get(KEY)
    return getattr(state, KEY, None)


get_store: _GetStore = _GetStore()
"""The store that the app's ``lifespan`` opened: ``get_store(request)``, ``Depends(get_store)``.

Takes a request, a web socket, the ASGI scope or, in your own lifespan, ``{"app": app}``. Raises
ConfigError if no lifespan ran.
"""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

_INTERNAL_ERROR = 1011  # the close code of web sockets in RFC 6455


class ProblemResponse:
    """An error as a response: an ASGI app, which Litestar gets from ``to_asgi_response``."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.problem: Problem = problem_of(error)
        self.status_code: int = self.problem.status

    def to_asgi_response(self, *_: object, **__: object) -> ProblemResponse:
        return self

    async def __call__(self, scope: MutableMapping[str, Any], receive: object, send: Send) -> None:
        if self.status_code >= 500:
            await log_error(LOG, self.error, self.status_code)
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


async def _respond(connection: Any, error: Exception) -> ProblemResponse | None:
    if connection.scope["type"] != "websocket":
        return ProblemResponse(error)
    await log_error(LOG, error, _INTERNAL_ERROR)
    with suppress(Exception):  # already closed by the handler or the client
        await connection.close(code=_INTERNAL_ERROR, reason=problem_of(error).title)
    return None


def add_error_handlers(app: object) -> None:
    """Make a FastAPI, Starlette or Litestar app respond to aiovec's errors as the server does.

    Each response is an ``application/problem+json`` document (RFC 9457) with the error's name and
    facts (at most 100 items of a list), and the appropriate status: 404 for a missing table, 409
    for an existing id, 422 for a wrong vector, row or filter, 503 with Retry-After for a busy
    store. No response has a path, target or traceback; the logger ``aiovec.asgi`` gets server
    errors. A web socket of FastAPI or Starlette is closed with code 1011; Litestar closes its web
    sockets itself.

    Call this function once, before the app serves requests. Your own handlers for aiovec's errors
    take precedence.
    """
    add = getattr(app, "add_exception_handler", None)
    if callable(add):  # Starlette and FastAPI
        add(AiovecError, _respond)
        return
    handlers = getattr(app, "exception_handlers", None)
    if not isinstance(handlers, MutableMapping):
        raise InvalidArgumentError("app", app, "an app of FastAPI, Starlette or Litestar")
    handlers.setdefault(AiovecError, lambda _, error: ProblemResponse(error))


__all__ = ["add_error_handlers", "get_store", "lifespan"]
