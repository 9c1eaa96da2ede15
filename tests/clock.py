"""A clock that a test moves on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiovec.backend import Clock


class DrivenClock(Clock):
    """Time passes only where the test says so. Work that falls due runs as it would."""

    def __init__(self) -> None:
        self.waits = 0
        """How many times somebody has come to wait for the clock."""
        self._now = 0.0
        self._due: dict[asyncio.Future[None], float] = {}

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        await self.wait(asyncio.Event(), seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._due[over] = self._now + seconds
        self.waits += 1
        came = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({over, came}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            came.cancel()
            del self._due[over]

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        self._now += seconds
        for over, at in self._due.items():
            if at <= self._now and not over.done():
                over.set_result(None)

    async def until(self, done: Callable[[], bool]) -> None:
        """Let time pass from one thing that falls due to the next, until something is so."""
        while not done():
            due = [at for over, at in self._due.items() if not over.done()]
            if due:
                self.advance(max(0.0, min(due) - self._now))
            await asyncio.sleep(0.002)  # the work itself takes real time

    async def rounds(self, count: int) -> None:
        """Let time pass until work has come to wait for the clock so many times more."""
        enough = self.waits + count
        await self.until(lambda: self.waits >= enough)
