"""Measure how long the callbacks of an event loop take."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MOST_SECONDS = 0.02
"""The most CPU time that a callback may take, as the docs promise."""


class Callbacks:
    """The callbacks of the event loop; ``longest`` is the CPU time of the longest one."""

    longest = 0.0

    async def check(self, call: Awaitable[Any]) -> None:
        """Await a call; fail if a callback takes longer than ``MOST_SECONDS`` meanwhile."""
        await asyncio.sleep(0)  # leave out the callback that created the call
        self.longest = 0.0
        kept = await call  # keep the result, so that freeing it is not measured
        assert self.longest < MOST_SECONDS
        del kept


@contextmanager
def measured_callbacks() -> Iterator[Callbacks]:
    """Measure the callbacks of asyncio's event loops during the block."""
    measured, run = Callbacks(), asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        measured.longest = max(measured.longest, time.thread_time() - began)

    gc.collect()
    gc.freeze()  # like the server, because the tests have many objects
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.Handle, "_run", timed)
        yield measured
    gc.unfreeze()
