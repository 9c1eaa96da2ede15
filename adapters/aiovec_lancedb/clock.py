"""The time that work in the background goes by."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress


class Clock:
    """The machine's own time. Tests pass a clock that they move on by themselves."""

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return when so many seconds have passed."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return when the event is set, or when so many seconds have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
