"""The page at ``/``: static files, and the endpoints under ``/page`` that only they ask for."""

from __future__ import annotations

from fastapi import APIRouter

from aiovec import VectorStore
from aiovec.backend.server import ServerSettings

from .endpoints import page_routes
from .static import static_routes

__all__ = ["page_router"]


def page_router(store: VectorStore | None, settings: ServerSettings) -> APIRouter:
    """Return the page's files and endpoints as a router.

    Without a store it serves the one of the app's lifespan. With ``page_writes`` the page offers
    to delete rows and to optimize tables; it does so by the server's endpoints, whose keys decide.
    """
    router = APIRouter(redirect_slashes=False)
    router.routes.extend(static_routes())
    router.routes.extend(page_routes(store, page_writes=settings.page_writes))
    return router
