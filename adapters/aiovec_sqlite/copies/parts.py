"""Share a scan among threads: the calling thread, and helper threads on free cores.

The helpers are aiovec's threads, which all stores of the process share. A scan never waits for a
helper to begin: the calling thread does the parts that no helper takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import lru_cache, partial

from aiovec.backend.memory import usable_cores
from aiovec.backend.threads import begin_in_thread
from aiovec.errors import AiovecError


def in_parts(part: Callable[[], object], parts: int) -> None:
    """Call ``part`` in this thread and, if cores are free, in other threads at the same time.

    Makes at most ``parts`` calls, and returns when all calls have ended. ``part`` must not raise.
    """
    free, turns = _free_cores(), list[threading.Lock]()
    while len(turns) < parts - 1 and free.acquire(blocking=False):
        turn = threading.Lock()
        try:
            begin_in_thread(partial(_help, part, turn, free))
        except AiovecError:  # the system allows no more threads
            free.release()
            break
        turns.append(turn)
    part()
    for turn in turns:
        turn.acquire()  # wait for a helper that has begun; the rest can no longer begin


def _help(part: Callable[[], object], turn: threading.Lock, free: threading.Semaphore) -> None:
    if turn.acquire(blocking=False):
        part()
        turn.release()
    free.release()


@lru_cache(maxsize=1)
def _free_cores() -> threading.Semaphore:
    """Return a semaphore with a slot for each usable core except the calling thread's."""
    return threading.Semaphore(usable_cores() - 1)


if hasattr(os, "register_at_fork"):  # a forked process has no helpers
    os.register_at_fork(after_in_child=_free_cores.cache_clear)
