"""Find calls that block an event loop: files, sockets, locks, sleeps and the SQLite drivers."""

from __future__ import annotations

import importlib.util
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import blockbuster.blockbuster as detector
import pytest
from blockbuster import BlockBuster
from blockbuster.blockbuster import BlockBusterFunction

# Only calls from these packages are watched: a test may write its own files on the event loop.
PACKAGES = (
    "aiovec", "aiovec_sqlite", "aiovec_lancedb", "aiovec_remote", "aiovec_server", "aiovec_migrate",
)  # fmt: skip

# Calls that may block: the function, the file and the function that calls it, and the reason.
_ALLOWED = (
    ("threading.Lock.acquire", "aiovec/sync/portal.py", "__init__", "a thread starts"),
    ("threading.Lock.acquire", "aiovec/sync/portal.py", "_wait", "the face without await waits"),
    ("threading.Lock.acquire", "aiovec/sync/portal.py", "stop", "so does its close"),
    (
        "io.TextIOWrapper.write", "asyncio/base_events.py", "call_exception_handler",
        "what asyncio logs of tasks of a closed loop",
    ),
)  # fmt: skip

_CALLS = {
    "Connection": (
        "execute", "executemany", "executescript", "commit", "rollback", "close", "backup",
    ),
    "Cursor": ("execute", "executemany", "executescript", "fetchone", "fetchmany", "fetchall"),
}  # fmt: skip


@contextmanager
def watching() -> Iterator[list[str]]:
    """Yield a list that gets the stack of each blocking call on an event loop of any thread.

    The list stays empty if coverage is measured, because its tracer takes locks in watched calls.
    """
    blocked: list[str] = []
    if "COVERAGE_RUN" in os.environ:
        yield blocked
        return
    plain = detector.BlockingError

    class Recorded(plain):  # type: ignore[misc, valid-type]  # even if the error is swallowed
        def __init__(self, func: str) -> None:
            super().__init__(func)
            blocked.append(func + "\n" + "".join(traceback.format_stack(limit=14)[:-1]))

    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    watch = BlockBuster(packages)
    for driver in ("sqlite3", "sqlcipher3.dbapi2"):
        if importlib.util.find_spec(driver.partition(".")[0]) is None:
            continue
        for owner, methods in _CALLS.items():
            for method in methods:
                name = f"{driver}.{owner}.{method}"
                function = BlockBusterFunction(None, name, scanned_modules=packages)
                watch.functions.setdefault(name, function)
    for name, file, caller, _ in _ALLOWED:
        watch.functions[name].can_block_in(file, caller)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detector, "BlockingError", Recorded)
        watch.activate()
        try:
            yield blocked
        finally:
            watch.deactivate()
