"""How long the callbacks of an event loop take."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MOST_SECONDS = 0.02
"""A callback's own CPU time, at most, as the docs promise."""


class Callbacks:
    """The callbacks of the event loop; ``longest`` is the CPU time of the longest one."""

    longest = 0.0

    async def check(self, call: Awaitable[Any]) -> None:
        """Fail if a callback takes longer while the call is awaited."""
        await asyncio.sleep(0)  # what made the call is no part of it
        self.longest = 0.0
        kept = await call  # what it gives is freed outside of the measure
        assert self.longest < MOST_SECONDS
        del kept


@contextmanager
def measured_callbacks() -> Iterator[Callbacks]:
    """Measure the callbacks of asyncio's event loops."""
    measured, run = Callbacks(), asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        measured.longest = max(measured.longest, time.thread_time() - began)

    gc.collect()
    gc.freeze()  # as the server does: the tests' own objects are many
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.Handle, "_run", timed)
        yield measured
    gc.unfreeze()
