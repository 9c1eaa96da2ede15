"""Waiting for what sends no event when it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable


async def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return once the condition, which may be awaited, holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if isawaitable(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.01)
