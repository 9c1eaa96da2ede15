"""Import lancedb, and limit its log to errors unless the user has set a log level.

The import takes more than a second and reads the environment, so this module is loaded with the
backend, in a thread.
"""

# ruff: noqa: E402 - lancedb reads the environment as it is imported

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import pyarrow as pa

from aiovec.backend.memory import limit_heaps, usable_cores


@cache
def first_process() -> int:
    """Return the id of the process that called this function first, and so uses lancedb.

    A forked child must not use lancedb: it lacks lancedb's threads, including those that hold
    locks, so calls hang or crash the process.
    """
    return os.getpid()


# lancedb's log level, and how far Lance reads ahead of its computation. By default it buffers up to
# 2 GiB for each scan and opens four files of a table at once, so a hundred simultaneous searches
# fill any machine's memory. With these limits, a scan of a folder is no slower. ``memory`` relies
# on them.
#
# By default, Lance computes in two fewer threads than there are cores, but at least one. A graph
# build occupies one of them until it ends, and keyword searches need a free one: on two cores, they
# waited for all 33 s of a build. With eight threads, the system shares the cores, and the longest
# search took 0.9 s.
_ENVIRONMENT = {
    "LANCEDB_LOG": "error",
    "LANCE_DEFAULT_IO_BUFFER_SIZE": str(64 * 2**20),
    "LANCE_DEFAULT_FRAGMENT_READAHEAD": "2",
    "LANCE_CPU_THREADS": str(max(8, usable_cores() - 2)),
}
for _name, _value in _ENVIRONMENT.items():
    # Lance reads these variables at its first scan, so they stay set. The user's own values are
    # kept.
    os.environ.setdefault(_name, _value)

# Let pyarrow use the C library's allocator too. If Lance's threads free memory, pyarrow's own
# allocator keeps it for the thread that allocated it: 70 MiB more after two minutes of mixed load,
# and still growing. This applies to the whole process. The environment's setting takes precedence.
if sys.platform.startswith("linux") and "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
    pa.set_memory_pool(pa.system_memory_pool())

# Lance's threads allocate the large buffers that they read into. With one heap per thread, the
# process keeps twice as much memory between searches as it uses.
limit_heaps()

import lancedb as lancedb
from lancedb import index as _index
from lancedb import tokenize as tokenize
from lancedb.query import BooleanQuery as BooleanQuery
from lancedb.query import ColumnOrdering as ColumnOrdering
from lancedb.query import FullTextQuery as FullTextQuery
from lancedb.query import MatchQuery as MatchQuery
from lancedb.query import Occur as Occur
from lancedb.query import PhraseQuery as PhraseQuery

indexing = _index
"""lancedb's module of index configurations."""


def without_blobs(query: Any) -> Any:
    """Return the query, prepared for a table without blob columns.

    To look for blob columns, lancedb asks a query's table for its schema each time, which takes
    0.1 ms. It does not look if the query has no table.
    """
    if getattr(query, "_table", None) is not None:
        query._table = None
    return query
