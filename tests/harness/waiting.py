"""Wait for conditions that no event reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any


async def until(condition: Callable[[], object], seconds: float = 120) -> Any:
    """Call a condition, which may be async, until its result is true; return the result.

    Raises TimeoutError if that takes longer than ``seconds``."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.01)
