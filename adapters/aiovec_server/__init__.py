"""A store over HTTP: ``aiovec serve``, and the same endpoints for your own apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import create_app
    from .endpoints import router
else:
    # Imported on demand, because they import Starlette: the command line imports this package just
    # to list its commands.
    _LATER = {"create_app": ".app", "router": ".endpoints"}

    def __getattr__(name):
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_LATER[name], __package__), name)


__all__ = ["create_app", "router"]
