"""The public REST endpoints over ``VectorStore``."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from aiovec import VectorStore

from . import records, rows, searches, tables, upkeep
from .declaring import DirectRoute, Endpoint, add_to

# The busiest first: a path is compared with one after the other.
ENDPOINTS: list[Endpoint] = [
    *searches.ENDPOINTS.all,
    *records.ENDPOINTS.all,
    *tables.ENDPOINTS.all,
    *rows.ENDPOINTS.all,
    *upkeep.ENDPOINTS.all,
]


def add_endpoints(app: FastAPI, store: VectorStore | None) -> None:
    """Add the endpoints to the server's own app."""
    add_to(app.router, ENDPOINTS, store, DirectRoute)


def router(store: VectorStore | None = None) -> APIRouter:
    """Return the endpoints as a router for an app of your own: ``app.include_router(router())``.

    Without a store it serves the one of the app's lifespan (``aiovec.asgi.lifespan``). It has no
    security and no limits of its own.
    """
    made = APIRouter(redirect_slashes=False)
    add_to(made, ENDPOINTS, store)
    return made
