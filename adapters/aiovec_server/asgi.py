"""Helpers of the server's middlewares: ASGI's types, and what a request's scope says."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aiovec._http.problems import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def header_values(scope: Scope, name: bytes) -> list[str]:
    """Return each value of a header, whose name is in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def path_of(scope: Scope) -> str:
    """Return the path that the router compares: decoded, without that of an app around this one."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    within = path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")
    return path[len(root) :] if within else path


_TO_AN_ID = re.compile(rb".*?/tables/[^/]+/records/")
_ENCODED_SLASH = re.compile(rb"%(?:25)*2f", re.IGNORECASE)


def encoded_slash_problem(scope: Scope) -> Problem | None:
    """Refuse an encoded slash anywhere but in the id of a record, which ends its path.

    A proxy in front that keeps rules for paths, such as "no DELETE of /tables/*", may not decode
    it, and would have let another path through than this server answers.
    """
    path = (scope.get("raw_path") or b"").partition(b"?")[0]
    to_an_id = _TO_AN_ID.match(path)
    if _ENCODED_SLASH.search(path if to_an_id is None else to_an_id[0]) is None:
        return None
    return Problem.plain(404, "there is nothing at this path: it has an encoded slash in it")


def state_of_request(scope: Scope) -> MutableMapping[str, Any]:
    """Return what the middlewares and the endpoints of one request tell each other."""
    state: MutableMapping[str, Any] = scope.setdefault("state", {})
    return state
