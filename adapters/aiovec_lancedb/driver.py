"""lancedb, imported with its own log held at errors unless the user set it.

The import takes more than a second and reads the environment, so this module is loaded with the
backend, in a thread.
"""

# ruff: noqa: E402 - lancedb reads the environment as it is imported

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any


@cache
def first_process() -> int:
    """The process that first asked: the one that uses lancedb. Its children must not.

    Neither its threads nor its locks' owners are in a child that was forked, where calls hang or
    end the process.
    """
    return os.getpid()


# What lancedb logs to the standard error stream, and how far Lance reads ahead of what it computes.
# By default it fills up to 2 GiB for each scan and opens four files of a table at once, so that a
# hundred searches at once fill any machine's memory. A scan of a folder is no slower for it.
# ``memory`` counts on it.
_ENVIRONMENT = {
    "LANCEDB_LOG": "error",
    "LANCE_DEFAULT_IO_BUFFER_SIZE": str(64 * 2**20),
    "LANCE_DEFAULT_FRAGMENT_READAHEAD": "2",
}
for _name, _value in _ENVIRONMENT.items():
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

import lancedb as lancedb
from lancedb import index as _index
from lancedb.query import BooleanQuery as BooleanQuery
from lancedb.query import ColumnOrdering as ColumnOrdering
from lancedb.query import FullTextQuery as FullTextQuery
from lancedb.query import MatchQuery as MatchQuery
from lancedb.query import Occur as Occur
from lancedb.query import PhraseQuery as PhraseQuery

indexing = _index
"""The configurations of indexes."""


def without_blobs(query: Any) -> Any:
    """The query, for a table without columns of blobs.

    lancedb asks a query's table for its schema each time, to see whether it has any: a tenth of a
    millisecond. Where the query knows no table, it does not ask.
    """
    if getattr(query, "_table", None) is not None:
        query._table = None
    return query
