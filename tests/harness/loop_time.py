"""The CPU time of each callback on the event loop.

A detector of blocking calls sees a file that is read on the event loop. It does not see a loop over
20,000 rows, during which no other task of the app gets its turn either.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType
from typing import Any, TypeVar

if sys.platform == "linux":
    import resource

_T = TypeVar("_T")

MOST_SECONDS = 0.02
"""The longest that a call may hold the event loop at a time, whatever its size."""

# Seconds of CPU that a preemption may add: what ran in between has taken the caches, and a virtual
# machine counts a part of what others took. All of them, no more than a share of the limit.
_PREEMPTION, _PREEMPTIONS = 0.0001, 0.25

_LOOK_EVERY = 0.005
_FRAMES = 12

# Seconds of CPU that do not count: of what a test does by itself, and of the garbage collector,
# whose time is a matter of all objects of the process.
_left_out = 0.0
_watching: LoopTime | None = None


@contextmanager
def own_work() -> Iterator[None]:
    """Leave out what a test does by itself on the event loop, as comparing 5,000 rows."""
    global _left_out
    before, began = _left_out, time.thread_time()
    try:
        yield
    finally:
        _left_out = before + time.thread_time() - began


class HeldLoopError(AssertionError):
    """A callback took more CPU time than it may.

    The time that a busy virtual machine counts is not exact: beside four busy processes on two
    cores, work of 0.7 ms was now and then told to have taken 7. Code that holds the loop does so
    again in a second run.
    """


class LoopTime:
    """The callbacks of this thread's event loops that took more than ``limit`` seconds of CPU."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.longest = 0.0
        self.slow: list[str] = []
        self._thread = threading.get_ident()
        self._began: float | None = None
        self._places: Counter[str] = Counter()
        self._collection_began = 0.0

    def run(self, step: Callable[[], _T], of: object) -> _T:
        """Do a step of the event loop and measure it, without the steps that it does within."""
        global _left_out
        if threading.get_ident() != self._thread:
            return step()
        outer_places, outer = self._places, self._began
        places = self._places = Counter()
        left_out = _left_out
        self._began = time.monotonic()
        used = _used()
        began = time.thread_time()
        try:
            return step()
        finally:
            elapsed = time.thread_time() - began
            seconds = elapsed - (_left_out - left_out)
            self._began, self._places = outer, outer_places
            self.longest = max(self.longest, seconds)
            if seconds > self.limit:
                system, faults, preemptions = _since(used)
                added = min(preemptions * _PREEMPTION, _PREEMPTIONS * self.limit)
                if seconds - added > self.limit:
                    place = next((place for place, _ in places.most_common(1)), "")
                    self.slow.append(
                        f"{1000 * seconds:.0f} ms in {of!r}, of it {1000 * system:.0f} in the "
                        f"system, {faults} page faults, {preemptions} preemptions\n{place}"
                    )
            _left_out = left_out + elapsed

    def check(self) -> None:
        """HeldLoopError where a callback took too long."""
        if self.slow:
            raise HeldLoopError("the event loop was held:\n" + "\n".join(self.slow))

    def collected(self, phase: str, _info: dict[str, int]) -> None:
        """Leave the garbage collector out."""
        global _left_out
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collection_began = time.thread_time()
        else:
            _left_out += time.thread_time() - self._collection_began

    def look(self) -> None:
        """Count where a callback is that takes long, for the message about it.

        The place that was seen most often is told: the last one may be behind the long work.
        """
        began = self._began
        if began is None or time.monotonic() - began < self.limit / 2:
            return
        places = _places(self._thread)
        if places and places[0][0] is LoopTime.run.__code__:
            return  # on a busy machine the step may be still to begin, or over
        if self._began == began:
            self._places[
                "".join(
                    f'  File "{code.co_filename}", line {line}, in {code.co_name}\n'
                    for code, line in reversed(places)
                )
            ] += 1


def _places(thread: int) -> list[tuple[CodeType, int]]:
    """Return the frames of a thread, the innermost first.

    Looked at in one go: to follow the frames of a thread that goes on meanwhile ends some
    interpreters with a crash.
    """
    found: list[tuple[CodeType, int]] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1.0)
    try:
        frame = sys._current_frames().get(thread)
        while frame is not None and len(found) < _FRAMES:
            found.append((frame.f_code, frame.f_lineno or 0))
            frame = frame.f_back
        return found
    finally:
        del frame
        sys.setswitchinterval(interval)


def _used() -> tuple[float, int, int]:
    """System time, page faults and preemptions of this thread so far, where the system tells."""
    if sys.platform != "linux":
        return 0.0, 0, 0
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_stime, used.ru_minflt + used.ru_majflt, used.ru_nivcsw


def _since(before: tuple[float, int, int]) -> tuple[float, int, int]:
    now = _used()
    return now[0] - before[0], now[1] - before[1], now[2] - before[2]


def begin_at_once(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T], **options: Any
) -> asyncio.Task[_T]:
    """``asyncio.eager_task_factory``, with the first step of each task measured by itself.

    Who gathers sixty calls has the first steps of all of them in one callback.
    """

    def begin() -> asyncio.Task[_T]:
        return asyncio.eager_task_factory(loop, work, **options)  # type: ignore[attr-defined, no-any-return, unused-ignore]

    return begin() if _watching is None else _watching.run(begin, work)


@contextmanager
def watched_loop(limit: float = MOST_SECONDS) -> Iterator[LoopTime]:
    """Measure every callback of the asyncio loops that run in this thread.

    CPU time and not the clock's, so that a loaded machine changes little. uvloop has callbacks of
    its own, which are not seen.
    """
    global _watching
    found = LoopTime(limit)
    plain, outer = asyncio.Handle._run, _watching
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY):
            found.look()

    watcher = threading.Thread(target=look, name="loop time", daemon=True)
    gc.callbacks.append(found.collected)

    def run(handle: asyncio.Handle) -> None:
        found.run(partial(plain, handle), handle)

    asyncio.Handle._run = run  # type: ignore[assignment, method-assign]
    _watching = found
    watcher.start()
    try:
        yield found
    finally:
        asyncio.Handle._run = plain  # type: ignore[method-assign]
        _watching = outer
        gc.callbacks.remove(found.collected)
        over.set()
        watcher.join()
