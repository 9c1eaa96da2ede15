"""Cancel a call of a script at each of its awaits in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import anyio
from tests.harness.scripts import Broken, Call, Place, Script


class _Counted(Awaitable[Any]):
    """A call that calls ``reached`` when it waits for the ``at``-th time."""

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
"""Interrupts a call that runs in this task and this scope."""


def _once(task: asyncio.Task[Any], _: anyio.CancelScope) -> None:
    task.cancel()


def _cancel_repeatedly(task: asyncio.Task[Any], scope: anyio.CancelScope, times: int = 4) -> None:
    """Cancel the task in each of the next rounds of the loop, like an impatient caller."""
    if times and not task.done():
        task.cancel()
        loop = asyncio.get_running_loop()
        loop.call_soon(_cancel_repeatedly, task, scope, times - 1)


def _by_scope(_: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    """Cancel the scope, as ``move_on_after`` does: every await in it raises from now on."""
    scope.cancel()


STOPS: dict[str, Stop] = {
    "once": _once, "again and again": _cancel_repeatedly, "by a scope": _by_scope,
}  # fmt: skip


async def stopped_at(
    call: Coroutine[Any, Any, Any], at: int, stop: Stop, delay: float = 0.0
) -> tuple[bool, bool]:
    """Interrupt the call ``delay`` seconds after it began to wait for the ``at``-th time.

    Return whether the call reached this await, and whether it returned a result.
    """
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    far = False

    def reached() -> None:
        nonlocal far
        far = True
        task = asyncio.current_task()  # the call may reach this before ``create_task`` returns
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
    """Make the calls concurrently, and interrupt one of them a delay after its ``at``-th await.

    Without a delay, it is interrupted at the await; with one, perhaps while a thread works."""
    how, delay = way
    # The first call begins to work, and the others wait. So interrupt another one for each ``at``.
    which = (at + round(1000 * delay)) % len(calls)
    made = [
        stopped_at(call(place), at, STOPS[how], delay) if n == which else call(place)
        for n, call in enumerate(calls)
    ]
    outcomes = await asyncio.gather(*made)
    far, returned = outcomes[which]
    return far, calls, {*range(len(calls))} - (set() if returned else {which})
