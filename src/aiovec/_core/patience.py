"""The time that a call may wait for its turn, counted from its start for all waits together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType

from ..errors import StoreBusyError

# Seconds that a call waits at least: without any, of calls that begin together all but one would
# fail, though none of them takes long.
_LEAST = 0.25
# Pauses that are remembered: those of the tries of some cut-overs.
_MOST_PAUSES = 64


class _Call:
    __slots__ = ("began", "task")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.task = asyncio.current_task()


_CALL: ContextVar[_Call | None] = ContextVar("aiovec_call", default=None)


@contextmanager
def one_call() -> Iterator[None]:
    """A user's call: what it waits for within counts from here."""
    token = _CALL.set(_Call())
    try:
        yield
    finally:
        with suppress(ValueError):  # collected elsewhere, when its loop was closed under it
            _CALL.reset(token)


def _began() -> float:
    """When the call under way began. Work in the background, which is a task of its own, inherits
    the context of the call that started it, but is no part of that call: it begins now."""
    current = _CALL.get()
    if current is None or current.task is not asyncio.current_task():
        return time.monotonic()
    return current.began


class Pauses:
    """When a migration let the writers of a store wait, which is no part of a call's time."""

    __slots__ = ("_over", "_under_way")

    def __init__(self) -> None:
        self._over: deque[tuple[float, float]] = deque(maxlen=_MOST_PAUSES)
        self._under_way: list[float] = []

    def begin(self, at: float) -> float:
        """Note a pause that was seen then; what ``end`` takes."""
        self._under_way.append(at)
        return at

    def end(self, began: float) -> None:
        self._under_way.remove(began)
        self._over.append((began, time.monotonic()))

    def since(self, moment: float) -> float:
        """The seconds since then in which writers waited; those of pauses that overlap, once."""
        now = time.monotonic()
        found = sorted([*self._over, *((began, now) for began in self._under_way)])
        total, until = 0.0, moment
        for began, ended in found:
            total += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return total


class Patience:
    """The time that a call has until its work begins.

    ``paused_since`` tells the seconds since a moment that do not count.
    """

    __slots__ = ("_paused_since", "began", "limit")

    def __init__(self, limit: float, paused_since: Callable[[float], float] | None = None) -> None:
        self.began = _began()
        self.limit = max(limit, _LEAST)
        self._paused_since = paused_since

    def left(self) -> float:
        """The seconds that are left; not above 0 where none are."""
        left = self.began + self.limit - time.monotonic()
        if left <= 0 and self._paused_since is not None:
            left += self._paused_since(self.began)
        return left

    def when_over(self, act: Callable[[], None]) -> _Watch:
        """While this is held by ``with``: ``act`` is called, once, when no time is left."""
        return _Watch(self, act)

    def error(self, reason: str) -> StoreBusyError:
        """Return the error of a call whose time has run out."""
        return StoreBusyError(reason, time.monotonic() - self.began)


class _Watch:
    """A timer that goes on for as long as there is time: pauses may come while it runs, and a
    loop may be early (uvloop rounds to milliseconds)."""

    __slots__ = ("_act", "_loop", "_patience", "_timer")

    def __init__(self, patience: Patience, act: Callable[[], None]) -> None:
        self._patience = patience
        self._act = act
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._patience.left(), self._look)

    def _look(self) -> None:
        left = self._patience.left()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._act()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
