"""The parts of a scan: the thread that asks for it does them, and others help if cores are free.

The helpers are threads of the library, which all stores of the process share. So a scan never waits
for one to begin: what a helper does not take, the asking thread does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from aiovec.backend.memory import usable_cores
from aiovec.backend.threads import begin_in_thread
from aiovec.errors import AiovecError


class _Parts:
    """One piece of work in parts; no part begins once the asking thread is done with its own."""

    def __init__(self, part: Callable[[], object], free: threading.Semaphore) -> None:
        self._part = part
        self._free = free
        self._lock = threading.Lock()
        self._running = 0
        self._done = False
        self._last_ended = threading.Event()

    def run(self, helpers: int) -> None:
        for _ in range(helpers):
            if not self._free.acquire(blocking=False):
                break
            try:
                begin_in_thread(self._help)
            except AiovecError:  # the system allows no more threads
                self._free.release()
                break
        self._part()
        with self._lock:
            self._done = True
            if not self._running:
                return
        self._last_ended.wait()

    def _help(self) -> None:
        with self._lock:
            begins = not self._done
            self._running += begins
        if begins:
            self._part()
            with self._lock:
                self._running -= 1
                if self._done and not self._running:
                    self._last_ended.set()
        self._free.release()


def in_parts(part: Callable[[], object], parts: int) -> None:
    """Call ``part``, which raises nothing, here and at the same time in other threads.

    At most ``parts`` calls are made. Returns when all of them have ended.
    """
    _Parts(part, _free_cores()).run(parts - 1)


# The cores that no helper keeps busy, beside the one of the asking thread.
_free: threading.Semaphore | None = None


def _free_cores() -> threading.Semaphore:
    global _free
    if _free is None:
        _free = threading.Semaphore(usable_cores() - 1)
    return _free


def _forget() -> None:
    """Forget the helpers: in a forked process they do not run."""
    global _free
    _free = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
