"""A store for web apps: opened and closed with the app, and available in each request.

    from aiovec.asgi import add_error_handlers, get_store, lifespan

    app = FastAPI(lifespan=lifespan(config="aiovec.toml"))
    add_error_handlers(app)

    @app.post("/search")
    async def search(query: Query, store: Annotated[VectorStore, Depends(get_store)]): ...

It works with Starlette, FastAPI and Litestar (``Litestar(lifespan=[lifespan(...)])``), and with
every framework that passes the ASGI scope on; no framework is imported here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from ._embed.protocol import EmbedderOption
from ._http.handlers import add_error_handlers
from ._store.connect import connect
from ._store.store import VectorStore  # at run time too: Litestar resolves the annotations
from .backend.paths import PathText
from .errors import ConfigError

KEY = "aiovec_store"
"""The name of the store in the state of the app and of each request."""

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]


def lifespan(
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    read_only: bool = False,
    follow: bool = False,
    embedder: EmbedderOption | None = None,
    embedders: Mapping[str, EmbedderOption] | None = None,
) -> Lifespan:
    """Return a ``lifespan`` for a framework; the arguments are those of ``aiovec.connect``.

    The store opens when the app starts; if that fails, the app does not start. It closes when the
    app ends, after the accepted writes. An app may start again later.

    Within your own lifespan: ``async with lifespan(...)(app) as state: yield state``. An app has
    one such store; open others with ``aiovec.connect`` in that lifespan.
    """

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        state = getattr(app, "state", None)
        other = _in_state(state)
        if other is not None:  # the handlers would always get the last one
            raise ConfigError(
                f"this app has a store already ({other.target}): open a second one with "
                "aiovec.connect in your own lifespan, and pass it to its handlers yourself",
                key="lifespan",
            )
        async with connect(
            target,
            config=config,
            read_only=read_only,
            follow=follow,
            embedder=embedder,
            embedders=embedders,
        ) as store:
            # Set twice: requests to mounted apps see only the state of their scope, and servers and
            # frameworks without such a state keep the app's.
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
    """Returns the store of a request.

    An object rather than a function for FastAPI, which reads a dependency's signature: only a
    parameter annotated with Starlette's class gets the request, also for web sockets. So the
    annotation is added once Starlette is imported.
    """

    __name__ = __qualname__ = "get_store"

    def __call__(self, request: Scoped | Mapping[str, Any]) -> VectorStore:
        scope = request if isinstance(request, Mapping) else request.scope
        # The innermost app first: a mounted app may have its own store.
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


get_store = _GetStore()
"""The store that the app's ``lifespan`` opened: ``get_store(request)``, ``Depends(get_store)``.

It takes a request, a web socket or the ASGI scope. Raises ConfigError if no lifespan ran.
"""

__all__ = ["add_error_handlers", "get_store", "lifespan"]
