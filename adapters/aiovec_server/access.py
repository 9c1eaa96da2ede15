"""The rights of requests: which ones read, which write, and which anyone may make.

The one place that decides it. A request that is not listed writes, so an endpoint that nobody
thought of wants a key that may write.
"""

from __future__ import annotations

from enum import IntEnum

from starlette.types import Scope


class Access(IntEnum):
    """The right that a request needs, and a key gives; each includes those before it."""

    NONE = 0
    READ = 1
    WRITE = 2


# A server that is asked for its health has to answer before it is given a key. The page's files
# hold no data: the page asks for a key, and sends it with its requests.
_OPEN = frozenset({"/", "/health", "/favicon.ico"})
_OPEN_FOLDER = "/assets/"

_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# POST /tables/{table}/...: these take a body, and read.
READING_POSTS = frozenset(
    """
    bounds count distinct exists export fields_info find get search search_hybrid search_like
    search_many search_text
    """.split()
)
# The last part of the path of requests that take as long as their table is large. A retry would
# only begin again.
_LONG_VERBS = frozenset(
    {"fields_info", "index", "indexes", "optimize", "rename", "revert", "stats"}
)


def path_of(scope: Scope) -> str:
    """Return the path that the router compares: decoded, without that of an app around this one."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    within = path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")
    return path[len(root) :] if within else path


def may_take_long(method: str, path: str) -> bool:
    """Return whether no timeout ends a request, but its client going away."""
    match path.split("/"):
        case ["", "tables", _]:
            return method == "DELETE"
        case ["", "tables", _, "fields" | "indexes", *_]:
            return method not in _READING_METHODS
        case ["", "tables", _, *_, verb]:
            return verb in _LONG_VERBS
    return False


def access_of(method: str, path: str) -> Access:
    """Return what a request needs. The path is decoded, as the router compares it."""
    parts = path.split("/")
    if method in _READING_METHODS:
        open_file = path.startswith(_OPEN_FOLDER) and len(parts) == 3
        return Access.NONE if path in _OPEN or open_file else Access.READ
    if method == "POST":
        match parts:
            case ["", "tables", _, verb] if verb in READING_POSTS:
                return Access.READ
    return Access.WRITE
