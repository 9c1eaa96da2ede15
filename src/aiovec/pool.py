"""Threads for work that would block the event loop, apart from those that an app uses itself.

An app's own calls into threads share the limit that anyio sets for all of them. Where forty of them
are slow, nothing of a store may have to wait for one to end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

_T = TypeVar("_T")

# At once, for all stores of one event loop.
_THREADS = max(8, os.cpu_count() or 1)
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("aiovec")


def limiter() -> anyio.CapacityLimiter:
    """The limit on the running event loop."""
    there = _limiter.get(None)
    if there is None:
        there = anyio.CapacityLimiter(_THREADS)
        _limiter.set(there)
    return there


async def in_thread(work: Callable[..., _T], *args: object) -> _T:
    """What the work gives. When cancelled before it began, it is never done; later it is."""
    return await anyio.to_thread.run_sync(work, *args, limiter=limiter())
