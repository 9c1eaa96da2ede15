"""The machine of a run: threads, the clock and sizes. Tests replace it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from aiovec.backend.threads import in_thread

_T = TypeVar("_T")

Step = Callable[[str], Awaitable[None]]
"""Awaited at every named step of a migration, with its name."""


async def no_step(name: str) -> None:
    """The step that does nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of a run's operations."""

    # One write of a copy. A store with bulk loads makes a file for each write; others make a
    # transaction, which is slow if it outgrows the cache.
    bulk_bytes: int = 64 * 2**20
    bulk_rows: int = 50_000
    insert_bytes: int = 16 * 2**20
    insert_rows: int = 4_000

    # A page of changes: its bytes, and its fewest and most rows.
    page_bytes: int = 32 * 2**20
    least_page: int = 100
    most_page: int = 10_000

    compared_rows: int = 10_000_000
    """Rows whose hashes are in memory, 16 bytes each on either side; more rows take more passes."""


class Host:
    """This machine. The migrator uses nothing else of it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    async def in_thread(self, work: Callable[..., _T], *args: object) -> _T:
        """Return what the function returns, computed off the event loop."""
        return await in_thread(work, *args)

    def now(self) -> float:
        """Return seconds on a clock that never jumps."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
