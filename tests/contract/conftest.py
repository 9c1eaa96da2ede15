"""What of the suite runs where: on uvloop too, with each Python, or with the long tests alone.

Cancelled calls and loops that end run on SQLite files a second time, on uvloop, where uvloop is
installed; ``make test-uvloop`` and ``.ci/run`` have the rest of the suite on uvloop. In memory the
parts that do not depend on the event loop run with one Python only: they are the same code as on
SQLite files, which have the whole suite with each.

On an S3 server most of the suite is a long test, and so are in memory the parts that are the same
code as in a folder or a file (``shown_elsewhere``, but for ``here_too``) and what takes seconds.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Mapping

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# The parts of the suite whose outcome can depend on how an event loop runs its callbacks.
OF_LOOPS = (
    "CancellationContract.", "ChangesContract.", "ConcurrencyContract.", "ExportingContract.",
    "LifeContract.", "LoopsContract.", "MovingContract.",
)  # fmt: skip
# Those that are about nothing else.
TWICE = ("CancellationContract.", "LoopsContract.")


def part_of(item: pytest.Item) -> str:
    """The name of the test behind that of the part of the suite which it belongs to."""
    return str(getattr(getattr(item, "function", None), "__qualname__", ""))


def of_loops(item: pytest.Item) -> bool:
    return part_of(item).startswith(OF_LOOPS)


def on_uvloop_too(item: pytest.Item) -> bool:
    cls = getattr(item, "cls", None)
    return cls is not None and cls.__name__ == "TestSqliteFile" and part_of(item).startswith(TWICE)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory] | None:
    if "AIOVEC_LOOP" in os.environ or importlib.util.find_spec("uvloop") is None:
        return None
    if not on_uvloop_too(item):
        return None
    import uvloop

    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.hookimpl(tryfirst=True)  # before the long tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The hook sees the tests of every folder.
        if not item.nodeid.startswith("tests/contract/"):
            continue
        ordinary: frozenset[str] | None = getattr(item.module, "ORDINARY", None)
        slow: frozenset[str] = getattr(item.cls, "slow", frozenset())
        if slow.intersection((item.originalname, item.name)) or (
            ordinary is not None and item.originalname not in ordinary
        ):
            item.add_marker(pytest.mark.long)
        shown_elsewhere: tuple[str, ...] = getattr(item.cls, "shown_elsewhere", ())
        here_too: frozenset[str] = getattr(item.cls, "here_too", frozenset())
        if part_of(item).startswith(shown_elsewhere) and item.originalname not in here_too:
            item.add_marker(pytest.mark.long)
        of_memory = not getattr(item.cls, "persistent", True) and not of_loops(item)
        if of_memory:
            item.add_marker(pytest.mark.once)
        if os.environ.get("AIOVEC_LOOP") == "uvloop" and on_uvloop_too(item):
            item.add_marker(pytest.mark.same_loop)
