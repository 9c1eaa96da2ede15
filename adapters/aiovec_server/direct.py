"""The shortest way to the busiest endpoints, by what their paths begin and end with.

The app's router compares a path with one route after another and wraps each call in layers that
these endpoints need none of: together half a search's time. Every other request goes to the app.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.requests import Request

from .asgi import App, Receive, Scope, Send, path_of
from .calls import BackendCalls
from .endpoints.declaring import DirectRoute

_ACTION = re.compile(r"/tables/\{table\}/(\w+)")


class Direct:
    """Answers ``POST /tables/{table}/...`` and ``POST /backend/...``."""

    def __init__(self, app: App, routes: Iterable[object], calls: BackendCalls) -> None:
        self._app = app
        self._calls = calls
        self._actions = {
            found[1]: route
            for route in routes
            if isinstance(route, DirectRoute) and "POST" in (route.methods or ())
            if (found := _ACTION.fullmatch(route.path)) is not None
        }
        """The routes of actions on tables, by the last segment of their paths."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            match path_of(scope).split("/"):
                case ["", "tables", table, name] if table and name in self._actions:
                    route = scope["route"] = self._actions[name]
                    scope["path_params"] = {"table": table}
                    response = await route.endpoint(Request(scope, receive))
                    await response(scope, receive, send)
                    return
                case ["", "backend", call] if call:
                    scope["path_params"] = {"call": call}
                    await self._calls(scope, receive, send)
                    return
        await self._app(scope, receive, send)
