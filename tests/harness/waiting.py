"""Waiting for what sends no event when it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any


async def until(condition: Callable[[], object], seconds: float = 120) -> Any:
    """Return what the condition, which may be awaited, gives once that holds; fail when it does not
    in time."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.01)
