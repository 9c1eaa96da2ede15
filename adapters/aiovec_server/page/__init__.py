"""The page at ``/``: static files, and the endpoints under ``/page`` that only they ask for."""

from __future__ import annotations

from starlette.routing import Route

from aiovec import VectorStore
from aiovec.backend.server import ServerSettings

from .endpoints import page_routes
from .static import static_routes

__all__ = ["routes_of_page"]


def routes_of_page(store: VectorStore | None, settings: ServerSettings) -> list[Route]:
    """Return the routes of the page's files and endpoints.

    Without a store it serves the one of the app's lifespan. With ``page_writes`` the page offers
    to delete rows and to optimize tables; it does so by the server's endpoints, whose keys decide.
    """
    return [*static_routes(), *page_routes(store, page_writes=settings.page_writes)]
