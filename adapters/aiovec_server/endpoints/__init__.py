"""The public REST endpoints over ``VectorStore``."""

from __future__ import annotations

from fastapi import APIRouter

from aiovec import VectorStore

from . import records, searches, tables
from .declaring import Endpoint, add_to

# The busiest first: a path is compared with one after the other.
ENDPOINTS: list[Endpoint] = [
    *searches.ENDPOINTS.all,
    *records.ENDPOINTS.all,
    *tables.ENDPOINTS.all,
]


def router(store: VectorStore | None = None) -> APIRouter:
    """Return the endpoints as a router for an app of your own: ``app.include_router(router())``.

    Without a store it serves the one of the app's lifespan (``aiovec.asgi.lifespan``). It has no
    security and no limits of its own.
    """
    made = APIRouter(redirect_slashes=False)
    add_to(made, ENDPOINTS, store)
    return made
