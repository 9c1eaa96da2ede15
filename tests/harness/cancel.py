"""Cancel a script's call at each of its awaits in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import anyio
from tests.harness.scripts import Broken, Call, Place, Script


class _Counted(Awaitable[Any]):
    """A call that tells when it waits for the n-th time."""

    def __init__(
        self, call: Coroutine[Any, Any, Any], at: int, reached: Callable[[], None]
    ) -> None:
        self._call = call
        self._left = at
        self._reached = reached

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._call.__await__()
        step = steps.__next__
        while True:
            try:
                waited_for = step()
            except StopIteration as stop:
                return stop.value
            self._left -= 1
            if not self._left:
                self._reached()
            try:
                yield waited_for
            except BaseException as exc:  # noqa: BLE001 - it belongs into the call
                step = lambda error=exc: steps.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                step = steps.__next__


Stop = Callable[["asyncio.Task[Any]", anyio.CancelScope], None]
"""Interrupts a call, which runs in a task and in a scope."""


def _once(task: asyncio.Task[Any], _: anyio.CancelScope) -> None:
    task.cancel()


def _cancel_repeatedly(task: asyncio.Task[Any], scope: anyio.CancelScope, times: int = 4) -> None:
    """Cancel the task in each of some rounds of the loop: a caller who has lost patience."""
    if times and not task.done():
        task.cancel()
        loop = asyncio.get_running_loop()
        loop.call_soon(_cancel_repeatedly, task, scope, times - 1)


def _by_scope(_: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    """As ``move_on_after`` does: every await in the scope raises from now on."""
    scope.cancel()


STOPS: dict[str, Stop] = {
    "once": _once, "again and again": _cancel_repeatedly, "by a scope": _by_scope,
}  # fmt: skip


async def stopped_at(
    call: Coroutine[Any, Any, Any], at: int, stop: Stop, delay: float = 0.0
) -> tuple[bool, bool]:
    """Interrupt the call ``delay`` seconds after it began to wait for the ``at``-th time.

    Gives whether it came so far, and whether it returned a result.
    """
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    far = False

    def reached() -> None:
        nonlocal far
        far = True
        task = asyncio.current_task()  # it may have begun before ``create_task`` returns
        assert task is not None
        if delay:
            loop.call_later(delay, stop, task, scope)
        else:
            loop.call_soon(stop, task, scope)

    async def run() -> bool:
        with scope:
            await _Counted(call, at, reached)
            return True
        return False

    task = loop.create_task(run())
    try:
        returned = await task
    except asyncio.CancelledError:
        returned = False
    return far, returned


async def run_and_stop(
    place: Place, script: Script, calls: list[Call], way: tuple[str, float], at: int
) -> Broken:
    """Make the calls at once, and stop one of them so many seconds after its ``at``-th await began:
    at once, or while a thread works."""
    how, delay = way
    # The first one begins to work, those behind it wait: another one for each await and each delay.
    which = (at + round(1000 * delay)) % len(calls)
    made = [
        stopped_at(call(place), at, STOPS[how], delay) if n == which else call(place)
        for n, call in enumerate(calls)
    ]
    outcomes = await asyncio.gather(*made)
    far, returned = outcomes[which]
    return far, calls, {*range(len(calls))} - (set() if returned else {which})
