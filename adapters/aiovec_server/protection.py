"""The middlewares around the server's endpoints, made of its settings. The outermost comes first.

Each request is observed, then admitted, then limited: a refused one is in the log, and takes no
turn of those that are served.
"""

from __future__ import annotations

from starlette.middleware import Middleware

from aiovec.backend.server import ServerSettings

from .access_log import AccessLog
from .keys import keys_of
from .limits import Limits
from .lines import Lines
from .metrics import STATE, Metrics
from .observing import Listener, Observing
from .security import Security


def observing(settings: ServerSettings) -> Middleware:
    listeners: list[Listener] = []
    shared: dict[str, object] = {}
    if settings.metrics:
        shared[STATE] = metrics = Metrics()
        listeners.append(metrics)
    if settings.access_log:
        listeners.append(AccessLog(Lines()))
    return Middleware(Observing, listeners=listeners, shared=shared)


def security(settings: ServerSettings) -> Middleware:
    return Middleware(Security, settings=settings, keys=keys_of(settings))


def limits(settings: ServerSettings) -> Middleware:
    return Middleware(Limits, settings=settings)
