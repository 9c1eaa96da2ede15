"""Threads, the clock and the sizes of a run, which tests replace with their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import anyio

from aiovec.backend.threads import in_thread

_T = TypeVar("_T")

Step = Callable[[str], Awaitable[None]]
"""Awaited at every named step of a migration, with the step's name."""

# Threads for conversions and hashes: two keep reading and writing apart, more would only wrangle.
_THREADS = 4


async def no_step(name: str) -> None:
    """The step that does nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a run does at once."""

    # One write of a copy. A store that takes bulk loads makes a file of each write; one that does
    # not, a transaction, and those that outgrow its cache are slow.
    bulk_bytes: int = 64 * 2**20
    bulk_rows: int = 50_000
    insert_bytes: int = 16 * 2**20
    insert_rows: int = 4_000

    # A page of changes: its bytes, and its rows at least and at most.
    page_bytes: int = 32 * 2**20
    least_page: int = 100
    most_page: int = 10_000

    compared_rows: int = 10_000_000
    """Rows whose hashes are kept at once, 16 bytes each on either side; more take more passes."""


class Host(Protocol):
    """Threads and the clock. The migrator uses nothing else of the machine by itself."""

    @property
    def limits(self) -> Limits:
        """The sizes of a run on this machine."""
        ...

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Return what the function returns, computed off the event loop."""
        ...

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
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

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
