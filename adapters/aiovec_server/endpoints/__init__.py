"""The public REST endpoints over ``VectorStore``."""

from __future__ import annotations

from starlette.routing import Router

from aiovec import VectorStore

from . import rows, tables  # noqa: F401 - they declare the endpoints
from .declaring import ENDPOINTS, routes_of


def router(store: VectorStore | None = None) -> Router:
    """Return the endpoints for your own app: ``app.mount("/vectors", router())``.

    Without ``store``, the endpoints serve the store of the app's lifespan
    (``aiovec.asgi.lifespan``). They have no access control and no limits.
    """
    return Router(routes_of(ENDPOINTS, store), redirect_slashes=False)


__all__ = ["ENDPOINTS", "router"]
