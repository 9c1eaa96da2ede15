"""Count the results that threads hand to the running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted_handovers() -> Iterator[list[Any]]:
    """Yield a list that gets an item for each result that a thread hands to the event loop."""
    loop: Any = asyncio.get_running_loop()
    handed: list[Any] = []

    def call(callback: Any, *args: Any, **options: Any) -> asyncio.Handle:
        handed.append(callback)
        return type(loop).call_soon_threadsafe(loop, callback, *args, **options)  # type: ignore[no-any-return]

    loop.call_soon_threadsafe = call
    try:
        yield handed
    finally:
        del loop.call_soon_threadsafe
