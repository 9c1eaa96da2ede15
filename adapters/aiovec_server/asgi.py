"""Helpers of the server's middlewares: ASGI's types, a request's headers, problems as answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
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
    raw = scope.get("raw_path") or b""
    if b"%" not in raw:
        return None
    path = raw.partition(b"?")[0]
    to_an_id = _TO_AN_ID.match(path)
    if _ENCODED_SLASH.search(path if to_an_id is None else to_an_id[0]) is None:
        return None
    return Problem.plain(404, "there is nothing at this path: it has an encoded slash in it")


def state_of_request(scope: Scope) -> MutableMapping[str, Any]:
    """Return what the middlewares and the endpoints of one request tell each other."""
    state: MutableMapping[str, Any] = scope.setdefault("state", {})
    return state


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def send_problem(
    scope: Scope, send: Send, problem: Problem, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with a problem."""
    await begin_problem(scope, send, problem, headers)
    await send({"type": "http.response.body", "body": b""})


async def begin_problem(
    scope: Scope, send: Send, problem: Problem, headers: Mapping[str, str] | None = None
) -> None:
    """Send all of a problem, but do not end the answer yet."""
    body = problem.body()
    named = {
        **problem.headers(),
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        **(headers or {}),
    }
    named = {**unread_headers(scope), **named}
    start = {"status": problem.status, "headers": raw_headers(named)}
    await send({"type": "http.response.start", **start})
    body = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def refuse_socket(receive: Receive, send: Send) -> None:
    """Refuse a web socket, of which the server has none."""
    await receive()
    await send({"type": "websocket.close", "code": 1008})


_LARGEST_UNREAD = 1024 * 1024
"""Bytes of a body that the server reads over to keep its connection, if nobody reads them."""


def unread_headers(scope: Scope) -> dict[str, str]:
    """Return the header that ends a connection which would bring too much that nobody reads."""
    if header_values(scope, b"transfer-encoding"):
        return {"connection": "close"}
    for text in header_values(scope, b"content-length"):
        if not text.isdigit() or len(text) > 15 or int(text) > _LARGEST_UNREAD:
            return {"connection": "close"}
    return {}
