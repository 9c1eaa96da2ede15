"""The store over HTTP: ``aiovec serve``, and its endpoints for apps of your own."""

from .app import create_app
from .endpoints import router

__all__ = ["create_app", "router"]
