"""Threads for work that would block the event loop, apart from those that an app uses itself.

An app's own calls into threads share the limit that anyio sets for all of them. Where forty of them
are slow, nothing of a store may have to wait for one to end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import anyio
from anyio.lowlevel import RunVar

from .threads import ThreadWork, in_idle_thread

_T = TypeVar("_T")

# At once, for all stores of one event loop.
_THREADS = max(8, os.cpu_count() or 1)
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("aiovec")

# What may be done on the event loop, in values that Python code touches: about a millisecond. A hop
# to a thread and back costs a tenth of that.
LITTLE = 2000
# Numbers of an array that take as long as one such value.
NUMBERS_A_VALUE = 16
# What a column takes however few its rows are, in such values.
VALUES_A_COLUMN = 40


def thread_limiter() -> anyio.CapacityLimiter:
    """The limit on the running event loop."""
    there = _limiter.get(None)
    if there is None:
        there = anyio.CapacityLimiter(_THREADS)
        _limiter.set(there)
    return there


async def in_thread(
    work: Callable[..., _T],
    *args: object,
    limit: anyio.CapacityLimiter | None = None,
    stop: Callable[[], object] | None = None,
) -> _T:
    """Run the work in a thread and return its result. If cancelled before it began, it never runs.

    Later it is done to its end, and the caller returns behind that, however often it is cancelled:
    so no thread reads what belongs to a caller that has gone on. ``stop`` is called then, for work
    that can end sooner.
    """
    running = ThreadWork(partial(copy_context().run, work, *args))
    async with limit or thread_limiter():
        try:
            return await in_idle_thread(running)
        except asyncio.CancelledError:
            if stop is not None:
                stop()
            await running.leave()
            raise


async def off_loop(
    values: int, work: Callable[..., _T], *args: object, stop: Callable[[], object] | None = None
) -> _T:
    """Do the work here if it touches few values, else in a thread."""
    return work(*args) if values <= LITTLE else await in_thread(work, *args, stop=stop)
