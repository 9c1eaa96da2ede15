"""lancedb, imported with its own log held at errors unless the user set it.

The import takes more than a second and reads the environment, so this module is loaded with the
backend, in a thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# What lancedb reads for the level of its log, which goes to the standard error stream.
LOG_LEVEL = "LANCEDB_LOG"


@contextmanager
def _quiet() -> Iterator[None]:
    if LOG_LEVEL in os.environ:
        yield
        return
    os.environ[LOG_LEVEL] = "error"
    try:
        yield
    finally:
        del os.environ[LOG_LEVEL]


@cache
def first_process() -> int:
    """The process that first asked: the one that uses lancedb. Its children must not.

    Neither its threads nor its locks' owners are in a child that was forked, where calls hang or
    end the process.
    """
    return os.getpid()


# How far Lance reads ahead of what it computes, by its own names. By default it fills up to 2 GiB
# for each scan and opens four files of a table at once, so that a hundred searches at once fill
# any machine's memory. A scan of a folder is no slower for it. ``admission`` counts on it.
READ_AHEAD = {
    "LANCE_DEFAULT_IO_BUFFER_SIZE": str(64 * 2**20),
    "LANCE_DEFAULT_FRAGMENT_READAHEAD": "2",
}
for _name, _value in READ_AHEAD.items():
    # Lance looks at its first scan, so they stay. What the user set is left.
    os.environ.setdefault(_name, _value)

# The number of this option in glibc's malloc.h.
_ARENA_MAX = -8


def _bound_allocator() -> None:
    """Limit the separate heaps of glibc to the number of processor cores, but not below four.

    It makes eight for each core, and each keeps about ten MiB of freed memory. The limit is one of
    the process, so only a driver with many threads sets it. Settings in the environment win.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None and "arena_max" not in tunables:
        mallopt(_ARENA_MAX, max(4, os.cpu_count() or 1))


# Lance's threads allocate the large buffers that they read into. With a heap for each of them, the
# process keeps twice as much memory between searches as it uses.
_bound_allocator()

with _quiet():
    import lancedb
    from lancedb import index as indexing
    from lancedb.query import (
        BooleanQuery,
        ColumnOrdering,
        FullTextQuery,
        MatchQuery,
        Occur,
        PhraseQuery,
    )


def without_blobs(query: Any) -> Any:
    """The query, for a table without columns of blobs.

    lancedb asks a query's table for its schema each time, to see whether it has any: a tenth of a
    millisecond. Where the query knows no table, it does not ask.
    """
    if getattr(query, "_table", None) is not None:
        query._table = None
    return query


__all__ = [
    "LOG_LEVEL",
    "BooleanQuery",
    "ColumnOrdering",
    "FullTextQuery",
    "MatchQuery",
    "Occur",
    "PhraseQuery",
    "first_process",
    "indexing",
    "lancedb",
    "without_blobs",
]
