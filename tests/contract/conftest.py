"""The suite on SQLite files runs on uvloop a second time, where uvloop is installed.

On an S3 server most of it is a long test, and so is in memory what takes seconds and is shown in a
folder.
"""

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


@pytest.hookimpl(tryfirst=True)  # before the long tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        ordinary: frozenset[str] | None = getattr(item.module, "ORDINARY", None)
        slow: frozenset[str] = getattr(item.cls, "slow", frozenset())
        if item.originalname in slow or (
            ordinary is not None and item.originalname not in ordinary
        ):
            item.add_marker(pytest.mark.long)
