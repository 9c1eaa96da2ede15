"""The suite on SQLite files runs on uvloop a second time, where uvloop is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Mapping

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory] | None:
    cls = getattr(item, "cls", None)
    twice = cls is not None and cls.__name__ == "TestSqliteFile"
    if not twice or "AIOVEC_LOOP" in os.environ or importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
