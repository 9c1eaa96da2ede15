"""The rights of requests: which ones read, which write, and which anyone may make.

The one place that decides it. A request that is not listed writes, so an endpoint that nobody
thought of wants a key that may write.
"""

from __future__ import annotations

from enum import IntEnum


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
    bounds count distinct exists find get search search_hybrid search_like search_many
    search_text stats versions
    """.split()
)
# POST /backend/...: the calls of the remote backend that read.
READING_CALLS = frozenset(
    """
    bounds count export find get indexes open open_table ping search search_text stats tables
    value_counts versions
    """.split()
)

# POST /backend/...: the calls that take as long as their table is large. Their client waits, as it
# would for a store of its own, and a retry would only begin again.
LONG_CALLS = frozenset(
    """
    add_field create_field_index create_index drop_field drop_field_index drop_index drop_table
    optimize rename_field rename_table restore stats
    """.split()
)


def may_take_long(method: str, path: str) -> bool:
    """Return whether no timeout ends a request, but its client going away."""
    match path.split("/"):
        case ["", "backend", call]:
            return method == "POST" and call in LONG_CALLS
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
            case ["", "backend", call] if call in READING_CALLS:
                return Access.READ
    return Access.WRITE
