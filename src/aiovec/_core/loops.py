"""One store on one event loop after another: what belongs to a loop is made anew for the next.

Scripts, test suites and task queues run each call in a loop of its own (``asyncio.run``). Locks,
queues and tasks of a loop that has ended are of no use to the next one, and may never be released.
So whoever owns some keeps them in a ``PerLoop``, and what shall outlive the loop beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ..errors import AiovecError

_T = TypeVar("_T")


class PerLoop(Generic[_T]):
    """A value for the running event loop; the one of the loop before is dropped.

    ``replaced`` is called with a dropped value, on the loop that follows.
    """

    __slots__ = ("_loop", "_make", "_replaced", "_value")

    def __init__(
        self, make: Callable[[], _T], replaced: Callable[[_T], None] | None = None
    ) -> None:
        self._make = make
        self._replaced = replaced
        self._loop: asyncio.AbstractEventLoop | None = None
        self._value: _T | None = None

    def __call__(self) -> _T:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            before, self._value, self._loop = self._value, self._make(), loop
            if before is not None and self._replaced is not None:
                self._replaced(before)
        return self._value  # type: ignore[return-value]  # it was made for this loop


def is_over(task: asyncio.Task[object] | None) -> bool:
    """Return whether there is no task, or it has ended, or never will as its loop is closed."""
    return task is None or task.done() or task.get_loop().is_closed()


class Background:
    """Tasks that nobody awaits; those of a loop that is closed are forgotten."""

    def __init__(self) -> None:
        self._tasks: PerLoop[set[asyncio.Task[None]]] = PerLoop(set)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks = self._tasks()
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def __len__(self) -> int:
        return len(self._tasks())

    async def cancel(self) -> None:
        """Cancel them and wait for their end."""
        for task in self._tasks():
            task.cancel()
        await self.wait()

    async def wait(self) -> None:
        if tasks := self._tasks():
            await asyncio.wait(tasks)


class OneLoop:
    """The event loop that uses a store now. ``target`` names the store in errors."""

    __slots__ = ("_loop",)

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self, target: str) -> bool:
        """Take the running loop for the store's; whether it is another than before.

        AiovecError where that other one is still running, in another thread.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return False
        if self._loop is not None and self._loop.is_running():
            raise AiovecError(
                f"the store {target} is in use by another event loop, which is running; open a "
                "store for each loop, or use aiovec.sync, whose stores all threads may share"
            )
        before, self._loop = self._loop, loop
        return before is not None
