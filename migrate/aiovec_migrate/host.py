"""Threads, clocks and limits of a run, which tests replace with their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import anyio

from aiovec.backend.threads import in_thread

from .limits import Limits

_T = TypeVar("_T")

Step = Callable[[str], Awaitable[None]]
"""Awaited at every named step of a migration, with the step's name."""

# Threads for conversions and hashes: two keep reading and writing apart, more would only wrangle.
_THREADS = 4


async def no_step(name: str) -> None:
    """The step that does nothing."""


class Host(Protocol):
    """Threads and clocks. The migrator uses nothing else of the machine by itself."""

    @property
    def limits(self) -> Limits:
        """The limits of a run on this machine."""
        ...

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Return what the function returns, computed off the event loop."""
        ...

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        ...

    def wall(self) -> datetime:
        """The time of day, which may jump: for people only."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class RealHost:
    """This machine."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def limits(self) -> Limits:
        return self._limits

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_THREADS)
        return await in_thread(work, *args, limit=self._limiter)

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
