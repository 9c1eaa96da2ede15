"""The page at ``/``: static files, and the endpoints under ``/page`` that only they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request

from .endpoints import page_routes
from .figures import Figures, FiguresMiddleware
from .static import static_routes

if TYPE_CHECKING:
    from fastapi import FastAPI

    from aiovec import VectorStore

__all__ = ["Figures", "FiguresMiddleware", "add_page", "is_public"]


def is_public(path: str) -> bool:
    """Return whether a path is one of the page's own files.

    They hold no data, so a server gives them without an API key: the page asks for one.
    """
    return path == "/" or path.startswith("/assets/")


def add_page(
    app: FastAPI, store_of: Callable[[Request], VectorStore], *, allow_writes: bool = False
) -> Figures:
    """Add the page to an app, and return the figures that a ``FiguresMiddleware`` is to feed.

    ``store_of`` gives the store to a request. With ``allow_writes`` the page offers to delete rows
    and to optimize tables; it does so by the server's endpoints, whose keys decide.
    """
    figures = Figures()
    app.router.routes.extend(static_routes())
    app.router.routes.extend(page_routes(store_of, figures, allow_writes=allow_writes))
    return figures
