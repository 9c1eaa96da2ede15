"""For all tests: a blocked event loop fails the test, and ``AIOVEC_LOOP`` chooses the loop."""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import blockbuster.blockbuster as detector
import pytest
from blockbuster import BlockBuster
from blockbuster.blockbuster import BlockBusterFunction

import aiovec

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Where blocking is right, and why. Everything else that waits on the loop's thread is a fault.
_ALLOWED: tuple[tuple[str, str, str, str], ...] = (
    # function, file, caller, reason
    (
        "io.BufferedReader.read", "_pytest/assertion/rewrite.py", "exec_module",
        "a test imports a module that pytest rewrites",
    ),
)  # fmt: skip

_DRIVERS = ("pysqlite3.dbapi2",)
_CONNECTION = ("execute", "executemany", "executescript", "commit", "rollback", "close", "backup")
_CURSOR = ("execute", "executemany", "executescript", "fetchone", "fetchmany", "fetchall")


class _Blocked(list[str]):
    """Each blocking call on an event loop, with its stack: also one whose error was swallowed."""


@pytest.fixture(scope="session")
def _watched_loops() -> Iterator[_Blocked]:
    """Watch every event loop of the session, whichever thread it runs in.

    The detector looks for a running loop at each call, so it costs the threads that have none
    next to nothing and need not be switched on and off.
    """
    blocked = _Blocked()
    plain = detector.BlockingError

    class Recorded(plain):  # type: ignore[misc, valid-type]  # a class of the moment
        def __init__(self, func: str) -> None:
            super().__init__(func)
            blocked.append(func + "\n" + "".join(traceback.format_stack(limit=14)[:-1]))

    watch = BlockBuster()
    for module, caller in (("sqlite3", "Connection"), *((d, "Connection") for d in _DRIVERS)):
        _add(watch, module, caller, _CONNECTION)
    for module in _DRIVERS:
        _add(watch, module, "Cursor", _CURSOR)
    for function, file, caller, _ in _ALLOWED:
        watch.functions[function].can_block_in(file, caller)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detector, "BlockingError", Recorded)
        watch.activate()
        try:
            yield blocked
        finally:
            watch.deactivate()


def _add(watch: BlockBuster, module: str, owner: str, methods: tuple[str, ...]) -> None:
    try:
        importlib.import_module(module)
    except ImportError:  # this driver is not installed here
        return
    for method in methods:
        name = f"{module}.{owner}.{method}"
        watch.functions.setdefault(name, BlockBusterFunction(None, name))


@pytest.fixture(autouse=True)
def _no_blocked_loop(_watched_loops: _Blocked) -> Iterator[None]:
    """Fail a test in which an event loop was blocked."""
    _watched_loops.clear()
    yield
    assert not _watched_loops, "the event loop was blocked by " + "\n".join(_watched_loops)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """asyncio's own loop, or uvloop's for the whole run where ``AIOVEC_LOOP=uvloop``."""
    if os.environ.get("AIOVEC_LOOP") == "uvloop":
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[aiovec.VectorStore]:
    """An open store in a new file."""
    async with aiovec.connect(tmp_path / "store.db") as opened:
        yield opened
