"""Waiting for what tells nobody when it is so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable

import pytest

from aiovec._core import waiting


async def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return once the condition, which may be awaited, holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if isawaitable(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


class Clock:
    """The time by which calls wait. A test can set it forward, at which no timer rings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        monkeypatch.setattr(waiting, "time", self)

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds
